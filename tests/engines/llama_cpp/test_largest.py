"""The search for the largest deployment on made-up ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from vrameter.engines.llama_cpp.largest import largest_deployment


@dataclass(frozen=True)
class Made:
    """A deployment of a number: a cache that grows evenly, a compute buffer that grows as it likes."""

    capacity: int
    cache: int
    compute: tuple[int, ...]

    def headroom(self, compute: Sequence[int] | None = None) -> int:
        return self.capacity - self.cache - sum(self.compute if compute is None else compute)


@given(
    st.integers(0, 10**6),
    st.integers(1, 50),
    st.integers(0, 3),
    st.integers(1, 40),
    st.integers(1, 5000),
    st.integers(1, 5000),
)
def test_it_is_the_largest(capacity: int, slope: int, curve: int, block: int, most: int, start: int) -> None:
    def resized(number: int) -> Made:
        return Made(capacity, slope * number, (curve * number**2 // 100, 100 * (number // block)))

    found = largest_deployment(resized, most=most, start=start)
    fitting = [number for number in range(1, most + 1) if resized(number).headroom() >= 0]
    assert found == (fitting[-1] if fitting else 0)
