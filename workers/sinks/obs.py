"""OBS Studio, by obs-websocket 5, which is part of it: captions in the stream, or the text of a source.

See *obs-websocket 5.x protocol*: messages are ``{"op": ..., "d": {...}}``; Hello (0) is answered by Identify
(1), that by Identified (2); then Request (6) by RequestResponse (7).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from workers.sinks.base import BusyError, Caption, ClosedError, RefusedError, Sink

HELLO, IDENTIFY, IDENTIFIED, REQUEST, RESPONSE = 0, 1, 2, 6, 7
RPC_VERSION = 1

WRONG_PASSWORD, UNSUPPORTED_VERSION = 4009, 4010
"""Close codes of OBS."""

NOT_READY = 207
"""Status of a request that OBS may carry out later."""

SECONDS = 5.0
"""How long OBS may take to answer."""


class Obs(Sink):
    """One OBS.

    Without ``input``, captions go into the outgoing stream as CEA-608, for players to show: OBS takes them
    only while it streams, and they are of the Latin alphabet. With ``input``, they become that source's text.

    Args:
        url: such as ``ws://192.168.1.10:4455``.
        password: of OBS's WebSocket server; empty when it asks for none.
        input: name of a text source; empty for none.
    """

    clears = True
    width = 32  # of CEA-608

    def __init__(self, url: str, password: str = "", input: str = "") -> None:
        self._url = url
        self._password = password
        self._input = input
        self._connection: ClientConnection | None = None
        self._requests = 0

    async def send(self, caption: Caption) -> None:
        """Have OBS show a caption."""
        if self._input:
            settings = {"inputName": self._input, "inputSettings": {"text": caption.text}}
            await self._request("SetInputSettings", settings)
        else:
            await self._request("SendStreamCaption", {"captionText": caption.text})

    async def _request(self, kind: str, data: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                if self._connection is None:
                    self._connection = await self._identify()
                self._requests += 1
                request = {"requestType": kind, "requestId": str(self._requests), "requestData": data}
                await _tell(self._connection, REQUEST, request)
                status = (await self._response(self._connection))["requestStatus"]
        except (OSError, TimeoutError, InvalidHandshake) as error:
            await self.close()
            raise BusyError(f"no answer ({type(error).__name__})") from None
        except InvalidURI as error:
            raise ClosedError(str(error)) from None
        except ConnectionClosed as error:
            self._connection = None
            code = error.rcvd.code if error.rcvd is not None else None
            if code in (WRONG_PASSWORD, UNSUPPORTED_VERSION):
                raise ClosedError(f"OBS does not let us in (close code {code})") from None
            raise BusyError("OBS closed the connection") from None
        except (ValueError, KeyError, TypeError) as error:
            await self.close()
            raise BusyError(f"what answers is not OBS ({type(error).__name__})") from None
        if not status["result"]:
            told = f"OBS refused {kind}: status {status['code']}, {status.get('comment', 'no comment')}"
            raise BusyError(told) if status["code"] == NOT_READY else RefusedError(told)

    async def _identify(self) -> ClientConnection:
        connection = await connect(
            self._url, subprotocols=[Subprotocol("obswebsocket.json")], max_size=1 << 20
        )
        try:
            hello = await _hear(connection, HELLO)
            identity: dict[str, Any] = {"rpcVersion": RPC_VERSION, "eventSubscriptions": 0}
            if challenge := hello.get("authentication"):
                identity["authentication"] = authentication(
                    self._password, challenge["salt"], challenge["challenge"]
                )
            await _tell(connection, IDENTIFY, identity)
            await _hear(connection, IDENTIFIED)
        except BaseException:
            connection.transport.abort()
            raise
        return connection

    async def _response(self, connection: ClientConnection) -> dict[str, Any]:
        """The response to the last request; an earlier one, that was not waited for, may come before."""
        while (response := await _hear(connection, RESPONSE))["requestId"] != str(self._requests):
            pass
        return response

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def authentication(password: str, salt: str, challenge: str) -> str:
    """What proves to OBS that the password is known, without telling it."""
    secret = base64.b64encode(hashlib.sha256((password + salt).encode()).digest()).decode()
    return base64.b64encode(hashlib.sha256((secret + challenge).encode()).digest()).decode()


async def _tell(connection: ClientConnection, op: int, data: dict[str, Any]) -> None:
    await connection.send(json.dumps({"op": op, "d": data}))


async def _hear(connection: ClientConnection, op: int) -> dict[str, Any]:
    """The next message of that kind; others are events, which nobody asked for."""
    while (message := json.loads(await connection.recv()))["op"] != op:
        pass
    data: dict[str, Any] = message["d"]
    return data
