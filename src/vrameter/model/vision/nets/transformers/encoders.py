"""Vision transformers: ViT, ViT-MSN, DeiT, BEiT, DINOv2, and the towers of CLIP and SigLIP.

References
----------
.. [1] transformers 5.23: ``modeling_vit.py``, ``modeling_deit.py``, ``modeling_beit.py``, ``modeling_dinov2.py``, ``modeling_clip.py``,
       ``modeling_siglip.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vrameter.model.config import Config
from vrameter.model.vision.net import Map, Net

Facts = Any


@dataclass(frozen=True, slots=True)
class Style:
    """How a family names its modules and where it scales.

    Parameters
    ----------
    norms, attention, output
        Names of a layer's two norms, of its attention and of that one's last matrix.
    scales
        Names of the scales of both branches.
    patches, tokens, positions
        Names of the embeddings' parts.
    rotates
        Whether queries and keys are turned by their positions.
    last, first
        Names of the norms after and before the layers.
    pooled
        What the classifier reads: ``class``, ``patches`` (their mean), ``all`` (the mean of all), ``both``.
    """

    norms: tuple[str, str] = ("layernorm_before", "layernorm_after")
    attention: str = "attention"
    output: str = "o_proj"
    scales: tuple[str, ...] = ()
    patches: str = "embeddings.patch_embeddings.projection"
    patch_bias: bool = True
    tokens: tuple[str | tuple[str, int], ...] = ("embeddings.cls_token",)
    rotates: bool = False
    token_shape: str = "row"
    positions: str = "embeddings.position_embeddings"
    last: str = "layernorm"
    first: str = ""
    pooled: str = "class"


DINO = Style(norms=("norm1", "norm2"), scales=("layer_scale1.lambda1", "layer_scale2.lambda1"), pooled="both")
CLIP = Style(
    norms=("layer_norm1", "layer_norm2"), attention="self_attn", output="out_proj", patches="embeddings.patch_embedding",
    patch_bias=False, tokens=("embeddings.class_embedding",), token_shape="vector", positions="embeddings.position_embedding.weight",
    last="", first="pre_layrnorm", pooled="patches",
)  # fmt: skip
STYLES = {
    "vit": Style(),
    "vit_msn": Style(),
    "deit": Style(tokens=("embeddings.cls_token", "embeddings.distillation_token")),
    "beit": Style(scales=("lambda_1", "lambda_2"), last="", pooled="patches", positions=""),
    "dinov2": DINO,
    "dinov2_with_registers": DINO,
    "dinov3_vit": Style(
        norms=("norm1", "norm2"), scales=("layer_scale1.lambda1", "layer_scale2.lambda1"), patches="embeddings.patch_embeddings",
        positions="", last="norm", rotates=True,
    ),
    "clip": CLIP,
    "siglip": Style(
        norms=("layer_norm1", "layer_norm2"), attention="self_attn", output="out_proj", patches="embeddings.patch_embedding", tokens=(),
        positions="embeddings.position_embedding.weight", last="post_layernorm", pooled="all",
    ),
}  # fmt: skip


def layer(
    net: Net, x: Map, *, cfg: Config, style: Style, heads: int, hidden: int, act: str, rate: float,
    tables: tuple[Map, Map] | None, first: int,
) -> Map:  # fmt: skip
    """Run one layer: attention and a perceptron, each behind a norm."""
    width = x.channels
    bias = cfg.flag("qkv_bias", True)
    y = net.layer_norm(x, style.norms[0])
    table = None
    if cfg.flag("use_relative_position_bias", False):
        area = int(cfg.integer("image_size", 224)) // int(cfg.integer("patch_size", 16))
        table = net.parameter("relative_position_bias.relative_position_bias_table", (2 * area - 1) ** 2 + 3, heads)
    with net.within(style.attention):
        q = net.linear(y, "q_proj", width, bias=cfg.flag("query_bias", bias), role="attention", slot="q")
        keyed = cfg.flag("key_bias", False) if style.rotates else bias and style is not STYLES["beit"]
        k = net.linear(y, "k_proj", width, bias=keyed, role="attention", slot="k")
        v = net.linear(y, "v_proj", width, bias=cfg.flag("value_bias", bias), role="attention", slot="v")
        del y
        if tables is not None:
            q, k = net.rotate(q, tables, first), net.rotate(k, tables, first)
        y = net.attend(
            q, k, v, heads, table=table, wide=style is not DINO and not style.rotates, heads_first=tables is not None
        )
        del q, k, v
        y = net.linear(y, style.output, width, bias=cfg.flag("proj_bias", True), role="attention", slot="o")
    scaled = style.scales if cfg.number("layer_scale_init_value", 1.0) > 0 or style is DINO or style.rotates else ()
    if scaled:
        y = net.scale(y, scaled[0])
    x = net.add(net.drop_path(y, rate), x)
    y = net.layer_norm(x, style.norms[1])
    with net.within("mlp"):
        plain = cfg.flag("mlp_bias", True)
        if style.rotates and not cfg.flag("use_gated_mlp", False):
            y = net.act(net.linear(y, "up_proj", hidden, bias=plain, role="mlp", slot="up"), act)
            y = net.linear(y, "down_proj", width, bias=plain, role="mlp", slot="down")
        elif cfg.flag("use_swiglu_ffn", False) or style.rotates:
            gate = net.linear(y, "gate_proj", hidden, bias=plain, role="mlp", slot="gate")
            gate = net.act(gate, act if style.rotates else "silu")
            y = net.mul(gate, net.linear(y, "up_proj", hidden, bias=plain, role="mlp", slot="up"))
            del gate
            y = net.linear(y, "down_proj", width, bias=plain, role="mlp", slot="down")
        else:
            y = net.act(net.linear(y, "fc1", hidden, role="mlp", slot="up"), act)
            y = net.linear(y, "fc2", width, role="mlp", slot="down")
    if scaled:
        y = net.scale(y, scaled[1])
    return net.add(net.drop_path(y, rate), x)


def model(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run an encoder and its classifier."""
    cfg: Config = facts["cfg"]
    style = STYLES[facts["kind"]]
    width, edge = cfg.hidden_size, facts["patch"]
    with net.within(facts["prefix"]):
        x = net.conv(x, style.patches, width, edge, stride=edge, padding=0, bias=style.patch_bias)
        x = net.view(x, width, x.places)
        grid = facts["grid"]
        if style.tokens:
            x = net.prepended(x, *style.tokens, shape=style.token_shape)
        if style.positions:
            flat = style.positions.endswith("weight")
            count = grid + len(style.tokens)
            x = net.positions(x, style.positions, *((count, width) if flat else (1, count, width)))
        registers = facts["registers"]
        tables = None
        if style.rotates:
            tables = net.rotation(x.places - len(style.tokens), width // cfg.num_heads)
        if registers:
            x = net.prepended(x, ("embeddings.register_tokens", registers))
        if style.first:
            x = net.layer_norm(x, style.first)
    x = net.chain(facts["layers"], cfg.num_layers, layer, x, cfg=cfg, style=style, heads=cfg.num_heads, hidden=facts["hidden"],
                  act=facts["act"], rate=cfg.number("drop_path_rate", 0.0), tables=tables, first=len(style.tokens) + registers)  # fmt: skip
    del tables
    with net.within(facts["prefix"]):
        if style.last:
            x = net.layer_norm(x, style.last)
        first = len(style.tokens) + registers
        y = pooled(net, x, style, first)
        del x
        if style is STYLES["beit"]:
            y = net.layer_norm(y, "pooler.layernorm") if cfg.flag("use_mean_pooling", True) else y
    return net.linear(y, "classifier", classes, role="head") if classes else y


def pooled(net: Net, x: Map, style: Style, first: int) -> Map:
    """Make one vector of the tokens."""
    if style.pooled == "all":
        return net.mean(x)
    if style.pooled == "patches":
        return net.mean(net.tokens(x, first))
    if style.pooled == "both":
        mean = net.mean(net.tokens(x, 1))
        return net.join([net.tokens(x, 0, 1), mean])
    return net.tokens(x, 0, 1)
