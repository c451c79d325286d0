"""Subtitles for HTTP Live Streaming."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.cues import Cue, pop_on
from pipeline.text.hls import HlsConfig, complete_segments, playlist, segment
from tests.pipeline.text.parsers import parse_playlist, parse_webvtt
from tests.pipeline.text.test_cues import utterances
from tests.pipeline.text.test_formats import rounded

configs = st.builds(
    HlsConfig,
    seconds=st.sampled_from([1.001, 2.0, 4.004, 6.0]),
    target=st.just(6),
    window=st.none() | st.integers(18, 30),
    uri=st.just("subs/en-{number}.vtt"),
)


def test_a_live_playlist():
    assert playlist(HlsConfig(), 47.9) == (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:2\n"
        "#EXTINF:6.000,\n2.vtt\n"
        "#EXTINF:6.000,\n3.vtt\n"
        "#EXTINF:6.000,\n4.vtt\n"
        "#EXTINF:6.000,\n5.vtt\n"
        "#EXTINF:6.000,\n6.vtt\n"
    )


def test_a_segment_is_listed_when_all_of_its_time_is_settled():
    assert complete_segments(HlsConfig(), 29.9997) == 4
    assert complete_segments(HlsConfig(), 30.0) == 5
    assert complete_segments(HlsConfig(), 29.9997, ended=True) == 5


def test_an_ended_playlist():
    assert playlist(HlsConfig(window=3), 19.5, ended=True) == (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:1\n"
        "#EXTINF:6.000,\n1.vtt\n"
        "#EXTINF:6.000,\n2.vtt\n"
        "#EXTINF:1.500,\n3.vtt\n"
        "#EXT-X-ENDLIST\n"
    )


def test_a_playlist_that_keeps_everything():
    tags, segments = parse_playlist(playlist(HlsConfig(window=None), 7200))

    assert tags["PLAYLIST-TYPE"] == "EVENT"
    assert tags["MEDIA-SEQUENCE"] == "0"
    assert len(segments) == 1200


def test_a_playlist_of_nothing():
    assert parse_playlist(playlist(HlsConfig(), 5.9))[1] == []
    assert parse_playlist(playlist(HlsConfig(), 0, ended=True)) == (
        {"VERSION": "3", "TARGETDURATION": "6", "MEDIA-SEQUENCE": "0", "ENDLIST": ""},
        [],
    )


@given(configs, st.lists(st.floats(0, 4000), max_size=10), st.booleans())
def test_playlists_as_time_goes_by(config, times, ended):
    step, known = config.seconds, {}
    for settled in sorted(times):
        tags, segments = parse_playlist(playlist(config, settled, ended=ended))
        first = int(tags["MEDIA-SEQUENCE"])

        assert all(round(duration) <= int(tags["TARGETDURATION"]) for _, duration in segments)
        assert ("ENDLIST" in tags) == ended
        covered = first * step + sum(duration for _, duration in segments)
        if ended:
            assert covered == pytest.approx(settled, abs=0.001)
        else:
            assert settled - step - 0.001 <= covered <= settled + 0.001
            for number, (uri, duration) in enumerate(segments, start=first):
                assert uri == f"subs/en-{number}.vtt"
                assert known.setdefault(number, (uri, duration)) == (uri, duration)
        assert first == 0 or len(segments) == config.window


def test_a_segment_maps_its_times_to_those_of_the_video():
    header, _ = segment(HlsConfig(mpegts=900_000), [Cue(1, 2, "One.")], 0).split("\n\n")

    assert header == "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000"
    assert "MPEGTS:5\n" in segment(HlsConfig(mpegts=2**33 + 5), [], 0)


def test_a_cue_across_a_border_is_whole_on_both_sides():
    cues = [Cue(1, 2, "One."), Cue(5, 8, "Two."), Cue(12, 18, "Three.")]
    one, two, three = ((round(cue.start * 1000), round(cue.end * 1000), cue.lines) for cue in cues)

    assert parse_webvtt(segment(HlsConfig(), cues, 0)) == [one, two]
    assert parse_webvtt(segment(HlsConfig(), cues, 1)) == [two]
    assert parse_webvtt(segment(HlsConfig(), cues, 2)) == [three]
    assert parse_webvtt(segment(HlsConfig(), cues, 3)) == []


@given(utterances(), configs)
def test_segments_hold_what_is_shown_in_their_time(said, config):
    cues = list(pop_on(said))
    end = max((cue.end for cue in cues), default=0.0)
    _, segments = parse_playlist(playlist(HlsConfig(seconds=config.seconds, window=None), end, ended=True))

    found = [parse_webvtt(segment(config, cues, number)) for number in range(len(segments))]

    for number, shown in enumerate(found):
        begin, stop = number * config.seconds, (number + 1) * config.seconds
        assert shown == rounded(cue for cue in cues if cue.end > begin and cue.start < stop)
    assert {str(cue) for shown in found for cue in shown} == {str(cue) for cue in rounded(cues)}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"seconds": 0.0}, "segments of 0.0 s"),
        ({"seconds": 6.5}, "segments of 6.5 s do not keep to a target of 6 s"),
        ({"window": 2}, r"three times 6 s, got 2 \* 6.0 s"),
        ({"uri": "subtitles.vtt"}, "number"),
    ],
)
def test_what_no_player_would_accept_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        HlsConfig(**settings)
