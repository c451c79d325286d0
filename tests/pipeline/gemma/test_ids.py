from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import AudioConfig, ModelConfig, TextConfig
from pipeline.gemma.ids import check_ids, end_of_text

CONFIG = ModelConfig(TextConfig(), AudioConfig())
END = end_of_text(CONFIG)
HARD = range(CONFIG.audio.vocab_offset, CONFIG.audio.vocab_offset + CONFIG.audio.vocab_size)


def test_text_ends_where_images_or_sound_begin():
    assert min(CONFIG.vision_vocab_offset, CONFIG.audio.vocab_offset) == END


@given(
    st.lists(st.one_of(st.integers(0, END - 1), st.sampled_from(HARD), st.just(CONFIG.audio_token_id))),
    st.integers(0, 3),
)
def test_each_soft_token_has_a_place(ids, superfluous):
    places = ids.count(CONFIG.audio_token_id)
    check_ids(CONFIG, ids, torch.zeros(places, 4) if places else None)
    if superfluous:
        with pytest.raises(ValueError, match=f"{places} audio soft-token ids for {places + superfluous}"):
            check_ids(CONFIG, ids, torch.zeros(places + superfluous, 4))


@given(st.lists(st.integers(0, END - 1)), st.data())
def test_ids_without_an_embedding_are_named(ids, data):
    wrong = data.draw(
        st.one_of(
            st.integers(-(2**40), -1),
            st.integers(HARD.stop, 2**40).filter(lambda id_: id_ != CONFIG.audio_token_id),
        )
    )
    at = data.draw(st.integers(0, len(ids)))
    with pytest.raises(ValueError, match=rf"text or audio: \[{wrong}\]"):
        check_ids(CONFIG, [*ids[:at], wrong, *ids[at:]], None)
