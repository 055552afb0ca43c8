"""timm's RegNet [1]_.

References
----------
.. [1] I. Radosavovic et al., "Designing Network Design Spaces", 2020, arXiv:2003.13678.
.. [2] timm 1.0.31, ``models/regnet.py``.
"""

from __future__ import annotations

from vrameter.model.vision.net import Map, Net
from vrameter.model.vision.nets.timm.common import Facts, classifier, conv_norm_act, squeeze


def block(net: Net, x: Map, *, width: int, stride: int, group: int, se: float) -> Map:
    """Run a bottleneck whose middle convolution is grouped."""
    shortcut, reduced = x, round(x.channels * se)
    x = conv_norm_act(net, x, "conv1", width, 1, act="relu")
    x = conv_norm_act(net, x, "conv2", width, 3, act="relu", stride=stride, groups=width // group)
    if se:
        x = squeeze(net, x, "se", reduced)
    x = conv_norm_act(net, x, "conv3", width, 1)
    if stride != 1 or shortcut.channels != width:
        shortcut = conv_norm_act(net, shortcut, "downsample", width, 1, stride=stride)
    x = net.add(x, shortcut)
    del shortcut
    return net.act(x, "relu")


def model(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a RegNet."""
    x = conv_norm_act(net, x, "stem", facts["stem"], 3, act="relu", stride=2)
    for number, (depth, width, group) in enumerate(
        zip(facts["depths"], facts["widths"], facts["group_widths"], strict=True)
    ):
        for index in range(depth):
            x = net.block(
                f"s{number + 1}.b{index + 1}",
                block,
                x,
                width=width,
                stride=1 if index else 2,
                group=group,
                se=facts["se"],
            )
    return classifier(net, x, "head.fc", classes)
