"""The transcribe-then-translate prompt around the audio, and the shape of the answer.

The instruction stands before the audio, so that audio soft tokens extend the KV cache as they
arrive and everything behind them is re-decoded cheaply. The turn markers and the audio's own frame
(``<start_of_audio>`` ... ``<end_of_audio>``) are those of the published chat template and processor
(transformers ``processing_gemma3n.py``); the wording is that of Google's speech-translation guide for
Gemma 3n. A checkpoint may bring its own wording and its own list of languages in ``surtitle.json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.errors import CheckpointError, LanguageError
from pipeline.gemma.tokenizer import Tokenizer

LANGUAGES = {
    "ar": "Arabic",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "he": "Hebrew",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
"""English names, as the instruction spells them, of the languages by ISO 639-1 code."""

INSTRUCTION = (
    "Transcribe the following speech segment in {source}, then translate it into {target}. "
    "When formatting the answer, first output the transcription in {source}, then one newline, "
    "then output the string '{target}: ', then the translation in {target}."
)


@dataclass(frozen=True)
class PromptTemplate:
    """What ``surtitle.json`` beside a checkpoint says; the defaults suit the published ones.

    Args:
        languages: ISO 639-1 codes that the model was made for.
        instruction: the user's words, with ``{source}`` and ``{target}`` for language names.
    """

    languages: tuple[str, ...] = tuple(LANGUAGES)
    instruction: str = INSTRUCTION

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read ``surtitle.json`` in ``folder``; without one, the defaults.

        Raises:
            CheckpointError: the file is not what is described here.
        """
        path = folder / "surtitle.json"
        if not path.is_file():
            return cls()
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            template = cls(tuple(raw["languages"]), str(raw["instruction"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: expected an object with languages and instruction: {error!r}"
            ) from None
        unknown = set(template.languages) - set(LANGUAGES)
        if unknown:
            raise CheckpointError(f"{path}: unknown languages {sorted(unknown)}")
        return template


class Prompt:
    """Token ids that stand before, between and behind the audio soft tokens.

    Args:
        tokenizer: of the checkpoint.
        template: of the checkpoint.
    """

    def __init__(self, tokenizer: Tokenizer, template: PromptTemplate) -> None:
        self.languages = template.languages
        self._tokenizer = tokenizer
        self._instruction = template.instruction
        end_of_turn, eos = tokenizer.special("<end_of_turn>", "<eos>")
        newlines = {tokenizer.encode(text)[0] for text in ("\n", "\n\n")}
        self.line_stop_ids = frozenset({end_of_turn, eos}) | newlines
        """Ids that end a line of the answer: the transcript is one, and the translation is another."""

    def before_audio(self, source: str, target: str) -> list[int]:
        """From the beginning of the sequence to ``<start_of_audio>``.

        Raises:
            LanguageError: the model does not know one of the two languages.
        """
        instruction = self._instruction.format(source=self.language(source), target=self.language(target))
        return self._tokenizer.tokens(
            ["<bos>", "<start_of_turn>", f"user\n{instruction}\n\n", "<start_of_audio>"]
        )

    def after_audio(self) -> list[int]:
        """From ``<end_of_audio>`` to where the model begins its answer."""
        return self._tokenizer.tokens(
            ["<end_of_audio>", "\n\n", "<end_of_turn>", "\n", "<start_of_turn>", "model\n"]
        )

    def translation_label(self, target: str) -> list[int]:
        """What stands between transcript and translation: a newline and the language's name."""
        return self._tokenizer.encode(f"\n{self.language(target)}: ".rstrip(" "))

    def answer(self, transcript: str, target: str, translation: str) -> list[int]:
        """The whole answer as the model is trained to give it; no speech is answered by nothing.

        The words of both texts are tokenised as they stand behind a space, so that a hypothesis can be
        continued word by word.
        """
        end = self._tokenizer.special("<end_of_turn>")
        if not transcript:
            return end
        return [
            *self.words(transcript),
            *self.translation_label(target),
            *self.words(translation),
            *end,
        ]

    def words(self, text: str) -> list[int]:
        """Token ids of a text that begins in the middle of an answer, that is, behind a space."""
        return self._tokenizer.encode(f" {text}") if text else []

    def language(self, code: str) -> str:
        """English name of a language.

        Raises:
            LanguageError: the model does not know it.
        """
        if code not in self.languages:
            raise LanguageError(f"unknown language {code!r}; this model knows {', '.join(self.languages)}")
        return LANGUAGES[code]
