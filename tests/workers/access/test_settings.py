"""[security] and [limits] are read, and a server that everybody could use is not started by accident."""

from __future__ import annotations

import re
import textwrap
import time
import tomllib

import pytest
from websockets.datastructures import Headers

from workers.access import settings
from workers.access.identity import VIEWER, AccessError
from workers.access.keys import KeyFileError, add_key
from workers.access.settings import AccessSettings, is_loopback, read_access


def test_the_example_of_the_documentation_is_read():
    example = textwrap.dedent(settings.__doc__.split(".. code-block:: toml\n")[1])

    read = read_access(tomllib.loads(example))

    assert read.origins == ("https://example.org",)
    assert read.authenticates
    defaults = {name: getattr(AccessSettings(), name) for name in settings._LIMITS}
    assert {name: getattr(read, name) for name in settings._LIMITS} == defaults


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[security]\nkey = 'x'", "[security] has no key 'key'; accepted are keys"),
        ("[limits]\nkeys = 'x'", "[limits] has no key 'keys'"),
        ("[security]\nkeys = 1", "security.keys must be of type str | None, got 1"),
        ("[security]\nallow_anonymous = 1", "security.allow_anonymous must be of type bool, got 1"),
        ("[security]\norigins = [1]", "security.origins must be of type tuple[str, ...], got [1]"),
        ("[security]\nproxies = ['x']", "'x' does not appear to be an IPv4 or IPv6 network"),
        ("[security]\ncertificate = 'x'", "certificate and private_key go together"),
        ("[limits]\nstreams_per_key = -1", "streams_per_key must not be negative, got -1"),
        ("[limits]\nstreams_per_key = true", "limits.streams_per_key must be of type int, got True"),
        ("[limits]\nframe_bytes = 1", "frame_bytes must be from 1024 to 1048576, got 1"),
    ],
)
def test_what_cannot_be_used_is_named(text, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read_access(tomllib.loads(text))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("", False), ("::", False),
     ("192.0.2.1", False), ("no.such.name.invalid", False)],
)  # fmt: skip
def test_loopback(host, loopback):
    assert is_loopback(host) == loopback


def test_other_machines_have_to_show_something(tmp_path):
    add_key(tmp_path / "keys.json", "hall", ["speak"], time.time)
    keys = str(tmp_path / "keys.json")

    AccessSettings().guard("127.0.0.1", time.time)
    AccessSettings(keys=keys).guard("0.0.0.0", time.time)
    AccessSettings(allow_anonymous=True).guard("0.0.0.0", time.time)
    for open_to_all in (AccessSettings(), AccessSettings(watch_by_link=True)):
        with pytest.raises(ValueError, match=r"everybody who can reach 0\.0\.0\.0"):
            open_to_all.guard("0.0.0.0", time.time)
    with pytest.raises(KeyFileError, match="cannot be read"):
        AccessSettings(keys=str(tmp_path / "missing")).guard("127.0.0.1", time.time)


@pytest.mark.parametrize("by_link", [True, False])
async def test_watching_by_link_is_a_setting(tmp_path, by_link):
    add_key(tmp_path / "keys.json", "hall", ["speak"], time.time)
    tables = {"security": {"keys": str(tmp_path / "keys.json"), "watch_by_link": by_link}}
    guard = read_access(tables).guard("0.0.0.0", time.time)

    if by_link:
        visitor = await guard.admit("192.0.2.1", "/v1/streams/x.vtt", Headers(), upgrade=False)
        assert visitor.identity == VIEWER
    else:
        with pytest.raises(AccessError, match="a key, a token or a ticket is needed"):
            await guard.admit("192.0.2.1", "/v1/streams/x.vtt", Headers(), upgrade=False)
