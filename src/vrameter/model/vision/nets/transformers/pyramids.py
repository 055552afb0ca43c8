"""Transformers in stages: Swin, SegFormer, PVT, PoolFormer, LeViT. Each stage works on a smaller grid of wider positions.

References
----------
.. [1] transformers 5.23: ``modeling_swin.py``, ``modeling_segformer.py``, ``modeling_pvt.py``, ``modeling_poolformer.py``,
       ``modeling_levit.py``.
"""

from __future__ import annotations

from typing import Any

from vrameter.model.config import Config
from vrameter.model.vision.net import Map, Net

Facts = Any


def separate(net: Net, x: Map, y: Map, *, names: tuple[str, str, str], bias: bool = True) -> tuple[Map, Map, Map]:
    """Run three matrices: queries of one map, keys and values of another."""
    width = x.channels
    return (
        net.linear(x, names[0], width, bias=bias, role="attention", slot="q"),
        net.linear(y, names[1], width, bias=bias, role="attention", slot="k"),
        net.linear(y, names[2], width, bias=bias, role="attention", slot="v"),
    )


NAMES = ("q_proj", "k_proj", "v_proj")


# -- Swin ----------------------------------------------------------------------------------------------


def swin_layer(net: Net, x: Map, *, cfg: Config, heads: int, shifts: bool, act: str, ratio: float) -> Map:
    """Run one layer: attention within windows of the grid, rolled by half a window in every other layer."""
    height, width, channels = x.height, x.width, x.channels
    window = int(cfg.integer("window_size", 7))
    reach = 2 * window - 1
    if min(height, width) <= window:
        shifts, window = False, min(height, width)
    y = net.layer_norm(x, "layernorm_before")
    rows, columns = -(-height // window) * window, -(-width // window) * window
    y = net.padded(y, rows - height, columns - width, copies=True)
    y = net.copy(net.copy(y)) if shifts else net.copy(y)
    with net.within("attention"):
        table = net.parameter("relative_position_bias.relative_position_bias_table", reach * reach, heads)
        q, k, v = separate(net, y, y, names=NAMES, bias=cfg.flag("qkv_bias", True))
        del y
        y = net.attend(q, k, v, heads, keys=window * window, table=table, masked=shifts, wide=True)
        del q, k, v
        y = net.linear(y, "o_proj", channels, role="attention", slot="o")
    y = net.copy(net.copy(y)) if shifts else net.copy(y)
    if (rows, columns) != (height, width):
        y = net.cropped(y, height, width)
    rate = cfg.number("drop_path_rate", 0.1)
    x = net.add(x, net.drop_path(y, rate))
    y = net.layer_norm(x, "layernorm_after")
    with net.within("mlp"):
        y = net.act(net.linear(y, "fc1", int(ratio * channels), role="mlp", slot="up"), act)
        y = net.linear(y, "fc2", channels, role="mlp", slot="down")
    return net.add(y, x)


def swin(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a Swin transformer."""
    cfg: Config = facts["cfg"]
    edge, width = int(cfg.integer("patch_size", 4)), int(cfg.integer("embed_dim"))
    depths, heads = cfg.integers("depths"), cfg.integers("num_heads")
    with net.within(facts["prefix"]):
        x = net.conv(x, "embeddings.patch_embeddings.projection", width, edge, stride=edge, padding=0, bias=True)
        x = net.layer_norm(x, "embeddings.norm")
        if cfg.flag("use_absolute_embeddings", False):
            x = net.positions(x, "embeddings.position_embeddings")
        for number, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            with net.within(f"encoder.layers.{number}"):
                for index in range(depth):
                    x = net.block(f"blocks.{index}", swin_layer, x, cfg=cfg, heads=count, shifts=bool(index % 2), act=facts["act"],
                                  ratio=cfg.number("mlp_ratio", 4.0))  # fmt: skip
                if number < len(depths) - 1:
                    height, columns = -(-x.height // 2), -(-x.width // 2)
                    x = net.padded(x, 2 * height - x.height, 2 * columns - x.width)
                    x = net.copy(net.view(x, 4 * x.channels, height, columns))
                    x = net.layer_norm(x, "downsample.norm")
                    x = net.linear(x, "downsample.reduction", x.channels // 2, bias=False)
        x = net.layer_norm(x, "layernorm")
        y = net.view(net.mean(x), x.channels, 1)
        del x
    return net.linear(y, "classifier", classes, role="head") if classes else y


# -- SegFormer -----------------------------------------------------------------------------------------


def segformer_layer(net: Net, x: Map, *, heads: int, shrink: int, hidden: int, act: str, rate: float) -> Map:
    """Run one layer: attention to a shrunken grid, and a perceptron with a depthwise convolution inside."""
    width = x.channels
    y = net.layer_norm(x, "layernorm_before")
    with net.within("attention"):
        z = y
        if shrink > 1:
            z = net.conv(y, "sequence_reduction.sequence_reduction", width, shrink, stride=shrink, padding=0, bias=True)
            z = net.layer_norm(z, "sequence_reduction.layer_norm")
        q, k, v = separate(net, y, z, names=NAMES)
        del y, z
        y = net.attend(q, k, v, heads, wide=True)
        del q, k, v
        y = net.linear(y, "o_proj", width, role="attention", slot="o")
    x = net.add(net.drop_path(y, rate), x)
    y = net.layer_norm(x, "layernorm_after")
    with net.within("mlp"):
        y = net.linear(y, "fc1", hidden, role="mlp", slot="up")
        y = net.act(net.conv(y, "dwconv.dwconv", hidden, 3, groups=hidden, bias=True), act)
        y = net.linear(y, "fc2", width, role="mlp", slot="down")
    return net.add(net.drop_path(y, rate), x)


def segformer(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a SegFormer and a classifier."""
    cfg: Config = facts["cfg"]
    widths, depths, heads = cfg.integers("hidden_sizes"), cfg.integers("depths"), cfg.integers("num_attention_heads")
    ratios, edges, strides = cfg.integers("sr_ratios"), cfg.integers("patch_sizes"), cfg.integers("strides")
    hidden = cfg.integers("mlp_ratios")
    with net.within(facts["prefix"]):
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            with net.within(f"stages.{number}"):
                edge = edges[number]
                x = net.conv(
                    x, "patch_embeddings.proj", width, edge, stride=strides[number], padding=edge // 2, bias=True
                )
                x = net.layer_norm(x, "patch_embeddings.layer_norm")
                x = net.chain("blocks", depth, segformer_layer, x, heads=heads[number], shrink=ratios[number],
                              hidden=int(width * hidden[number]), act=facts["act"], rate=cfg.number("drop_path_rate", 0.1))  # fmt: skip
                x = net.copy(net.layer_norm(x, "layer_norm"))
        y = net.view(net.mean(net.copy(x)), x.channels, 1)
        del x
    return net.linear(y, "classifier", classes, role="head") if classes else y


# -- PVT -----------------------------------------------------------------------------------------------


def pvt_layer(
    net: Net, x: Map, *, cfg: Config, grid: tuple[int, int], heads: int, shrink: int, hidden: int, act: str, rate: float
) -> Map:
    """Run one layer: attention to a shrunken grid, written out."""
    width = x.channels
    y = net.layer_norm(x, "layer_norm_1")
    with net.within("attention.self"):
        z = y
        if shrink > 1:
            z = net.conv(
                net.view(y, width, *grid), "sequence_reduction", width, shrink, stride=shrink, padding=0, bias=True
            )
            z = net.layer_norm(net.view(z, width, z.places), "layer_norm")
        q, k, v = separate(net, y, z, names=("query", "key", "value"), bias=cfg.flag("qkv_bias", True))
        del y, z
        y = net.attend(q, k, v, heads, written=True)
        del q, k, v
    y = net.linear(y, "attention.output.dense", width, role="attention", slot="o")
    x = net.add(net.drop_path(y, rate), x)
    y = net.layer_norm(x, "layer_norm_2")
    with net.within("mlp"):
        y = net.act(net.linear(y, "dense1", hidden, role="mlp", slot="up"), act)
        y = net.linear(y, "dense2", width, role="mlp", slot="down")
    return net.add(x, net.drop_path(y, rate))


def pvt(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a PVT: positions at every stage, a class token at the last."""
    cfg: Config = facts["cfg"]
    widths, depths, heads = cfg.integers("hidden_sizes"), cfg.integers("depths"), cfg.integers("num_attention_heads")
    ratios, edges = cfg.integers("sequence_reduction_ratios"), cfg.integers("patch_sizes")
    hidden = cfg.integers("mlp_ratios")
    size = facts["edge"]
    with net.within(facts["prefix"]):
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            last, edge = number == len(widths) - 1, edges[number]
            rows = (size if number == 0 else size // 2 ** (number + 1)) // edge
            with net.within(f"encoder.patch_embeddings.{number}"):
                x = net.conv(x, "projection", width, edge, stride=edge, padding=0, bias=True)
                grid = (x.height, x.width)
                x = net.layer_norm(net.view(x, width, x.places), "layer_norm")
                if last:
                    x = net.prepended(x, "cls_token")
                x = net.positions(x, "position_embeddings", 1, rows * rows + last, width)
            x = net.chain(f"encoder.block.{number}", depth, pvt_layer, x, cfg=cfg, grid=grid, heads=heads[number], shrink=ratios[number],
                          hidden=width * hidden[number], act=facts["act"], rate=cfg.number("drop_path_rate", 0.0))  # fmt: skip
            if not last:
                x = net.copy(net.view(x, width, *grid))
        x = net.tokens(net.layer_norm(x, "encoder.layer_norm"), 0, 1)
    return net.linear(x, "classifier", classes, role="head") if classes else x


# -- PoolFormer ----------------------------------------------------------------------------------------


def pool_layer(net: Net, x: Map, *, cfg: Config, hidden: int, act: str, rate: float) -> Map:
    """Run one layer: a pooling in place of attention, and a perceptron of convolutions."""
    width, window = x.channels, int(cfg.integer("pool_size", 3))
    scaled = cfg.flag("use_layer_scale", True)
    y = net.group_norm(x, "before_norm", 1)
    y = net.add(net.pool(y, "avg", window, 1, window // 2), y)
    y = net.scale(y, "layer_scale_1") if scaled else y
    x = net.add(x, net.drop_path(y, rate))
    y = net.group_norm(x, "after_norm", 1)
    with net.within("output"):
        y = net.drop_path(net.act(net.conv(y, "conv1", hidden, bias=True, role="mlp"), act), rate)
        y = net.drop_path(net.conv(y, "conv2", width, bias=True, role="mlp"), rate)
    y = net.scale(y, "layer_scale_2") if scaled else y
    return net.add(x, net.drop_path(y, rate))


def poolformer(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a PoolFormer."""
    cfg: Config = facts["cfg"]
    widths, depths = cfg.integers("hidden_sizes"), cfg.integers("depths")
    edges, strides, paddings = (cfg.integers(name, least=0) for name in ("patch_sizes", "strides", "padding"))
    with net.within(facts["prefix"]):
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            x = net.conv(x, f"encoder.patch_embeddings.{number}.projection", width, edges[number], stride=strides[number],
                         padding=paddings[number], bias=True)  # fmt: skip
            x = net.chain(f"encoder.block.{number}", depth, pool_layer, x, cfg=cfg, hidden=int(width * cfg.number("mlp_ratio", 4.0)),
                          act=facts["act"], rate=cfg.number("drop_path_rate", 0.0))  # fmt: skip
    if not classes:
        return x
    y = net.group_norm(x, "norm", 1)
    del x
    return net.linear(net.view(net.mean(y), y.channels, 1), "classifier", classes, role="head")


# -- LeViT ---------------------------------------------------------------------------------------------


def normed(net: Net, x: Map, name: str, channels: int) -> Map:
    """Run a matrix without a bias, and batch norm."""
    with net.within(name):
        return net.batch_norm(net.linear(x, "linear", channels, bias=False), "batch_norm")


def levit_attention(net: Net, x: Map, *, heads: int, key: int, ratio: int, rate: float) -> Map:
    """Run attention whose values are wider than its keys."""
    width, values = x.channels, ratio * key * heads
    with net.within("module"):
        qkv = normed(net, x, "queries_keys_values", values + 2 * key * heads)
        q, k, v = net.split(qkv, [key * heads, key * heads, values])
        del qkv
        table = net.parameter("attention_biases", heads, x.places)
        y = net.act(net.attend(q, k, v, heads, table=table, written=True), "hardswish")
        del q, k, v
        y = normed(net, y, "projection", width)
    return net.add(x, net.drop_path(y, rate))


def levit_perceptron(net: Net, x: Map, *, ratio: int, rate: float) -> Map:
    """Run the perceptron."""
    with net.within("module"):
        y = net.act(normed(net, x, "linear_up", ratio * x.channels), "hardswish")
        y = normed(net, y, "linear_down", x.channels)
    return net.add(x, net.drop_path(y, rate))


def levit_shrinking(net: Net, x: Map, *, edge: int, stride: int, width: int, heads: int, key: int, ratio: int) -> Map:
    """Run attention of a sparser grid to the grid before it."""
    values, rows = ratio * key * heads, (edge - 1) // stride + 1
    k, v = net.split(normed(net, x, "keys_values", values + key * heads), [key * heads, values])
    fewer = net.picked(x, rows * rows)
    q = normed(net, fewer, "queries", key * heads)
    del fewer
    table = net.parameter("attention_biases", heads, x.places)
    y = net.act(net.attend(q, k, v, heads, table=table, written=True), "hardswish")
    del q, k, v
    return normed(net, y, "projection", width)


def levit(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a LeViT."""
    cfg: Config = facts["cfg"]
    widths, depths, heads = cfg.integers("hidden_sizes"), cfg.integers("depths"), cfg.integers("num_attention_heads")
    keys, ratios, inner = cfg.integers("key_dim"), cfg.integers("attention_ratio"), cfg.integers("mlp_ratio")
    rate = cfg.number("drop_path_rate", 0.0)
    kernel, stride, padding = (
        int(cfg.integer(name, default)) for name, default in (("kernel_size", 3), ("stride", 2), ("padding", 1))
    )
    with net.within(facts["prefix"]):
        for index in range(4):
            with net.within(f"patch_embeddings.embedding_layer_{index + 1}"):
                x = net.batch_norm(
                    net.conv(x, "convolution", widths[0] // 2 ** (3 - index), kernel, stride=stride, padding=padding),
                    "batch_norm",
                )
            x = net.act(x, "hardswish") if index < 3 else x
        edge = x.height
        x = net.view(x, x.channels, x.places)
        shrinks = [*(cfg.get("down_ops") or default_shrinks(widths, keys)), [""]]
        for number, depth in enumerate(depths):
            count = 0
            with net.within(f"encoder.stages.{number}"):
                for _ in range(depth):
                    x = net.block(f"layers.{count}", levit_attention, x, heads=heads[number], key=keys[number], ratio=ratios[number],
                                  rate=rate)  # fmt: skip
                    x = net.block(f"layers.{count + 1}", levit_perceptron, x, ratio=inner[number], rate=rate)
                    count += 2
                down = shrinks[number]
                if down[0] == "Subsample":
                    x = net.block(f"layers.{count}", levit_shrinking, x, edge=edge, stride=int(down[5]), width=widths[number + 1],
                                  heads=int(down[2]), key=int(down[1]), ratio=int(down[3]))  # fmt: skip
                    edge = (edge - 1) // int(down[5]) + 1
                    x = net.block(f"layers.{count + 1}", levit_perceptron, x, ratio=int(down[4]), rate=rate)
        y = net.view(net.mean(x), x.channels, 1)
        del x
    if not classes:
        return y
    return net.linear(net.batch_norm(y, "classifier.batch_norm"), "classifier.linear", classes, role="head")


def default_shrinks(widths: list[int], keys: list[int]) -> list[list[Any]]:
    """Return how stages are joined where a config does not say."""
    return [["Subsample", keys[0], width // keys[0], 4, 2, 2] for width in widths[:-1]]
