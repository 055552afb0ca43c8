"""Which matrices of a model get an adapter, and how many parameters that makes.

References
----------
.. [1] peft 0.21.2, ``utils/other.py``: ``ModulesToSaveWrapper``, ``TrainableTokensWrapper``; ``tuners/ln_tuning``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.memory.adapter_methods import METHODS as PEFT
from vrameter.memory.adapter_methods import VARIANTS
from vrameter.memory.adapters import Matrix, Size, adapter_size, rank_of
from vrameter.model.architecture import Architecture, Attention, Layer, Tensor
from vrameter.model.orientation import oriented
from vrameter.settings.training import AdapterSettings
from vrameter.training.adapter_options import METHODS, asked_options, canonical_of, refuse_uneven
from vrameter.training.programs.scene import AdapterUse
from vrameter.training.prompts import PROMPTS, Prompt, prompt
from vrameter.training.targets import (
    FUSED,
    HEADS,
    RENAMED_EXPERTS,
    TABLES,
    Hit,
    hits_of,
    linear_tensors,
    named,
    refuse_layers,
    refuse_missing,
    renamed,
    targets_of,
)


@dataclass(frozen=True, slots=True)
class Adapting:
    """The adapters of a run.

    Parameters
    ----------
    uses
        By component kind and tensor name.
    by_slot
        The same by slot.
    layers
        The layers where a tensor's adapter stands, of those that not all layers have; by kind and name.
    tables
        Adapters of embeddings, by component kind and tensor name.
    num_params
        Parameters of all adapters together.
    frozen_bytes
        What the method keeps frozen beside them on the device. [bytes]
    saved_copies
        Tensors trained as full copies, with how often each occurs; the frozen ones stay.
    copied
        Their component kinds and names.
    prompt
        Learned tokens, where the method has some.
    token_rows
        Tokens of the vocabulary whose embeddings are trained.
    """

    method: str
    uses: dict[tuple[str, str], AdapterUse] = field(default_factory=dict)
    by_slot: dict[str, AdapterUse] = field(default_factory=dict)
    layers: dict[tuple[str, str], frozenset[int]] = field(default_factory=dict)
    tables: dict[tuple[str, str], AdapterUse] = field(default_factory=dict)
    num_params: int = 0
    frozen_bytes: int = 0
    saved_copies: tuple[tuple[Tensor, int], ...] = ()
    copied: frozenset[tuple[str, str]] = frozenset()
    prompt: Prompt | None = None
    token_rows: int = 0

    def use(self, kind: str, tensor: Tensor) -> AdapterUse | None:
        """Return the adapter of a tensor."""
        return self.uses.get((kind, tensor.name))

    def bare(self, kind: str, number: int) -> frozenset[str]:
        """Return the tensors of a layer that get none though those of other layers do."""
        return frozenset(name for (of, name), numbers in self.layers.items() if of == kind and number not in numbers)


def adapting(
    architecture: Architecture,
    settings: AdapterSettings,
    *,
    magnitude: bool,
    element: int,
    experts: bool,
    frozen: Iterable[str] = (),
    slots_only: bool = False,
    base_element: int = 2,
    before_021: bool = False,
    renames: bool = False,
    moves_buffers: bool = False,
) -> Adapting:
    """Return the adapters that a request asks for.

    Parameters
    ----------
    magnitude
        Whether rows' lengths are learned as well (DoRA).
    element
        Size of one number of an adapter. [bytes]
    experts
        Whether stacked expert matrices count among all linear layers.
    frozen
        Kinds of components that get none.
    slots_only
        Whether the stack names what is adapted by its part in the layer.
    base_element
        Size of one number of the base as it is computed with. [bytes]
    before_021
        Whether peft is older than 0.21: OSF puts its matrices together anew, AdaLoRA trains no number of ranks.
    moves_buffers
        Whether the stack moves the whole model to the device after adapters were put in, as transformers' Trainer does:
        BOFT's permutations move with it.
    renames
        Whether peft finds stacked experts by the names that they had when each was a module.

    Raises
    ------
    RequestError
        For a target or an option that there is not.
    """
    method = (
        settings.method.lower().replace("-", "_")
        if settings.method.lower() not in VARIANTS
        else settings.method.lower()
    )
    if method not in METHODS:
        raise UnknownNameError(
            tr("settings.adapter.method: '%(value)s' is not a kind of adapter known here.", value=settings.method),
            method, METHODS, field="settings.adapter.method", otherwise=tr("Use one of: %(names)s.", names=", ".join(METHODS)),
        )  # fmt: skip
    options = asked_options(method, settings)
    copies, copied = _copies(architecture, settings.modules_to_save)
    if method in PROMPTS:
        learned = prompt(architecture, method, settings, options)
        return Adapting(method, num_params=learned.num_params, saved_copies=copies, copied=copied, prompt=learned)
    if method in ("ln_tuning", "trainable_tokens", "llamapro"):
        own = _own_modules(
            architecture, settings, method, options, element if method == "trainable_tokens" else base_element
        )
        return replace(own, saved_copies=copies, copied=copied)
    if magnitude and canonical_of(method) == "lora":
        options["use_dora"] = True
    if before_021:
        options |= {"adalora": {"trains_ranknum": False}, "osf": {"rebuilds_weight": True}}.get(method, {})
    if moves_buffers and method == "boft":
        options["moves_buffers"] = True
    wanted = targets_of(settings, method)
    stacks: frozenset[str] = frozenset()
    if renames and canonical_of(method) == "lora" and architecture.model_type in RENAMED_EXPERTS:
        wanted, stacks = renamed(wanted)
    hits, found = hits_of(
        architecture, settings, wanted, frozen=set(frozen), experts=experts, slots_only=slots_only, stacks=stacks
    )
    refuse_layers(architecture, settings)
    refuse_missing(architecture, wanted, found, settings)
    matrices = [_matrix(hit, wanted, method, options, base_element) for hit in hits]
    refuse_uneven(method, matrices, options)
    rank, options = _known_rank(settings, method, matrices, options)
    uses: dict[tuple[str, str], AdapterUse] = {}
    by_slot: dict[str, AdapterUse] = {}
    layers: dict[tuple[str, str], frozenset[int]] = {}
    tables: dict[tuple[str, str], AdapterUse] = {}
    for hit, matrix in zip(hits, matrices, strict=True):
        key = (hit.component.kind, hit.tensor.name)
        use = AdapterUse(rank * hit.fused, element, settings.dropout, method, options, matrix.feedforward, hit.stacked)
        if hit.tensor.role == "embedding" and hit.target not in HEADS:
            tables[key] = use
            continue
        uses[key] = use
        by_slot.setdefault(hit.tensor.slot, use)
        if hit.layers is not None:
            layers[key] = hit.layers
    size = _size(method, matrices, rank, element, options)
    if slots_only:
        by_slot = _slots(wanted, AdapterUse(rank, element, settings.dropout, method, options), by_slot)
    known = settings.trainable_params
    return Adapting(
        method, uses, by_slot, layers, tables, size.trained if known is None else known, size.frozen, copies, copied,
    )  # fmt: skip


def _known_rank(
    settings: AdapterSettings, method: str, matrices: list[Matrix], options: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Return the rank, that which gives the stated number of parameters where one does."""
    known, name = settings.trainable_params, canonical_of(method)
    if method == "randlora" and matrices:
        small = min(max(m.inputs for m in matrices), max(m.outputs for m in matrices))
        options = {**options, "num_bases": -(-small // settings.rank)}
    if known is None or name not in PEFT:
        return settings.rank, options
    if name == "osf" and options.get("effective_rank") is None:
        each = sum(m.count * (m.inputs + m.outputs + 1) for m in matrices)
        return settings.rank, {**options, "low_rank": known // each} if each and known % each == 0 else options
    return rank_of(known, method, matrices, rank=settings.rank, options=options), options


def _size(method: str, matrices: list[Matrix], rank: int, element: int, options: Mapping[str, Any]) -> Size:
    if method == "adapter_v2":
        return Size(sum(m.count * m.stack * 2 * m.outputs for m in matrices))
    return adapter_size(method, matrices, rank=rank, element=element, options=options)


def _matrix(
    hit: Hit, wanted: list[str] | re.Pattern[str] | None, method: str, options: Mapping[str, Any], base_element: int
) -> Matrix:
    """Return the shape of what an adapter stands beside."""
    tensor = hit.tensor
    if hit.target in HEADS or tensor.role == "embedding":
        outputs, inputs = tensor.shape[0], tensor.size // tensor.shape[0]
        stack = 1
    elif tensor.role == "experts" or len(tensor.shape) == 2:
        *_, outputs, inputs = oriented(tensor, hit.component.hidden_size)
        stack = tensor.size // (outputs * inputs)
    else:
        outputs, inputs, stack = tensor.shape[0], tensor.size // tensor.shape[0], 1
    names = () if named(tensor.name.removesuffix(".weight"), [hit.target]) else _named_slots(wanted, tensor)
    if names and tensor.slot == "gate_up":
        outputs = outputs * len(names) // 2
    elif names:
        outputs, stack = _part_widths(hit, names, outputs), 1
    stem = tensor.name.removesuffix("weight")
    bias = any(each.name == f"{stem}bias" for each in _siblings(hit))
    return Matrix(
        inputs,
        outputs,
        hit.count,
        stack * hit.fused,
        hit.target,
        _feedforward(hit, method, options),
        bias,
        base_element,
    )


def _siblings(hit: Hit) -> Iterator[Tensor]:
    yield from hit.component.tensors
    for layer, _ in hit.component.layer_groups:
        if hit.tensor in layer.all_tensors:
            yield from layer.all_tensors


def _feedforward(hit: Hit, method: str, options: Mapping[str, Any]) -> bool:
    """Say whether IA3 scales a matrix's inputs: what the options name, else the way down."""
    if method != "ia3":
        return False
    modules = options.get("feedforward_modules")
    if modules is None:
        return hit.tensor.slot == "down"
    wanted = modules if isinstance(modules, list) else str(modules).replace(",", " ").split()
    return named(hit.tensor.name.removesuffix(".weight"), wanted) is not None


def _named_slots(wanted: list[str] | re.Pattern[str] | None, tensor: Tensor) -> tuple[str, ...]:
    """Return which outputs of a fused matrix are adapted; empty for all of it."""
    if not isinstance(wanted, list) or tensor.slot not in ("qkv", "gate_up"):
        return ()
    names = (
        {"q_proj": "q", "k_proj": "k", "v_proj": "v"}
        if tensor.slot == "qkv"
        else {"gate_proj": "gate", "up_proj": "up"}
    )
    return tuple(slot for name, slot in names.items() if name in wanted)


def _part_widths(hit: Hit, names: tuple[str, ...], outputs: int) -> int:
    """Return the outputs of a fused matrix's adapted parts, as one update whose first matrices stand side by side."""
    for layer, _ in hit.component.layer_groups:
        part = _part_of(layer, hit.tensor)
        if part is not None:
            key = part.num_kv_heads * part.head_dim
            widths = {
                "q": outputs - key - part.num_kv_heads * part.value_dim,
                "k": key,
                "v": part.num_kv_heads * part.value_dim,
            }
            inputs = hit.tensor.shape[-1]
            return sum(widths[name] for name in names) + (len(names) - 1) * inputs
    return outputs


def _part_of(layer: Layer, tensor: Tensor) -> Attention | None:
    return next((part for part in layer.parts if isinstance(part, Attention) and tensor in part.tensors), None)


def _slots(
    wanted: list[str] | re.Pattern[str] | None, use: AdapterUse, found: dict[str, AdapterUse]
) -> dict[str, AdapterUse]:
    """Return adapters by the slots that targets name."""
    if not isinstance(wanted, list):
        return dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), use)
    slots = {slot for name in wanted for slot in FUSED.get(name, ()) if slot not in ("qkv", "gate_up")}
    return dict.fromkeys(slots, use) if slots else found


def _copies(
    architecture: Architecture, names: list[str]
) -> tuple[tuple[tuple[Tensor, int], ...], frozenset[tuple[str, str]]]:
    """Return the tensors of modules that are trained as full copies, and what they are called."""
    if not names:
        return (), frozenset()
    found: list[tuple[Tensor, int]] = []
    keys: set[tuple[str, str]] = set()
    known: set[str] = set()
    slots = {slot for name in names for slot in FUSED.get(name, ())}
    slots |= {"token"} if set(TABLES) & set(names) else set()
    slots |= {"head"} if set(HEADS) & set(names) else set()
    for component in architecture.loaded:
        for tensor, times in component.counted_tensors():
            module = tensor.name.rpartition(".")[0]
            known.add(module)
            if named(module, names) or (tensor.slot and tensor.slot in slots):
                found.append((tensor, times))
                keys.add((component.kind, tensor.name))
    if set(HEADS) & set(names) and architecture.tied and not any(tensor.slot == "head" for tensor, _ in found):
        # A tied output layer becomes a copy of its own, beside that of the embedding.
        found += [(tensor, times) for tensor, times in architecture.main.counted_tensors() if tensor.slot == "token"]
        keys.add(("head", "tied"))
    if not found:
        raise RequestError(
            tr("settings.adapter.modules_to_save: the model has no module %(names)s.", names=", ".join(names)),
            field="settings.adapter.modules_to_save",
            hint=tr("It has: %(names)s.", names=", ".join(sorted(each for each in known if each)[:12])),
        )
    return tuple(found), frozenset(keys)


def _own_modules(
    architecture: Architecture, settings: AdapterSettings, method: str, options: Mapping[str, Any], element: int
) -> Adapting:
    """Return what trains parts of the model itself: norms, rows of the embedding, new layers."""
    main = architecture.main
    if method == "trainable_tokens":
        rows = settings.num_virtual_tokens or 1
        known = settings.trainable_params
        if known is not None and known % main.hidden_size == 0:
            rows = known // main.hidden_size
        table = next((tensor for tensor in main.tensors if tensor.slot == "token"), None)
        uses: dict[tuple[str, str], AdapterUse] = {}
        if architecture.tied and table is not None:
            uses[main.kind, table.name] = AdapterUse(rows, element, method=method)
        size = rows * main.hidden_size
        return Adapting(method, uses, num_params=size, frozen_bytes=size * element, token_rows=rows)
    if method == "llamapro":
        layer = main.layers[-1].num_params if main.layers else 0
        params = layer * int(options.get("num_new_blocks", 4))
        return Adapting(method, num_params=params if settings.trainable_params is None else settings.trainable_params)
    norms = sum(
        tensor.size * times
        for component in architecture.loaded
        for tensor, times in component.counted_tensors()
        if tensor.role == "norm"
    )
    return Adapting(method, frozen_bytes=element * norms)


__all__ = ["METHODS", "Adapting", "adapting", "linear_tensors"]
