"""Segments of the allocator: what is known, then laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrameter.memory.segments import reserved_bytes
from vrameter.units import MIB

counts = st.lists(st.tuples(st.integers(1, 64 * MIB), st.integers(1, 40)), max_size=12)


@pytest.mark.parametrize(
    ("sizes", "mib"),
    [
        ([], 0),
        ([(512, 1)], 2),
        ([(MIB, 5)], 6),
        ([(MIB + 1, 1)], 20),
        ([(7 * MIB, 4)], 40),
        ([(7 * MIB, 4), (6 * MIB, 2)], 40),
        ([(10 * MIB, 3)], 30),
        ([(28 * MIB + 1, 2)], 60),
    ],
)
def test_known(sizes: list[tuple[int, int]], mib: int) -> None:
    """Worked by hand from the allocator's constants."""
    assert reserved_bytes(sizes) == mib * MIB


@given(counts)
def test_segments_hold_their_tensors(sizes: list[tuple[int, int]]) -> None:
    assert reserved_bytes(sizes) >= sum(size * count for size, count in sizes)
    assert reserved_bytes(sizes) % (2 * MIB) == 0


@given(counts, counts)
def test_tensors_together_need_no_more_than_apart(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    assert reserved_bytes([*first, *second]) <= reserved_bytes(first) + reserved_bytes(second) + 20 * MIB
