"""docs/dialects.md tells the truth."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from workers.dialects.routes import dialect_at

PAGE = (ROOT / "docs/dialects.md").read_text("utf-8")


async def test_the_example_translates(server):
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "dialects.md", "exec"), names)

    assert await names["translate"](f"{server.http}/v1", b"hola.\0") == "de:HOLA"


@pytest.mark.parametrize(
    "path", re.findall(r"ws://[^/]+(/\S+)", PAGE) + re.findall(r"^\| `(/v1\S*)`", PAGE, re.M)
)
def test_every_address_is_one(path):
    assert dialect_at(path.strip("`").replace("LOCALE", "es-ES"), {}) is not None
