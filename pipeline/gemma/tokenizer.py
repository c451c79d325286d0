"""Text to token ids and back, from a checkpoint's ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import tokenizers

from pipeline.errors import CheckpointError


class Tokenizer:
    """A Hugging Face ``tokenizer.json`` without the special tokens' magic.

    Special tokens are never made out of text (:meth:`encode`) nor turned into text (:meth:`decode`):
    what a speaker says cannot end a turn.

    Args:
        inner: the tokenizer itself.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.encode_special_tokens = True
        self._inner = inner

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read ``tokenizer.json`` in ``folder``.

        Raises:
            CheckpointError: the file is missing or is not a tokenizer.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{folder}: no tokenizer.json, which is needed to make text")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path}: not a tokenizer: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without any special token."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``; special tokens are left out, an incomplete code point becomes U+FFFD."""
        return str(self._inner.decode(list(ids), skip_special_tokens=True))

    def special(self, *names: str) -> list[int]:
        """Ids of special tokens by name.

        Raises:
            CheckpointError: the tokenizer has no token of that name.
        """
        ids = [self._inner.token_to_id(name) for name in names]
        missing = [name for name, token in zip(names, ids, strict=True) if token is None]
        if missing:
            raise CheckpointError(f"tokenizer.json: no token named {', '.join(missing)}")
        return [token for token in ids if token is not None]

    def tokens(self, parts: Iterable[str]) -> list[int]:
        """Ids of a template: a part that is the name of a special token stands for it, others are text."""
        ids: list[int] = []
        for part in parts:
            special = self._inner.token_to_id(part) if part.startswith("<") else None
            ids += [special] if special is not None else self.encode(part)
        return ids
