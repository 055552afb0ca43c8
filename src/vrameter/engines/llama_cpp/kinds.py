"""What kind of layer each of a model's layers is, as the graph planner takes it.

Most of it follows from the layer's parts and from which tensors the file has. What neither shows, such as whether a sum
puts the residual first, is a trait of the family that the model belongs to.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/models``: one graph per family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vrameter.engines.llama_cpp.file import FileTensor, ModelFile
from vrameter.engines.llama_cpp.graph.attention import Heads, Latent
from vrameter.engines.llama_cpp.graph.layers import Experts, LayerKind, Style
from vrameter.engines.llama_cpp.graph.mixers import Mixer
from vrameter.model.architecture import (
    Architecture,
    Attention,
    FeedForward,
    LatentAttention,
    Layer,
    Recurrent,
)


@dataclass(frozen=True, slots=True)
class Family:
    """What llama.cpp's graph of a family of models does that its tensors do not show.

    Parameters
    ----------
    style
        How parts are wired where not one after the other.
    layer_norm
        Whether norms subtract the mean although they have no shift.
    windows
        Whether windows are used; llama.cpp ignores those of some families and caches everything.
    rotary
        ``all`` layers, ``window`` (only those with one), or ``none``.
    chosen_at_end
        Where rows are chosen, as of `ModelSpec`.
    normalised
        Whether experts' weights are divided by their sum; None: as the config says.
    normed_embedding
        Whether embeddings are normed, without weights, before the first layer.
    embeddings_alone
        Whether no logits are computed where embeddings are asked for.
    """

    style: Style = "sequential"
    layer_norm: bool = False
    windows: bool = True
    rotary: Literal["all", "window", "none"] = "all"
    scaled_embedding: bool = False
    chosen_at_end: Literal["layer", "head", "norm"] = "layer"
    keeps_hidden: bool = False
    residual_first: bool = False
    ffn_residual_first: bool = False
    norm_flat: bool = False
    norm_after_rope: bool = False
    value_norm: bool = False
    early: bool = False
    squared: bool = False
    normalised: bool | None = True
    sigmoid: bool = False
    scaled_experts: bool = False
    softmax_chosen: bool = False
    weigh_first: bool = False
    router_apart: bool = False
    split_inputs: bool = False
    repeats_keys: bool = True
    norms_steps: bool = False
    pins_last_norm: bool = False
    position_count: int = 1
    deepstack: int = 0
    positions_first: bool = False
    plain_norms: bool = False
    no_rope_step: int = 0
    temperature: bool = False
    index_top_k: int = 2048
    embeddings_alone: bool = False
    normed_embedding: bool = False


_DEEPSEEK = Family(normalised=None, keeps_hidden=True)
_GEMMA = Family(scaled_embedding=True)
_QWEN35 = Family(
    chosen_at_end="head", keeps_hidden=True, early=True, split_inputs=True, repeats_keys=False, position_count=4
)
_COHERE = Family(style="parallel", layer_norm=True)
_NEMOTRON_H = Family(
    style="single", rotary="none", chosen_at_end="head", keeps_hidden=True, squared=True, normalised=None, sigmoid=True,
    router_apart=True, scaled_experts=True,
)  # fmt: skip
_GRANITE = Family(scaled_embedding=True)
_MAMBA = Family(style="single")
_MROPE = Family(position_count=4)

FAMILIES: dict[str, Family] = {
    "gemma": _GEMMA, "gemma2": _GEMMA, "gemma3": _GEMMA, "gemma3_text": _GEMMA,
    **dict.fromkeys(
        ("gemma4", "gemma4_text"),
        Family(scaled_embedding=True, chosen_at_end="head", keeps_hidden=True, value_norm=True),
    ),
    "phi": Family(style="parallel_shared"),
    **dict.fromkeys(("phi3", "phi4mm"), Family(windows=False, ffn_residual_first=True)),
    "phimoe": Family(windows=False, ffn_residual_first=True),
    "falcon": Family(style="parallel_falcon"),
    "gpt_neox": Family(style="parallel_neox"),
    "gpt2": Family(rotary="none"), "gpt_bigcode": Family(rotary="none"), "bloom": Family(rotary="none"),
    "mpt": Family(rotary="none", layer_norm=True),
    "cohere": _COHERE, "cohere2": Family(style="parallel", layer_norm=True, rotary="window"),
    "olmo": Family(layer_norm=True, plain_norms=True),
    "olmo2": Family(norm_flat=True), "olmo3": Family(norm_flat=True),
    "exaone4": Family(rotary="window"),
    **dict.fromkeys(("muse_glimmer", "muse_glimmer_text"), Family(rotary="window", normed_embedding=True)),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl", "hunyuan_vl_text"), Family(norm_after_rope=True)),
    "glm4": Family(pins_last_norm=True),
    "glm4_moe": Family(normalised=None, sigmoid=True, keeps_hidden=True),
    "mistral": Family(windows=False), "mixtral": Family(windows=False), "starcoder2": Family(windows=False),
    "qwen2": Family(windows=False), "qwen2_moe": Family(windows=False, normalised=False),
    "qwen3": Family(windows=False), "qwen3_moe": Family(windows=False),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text"), _MROPE),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe", "qwen3_vl_moe_text"), Family(position_count=4, deepstack=3)),
    "qwen3_next": Family(chosen_at_end="head", keeps_hidden=True, early=True),
    **dict.fromkeys(("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), _QWEN35),
    "gpt_oss": Family(softmax_chosen=True, normalised=False, chosen_at_end="norm", keeps_hidden=True),
    "olmoe": Family(norm_flat=True, normalised=False),
    "minimax_m2": Family(norm_flat=True, sigmoid=True),
    "deepseek": Family(normalised=False), "deepseek_v2": _DEEPSEEK,
    **dict.fromkeys(
        ("deepseek_v3", "kimi_k2"), Family(normalised=None, keeps_hidden=True, sigmoid=True, scaled_experts=True)
    ),
    **dict.fromkeys(
        ("deepseek_v32", "glm_moe_dsa"), Family(normalised=None, keeps_hidden=True, sigmoid=True, scaled_experts=True)
    ),
    **dict.fromkeys(
        ("llama4", "llama4_text"),
        Family(normalised=False, sigmoid=True, weigh_first=True, norm_after_rope=True, no_rope_step=4, temperature=True),
    ),
    "granite": _GRANITE, "granitemoe": _GRANITE, "granitemoeshared": _GRANITE,
    "granitemoehybrid": Family(scaled_embedding=True, rotary="none"),
    "arcee": Family(squared=True), "nemotron": Family(squared=True),
    "smollm3": Family(no_rope_step=4),
    "mamba": _MAMBA, "mamba2": _MAMBA, "falcon_mamba": Family(style="single", norms_steps=True),
    "jamba": Family(rotary="none", residual_first=True, ffn_residual_first=True, normalised=False),
    "nemotron_h": _NEMOTRON_H,
    **dict.fromkeys(
        ("lfm2", "lfm2_moe"),
        Family(residual_first=True, ffn_residual_first=True, sigmoid=True, embeddings_alone=True),
    ),
    "falcon_h1": Family(style="parallel_mixers"),
    **dict.fromkeys(("bert", "xlm-roberta", "roberta"), Family(style="post_norm", rotary="none", layer_norm=True, positions_first=True)),
    "nomic_bert": Family(style="post_norm", layer_norm=True),
    "modernbert": Family(layer_norm=True),
}  # fmt: skip


# What GGUF files call families that have another name in a config.json.
GGUF_NAMES = {
    "command-r": "cohere", "phi2": "phi", "gptneox": "gpt_neox", "starcoder": "gpt_bigcode", "modern-bert": "modernbert",
    "nomic-bert": "nomic_bert", "granitehybrid": "granitemoehybrid", "nemotron_h_moe": "nemotron_h", "gpt-oss": "gpt_oss",
    "glm4moe": "glm4_moe", "chatglm": "glm", "deepseek2": "deepseek_v2", "deepseek32": "deepseek_v32",
    "glm-dsa": "glm_moe_dsa", "minimax-m2": "minimax_m2", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next", "qwen35": "qwen3_5", "qwen35moe": "qwen3_5_moe", "qwen2vl": "qwen2_vl", "qwen3vl": "qwen3_vl",
    "qwen3vlmoe": "qwen3_vl_moe", "falcon-h1": "falcon_h1", "muse-glimmer": "muse_glimmer", "hunyuan-dense": "hunyuan_v1_dense", "hunyuan-moe": "hunyuan_v1_moe", "lfm2moe": "lfm2_moe",
}  # fmt: skip


def family_of(architecture: Architecture) -> Family:
    """Return the traits of a model's family; those of a plain decoder where there are none."""
    kind = architecture.model_type
    return FAMILIES.get(GGUF_NAMES.get(kind, kind), Family())


def subtracts_mean(architecture: Architecture, file: ModelFile) -> bool:
    """Say whether a model's norms subtract the mean: they have a shift, or the family says so."""
    return family_of(architecture).layer_norm or "output_norm.bias" in file.outside


def layer_kind(architecture: Architecture, layer: Layer, number: int, tensors: Mapping[str, FileTensor]) -> LayerKind:
    """Return what kind a layer is."""
    family = family_of(architecture)
    attention = next((part for part in layer.parts if isinstance(part, Attention)), None)
    latent = next((part for part in layer.parts if isinstance(part, LatentAttention)), None)
    mixer = next((part for part in layer.parts if isinstance(part, Recurrent)), None)
    forwards = [part for part in layer.parts if isinstance(part, FeedForward)]
    forward = max(forwards, key=lambda part: part.num_experts, default=None)
    style = family.style
    if style == "parallel_neox" and not architecture.wiring.parallel_residual:
        style = "sequential"
    return LayerKind(
        style=style,
        heads=None if attention is None else _heads(architecture, family, attention, number),
        latent=None if latent is None else _latent(family, latent),
        mixer=None if mixer is None else _mixer(family, mixer),
        experts=_experts(architecture, family, forward, tensors)
        if forward is not None and forward.num_experts
        else None,
        residual_first=family.residual_first,
        ffn_residual_first=family.ffn_residual_first,
        chosen_here=family.chosen_at_end == "layer",
        early=family.early,
        squared=family.squared,
        deepstack=number < family.deepstack,
        per_layer=tensors["inp_gate.weight"].ne[1] if "inp_gate.weight" in tensors else 0,
        cached=attention is None or attention.scope != "encoder",
        plain_norms=family.plain_norms,
        pins_last_norm=family.pins_last_norm,
        forwards=bool(forwards),
    )


def has_window(family: Family, part: Attention) -> bool:
    """Say whether llama.cpp gives a layer the smaller cache of those with a window."""
    return family.windows and part.scope in ("sliding", "chunked") and part.window is not None


def _heads(architecture: Architecture, family: Family, part: Attention, number: int) -> Heads:
    window = has_window(family, part) or (part.scope == "encoder" and part.window is not None)
    step = architecture.wiring.no_rope_step or family.no_rope_step
    rotary = family.rotary == "all" or (family.rotary == "window" and window)
    if step and (number + 1) % step == 0:
        rotary = False
    width = sum(tensor.size for tensor in part.tensors if tensor.slot == "q" and tensor.linear)
    matrix = next((tensor for tensor in part.tensors if tensor.slot == "q" and tensor.linear), None)
    gated = matrix is not None and width == 2 * part.num_heads * part.head_dim * min(matrix.shape)
    return Heads(
        heads=part.num_heads, kv_heads=part.num_kv_heads, key=part.head_dim, value=part.value_dim, window=window,
        rotary=rotary, norm_flat=family.norm_flat, norm_after_rope=family.norm_after_rope,
        scaled_by_position=architecture.wiring.scaled_by_position or (family.temperature and not rotary), value_norm=family.value_norm,
        gated=gated and matrix is not None and max(matrix.shape) == 2 * part.num_heads * part.head_dim,
        shares=part.shares_cache,
    )  # fmt: skip


def _latent(family: Family, part: LatentAttention) -> Latent:
    return Latent(
        heads=part.num_heads, nope=part.nope_dim, rope=part.rope_dim, value=part.value_dim, rank=part.kv_lora_rank,
        index_heads=part.index_heads, index_dim=part.index_dim, index_top_k=family.index_top_k,
    )  # fmt: skip


def _mixer(family: Family, part: Recurrent) -> Mixer:
    return Mixer(
        kind=part.kind, inner=part.inner_size, state=part.state_size, conv=part.conv_kernel, heads=part.num_heads,
        groups=max(1, part.num_groups), split_inputs=family.split_inputs, repeats_keys=family.repeats_keys,
        norms_steps=family.norms_steps,
    )  # fmt: skip


def _experts(
    architecture: Architecture, family: Family, part: FeedForward, tensors: Mapping[str, FileTensor]
) -> Experts:
    wiring = architecture.wiring
    gating = (
        "softmax_chosen"
        if family.softmax_chosen
        else "sigmoid"
        if family.sigmoid or wiring.sigmoid_router or "exp_probs_b.bias" in tensors
        else "softmax"
    )
    normalised = family.normalised if family.normalised is not None else wiring.norm_topk_prob is not False
    return Experts(
        used=part.num_experts_per_token, gating=gating, normalised=normalised,
        scaled=family.scaled_experts or wiring.scaled_experts, groups=wiring.expert_groups,
        used_groups=wiring.groups_per_token, weigh_first=family.weigh_first, router_apart=family.router_apart,
        beside="pre_ffw_norm_2.weight" in tensors,
    )  # fmt: skip


__all__ = ["FAMILIES", "Family", "family_of", "has_window", "layer_kind", "subtracts_mean"]
