"""The transcribe-then-translate prompt around the audio, and the shape of the answer.

The instruction stands before the audio, so that audio soft tokens extend the KV cache as they
arrive and everything behind them is re-decoded cheaply. The turn markers and the audio's own frame
(``<start_of_audio>`` ... ``<end_of_audio>``) are those of the published chat template and processor
(transformers ``processing_gemma3n.py``); the wording is that of Google's speech-translation guide for
Gemma 3n. A checkpoint may bring its own wording and its own list of languages in ``surtitle.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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


CONTEXT = "For the spelling of names and terms, this was said before and is not to be repeated: {context}"

AUTO = "auto"
"""Source that stands for all languages of the model."""

MOST_SOURCES = 8
"""Most languages among which that of an utterance is looked for."""

CONTEXT_TOKENS = 160
"""Most tokens between the instruction and the audio."""


def is_detected(source: str) -> bool:
    """Whether a source leaves it to be detected which language is spoken."""
    return source == AUTO or "," in source


def candidates(source: str, languages: Sequence[str]) -> tuple[str, ...]:
    """Codes of the languages that a source stands for, of a model that knows ``languages``.

    Args:
        source: one code, several with commas between them, or :data:`AUTO`.
        languages: codes.
    """
    return tuple(languages if source == AUTO else dict.fromkeys(source.split(",")))


@dataclass(frozen=True)
class PromptTemplate:
    """What ``surtitle.json`` beside a checkpoint says.

    Args:
        languages: ISO 639-1 codes that the model was made for.
        instruction: the user's words, with ``{source}`` and ``{target}`` for language names.
        context: the user's further words where something is known of the talk, with ``{context}`` for it;
            empty for a model that was not made to be told.
    """

    languages: tuple[str, ...] = tuple(LANGUAGES)
    instruction: str = INSTRUCTION
    context: str = ""

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read ``surtitle.json`` in ``folder``; without one, what suits the published checkpoints.

        Raises:
            CheckpointError: the file is not what is described here.
        """
        path = folder / "surtitle.json"
        if not path.is_file():
            return cls(context=CONTEXT)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            template = cls(tuple(raw["languages"]), str(raw["instruction"]), str(raw.get("context", "")))
            template.context.format(context="")
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: expected an object with languages and instruction: {error!r}"
            ) from None
        unknown = set(template.languages) - set(LANGUAGES)
        if unknown:
            raise CheckpointError(f"{path}: unknown languages {sorted(unknown)}")
        if template.context and "{context}" not in template.context:
            raise CheckpointError(f"{path}: context must have a place named {{context}}")
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
        self._context = template.context
        end_of_turn, eos = tokenizer.special("<end_of_turn>", "<eos>")
        newlines = {tokenizer.encode(text)[0] for text in ("\n", "\n\n")}
        self.line_stop_ids = frozenset({end_of_turn, eos}) | newlines
        """Ids that end a line of the answer: the transcript is one, and the translation is another."""

    def before_audio(self, source: str, target: str, context: Sequence[int] = ()) -> list[int]:
        """From the beginning of the sequence to ``<start_of_audio>``.

        Args:
            source: code of the spoken language.
            target: code of the language to translate into.
            context: from :meth:`context`; the sequence begins alike with every other one.

        Raises:
            LanguageError: the model does not know one of the two languages.
        """
        instruction = self._instruction.format(source=self.language(source), target=self.language(target))
        user = f"user\n{instruction}"
        if not context:
            return self._tokenizer.tokens(["<bos>", "<start_of_turn>", f"{user}\n\n", "<start_of_audio>"])
        head = self._tokenizer.tokens(["<bos>", "<start_of_turn>", user])
        return [*head, *context, *self._tokenizer.tokens(["\n\n", "<start_of_audio>"])]

    @property
    def takes_context(self) -> bool:
        """Whether the model was made to be told something before the audio."""
        return bool(self._context)

    def context(self, text: str, sentences: Sequence[str]) -> list[int]:
        """What to tell before the audio, in at most :data:`CONTEXT_TOKENS` tokens.

        What is too long loses the oldest sentences first, and then the last words of the text.

        Args:
            text: names and topics.
            sentences: that were said, the last one last.
        """
        given, said = text.split(), list(sentences)
        while given or said:
            words = " ".join([*given, *said])
            ids = self._tokenizer.encode(f"\n{self._context.format(context=words)}")
            if len(ids) <= CONTEXT_TOKENS:
                return ids
            if said:
                said.pop(0)
            else:
                given.pop()
        return []

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

    def sources(self, source: str) -> tuple[str, ...]:
        """Codes of the languages that may be spoken.

        Args:
            source: as :func:`candidates` has it.

        Raises:
            LanguageError: the model does not know one of them; or there are too many, or only one is to be
                detected.
        """
        codes = candidates(source, self.languages)
        for code in codes:
            self.language(code)
        if source == AUTO and len(codes) < 2:
            raise LanguageError(
                f"this model knows one language only, {codes[0]!r}: name it instead of {AUTO!r}"
            )
        if len(codes) > MOST_SOURCES:
            raise LanguageError(
                f"{len(codes)} languages are too many to detect one among them; name at most {MOST_SOURCES} "
                "that may be spoken, as in 'es,en'"
            )
        return codes

    def language(self, code: str) -> str:
        """English name of a language.

        Raises:
            LanguageError: the model does not know it.
        """
        if code not in self.languages:
            raise LanguageError(f"unknown language {code!r}; this model knows {', '.join(self.languages)}")
        return LANGUAGES[code]
