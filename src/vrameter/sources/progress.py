"""One line on the terminal that says how far a longer wait has come."""

from __future__ import annotations

import sys
import time
from threading import Lock
from types import TracebackType

PATIENCE_SECONDS = 0.3


class Progress:
    """Counts on standard error, where that is a terminal and the wait is felt; silent otherwise."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._lock = Lock()
        self._shown = False
        self._begun = time.monotonic()
        self._active = total > 1 and sys.stderr is not None and sys.stderr.isatty()

    def advance(self) -> None:
        """Count one more."""
        if not self._active:
            return
        with self._lock:
            self._done += 1
            if time.monotonic() - self._begun > PATIENCE_SECONDS:
                sys.stderr.write(f"\r{self._what} {self._done}/{self._total}")
                sys.stderr.flush()
                self._shown = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


__all__ = ["Progress"]
