"""The largest whole number that still fits."""

from __future__ import annotations

from collections.abc import Callable

MOST_TOKENS, MOST_SEQUENCES = 2**30, 2**20


def largest_fitting(headroom: Callable[[int], int], *, most: int, start: int = 1) -> int:
    """Return the largest number from 1 to `most` whose headroom is not negative, 0 where not even 1 has it.

    Parameters
    ----------
    headroom
        Bytes left at a number; it never grows with the number. [bytes]
    start
        A number near which the answer may lie.

    Notes
    -----
    Memory is nearly linear in tokens and sequences, so each step goes where a straight line through the last two points
    would cross zero; halves of what is left bound the number of steps where it is not.

    Examples
    --------
    >>> largest_fitting(lambda n: 1000 - 7 * n, most=10**9)
    142
    """
    low, high = 0, most + 1  # `low` fits, or is 0; `high` does not, or is beyond
    left: dict[int, int] = {}

    def fits(number: int) -> bool:
        left[number] = headroom(number)
        return left[number] >= 0

    guess = min(max(1, start), most)
    while high - low > 1:
        if fits(guess):
            low = guess
        else:
            high = guess
        if high - low <= 1:
            break
        guess = _crossing(low, high, left) if low in left and high in left else (
            min(2 * guess + 1, high - 1) if high == most + 1 else max(1, (low + high) // 2)
        )  # fmt: skip
        guess = min(max(guess, low + 1), high - 1)
        if len(left) % 3 == 2:  # a curve can hold a straight line on one side for ever
            guess = (low + high) // 2
    return low


def _crossing(low: int, high: int, left: dict[int, int]) -> int:
    """Return where a straight line between a number that fits and one that does not crosses zero, rounded down."""
    span = left[low] - left[high]
    return low + (left[low] * (high - low)) // span if span > 0 else (low + high) // 2
