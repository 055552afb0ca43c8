"""Vision transformers [1]_ for classification and features: ViT, DeiT, BEiT, DINO.

References
----------
.. [1] A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929; H. Touvron et al., "DeiT", 2020,
       arXiv:2012.12877; H. Bao et al., "BEiT", 2021, arXiv:2106.08254.
.. [2] M. Oquab et al., "DINOv2", 2023, arXiv:2304.07193; T. Darcet et al., "Vision Transformers Need Registers", 2023,
       arXiv:2309.16588; O. Siméoni et al., "DINOv3", 2025, arXiv:2508.10104.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import task_of
from vrameter.model.families.registry import ENTRIES, Built, num_labels, tower
from vrameter.model.families.vision_parts import encoder_layer, fixed_grid, grid, patches, tower_of

Heads = Callable[[Config, str], Built | None]

VIT_NORMS = ("layernorm_before", "layernorm_after")
VIT_ATTENTION = {"name": "attention", "o": "o_proj"}


def rounded(cfg: Config) -> dict[str, Any]:
    """Return ViT's attention, whose heads are rounded down where the width is no multiple of them."""
    return {**VIT_ATTENTION, "head_dim": cfg.hidden_size // cfg.num_heads}


def image_heads(*, width: int = 1, names: Sequence[str] = ("classifier",)) -> Heads:
    """Return the function that puts a classifier on a tower, `width` times as wide as its output."""

    def heads(cfg: Config, class_name: str) -> Built | None:
        task = task_of(class_name)
        if not task.startswith("ImageClassification"):
            return None
        found = ENTRIES[cfg.model_type]
        body = found.read(cfg, found.base, classifies=True)
        hidden, labels = width * body.hidden_size, num_labels(cfg)
        which = names if task == "ImageClassificationWithTeacher" else names[:1]
        if task == "ImageClassificationWithTeacher":
            which = ("cls_classifier", "distillation_classifier")
        tensors = tuple(
            tensor for name in which for tensor in parts.linear(name, labels, hidden, bias=True, role="head")
        )
        return Built((body, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)))

    return heads


def class_token(hidden: int, name: str = "cls_token") -> Tensors:
    """Return one learned vector in front of the patches."""
    return parts.parameter(f"embeddings.{name}", 1, 1, hidden, role="embedding")


def positions(cfg: Config, count: int) -> Tensors:
    """Return the table of learned positions as a parameter."""
    return parts.parameter(
        "embeddings.position_embeddings", 1, count, cfg.hidden_size, role="embedding", slot="position"
    )


def pooler(cfg: Config) -> Tensors:
    """Return ViT's pooler: one linear layer on the class token."""
    width = cfg.integer("pooler_output_size", cfg.hidden_size)
    return parts.linear("pooler.dense", width, cfg.hidden_size, bias=True, role="head")


def vit_model(
    cfg: Config,
    prefix: str,
    *,
    extra: Sequence[str] = (),
    has_class: bool = True,
    pools: bool = True,
    mask: bool = False,
) -> Component:
    """Return ViT's tower; `extra` names learned vectors besides the class token."""
    hidden = cfg.hidden_size
    tokens = (("cls_token",) if has_class else ()) + tuple(extra)
    bias = cfg.flag("qkv_bias", True)
    layer = encoder_layer(cfg, norms=VIT_NORMS, attention={**rounded(cfg), "bias": bias, "o_bias": True})
    tensors = (
        *(tensor for name in tokens for tensor in class_token(hidden, name)),
        *(class_token(hidden, "mask_token") if mask else ()),
        *positions(cfg, grid(cfg) + len(tokens)),
        *patches(cfg, "embeddings.patch_embeddings.projection", hidden),
        *parts.norm("layernorm", hidden, bias=True),
        *(pooler(cfg) if pools else ()),
    )
    image = fixed_grid(cfg, extra_patches=len(tokens))
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="layers", image=image)


@tower("vit", base="vit", heads=image_heads())
def vit(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """ViT."""
    return vit_model(cfg, prefix, pools=not classifies)


@tower("vit_mae", base="vit")
def vit_mae(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """ViT-MAE's encoder."""
    return vit_model(cfg, prefix, pools=False)


@tower("deit", base="deit", heads=image_heads())
def deit(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """DeiT: a second token that learns from a teacher."""
    return vit_model(cfg, prefix, extra=("distillation_token",), pools=not classifies)


@tower("vit_msn", base="vit", heads=image_heads())
def vit_msn(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """ViT-MSN: no pooler."""
    return vit_model(cfg, prefix, pools=False)


@tower("ijepa", base="ijepa", heads=image_heads())
def ijepa(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """I-JEPA: neither class token nor pooler."""
    return vit_model(cfg, prefix, has_class=False, pools=False)


def beit_model(
    cfg: Config,
    prefix: str,
    *,
    pools: bool = True,
    layers_name: str = "layers",
    attention: Mapping[str, Any] = VIT_ATTENTION,
    mlp: Mapping[str, Any] | None = None,
    own_positions: str = "relative_position_bias",
    shared_positions: str = "relative_position_bias",
) -> Component:
    """Return BEiT's tower: scales per channel, relative positions in each layer or shared, keys without a bias."""
    hidden, heads = cfg.hidden_size, cfg.num_heads
    side = grid(cfg)
    rows = 4 * side - 4 * int(side**0.5) + 1 + 3
    scaled = cfg.number("layer_scale_init_value", 0.1) > 0
    own = parts.parameter(f"{own_positions}.relative_position_bias_table", rows, heads)
    bias = own if cfg.flag("use_relative_position_bias", False) else ()
    scales = (*parts.parameter("lambda_1", hidden), *parts.parameter("lambda_2", hidden)) if scaled else ()
    layer = encoder_layer(
        cfg, norms=VIT_NORMS, attention={**attention, "k_bias": False, "extra": bias}, mlp=mlp, extra=scales
    )
    mean = cfg.flag("use_mean_pooling", True)
    shared = parts.parameter(f"{shared_positions}.relative_position_bias_table", rows, heads)
    tensors = (
        *class_token(hidden),
        *(class_token(hidden, "mask_token") if cfg.flag("use_mask_token", False) else ()),
        *(positions(cfg, side + 1) if cfg.flag("use_absolute_position_embeddings", False) else ()),
        *patches(cfg, "embeddings.patch_embeddings.projection", hidden),
        *(shared if cfg.flag("use_shared_relative_position_bias", False) else ()),
        *(() if mean else parts.norm("layernorm", hidden, bias=True)),
        *(parts.norm("pooler.layernorm", hidden, bias=True) if mean and pools else ()),
    )
    return tower_of(
        cfg, prefix, layer, tensors=tensors, layers_name=layers_name, image=fixed_grid(cfg, extra_patches=1)
    )


@tower("beit", base="beit", heads=image_heads())
def beit(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """BEiT."""
    return beit_model(cfg, prefix)


@tower("data2vec-vision", base="data2vec_vision", heads=image_heads())
def data2vec_vision(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """Data2Vec for images: BEiT's tower under older names."""
    return beit_model(
        cfg, prefix, pools=classifies, layers_name="encoder.layer", mlp={"name": "", "up": "intermediate.dense", "down": "output.dense"},
        attention={"name": "attention", "q": "attention.query", "k": "attention.key", "v": "attention.value",
                   "o": "output.dense"},
        own_positions="attention.attention.relative_position_bias",
        shared_positions="encoder.relative_position_bias",
    )  # fmt: skip


def dino_tower(cfg: Config, prefix: str, *, registers: int = 0) -> Component:
    """Return DINOv2's tower [2]_: a scale per channel after each part, a plain or a gated perceptron."""
    hidden = cfg.hidden_size
    inner = int(hidden * cfg.number("mlp_ratio", 4))
    mlp: dict[str, Any] = {"intermediate_size": inner}
    if cfg.flag("use_swiglu_ffn", False):
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
        mlp = {"intermediate_size": inner, "gated": True, "up": "up_proj", "down": "down_proj"}
    scales = (*parts.parameter("layer_scale1.lambda1", hidden), *parts.parameter("layer_scale2.lambda1", hidden))
    layer = encoder_layer(
        cfg, norms=("norm1", "norm2"), mlp=mlp, extra=scales,
        attention={**VIT_ATTENTION, "bias": cfg.flag("qkv_bias", True), "o_bias": True},
    )  # fmt: skip
    marks = parts.parameter("embeddings.register_tokens", 1, registers, hidden, role="embedding")
    tensors = (
        *class_token(hidden),
        *parts.parameter("embeddings.mask_token", 1, hidden, role="embedding"),
        *(positions(cfg, grid(cfg) + 1)),
        *(marks if registers else ()),
        *patches(cfg, "embeddings.patch_embeddings.projection", hidden),
        *parts.norm("layernorm", hidden, bias=True),
    )
    image = fixed_grid(cfg, extra_patches=1 + registers)
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="encoder.layer", image=image)


@tower("dinov2", base="dinov2", heads=image_heads(width=2))
def dinov2(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """DINOv2; its classifier reads the class token and the mean of the patches."""
    return dino_tower(cfg, prefix)


@tower("dinov2_with_registers", base="dinov2_with_registers", heads=image_heads(width=2))
def dinov2_with_registers(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """DINOv2 with registers."""
    return dino_tower(cfg, prefix, registers=cfg.integer("num_register_tokens", 4))


@tower("dinov3_vit")
def dinov3_vit(cfg: Config, prefix: str) -> Component:
    """DINOv3: rotary positions, biases each with a flag of its own."""
    hidden, registers = cfg.hidden_size, cfg.integer("num_register_tokens", 0, least=0)
    bias = cfg.flag("mlp_bias", True)
    scales = (*parts.parameter("layer_scale1.lambda1", hidden), *parts.parameter("layer_scale2.lambda1", hidden))
    layer = encoder_layer(
        cfg, norms=("norm1", "norm2"), extra=scales,
        attention={**VIT_ATTENTION, "q_bias": cfg.flag("query_bias", True), "k_bias": cfg.flag("key_bias", False),
                   "v_bias": cfg.flag("value_bias", True), "o_bias": cfg.flag("proj_bias", True)},
        mlp={"gated": cfg.flag("use_gated_mlp", False), "up": "up_proj", "down": "down_proj", "bias": bias},
    )  # fmt: skip
    tensors = (
        *class_token(hidden),
        *class_token(hidden, "mask_token"),
        *parts.parameter("embeddings.register_tokens", 1, registers, hidden, role="embedding"),
        *patches(cfg, "embeddings.patch_embeddings", hidden),
        *parts.norm("norm", hidden, bias=True),
    )
    image = fixed_grid(cfg, extra_patches=1 + registers)
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name=joined("model", "layer"), image=image)
