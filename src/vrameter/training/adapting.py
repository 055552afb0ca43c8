"""Which matrices of a model get an adapter, and how many parameters that makes.

References
----------
.. [1] peft 0.21.2, ``tuners/tuners_utils.py``: ``check_target_module_exists``, ``_maybe_include_all_linear_layers``;
       ``utils/other.py``: ``ModulesToSaveWrapper``, ``TrainableTokensWrapper``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import gcd
from typing import Any

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.memory.adapter_methods import METHODS as PEFT
from vrameter.memory.adapter_methods import VARIANTS, canonical
from vrameter.memory.adapters import Matrix, Size, adapter_size, rank_of
from vrameter.model.architecture import Architecture, Attention, Component, Layer, Tensor, joined
from vrameter.model.orientation import oriented
from vrameter.settings.training import AdapterSettings
from vrameter.training.programs.scene import AdapterUse
from vrameter.training.prompts import PROMPTS, Prompt, prompt

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
# Methods whose classes read the numbers of the frozen matrix itself, and fail where these are packed.
READS_NUMBERS = frozenset(
    (
        "adamss", "deft", "delora", "frod", "glora", "hra", "loha", "lokr", "osf", "peanut", "psoft", "supertuning", "tinylora",
    )
)  # fmt: skip
# Methods that peft does not have, or that train modules of the model itself.
OTHERS = ("adapter", "adapter_v2", "ln_tuning", "trainable_tokens", "llamapro")
METHODS = (*PEFT, *VARIANTS, *PROMPTS, *OTHERS)
DEFAULT_TARGETS = ["q_proj", "v_proj"]
IA3_TARGETS = ["k_proj", "v_proj", "down_proj"]


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
    options = _options(method, settings)
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
    wanted = _targets(settings, method)
    stacks: frozenset[str] = frozenset()
    if renames and canonical_of(method) == "lora" and architecture.model_type in RENAMED_EXPERTS:
        wanted, stacks = _renamed(wanted)
    hits, found = _hits(
        architecture, settings, wanted, frozen=set(frozen), experts=experts, slots_only=slots_only, stacks=stacks
    )
    _refuse_layers(architecture, settings)
    _refuse_missing(architecture, wanted, found, settings)
    matrices = [_matrix(hit, wanted, method, options, base_element) for hit in hits]
    _refuse_uneven(method, matrices, options)
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


def canonical_of(method: str) -> str:
    """Return a method's own name; that of one which peft does not have is its own."""
    return canonical(method)[0] if method in PEFT or method in VARIANTS else method


def _options(method: str, settings: AdapterSettings) -> dict[str, Any]:
    """Return the options that matter here, or refuse those that no configuration has."""
    known = set(PEFT[canonical_of(method)].defaults) if canonical_of(method) in PEFT else set(PROMPTS.get(method, ()))
    known |= {"num_new_blocks"} if method == "llamapro" else set()
    known |= {"feedforward_modules"} if method == "ia3" else set()
    unknown = [name for name in settings.options if name not in known and name not in IGNORED]
    if unknown:
        raise UnknownNameError(
            tr("settings.adapter.options: %(method)s has no option '%(value)s'.", method=method, value=unknown[0]),
            unknown[0], sorted(known), field=f"settings.adapter.options.{unknown[0]}",
            otherwise=tr("Use one of: %(names)s.", names=", ".join(sorted(known)) or "-"),
        )  # fmt: skip
    found = {name: value for name, value in settings.options.items() if name in known}
    defaults = PEFT[canonical_of(method)].defaults if canonical_of(method) in PEFT else {}
    for name, value in found.items():
        least = 0 if found.get(INSTEAD.get(name, "")) else None
        _check_option(name, value, defaults.get(name, PROMPT_DEFAULTS.get(name)), least)
    return found


# Options that may be 0 where another is given in their stead.
INSTEAD = {"boft_block_size": "boft_block_num", "oft_block_size": "r"}
PROMPT_DEFAULTS = {"prefix_projection": False, "encoder_reparameterization_type": "MLP"}
# What a text option can say.
CHOICES = {
    "config_A_B": ("lora", "vector", "constant", "none"), "config_C": ("lora", "vector", "none"),
    "config_D_E": ("vector", "constant", "none"), "variant": ("road_1", "road_2", "road_4"),
    "psoft_svd": ("full", "lowrank"), "ab_svd_init": ("psoft_init", "pissa_init"),
    "encoder_reparameterization_type": ("MLP", "LSTM"), "init_weights": (True, False, "bat", "mini"),
}  # fmt: skip
FREE_TEXT = ("act_fn", "feedforward_modules")
SHARES = ("weight_tying", "sparse_rate", "sparsity")


def _check_option(name: str, value: object, default: object, least: int | None) -> None:
    """Refuse a value that an option cannot have."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in CHOICES:
        good, expected = value in CHOICES[name], tr("one of: %(names)s", names=", ".join(map(str, CHOICES[name])))
    elif name in FREE_TEXT:
        good, expected = isinstance(value, str), tr("a text")
    elif isinstance(default, bool):
        good, expected = isinstance(value, bool), tr("true or false")
    elif name in SHARES:
        good, expected = number and 0 <= float(value) <= 1, tr("a number from 0 to 1")  # type: ignore[arg-type]
    elif name == "effective_rank":
        good, expected = value is None or (number and float(value) > 0), tr("a positive number")  # type: ignore[arg-type]
    else:
        least = least if least is not None else 0 if default == 0 or default is None else 1
        whole = isinstance(value, int) and not isinstance(value, bool) and least <= value <= 2**24
        good, expected = (
            whole or (value is None and default is None),
            tr("a whole number of %(least)s or more", least=least),
        )
    if not good:
        raise RequestError(
            tr(
                "settings.adapter.options.%(name)s: %(value)s is not %(expected)s.",
                name=name,
                value=repr(value),
                expected=expected,
            ),
            field=f"settings.adapter.options.{name}",
            hint=tr("Give %(expected)s.", expected=expected),
        )


# Options whose value must divide widths: of inputs, of outputs, or of both.
DIVIDES = {
    "boft_block_size": ("inputs",), "boft_block_num": ("inputs",), "block_size": ("inputs", "outputs"),
    "vector_length": ("inputs", "outputs"), "gralora_k": ("inputs", "outputs"),
}  # fmt: skip


def _refuse_uneven(method: str, matrices: list[Matrix], options: Mapping[str, Any]) -> None:
    """Refuse blocks that do not divide a matrix, as peft does."""
    name = canonical_of(method)
    if name not in PEFT:
        return
    values = {**PEFT[name].defaults, **options}
    for option, sides in DIVIDES.items():
        value = values.get(option)
        if not value:
            continue
        for matrix in matrices:
            for side in sides:
                width = getattr(matrix, side)
                if width % int(value):
                    common = gcd(*(getattr(each, s) for each in matrices for s in sides))
                    raise RequestError(
                        tr("settings.adapter.options.%(name)s: %(value)s does not divide the %(width)s of %(target)s.",
                           name=option, value=value, width=width, target=matrix.target),
                        field=f"settings.adapter.options.{option}",
                        hint=tr("Use a divisor of %(common)s, or other targets.", common=common),
                    )  # fmt: skip


# Fields of peft's configurations that change no size.
IGNORED = frozenset(
    (
        "use_rslora", "init_lora_weights", "lora_alpha", "scaling", "random_loc_seed", "init_weights", "fan_in_fan_out", "bias",
        "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step", "d_initial", "projection_prng_key",
        "save_projection", "init_ia3_weights", "task_type", "inference_mode", "group_size", "alpha", "randlora_alpha", "psoft_alpha",
        "gralora_alpha", "delora_lambda", "init_r", "r", "eps", "coft", "mask_type", "random_seed", "loftq_config", "eva_config",
    )
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


# -- targets --------------------------------------------------------------------------------------------


def _targets(settings: AdapterSettings, method: str) -> list[str] | re.Pattern[str] | None:
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


def _hits(
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
            renamed = bool(stacks) and tensor.role in ("experts", "router") and tensor.slot in stacks
            if stacks and wanted is None and not renamed and _leaf(tensor) in OLD_NAMES:
                continue
            target = "experts" if renamed else target
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
                    tensor.role == "experts" and (renamed or target in settings.target_parameters),
                    2 if renamed and tensor.slot == "gate_up" else 1)
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
        and (name := _named(tensor.name.removesuffix(".weight"), wanted))
    }
    return frozenset(wanted) - borne


def _leaf(tensor: Tensor) -> str:
    return tensor.name.removesuffix(".weight").rpartition(".")[2]


def _renamed(
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


NUMBERED = "\0"


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
        hit = _named(module, parameters)
        if hit is not None:
            return hit
        if not experts:
            return None
    if isinstance(wanted, re.Pattern):
        return "pattern"
    table = tensor.role == "embedding"
    if tensor.role == "head":
        return _named(module, [name for name in wanted or () if name in HEADS])
    if wanted is None:
        return "all-linear" if tensor.role != "router" and tensor.linear and not table else None
    hit = _named(module, wanted)
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


def _named(module: str, wanted: Iterable[str]) -> str | None:
    return next((name for name in wanted if module == name or module.endswith(f".{name}")), None)


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
    names = () if _named(tensor.name.removesuffix(".weight"), [hit.target]) else _named_slots(wanted, tensor)
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
    named = options.get("feedforward_modules")
    if named is None:
        return hit.tensor.slot == "down"
    return _named(hit.tensor.name.removesuffix(".weight"), str(named).replace(",", " ").split()) is not None


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


# -- modules of the model itself ------------------------------------------------------------------------


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
            if _named(module, names) or (tensor.slot and tensor.slot in slots):
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


def _refuse_layers(architecture: Architecture, settings: AdapterSettings) -> None:
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


def _refuse_missing(
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


__all__ = ["METHODS", "READS_NUMBERS", "Adapting", "adapting", "canonical_of", "linear_tensors"]
