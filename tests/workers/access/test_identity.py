"""Scopes allow what they say, within a tenant."""

from __future__ import annotations

import pytest

from workers.access.identity import ANYONE, NOBODY, Identity


def of(*scopes, tenant="a"):
    return Identity(tenant, "key", frozenset(scopes))


@pytest.mark.parametrize(
    ("identity", "speaks", "watches"),
    [
        (of("speak"), True, ""),
        (of("watch"), False, "x y"),
        (of("watch:x"), False, "x"),
        (of("watch", tenant="b"), False, ""),
        (of("watch:x", tenant="b"), False, ""),
        (of("admin", tenant="b"), True, "x y"),
        (of("speaker", "watch:"), False, ""),
        (NOBODY, False, ""),
        (ANYONE, True, "x y"),
    ],
)
def test_what_somebody_may(identity, speaks, watches):
    assert identity.may_speak() == speaks
    assert " ".join(stream for stream in "xy" if identity.may_watch(stream, "a")) == watches
