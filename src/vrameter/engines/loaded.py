"""What a serving engine's weights take on a rank, as its log says: tensors, tables, copies, and what the allocator adds.

Engines fuse matrices that read the same input, build tables of rotary angles, and keep what their kernels want: padded
experts, latent projections multiplied out. Blocks that the allocator does not cut count with the tensors in them.

References
----------
.. [1] vLLM 0.19, ``model_executor/layers/rotary_embedding``, ``model_executor/layers/attention/mla_attention.py``,
       ``model_executor/layers/fused_moe/oracle/mxfp4.py``; ``utils/mem_utils.py`` (``DeviceMemoryProfiler``).
.. [2] vLLM's log of Llama-3.1-70B in W8A8 (PR 12569): 67.7229 GiB, tables included; of Qwen2.5-7B: 14.25 GiB, 57 MiB
       of them not cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from vrameter.engines import Ask
from vrameter.i18n import tr
from vrameter.memory.torch_allocator import Held, hold
from vrameter.memory.weight_plan import REMEMBERED, Stored, WeightPlan
from vrameter.memory.weights import weight_plan
from vrameter.model.architecture import Architecture, Component, LatentAttention, Layer, Tensor
from vrameter.units import ceil_to

# Slots of matrices that engines keep in one tensor.
FUSED = {
    "q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up", "q_a": "qkv_a", "kv_a": "qkv_a",
    "qkv": "qkvz", "z": "qkvz", "b": "ba", "a": "ba",
}  # fmt: skip


def loaded_bytes(*, tensors: int, rotary_tables: int, latent_copies: int, padding: int, uncut: int) -> int:
    """Return what an engine's weights take on one device. [bytes].

    Formula::

        tensors + rotary_tables + latent_copies + padding + uncut

    Parameters
    ----------
    tensors
        The rank's share of every tensor, scales included. [bytes]
    rotary_tables
        Cosines and sines of every position. [bytes]
    latent_copies
        Latent attention's up-projections in 16 bits, where the stored ones are quantised. [bytes]
    padding
        What kernels pad experts with. [bytes]
    uncut
        Ends of blocks that the allocator does not cut off. [bytes]
    """
    return tensors + rotary_tables + latent_copies + padding + uncut


def rotary_table_bytes(*, num_positions: int, rotary_width: int, element_bytes: int) -> int:
    """Return the table of cosines and sines that all layers share. [bytes].

    Formula::

        num_positions * rotary_width * element_bytes

    >>> rotary_table_bytes(num_positions=131072, rotary_width=128, element_bytes=2) / 2**20
    32.0
    """
    return num_positions * rotary_width * element_bytes


@dataclass(frozen=True)
class Loaded:
    """What a rank's weights consist of. [bytes]."""

    tensors: int
    rotary_tables: int
    latent_copies: int
    padding: int
    held: Held

    @cached_property
    def uncut(self) -> int:
        """Ends of blocks that the allocator does not cut off. [bytes]."""
        return self.held.allocated - self.held.requested

    @cached_property
    def values(self) -> dict[str, int]:
        """The arguments of `loaded_bytes`."""
        return {
            "tensors": self.tensors,
            "rotary_tables": self.rotary_tables,
            "latent_copies": self.latent_copies,
            "padding": self.padding,
            "uncut": self.uncut,
        }

    @cached_property
    def total(self) -> int:
        """All together, as ``torch.cuda.memory_allocated`` counts. [bytes]."""
        return loaded_bytes(**self.values)

    @cached_property
    def reserved(self) -> int:
        """The segments that the driver has given out for them. [bytes]."""
        return self.held.reserved + self.latent_copies + self.padding


@dataclass(frozen=True, slots=True)
class Kernels:
    """What an engine's kernels make of weights.

    Parameters
    ----------
    mxfp4
        Multiples to which MXFP4 experts are padded: their own width and the model's. 1 for none.
    mxfp4_scales
        Whether scales are padded too.
    latent
        Whether latent attention is computed on the latent vectors, not unfolded into heads.
    absorbed
        Whether it keeps its projections multiplied out.
    rotary_bytes
        Of an element of the tables of rotary angles; 0 for the model's own data type. [bytes]
    sectioned_positions, interleaved_positions
        How many times the positions a table has where time, height and width are counted apart.
    """

    mxfp4: tuple[int, int] = (1, 1)
    mxfp4_scales: bool = True
    latent: bool = True
    absorbed: bool = False
    rotary_bytes: int = 0
    sectioned_positions: int = 1
    interleaved_positions: int = 1


def served_plan(ask: Ask, warnings: list[str], *, quantization: str | None = None) -> WeightPlan:
    """Return how every tensor is stored: as asked, or as the file says, fp32 halved as these engines do by default.

    Parameters
    ----------
    quantization
        Instead of the request's.
    """
    request, own = ask.request, ask.architecture.dtype
    dtype = request.dtype
    if dtype is None and own == "fp32":
        old = ask.device is not None and ask.device.vendor == "nvidia" and float(ask.device.compute_capability or 8) < 8
        dtype = "fp16" if old else "bf16"
        warnings.append(tr("The checkpoint's fp32 is cast to %(dtype)s by default; dtype fp32 keeps it.", dtype=dtype))
    return weight_plan(ask.architecture, dtype=dtype, quantization=quantization or request.quantization)


_LOADED: dict[tuple[int, int, Kernels], tuple[WeightPlan, Architecture, Loaded]] = {}


def loaded(plan: WeightPlan, share: Architecture, kernels: Kernels) -> Loaded:
    """Return what a share of a model takes when an engine has loaded it."""
    key = id(plan), id(share), kernels
    if key not in _LOADED:
        if len(_LOADED) >= REMEMBERED:
            _LOADED.clear()
        _LOADED[key] = (plan, share, _loaded(plan, share, kernels))
    return _LOADED[key][2]


def _loaded(plan: WeightPlan, share: Architecture, kernels: Kernels) -> Loaded:
    tables = rotary_bytes(share, kernels.rotary_bytes or plan.compute_bytes, kernels)
    copies = latent_copies(plan, share, absorbed=kernels.absorbed) if kernels.latent else 0
    padding = expert_padding(plan, share, kernels)
    sizes = [*allocations(plan, share), *tables]
    return Loaded(plan.of(share).total, sum(tables), copies, padding, hold(sizes))


def allocations(plan: WeightPlan, share: Architecture) -> Iterator[int]:
    """Yield the bytes of every tensor as an engine builds them, in order; matrices that read the same input are one."""
    for component in share.loaded:
        yield from _sizes((tensor, plan.stored(component, None, tensor)) for tensor in component.tensors)
        known: dict[int, list[int]] = {}
        for index, layer in enumerate(component.layers):
            if plan.by_layer or id(layer) not in known:
                known[id(layer)] = list(_layer_sizes(plan, component, index, layer))
            yield from known[id(layer)]


def _sizes(stored: Iterator[tuple[Tensor, Stored]]) -> Iterator[int]:
    for _, pieces in stored:
        for form, shape in pieces:
            values, scales = form.bytes_of(shape)
            yield values
            yield scales


def _layer_sizes(plan: WeightPlan, component: Component, index: int, layer: Layer) -> Iterator[int]:
    for part in layer.parts:
        fused: dict[tuple[str, str, str], list[int]] = {}
        for tensor in part.tensors:
            module, _, leaf = tensor.name.rpartition(".")
            slot = FUSED.get(tensor.slot)
            key = (tensor.role, slot, leaf) if slot and tensor.role != "experts" else (tensor.name, module, leaf)
            sums = fused.setdefault(key, [0, 0])
            for form, shape in plan.stored(component, index, tensor):
                values, scales = form.bytes_of(shape)
                sums[0] += values
                sums[1] += scales
        for values, scales in fused.values():
            yield values
            yield scales
    yield from _sizes((tensor, plan.stored(component, index, tensor)) for tensor in layer.tensors)


def rotary_bytes(share: Architecture, element_bytes: int, kernels: Kernels) -> list[int]:
    """Return the tables of rotary angles that a model's layers share. [bytes]."""
    if share.decoder is None or not share.decoder.layers:
        return []
    times = {"sections": kernels.sectioned_positions, "interleaved": kernels.interleaved_positions}.get(
        share.rotary_axes, 1
    )
    return [
        rotary_table_bytes(num_positions=times * positions, rotary_width=width, element_bytes=element_bytes)
        for positions, width in share.rotary_tables
    ]


def latent_copies(plan: WeightPlan, share: Architecture, *, absorbed: bool) -> int:
    """Return what latent attention keeps besides its stored projections. [bytes].

    Kernels work on keys' and values' up-projections in 16 bits: views of the stored matrix where it is not quantised,
    copies where it is. An older rule also keeps the products of queries' and outputs' projections with these, in fp8 where
    they are stored so. [vLLM 0.7.3, attention/backends/mla/utils.py]
    """
    decoder = share.decoder
    if decoder is None:
        return 0
    total, narrow = 0, any(form.name.startswith("fp8") for form in plan.formats)
    for layer, places in decoder.layer_groups:
        for part in layer.parts:
            if not isinstance(part, LatentAttention):
                continue
            up = next((tensor for tensor in part.tensors if tensor.slot == "kv_b"), None)
            if up is None:
                continue
            quantized = any(not form.plain for form, _ in plan.stored(decoder, places[0], up))
            if quantized:
                total += len(places) * up.size * plan.compute_bytes
            if absorbed:
                queries, heads = part.q_lora_rank or decoder.hidden_size, part.num_heads * part.kv_lora_rank
                total += len(places) * queries * part.num_heads * part.rope_dim * plan.compute_bytes
                total += len(places) * heads * (queries + decoder.hidden_size) * (1 if narrow else plan.compute_bytes)
    return total


def expert_padding(plan: WeightPlan, share: Architecture, kernels: Kernels) -> int:
    """Return what kernels pad MXFP4 experts with. [bytes]."""
    if kernels.mxfp4 == (1, 1) or not any(form.name == "mxfp4" for form in plan.formats):
        return 0
    total = 0
    for component in share.loaded:
        for layer, places in component.layer_groups:
            for tensor in layer.all_tensors:
                if tensor.role != "experts" or not tensor.linear:
                    continue
                for form, shape in plan.stored(component, places[0], tensor):
                    if form.name == "mxfp4":
                        wide = _padded(tensor, shape, kernels)
                        before, after = form.bytes_of(shape), form.bytes_of(wide)
                        added = after.values - before.values
                        total += len(places) * (added + (after.scales - before.scales if kernels.mxfp4_scales else 0))
    return total


def _padded(tensor: Tensor, shape: tuple[int, ...], kernels: Kernels) -> tuple[int, ...]:
    """Return the shape of experts once padded: ``(..., outputs, inputs)``."""
    own, hidden = kernels.mxfp4
    rows, columns = shape[-2:]
    if tensor.slot == "down":
        return (*shape[:-2], ceil_to(rows, hidden), ceil_to(columns, own))
    halves = 2 if tensor.slot == "gate_up" else 1
    return (*shape[:-2], halves * ceil_to(rows // halves, own), ceil_to(columns, hidden))


__all__ = ["FUSED", "Kernels", "Loaded", "allocations", "loaded", "loaded_bytes", "rotary_table_bytes", "served_plan"]
