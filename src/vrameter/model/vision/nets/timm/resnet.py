"""timm's ResNet [1]_ and its relatives: ResNeXt [2]_, Wide ResNet, ResNet-D, SE-ResNet.

References
----------
.. [1] K. He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
.. [2] S. Xie et al., "Aggregated Residual Transformations", 2016, arXiv:1611.05431.
.. [3] timm 1.0.31, ``models/resnet.py``.
"""

from __future__ import annotations

from vrameter.model.vision.net import Map, Net
from vrameter.model.vision.nets.timm.common import Facts, classifier, divisible, squeeze


def normed(net: Net, x: Map, name: str, act: str) -> Map:
    """Run batch norm, then an activation in place."""
    x = net.batch_norm(x, name)
    return net.act(x, act, inplace=True)


def shortcut_of(net: Net, x: Map, channels: int, stride: int, facts: Facts, *, first: bool) -> Map:
    """Run the projection of a shortcut."""
    if facts["avg_down"]:
        if stride > 1:
            x = net.pool(x, "avg", 2, stride, ceil=True)
        return net.batch_norm(net.conv(x, "downsample.1", channels), "downsample.2")
    kernel = 1 if stride == 1 or first else facts["down_kernel"]
    return net.batch_norm(net.conv(x, "downsample.0", channels, kernel, stride=stride), "downsample.1")


def block(net: Net, x: Map, *, planes: int, stride: int, facts: Facts, first: bool) -> Map:
    """Run a residual block of two convolutions, or of three with the middle one grouped."""
    shortcut, act = x, facts["act"]
    deep = facts["bottleneck"]
    channels = planes * (4 if deep else 1)
    if deep:
        width = planes * facts["base_width"] // 64 * facts["groups"]
        x = normed(net, net.conv(x, "conv1", width), "bn1", act)
        x = normed(net, net.conv(x, "conv2", width, 3, stride=stride, groups=facts["groups"]), "bn2", act)
        x = net.batch_norm(net.conv(x, "conv3", channels), "bn3")
    else:
        x = normed(net, net.conv(x, "conv1", planes, 3, stride=stride), "bn1", act)
        x = net.batch_norm(net.conv(x, "conv2", planes, 3), "bn2")
    if facts["se"]:
        x = squeeze(net, x, "se", divisible(channels / facts["se"], limit=0.0))
    x = net.drop_path(x, facts["drop_path"])
    if stride != 1 or shortcut.channels != channels:
        shortcut = shortcut_of(net, shortcut, channels, stride, facts, first=first)
    x = net.add(x, shortcut, into=True)
    return net.act(x, act, inplace=True)


def model(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a residual network."""
    widths, act = facts["stem"], facts["act"]
    if len(widths) > 1:
        for index, width in enumerate(widths):
            x = net.conv(x, f"conv1.{3 * index}", width, 3, stride=1 if index else 2)
            if index < len(widths) - 1:
                x = normed(net, x, f"conv1.{3 * index + 1}", act)
    else:
        x = net.conv(x, "conv1", widths[0], 7, stride=2)
    x = normed(net, x, "bn1", act)
    x = net.pool(x, "max", 3, 2, 1)
    for number, (depth, planes) in enumerate(zip(facts["depths"], facts["planes"], strict=True)):
        for index in range(depth):
            stride = 2 if number and not index else 1
            x = net.block(
                f"layer{number + 1}.{index}", block, x, planes=planes, stride=stride, facts=facts, first=not number
            )
    return classifier(net, x, "fc", classes)
