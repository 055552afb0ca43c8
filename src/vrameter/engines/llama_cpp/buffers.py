"""What llama.cpp allocates for one model and context: model, context and compute buffers of every device.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/llama-context.cpp``: the context's parameters and the graph that is reserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from vrameter.engines.llama_cpp.caches import (
    CacheSum,
    CacheTensor,
    Cells,
    context_cells,
    layer_caches,
    summed,
    window_cells,
)
from vrameter.engines.llama_cpp.closed_form import closed_form_bytes, closed_form_values, has_graph, host_values
from vrameter.engines.llama_cpp.file import FileTensor, ModelFile, file_of, scales_full_layers
from vrameter.engines.llama_cpp.graph.builder import Batch
from vrameter.engines.llama_cpp.graph.layers import LayerKind
from vrameter.engines.llama_cpp.graph.model import LayerSpec, ModelSpec, TensorSpec, compute_bytes
from vrameter.engines.llama_cpp.kinds import Family, family_of, has_window, layer_kind, subtracts_mean
from vrameter.engines.llama_cpp.placement import Placement
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import Attention, LatentAttention, Layer
from vrameter.units import ceil_to


@dataclass(frozen=True, slots=True)
class Context:
    """A context's parameters, every default filled in and none beyond what the program would make of it.

    Parameters
    ----------
    n_ctx, n_batch, n_ubatch, n_parallel, n_outputs_max
        Tokens of all sequences together, of a logical and a physical batch, sequences, and rows of logits.
    snapshots
        Recurrent states kept per sequence besides the newest, for speculation.
    """

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_parallel: int
    n_outputs_max: int
    kv_unified: bool
    flash_attn: bool
    cache_type_k: str
    cache_type_v: str
    swa_full: bool = False
    no_kv_offload: bool = False
    op_offload: bool = True
    embeddings: bool = False
    snapshots: int = 0


@dataclass(frozen=True, slots=True)
class Buffers:
    """What is allocated on every device beside compute buffers, the host last.

    Parameters
    ----------
    model, tensors
        Weights, and the same without padding. [bytes]
    caches, states
        Caches of keys and values, and recurrent states.
    output_rows
        Rows of logits that are kept for the caller.
    """

    model: tuple[int, ...]
    tensors: tuple[int, ...]
    caches: tuple[tuple[CacheSum, ...], ...]
    states: tuple[tuple[CacheSum, ...], ...]
    output_rows: int

    def context(self, device: int) -> int:
        """Return the context buffers of a device. [bytes]."""
        return sum(each.num_bytes for each in (*self.caches[device], *self.states[device]))


class Planned:
    """A model as the planner knows it: what does not depend on the context."""

    def __init__(self, plan: WeightPlan) -> None:
        architecture = plan.architecture
        self.plan = plan
        self.architecture = architecture
        self.file: ModelFile = file_of(plan)
        self.family: Family = family_of(architecture)
        self.layers: tuple[Layer, ...] = architecture.main.layers
        self.kinds = self._kinds()
        self.layer_norm = subtracts_mean(architecture, self.file)
        attentions = [part for layer in self.layers for part in layer.parts if isinstance(part, Attention)]
        cached = [part for part in attentions if part.scope not in ("encoder", "cross")]
        self.encoder = architecture.decoder is None
        self.window = max((part.window or 0 for part in cached if has_window(self.family, part)), default=0)
        self.widest_value = max((part.num_kv_heads * part.value_dim for part in cached), default=0)
        self.widths = {
            window: _agreed([part for part in cached if has_window(self.family, part) == window])
            for window in (False, True)
        }
        self.latent = any(isinstance(part, LatentAttention) for layer in self.layers for part in layer.parts)
        self.rotary_layers = tuple(
            any(isinstance(part, Attention) and not self._skips_table(part) for part in layer.parts)
            for layer in self.layers
        )

    @cached_property
    def widest_row(self) -> int:
        """The longest row of any matrix of the layers and of the output. [elements]."""
        return max((each.ne[0] for each in self._matrices()), default=0)

    @cached_property
    def most_experts_used(self) -> int:
        """The most experts that a token goes to in any layer, 1 where there are none."""
        return max((kind.experts.used for kind in set(self.kinds) if kind.experts is not None), default=1)

    @cached_property
    def types_note(self) -> str:
        """The types of the file's tensors, those that take most first."""
        sizes: dict[str, int] = {}
        for each in (*self._matrices(), *self.file.outside.values()):
            sizes[each.type] = sizes.get(each.type, 0) + each.num_bytes
        return ", ".join(sorted(sizes, key=lambda kind: -sizes[kind])[:4])

    def _matrices(self) -> list[FileTensor]:
        distinct = {id(layer): layer for layer in self.file.layers}.values()
        return [each for layer in distinct for each in layer.values() if len(each.ne) > 1]

    def _skips_table(self, part: Attention) -> bool:
        """Say whether a layer has no use for the table of rotary frequencies: with a window where only full layers have one."""
        return scales_full_layers(self.architecture) and has_window(self.family, part)

    def _kinds(self) -> tuple[LayerKind, ...]:
        known: dict[tuple[int, int, object], LayerKind] = {}
        distinct: dict[LayerKind, LayerKind] = {}
        found = []
        step = self.architecture.wiring.no_rope_step or self.family.no_rope_step
        for number, (layer, tensors) in enumerate(zip(self.layers, self.file.layers, strict=True)):
            place = (number + 1) % step == 0 if step else number < self.family.deepstack
            key = id(layer), id(tensors), place
            if key not in known:
                kind = layer_kind(self.architecture, layer, number, tensors)
                known[key] = distinct.setdefault(kind, kind)
            found.append(known[key])
        return tuple(found)

    # -- caches -------------------------------------------------------------------------------------

    def caches(self, context: Context) -> tuple[Mapping[str, CacheTensor], ...]:
        """Return the caches of every layer; equal layers share one object."""
        cells = self.cells(context)
        known: dict[int, Mapping[str, CacheTensor]] = {}
        for layer in self.layers:
            if id(layer) not in known:
                known[id(layer)] = layer_caches(
                    layer, self.family, cells, key_type=context.cache_type_k, value_type=context.cache_type_v,
                    flash=context.flash_attn, widest_value=self.widest_value,
                )  # fmt: skip
        return tuple(known[id(layer)] for layer in self.layers)

    def cells(self, context: Context) -> Cells:
        """Return the cells of the caches and the rows of the states."""
        cells = context_cells(n_ctx=context.n_ctx, n_parallel=context.n_parallel, kv_unified=context.kv_unified)
        window = cells
        if self.window and not context.swa_full:
            window = window_cells(
                context=cells, window=self.window, n_parallel=context.n_parallel, kv_unified=context.kv_unified,
                n_ubatch=self.physical_batch(context),
            )  # fmt: skip
        streams = 1 if context.kv_unified else context.n_parallel
        return Cells(cells, window, streams, context.n_parallel * (1 + context.snapshots))

    def physical_batch(self, context: Context) -> int:
        """Return the physical batch as it is used. [tokens]."""
        logical = context.n_batch if self.encoder else min(context.n_ctx, context.n_batch)
        return min(logical, context.n_ubatch)

    # -- the graph ----------------------------------------------------------------------------------

    def batch(self, context: Context, placement: Placement, *, pins: bool = False) -> Batch:
        """Return the batch that the compute buffers are planned for."""
        cells = self.cells(context)
        total = ceil_to(context.n_ctx, 256) if context.kv_unified else cells.context * context.n_parallel
        tokens = min(total, self.physical_batch(context))
        rows = min(tokens, context.n_outputs_max)
        return Batch(
            num_tokens=ceil_to(tokens, context.n_parallel), num_seqs=context.n_parallel, num_outputs=rows,
            num_streams=cells.streams, flash=context.flash_attn, cells=cells.context, window_cells=cells.window,
            key_type=context.cache_type_k, value_type=context.cache_type_v, snapshots=context.snapshots,
            embeddings=context.embeddings, kv_on_host=context.no_kv_offload,
            pins=pins and (placement.num_gpus not in placement.devices or tokens < 32),
        )  # fmt: skip

    def spec(self, context: Context, placement: Placement) -> ModelSpec:
        """Return the model as its graph depends on it."""
        host = placement.num_gpus
        caches = self.caches(context)
        rotary = [name for name in self.file.outside if name.startswith("rope_freqs")]
        layers = []
        known: dict[tuple[object, ...], LayerSpec] = {}
        for number, (kind, tensors) in enumerate(zip(self.kinds, self.file.layers, strict=True)):
            device = placement.devices[number]
            moved = self._moved(placement, number, tensors)
            on_host = device == host or bool(moved)
            held = caches[self._cache_owner(number)]
            home = host if context.no_kv_offload or device == host else device
            stored = id(tensors) if on_host else tensors.keys().__len__()
            key = (id(kind), device, moved, stored, id(held), home)
            if key not in known:
                weights = {
                    name: TensorSpec(each.type, each.ne, host if name in moved else device)
                    for name, each in tensors.items()
                }
                if self.rotary_layers[number]:
                    for name in rotary:
                        each = self.file.outside[name]
                        weights[name] = TensorSpec(each.type, each.ne, device)
                known[key] = LayerSpec(
                    kind, device, weights,
                    {name: TensorSpec(each.type, each.ne, home) for name, each in held.items()}, key,
                )  # fmt: skip
            layers.append(known[key])
        weights = {
            name: TensorSpec(each.type, each.ne, placement.outside_home(name))
            for name, each in self.file.outside.items()
            if not name.startswith("rope_")
        }
        if self.file.tied and not self.encoder:
            table = self.file.outside["token_embd.weight"]
            weights["output.weight"] = TensorSpec(table.type, table.ne, placement.output)
        hidden = self.architecture.main.hidden_size
        alone = self.encoder or (context.embeddings and self.family.embeddings_alone)
        return ModelSpec(
            hidden_size=hidden, layers=tuple(layers), weights=weights, widths=self.widths,
            widest_value=self.widest_value, windowed=self.window > 0, outputs="hidden" if alone else "logits",
            layer_norm=self.layer_norm, position_count=self.family.position_count,
            scaled_embedding=self.family.scaled_embedding, chosen_at_end=self.family.chosen_at_end,
            keeps_hidden=self.family.keeps_hidden,
            embedding_width=hidden * (1 + self.family.deepstack) if self.family.deepstack else 0,
            positions_first=self.family.positions_first, normed_embedding=self.family.normed_embedding,
        )  # fmt: skip

    def _moved(self, placement: Placement, number: int, tensors: Mapping[str, FileTensor]) -> frozenset[str]:
        """Return the names of a layer's tensors that an override moves to the host."""
        device = placement.devices[number]
        if not placement.overrides or device == placement.num_gpus:
            return frozenset()
        return frozenset(name for name in tensors if placement.home(number, name) != device)

    def _cache_owner(self, number: int) -> int:
        """Return the layer whose cache a layer uses: its own, or the last of its kind that has one."""
        part = next((each for each in self.layers[number].parts if isinstance(each, Attention)), None)
        if part is None or not part.shares_cache:
            return number
        window = has_window(self.family, part)
        for earlier in range(number - 1, -1, -1):
            for each in self.layers[earlier].parts:
                if isinstance(each, Attention) and not each.shares_cache and has_window(self.family, each) == window:
                    return earlier
        return number

    # -- sums ---------------------------------------------------------------------------------------

    def cache_sums(self, context: Context, placement: Placement, *, states: bool) -> list[list[CacheSum]]:
        """Return the caches of keys and values, or the states, of every device."""
        host = placement.num_gpus
        counted: list[dict[int, int]] = [{} for _ in range(host + 1)]
        by_id: dict[int, Mapping[str, CacheTensor]] = {}
        homes = [host] * len(self.layers) if context.no_kv_offload else placement.devices
        for home, held in zip(homes, self.caches(context), strict=False):
            key = id(held)
            by_id[key] = held
            own = counted[home]
            own[key] = own.get(key, 0) + 1
        return [
            summed([(by_id[key], count) for key, count in each.items()], states=states, on_host=home == host)
            for home, each in enumerate(counted)
        ]

    def pipeline(self, context: Context, placement: Placement) -> bool:
        """Say whether batches are passed from GPU to GPU in a pipeline."""
        return (
            placement.num_gpus > 1
            and placement.num_gpus not in placement.devices
            and not context.no_kv_offload
            and not placement.overrides
        )

    def buffers(self, context: Context, placement: Placement) -> Buffers:
        """Return what is allocated on every device beside compute buffers."""
        caches = self.cache_sums(context, placement, states=False)
        states = self.cache_sums(context, placement, states=True)
        return Buffers(
            model=_model_bytes(self, placement, True),
            tensors=_model_bytes(self, placement, False),
            caches=tuple(tuple(each) for each in caches),
            states=tuple(tuple(each) for each in states),
            output_rows=context.n_parallel,
        )

    def compute(self, context: Context, placement: Placement, *, pins: bool = False) -> tuple[int, ...]:
        """Return the compute buffer of every device. [bytes].

        Parameters
        ----------
        pins
            Whether operations stay where the first plan put them, which the program's own figures forget.
        """
        return _compute(self, context, placement, pins) if self.graphed else self._about(context, placement)

    @cached_property
    def graphed(self) -> bool:
        """Whether the planner has a graph for every layer."""
        return has_graph(self)

    def _about(self, context: Context, placement: Placement) -> tuple[int, ...]:
        values = closed_form_values(self, context, placement)
        gpu, host = closed_form_bytes(**values), closed_form_bytes(**host_values(values))
        used = set(placement.devices)
        return (*(gpu if number in used else 0 for number in range(placement.num_gpus)), host)


def _agreed(parts: list[Attention]) -> tuple[int, int]:
    """Return the width of all keys and of all values, 0 where they differ."""
    keys, values = {part.head_dim for part in parts}, {part.value_dim for part in parts}
    return (keys.pop() if len(keys) == 1 else 0), (values.pop() if len(values) == 1 else 0)


@lru_cache(maxsize=512)
def _compute(planned: Planned, context: Context, placement: Placement, pins: bool) -> tuple[int, ...]:
    return compute_bytes(
        planned.spec(context, placement), planned.batch(context, placement, pins=pins), num_gpus=placement.num_gpus,
        op_offload=context.op_offload, pipeline=planned.pipeline(context, placement),
    )  # fmt: skip


@lru_cache(maxsize=512)
def _model_bytes(planned: Planned, placement: Placement, padded: bool) -> tuple[int, ...]:
    return tuple(
        placement.weight_bytes(
            planned.rotary_layers,
            has_output=not planned.encoder,
            always_twice=planned.family.value_norm,
            padded=padded,
        )
    )


_PLANNED: dict[int, Planned] = {}


def planned(plan: WeightPlan) -> Planned:
    """Return the planner of a model, remembered for the next question."""
    found = _PLANNED.get(id(plan))
    if found is None:
        if len(_PLANNED) >= 16:
            _PLANNED.clear()
        found = _PLANNED[id(plan)] = Planned(plan)
    return found


__all__ = ["Buffers", "Context", "Planned", "planned"]
