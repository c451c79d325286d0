"""docs/protocol.md shows messages as they are."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from pipeline.wire import commands, events
from pipeline.wire.commands import parse_command

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")

SERVER_EVENTS = {
    kind.type: kind
    for kind in vars(events).values()
    if dataclasses.is_dataclass(kind) and isinstance(getattr(kind, "type", None), str) and kind.type
}


def examples(side):
    return re.findall(rf"```json {side}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("example", examples("client"))
def test_client_examples_are_commands(example):
    command = parse_command(example)

    assert type(command).__name__.lower() == json.loads(example)["type"]


def test_every_command_has_an_example():
    shown = {type(parse_command(example)) for example in examples("client")}

    assert shown == set(commands.Command.__args__)


def test_the_first_example_is_all_defaults():
    assert parse_command(examples("client")[0]) == commands.Start()


@pytest.mark.parametrize("example", examples("server"))
def test_server_examples_are_events(example):
    message = json.loads(example)
    kind = SERVER_EVENTS[message["type"]]

    shown = json.loads(events.encode(_event(kind, message)))

    assert shown == message


def test_every_event_has_an_example():
    shown = {json.loads(example)["type"] for example in examples("server")}

    assert shown == set(SERVER_EVENTS)


def _event(kind, message):
    fields = {name: value for name, value in message.items() if name != "type"}
    if "targets" in fields:
        fields["targets"] = tuple(fields["targets"])
    return kind(**fields)
