"""Networks of convolutions: ConvNeXt, ConvNeXt V2, ResNet, RegNet, MobileNet V1 and V2.

References
----------
.. [1] transformers 5.23: ``modeling_convnext.py``, ``modeling_convnextv2.py``, ``modeling_resnet.py``, ``modeling_regnet.py``,
       ``modeling_mobilenet_v1.py``, ``modeling_mobilenet_v2.py``.
"""

from __future__ import annotations

from typing import Any

from vrameter.model.config import Config
from vrameter.model.vision.net import Map, Net

Facts = Any
V1_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
V2_WIDTHS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
V2_STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
V2_STEM, V2_LAST = 32, 1280


# -- ConvNeXt ------------------------------------------------------------------------------------------


def convnext_layer(net: Net, x: Map, *, cfg: Config, act: str, responds: bool, rate: float) -> Map:
    """Run one ConvNeXt block."""
    width = x.channels
    y = net.conv(x, "dwconv", width, 7, groups=width, bias=True)
    y = net.layer_norm(y, "layernorm")
    y = net.act(net.linear(y, "pwconv1", 4 * width, role="mlp"), act)
    if responds:
        scaled = net.mul(y, net.relative(net.strength(y)))
        y = net.add(net.affine(scaled, "grn", 1, 1, 1, 4 * width), y)
        del scaled
    y = net.linear(y, "pwconv2", width, role="mlp")
    if not responds and cfg.number("layer_scale_init_value", 1e-6) > 0:
        y = net.scale(y, "layer_scale_parameter")
    return net.add(x, net.drop_path(y, rate))


def convnext(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a ConvNeXt; the second version where ``responds``."""
    cfg: Config = facts["cfg"]
    widths, depths = cfg.integers("hidden_sizes"), cfg.integers("depths")
    edge = int(cfg.integer("patch_size", 4))
    rate = cfg.number("drop_path_rate", 0.0)
    with net.within(facts["prefix"]):
        x = net.conv(x, "embeddings.patch_embeddings", widths[0], edge, stride=edge, padding=0, bias=True)
        x = net.layer_norm(x, "embeddings.layernorm")
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            with net.within(f"encoder.stages.{number}"):
                if number:
                    x = net.layer_norm(x, "downsampling_layer.0")
                    x = net.conv(x, "downsampling_layer.1", width, 2, stride=2, padding=0, bias=True)
                x = net.chain(
                    "layers", depth, convnext_layer, x, cfg=cfg, act=facts["act"], responds=facts["responds"], rate=rate
                )
        y = net.layer_norm(net.view(net.mean(x), x.channels, 1), "layernorm")
        del x
    return net.linear(y, "classifier", classes, role="head") if classes else y


# -- ResNet and RegNet ----------------------------------------------------------------------------------


def unit(
    net: Net,
    x: Map,
    name: str,
    channels: int,
    kernel: int,
    act: str,
    *,
    stride: int = 1,
    groups: int = 1,
    same: bool = False,
) -> Map:
    """Run a convolution, its norm and an activation."""
    with net.within(name):
        x = net.conv(x, "convolution", channels, kernel, stride=stride, groups=groups, same=same, copies=same)
        x = net.batch_norm(x, "normalization")
        return net.act(x, act) if act else x


def residual(net: Net, x: Map, *, width: int, stride: int, cfg: Config, act: str, kind: str) -> Map:
    """Run a residual layer: of two or three convolutions, or RegNet's with a grouped middle."""
    shortcut = x
    if kind == "basic":
        y = unit(net, x, "layer.0", width, 3, "relu", stride=stride)
        y = unit(net, y, "layer.1", width, 3, "")
    elif kind == "bottleneck":
        early = cfg.flag("downsample_in_bottleneck", False)
        y = unit(net, x, "layer.0", width // 4, 1, "relu", stride=stride if early else 1)
        y = unit(net, y, "layer.1", width // 4, 3, "relu", stride=1 if early else stride)
        y = unit(net, y, "layer.2", width, 1, "")
    else:
        groups = max(1, width // int(cfg.integer("groups_width", 64)))
        y = unit(net, x, "layer.0", width, 1, act)
        y = unit(net, y, "layer.1", width, 3, act, stride=stride, groups=groups)
        if kind == "y":
            with net.within("layer.2.attention"):
                gate = net.act(net.conv(net.mean(y), "0", round(x.channels / 4), bias=True), "relu")
                gate = net.act(net.conv(gate, "2", width, bias=True), "sigmoid")
                y = net.mul(y, gate)
                del gate
        y = unit(net, y, "layer.3" if kind == "y" else "layer.2", width, 1, "")
    if x.channels != width or stride != 1:
        shortcut = unit(net, x, "shortcut", width, 1, "", stride=stride)
    y = net.add(y, shortcut, into=True)
    return net.act(y, act)


def staged(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a ResNet or a RegNet."""
    cfg: Config = facts["cfg"]
    act, regular = facts["act"], facts["kind"] == "regnet"
    kind = cfg.text("layer_type", "y" if regular else "bottleneck")
    with net.within(facts["prefix"]):
        x = unit(net, x, "embedder.embedder", int(cfg.integer("embedding_size")), 3 if regular else 7, act, stride=2)
        if not regular:
            x = net.pool(x, "max", 3, 2, 1)
        widths, depths = cfg.integers("hidden_sizes"), cfg.integers("depths")
        first = cfg.flag("downsample_in_first_stage", regular)
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            for index in range(depth):
                stride = 2 if index == 0 and (number or first) else 1
                x = net.block(f"encoder.stages.{number}.layers.{index}", residual, x, width=width, stride=stride, cfg=cfg, act=act,
                              kind=kind)  # fmt: skip
    y = net.view(net.mean(x), x.channels, 1)
    del x
    return net.linear(y, "classifier.1", classes, role="head") if classes else y


# -- MobileNet -----------------------------------------------------------------------------------------


def multiplied(cfg: Config, number: float) -> int:
    """Return a width times the depth multiplier, a multiple of eight."""
    divisor, least = int(cfg.integer("depth_divisible_by", 8)), int(cfg.integer("min_depth", 8))
    rounded = max(least, int(number + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * number else rounded


def mobilenet_v1(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a MobileNet V1: depthwise and pointwise convolutions in turns."""
    cfg: Config = facts["cfg"]
    act, same, depth = facts["act"], cfg.flag("tf_padding", True), 32
    share, least = cfg.number("depth_multiplier", 1.0), int(cfg.integer("min_depth", 8))
    with net.within(facts["prefix"]):
        x = unit(net, x, "conv_stem", max(int(depth * share), least), 3, act, stride=2, same=same)
        for index, stride in enumerate(V1_STRIDES):
            depth = depth * 2 if stride == 2 or index == 0 else depth
            x = net.block(f"layer.{2 * index}", separate, x, width=0, stride=stride, act=act, same=same)
            x = net.block(
                f"layer.{2 * index + 1}",
                separate,
                x,
                width=max(int(depth * share), least),
                stride=1,
                act=act,
                same=same,
            )
    y = net.view(net.mean(x), x.channels, 1)
    del x
    return net.linear(y, "classifier", classes, role="head") if classes else y


def separate(net: Net, x: Map, *, width: int, stride: int, act: str, same: bool) -> Map:
    """Run a depthwise convolution, or a pointwise one to `width`."""
    if width:
        return unit(net, x, "", width, 1, act, same=same)
    return unit(net, x, "", x.channels, 3, act, stride=stride, groups=x.channels, same=same)


def inverted(net: Net, x: Map, *, middle: int, width: int, stride: int, act: str, same: bool) -> Map:
    """Run an inverted residual layer."""
    y = unit(net, x, "expand_1x1", middle, 1, act, same=same)
    y = unit(net, y, "conv_3x3", middle, 3, act, stride=stride, groups=middle, same=same)
    y = unit(net, y, "reduce_1x1", width, 1, "", same=same)
    return net.add(x, y) if stride == 1 and x.channels == width else y


def mobilenet_v2(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a MobileNet V2."""
    cfg: Config = facts["cfg"]
    act, same = facts["act"], cfg.flag("tf_padding", True)
    share = cfg.number("depth_multiplier", 1.0)
    widths = [multiplied(cfg, round(width * share)) for width in V2_WIDTHS]
    with net.within(facts["prefix"]):
        with net.within("conv_stem"):
            stem = multiplied(cfg, round(V2_STEM * share))
            x = unit(net, x, "first_conv", stem, 3, act, stride=2, same=same)
            if not cfg.flag("first_layer_is_expansion", True):
                x = unit(net, x, "expand_1x1", stem, 1, act, same=same)
            x = unit(net, x, "conv_3x3", stem, 3, act, groups=stem, same=same)
            x = unit(net, x, "reduce_1x1", widths[0], 1, "", same=same)
        reached, limit = 2, int(cfg.integer("output_stride", 32))
        for index, stride in enumerate(V2_STRIDES):
            own = 1 if reached == limit else stride
            reached *= own
            middle = multiplied(cfg, round(x.channels * cfg.number("expand_ratio", 6.0)))
            x = net.block(
                f"layer.{index}", inverted, x, middle=middle, width=widths[index + 1], stride=own, act=act, same=same
            )
        fine = cfg.flag("finegrained_output", True) and share < 1.0
        x = unit(net, x, "conv_1x1", V2_LAST if fine else multiplied(cfg, round(V2_LAST * share)), 1, act, same=same)
    y = net.view(net.mean(x), x.channels, 1)
    del x
    return net.linear(y, "classifier", classes, role="head") if classes else y
