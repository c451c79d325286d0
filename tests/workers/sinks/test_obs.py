"""OBS, as obs-websocket 5 is documented: the handshake, its challenge, requests, statuses, close codes."""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import serve

from tests.workers.sinks.conftest import caption
from workers.sinks.base import BusyError, ClosedError, RefusedError
from workers.sinks.obs import Obs, authentication


class Studio:
    """The server of obs-websocket 5, as far as captions go."""

    def __init__(self, password=""):
        self.password = password
        self.streaming = True
        self.captions = []
        self.texts = {"Subtitles": ""}
        self.connections = []
        self.events = True

    @asynccontextmanager
    async def running(self):
        async with serve(self.handle, "127.0.0.1", 0, subprotocols=["obswebsocket.json"]) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def handle(self, connection):
        self.connections.append(connection)
        hello = {"obsWebSocketVersion": "5.5.2", "rpcVersion": 1}
        salt, challenge = "PZVbYpvAnZut2SS6JNJytDm9", "ztTBnnuqrqaKDzRM3xcVdbYm"
        if self.password:
            hello["authentication"] = {"challenge": challenge, "salt": salt}
        await self.tell(connection, 0, hello)
        identify = json.loads(await connection.recv())
        assert identify["op"] == 1
        if self.password:
            secret = base64.b64encode(hashlib.sha256((self.password + salt).encode()).digest())
            expected = base64.b64encode(hashlib.sha256(secret + challenge.encode()).digest()).decode()
            if identify["d"].get("authentication") != expected:
                await connection.close(4009, "Authentication failed.")
                return
        await self.tell(connection, 2, {"negotiatedRpcVersion": 1})
        async for message in connection:
            request = json.loads(message)
            assert request["op"] == 6
            if self.events:
                await self.tell(connection, 5, {"eventType": "StreamStateChanged", "eventIntent": 64})
            await self.tell(connection, 7, self.respond(request["d"]))

    def respond(self, request):
        data = request["requestData"]
        code, comment = 100, None
        if request["requestType"] == "SendStreamCaption":
            if self.streaming:
                self.captions.append(data["captionText"])
            else:
                code, comment = 501, "The stream output is not running."
        elif data["inputName"] in self.texts:
            self.texts[data["inputName"]] = data["inputSettings"]["text"]
        else:
            code, comment = 600, "No source was found."
        status = {"result": code == 100, "code": code} | ({"comment": comment} if comment else {})
        return {
            "requestType": request["requestType"],
            "requestId": request["requestId"],
            "requestStatus": status,
        }

    async def tell(self, connection, op, data):
        await connection.send(json.dumps({"op": op, "d": data}))


def test_the_proof_is_that_of_the_protocol():
    """Its steps, one by one: base64(sha256(base64(sha256(password + salt)) + challenge))."""
    first = base64.b64encode(hashlib.sha256(b"secretsalt").digest())
    second = base64.b64encode(hashlib.sha256(first + b"challenge").digest()).decode()

    assert authentication("secret", "salt", "challenge") == second


@pytest.mark.parametrize("password", ["", "pässword"])
async def test_captions_go_into_the_stream(password):
    studio = Studio(password)
    async with studio.running() as url:
        obs = Obs(url, password)
        await obs.send(caption(1, "Good morning,\neveryone."))
        await obs.send(caption(2, ""))
        await obs.close()

    assert studio.captions == ["Good morning,\neveryone.", ""]
    assert len(studio.connections) == 1


async def test_captions_become_the_text_of_a_source():
    studio = Studio()
    async with studio.running() as url:
        obs = Obs(url, input="Subtitles")
        await obs.send(caption(1, "¿Qué tal?"))
        await obs.close()

    assert studio.texts == {"Subtitles": "¿Qué tal?"}


async def test_a_wrong_password_is_given_up():
    async with Studio("right").running() as url:
        obs = Obs(url, "wrong")
        with pytest.raises(ClosedError, match="4009"):
            await obs.send(caption(1))
        await obs.close()


async def test_a_stream_that_does_not_run_takes_the_next():
    studio = Studio()
    studio.streaming = False
    async with studio.running() as url:
        obs = Obs(url)
        with pytest.raises(RefusedError, match="501, The stream output is not running"):
            await obs.send(caption(1))
        studio.streaming = True
        await obs.send(caption(2, "now"))
        await obs.close()

    assert studio.captions == ["now"]


async def test_a_source_that_is_not_there_is_named():
    async with Studio().running() as url:
        obs = Obs(url, input="Untitled")
        with pytest.raises(RefusedError, match="600"):
            await obs.send(caption(1))
        await obs.close()


async def test_obs_that_was_started_again_is_found():
    studio = Studio("right")
    async with studio.running() as url:
        obs = Obs(url, "right")
        await obs.send(caption(1, "one"))
        studio.connections[0].transport.abort()
        await studio.connections[0].wait_closed()
        with pytest.raises(BusyError):
            await obs.send(caption(2, "two"))
        await obs.send(caption(2, "two"))
        await obs.close()

    assert studio.captions == ["one", "two"]


async def test_no_obs_is_one_later():
    obs = Obs("ws://127.0.0.1:9")
    with pytest.raises(BusyError):
        await obs.send(caption(1))


async def test_what_answers_may_be_something_else():
    async def echo(connection):
        await connection.send('["hello"]')
        await connection.wait_closed()

    async with serve(echo, "127.0.0.1", 0, subprotocols=["obswebsocket.json"]) as server:
        obs = Obs(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(BusyError, match="not OBS"):
            await obs.send(caption(1))


async def test_what_is_no_address():
    with pytest.raises(ClosedError):
        await Obs("nonsense").send(caption(1))
