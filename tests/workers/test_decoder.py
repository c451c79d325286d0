"""A DecoderWorker answers speech events with events for the client."""

from __future__ import annotations

from pipeline.config import ContextConfig, StreamConfig
from pipeline.model import Gemma3n
from pipeline.translation import SpeechTranslator
from tests.workers.doubles import END, letters, load_decoder, loaded
from workers.decoder import DecoderWorker
from workers.messages import Flush, Open, Push, Update


async def opened(*streams):
    worker = DecoderWorker(load_decoder)
    await worker.start()
    await worker.step([Open(stream, StreamConfig(partials=False)) for stream in streams])
    return worker


async def test_streams_do_not_mix():
    worker = await opened("a", "b")
    await worker.step([Push("a", letters("uno")), Push("b", letters("dos")), Update("b", ("fr",))])

    reply = await worker.step([Push("a", (END,)), Push("b", (END,))])

    texts = [[event.stable for event in outcome.items] for outcome in reply.outcomes]
    assert texts == [["uno", "en:UNO"], ["dos", "fr:DOS"]]


async def test_an_update_leaves_the_rest_as_it_is():
    worker = await opened("a")

    reply = await worker.step([Update("a", partials=True), Push("a", (*letters("o"), END))])

    assert [event.stable for event in reply.outcomes[1].items] == ["o", "o", "en:O"]


async def test_what_it_cannot_do_fails():
    worker = await opened("a")

    reply = await worker.step([Flush("a")])

    assert reply.outcomes[0].code == "internal"


async def test_a_context_that_the_model_cannot_use_is_refused_and_costs_nothing(checkpoint):
    model = Gemma3n.from_pretrained(checkpoint, stages=("decoder",))
    worker = DecoderWorker(lambda: loaded(lambda config: SpeechTranslator(model, config)))
    await worker.start()
    await worker.step([Open("a", StreamConfig())])

    reply = await worker.step([Update("a", context=ContextConfig("Ana")), Update("a", partials=False)])

    assert [getattr(outcome, "code", None) for outcome in reply.outcomes] == ["unsupported", None]
    assert not reply.outcomes[0].lost
