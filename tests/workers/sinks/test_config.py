"""Sinks in a configuration file."""

from __future__ import annotations

import pytest

from pipeline.text.cues import CueConfig
from workers.sinks.base import ClosedError
from workers.sinks.config import KINDS, make_sink, read_sink
from workers.sinks.obs import Obs

BASIC = {"name": "hall", "language": "en"}
ZOOM = {**BASIC, "kind": "zoom", "url": "https://a/closedcaption?id=1", "locale": "en-US"}


def test_a_sink_is_read():
    sink = read_sink({**ZOOM, "always": True, "width": 37, "lines": 1})

    assert (sink.name, sink.kind, sink.language, sink.always) == ("hall", "zoom", "en", True)
    assert sink.cues == CueConfig(language="en", width=37, lines=1)
    assert sink.resolved() == {"url": "https://a/closedcaption?id=1", "locale": "en-US"}


def test_a_kind_has_its_own_width():
    assert read_sink({**BASIC, "kind": "obs", "url": "ws://a"}).cues.width == Obs.width == 32


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_can_be_made(kind):
    needed = dict.fromkeys((*KINDS[kind].needs, *KINDS[kind].takes), "x")
    sink = read_sink({**BASIC, "kind": kind, **needed})
    made = make_sink(sink.kind, sink.resolved())
    await made.close()

    assert type(made) is KINDS[kind].make


def test_an_option_may_be_in_a_file_that_changes(tmp_path):
    file = tmp_path / "url"
    file.write_text("https://a/1\n")
    sink = read_sink({**BASIC, "kind": "youtube", "url_file": str(file)})
    assert sink.resolved() == {"url": "https://a/1"}

    file.write_text("https://a/2\n")
    assert sink.resolved() == {"url": "https://a/2"}

    file.unlink()
    with pytest.raises(ClosedError, match="url_file"):
        sink.resolved()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"kind": "zoom", "language": "en"}, "name is missing"),
        ({**BASIC, "kind": "teams"}, "one of zoom, youtube, obs, vmix, webhook"),
        ({**BASIC, "kind": "zoom", "locale": "en-US"}, "needs url or url_file"),
        ({**ZOOM, "password": "x"}, "no key 'password'"),
        ({**ZOOM, "always": "yes"}, "always must be of type bool"),
        ({**ZOOM, "url": 5}, "url must be of type str"),
        ({**ZOOM, "lines": True}, "lines must be of type int"),
        ({**ZOOM, "url_file": "x"}, "both"),
        ({**ZOOM, "width": 1}, "2 columns"),
    ],
)
def test_what_is_wrong_is_told(table, says):
    with pytest.raises(ValueError, match=says):
        read_sink(table)


def test_an_option_that_cannot_be_used():
    with pytest.raises(ClosedError, match="base64"):
        make_sink("webhook", {"url": "http://a/", "secret": "whsec_?"})
