"""Protocol version 1 as a dialect of itself; what it means is tested with the gateway."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import ProtocolError
from pipeline.wire import commands, events
from pipeline.wire.protocol import Limits
from workers.dialects.native import Native
from workers.eventlog import Entry


def test_one_message_is_one_step():
    native = Native(Limits())

    assert native.receive('{"type":"start"}') == [commands.Start()]
    assert native.receive(b"\0\0") == [b"\0\0"]
    assert native.receive('{"type":"stop"}') == [commands.Stop()]


def test_the_first_message_is_start():
    with pytest.raises(ProtocolError) as caught:
        Native(Limits()).receive(b"\0\0")

    assert caught.value.fatal


def test_an_event_is_written_down_once():
    event = events.Mark(id="here")
    native = Native(Limits())

    (text,) = native.render(event)
    assert json.loads(text)["id"] == "here"
    assert native.messages(Entry(event, "as it is in the log")) == ("as it is in the log",)
