"""Which tensors of a model the targets of adapters name.

References
----------
.. [1] peft 0.21.2, ``tuners/tuners_utils.py``: ``check_target_module_exists``, ``_maybe_include_all_linear_layers``;
       ``utils/transformers_weight_conversion.py``: the older names of experts that are stacks now.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Component, Tensor, joined
from vrameter.settings.training import AdapterSettings

# Names of fused matrices in older and other code, by what they hold here.
FUSED = {
    "c_attn": ("q", "k", "v", "qkv"), "W_pack": ("q", "k", "v", "qkv"), "query_key_value": ("q", "k", "v", "qkv"),
    "qkv_proj": ("q", "k", "v", "qkv"), "linear_qkv": ("q", "k", "v", "qkv"), "linear_proj": ("o",), "attn.c_proj": ("o",),
    "mlp.c_proj": ("down",), "w1": ("gate", "gate_up"), "w2": ("up", "gate_up"), "w3": ("down",),
    "linear_fc1": ("gate", "up", "gate_up"), "linear_fc2": ("down",), "mlp": ("gate", "up", "gate_up", "down"),
    "wte": ("token",), "q_proj": ("q", "qkv"), "k_proj": ("k", "qkv"), "v_proj": ("v", "qkv"), "o_proj": ("o",),
    "gate_proj": ("gate", "gate_up"), "up_proj": ("up", "gate_up"), "down_proj": ("down",), "lm_head": ("head",),
    "gate_up_proj": ("gate", "up", "gate_up"), "in_proj": ("ssm_in",), "out_proj": ("o", "ssm_out"), "dense": ("o",),
    "dense_h_to_4h": ("up",), "dense_4h_to_h": ("down",), "fc1": ("up",), "fc2": ("down",),
}  # fmt: skip
TABLES = ("embed_tokens", "wte", "word_embeddings", "embed_in")
HEADS = ("lm_head", "embed_out", "output")
# Models whose experts transformers 5 keeps in stacks and peft still adapts by their older names: gate, up and down.
RENAMED_EXPERTS = frozenset(
    (
        "afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe",
        "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum", "olmoe",
        "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "solar_open",
    )
)  # fmt: skip
OLD_NAMES = {"gate": "router", "gate_proj": "gate_up", "up_proj": "gate_up", "down_proj": "down"}
DEFAULT_TARGETS = ["q_proj", "v_proj"]
IA3_TARGETS = ["k_proj", "v_proj", "down_proj"]
NUMBERED = "\0"


@dataclass(frozen=True, slots=True)
class Hit:
    """A tensor that gets an adapter, with the layers where it does; None for all.

    `stacked` says that a parameter is targeted and not a module, `fused` how many matrices of old it stands for.
    """

    component: Component
    tensor: Tensor
    target: str
    count: int
    layers: frozenset[int] | None
    stacked: bool = False
    fused: int = 1


def linear_tensors(component: Component) -> Iterable[tuple[Tensor, int]]:
    """Yield the matrices of linear layers with how often each occurs."""
    for tensor, times in component.counted_tensors():
        if tensor.linear and not tensor.buffer and len(tensor.shape) >= 2:
            yield tensor, times


def targets_of(settings: AdapterSettings, method: str) -> list[str] | re.Pattern[str] | None:
    """Return the names that are adapted, or a pattern of whole names; None for all linear layers."""
    targets = settings.targets
    if targets in ("all-linear", ["all-linear"]) or (method == "adapter_v2" and not targets):
        return None
    if isinstance(targets, str):
        if re.fullmatch(r"[\w.]+", targets):
            return [targets]
        try:
            return re.compile(targets)
        except re.error as error:
            raise RequestError(
                tr(
                    "settings.adapter.targets: '%(value)s' is no regular expression: %(reason)s.",
                    value=targets,
                    reason=str(error),
                ),
                field="settings.adapter.targets",
                hint=tr('Use a list of names, a regular expression of whole names, or "all-linear".'),
            ) from None
    if "all-linear" in targets:
        return None
    if not targets and settings.target_parameters:
        return []
    return list(targets) or (IA3_TARGETS if method == "ia3" else DEFAULT_TARGETS)


def hits_of(
    architecture: Architecture,
    settings: AdapterSettings,
    wanted: list[str] | re.Pattern[str] | None,
    *,
    frozen: set[str],
    experts: bool,
    slots_only: bool,
    stacks: frozenset[str] = frozenset(),
) -> tuple[list[Hit], set[str]]:
    """Return the tensors that get adapters, and the targets that were found."""
    hits: list[Hit] = []
    found: set[str] = set()
    loose = _loose(architecture, wanted, frozen)
    for component in architecture.loaded:
        if component.kind in frozen:
            continue
        for tensor, numbers, path in _named_tensors(component):
            if tensor.role == "router" and not stacks:
                continue
            target = _target_of(tensor, path, wanted, experts=experts, parameters=settings.target_parameters,
                                slots_only=slots_only, loose=loose)  # fmt: skip
            old = bool(stacks) and tensor.role in ("experts", "router") and tensor.slot in stacks
            if stacks and wanted is None and not old and _leaf(tensor) in OLD_NAMES:
                continue
            target = "experts" if old else target
            numbered = isinstance(wanted, re.Pattern) or target == NUMBERED or bool(settings.exclude)
            chosen = numbers
            if numbered and numbers is not None:
                chosen = tuple(n for n in numbers if _chosen(path(n), wanted, settings, target))
                target = target if target != NUMBERED or not chosen else "by-number"
            elif numbered and not _chosen(path(None), wanted, settings, target):
                continue
            if chosen is not None and settings.layers is not None:
                chosen = tuple(n for n in chosen if n in settings.layers)
            if target is None or (chosen is not None and not chosen):
                continue
            found.update(_answers(wanted, target, path, chosen))
            whole = chosen == numbers
            hits.append(
                Hit(component, tensor, target, 1 if chosen is None else len(chosen),
                    None if whole or chosen is None else frozenset(chosen),
                    tensor.role == "experts" and (old or target in settings.target_parameters),
                    2 if old and tensor.slot == "gate_up" else 1)
            )  # fmt: skip
    if isinstance(wanted, list) and architecture.tied:
        hits += _tied_head(architecture, wanted, hits, found)
    return hits, found


def _loose(architecture: Architecture, wanted: list[str] | re.Pattern[str] | None, frozen: set[str]) -> frozenset[str]:
    """Return the targets that no module bears, so that a fused or renamed one may stand for them."""
    if not isinstance(wanted, list):
        return frozenset()
    borne = {
        name
        for component in architecture.loaded
        if component.kind not in frozen
        for tensor, _ in component.counted_tensors()
        if _adaptable(tensor)
        and tensor.role != "experts"
        and (name := named(tensor.name.removesuffix(".weight"), wanted))
    }
    return frozenset(wanted) - borne


def _leaf(tensor: Tensor) -> str:
    return tensor.name.removesuffix(".weight").rpartition(".")[2]


def renamed(
    wanted: list[str] | re.Pattern[str] | None,
) -> tuple[list[str] | re.Pattern[str] | None, frozenset[str]]:
    """Return what is left of the targets where names of old experts stand for stacks, and the slots of these.

    The names are taken out of the targets for the whole model: dense perceptrons that bear them get no adapter.
    """
    if wanted is None:
        return None, frozenset(OLD_NAMES.values())
    if isinstance(wanted, re.Pattern):
        slots = {slot for name, slot in OLD_NAMES.items() if wanted.fullmatch(f"model.layers.0.mlp.experts.{name}")}
        return wanted, frozenset(slots)
    slots = {OLD_NAMES[name] for name in wanted if name in OLD_NAMES}
    return [name for name in wanted if name not in OLD_NAMES], frozenset(slots)


def _tied_head(architecture: Architecture, wanted: list[str], hits: list[Hit], found: set[str]) -> list[Hit]:
    """Return the output layer where it is a target and shares the embedding's matrix: the module is there all the same."""
    name = next((each for each in wanted if each in HEADS), None)
    if name is None or name in found:
        return []
    main = architecture.main
    table = next((tensor for tensor in main.tensors if tensor.slot == "token"), None)
    if table is None:
        return []
    found.add(name)
    return [Hit(main, table, name, 1, None)]


def _named_tensors(component: Component) -> Iterator[tuple[Tensor, tuple[int, ...] | None, Any]]:
    """Yield each tensor that can get an adapter, its layers, and a function from a layer to the module's whole name."""
    for tensor in component.tensors:
        if _adaptable(tensor):
            yield tensor, None, lambda _, t=tensor: joined(component.prefix, t.name).removesuffix(".weight")
    first = component.first_layer
    for layer, places in component.layer_groups:
        numbers = tuple(first + place for place in places)
        for tensor in layer.all_tensors:
            if _adaptable(tensor):
                yield (
                    tensor,
                    numbers,
                    lambda n, t=tensor: f"{component.layers_prefix}.{n}.{t.name}".removesuffix(".weight"),
                )


def _adaptable(tensor: Tensor) -> bool:
    return (
        not tensor.buffer
        and len(tensor.shape) >= 2
        and (tensor.linear or tensor.role in ("embedding", "convolution", "router"))
    )


def _chosen(
    path: str, wanted: list[str] | re.Pattern[str] | None, settings: AdapterSettings, target: str | None
) -> bool:
    """Say whether a module of one layer is a target and not left out."""
    if any(path == name or path.endswith(f".{name}") for name in settings.exclude):
        return False
    if isinstance(wanted, re.Pattern):
        return wanted.fullmatch(path) is not None
    return target != NUMBERED or any(path == name or path.endswith(f".{name}") for name in wanted or ())


def _answers(
    wanted: list[str] | re.Pattern[str] | None, target: str, path: Any, numbers: tuple[int, ...] | None
) -> set[str]:
    """Return the targets that a tensor answers to."""
    if target != "by-number" or not isinstance(wanted, list):
        return {target}
    paths = [path(number) for number in numbers or ()]
    return {name for name in wanted if any(each.endswith(name) for each in paths)}


def _target_of(
    tensor: Tensor,
    path: Any,
    wanted: list[str] | re.Pattern[str] | None,
    *,
    experts: bool,
    parameters: list[str],
    slots_only: bool,
    loose: frozenset[str],
) -> str | None:
    """Return the target that a matrix answers to."""
    module = tensor.name.removesuffix(".weight")
    stacked = tensor.role == "experts"
    if stacked:
        hit = named(module, parameters)
        if hit is not None:
            return hit
        if not experts:
            return None
    if isinstance(wanted, re.Pattern):
        return "pattern"
    table = tensor.role == "embedding"
    if tensor.role == "head":
        return named(module, [name for name in wanted or () if name in HEADS])
    if wanted is None:
        return "all-linear" if tensor.role != "router" and tensor.linear and not table else None
    hit = named(module, wanted)
    if hit is not None:
        return hit
    if table or not tensor.linear:
        return "wte" if table and tensor.slot == "token" and "wte" in wanted else None
    slot_hit = next(
        (name for name in wanted if name in loose and tensor.slot and tensor.slot in FUSED.get(name, ())), None
    )
    if slot_hit is None:
        return NUMBERED if any(re.search(r"\.\d+\.", f".{name}") for name in wanted) else None
    plain = slot_hit in (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "dense",
        "fc1",
        "fc2",
    )
    return slot_hit if not plain or slots_only or tensor.slot in ("qkv", "gate_up") else None


def named(module: str, wanted: Iterable[str]) -> str | None:
    return next((name for name in wanted if module == name or module.endswith(f".{name}")), None)


def refuse_layers(architecture: Architecture, settings: AdapterSettings) -> None:
    """Refuse numbers of layers that no part of the model has."""
    if settings.layers is None:
        return
    most = max((part.first_layer + len(part.layers) for part in architecture.loaded), default=0)
    beyond = [number for number in settings.layers if not 0 <= number < most]
    if beyond or not settings.layers:
        raise RequestError(
            tr("settings.adapter.layers: the model has no layer %(number)s.", number=beyond[0] if beyond else "-"),
            field="settings.adapter.layers",
            hint=tr("Use numbers from 0 to %(last)s.", last=most - 1),
        )


def refuse_missing(
    architecture: Architecture, wanted: list[str] | re.Pattern[str] | None, found: set[str], settings: AdapterSettings
) -> None:
    """Refuse targets that the model does not have, and name those it has."""
    names = {
        tensor.name.removesuffix(".weight").rpartition(".")[2]
        for component in architecture.loaded
        for tensor, _ in linear_tensors(component)
    }
    if isinstance(wanted, re.Pattern):
        if not found:
            raise RequestError(
                tr("settings.adapter.targets: no linear layer's whole name matches '%(value)s'.", value=wanted.pattern),
                field="settings.adapter.targets",
                hint=tr("A whole name is %(name)s.", name=_example(architecture)),
            )
        return
    lost = [name for name in settings.target_parameters if name not in found]
    if lost:
        stacks = {
            tensor.name
            for component in architecture.loaded
            for tensor, _ in component.counted_tensors()
            if tensor.role == "experts"
        }
        raise UnknownNameError(
            tr("settings.adapter.target_parameters: the model has no stacked parameter %(names)s.", names=", ".join(lost)),
            lost[0], stacks, field="settings.adapter.target_parameters",
            otherwise=tr("It has: %(names)s.", names=", ".join(sorted(stacks)[:12])) if stacks
            else tr("It has no stacked experts: leave it out."),
        )  # fmt: skip
    missing = [name for name in wanted or () if name not in found and name not in ("lm_head", "all-router")]
    if wanted is None or not missing or (found and all(set(FUSED.get(name, ())) for name in missing)):
        if found or settings.target_parameters or wanted is None:
            return
        missing = list(wanted)
    raise UnknownNameError(
        tr("settings.adapter.targets: the model has no linear layer %(names)s.", names=", ".join(missing)),
        missing[0], names, field="settings.adapter.targets",
        otherwise=tr("It has: %(names)s.", names=", ".join(sorted(names)[:24])),
    )  # fmt: skip


def _example(architecture: Architecture) -> str:
    main = architecture.main
    tensor = next((tensor for tensor, _ in linear_tensors(main)), None)
    return f"{main.layers_prefix}.0.{tensor.name.removesuffix('.weight')}" if tensor else main.layers_prefix


__all__ = [
    "FUSED", "HEADS", "RENAMED_EXPERTS", "TABLES", "Hit", "hits_of", "linear_tensors", "named", "refuse_layers", "refuse_missing", "renamed", "targets_of",
]  # fmt: skip
