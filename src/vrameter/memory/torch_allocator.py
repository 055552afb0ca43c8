"""What PyTorch's caching allocator makes of a sequence of tensors that stay.

The allocator takes whole segments from the driver and cuts blocks out of them. A remainder of a large segment that is
one MiB or less is not cut off: it counts as allocated with the tensor. So a matrix of 129.5 MiB takes 130, and forty
layers of them show twenty MiB more than their shapes, in vLLM's log as in ``torch.cuda.memory_allocated``.

References
----------
.. [1] PyTorch 2.13, ``c10/cuda/CUDACachingAllocator.cpp``: blocks of multiples of 512 bytes; up to 1 MiB from
       segments of 2 MiB, always cut; below 10 MiB from segments of 20 MiB; above, segments of multiples of 2 MiB;
       large blocks are cut only where more than 1 MiB remains.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from vrameter.units import MIB, ceil_to

BLOCK = 512
SMALL = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
MIN_LARGE = 10 * MIB
ROUND_LARGE = 2 * MIB


class Held(NamedTuple):
    """What a sequence of tensors takes. [bytes].

    `requested` is the sum of their sizes, `allocated` that of their blocks, `reserved` that of the segments.
    """

    requested: int
    allocated: int
    reserved: int


def segment_bytes(size: int) -> int:
    """Return the segment that is taken from the driver for a block. [bytes].

    >>> segment_bytes(259 * MIB) // MIB, segment_bytes(3 * MIB) // MIB
    (260, 20)
    """
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < MIN_LARGE else ceil_to(size, ROUND_LARGE)


def hold(sizes: Iterable[int]) -> Held:
    """Return what tensors take that are allocated in this order and all stay.

    Parameters
    ----------
    sizes
        Bytes of each tensor. [bytes]

    Examples
    --------
    The two large matrices of a layer of hidden size 3584 and intermediate size 18,944 in bf16: 259 and 129.5 MiB.

    >>> held = hold([2 * 18944 * 3584 * 2, 3584 * 18944 * 2])
    >>> (held.allocated - held.requested) / MIB
    1.5
    """
    free: tuple[list[int], list[int]] = ([], [])
    requested = allocated = reserved = 0
    for size in sizes:
        if size <= 0:
            continue
        requested += size
        block = ceil_to(size, BLOCK)
        large = block > SMALL
        pool = free[large]
        place = bisect_left(pool, block)
        if place < len(pool):
            found = pool.pop(place)
        else:
            found = segment_bytes(block)
            reserved += found
        rest = found - block
        if rest > SMALL if large else rest >= BLOCK:
            insort(pool, rest)
            allocated += block
        else:
            allocated += found
    return Held(requested, allocated, reserved)


@lru_cache(maxsize=64)
def uncut_bytes(sizes: tuple[int, ...]) -> int:
    """Return what tensors that are allocated in this order and all stay take beyond their sizes. [bytes].

    >>> uncut_bytes((23 * MIB // 2, 3 * MIB, 16 * MIB)) / MIB
    1.5
    """
    held = hold(sizes)
    return held.allocated - held.requested


__all__ = ["Held", "hold", "segment_bytes", "uncut_bytes"]
