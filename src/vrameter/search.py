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
    crosses zero; halves of what is left, taken now and then, bound the number of steps where it is not.

    Examples
    --------
    >>> largest_fitting(lambda n: 1000 - 7 * n, most=10**9)
    142
    """
    low, high = 0, most + 1  # `low` fits, or is 0; `high` does not, or is beyond
    points: list[tuple[int, int]] = []
    guess = min(max(1, start), most)
    while high - low > 1:
        points.append((guess, headroom(guess)))
        if points[-1][1] >= 0:
            low = guess
        else:
            high = guess
        if len(points) % 5 == 4:  # a curve can hold a straight line on one side for ever
            guess = (low + high) // 2
        elif len(points) == 1:
            guess = 2 * guess + 1 if low else guess // 2
        else:
            guess = _crossing(*points[-2], *points[-1], otherwise=(low + high) // 2)
        guess = min(max(guess, low + 1), high - 1)
    return low


def _crossing(first: int, left_first: int, second: int, left_second: int, *, otherwise: int) -> int:
    """Return where the straight line through two points crosses zero, rounded down."""
    fall = left_first - left_second
    if fall == 0 or (second - first) * fall < 0:
        return otherwise
    return first + left_first * (second - first) // fall
