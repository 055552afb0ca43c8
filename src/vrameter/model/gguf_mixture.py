"""GGUF mixtures: which type each tensor gets where a file is called Q4_K_M.

The name gives a base type; the quantiser of llama.cpp [1]_ then spends more bits where they matter (values, the
second matrix of a perceptron, the first and last layers, the output) and fewer where they do not. The choice goes by
the tensor's place, the number of layers and experts, the ratio of heads, and whether there is an importance matrix.

A tied embedding is stored once and typed as the output. Stacked experts that transformers fuses are two tensors of
half the rows; latent attention's ``kv_b`` is split into its key and its value half; norms, routers, convolutions,
biases and position tables stay in fp32. The experts of gpt-oss are MXFP4 at the source and stay so in every mixture, as
converters and publishers keep them. Towers for images and sound lie in a file of their own, in 16 bits.

References
----------
.. [1] llama.cpp, ``src/llama-quant.cpp`` at commit 007dbbf.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vrameter.model.architecture import Architecture, Attention, Component, LatentAttention, Part, Recurrent, Tensor
from vrameter.model.gguf_choices import CHOICES, LOWEST, Facts, base_type
from vrameter.model.gguf_types import BLOCKS, fitting_type
from vrameter.model.orientation import Key, component_key, oriented

# mixture: base type
MIXTURES: dict[str, str] = {
    "q2_k": "q2_k", "q2_k_s": "q2_k", "q3_k_s": "q3_k", "q3_k_m": "q3_k", "q3_k_l": "q3_k", "q4_k_s": "q4_k",
    "q4_k_m": "q4_k",
    "q5_k_s": "q5_k", "q5_k_m": "q5_k", "q6_k": "q6_k", "q8_0": "q8_0", "q4_0": "q4_0", "q4_1": "q4_1",
    "q5_0": "q5_0", "q5_1": "q5_1",
    "iq1_s": "iq1_s", "iq1_m": "iq1_m", "iq2_xxs": "iq2_xxs", "iq2_xs": "iq2_xs", "iq2_s": "iq2_xs", "iq2_m": "iq2_s",
    "iq3_xxs": "iq3_xxs", "iq3_xs": "iq3_s", "iq3_s": "iq3_s", "iq3_m": "iq3_s", "iq4_nl": "iq4_nl",
    "iq4_xs": "iq4_xs",
    "tq1_0": "tq1_0", "tq2_0": "tq2_0", "q2_0": "q2_0", "mxfp4_moe": "mxfp4", "f16": "f16", "bf16": "bf16",
    "f32": "f32",
}  # fmt: skip
# Mixtures that the quantiser makes only with an importance matrix.
NEEDS_IMATRIX = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "q2_k_s"})

# Our slots and the quantiser's categories; every other matrix keeps the base type.
_CATEGORY = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "qkv": "attn_v", "o": "attn_output", "gate": "ffn_gate",
    "up": "ffn_up",
    "gate_up": "ffn_up", "down": "ffn_down", "head": "output", "token": "token_embd", "per_layer": "token_embd",
}  # fmt: skip
_SPLITS_QKV = frozenset({"internlm2", "baichuan"})  # converters that store q, k and v apart
_SPLITS_GATE_UP = frozenset({"granitemoehybrid", "granitemoeshared"})  # their shared expert is two matrices in a file
_KEEPS_EXPERTS_GATE_UP = frozenset({"gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text", "granitemoe_swa"})
_KEEPS_KV_B = frozenset({"minicpm3", "plm"})
_MXFP4_AT_SOURCE = frozenset({"gpt_oss", "gpt-oss"})
_TEXT = frozenset({"decoder", "encoder", "head", "other"})


class Piece(NamedTuple):
    """One tensor of the file: its category, its shape as outputs x inputs, and its type once chosen."""

    category: str
    shape: tuple[int, ...]
    type: str = ""


def facts_of(architecture: Architecture) -> Facts:
    """Return what of a model the quantiser looks at."""
    main = architecture.main
    experts = [getattr(part, "num_experts", 0) for layer, _ in main.layer_groups for part in layer.parts]
    num_layers = len(main.layers)
    num_values = sum(
        piece.category == "attn_v"
        for component in text_components(architecture)
        for layer in component.layers
        for part, tensor in _parts(layer.parts)
        for piece in pieces(tensor, part, hidden_size=component.hidden_size, model_type=architecture.model_type)
    )
    gqa = _gqa(main)
    kind = architecture.model_type
    seventy = num_layers == 80 and (kind == "qwen2" or (kind in ("llama", "mistral") and gqa > 1))
    tied = bool(architecture.tied) or not any(
        tensor.slot == "head" and tensor.linear for component in architecture.loaded for tensor in component.tensors
    )
    return Facts(num_layers, num_values, max(experts, default=0), gqa, kind == "falcon", seventy, tied)


def text_components(architecture: Architecture) -> tuple[Component, ...]:
    """Return the components that lie in the main file."""
    main = architecture.main
    return tuple(component for component in architecture.loaded if component is main or component.kind in _TEXT)


def _gqa(main: Component) -> int:
    """Return query heads per key-value head as the converter states them.

    Converters of Mamba hybrids list key-value heads by layer, so a first layer without attention counts as none; those
    of gated delta nets give one number.
    """
    for layer in main.layers:
        for part in layer.parts:
            if isinstance(part, Attention):
                return part.num_heads // part.num_kv_heads
            if isinstance(part, LatentAttention):
                return part.num_heads
            if isinstance(part, Recurrent) and part.kind not in ("gated_delta_net", "kda"):
                return 0
    return 0


def _parts(parts: tuple[Part, ...]) -> Iterator[tuple[Part, Tensor]]:
    for part in parts:
        for tensor in part.tensors:
            yield part, tensor


def pieces(tensor: Tensor, part: Part | None, *, hidden_size: int, model_type: str = "") -> tuple[Piece, ...]:
    """Return the tensors of the file that hold one of ours; category ``keep`` is never quantised."""
    if tensor.name.startswith("pooler."):
        return ()
    shape = oriented(tensor, hidden_size)
    if tensor.name.startswith("ffn_gate_up_exps"):
        return (Piece("ffn_gate" if tensor.linear else "keep", shape),)
    if tensor.role == "embedding" and tensor.slot in ("token", "per_layer"):
        return (Piece("token_embd", shape),)
    split = tensor.slot == "gate_up" and (
        model_type not in _KEEPS_EXPERTS_GATE_UP if tensor.role == "experts" else model_type in _SPLITS_GATE_UP
    )
    if split and not tensor.linear:
        return (Piece("keep", (*shape[:-1], shape[-1] // 2)), Piece("keep", (*shape[:-1], shape[-1] - shape[-1] // 2)))
    if not tensor.linear or tensor.buffer or len(shape) < 2 or tensor.role == "router":
        return (Piece("keep", shape),)
    *stack, rows, columns = shape
    if split:
        half = (*stack, rows // 2, columns)
        return (Piece("ffn_gate", half), Piece("ffn_up", (*stack, rows - rows // 2, columns)))
    if tensor.role == "experts" and tensor.slot == "gate_up":
        return (Piece("ffn_gate", shape),)
    if tensor.slot == "kv_b" and isinstance(part, LatentAttention) and model_type not in _KEEPS_KV_B:
        heads = max(1, rows // (part.nope_dim + part.value_dim))
        return (Piece("other", (heads, columns, part.nope_dim)), Piece("other", (heads, part.value_dim, columns)))
    if tensor.slot == "kv_b":
        return (Piece("attn_v", shape),)
    if tensor.slot == "qkvz" and isinstance(part, Recurrent):
        gate = rows * part.inner_size // (part.conv_channels + part.inner_size)
        return (Piece("attn_v", (*stack, rows - gate, columns)), Piece("other", (*stack, gate, columns)))
    if tensor.slot == "qkv" and isinstance(part, Attention) and model_type in _SPLITS_QKV:
        values = part.num_kv_heads * part.value_dim
        keys = part.num_kv_heads * part.head_dim
        return (
            Piece("attn_q", (rows - keys - values, columns)),
            Piece("attn_k", (keys, columns)),
            Piece("attn_v", (values, columns)),
        )
    if tensor.slot == "index" and tensor.name.endswith("wk.weight"):
        return (Piece("attn_k", shape),)
    return (Piece(_CATEGORY.get(tensor.slot, "other"), shape),)


def mixture_types(architecture: Architecture, mixture: str, *, imatrix: bool = False) -> dict[Key, tuple[Piece, ...]]:
    """Return the tensors of a GGUF file of a mixture, by component, layer and name.

    Parameters
    ----------
    mixture
        A key of `MIXTURES`.
    imatrix
        Whether there is an importance matrix; mixtures that need one have it whatever is said here.
    """
    base = MIXTURES[mixture]
    facts = facts_of(architecture)
    with_imatrix = imatrix or mixture in NEEDS_IMATRIX
    text = text_components(architecture)
    found: dict[Key, tuple[Piece, ...]] = {}
    counts = {"attn_v": 0, "ffn_down": 0, "ffn_gate": 0, "ffn_up": 0}

    def typed(piece: Piece, layer: int) -> Piece:
        if piece.category == "keep":
            return piece._replace(type="f32")
        if architecture.model_type in _MXFP4_AT_SOURCE and len(piece.shape) > 2:
            return piece._replace(type="mxfp4")
        if BLOCKS[base][0] == 1:
            return piece._replace(type=base)
        index = counts.get(piece.category, 0)
        by_layer = facts.num_experts > 1 and piece.category.startswith("ffn") and mixture not in LOWEST
        choose = CHOICES.get(piece.category, base_type)
        if mixture == "mxfp4_moe" and piece.category not in ("output", "token_embd"):
            wanted = "mxfp4" if len(piece.shape) > 2 else "q8_0"
        else:
            wanted = choose(mixture, base, layer if by_layer else index, facts, with_imatrix, piece.shape[-1])
        if piece.category in counts:
            counts[piece.category] += 1
        return piece._replace(type=fitting_type(wanted, piece.shape[-1]))

    for component in architecture.loaded:
        key, hidden, kind = component_key(component), component.hidden_size, architecture.model_type
        inside = component in text
        for tensor in component.tensors:
            parts = pieces(tensor, None, hidden_size=hidden, model_type=kind)
            found[key, None, tensor.name] = tuple(typed(piece, 0) if inside else _tower(piece) for piece in parts)
        for index, layer in enumerate(component.layers, component.first_layer):
            for part, tensor in _parts(layer.parts):
                parts = pieces(tensor, part, hidden_size=hidden, model_type=kind)
                found[key, index, tensor.name] = tuple(typed(each, index) if inside else _tower(each) for each in parts)
            for tensor in layer.tensors:
                parts = pieces(tensor, None, hidden_size=hidden, model_type=kind)
                found[key, index, tensor.name] = tuple(typed(each, index) if inside else _tower(each) for each in parts)
    return found


def _tower(piece: Piece) -> Piece:
    return piece._replace(type="f32" if piece.category == "keep" else "f16")


__all__ = [
    "MIXTURES",
    "NEEDS_IMATRIX",
    "Facts",
    "Piece",
    "component_key",
    "facts_of",
    "mixture_types",
    "oriented",
    "pieces",
]
