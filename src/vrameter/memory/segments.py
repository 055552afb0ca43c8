"""What PyTorch's allocator reserves for tensors that stay: whole segments of the device.

A tensor of at most 1 MiB shares segments of 2 MiB. One of less than 10 MiB lies in a segment of 20 MiB, with others as long
as they fit: two of 8 MiB leave 4 MiB that only a smaller one can use. A larger one gets a segment of its own, rounded up to
2 MiB.

References
----------
.. [1] PyTorch 2.13, ``c10/core/AllocatorConfig.h``: ``kSmallSize``, ``kSmallBuffer``, ``kMinLargeAlloc``, ``kLargeBuffer``,
       ``kRoundLarge``; ``c10/cuda/CUDACachingAllocator.cpp``: ``get_allocation_size``.
"""

from __future__ import annotations

from collections.abc import Iterable

from vrameter.units import MIB, ceil_div

SMALL, SMALL_SEGMENT, OWN, SEGMENT, ROUND = MIB, 2 * MIB, 10 * MIB, 20 * MIB, 2 * MIB
BLOCK = 512


def reserved_bytes(sizes: Iterable[tuple[int, int]]) -> int:
    """Return what segments take for tensors that are all alive at once. [bytes].

    Parameters
    ----------
    sizes
        Bytes of a tensor, and how many are like it.

    Notes
    -----
    Tensors are placed the largest first, each where the least is left over, which is the least that the allocator can need:
    the order in which a program makes them can need more.

    >>> reserved_bytes([(8 * MIB, 4)]) // MIB
    40
    >>> reserved_bytes([(8 * MIB, 4), (4 * MIB, 2)]) // MIB
    40
    >>> reserved_bytes([(11 * MIB, 1), (1000, 3)]) // MIB
    14
    """
    small = total = 0
    middle: dict[int, int] = {}
    for size, count in sizes:
        size = ceil_div(size, BLOCK) * BLOCK
        if size <= SMALL:
            small += size * count
        elif size < OWN:
            middle[size] = middle.get(size, 0) + count
        else:
            total += ceil_div(size, ROUND) * ROUND * count
    return total + ceil_div(small, SMALL_SEGMENT) * SMALL_SEGMENT + _shared(middle)


def _shared(sizes: dict[int, int]) -> int:
    """Return the segments that tensors between 1 and 10 MiB share. [bytes]."""
    left: dict[int, int] = {}
    segments = 0
    for size in sorted(sizes, reverse=True):
        waiting = sizes[size]
        for space in sorted(space for space in left if space >= size):
            each = space // size
            used = min(left[space], ceil_div(waiting, each))
            left[space] -= used
            placed = min(waiting, used * each)
            rest = space - each * size
            left[rest] = left.get(rest, 0) + used
            waiting -= placed
            if not waiting:
                break
        if waiting:
            each = SEGMENT // size
            made = ceil_div(waiting, each)
            segments += made
            rest = SEGMENT - each * size
            left[rest] = left.get(rest, 0) + made
    return segments * SEGMENT


__all__ = ["reserved_bytes"]
