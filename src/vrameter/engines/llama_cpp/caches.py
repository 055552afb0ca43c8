"""What llama.cpp caches: keys and values in cells, recurrent states in rows, per layer and device.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/llama-kv-cache.cpp``, ``llama-kv-cache-iswa.cpp``, ``llama-kv-cache-dsa.cpp``,
       ``llama-memory-recurrent.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vrameter.engines.llama_cpp.graph.kernels import padding_bytes
from vrameter.engines.llama_cpp.graph.tensors import row_bytes
from vrameter.engines.llama_cpp.kinds import Family, has_window
from vrameter.model.architecture import Attention, LatentAttention, Layer, Recurrent
from vrameter.units import ceil_to

CELL_PADDING = 256


@dataclass(frozen=True, slots=True)
class Cells:
    """How many cells a cache stream has, and how many streams there are.

    Parameters
    ----------
    context
        Cells of layers that look at everything.
    window
        Cells of layers with a window.
    streams
        1 where all sequences share a cache, else one for each.
    rows
        States of each recurrent layer.
    """

    context: int
    window: int
    streams: int
    rows: int


def context_cells(*, n_ctx: int, n_parallel: int, kv_unified: bool) -> int:
    """Return the cells of one cache stream. [cells].

    Formula::

        ceil_to(ceil_to(n_ctx, 256) if kv_unified else ceil_to(n_ctx, 256) // n_parallel, 256)

    >>> context_cells(n_ctx=5000, n_parallel=1, kv_unified=True)
    5120
    >>> context_cells(n_ctx=32768, n_parallel=3, kv_unified=False)
    11008
    """
    padded = ceil_to(n_ctx, CELL_PADDING)
    return ceil_to(padded if kv_unified else padded // n_parallel, CELL_PADDING)


def window_cells(*, context: int, window: int, n_parallel: int, kv_unified: bool, n_ubatch: int) -> int:
    """Return the cells of one stream of the cache of layers with a window. [cells].

    Formula::

        ceil_to(min(context, window * (n_parallel if kv_unified else 1) + n_ubatch), 256)

    Parameters
    ----------
    n_ubatch
        The physical batch as it is used: capped by the logical batch and the context. [tokens]

    Examples
    --------
    >>> window_cells(context=32768, window=1024, n_parallel=1, kv_unified=True, n_ubatch=512)
    1536
    """
    return ceil_to(min(context, window * (n_parallel if kv_unified else 1) + n_ubatch), CELL_PADDING)


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """One cache of a layer, as ggml orders extents."""

    type: str
    ne: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """What it takes without padding. [bytes]."""
        rows = 1
        for extent in self.ne[1:]:
            rows *= extent
        return row_bytes(self.type, self.ne[0]) * rows

    @property
    def gpu_bytes(self) -> int:
        """What it takes on a GPU: padded to 512 elements where it is quantised, and to 128 bytes. [bytes]."""
        return ceil_to(self.num_bytes + padding_bytes(self.type, self.ne[0]), 128)

    @property
    def host_bytes(self) -> int:
        """What it takes in host memory. [bytes]."""
        return ceil_to(self.num_bytes, 32)


def layer_caches(
    layer: Layer, family: Family, cells: Cells, *, key_type: str, value_type: str, flash: bool, widest_value: int
) -> Mapping[str, CacheTensor]:
    """Return the caches of one layer by name: ``k``, ``v``, ``index``, and ``r``, ``s`` of a recurrent one."""
    found: dict[str, CacheTensor] = {}
    for part in layer.parts:
        if isinstance(part, LatentAttention):
            shape = (cells.context, cells.streams)
            found["k"] = CacheTensor(key_type, (part.kv_lora_rank + part.rope_dim, *shape))
            if part.index_dim:
                found["index"] = CacheTensor(key_type, (part.index_dim, *shape))
        elif isinstance(part, Attention) and part.scope not in ("encoder", "cross"):
            if part.shares_cache:
                continue
            shape = (cells.window if has_window(family, part) else cells.context, cells.streams)
            value_width = part.num_kv_heads * part.value_dim
            found["k"] = CacheTensor(key_type, (part.num_kv_heads * part.head_dim, *shape))
            found["v"] = CacheTensor(value_type, (value_width if flash else widest_value, *shape))
        elif isinstance(part, Recurrent):
            found["r"] = CacheTensor("f32", (convolution_width(part), cells.rows))
            found["s"] = CacheTensor("f32", (part.state_elements, cells.rows))
    return found


@dataclass(frozen=True, slots=True)
class CacheSum:
    """Caches of one device that have equally many cells in equally many streams: keys and values, or states.

    Parameters
    ----------
    cells, streams
        Extents of the caches; of states rows and 1.
    cell_bytes
        What one cell takes in all layers of the device. [bytes]
    padding
        What tensors take beyond that. [bytes]
    """

    cells: int
    streams: int
    cell_bytes: int
    padding: int

    @property
    def num_bytes(self) -> int:
        """What they take. [bytes]."""
        return self.cells * self.streams * self.cell_bytes + self.padding


STATES = ("r", "s")


def summed(held: Sequence[tuple[Mapping[str, CacheTensor], int]], *, states: bool, on_host: bool) -> list[CacheSum]:
    """Return the sums of layers' caches, each with how many layers are like it; the largest caches first."""
    found: dict[tuple[int, int], list[int]] = {}
    for caches, count in held:
        for name, cache in caches.items():
            if (name in STATES) != states:
                continue
            cells, streams = cache.ne[1], cache.ne[2] if len(cache.ne) > 2 else 1
            entry = found.setdefault((cells, streams), [0, 0])
            size = cache.host_bytes if on_host else cache.gpu_bytes
            entry[0] += count * row_bytes(cache.type, cache.ne[0])
            entry[1] += count * (size - cache.num_bytes)
    return [CacheSum(*key, *found[key]) for key in sorted(found, reverse=True)]


def convolution_width(part: Recurrent) -> int:
    """Return the elements of the convolution's past that a sequence keeps."""
    return (part.conv_kernel - 1) * part.conv_channels if part.conv_kernel else 0


__all__ = [
    "CacheSum", "CacheTensor", "Cells", "context_cells", "convolution_width", "layer_caches", "summed", "window_cells",
]  # fmt: skip
