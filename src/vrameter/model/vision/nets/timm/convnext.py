"""timm's ConvNeXt [1]_ and ConvNeXt V2 [2]_.

References
----------
.. [1] Z. Liu et al., "A ConvNet for the 2020s", 2022, arXiv:2201.03545.
.. [2] S. Woo et al., "ConvNeXt V2", 2023, arXiv:2301.00808.
.. [3] timm 1.0.31, ``models/convnext.py``, ``layers/grn.py``.
"""

from __future__ import annotations

from vrameter.model.vision.net import Map, Net
from vrameter.model.vision.nets.timm.common import Facts, branch


def responses(net: Net, x: Map, name: str) -> Map:
    """Scale channels by how strongly they respond over the image, next to the other channels."""
    y = net.mul(x, net.relative(net.strength(x)))
    return net.add(x, net.affine(y, name))


def block(net: Net, x: Map, *, kernel: int, facts: Facts) -> Map:
    """Run one block: a depthwise convolution, a norm and a perceptron of four times the width."""
    shortcut, width = x, x.channels
    x = net.conv(x, "conv_dw", width, kernel, groups=width, bias=True)
    x = net.layer_norm(x, "norm")
    dense = net.pointwise_conv if facts["conv_mlp"] else net.linear
    with net.within("mlp"):
        x = net.act(dense(x, "fc1", int(facts["ratio"] * width), role="mlp"), facts["act"])
        if facts["responses"]:
            x = responses(net, x, "grn")
        x = dense(x, "fc2", width, role="mlp")
    if facts["scaled"]:
        x = net.scale(x, "gamma")
    return branch(net, x, shortcut, facts["drop_path"])


def model(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a ConvNeXt."""
    widths = facts["widths"]
    if facts["stem"] == "patch":
        x = net.conv(x, "stem.0", widths[0], facts["patch"], stride=facts["patch"], padding=0, bias=True)
        x = net.layer_norm(x, "stem.1")
    else:
        x = net.conv(x, "stem.0", facts["stem_width"], 3, stride=2, bias=True)
        x = net.conv(x, "stem.1", widths[0], 3, stride=2, bias=True)
        x = net.layer_norm(x, "stem.2")
    for number, (depth, width) in enumerate(zip(facts["depths"], widths, strict=True)):
        with net.within(f"stages.{number}"):
            if number or width != x.channels:
                x = net.layer_norm(x, "downsample.0")
                x = net.conv(x, "downsample.1", width, 2, stride=2, padding=0, bias=True)
            x = net.chain("blocks", depth, block, x, kernel=facts["kernel"], facts=facts)
    if facts["norm_first"]:
        x = net.layer_norm(x, "norm_pre")
        x = net.mean(x)
    else:
        x = net.layer_norm(net.mean(x), "head.norm")
    if facts["head_hidden"]:
        x = net.act(net.linear(x, "head.pre_logits.fc", facts["head_hidden"]), "gelu")
    return net.linear(x, "head.fc", classes, role="head") if classes else x
