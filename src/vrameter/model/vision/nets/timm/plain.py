"""timm's VGG [1]_ and DenseNet [2]_.

References
----------
.. [1] K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks", 2014, arXiv:1409.1556.
.. [2] G. Huang et al., "Densely Connected Convolutional Networks", 2016, arXiv:1608.06993.
.. [3] timm 1.0.31, ``models/vgg.py``, ``models/densenet.py``.
"""

from __future__ import annotations

from vrameter.model.vision.net import Map, Net
from vrameter.model.vision.nets.timm.common import Facts, classifier, norm_act


def vgg(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a VGG: convolutions and poolings in a row, then two wide layers as convolutions."""
    index = 0
    for width in facts["layers"]:
        if not width:
            x = net.pool(x, "max", 2, 2)
            index += 1
            continue
        x = net.conv(x, f"features.{index}", width, 3, bias=True)
        if facts["norm"]:
            x = net.batch_norm(x, f"features.{index + 1}")
        x = net.act(x, "relu", inplace=True)
        index += 3 if facts["norm"] else 2
    x = net.act(net.conv(x, "pre_logits.fc1", 4096, 7, padding=0, bias=True), "relu", inplace=True)
    x = net.act(net.conv(x, "pre_logits.fc2", 4096, bias=True), "relu", inplace=True)
    return classifier(net, x, "head.fc", classes)


def dense_layer(net: Net, maps: list[Map], name: str, growth: int) -> Map:
    """Run one dense layer on what all before it made."""
    with net.within(name):
        x = net.block("", bottleneck, *maps, growth=growth)
        return net.conv(norm_act(net, x, "norm2", "relu"), "conv2", growth, 3)


def bottleneck(net: Net, *maps: Map, growth: int) -> Map:
    """Run the part of a dense layer that checkpointing takes: all maps together, a norm and a narrow convolution."""
    x = net.join(maps)
    return net.conv(norm_act(net, x, "norm1", "relu"), "conv1", 4 * growth)


def densenet(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a DenseNet."""
    growth = facts["growth"]
    with net.within("features"):
        x = norm_act(net, net.conv(x, "conv0", 2 * growth, 7, stride=2), "norm0", "relu")
        x = net.pool(x, "max", 3, 2, 1)
        for number, depth in enumerate(facts["depths"]):
            found = [x]
            for index in range(depth):
                found.append(dense_layer(net, found, f"denseblock{number + 1}.denselayer{index + 1}", growth))
            x = net.join(found)
            del found
            if number < len(facts["depths"]) - 1:
                with net.within(f"transition{number + 1}"):
                    x = net.conv(norm_act(net, x, "norm", "relu"), "conv", x.channels // 2)
                    x = net.pool(x, "avg", 2, 2)
        x = norm_act(net, x, "norm5", "relu")
    return classifier(net, x, "classifier", classes)
