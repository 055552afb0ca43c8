"""GLM's models that see: patches of several frames, merged by a convolution, and a gated perceptron behind it.

References
----------
.. [1] GLM-V Team, "GLM-4.1V-Thinking and GLM-4.5V", 2025, arXiv:2507.01006.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component
from vrameter.model.config import Config
from vrameter.model.families.llama import dense_decoder, full_scopes, rounded_heads
from vrameter.model.families.llama_relations import FUSED_MLP
from vrameter.model.families.multimodal import vision_language
from vrameter.model.families.qwen_vl import frame_patches, merged_grid
from vrameter.model.families.registry import Built, decoder, model, tower
from vrameter.model.families.shared_experts import glm4_moe
from vrameter.model.families.vision_parts import encoder_layer, grid, tower_of

NORMS = ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
# Bounds of an image's area by the processor's class, which counts an image as two frames. [transformers 5.23
# image_processing_glm4v]
AREA = {"min_pixels": 112 * 112 // 2, "max_pixels": 28 * 28 * 15000 // 2}


def merging_tower(cfg: Config, prefix: str, *, newer: bool = False) -> Component:
    """Return GLM's tower; `newer` has norms on heads and biases instead of learned positions."""
    hidden, outputs = cfg.hidden_size, cfg.integer("out_hidden_size")
    bias = cfg.flag("attention_bias", False)
    merge = cfg.integer("spatial_merge_size")
    attention = {"name": "attn", "qkv": "qkv", "o": "proj", "bias": bias, "o_bias": bias if newer else False}
    if newer:
        attention["qk_norm"] = hidden // cfg.num_heads
    inner = cfg.integer("intermediate_size") if newer else outputs
    layer = encoder_layer(
        cfg, norms=("norm1", "norm2"), norm_bias=False, attention=attention,
        mlp={"gated": True, "up": "up_proj", "down": "down_proj", "intermediate_size": inner, "bias": newer and bias},
    )  # fmt: skip
    wide = cfg.integer("projection_intermediate_size", None) or outputs * cfg.integer("in_channels", 3)
    merged = parts.mlp(
        hidden_size=outputs, intermediate_size=wide if newer else cfg.integer("intermediate_size"), name="merger",
        role="projector",
    )  # fmt: skip
    places = () if newer else parts.embedding("embeddings.position_embedding", grid(cfg), hidden, slot="position")
    tensors = (
        *places,
        *frame_patches(cfg, hidden, bias=True),
        *parts.linear("merger.proj", outputs, outputs, role="projector"),
        *parts.norm("merger.post_projection_norm", outputs, bias=True),
        *merged.tensors,
        *(() if newer else parts.norm("post_conv_layernorm", hidden)),
        *parts.conv("downsample", outputs, hidden, merge, merge),
        *parts.norm("post_layernorm", hidden),
    )
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="blocks", image=merged_grid(cfg, **AREA))


@tower("glm4v_vision", "glm4v_moe_vision")
def glm4v_vision(cfg: Config, prefix: str) -> Component:
    """GLM-4.1V's and 4.5V's tower [1]_."""
    return merging_tower(cfg, prefix)


@tower("glm_ocr_vision", "glm5_next_vision")
def glm_ocr_vision(cfg: Config, prefix: str) -> Component:
    """GLM-OCR's and GLM-5.3-Flash's tower."""
    return merging_tower(cfg, prefix, newer=True)


def fused_glm(cfg: Config, prefix: str, *, qkv_bias: bool | None = None) -> Component:
    """Return GLM-4-0414's decoder: norms around each part, gate and up in one matrix."""
    cfg = rounded_heads(cfg)
    return dense_decoder(
        cfg, prefix, qkv_bias=qkv_bias, o_bias=False, mlp_bias=False, norms=NORMS, scopes=full_scopes(cfg),
        mlp_traits=FUSED_MLP,
    )  # fmt: skip


@decoder("glm4v_text")
def glm4v_text(cfg: Config, prefix: str) -> Component:
    """GLM-4.1V's decoder: GLM-4-0414 with biases on queries, keys and values."""
    return fused_glm(cfg, prefix, qkv_bias=True)


@decoder("glm_ocr_text")
def glm_ocr_text(cfg: Config, prefix: str) -> Component:
    """GLM-OCR's decoder: the same without biases."""
    return fused_glm(cfg, prefix, qkv_bias=False)


@decoder("glm4v_moe_text")
def glm4v_moe_text(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """GLM-4.5V's decoder: GLM-4.5."""
    return glm4_moe(rounded_heads(cfg), prefix)


@model("glm4v", "glm4v_moe", "glm46v", "glm_ocr", "glmga", "glm5_next")
def glm4v(cfg: Config, class_name: str) -> Built:
    """GLM-4.1V, 4.5V, 4.6V, 5.3-Flash and GLM-OCR: the tower brings images to the decoder's width itself."""
    return vision_language(cfg, class_name, tower="visual", text_ties=True)
