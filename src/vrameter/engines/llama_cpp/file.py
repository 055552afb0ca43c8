"""The tensors of a GGUF file: names, shapes and types as llama.cpp's loader sees them.

Where no file was read they follow from the model's architecture: the converter renames every tensor, keeps some fused
matrices and takes others apart, and adds tables of rotary frequencies.

References
----------
.. [1] llama.cpp at 0c1e57098, ``gguf-py/gguf/tensor_mapping.py`` and ``conversion/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import (
    Architecture,
    Attention,
    Component,
    LatentAttention,
    Layer,
    Part,
    Recurrent,
    Tensor,
)
from vrameter.model.gguf_mixture import text_components
from vrameter.model.gguf_types import gguf_bytes

# our slots and the names of the file
_SLOTS = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "qkv": "attn_qkv", "q_a": "attn_q_a",
    "q_b": "attn_q_b", "kv_a": "attn_kv_a_mqa", "sinks": "attn_sinks", "gate": "ffn_gate", "up": "ffn_up",
    "down": "ffn_down", "gate_up": "ffn_up", "router": "ffn_gate_inp", "shared_gate": "ffn_gate_inp_shexp",
    "ssm_in": "ssm_in", "ssm_x": "ssm_x", "ssm_dt": "ssm_dt", "ssm_out": "ssm_out", "conv": "ssm_conv1d",
}  # fmt: skip
_SHORT_CONV = {"conv": "shortconv.conv", "ssm_in": "shortconv.in_proj", "ssm_out": "shortconv.out_proj"}
_DELTA = {"in_proj_a": "ssm_alpha", "in_proj_b": "ssm_beta", "in_proj_z": "attn_gate", "in_proj_ba": "ssm_ba"}
_ROUTER_SCALES = {"scale": "ffn_gate_inp.scale", "per_expert_scale": "ffn_down_exps.scale"}
_EXPERTS = {"experts": "_exps", "shared_experts": "_shexp"}
_INDEX = {
    "wq_b": "indexer.attn_q_b",
    "wk": "indexer.attn_k",
    "weights_proj": "indexer.proj",
    "k_norm": "indexer.k_norm",
}
_TABLES = {
    "token": "token_embd",
    "position": "position_embd",
    "type": "token_types",
    "per_layer": "per_layer_token_embd",
}
# module names of norms inside parts
_PART_NORMS = {
    "q_a_layernorm": "attn_q_a_norm", "kv_a_layernorm": "attn_kv_a_norm", "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm", "q_layernorm": "attn_q_norm", "k_layernorm": "attn_k_norm", "q_ln": "attn_q_norm",
    "k_ln": "attn_k_norm", "query_layernorm": "attn_q_norm", "key_layernorm": "attn_k_norm",
    "dt_layernorm": "ssm_dt_norm", "b_layernorm": "ssm_b_norm", "c_layernorm": "ssm_c_norm", "norm": "ssm_norm",
}  # fmt: skip
# models whose gate and up matrices stay fused in the file
_KEEPS_FUSED = frozenset({"phi3", "phimoe", "glm", "glm4", "chatglm", "modernbert", "phi4mm"})
# models whose norms of queries and keys have no weights until a converter writes ones
_ADDS_NORMS = frozenset({"muse_glimmer", "muse_glimmer_text"})
_FUSED_EXPERTS = frozenset({"gemma4", "gemma4_text"})
_PROPORTIONAL = frozenset({"gemma4", "gemma4_text"})
_FIRST_NORMS = frozenset({
    "input_layernorm", "ln_1", "norm_1", "attn_norm", "operator_norm", "norm", "attention_norm", "ln1", "norm1", "ln_attn",
    "self_attn_layer_norm", "layer_norm1", "block_norm", "attention_layernorm",
})  # fmt: skip
_FFN_NORMS = frozenset({
    "post_attention_layernorm", "ln_2", "norm_2", "mlp_norm", "ffn_norm", "pre_ff_layernorm", "final_layer_norm", "ln2",
    "norm2", "pre_feedforward_layernorm", "pre_mlp_layernorm", "ffn_layernorm", "feedforward_layernorm",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileTensor:
    """One tensor of the file; `ne` as ggml orders extents, the row first."""

    name: str
    type: str
    ne: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """What it takes without padding. [bytes]."""
        return gguf_bytes(self.type, self.ne[::-1])


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The text part of a model as one file.

    Parameters
    ----------
    outside
        Tensors outside the layers, by name.
    layers
        Tensors of each layer, by name below ``blk.N.``; equal layers are one object.
    skipped
        Layers behind them that predict further tokens and are not computed.
    """

    outside: Mapping[str, FileTensor]
    layers: tuple[Mapping[str, FileTensor], ...]
    skipped: int = 0

    @cached_property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding."""
        return "output.weight" not in self.outside and "token_embd.weight" in self.outside


_FILES: dict[int, tuple[WeightPlan, ModelFile]] = {}


def file_of(plan: WeightPlan) -> ModelFile:
    """Return the file that a converter and a quantiser make of a model."""
    if id(plan) not in _FILES:
        if len(_FILES) >= 16:
            _FILES.clear()
        _FILES[id(plan)] = (plan, _made(plan))
    return _FILES[id(plan)][1]


def _made(plan: WeightPlan) -> ModelFile:
    architecture = plan.architecture
    if plan.table is not None and plan.table.kind == "gguf":
        from vrameter.engines.llama_cpp.from_table import file_of_table

        return file_of_table(plan.table, len(architecture.main.layers))
    outside: dict[str, FileTensor] = {}
    layers: tuple[Mapping[str, FileTensor], ...] = ()
    for component in text_components(architecture):
        for tensor in component.tensors:
            for each in _outside(plan, component, tensor):
                outside[each.name] = each
        if component.layers and component is architecture.main:
            layers = tuple(_layers(plan, component))
    outside.update({each.name: each for each in rotary_tables(architecture)})
    return ModelFile(outside, layers)


def _layers(plan: WeightPlan, component: Component) -> Iterator[Mapping[str, FileTensor]]:
    known: dict[tuple[object, ...], Mapping[str, FileTensor]] = {}
    for number, layer in enumerate(component.layers):
        stored = tuple(plan.stored(component, number, tensor) for tensor in layer.all_tensors)
        key = (id(layer), stored)
        if key not in known:
            known[key] = {each.name: each for each in _layer(plan.architecture, component, layer, stored)}
        yield known[key]


def rotary_tables(architecture: Architecture) -> tuple[FileTensor, ...]:
    """Return the tables of rotary frequencies that converters add."""
    wiring, width = architecture.wiring, 0
    for layer, _ in architecture.main.layer_groups:
        for part in layer.parts:
            if isinstance(part, Attention) and part.scope in ("full", "sliding", "chunked"):
                width = max(width, part.head_dim)
    if not width:
        return ()
    if wiring.rope_scaling == "llama3":
        return (FileTensor("rope_freqs.weight", "f32", (width // 2,)),)
    if scales_full_layers(architecture):
        return (FileTensor("rope_freqs.weight", "f32", (width // 2,)),)
    if wiring.rope_scaling in ("longrope", "su"):
        half = int(wiring.rotary_fraction * width) // 2
        return tuple(FileTensor(f"rope_factors_{name}.weight", "f32", (half,)) for name in ("long", "short"))
    return ()


def scales_full_layers(architecture: Architecture) -> bool:
    """Say whether only layers without a window have a table of rotary frequencies."""
    return architecture.wiring.rope_scaling == "proportional" or architecture.model_type in _PROPORTIONAL


# -- outside the layers -------------------------------------------------------------------------------


def _outside(plan: WeightPlan, component: Component, tensor: Tensor) -> Iterator[FileTensor]:
    if tensor.name.startswith(("pooler.", "rotary")) or tensor.buffer:
        return
    stored = plan.stored(component, None, tensor)
    suffix = ".bias" if tensor.name.endswith(".bias") else ".weight"
    if tensor.slot in _TABLES:
        name = _TABLES[tensor.slot]
    elif tensor.role == "head":
        name = "output" if tensor.slot == "head" or tensor.name.startswith("lm_head") else "cls"
    elif tensor.role == "norm":
        name = "token_embd_norm" if "embed" in tensor.name and tensor.name[:14] != "embedding_norm" else "output_norm"
        if "per_layer" in tensor.name:
            name = "per_layer_proj_norm"
    elif "per_layer" in tensor.name:
        name = "per_layer_model_proj"
    else:
        return
    for form, shape in stored:
        ne = shape[::-1]
        if tensor.slot == "position" and plan.architecture.wiring.position_offset:
            ne = (ne[0], ne[1] - plan.architecture.wiring.position_offset)
        if tensor.slot == "type" or name == "per_layer_model_proj":
            yield FileTensor(name + suffix, _plain(form.name, tensor), ne)
        else:
            yield FileTensor(name + suffix, form.name, ne)


def _plain(kind: str, tensor: Tensor) -> str:
    return "f32" if tensor.slot == "type" else kind


# -- one layer ----------------------------------------------------------------------------------------


def _layer(
    architecture: Architecture, component: Component, layer: Layer, stored: tuple[object, ...]
) -> Iterator[FileTensor]:
    names = _norm_names([tensor.name for tensor in layer.tensors], layer, architecture)
    owners: list[Part | None] = [part for part in layer.parts for _ in part.tensors]
    owners += [None] * len(layer.tensors)
    for tensor, part, forms in zip(layer.all_tensors, owners, stored, strict=True):
        pieces = [(form.name, shape) for form, shape in forms]  # type: ignore[attr-defined]
        if part is None:
            found = names.get(tensor.name)
            if found is not None:
                yield FileTensor(found, pieces[0][0], pieces[0][1][::-1])
            continue
        yield from _of_part(architecture, part, tensor, pieces)
    if architecture.model_type in _ADDS_NORMS:
        width = next(part.head_dim for part in layer.parts if isinstance(part, Attention))
        for name in ("attn_q_norm.weight", "attn_k_norm.weight"):
            yield FileTensor(name, "f32", (width,))


Pieces = list[tuple[str, tuple[int, ...]]]


def _of_part(architecture: Architecture, part: Part, tensor: Tensor, pieces: Pieces) -> Iterator[FileTensor]:
    suffix = ".bias" if tensor.name.endswith("bias") else ".weight"
    module = tensor.name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
    extra = _EXPERTS.get(tensor.role, "")
    if isinstance(part, LatentAttention) and tensor.slot == "kv_b" and len(pieces) == 2:
        for name, (kind, shape) in zip(("attn_k_b", "attn_v_b"), pieces, strict=True):
            yield FileTensor(name + suffix, kind, shape[::-1])
        return
    if "indexer" in tensor.name and module in _INDEX:
        kind, shape = pieces[0]
        yield FileTensor(
            _INDEX[module] + suffix, "f32" if module == "weights_proj" and kind in _WIDE else kind, shape[::-1]
        )
        return
    if isinstance(part, Recurrent):
        yield from _of_mixer(part, tensor, pieces, module, suffix)
        return
    if isinstance(part, Attention) and tensor.slot == "gate":
        yield FileTensor("attn_gate" + suffix, pieces[0][0], pieces[0][1][::-1])
        return
    if tensor.name.endswith("e_score_correction_bias") or (tensor.buffer and tensor.role == "router"):
        yield FileTensor("exp_probs_b.bias", "f32", pieces[0][1][::-1])
        return
    if tensor.role == "norm" or not tensor.slot:
        if module in _PART_NORMS:
            yield FileTensor(_PART_NORMS[module] + suffix, pieces[0][0], pieces[0][1][::-1])
        elif tensor.role == "router" and module in _ROUTER_SCALES:
            yield FileTensor(_ROUTER_SCALES[module], "f32", pieces[0][1][::-1])
        elif tensor.role == "router":
            yield FileTensor("ffn_gate_inp" + suffix, pieces[0][0], pieces[0][1][::-1])
        return
    yield from _of_slot(architecture, part, tensor, pieces, suffix, extra)


_WIDE = frozenset({"f16", "bf16"})


def _of_slot(
    architecture: Architecture, part: Part, tensor: Tensor, pieces: Pieces, suffix: str, extra: str
) -> Iterator[FileTensor]:
    slot = tensor.slot
    if slot == "qkv" and len(pieces) == 3:
        for name, (kind, shape) in zip(("attn_q", "attn_k", "attn_v"), pieces, strict=True):
            yield FileTensor(name + suffix, kind, shape[::-1])
        return
    if slot == "gate_up" and tensor.role == "experts" and architecture.model_type in _FUSED_EXPERTS:
        kind, (count, rows, columns) = pieces[0][0], tensor.shape
        yield FileTensor("ffn_gate_up_exps" + suffix, kind, (columns, rows, count))
        return
    if slot == "gate_up" and (len(pieces) == 2 or architecture.model_type not in _KEEPS_FUSED):
        halves = pieces if len(pieces) == 2 else _halves(pieces[0], experts=tensor.role == "experts")
        for name, (kind, shape) in zip(("ffn_gate", "ffn_up"), halves, strict=True):
            yield FileTensor(name + extra + suffix, kind, shape[::-1])
        return
    if slot not in _SLOTS:
        return
    kind, shape = pieces[0]
    if slot == "shared_gate":
        shape = (prod(shape),)
    yield FileTensor(_SLOTS[slot] + extra + suffix, kind, shape[::-1])


def _halves(piece: tuple[str, tuple[int, ...]], *, experts: bool) -> Pieces:
    """Return the two tensors that a fused gate and up matrix, or its bias, becomes."""
    kind, shape = piece
    axis = len(shape) - 1 if len(shape) == 1 or (experts and len(shape) == 2) else len(shape) - 2
    half = tuple(size // 2 if index == axis else size for index, size in enumerate(shape))
    return [(kind, half), (kind, half)]


def _of_mixer(part: Recurrent, tensor: Tensor, pieces: Pieces, module: str, suffix: str) -> Iterator[FileTensor]:
    kind, shape = pieces[0]
    if part.kind == "short_conv":
        if tensor.slot in _SHORT_CONV:
            ne = (shape[-1], shape[0]) if tensor.slot == "conv" and len(shape) == 3 else shape[::-1]
            yield FileTensor(_SHORT_CONV[tensor.slot] + suffix, kind, ne)
        return
    if tensor.slot == "qkvz" and len(pieces) == 2:
        for name, (each, size) in zip(("attn_qkv", "attn_gate"), pieces, strict=True):
            yield FileTensor(name + suffix, each, size[::-1])
        return
    if module == "A_log":
        yield FileTensor("ssm_a", "f32", shape[::-1] if len(shape) == 2 else _column(part, shape))
    elif module == "D":
        yield FileTensor("ssm_d", "f32", _column(part, shape))
    elif module == "dt_bias":
        yield FileTensor("ssm_dt.bias", "f32", shape)
    elif tensor.role == "norm" or not tensor.slot:
        if module in _PART_NORMS:
            called = _PART_NORMS[module]
            grouped = part.kind == "mamba2" and part.num_groups and called == "ssm_norm"
            ne = (shape[0] // part.num_groups, part.num_groups) if grouped else shape[::-1]
            yield FileTensor(called + suffix, "f32", ne)
    elif tensor.slot == "conv":
        ne = (shape[-1], shape[0]) if len(shape) == 3 else shape[::-1]
        yield FileTensor("ssm_conv1d" + suffix, "f32", ne)
    elif module in _DELTA:
        yield FileTensor(_DELTA[module] + suffix, kind, shape[::-1])
    elif part.kind == "gated_delta_net" and tensor.slot == "qkv":
        yield FileTensor("attn_qkv" + suffix, kind, shape[::-1])
    elif tensor.slot in _SLOTS:
        yield FileTensor(_SLOTS[tensor.slot] + suffix, kind, shape[::-1])


def _column(part: Recurrent, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if part.kind == "mamba2" else shape


# -- norms of a layer ---------------------------------------------------------------------------------


def _norm_names(names: list[str], layer: Layer, architecture: Architecture) -> dict[str, str]:
    """Return what the file calls a layer's own norms, which follows from which there are."""
    modules = {name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2] for name in names}
    sandwich = bool(modules & {"pre_feedforward_layernorm", "post_self_attn_layernorm", "pre_mlp_layernorm"})
    first = bool(modules & _FIRST_NORMS)
    post = not first and "post_attention_layernorm" in modules
    encoder_post = any("attention.output.LayerNorm" in name for name in names)
    found: dict[str, str] = {}
    for name in names:
        bare = name.removesuffix(".weight").removesuffix(".bias")
        suffix = ".bias" if name.endswith(".bias") else ".weight"
        module = bare.rpartition(".")[2]
        role = _norm_role(module, bare, modules, sandwich=sandwich, post=post, encoder_post=encoder_post)
        if role is not None:
            found[name] = role + suffix
        elif module == "layer_scalar":
            found[name] = "layer_output_scale.weight"
    return found


def _norm_role(
    module: str, bare: str, modules: set[str], *, sandwich: bool, post: bool, encoder_post: bool
) -> str | None:
    if encoder_post:
        return "attn_output_norm" if "attention.output" in bare else "layer_output_norm"
    if module == "ln_mlp":
        return "attn_norm"
    if module == "ln_attn":
        return "attn_norm_2" if "ln_mlp" in modules else "attn_norm"
    if module in _FIRST_NORMS:
        return "attn_norm"
    if module == "post_attention_layernorm":
        if "post_self_attn_layernorm" in modules:
            return "ffn_norm"
        return "post_attention_norm" if sandwich or post else "ffn_norm"
    if module == "post_self_attn_layernorm":
        return "post_attention_norm"
    if module in ("post_feedforward_layernorm", "post_mlp_layernorm"):
        return "post_ffw_norm"
    if module == "post_feedforward_layernorm_1":
        return "post_ffw_norm_1"
    if module == "post_feedforward_layernorm_2":
        return "post_ffw_norm_2"
    if module == "pre_feedforward_layernorm_2":
        return "pre_ffw_norm_2"
    if module == "post_per_layer_input_norm":
        return "post_norm"
    if module == "per_layer_input_gate":
        return "inp_gate"
    if module == "per_layer_projection":
        return "proj"
    return "ffn_norm" if module in _FFN_NORMS else None


__all__ = ["FileTensor", "ModelFile", "file_of", "rotary_tables", "scales_full_layers"]
