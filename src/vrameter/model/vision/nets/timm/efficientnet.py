"""timm's EfficientNet [1]_, EfficientNetV2 [2]_, MobileNetV2 and MobileNetV3 [3]_.

References
----------
.. [1] M. Tan, Q. Le, "EfficientNet", 2019, arXiv:1905.11946.
.. [2] M. Tan, Q. Le, "EfficientNetV2", 2021, arXiv:2104.00298.
.. [3] M. Sandler et al., "MobileNetV2", 2018, arXiv:1801.04381; A. Howard et al., "Searching for MobileNetV3", 2019,
       arXiv:1905.02244.
.. [4] timm 1.0.31, ``models/efficientnet.py``, ``models/mobilenetv3.py``, ``models/_efficientnet_blocks.py``.
"""

from __future__ import annotations

from vrameter.model.vision.net import Map, Net
from vrameter.model.vision.nets.timm.common import Facts, branch, norm_act, squeeze


def block(
    net: Net,
    x: Map,
    *,
    kind: str,
    kernel: int,
    stride: int,
    middle: int,
    width: int,
    reduced: int,
    act: str,
    facts: Facts,
) -> Map:
    """Run one block: plain (``cn``), separable (``ds``), inverted (``ir``), inverted with its first two merged (``er``)."""
    shortcut, same = x, facts["same"]
    skips = stride == 1 and x.channels == width and not (kind == "cn" and not facts["plain_skip"])
    if kind == "cn":
        x = norm_act(net, net.conv(x, "conv", width, kernel, stride=stride, same=same), "bn1", act)
        return branch(net, x, shortcut, facts["drop_path"]) if skips else x
    if kind == "er":
        x = norm_act(net, net.conv(x, "conv_exp", middle, kernel, stride=stride, same=same), "bn1", act)
        last = ("conv_pwl", "bn2")
    else:
        number = 1
        if kind == "ir":
            x = norm_act(net, net.conv(x, "conv_pw", middle), "bn1", act)
            number = 2
        x = net.conv(x, "conv_dw", x.channels, kernel, stride=stride, groups=x.channels, same=same)
        x = norm_act(net, x, f"bn{number}", act)
        last = ("conv_pwl" if kind == "ir" else "conv_pw", f"bn{number + 1}")
    if reduced:
        x = squeeze(
            net, x, "se", reduced, act=facts["se_act"] or act, gate=facts["gate"], names=("conv_reduce", "conv_expand")
        )
    x = net.batch_norm(net.conv(x, last[0], width), last[1])
    return branch(net, x, shortcut, facts["drop_path"]) if skips else x


def model(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run an EfficientNet or a MobileNet."""
    act, same = facts["act"], facts["same"]
    x = norm_act(net, net.conv(x, "conv_stem", facts["stem"], 3, stride=2, same=same), "bn1", act)
    for number, stage in enumerate(facts["stages"]):
        for index, (kind, kernel, stride, middle, width, reduced, own) in enumerate(stage):
            x = net.block(f"blocks.{number}.{index}", block, x, kind=kind, kernel=kernel, stride=stride, middle=middle,
                          width=width, reduced=reduced, act=own, facts=facts)  # fmt: skip
    if facts["pools_first"]:
        x = net.mean(x)
        x = net.conv(x, "conv_head", facts["head"], bias=facts["head_bias"])
        x = net.act(x, act, inplace=True)
        x = net.view(x, x.channels, 1)
    else:
        x = norm_act(net, net.conv(x, "conv_head", facts["head"]), "bn2", act)
        x = net.view(net.mean(x), x.channels, 1)
    return net.linear(x, "classifier", classes, role="head") if classes else x
