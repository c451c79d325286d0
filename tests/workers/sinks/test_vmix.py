"""vMix's web API: a function, an input, a field, a value."""

from __future__ import annotations

import asyncio

import pytest

from tests.workers.sinks.conftest import Destination, caption
from workers.sinks.base import BusyError, RefusedError
from workers.sinks.vmix import VMix


class Mixer(Destination):
    """Has one title with two texts; answers 500 to what it cannot do, as vMix does."""

    def __init__(self):
        super().__init__()
        self.texts = {"Message.Text": "", "Title.Text": "Talk"}

    def answer(self, request):
        query = request.query
        if request.path.lower().rstrip("/") != "/api":
            return 404, ""
        if query.get("Function") != "SetText" or query["Input"] != "Lower Third":
            return 500, "Input not found"
        if query["SelectedName"] not in self.texts:
            return 500, "Field not found"
        self.texts[query["SelectedName"]] = query.get("Value", "")
        return 200, "Function completed successfully."


@pytest.fixture(name="mixer")
async def _mixer():
    mixer = Mixer()
    yield mixer
    await asyncio.to_thread(mixer.close)


async def test_a_text_is_set_and_cleared(mixer):
    vmix = VMix(f"{mixer.url}/", "Lower Third", "Message.Text")
    await vmix.send(caption(1, "¿Qué tal? 100% & more\nagain"))
    assert mixer.texts["Message.Text"] == "¿Qué tal? 100% & more\nagain"

    await vmix.send(caption(2, ""))
    await vmix.close()

    assert mixer.texts == {"Message.Text": "", "Title.Text": "Talk"}


@pytest.mark.parametrize("place", [("Another", "Message.Text"), ("Lower Third", "Another.Text")])
async def test_a_place_that_is_not_there(mixer, place):
    vmix = VMix(mixer.url, *place)
    with pytest.raises(RefusedError, match="Another"):
        await vmix.send(caption(1))
    await vmix.close()


async def test_a_mixer_that_is_away(mixer):
    vmix = VMix(mixer.url, "Lower Third", "Message.Text")
    mixer.mishaps = ["lost"]
    with pytest.raises(BusyError):
        await vmix.send(caption(1))
    await vmix.send(caption(1))
    await vmix.close()

    assert mixer.texts["Message.Text"] == "Hello."
