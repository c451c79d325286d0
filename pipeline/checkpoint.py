"""Checkpoint folders in Hugging Face layout: finding them, and reading their safetensors.

Files are mapped into memory, not read: a tensor that is wanted as it is on disk costs no memory of its own
until it is touched, and processes on one machine share it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

NAMED_AT_MOST = 8
"""How many tensors an error message names before it only counts the others."""

DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the stored number formats that are accepted."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def locate(model: str | Path) -> Path:
    """The folder of a model.

    Args:
        model: a folder, or the id of a model on the Hugging Face Hub, which is downloaded to its usual cache.

    Raises:
        CheckpointError: there is no such folder, and the Hub has or gives no such model.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(str(model)):
        raise CheckpointError(
            f"{model}: no such folder; a model is a folder or a Hugging Face id (owner/name)"
        )
    try:
        return Path(huggingface_hub.snapshot_download(str(model), allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError) as error:  # what the Hub's own errors are made of
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{model}: no such folder, and it cannot be had from the Hugging Face Hub: {reason}"
        ) from None


@dataclass(frozen=True)
class Stored:
    """One tensor in a file.

    Attributes:
        file: where it is.
        shape: its sizes.
        dtype: the format's own name for it, a key of :data:`DTYPES`.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.parameters * DTYPES[self.dtype]


class Checkpoint:
    """The tensors of a checkpoint folder.

    Opening it reads the files' headers only.

    Args:
        folder: has one ``model.safetensors``, or several files named by ``model.safetensors.index.json``.

    Raises:
        CheckpointError: files are missing or corrupt, or have tensors that are not floating point.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {path: _open(path) for path in _paths(folder)}
        self.tensors: dict[str, Stored] = {}
        for path, file in self._files.items():
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                part = file.get_slice(name)
                self.tensors[name] = Stored(path, tuple(part.get_shape()), part.get_dtype())
        odd = [f"{name} ({t.dtype})" for name, t in self.tensors.items() if t.dtype not in DTYPES]
        if odd:
            raise CheckpointError(
                f"{folder}: tensors of a number format that is not accepted: {shorten(odd)}; "
                f"accepted are {', '.join(DTYPES)}"
            )

    def check(self, expected: Mapping[str, Sequence[int]], ignored: Iterable[str] = ()) -> None:
        """See that everything is there, in shape, and nothing else.

        Args:
            expected: shapes by name.
            ignored: regular expressions of names, matched from their beginning, that may be there or not.

        Raises:
            CheckpointError: names what is missing, superfluous and misshapen.
        """
        pattern = re.compile("|".join(ignored)) if ignored else None
        missing = sorted(expected.keys() - self.tensors.keys())
        superfluous = sorted(
            name
            for name in self.tensors.keys() - expected.keys()
            if pattern is None or not pattern.match(name)
        )
        misshapen = [
            f"{name} ({list(self.tensors[name].shape)} instead of {list(shape)})"
            for name, shape in sorted(expected.items())
            if name in self.tensors and self.tensors[name].shape != tuple(shape)
        ]
        problems = [
            f"{len(names)} {what}: {shorten(names)}"
            for what, names in (("missing", missing), ("superfluous", superfluous), ("misshapen", misshapen))
            if names
        ]
        if problems:
            raise CheckpointError(
                f"the checkpoint does not fit its config.json; tensors {'; '.join(problems)}"
            )

    def read(
        self,
        name: str,
        *,
        shape: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Read one tensor.

        Args:
            name: of a tensor that is there (:meth:`check`).
            shape: of its leading part, if that is all that is wanted.
            dtype: what to convert it to; None leaves it as it is, mapped into memory.
            device: where to put it.

        Raises:
            CheckpointError: the file is corrupt behind its header.
        """
        stored = self.tensors[name]
        try:
            tensor: Tensor = self._files[stored.file].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{stored.file}: cannot read {name}: {error}") from None
        if shape is not None and tuple(shape) != stored.shape:
            tensor = tensor[tuple(slice(size) for size in shape)]
        return tensor.to(device, dtype or tensor.dtype).contiguous()


def shorten(names: Sequence[str]) -> str:
    """At most :data:`NAMED_AT_MOST` of ``names`` in one line, and how many more there are."""
    listed = ", ".join(names[:NAMED_AT_MOST])
    more = len(names) - NAMED_AT_MOST
    return f"{listed} and {more} more" if more > 0 else listed


def _paths(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            raise CheckpointError(f"{folder}: neither {SINGLE} nor {INDEX} is there")
        return [folder / SINGLE]
    try:
        names = sorted({str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: expected an object with a weight_map: {error!r}") from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: files named by {INDEX} are missing: {shorten(missing)}")
    return [folder / name for name in names]


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None
