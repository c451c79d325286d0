"""docs/sinks.md tells the truth."""

from __future__ import annotations

import json
import re

from pipeline.wire.commands import Start, parse_command
from tests.conftest import ROOT
from tests.workers.sinks.conftest import caption
from workers.settings import read_settings
from workers.sinks.config import KINDS
from workers.sinks.delivery import PATIENCE
from workers.sinks.webhook import Webhook

PAGE = (ROOT / "docs/sinks.md").read_text("utf-8")


def test_the_example_is_read_and_has_every_kind(tmp_path):
    path = tmp_path / "surtitle.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])

    assert [sink.kind for sink in read_settings(path).sinks] == list(KINDS)


def test_streams_ask_for_sinks_that_are_there():
    start = parse_command(re.search(r"```json client\n(.*?)```", PAGE, re.DOTALL)[1])

    assert isinstance(start, Start)
    assert all(f'name = "{name}"' in PAGE for name in start.sinks)


def test_the_numbers_are_those_of_the_code():
    for text in (
        f"after {PATIENCE.first} s",
        f"up to {PATIENCE.longest:g} s",
        f"{PATIENCE.late:g} s late",
        f"{PATIENCE.waiting} captions wait",
    ):
        assert text in re.sub(r"\s+", " ", PAGE)


async def test_webhooks_get_what_is_shown(destination):
    shown = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1])
    webhook = Webhook(destination.url)
    await webhook.send(caption(1, shown["text"], stream=shown["stream_id"], start=shown["start"]))
    await webhook.close()

    assert json.loads(destination.requests[0].body) == shown
