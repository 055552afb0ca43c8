"""The caching allocator: known layouts, then laws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vrameter.memory.torch_allocator import hold

MIB = 2**20


def test_a_matrix_of_an_odd_half_mib() -> None:
    """129.5 MiB take a segment of 130: the half is not cut off."""
    held = hold([129 * MIB + MIB // 2])
    assert (held.allocated, held.reserved) == (130 * MIB, 130 * MIB)


def test_a_large_rest_is_cut_off() -> None:
    """3 MiB from a segment of 20: the other 17 are free for the next."""
    held = hold([3 * MIB, 16 * MIB])
    assert (held.allocated, held.reserved) == (20 * MIB, 20 * MIB)


def test_small_tensors_share_segments() -> None:
    held = hold([100] * 4096)
    assert held.allocated == 4096 * 512
    assert held.reserved == 2 * MIB


@given(st.lists(st.integers(0, 64 * MIB), max_size=60))
def test_never_less_than_asked(sizes: list[int]) -> None:
    held = hold(sizes)
    assert held.requested == sum(sizes)
    assert held.requested <= held.allocated <= held.reserved
    assert held.allocated - held.requested <= len(sizes) * MIB


@given(st.lists(st.integers(1, 64 * MIB), min_size=1, max_size=60))
def test_one_tensor_more_never_takes_less(sizes: list[int]) -> None:
    fewer, more = hold(sizes[:-1]), hold(sizes)
    assert fewer.allocated < more.allocated
    assert fewer.reserved <= more.reserved
