"""Which matrices of a model get an adapter, and how many parameters that makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.memory import adapters as sizes
from vrameter.model.architecture import Architecture, Attention, Component, Tensor
from vrameter.settings.training import AdapterSettings
from vrameter.training.programs.scene import AdapterUse

# Names of fused matrices in older and other code, by what they hold here.
FUSED = {
    "c_attn": ("q", "k", "v", "qkv"), "W_pack": ("q", "k", "v", "qkv"), "query_key_value": ("q", "k", "v", "qkv"),
    "qkv_proj": ("q", "k", "v", "qkv"), "linear_qkv": ("q", "k", "v", "qkv"), "linear_proj": ("o",), "attn.c_proj": ("o",),
    "mlp.c_proj": ("down",), "w1": ("gate", "gate_up"), "w2": ("up", "gate_up"), "w3": ("down",),
    "linear_fc1": ("gate", "up", "gate_up"), "linear_fc2": ("down",), "mlp": ("gate", "up", "gate_up", "down"),
    "wte": ("token",), "q_proj": ("q", "qkv"), "k_proj": ("k", "qkv"), "v_proj": ("v", "qkv"), "o_proj": ("o",),
    "gate_proj": ("gate", "gate_up"), "up_proj": ("up", "gate_up"), "down_proj": ("down",), "lm_head": ("head",),
}  # fmt: skip
FROZEN_SIDES = ("vision", "audio", "projector")
METHODS = (
    "lora", "dora", "rslora", "pissa", "olora", "vera", "ia3", "prefix_tuning", "prompt_tuning", "p_tuning", "adapter", "adapter_v2",
    "adalora", "lokr", "loha", "oft", "boft", "fourierft", "hira", "randlora", "delora", "c3a", "miss", "shira", "road", "gralora",
    "lily", "pvera", "psoft", "osf", "tinylora", "unilora", "waveft", "glora", "peanut", "beft", "adamss", "adaption_prompt",
    "llamapro", "lorafa", "xlora", "vblora", "bone", "trainable_tokens", "ln_tuning",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Adapting:
    """The adapters of a run.

    Parameters
    ----------
    uses
        By component kind and tensor name.
    by_slot
        The same by slot.
    num_params
        Parameters of all adapters together.
    extra_params
        Parameters that belong to no matrix: learned prompts and prefixes.
    saved_copies
        Tensors trained as full copies, with how often each occurs.
    """

    method: str
    uses: dict[tuple[str, str], AdapterUse] = field(default_factory=dict)
    by_slot: dict[str, AdapterUse] = field(default_factory=dict)
    num_params: int = 0
    extra_params: int = 0
    frozen_params: int = 0
    saved_copies: tuple[tuple[Tensor, int], ...] = ()
    prompt_tokens: int = 0

    def use(self, kind: str, tensor: Tensor) -> AdapterUse | None:
        """Return the adapter of a tensor."""
        return self.uses.get((kind, tensor.name))


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
) -> Adapting:
    """Return the adapters that a request asks for.

    Parameters
    ----------
    experts
        Whether stacked expert matrices count among all linear layers.
    frozen
        Kinds of components that get none.
    slots_only
        Whether the stack names what is adapted by its part in the layer.

    Raises
    ------
    RequestError
        For a target that the model does not have.
    """
    method = settings.method.lower()
    if method not in METHODS:
        raise UnknownNameError(
            tr("settings.adapter.method: '%(value)s' is not a kind of adapter known here.", value=settings.method),
            method, METHODS, field="settings.adapter.method", otherwise=tr("Use one of: %(names)s.", names=", ".join(METHODS)),
        )  # fmt: skip
    use = AdapterUse(
        settings.rank, element, settings.dropout, magnitude or method == "dora",
        "adapter_v2" if method == "adapter_v2" else "lora" if method in _LOW_RANK else method,
    )  # fmt: skip
    copies = _copies(architecture, settings.modules_to_save)
    if method in ("prefix_tuning", "prompt_tuning", "p_tuning", "adapter", "adaption_prompt"):
        return _prompts(architecture, settings, method, copies)
    uses: dict[tuple[str, str], AdapterUse] = {}
    by_slot: dict[str, AdapterUse] = {}
    wanted = _targets(settings, method)
    found: set[str] = set()
    params = frozen_params = 0
    for component in architecture.loaded:
        if component.kind in frozen:
            continue
        for tensor, times in linear_tensors(component):
            target = _target_of(tensor, wanted, experts=experts, parameters=settings.target_parameters,
                                slots_only=slots_only)  # fmt: skip
            if target is None:
                continue
            found.add(target)
            uses[component.kind, tensor.name] = use
            by_slot.setdefault(tensor.slot, use)
            params += times * adapter_params(tensor, use, slots=_named_slots(wanted, tensor, component))
            frozen_params = max(frozen_params, _shared(tensor, use))
    _refuse_missing(architecture, wanted, found, settings)
    if slots_only:
        by_slot = _slots(wanted, use, by_slot)
    known = settings.trainable_params
    return Adapting(
        use.method,
        uses,
        by_slot,
        params if known is None else known,
        0,
        frozen_params if use.method == "vera" else 0,
        copies,
    )


_LOW_RANK = (
    "lora", "dora", "rslora", "pissa", "olora", "lorafa", "adalora", "delora", "gralora", "randlora", "c3a", "unilora", "shira",
    "lokr", "loha", "hira", "oft", "boft", "road", "lily", "peanut", "glora", "waveft", "fourierft",
)  # fmt: skip


def _targets(settings: AdapterSettings, method: str) -> list[str] | None:
    """Return the names that are adapted; None for all linear layers."""
    targets = settings.targets
    if targets == "all-linear" or (method in ("adapter_v2",) and not targets):
        return None
    if isinstance(targets, str):
        return [targets]
    if "all-linear" in targets:
        return None
    return list(targets) or ["q_proj", "v_proj"]


def _target_of(
    tensor: Tensor, wanted: list[str] | None, *, experts: bool, parameters: list[str], slots_only: bool
) -> str | None:
    """Return the target that a matrix answers to."""
    module = tensor.name.removesuffix(".weight")
    stacked = tensor.role == "experts"
    if stacked:
        hit = next((name for name in parameters if module.endswith(name)), None)
        if hit is not None:
            return hit
        if not experts and wanted is None:
            return None
    if tensor.role == "head":
        return _named(module, [name for name in wanted or () if name == "lm_head"])
    if wanted is None:
        return "all-linear" if tensor.role != "router" else None
    hit = _named(module, wanted)
    if hit is not None and (not stacked or experts):
        return hit
    slot_hit = next((name for name in wanted if tensor.slot and tensor.slot in FUSED.get(name, ())), None)
    if slot_hit is None or (stacked and not experts):
        return None
    plain = slot_hit in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return slot_hit if not plain or slots_only or tensor.slot in ("qkv", "gate_up") else None


def _named(module: str, wanted: Iterable[str]) -> str | None:
    return next((name for name in wanted if module == name or module.endswith(f".{name}")), None)


def _named_slots(wanted: list[str] | None, tensor: Tensor, component: Component) -> tuple[str, ...]:
    """Return which outputs of a fused matrix are adapted; empty for all of it."""
    if wanted is None or tensor.slot not in ("qkv", "gate_up"):
        return ()
    names = (
        {"q_proj": "q", "k_proj": "k", "v_proj": "v"}
        if tensor.slot == "qkv"
        else {"gate_proj": "gate", "up_proj": "up"}
    )
    return tuple(slot for name, slot in names.items() if name in wanted)


def adapter_params(tensor: Tensor, use: AdapterUse, *, slots: tuple[str, ...] = ()) -> int:
    """Return the parameters of one matrix's adapter."""
    outputs, inputs = tensor.shape[-2], tensor.shape[-1]
    stack = tensor.size // (outputs * inputs)
    if slots and tensor.slot == "qkv":
        return stack * len(slots) * sizes.lora_params(rank=use.rank, inputs=inputs, outputs=inputs)
    if slots and tensor.slot == "gate_up":
        outputs = outputs * len(slots) // 2
    if use.method == "vera":
        return stack * sizes.vera_params(rank=use.rank, outputs=outputs)
    if use.method == "ia3":
        return stack * (inputs if tensor.slot == "down" else outputs)
    if use.method == "adapter_v2":
        return stack * 2 * outputs
    if use.magnitude:
        return stack * sizes.dora_params(rank=use.rank, inputs=inputs, outputs=outputs)
    return stack * sizes.lora_params(rank=use.rank, inputs=inputs, outputs=outputs)


def _shared(tensor: Tensor, use: AdapterUse) -> int:
    return sizes.vera_shared_params(rank=use.rank, inputs=tensor.shape[-1], outputs=tensor.shape[-2])


def _slots(wanted: list[str] | None, use: AdapterUse, found: dict[str, AdapterUse]) -> dict[str, AdapterUse]:
    """Return adapters by the slots that targets name."""
    if wanted is None:
        return dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), use)
    slots = {slot for name in wanted for slot in FUSED.get(name, ()) if slot not in ("qkv", "gate_up")}
    return dict.fromkeys(slots, use) if slots else found


def _copies(architecture: Architecture, names: list[str]) -> tuple[tuple[Tensor, int], ...]:
    """Return the tensors of modules that are trained as full copies."""
    if not names:
        return ()
    found = []
    known: set[str] = set()
    for component in architecture.loaded:
        for tensor, times in component.counted_tensors():
            module = tensor.name.rpartition(".")[0]
            slots = {slot for name in names for slot in FUSED.get(name, ())}
            known.add(module)
            if _named(module, names) or (tensor.slot and tensor.slot in slots | ({"token"} & _embedding(names))):
                found.append((tensor, times))
    if "lm_head" in names and architecture.tied and not any(tensor.slot == "head" for tensor, _ in found):
        found += [(tensor, times) for tensor, times in architecture.main.counted_tensors() if tensor.slot == "token"]
    if not found:
        raise RequestError(
            tr("settings.adapter.modules_to_save: the model has no module %(names)s.", names=", ".join(names)),
            field="settings.adapter.modules_to_save",
            hint=tr("It has: %(names)s.", names=", ".join(sorted(each for each in known if each)[:12])),
        )
    return tuple(dict.fromkeys(found))


def _embedding(names: list[str]) -> set[str]:
    return {"token"} if {"embed_tokens", "wte", "word_embeddings"} & set(names) else set()


def _prompts(
    architecture: Architecture, settings: AdapterSettings, method: str, copies: tuple[tuple[Tensor, int], ...]
) -> Adapting:
    """Return learned prompts and prefixes."""
    decoder = architecture.main
    tokens = settings.num_virtual_tokens or (10 if method == "adapter" else 20)
    mixers = [part for layer in decoder.layers for part in layer.parts if isinstance(part, Attention)]
    if method in ("prefix_tuning", "adaption_prompt") and mixers:
        width = mixers[0].num_kv_heads * mixers[0].head_dim
        params = sizes.prefix_params(num_tokens=tokens, num_layers=len(mixers), kv_width=width)
    elif method == "adapter":
        params = max(0, len(mixers) - 2) * (tokens * decoder.hidden_size + mixers[0].num_heads if mixers else 0)
    else:
        params = sizes.prompt_params(num_tokens=tokens, hidden_size=decoder.hidden_size)
    if settings.trainable_params is not None:
        params = settings.trainable_params
    return Adapting(method, num_params=params, extra_params=params, saved_copies=copies, prompt_tokens=tokens)


def _refuse_missing(
    architecture: Architecture, wanted: list[str] | None, found: set[str], settings: AdapterSettings
) -> None:
    """Refuse targets that the model does not have, and name those it has."""
    missing = [name for name in wanted or () if name not in found and name not in ("lm_head", "all-router")]
    if wanted is None or not missing or (found and all(set(FUSED.get(name, ())) for name in missing)):
        if found or settings.target_parameters or wanted is None:
            return
        missing = list(wanted)
    names = {
        tensor.name.removesuffix(".weight").rpartition(".")[2]
        for component in architecture.loaded
        for tensor, _ in linear_tensors(component)
    }
    raise UnknownNameError(
        tr("settings.adapter.targets: the model has no linear layer %(names)s.", names=", ".join(missing)),
        missing[0], names, field="settings.adapter.targets",
        otherwise=tr("It has: %(names)s.", names=", ".join(sorted(names)[:24])),
    )  # fmt: skip


__all__ = ["METHODS", "Adapting", "adapter_params", "adapting", "linear_tensors"]
