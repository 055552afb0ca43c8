"""What timm's models have in common: convolution with norm and activation, squeeze-and-excitation, classifier heads."""

from __future__ import annotations

from typing import Any

from vrameter.model.vision.net import Map, Net

Facts = dict[str, Any]


def norm_act(net: Net, x: Map, name: str, act: str = "") -> Map:
    """Run batch norm and an activation in place, as one module, which holds what it is given until it returns."""
    y = net.batch_norm(x, name)
    return net.act(y, act, inplace=True) if act else y


def conv_norm_act(
    net: Net, x: Map, name: str, channels: int, kernel: int, *, act: str = "", stride: int = 1, groups: int = 1
) -> Map:
    """Run timm's ConvNormAct."""
    with net.within(name):
        x = net.conv(x, "conv", channels, kernel, stride=stride, groups=groups)
        return norm_act(net, x, "bn", act)


def squeeze(
    net: Net,
    x: Map,
    name: str,
    reduced: int,
    *,
    act: str = "relu",
    gate: str = "sigmoid",
    names: tuple[str, str] = ("fc1", "fc2"),
) -> Map:
    """Scale channels by a gate that is made of their means."""
    with net.within(name):
        y = net.mean(x)
        y = net.act(net.conv(y, names[0], reduced, bias=True), act, inplace=True)
        y = net.conv(y, names[1], x.channels, bias=True)
        return net.mul(x, net.act(y, gate))


def branch(net: Net, x: Map, shortcut: Map, rate: float = 0.0) -> Map:
    """Add a branch to what it left."""
    return net.add(net.drop_path(x, rate), shortcut)


def classifier(net: Net, x: Map, name: str, classes: int) -> Map:
    """Take the mean of all positions and classify."""
    x = net.view(net.mean(x), x.channels, 1)
    net.piece = ""
    return net.linear(x, name, classes, role="head") if classes else x


def divisible(number: float, divisor: int = 8, least: int = 0, limit: float = 0.9) -> int:
    """Round a width to a multiple, not down by more than a tenth.

    >>> divisible(30), divisible(12, limit=0.0)
    (32, 16)
    """
    rounded = max(least or divisor, int(number + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < limit * number else rounded
