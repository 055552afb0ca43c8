"""The largest number that fits is the largest number that fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vrameter.search import largest_fitting


@given(st.integers(0, 10**12), st.integers(1, 10**6), st.integers(1, 10**7), st.integers(1, 10**6))
def test_straight_lines(budget: int, slope: int, most: int, start: int) -> None:
    got = largest_fitting(lambda n: budget - slope * n, most=most, start=start)
    assert got == min(most, budget // slope)


@given(
    st.integers(1, 300),
    st.integers(0, 300),
    st.integers(1, 300),
    st.lists(st.integers(0, 40), min_size=300, max_size=300),
)
def test_any_falling_curve(most: int, budget: int, start: int, steps: list[int]) -> None:
    """Stairs, plateaus and cliffs: compared with trying every number."""
    total = [0]
    for step in steps:
        total.append(total[-1] + step)
    expected = max((n for n in range(1, most + 1) if total[n] <= budget), default=0)
    assert largest_fitting(lambda n: budget - total[n], most=most, start=start) == expected


def test_few_steps_suffice_where_memory_is_linear() -> None:
    asked: list[int] = []

    def headroom(number: int) -> int:
        asked.append(number)
        return 80 * 2**30 - 131_072 * number

    assert largest_fitting(headroom, most=2**30, start=8192) == 80 * 2**30 // 131_072
    assert len(asked) < 40
    asked.clear()
    quadratic = largest_fitting(lambda n: asked.append(n) or 10**12 - n * n, most=2**30, start=8192)  # type: ignore[func-returns-value]
    assert quadratic == 10**6
    assert len(asked) < 60
