"""Qwen's models that see, and those built like them: a grid of patches as large as the image, merged four to a token.

Three towers follow one another: LayerNorms and a plain perceptron (Qwen2-VL); RMSNorms, a gated perceptron and windows
(Qwen2.5-VL, EXAONE 4.5); learned positions and mergers after some layers, whose output joins the decoder's first layers
(Qwen3-VL; Qwen3.5 keeps the tower without them).

References
----------
.. [1] P. Wang et al., "Qwen2-VL", 2024, arXiv:2409.12191; S. Bai et al., "Qwen2.5-VL", 2025, arXiv:2502.13923.
.. [2] L. Meng et al., "DeepStack", 2024, arXiv:2406.04334 (mergers after several layers).
"""

from __future__ import annotations

from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.config import Config
from vrameter.model.families.llama import dense_decoder, full_scopes, qwen2, rounded_heads
from vrameter.model.families.mixtral import qwen3_moe
from vrameter.model.families.multimodal import vision_language
from vrameter.model.families.registry import Built, decoder, model, tower
from vrameter.model.families.vision_parts import encoder_layer, first, pair, patches, plain_mlp, tower_of
from vrameter.model.image_input import AreaBounded

# Bounds of an image's area by the processors' classes. [transformers 5.23 image_processing_qwen2_vl]
MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 1280


def merged_grid(cfg: Config, **bounds: int) -> AreaBounded:
    """Return the rule of a grid as large as the image."""
    frames = first(cfg, "temporal_patch_size", 1)
    return AreaBounded(
        patch_size=pair(cfg, "patch_size"),
        merge=cfg.integer("spatial_merge_size"),
        temporal_patch=frames,
        min_pixels=bounds.get("min_pixels", MIN_PIXELS),
        max_pixels=bounds.get("max_pixels", MAX_PIXELS),
    )


def frame_patches(cfg: Config, width: int, *, bias: bool) -> Tensors:
    """Return the convolution over patches of several frames."""
    return patches(cfg, "patch_embed.proj", width, bias=bias, frames=first(cfg, "temporal_patch_size"))


def merger(cfg: Config, name: str, width: int, outputs: int, *, norm: str = "ln_q", norm_bias: bool = True) -> Tensors:
    """Return Qwen2-VL's merger: a norm on each patch, then two layers on four together."""
    merged = width * cfg.integer("spatial_merge_size") ** 2
    return (
        *parts.norm(f"{name}.{norm}", width, bias=norm_bias),
        *plain_mlp(f"{name}.mlp", merged, merged, outputs, up="0", down="2", role="projector"),
    )


@tower("qwen2_vl_vision")
def qwen2_vl_vision(cfg: Config, prefix: str) -> Component:
    """Qwen2-VL's tower: `embed_dim` is its width, `hidden_size` the decoder's."""
    width = cfg.integer("embed_dim")
    layer = encoder_layer(
        cfg, hidden=width, norms=("norm1", "norm2"), attention={"name": "attn", "qkv": "qkv", "o": "proj"},
        mlp={"intermediate_size": int(width * cfg.number("mlp_ratio", 4))},
    )  # fmt: skip
    tensors = (*frame_patches(cfg, width, bias=False), *merger(cfg, "merger", width, cfg.hidden_size))
    return tower_of(cfg, prefix, layer, tensors=tensors, hidden=width, layers_name="blocks", image=merged_grid(cfg))


def gated_tower(cfg: Config, prefix: str, **attention: Any) -> Component:
    """Return Qwen2.5-VL's tower; most of its layers look at windows, which changes no tensor."""
    width = cfg.hidden_size
    layer = encoder_layer(
        cfg, norms=("norm1", "norm2"), norm_bias=False,
        attention={"name": "attn", "qkv": "qkv", "o": "proj", **attention},
        mlp={"gated": True, "up": "up_proj", "down": "down_proj"},
    )  # fmt: skip
    tensors = (
        *frame_patches(cfg, width, bias=False),
        *merger(cfg, "merger", width, cfg.integer("out_hidden_size"), norm_bias=False),
    )
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="blocks", image=merged_grid(cfg))


@tower("qwen2_5_vl_vision")
def qwen2_5_vl_vision(cfg: Config, prefix: str) -> Component:
    """Qwen2.5-VL's tower."""
    return gated_tower(cfg, prefix)


@tower("exaone4_5_vision")
def exaone4_5_vision(cfg: Config, prefix: str) -> Component:
    """EXAONE 4.5's tower: Qwen2.5-VL's with fewer heads for keys and values."""
    return gated_tower(cfg, prefix, num_kv_heads=cfg.integer("num_key_value_heads", 8))


def stacked_tower(cfg: Config, prefix: str, *, deep: bool) -> Component:
    """Return Qwen3-VL's tower; with `deep`, mergers after the layers of ``deepstack_visual_indexes`` [2]_."""
    width = cfg.hidden_size
    merged = width * cfg.integer("spatial_merge_size") ** 2
    outputs = cfg.integer("out_hidden_size")

    def merging(name: str, norm: int) -> Tensors:
        layers = plain_mlp(name, merged, merged, outputs, up="linear_fc1", down="linear_fc2", role="projector")
        return (*parts.norm(f"{name}.norm", norm, bias=True), *layers)

    layer = encoder_layer(
        cfg, norms=("norm1", "norm2"), attention={"name": "attn", "qkv": "qkv", "o": "proj"},
        mlp={"up": "linear_fc1", "down": "linear_fc2"},
    )  # fmt: skip
    after = cfg.integers("deepstack_visual_indexes", []) if deep else []
    tensors = (
        *frame_patches(cfg, width, bias=True),
        *parts.embedding("pos_embed", cfg.integer("num_position_embeddings"), width, slot="position"),
        *merging("merger", width),
        *(tensor for index in range(len(after)) for tensor in merging(f"deepstack_merger_list.{index}", merged)),
    )
    bounds = {"min_pixels": 256 * 256, "max_pixels": 4096 * 4096}
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="blocks", image=merged_grid(cfg, **bounds))


@tower("qwen3_vl_vision", "qwen3_vl_moe_vision", "cohere_compass_vision")
def qwen3_vl_vision(cfg: Config, prefix: str) -> Component:
    """Qwen3-VL's tower."""
    return stacked_tower(cfg, prefix, deep=True)


@tower("qwen3_5_vision", "qwen3_5_moe_vision", "qwen4_exp_vision")
def qwen3_5_vision(cfg: Config, prefix: str) -> Component:
    """Qwen3.5's tower: Qwen3-VL's with one merger."""
    return stacked_tower(cfg, prefix, deep=False)


@decoder("qwen2_vl_text", "qwen2_5_vl_text")
def qwen2_vl_text(cfg: Config, prefix: str) -> Component:
    """Qwen2-VL's and Qwen2.5-VL's decoder: Qwen2."""
    return qwen2(cfg, prefix)


@decoder("qwen3_vl_text")
def qwen3_vl_text(cfg: Config, prefix: str) -> Component:
    """Qwen3-VL's decoder: Qwen3 without windows."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, qk_norm="head", mlp_bias=False, scopes=full_scopes(cfg))


@decoder("qwen3_vl_moe_text")
def qwen3_vl_moe_text(cfg: Config, prefix: str) -> Component:
    """Qwen3-VL-MoE's decoder: Qwen3-MoE."""
    return qwen3_moe(cfg.over(use_sliding_window=False), prefix)


@model("qwen2_vl", "qwen2_5_vl")
def qwen2_vl(cfg: Config, class_name: str) -> Built:
    """Qwen2-VL and Qwen2.5-VL; older files hold the decoder's fields beside ``vision_config``."""
    return vision_language(cfg, class_name, tower="visual", text_ties=True)


@model("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp", "exaone4_5", "cohere_compass", "cosmos3_omni")
def qwen3_vl(cfg: Config, class_name: str) -> Built:
    """Qwen3-VL, Qwen3.5, EXAONE 4.5 and North: the tower brings images to the decoder's width itself."""
    return vision_language(cfg, class_name, tower="visual")
