"""The bundled model's tokenizer: byte-pair encoding in the form of Gemma's ``tokenizer.json``.

Gemma's special tokens stand at their names; spaces become U+2581 and belong to the word behind them;
what the vocabulary lacks falls back to bytes. Digits and punctuation are tokens of their own, so that a
text continued word by word is tokenised as the whole would be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

UNKNOWN = "<unk>"
SPECIAL = (
    "<pad>",
    "<eos>",
    "<bos>",
    UNKNOWN,
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<start_of_audio>",
)
VISION = ("<end_of_image>", "<image_soft_token>")
AUDIO = ("<end_of_audio>", "<audio_soft_token>")
HARD_TOKENS = 8
"""Size of each of the two hard-token vocabularies; the last of the audio one pads clips in transformers."""


def train(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer with ``size`` text tokens, followed by the vision and the audio ones.

    Ids: special tokens from 0 in the order of :data:`SPECIAL`, text below ``size``, vision hard tokens from
    ``size``, audio hard tokens from ``size + HARD_TOKENS``.

    Raises:
        ValueError: the texts are too few for so many tokens.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\u2581", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[\d\p{P}\n]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    newlines = ("\n", "\n\n")
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[*SPECIAL, *newlines, *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
            initial_alphabet=["\u2581"],
        ),
    )
    used = tokenizer.get_vocab_size()
    if used != size:
        raise ValueError(f"the text holds only {used} of {size} tokens")
    tokenizer = _with_plain_text(
        tokenizer, {*newlines, *(f"<0x{byte:02X}>" for byte in range(256))}, set(newlines)
    )
    tokenizer.add_special_tokens(
        [
            *(*VISION, *(f"<unused_vision_{index}>" for index in range(HARD_TOKENS - len(VISION)))),
            *(*AUDIO, *(f"<unused_audio_{index}>" for index in range(HARD_TOKENS - len(AUDIO)))),
        ]
    )
    return tokenizer


def carried_over(old: Tokenizer, new: Tokenizer) -> list[list[int]]:
    """Which of the old tokens stand for each of the new ones: itself, or those that spell it.

    Args:
        old: from :func:`train`, for other texts or another size.
        new: the same.

    Returns:
        Ids of ``old`` by the ids of ``new``, at least one each.
    """
    known = old.get_vocab(with_added_tokens=True)
    rows: list[list[int]] = [[] for _ in range(new.get_vocab_size(with_added_tokens=True))]
    for token, id_ in new.get_vocab(with_added_tokens=True).items():
        spelled = [known[token]] if token in known else old.encode(token, add_special_tokens=False).ids
        rows[id_] = spelled or [known[UNKNOWN]]
    return rows


def _with_plain_text(tokenizer: Tokenizer, plain: set[str], kept: set[str]) -> Tokenizer:
    """Undo the trainer's marking of ``plain`` as special; ``kept`` stay whole tokens when text is read."""
    raw = json.loads(tokenizer.to_str())
    added = []
    for token in raw["added_tokens"]:
        if token["content"] in plain:
            if token["content"] not in kept:
                continue
            token["special"] = False
        added.append(token)
    raw["added_tokens"] = added
    return Tokenizer.from_str(json.dumps(raw))
