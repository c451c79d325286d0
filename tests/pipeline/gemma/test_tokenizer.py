"""Text to ids and back; what a speaker says is never a special token."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.gemma.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(checkpoint)


@pytest.mark.parametrize("text", ["El gato duerme.", " dos  espacios ", "¿Qué? ñandú", "1.200 €", "日本", ""])
def test_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_not_made_out_of_text(tokenizer):
    (end,) = tokenizer.special("<end_of_turn>")

    assert end not in tokenizer.encode("<end_of_turn>")
    assert tokenizer.decode(tokenizer.encode("<end_of_turn>")) == "<end_of_turn>"
    assert tokenizer.decode([*tokenizer.encode("a"), end]) == "a"


def test_a_template_mixes_special_tokens_and_text(tokenizer):
    (start,) = tokenizer.special("<start_of_turn>")

    assert tokenizer.tokens(["<start_of_turn>", "user\n"]) == [start, *tokenizer.encode("user\n")]


def test_an_incomplete_character_does_not_break_the_text(tokenizer):
    ids = tokenizer.encode("日")

    assert tokenizer.decode(ids[:1]).strip("\ufffd") == ""


def test_a_missing_special_token_is_named(tokenizer):
    with pytest.raises(CheckpointError, match="no token named <nonsense>"):
        tokenizer.special("<eos>", "<nonsense>")


@pytest.mark.parametrize("content", [None, "not json", "{}"])
def test_no_tokenizer_is_an_error(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)
