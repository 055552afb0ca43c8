"""Pairs of towers that bring images and texts into one space, and the vision towers that other models take from them.

CLIP [1]_ and its copies differ in the text tower; SigLIP [2]_ drops the class token and pools by attention; AIMv2 [3]_ has
RMS norms and gated perceptrons.

References
----------
.. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, arXiv:2103.00020.
.. [2] X. Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023, arXiv:2303.15343; M. Tschannen et al.,
       "SigLIP 2", 2025, arXiv:2502.14786.
.. [3] E. Fini et al., "Multimodal Autoregressive Pre-training of Large Vision Encoders", 2024, arXiv:2411.14402.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.bert import bert_model
from vrameter.model.families.registry import Built, model, num_labels, read_part, tower
from vrameter.model.families.vision_parts import (
    attention_pooling,
    encoder_layer,
    fixed_grid,
    flat_patches,
    grid,
    pair,
    patches,
    tower_of,
)
from vrameter.model.image_input import AreaBounded


def projected(cfg: Config, class_name: str) -> Built | None:
    """Return a tower with its projection, for the classes that have one."""
    sides = {"CLIPTextModelWithProjection": "text", "CLIPVisionModelWithProjection": "vision"}
    side = sides.get(class_name)
    if side is None:
        return None
    name = "visual_projection" if side == "vision" else "text_projection"
    read = clip_vision_model if side == "vision" else clip_text_model
    body = read(cfg, f"{side}_model")
    matrix = parts.linear(name, cfg.integer("projection_dim"), body.hidden_size, role="projector")
    return Built((body, Component(kind="projector", name="projection", hidden_size=body.hidden_size, tensors=matrix)))


def clip_vision(cfg: Config, prefix: str, *, extra: Tensors = ()) -> Component:
    """Return CLIP's vision tower: a class token, positions, a norm before the layers and one after."""
    hidden = cfg.hidden_size
    tensors = (
        *parts.parameter("embeddings.class_embedding", hidden, role="embedding"),
        *patches(cfg, "embeddings.patch_embedding", hidden, bias=False),
        *parts.embedding("embeddings.position_embedding", grid(cfg) + 1, hidden, slot="position"),
        *parts.norm("pre_layrnorm", hidden, bias=True),
        *parts.norm("post_layernorm", hidden, bias=True),
        *extra,
    )
    return tower_of(cfg, prefix, encoder_layer(cfg), tensors=tensors, image=fixed_grid(cfg, extra_patches=1))


def text_tower(
    cfg: Config, prefix: str, layer: Layer, *, final: Tensors, layers_name: str = "encoder.layers"
) -> Component:
    """Return a text tower with learned positions."""
    hidden, positions = cfg.hidden_size, cfg.integer("max_position_embeddings")
    return Component(
        kind="encoder",
        name="text tower",
        hidden_size=hidden,
        layers=(layer,) * cfg.num_layers,
        tensors=(
            *parts.embedding("embeddings.token_embedding", cfg.vocab_size, hidden),
            *parts.embedding("embeddings.position_embedding", positions, hidden, slot="position"),
            *final,
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, layers_name),
        vocab_size=cfg.vocab_size,
        max_positions=positions,
    )


@tower(
    "clip_vision_model", "metaclip_2_vision_model", "chinese_clip_vision_model", "altclip_vision_model", heads=projected
)
def clip_vision_model(cfg: Config, prefix: str) -> Component:
    """CLIP's vision tower, which MetaCLIP 2, Chinese CLIP and AltCLIP keep."""
    return clip_vision(cfg, prefix)


@tower("mlcd", "mlcd_vision_model")
def mlcd_vision(cfg: Config, prefix: str) -> Component:
    """MLCD's tower: CLIP's with computed positions, and one learned for the class token."""
    body = clip_vision(cfg, prefix)
    kept = tuple(tensor for tensor in body.tensors if tensor.slot != "position")
    place = parts.parameter(
        "class_pos_emb", 1, cfg.hidden_size // cfg.num_heads // 2, role="embedding", slot="position"
    )
    return replace(body, tensors=(*kept, *place))


@tower("clip_text_model", "metaclip_2_text_model", heads=projected)
def clip_text_model(cfg: Config, prefix: str) -> Component:
    """CLIP's text tower."""
    return text_tower(cfg, prefix, encoder_layer(cfg), final=parts.norm("final_layer_norm", cfg.hidden_size, bias=True))


@tower("siglip_vision_model")
def siglip_vision_model(cfg: Config, prefix: str) -> Component:
    """SigLIP's vision tower; `vision_use_head` adds the pooling."""
    hidden = cfg.hidden_size
    tensors = (
        *patches(cfg, "embeddings.patch_embedding", hidden),
        *parts.embedding("embeddings.position_embedding", grid(cfg), hidden, slot="position"),
        *parts.norm("post_layernorm", hidden, bias=True),
        *(attention_pooling(cfg, "head", hidden) if cfg.flag("vision_use_head", True) else ()),
    )
    return tower_of(cfg, prefix, encoder_layer(cfg), tensors=tensors, image=fixed_grid(cfg))


@tower("siglip2_vision_model")
def siglip2_vision_model(cfg: Config, prefix: str) -> Component:
    """SigLIP 2's vision tower with a grid as large as the image: patches laid out as vectors, positions interpolated."""
    hidden = cfg.hidden_size
    positions, edge = cfg.integer("num_patches"), pair(cfg, "patch_size")
    tensors = (
        *flat_patches(cfg, "embeddings.patch_embedding", hidden),
        *parts.embedding("embeddings.position_embedding", positions, hidden, slot="position"),
        *parts.norm("post_layernorm", hidden, bias=True),
        *(attention_pooling(cfg, "head", hidden) if cfg.flag("vision_use_head", True) else ()),
    )
    area = positions * edge[0] * edge[1]
    image = AreaBounded(patch_size=edge, min_pixels=1, max_pixels=area)
    return tower_of(cfg, prefix, encoder_layer(cfg), tensors=tensors, image=image)


@tower("siglip_text_model", "siglip2_text_model")
def siglip_text_model(cfg: Config, prefix: str) -> Component:
    """SigLIP's text tower with its projection."""
    hidden = cfg.hidden_size
    final = (
        *parts.norm("final_layer_norm", hidden, bias=True),
        *parts.linear("head", cfg.integer("projection_size", hidden), hidden, bias=True, role="projector"),
    )
    return text_tower(cfg, prefix, encoder_layer(cfg), final=final)


@tower("chinese_clip_text_model")
def chinese_clip_text_model(cfg: Config, prefix: str) -> Component:
    """Chinese CLIP's text tower: BERT."""
    return bert_model(cfg, prefix, pooler="")


@tower("altclip_text_model")
def altclip_text_model(cfg: Config, prefix: str) -> Component:
    """AltCLIP's text tower: XLM-R, a norm and a projection."""
    hidden, projected_to = cfg.hidden_size, cfg.integer("project_dim", 768)
    body = bert_model(cfg, joined(prefix, "roberta"), layers_name="encoder.layers")
    last = (
        *parts.linear("transformation", projected_to, hidden, bias=True, role="projector"),
        *parts.norm("pre_LN", hidden, bias=True),
    )
    return replace(body, tensors=(*parts.below("roberta", body.tensors), *last), prefix=prefix)


def aim_layer(cfg: Config) -> Layer:
    """Return a layer of AIMv2."""
    qkv = cfg.flag("qkv_bias", False)
    return encoder_layer(
        cfg,
        norms=("rms_norm1", "rms_norm2"),
        norm_bias=False,
        attention={"name": "attention", "bias": qkv},
        mlp={"name": "ffn", "gated": True, "up": "up_proj", "down": "down_proj", "bias": cfg.flag("mlp_bias", False)},
    )


@tower("aimv2_vision_model")
def aimv2_vision_model(cfg: Config, prefix: str) -> Component:
    """AIMv2's vision tower; native ones compute their positions."""
    hidden, bias = cfg.hidden_size, cfg.flag("qkv_bias", False)
    head: Tensors = ()
    if cfg.flag("use_head", True):
        head = (
            *parts.parameter("head.cls_token", 1, 1, hidden),
            *parts.linear("head.k_proj", hidden, hidden, bias=bias, role="attention"),
            *parts.linear("head.v_proj", hidden, hidden, bias=bias, role="attention"),
            *parts.linear("head.output_proj", hidden, hidden, bias=True, role="attention"),
        )
    places = parts.embedding("embeddings.position_embedding", grid(cfg), hidden, slot="position")
    tensors = (
        *patches(cfg, "embeddings.patch_embed", hidden),
        *parts.norm("embeddings.rms_norm", hidden),
        *(() if cfg.flag("is_native", False) else places),
        *parts.norm("rms_norm", hidden),
        *head,
    )
    return tower_of(cfg, prefix, aim_layer(cfg), tensors=tensors, image=fixed_grid(cfg))


@tower("aimv2_text_model")
def aimv2_text_model(cfg: Config, prefix: str) -> Component:
    """AIMv2's text tower."""
    return text_tower(cfg, prefix, aim_layer(cfg), final=parts.norm("rms_norm", cfg.hidden_size))


def side(cfg: Config, name: str) -> Config:
    """Return one side's config; older files hold what overrules it under a second name."""
    own, more = cfg.nested(name), cfg.values.get(f"{name}_dict")
    return own.over(**more) if isinstance(more, Mapping) else own


def both_towers(cfg: Config, class_name: str, *, bias: bool, projections: bool = True, text_width: str = "") -> Built:
    """Return two towers and what joins them; a class for images alone has the vision tower and a classifier."""
    vision = read_part(side(cfg, "vision_config"), "vision_model")
    hidden = vision[0].hidden_size
    if class_name.endswith("ForImageClassification"):
        matrix = parts.linear("classifier", num_labels(cfg), hidden, bias=True, role="head")
        return Built((*vision, Component(kind="head", name="head", hidden_size=hidden, tensors=matrix)))
    own_text = side(cfg, "text_config")
    text = read_part(own_text, "text_model")
    shape: tuple[Any, ...] = (1,) if bias else ()
    scales = parts.parameter("logit_scale", *shape)
    if bias:
        scales += parts.parameter("logit_bias", 1)
    if projections:
        width = cfg.integer("projection_dim")
        from_text = own_text.integer(text_width) if text_width else text[0].hidden_size
        scales += parts.linear("visual_projection", width, hidden, role="projector")
        scales += parts.linear("text_projection", width, from_text, role="projector")
    joint = Component(kind="projector", name="projection", hidden_size=hidden, tensors=scales)
    return Built((*vision, *text, joint))


@model("clip", "metaclip_2", "chinese_clip", "aimv2")
def clip(cfg: Config, class_name: str) -> Built:
    """CLIP and the pairs with its two projections."""
    return both_towers(cfg, class_name, bias=False)


@model("altclip")
def altclip(cfg: Config, class_name: str) -> Built:
    """AltCLIP: its text tower projects before the projection."""
    return both_towers(cfg, class_name, bias=False, text_width="project_dim")


@model("siglip", "siglip2")
def siglip(cfg: Config, class_name: str) -> Built:
    """SigLIP: a scale and a bias, projections within the towers."""
    return both_towers(cfg, class_name, bias=True, projections=False)
