"""The prompt: instruction, audio, turn change, answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError, LanguageError
from pipeline.gemma.prompt import INSTRUCTION, LANGUAGES, Prompt, PromptTemplate
from pipeline.gemma.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def prompt(checkpoint: Path, tokenizer: Tokenizer) -> Prompt:
    return Prompt(tokenizer, PromptTemplate.from_pretrained(checkpoint))


def test_the_instruction_stands_before_the_audio(prompt, tokenizer):
    ids = prompt.before_audio("es", "en")

    assert ids[:2] == tokenizer.special("<bos>", "<start_of_turn>")
    assert ids[-1:] == tokenizer.special("<start_of_audio>")
    assert tokenizer.decode(ids) == (
        "user\nTranscribe the following speech segment in Spanish, then translate it into English:\n\n"
    )


def test_the_turn_changes_behind_the_audio(prompt, tokenizer):
    ids = prompt.after_audio()

    assert ids[:1] == tokenizer.special("<end_of_audio>")
    assert tokenizer.decode(ids) == "\n\n\nmodel\n"


def test_an_answer_is_transcript_label_translation(prompt, tokenizer):
    ids = prompt.answer("El gato.", "en", "The cat.")

    assert tokenizer.decode(ids) == " El gato.\nEnglish: The cat."
    assert ids[-1:] == tokenizer.special("<end_of_turn>")
    assert ids[-1] in prompt.line_stop_ids


def test_silence_is_answered_with_nothing(prompt, tokenizer):
    assert prompt.answer("", "en", "") == tokenizer.special("<end_of_turn>")


def test_a_transcript_ends_where_its_line_ends(prompt, tokenizer):
    label = prompt.translation_label("en")

    assert label[0] in prompt.line_stop_ids
    assert not prompt.line_stop_ids & set(prompt.words("El gato no duerme."))


def test_a_text_can_be_given_word_by_word(prompt):
    """Token ids of a beginning are the beginning of the token ids."""
    text = "No puedo, pues, explicar 1.200 cosas ahora."
    whole, said = prompt.words(text), text.split()
    for count in range(len(said) + 1):
        part = prompt.words(" ".join(said[:count]))
        assert whole[: len(part)] == part


def test_an_unknown_language_is_named_with_those_that_are_known(prompt):
    with pytest.raises(LanguageError, match="unknown language 'de'; this model knows es, en"):
        prompt.before_audio("es", "de")


def test_published_checkpoints_have_the_published_wording(tmp_path: Path):
    template = PromptTemplate.from_pretrained(tmp_path)

    assert template == PromptTemplate(tuple(LANGUAGES), INSTRUCTION)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("nonsense", "expected an object"),
        ('{"languages": ["es"]}', "instruction"),
        (json.dumps({"languages": ["tlh"], "instruction": ""}), "'tlh'"),
    ],
)
def test_a_template_that_cannot_be_used_is_an_error(tmp_path: Path, content, named):
    (tmp_path / "surtitle.json").write_text(content)

    with pytest.raises(CheckpointError, match=named):
        PromptTemplate.from_pretrained(tmp_path)
