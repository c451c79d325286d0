"""ServerProtocol keeps the order of messages and their limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ProtocolError
from pipeline.wire.commands import Flush, Mark, Start, Stop
from pipeline.wire.protocol import Limits, ServerProtocol, close_code

START, STOP, FLUSH = '{"type":"start"}', '{"type":"stop"}', '{"type":"flush"}'


def refusal(protocol, message):
    with pytest.raises(ProtocolError) as caught:
        protocol.receive(message)
    return caught.value.code, caught.value.fatal


def test_passes_messages_in_order():
    protocol = ServerProtocol()

    received = [protocol.receive(message) for message in (START, b"\0\1", FLUSH, b"", STOP)]

    assert received == [Start(), b"\0\1", Flush(), b"", Stop()]


@pytest.mark.parametrize("message", [b"\0\0", FLUSH, STOP])
def test_start_must_be_first(message):
    assert refusal(ServerProtocol(), message) == ("not_started", True)


@pytest.mark.parametrize("message", ["nonsense", '{"type":"start","source":1}'])
def test_a_malformed_first_message_is_fatal(message):
    assert refusal(ServerProtocol(), message)[1]


def test_a_malformed_later_message_is_as_if_never_sent():
    protocol = ServerProtocol()
    protocol.receive(START)

    assert refusal(protocol, '{"type":"stop","why":"?"}') == ("bad_message", False)
    assert refusal(protocol, START) == ("already_started", False)
    assert protocol.receive('{"type":"mark","id":"1"}') == Mark("1")


@pytest.mark.parametrize("message", [b"\0\0", FLUSH, STOP, START])
def test_nothing_comes_after_stop(message):
    protocol = ServerProtocol()
    protocol.receive(START)
    protocol.receive(STOP)

    assert refusal(protocol, message) == ("already_stopped", False)


@pytest.mark.parametrize("message", [bytes(101), "x" * 101, "é" * 51])
def test_a_message_beyond_the_limit_is_fatal(message):
    protocol = ServerProtocol(Limits(frame_bytes=100))
    protocol.receive(START)

    assert refusal(protocol, message) == ("frame_too_large", True)


def test_a_message_at_the_limit_is_accepted():
    protocol = ServerProtocol(Limits(frame_bytes=100))
    protocol.receive(START)

    assert protocol.receive(bytes(100)) == bytes(100)


@given(st.lists(st.binary(max_size=8) | st.text() | st.sampled_from([START, STOP, FLUSH]), max_size=12))
def test_whatever_comes_is_received_or_a_protocol_error(messages):
    protocol = ServerProtocol()
    for message in messages:
        try:
            received = protocol.receive(message)
        except ProtocolError:
            continue
        assert received == message or not isinstance(received, bytes)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("bad_message", 1008),
        ("not_started", 1008),
        ("unknown_language", 1008),
        ("frame_too_large", 1009),
        ("internal", 1011),
        ("worker_lost", 1011),
        ("shutting_down", 1012),
        ("at_capacity", 1013),
    ],
)
def test_close_codes(code, expected):
    assert close_code(code) == expected
