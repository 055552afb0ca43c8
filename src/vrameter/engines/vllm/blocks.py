"""The KV pool of vLLM: pages of layers, groups of layers, blocks, and what one request takes.

Every layer that keeps something has pages of a fixed number of tokens. Layers that keep alike form groups of equal
size; one block holds a page of each layer of a group, and all groups draw their blocks from one pool. A model with one
kind of layer has one group; a model with windows or states has several, the last of a kind padded.

References
----------
.. [1] vLLM 0.19 and 0.33, ``v1/core/kv_cache_utils.py``, ``v1/core/kv_cache_planning.py``,
       ``v1/kv_cache_interface.py``, ``platforms/interface.py`` (blocks of models with states).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from vrameter.units import ceil_div, ceil_to

Kind = Literal["full", "sliding", "chunked", "state", "cross"]


def page_bytes(*, block_tokens: int, bytes_per_token: int) -> int:
    """Return what one layer keeps of one block. [bytes].

    Formula::

        block_tokens * bytes_per_token

    >>> page_bytes(block_tokens=16, bytes_per_token=2 * 8 * 128 * 2)
    65536
    """
    return block_tokens * bytes_per_token


def pool_of_blocks(*, num_blocks: int, block_bytes: int) -> int:
    """Return what so many blocks take on one device. [bytes].

    Formula::

        num_blocks * block_bytes
    """
    return num_blocks * block_bytes


def full_blocks(*, num_tokens: int, block_tokens: int) -> int:
    """Return the blocks of a sequence that is kept whole. [blocks].

    Formula::

        ceil_div(num_tokens, block_tokens)
    """
    return ceil_div(num_tokens, block_tokens)


def sliding_blocks(*, num_tokens: int, block_tokens: int, window: int, in_flight: int) -> int:
    """Return the blocks of a sequence behind a window: it need not start at the beginning of a block. [blocks].

    Formula::

        ceil_div(min(window - 1 + in_flight, num_tokens), block_tokens) + 1

    Parameters
    ----------
    in_flight
        Tokens of steps that are not finished: their blocks are freed only then. [tokens]
    """
    return ceil_div(min(window - 1 + in_flight, num_tokens), block_tokens) + 1


def chunked_blocks(*, num_tokens: int, block_tokens: int, window: int, in_flight: int) -> int:
    """Return the blocks of a sequence read chunk by chunk. [blocks].

    Formula::

        ceil_div(min(window + in_flight, num_tokens), block_tokens)
    """
    return ceil_div(min(window + in_flight, num_tokens), block_tokens)


@dataclass(frozen=True, slots=True)
class Spec:
    """How one layer keeps a sequence.

    Parameters
    ----------
    tokens
        Tokens of a block; of a state, what one block of states stands for. [tokens]
    page
        What the layer takes of a block, padding included. [bytes]
    window
        Tokens of a window or a chunk, or an encoder's positions that cross-attention keeps. [tokens]
    states
        Blocks of states that one request holds; 0 where they grow with the sequence.
    """

    kind: Kind
    tokens: int
    page: int
    window: int = 0
    states: int = 0

    def blocks(self, num_tokens: int, in_flight: int, context_parallel: int = 1) -> int:
        """Return the blocks that one request of `num_tokens` holds at most."""
        if self.kind == "full":
            return full_blocks(num_tokens=ceil_div(num_tokens, context_parallel), block_tokens=self.tokens)
        if self.kind == "sliding":
            return sliding_blocks(
                num_tokens=num_tokens, block_tokens=self.tokens, window=self.window, in_flight=in_flight
            )
        if self.kind == "chunked":
            return chunked_blocks(
                num_tokens=num_tokens, block_tokens=self.tokens, window=self.window, in_flight=in_flight
            )
        if self.kind == "cross":
            return full_blocks(num_tokens=self.window, block_tokens=self.tokens)
        return self.states or full_blocks(num_tokens=num_tokens, block_tokens=self.tokens)


@dataclass(frozen=True)
class Group:
    """Layers that share a table of blocks: where they stand in the model, and how each keeps a sequence."""

    places: tuple[int, ...]
    specs: tuple[Spec, ...]

    @cached_property
    def kinds(self) -> tuple[Spec, ...]:
        """Every way of keeping a sequence, once."""
        return tuple(dict.fromkeys(self.specs))

    def blocks(self, num_tokens: int, in_flight: int, context_parallel: int) -> int:
        """Return the blocks that one request holds in this group."""
        return max(spec.blocks(num_tokens, in_flight, context_parallel) for spec in self.kinds)

    def block_bytes(self, first: int, last: int) -> int:
        """Return what one block takes on the device that holds the layers from `first` to before `last`. [bytes]."""
        return sum(spec.page for place, spec in zip(self.places, self.specs, strict=True) if first <= place < last)


@dataclass(frozen=True)
class Layout:
    """The pool of a model: its groups.

    Parameters
    ----------
    in_flight
        Tokens of steps that are not finished. [tokens]
    context_parallel
        Devices that split the tokens of a sequence.
    spare
        Blocks that are never given out.
    """

    groups: tuple[Group, ...]
    in_flight: int
    context_parallel: int = 1
    spare: int = 0

    @cached_property
    def block_tokens(self) -> int:
        """Tokens of the smallest block. [tokens]."""
        return min(spec.tokens for group in self.groups for spec in group.kinds)

    @cached_property
    def attention_tokens(self) -> int:
        """Tokens of a block of attention layers, which the log calls the block size. [tokens]."""
        found = [spec.tokens for group in self.groups for spec in group.kinds if spec.kind != "state"]
        return min(found) if found else self.block_tokens

    def block_bytes(self, first: int = 0, last: int = 1 << 30) -> int:
        """Return what one block takes on the device with these layers: that of its largest group. [bytes]."""
        return max((group.block_bytes(first, last) for group in self.groups), default=0)

    def blocks_per_request(self, num_tokens: int) -> int:
        """Return the blocks that one request of `num_tokens` holds at most, over all groups."""
        return sum(group.blocks(num_tokens, self.in_flight, self.context_parallel) for group in self.groups)

    def longest(self, num_blocks: int, limit: int) -> int:
        """Return the longest request that so many blocks hold, up to `limit`; 0 where none fits. [tokens]."""
        usable = num_blocks - self.spare
        if self.blocks_per_request(1) > usable:
            return 0
        low, high = 1, limit
        while low < high:
            middle = (low + high + 1) // 2
            if self.blocks_per_request(middle) <= usable:
                low = middle
            else:
                high = middle - 1
        return low


def unified(specs: Sequence[Spec]) -> list[Spec]:
    """Return specs with pages of one size: smaller pages hold more tokens, or are padded where that does not divide."""
    largest = max(spec.page for spec in specs)
    made: list[Spec] = []
    for spec in specs:
        if spec.page == largest:
            made.append(spec)
        elif spec.kind == "state" or largest % spec.page:
            made.append(replace(spec, page=largest))
        else:
            made.append(replace(spec, tokens=spec.tokens * (largest // spec.page), page=largest))
    return made


def same_type(specs: Sequence[Spec]) -> bool:
    """Say whether all layers keep as many slots of a sequence, so that one table of blocks serves them."""
    first = specs[0]
    if any(spec.tokens != first.tokens or spec.kind != first.kind for spec in specs):
        return False
    if first.kind == "state":
        return all(spec.page == first.page and spec.states == first.states for spec in specs)
    return all(spec.window == first.window for spec in specs)


def grouped(
    specs: Sequence[Spec], *, places: Sequence[int] | None = None, slack: int = 150, split: bool = True
) -> tuple[Group, ...]:
    """Return the groups of a model's layers, in the order of the layers.

    Parameters
    ----------
    places
        Number of the layer that each belongs to; by default they are counted.
    slack
        Up to how much more layers one kind may have than another for groups to be as large as the larger. [hundredths]
    split
        Whether layers with a window have blocks of their own; otherwise they keep sequences whole like the others.

    Examples
    --------
    Ten layers that keep everything and 52 with a window make seven groups of ten, eight places of them padding:

    >>> full, window = Spec("full", 16, 131072), Spec("sliding", 16, 131072, window=1024)
    >>> groups = grouped([full if (i + 1) % 6 == 0 else window for i in range(62)])
    >>> len(groups), [len(group.places) for group in groups]
    (7, [9, 9, 9, 9, 8, 8, 10])
    """
    if not specs:
        return ()
    if not split and any(spec.kind == "full" for spec in specs):
        specs = [
            replace(spec, kind="full", window=0) if spec.kind in ("sliding", "chunked") else spec for spec in specs
        ]
    where = tuple(range(len(specs))) if places is None else tuple(places)
    if same_type(specs):
        return (Group(where, tuple(specs)),)
    kinds: dict[Spec, list[int]] = {}
    for place, spec in zip(where, unified(specs), strict=True):
        kinds.setdefault(spec, []).append(place)
    counts = [len(found) for found in kinds.values()]
    size = max(counts) if max(counts) * 100 < min(counts) * slack else min(counts)
    groups: list[Group] = []
    for spec, found in kinds.items():
        number = ceil_div(len(found), size)
        groups += [Group(tuple(found[start::number]), (spec,) * len(found[start::number])) for start in range(number)]
    return tuple(groups)


def attention_block(*, state_bytes: int, bytes_per_token: int, alignment: int) -> int:
    """Return the tokens of a block so that a layer's page holds at least a state. [tokens].

    Formula::

        ceil_to(ceil_div(state_bytes, bytes_per_token), alignment)

    Parameters
    ----------
    alignment
        What the attention kernel's blocks, and the pieces in which states are computed, are multiples of. [tokens]

    Examples
    --------
    >>> attention_block(state_bytes=1_081_344, bytes_per_token=2048, alignment=16)
    528
    """
    return ceil_to(ceil_div(state_bytes, bytes_per_token), alignment)


__all__ = ["Group", "Layout", "Spec", "attention_block", "full_blocks", "grouped", "page_bytes", "pool_of_blocks"]
