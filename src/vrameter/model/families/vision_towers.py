"""Vision towers that only stand in larger models: Pixtral, InternViT, MoonViT and others.

References
----------
.. [1] P. Agrawal et al., "Pixtral 12B", 2024, arXiv:2410.07073.
.. [2] Z. Chen et al., "InternVL", 2023, arXiv:2312.14238.
.. [3] Kimi Team, "Kimi-VL", 2025, arXiv:2504.07491 (MoonViT).
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component
from vrameter.model.config import Config
from vrameter.model.families.registry import tower
from vrameter.model.families.vision_parts import encoder_layer, fixed_grid, grid, pair, patches, tower_of
from vrameter.model.image_input import AreaBounded, EdgeBounded


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
    image = AreaBounded(patch_size=pair(cfg, "patch_size"), min_pixels=1, max_pixels=16384 * 14 * 14)
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="layers", image=image)
