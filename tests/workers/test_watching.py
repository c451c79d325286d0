"""Captions reach who comes late; cues are paced the same for everyone, whenever they ask."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from types import SimpleNamespace

import m3u8
import webvtt
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.text.cues import CueConfig
from pipeline.text.hls import HlsConfig
from pipeline.text.pacer import Pacer
from pipeline.wire.events import Done, Sequencer, Transcript, Translation
from tests.workers.conftest import client, finals, running
from workers.eventlog import EventLog
from workers.watching import REPLAYED_SECONDS, CueViewing, LiveSubtitles, PacedText, Viewing

START = {"type": "start", "partials": True}
WORDS = [
    "nobody",
    "knows",
    "what",
    "the",
    "harbour",
    "looked",
    "like",
    "before",
    "the",
    "storm",
    "took",
    "half",
]


class Speech:
    """A stream whose speaker says words, with all that a viewer asks of a live one."""

    def __init__(self, capacity=4096):
        self.log = EventLog(capacity)
        self.config = SimpleNamespace(source="es")
        self.targets = ("en",)
        self.audio_time = 0.0
        self.said = []
        self._sequencer = Sequencer("s")

    def finals(self, language):
        return [event for event in self.said if isinstance(event, Translation)]

    def say(self, utterance, seconds, words, server_time=0.0):
        """An utterance that ends at ``seconds``: a partial translation, then the final one."""
        whole = " ".join(words)
        for stable, final in ((" ".join(words[: len(words) // 2]), False), (whole, True)):
            about = {"utterance": utterance, "start": 0.0, "end": seconds, "tentative": "", "final": final}
            about |= {"stable": stable, "audio_time": seconds}
            self.tell(Transcript(**about | {"stable": "hola"}), server_time)
            self.tell(Translation(**about, target="en"), server_time)
        self.audio_time = seconds

    def tell(self, event, server_time=0.0, *, last=False):
        event = self._sequencer.stamp(event, server_time=server_time)
        self.log.append(event, last=last)
        if getattr(event, "final", False):
            self.said.append(event)

    def end(self):
        self.tell(Done(), last=True)


def talk(rng, utterances):
    """Utterances of a talk with the seconds at which they end."""
    seconds = 0.0
    for number in range(utterances):
        words = rng.choices(WORDS, k=rng.randint(1, 20))
        seconds += 0.4 * len(words) + rng.random()
        yield number, seconds, words


def shown(text):
    """The words of a WebVTT text."""
    return [word for caption in webvtt.from_string(text) for word in caption.text.split()]


@given(st.integers(0, 1 << 30), st.sampled_from([2, 6, 10]))
@example(42237445, 2)  # settled a third of a millisecond before a segment's end
def test_what_players_get_does_not_depend_on_when_they_ask(seed, seconds):
    """A player that asks all the time and one that comes at the end are given the same segments."""
    rng = random.Random(seed)
    speech, often = Speech(), LiveSubtitles("en")
    config = HlsConfig(seconds=seconds, target=seconds)
    listed, words = {}, []
    for number, until, said in talk(rng, 12):
        speech.say(number, until, said)
        words += said
        playlist = m3u8.loads(often.playlist(speech, config))
        assert playlist.target_duration == seconds
        assert not playlist.is_endlist
        for index, segment in enumerate(playlist.segments, start=playlist.media_sequence):
            text = often.segment(speech, config, index)
            assert segment.uri == f"{index}.vtt"
            assert "X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:0" in text
            assert listed.setdefault(index, text) == text
        after = playlist.media_sequence + len(playlist.segments)
        assert often.segment(speech, config, after) is None
    speech.end()
    late = LiveSubtitles("en")
    playlist = m3u8.loads(late.playlist(speech, config))
    count = playlist.media_sequence + len(playlist.segments)
    texts = [late.segment(speech, config, index) for index in range(count)]

    assert playlist.is_endlist
    assert {index: texts[index] for index in listed} == listed
    assert late.segment(speech, config, count) is None
    cues = {(c.start_in_seconds, c.text) for text in texts for c in webvtt.from_string(text)}
    assert [word for _, text in sorted(cues) for word in text.split()] == words


def test_a_player_that_stayed_away_goes_on_with_what_is_kept():
    speech, live = Speech(capacity=24), LiveSubtitles("en")
    config = HlsConfig()
    talks = list(talk(random.Random(1), 40))
    for number, until, said in talks[:3]:
        speech.say(number, until, said)
    live.playlist(speech, config)
    for number, until, said in talks[3:]:
        speech.say(number, until, said)

    playlist = m3u8.loads(live.playlist(speech, config))

    last = playlist.media_sequence + len(playlist.segments) - 1
    assert set(shown(live.segment(speech, config, last))) <= set(WORDS)
    assert shown(live.segment(speech, config, last))


@given(st.integers(0, 1 << 30), st.booleans())
def test_pacing_when_due_is_pacing_all_the_time(seed, roll_up):
    rng = random.Random(seed)
    config = CueConfig(roll_up=roll_up)
    paced, pacer = PacedText(config), Pacer(config)
    cues, expected, now = [], [], 0.0
    for number, until, words in talk(rng, 5):
        while now < until:
            now = round(now + 0.01, 2)
            expected += pacer.advance(now)
        text = " ".join(words)
        expected += pacer.push(text, now, final=True)
        about = {"utterance": number, "start": 0, "end": 0, "tentative": "", "final": True, "stable": text}
        cues += paced.take(Translation(**about, target="en"), now)

    assert [cue.text for cue in cues] == [cue.text for cue in expected]
    assert all(abs(one.start - other.start) < 0.2 for one, other in zip(cues, expected, strict=True))


def test_an_utterance_without_its_end_ends_with_the_next_one():
    paced = PacedText(CueConfig())
    about = {"start": 0, "end": 0, "tentative": "", "target": "en"}
    paced.take(Translation(**about, utterance=3, stable="nobody knows", final=False), 1.0)
    cues = paced.take(Translation(**about, utterance=5, stable="why", final=True), 2.0)
    late = paced.take(Translation(**about, utterance=4, stable="what", final=True), 3.0)

    assert [cue.text for cue in cues] == ["nobody knows", "why"]
    assert late == []


async def received(viewing, clock):
    return [json.loads(text) async for text in viewing.messages(clock)]


async def test_a_new_screen_shows_what_all_others_show():
    """Who opens the page late gets the cue that stands there now, at the time at which all get it."""
    speech, now = Speech(), 1_000.0
    for number, until, said in talk(random.Random(7), 20):
        speech.say(number, until, said, server_time=now + until)
    begin, end = now, now + until
    early = CueViewing(speech, "en", CueConfig())
    speech.end()
    everything = await received(early, lambda: begin)
    late = await received(early, lambda: end - REPLAYED_SECONDS / 2)

    assert {message["type"] for message in everything} == {"cue"}
    assert late == [
        message | {"server_time": end - REPLAYED_SECONDS / 2}
        for message in everything
        if message["end"] > end - REPLAYED_SECONDS / 2
    ]
    assert 0 < len(late) < len(everything)


async def test_waiting_words_are_shown_when_they_are_due():
    """The clock runs here: words that nothing follows come after the hold."""
    loop = asyncio.get_running_loop()
    speech = Speech()
    viewing = CueViewing(speech, "en", CueConfig(hold=0.05))
    about = {"utterance": 0, "start": 0, "end": 0, "tentative": "", "target": "en"}
    speech.tell(Translation(**about, stable="nobody knows why", final=False), loop.time())
    messages = viewing.messages(loop.time)

    cue = json.loads(await anext(messages))

    assert cue["lines"] == ["nobody knows"]  # "why" may still grow
    assert cue["start"] >= speech.log.kept(0)[0].event.server_time + 0.05
    await messages.aclose()


async def test_who_comes_after_the_log_moved_on_gets_the_finals_all_the_same():
    async with running() as server, client(server.url, START) as speaker:
        ready = await speaker.receive()
        stream = server.gateway.registry.get(ready["stream_id"])
        await speaker.send(b"uno.", b"dos.", b"tres.", {"type": "mark"})
        said = await speaker.until("mark")
        stream.log._entries = deque(stream.log._entries, maxlen=5)
        base = f"ws://{server.address}/v1/streams/{ready['stream_id']}/captions?target=es"
        async with client(base) as late, client(f"{base}&after_seq={said[6]['seq']}") as back:
            await speaker.send({"type": "stop"})
            everything, missed = await late.rest(), await back.rest()

    assert finals(everything) == [("transcript", n, text) for n, text in enumerate(["uno", "dos", "tres"])]
    assert finals(missed) == finals(everything)[1:]
    assert [event["seq"] for event in everything] == sorted({event["seq"] for event in everything})


async def test_cues_of_a_stream_over_a_socket(server):
    async with client(server.url, START) as speaker:
        ready = await speaker.receive()
        cues = f"ws://{server.address}/v1/streams/{ready['stream_id']}/cues?target=en&roll_up=1&width=20"
        async with client(cues) as screen:
            await speaker.send(b"hola.adios.", {"type": "stop"})
            shown = await screen.rest()

    assert [message["lines"] for message in shown] == [["en:HOLA"], ["en:HOLA", "en:ADIOS"]]
    assert all(message["start"] <= message["end"] for message in shown)
    assert screen.closed_with == 1000


def test_a_viewer_is_shown_one_language_and_the_end():
    speech = Speech()
    speech.say(0, 1.0, ["a"])
    events = [entry.event for entry in speech.log.kept(0)]

    assert {type(e) for e in events if Viewing(speech, "en").shows(e)} == {Translation}
    assert {type(e) for e in events if Viewing(speech, "es").shows(e)} == {Transcript}
    assert Viewing(speech, "en").shows(Done())


def test_a_language_that_is_detected_is_followed_in_its_utterances():
    speech = Speech()
    speech.config.source = "auto"
    about = {"utterance": 0, "start": 0.0, "end": 1.0, "stable": "", "tentative": "", "final": False}
    undecided, french = (Transcript(**about, language=language) for language in (None, "fr"))

    assert [Viewing(speech, "fr").shows(event) for event in (undecided, french)] == [False, True]
    assert not Viewing(speech, "en").shows(french)
    # Its translation is the transcript once more.
    speech.targets = ("en", "fr")
    assert not Viewing(speech, "fr").shows(french)
    assert Viewing(speech, "fr").shows(Translation(**about, target="fr"))
