"""Keys are made, known again, and revoked; their file tells nobody anything that could be used."""

from __future__ import annotations

import json
import stat

import pytest

from pipeline.cli import main
from workers.access.keys import KeyFileError, KeyRing, add_key, read_keys, revoke_key


@pytest.fixture(name="path")
def _path(tmp_path):
    return tmp_path / "keys.json"


def clock():
    return 1_800_000_000.4


def test_a_key_is_known_again(path):
    key = add_key(path, "hall", ["speak", "watch:abc"], clock)
    add_key(path, "other", ["admin"], clock)

    identity = KeyRing(path).identify(key)

    assert identity.tenant == "hall"
    assert identity.scopes == {"speak", "watch:abc"}
    assert identity.name == f"key {key.split('_')[1]}"


def test_the_file_holds_no_key_and_is_the_owners_alone(path):
    key = add_key(path, "hall", ["speak"], clock)

    assert key.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("change", ["x", "", None])
def test_what_is_not_the_key_is_not_known(path, change):
    key = add_key(path, "hall", ["speak"], clock)
    wrong = "surtitle_00000000_x" if change is None else key[:-1] + change

    assert KeyRing(path).identify(wrong) is None


def test_a_running_server_takes_note_of_new_and_revoked_keys(path):
    first = add_key(path, "hall", ["speak"], clock)
    ring = KeyRing(path)
    second = add_key(path, "hall", ["speak"], clock)

    assert ring.identify(second) is not None

    revoke_key(path, first.split("_")[1], clock)

    assert ring.identify(first) is None
    assert ring.identify(second) is not None


def test_a_file_that_was_spoilt_leaves_things_as_they_were(path, caplog):
    key = add_key(path, "hall", ["speak"], clock)
    ring = KeyRing(path)
    path.write_text("{")

    assert ring.identify(key) is not None
    assert "is left as it was" in caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": [{}]}', '{"keys": [{"id": 1}]}', "\xff"])
def test_what_is_no_file_of_keys_is_said_so(path, text):
    path.write_text(text, encoding="latin-1")

    with pytest.raises(KeyFileError, match=r"keys\.json: "):
        KeyRing(path)


@pytest.mark.parametrize(
    ("tenant", "scopes"), [("", ["speak"]), ("a b", ["speak"]), ("a", ["fly"]), ("a", [])]
)
def test_names_that_are_not_accepted(path, tenant, scopes):
    with pytest.raises(KeyFileError):
        add_key(path, tenant, scopes, clock)

    assert not path.exists()


def test_the_command_line_makes_lists_and_revokes(path, capsys):
    assert main(["keys", "add", "--file", str(path), "--tenant", "hall"]) == 0
    key = capsys.readouterr().out.strip()
    assert KeyRing(path).identify(key).scopes == {"speak", "watch"}

    (identifier,) = read_keys(path)
    assert main(["keys", "revoke", identifier, "--file", str(path)]) == 0
    assert main(["keys", "list", "--file", str(path)]) == 0
    listed = capsys.readouterr().out
    assert identifier in listed
    assert key not in listed
    assert KeyRing(path).identify(key) is None

    assert main(["keys", "revoke", "unknown", "--file", str(path)]) == 2
    assert "has no key 'unknown'" in capsys.readouterr().err
    assert json.loads(path.read_text())["keys"][0]["revoked"]
