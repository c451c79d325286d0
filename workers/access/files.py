"""Files that are read again when they have changed, so that nothing has to be restarted for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Content = TypeVar("Content")

logger = logging.getLogger(__name__)


class Watched(Generic[Content]):
    """What a file says, as of now.

    A change that cannot be read is logged, and what was read before stays.

    Args:
        path: of the file.
        read: makes its content of its bytes.

    Raises:
        OSError: it cannot be read now.
        ValueError: ``read`` cannot use it now.
    """

    def __init__(self, path: Path, read: Callable[[bytes], Content]) -> None:
        self._path = path
        self._read = read
        self._seen = self._look()
        self._content = read(path.read_bytes())

    def get(self) -> Content:
        """The content."""
        try:
            now = self._look()
            if now != self._seen:
                self._seen = now
                self._content = self._read(self._path.read_bytes())
        except (OSError, ValueError) as error:
            logger.error("%s is left as it was read last: %s", self._path, error)
        return self._content

    def _look(self) -> tuple[int, int, int]:
        status = os.stat(self._path)
        return status.st_ino, status.st_mtime_ns, status.st_size
