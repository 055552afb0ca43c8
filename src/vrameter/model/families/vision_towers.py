"""Vision towers that only stand in larger models: Pixtral, InternViT, MoonViT and others.

References
----------
.. [1] P. Agrawal et al., "Pixtral 12B", 2024, arXiv:2410.07073.
.. [2] Z. Chen et al., "InternVL", 2023, arXiv:2312.14238.
.. [3] Kimi Team, "Kimi-VL", 2025, arXiv:2504.07491 (MoonViT).
.. [4] A. Kirillov et al., "Segment Anything", 2023, arXiv:2304.02643.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer
from vrameter.model.config import Config
from vrameter.model.families.qwen_vl import merged_grid
from vrameter.model.families.registry import stack, tower
from vrameter.model.families.vision_parts import (
    encoder_layer,
    first,
    fixed_grid,
    flat_patches,
    grid,
    pair,
    patches,
    tower_of,
)
from vrameter.model.image_input import EdgeBounded, PaddedGrid


@tower("pixtral")
def pixtral(cfg: Config, prefix: str) -> Component:
    """Pixtral's tower [1]_: rotary positions, RMS norms, gated perceptrons, no biases."""
    hidden = cfg.hidden_size
    layer = encoder_layer(
        cfg,
        norms=("attention_norm", "ffn_norm"),
        norm_bias=False,
        attention={"name": "attention", "o": "o_proj", "bias": False},
        mlp={"name": "feed_forward", "gated": True, "up": "up_proj", "down": "down_proj", "bias": False},
    )
    tensors = (*patches(cfg, "patch_conv", hidden, bias=False), *parts.norm("ln_pre", hidden))
    image = EdgeBounded(patch_size=pair(cfg, "patch_size"), longest_edge=pair(cfg, "image_size")[0])
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="transformer.layers", image=image)


def intern_tower(cfg: Config, prefix: str, *, layers_name: str) -> Component:
    """Return InternViT [2]_: BEiT's order, a scale per channel, optional norms on queries and keys."""
    hidden = cfg.hidden_size
    attention = {
        "name": "attention", "o": "projection_layer", "bias": cfg.flag("attention_bias", False), "o_bias": True,
        "qk_norm": hidden if cfg.flag("use_qk_norm", False) else None,
    }  # fmt: skip
    scales = (*parts.parameter("lambda_1", hidden), *parts.parameter("lambda_2", hidden))
    layer = encoder_layer(
        cfg,
        norms=("layernorm_before", "layernorm_after"),
        norm_bias=cfg.text("norm_type", "layer_norm") == "layer_norm",
        attention=attention,
        extra=scales,
    )
    places = parts.parameter("embeddings.position_embeddings", 1, grid(cfg) + 1, hidden, role="embedding")
    tensors = (
        *parts.parameter("embeddings.cls_token", 1, 1, hidden, role="embedding"),
        *(
            parts.parameter("embeddings.mask_token", 1, 1, hidden, role="embedding")
            if cfg.flag("use_mask_token", False)
            else ()
        ),
        *(places if cfg.flag("use_absolute_position_embeddings", True) else ()),
        *patches(cfg, "embeddings.patch_embeddings.projection", hidden),
        *(() if cfg.flag("use_mean_pooling", True) else parts.norm("layernorm", hidden, bias=True)),
    )
    image = fixed_grid(cfg, extra_patches=1)
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name=layers_name, image=image)


@tower("internvl_vision")
def internvl_vision(cfg: Config, prefix: str) -> Component:
    """InternVL's tower."""
    return intern_tower(cfg, prefix, layers_name="encoder.layer")


@tower("qianfan_ocr_vision")
def qianfan_ocr_vision(cfg: Config, prefix: str) -> Component:
    """Qianfan-OCR's tower: InternViT."""
    return intern_tower(cfg, prefix, layers_name="layers")


@tower("kimi_k25_vision")
def kimi_k25_vision(cfg: Config, prefix: str) -> Component:
    """Kimi K2.5's tower: MoonViT [3]_ with learned positions for space and computed ones for time."""
    hidden = cfg.hidden_size
    layer = encoder_layer(cfg, norms=("norm1", "norm2"), attention={"name": "attn", "o": "proj"})
    places = (cfg.integer("pos_emb_height"), cfg.integer("pos_emb_width"), hidden)
    tensors = (
        *patches(cfg, "patch_embed.proj", hidden),
        *parts.parameter("patch_embed.pos_emb.position_embeddings", *places, role="embedding", slot="position"),
        *parts.norm("final_layernorm", hidden, bias=True),
    )
    merge = first(cfg, "merge_kernel_size", 2)
    image = PaddedGrid(patch_size=pair(cfg, "patch_size"), merge=merge, budget=16384, longest=512)
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="layers", image=image)


@tower("minimax_m3_vl_vision")
def minimax_m3_vision(cfg: Config, prefix: str) -> Component:
    """MiniMax-M3's tower: CLIP's layers on patches of several frames, rotary positions."""
    hidden = cfg.hidden_size
    kernel = (first(cfg, "temporal_patch_size", 2), *pair(cfg, "patch_size"))
    tensors = (
        *parts.conv("embeddings.proj", hidden, cfg.integer("num_channels", 3), *kernel, bias=False),
        *parts.norm("pre_layrnorm", hidden, bias=True),
    )
    return tower_of(cfg, prefix, encoder_layer(cfg), tensors=tensors, layers_name="layers", image=merged_grid(cfg))


@tower("ernie4_5_vl_moe_vision")
def ernie4_5_vision(cfg: Config, prefix: str) -> Component:
    """ERNIE 4.5 VL's tower: Qwen2-VL's layers on single frames."""
    hidden = cfg.hidden_size
    layer = encoder_layer(
        cfg, norms=("norm1", "norm2"), attention={"name": "attn", "qkv": "qkv", "o": "proj"},
    )  # fmt: skip
    tensors = (
        *flat_patches(cfg, "patch_embed.proj", hidden, bias=False),
        *parts.norm("ln", hidden, bias=True),
    )
    image = merged_grid(cfg, max_pixels=28 * 28 * 6177)
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="blocks", image=image)


@tower("paddleocr_vl_vision")
def paddleocr_vision(cfg: Config, prefix: str) -> Component:
    """PaddleOCR-VL's tower: SigLIP's layers on a grid as large as the image."""
    hidden = cfg.hidden_size
    tensors = (
        *patches(cfg, "vision_model.embeddings.patch_embedding", hidden),
        *parts.embedding("vision_model.embeddings.position_embedding", grid(cfg), hidden, slot="position"),
        *parts.norm("vision_model.post_layernorm", hidden, bias=True),
    )
    image = merged_grid(cfg, min_pixels=384 * 384, max_pixels=1536 * 1536)
    return tower_of(
        cfg, prefix, encoder_layer(cfg), tensors=tensors, layers_name="vision_model.encoder.layers", image=image
    )


@tower("hunyuan_vl_vision")
def hunyuan_vision(cfg: Config, prefix: str, *, outputs: int | None = None) -> Component:
    """Hunyuan-VL's tower with the convolutions that merge patches, and learned marks around an image."""
    hidden, merge = cfg.hidden_size, cfg.integer("spatial_merge_size")
    outputs = outputs or cfg.integer("text_hidden_size")
    edge = pair(cfg, "patch_size")
    places = (cfg.integer("max_image_size") // edge[0]) ** 2 + 1
    marks = (
        tensor
        for name in ("begin", "end", "sep")
        for tensor in parts.parameter(f"patch_merger.image_{name}", outputs, role="projector")
    )
    tensors = (
        *patches(cfg, "embeddings.patch_embedding", hidden),
        *parts.embedding("embeddings.position_embedding", places, hidden, slot="position"),
        *parts.parameter("patch_merger.image_newline", 4 * hidden, role="projector"),
        *marks,
        *parts.conv("patch_merger.proj_conv", 2 * hidden, hidden, merge, merge, role="projector"),
        *parts.conv("patch_merger.proj_out", 4 * hidden, 2 * hidden, 1, 1, role="projector"),
        *parts.linear("patch_merger.mlp", outputs, 4 * hidden, bias=True, role="projector"),
        *parts.norm("patch_merger.before_rms", hidden),
        *parts.norm("patch_merger.after_rms", outputs),
    )
    most = cfg.integer("max_image_size") ** 2
    image = merged_grid(cfg, min_pixels=cfg.integer("min_image_size") ** 2, max_pixels=most)
    return tower_of(
        cfg, prefix, encoder_layer(cfg, attention={"o": "o_proj"}), tensors=tensors, layers_name="layers", image=image
    )


@tower("step3p5_vision")
def step3p7_vision(cfg: Config, prefix: str) -> Component:
    """Step-3.7's tower: InternViT's order without a class token, then two convolutions that quarter the grid."""
    hidden = cfg.integer("width", None) or cfg.hidden_size
    own = cfg.over(hidden_size=hidden, num_attention_heads=cfg.integer("heads", None) or cfg.num_heads)
    layer = encoder_layer(
        own,
        norms=("layernorm_before", "layernorm_after"),
        mlp={"intermediate_size": int(hidden * cfg.number("mlp_ratio"))},
        extra=(*parts.parameter("lambda_1", hidden), *parts.parameter("lambda_2", hidden)),
    )
    tensors = (
        *patches(cfg, "embeddings.patch_embedding", hidden, bias=False),
        *parts.embedding("embeddings.position_embedding", grid(cfg), hidden, slot="position"),
        *parts.norm("pre_layernorm", hidden, bias=True),
        *parts.conv("downsampler1", 2 * hidden, hidden, 3, 3, role="projector"),
        *parts.conv("downsampler2", 4 * hidden, 2 * hidden, 3, 3, role="projector"),
    )
    count = cfg.layers("layers", cfg.num_layers)
    return tower_of(
        own, prefix, layer, tensors=tensors, layers_name="layers", count=count, image=fixed_grid(cfg, merge=4)
    )


@tower("got_ocr2_vision", "pp_chart2table_vision")
def got_ocr2_vision(cfg: Config, prefix: str) -> Component:
    """GOT-OCR 2's tower: SAM's, layers with windows and learned relative positions, and a convolutional neck."""
    return sam_tower(cfg, prefix, global_layers=cfg.integers("global_attn_indexes", [2, 5, 8, 11]))


def sam_layers(cfg: Config) -> tuple[Config, list[int]]:
    """Return SAM's config with the perceptron's width worked out, and which of its layers see the whole image."""
    own = cfg.over(mlp_dim=cfg.integer("mlp_dim", None) or int(cfg.hidden_size * cfg.number("mlp_ratio", 4)))
    return own, cfg.integers("global_attn_indexes", [2, 5, 8, 11])


def sam_tower(cfg: Config, prefix: str, *, global_layers: list[int]) -> Component:
    """Return SAM's tower [4]_."""
    hidden, window = cfg.hidden_size, cfg.integer("window_size", 14)
    rows, columns = (size // edge for size, edge in zip(pair(cfg, "image_size"), pair(cfg, "patch_size"), strict=True))
    dim = hidden // cfg.num_heads

    def layer(is_global: bool) -> Layer:
        reach = (rows, columns) if is_global else (window, window)
        relative = (
            *parts.parameter("attn.rel_pos_h", 2 * reach[0] - 1, dim, role="embedding", slot="position"),
            *parts.parameter("attn.rel_pos_w", 2 * reach[1] - 1, dim, role="embedding", slot="position"),
        )
        return encoder_layer(
            cfg,
            attention={
                "name": "attn", "qkv": "qkv", "o": "proj", "bias": cfg.flag("qkv_bias", True), "o_bias": True,
                "extra": relative if cfg.flag("use_rel_pos", True) else (),
            },
            mlp={"up": "lin1", "down": "lin2", "intermediate_size": cfg.integer("mlp_dim")},
        )  # fmt: skip

    outputs = cfg.integer("output_channels")
    places = parts.parameter("pos_embed", 1, rows, columns, hidden, role="embedding", slot="position")
    tensors = (
        *(places if cfg.flag("use_abs_pos", True) else ()),
        *patches(cfg, "patch_embed.projection", hidden),
        *parts.conv("neck.conv1", outputs, hidden, 1, 1, bias=False),
        *parts.norm("neck.layer_norm1", outputs, bias=True),
        *parts.conv("neck.conv2", outputs, outputs, 3, 3, bias=False),
        *parts.norm("neck.layer_norm2", outputs, bias=True),
    )
    layers = stack([index in global_layers for index in range(cfg.num_layers)], layer)
    return tower_of(cfg, prefix, layers, tensors=tensors, layers_name="layers", image=fixed_grid(cfg))
