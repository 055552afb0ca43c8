"""Bytes read piece by piece: from a local file, or by range requests, never more than asked for.

Headers stand at the start of weight files, and their length is known only once their first bytes were read. A parser
asks a `ByteSource` for what it needs next; `Growing` turns many small questions into a few range requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from vrameter.errors import SourceError
from vrameter.i18n import tr

FIRST_RANGE = 2**20
MAX_RANGE = 2**25


class ByteSource(Protocol):
    """Bytes at offsets.

    Parameters
    ----------
    name
        What to call it in messages.
    size
        All of its bytes, None where that is not known. [bytes]
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int | None: ...

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset: exactly `length`, fewer only where the source ends."""
        ...


class LocalFile:
    """A file on disk, open until it is closed.

    Raises
    ------
    SourceError
        Where it is no file or cannot be read.
    """

    def __init__(self, path: Path | str, *, name: str = "") -> None:
        self.name = name or str(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise _unreadable(self.name, error) from None
        try:
            status = os.fstat(self._descriptor)
            if not os.path.isfile(self._descriptor):  # noqa: PTH113
                raise IsADirectoryError(None, tr("it is no regular file"))
        except OSError as error:
            self.close()
            raise _unreadable(self.name, error) from None
        self.size: int | None = status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset: exactly `length`, fewer only at the end of the file."""
        pieces: list[bytes] = []
        try:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            while length > 0:
                piece = os.read(self._descriptor, min(length, MAX_RANGE))
                if not piece:
                    break
                pieces.append(piece)
                length -= len(piece)
        except (OSError, OverflowError) as error:
            raise _unreadable(self.name, error) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Growing:
    """The start of a source that is read from front to back, fetched in ranges that double.

    Parameters
    ----------
    fetch
        Called with an offset and a length; returns that many bytes, fewer only where the source ends.
    size
        All bytes of the source, where known. [bytes]
    first
        What the first request asks for at least. [bytes]

    Notes
    -----
    Everything fetched is kept, so that reading again costs nothing; the parser's own bounds limit how much that is.
    """

    def __init__(
        self, fetch: Callable[[int, int], bytes], *, name: str, size: int | None = None, first: int = FIRST_RANGE
    ) -> None:
        self.name = name
        self.size = size
        self._fetch = fetch
        self._next = first
        self._held = bytearray()
        self._ended = False

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset: exactly `length`, fewer only where the source ends."""
        end = offset + length
        while end > len(self._held) and not self._ended:
            missing = end - len(self._held)
            wanted = max(missing, self._next)
            if self.size is not None:
                wanted = min(wanted, self.size - len(self._held))
            if wanted <= 0:
                break
            piece = self._fetch(len(self._held), min(wanted, MAX_RANGE))
            self._ended = len(piece) < min(wanted, MAX_RANGE)
            self._held += piece
            self._next = min(2 * self._next, MAX_RANGE)
        return bytes(self._held[offset:end])

    def close(self) -> None:
        """Let go of what was fetched."""
        self._held.clear()

    def __enter__(self) -> Growing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unreadable(name: str, error: Exception) -> SourceError:
    reason = getattr(error, "strerror", None) or str(error)
    return SourceError(
        tr("model: '%(value)s' cannot be read (%(reason)s).", value=name, reason=reason),
        field="model",
        hint=tr("Give a folder or file that you may read."),
    )


__all__ = ["FIRST_RANGE", "MAX_RANGE", "ByteSource", "Growing", "LocalFile"]
