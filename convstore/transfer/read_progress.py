"""How much of a file has been read, so that a reader of it can tell the time left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class _Positioned(Protocol):
    def tell(self) -> int: ...


@dataclass(slots=True)
class ReadProgress:
    """How much has been read of what will be read."""

    size: int | None = None
    """Number of bytes that will be read; None: unknown."""
    read: int = 0
    """Number of bytes that were read, if no stream tells it."""
    stream: _Positioned | None = None
    """The stream with the position that tells how much was read: of the file itself, below what decompresses it."""

    def get_share(self) -> float | None:
        """Return the share that was read, from 0 to 1; None if it is unknown."""
        if not self.size:
            return None
        read = self.stream.tell() if self.stream is not None else self.read
        return min(1.0, read / self.size)
