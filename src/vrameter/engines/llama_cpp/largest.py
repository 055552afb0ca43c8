"""The largest number whose deployment fits, with few plans of compute buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Planned(Protocol):
    """What is asked of a deployment."""

    @property
    def compute(self) -> tuple[int, ...]:
        """Compute buffers of its devices. [bytes]."""

    def headroom(self, compute: Sequence[int] | None = None) -> int:
        """Return what is left, with the compute buffers that are planned or with others. [bytes]."""


def largest_deployment(resized: Callable[[int], Planned], *, most: int, start: int) -> int:
    """Return the largest number from 1 to `most` whose deployment fits, 0 where not even 1 does.

    Planning a compute buffer is what takes time, so between two that are planned others are taken to lie on a straight line;
    the number found so is planned, as is the one after it.

    Headroom never grows with the number.
    """
    known: dict[int, tuple[int, ...]] = {}
    low, high = 0, most + 1

    def fits(number: int) -> bool:
        run = resized(number)
        known[number] = run.compute
        return run.headroom() >= 0

    def likely(number: int) -> bool:
        return resized(number).headroom(_between(known, number)) >= 0

    guess = min(max(1, start), most)
    while high - low > 1:
        if fits(guess):
            low = guess
        else:
            high = guess
        if high - low <= 1:
            break
        if len(known) % 5 == 4:  # a curve can hold the line on one side for long
            guess = (low + high) // 2
            continue
        first, last = low, high
        while last - first > 1:
            middle = (first + last) // 2
            if likely(middle):
                first = middle
            else:
                last = middle
        guess = first if first not in known and first > low else last if last not in known else (low + high) // 2
        guess = min(max(guess, low + 1), high - 1)
    return low


def _between(known: dict[int, tuple[int, ...]], number: int) -> list[int]:
    """Return compute buffers on the straight line through the two nearest numbers that are planned, or those of the one."""
    if len(known) == 1:
        return list(*known.values())
    first, second = sorted(sorted(known), key=lambda each: abs(each - number))[:2]
    return [
        one + (other - one) * (number - first) // (second - first)
        for one, other in zip(known[first], known[second], strict=True)
    ]


__all__ = ["largest_deployment"]
