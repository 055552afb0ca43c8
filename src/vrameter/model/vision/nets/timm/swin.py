"""timm's Swin Transformer [1]_.

References
----------
.. [1] Z. Liu et al., "Swin Transformer", 2021, arXiv:2103.14030.
.. [2] timm 1.0.31, ``models/swin_transformer.py``.
"""

from __future__ import annotations

from vrameter.model.vision.net import Map, Net
from vrameter.model.vision.nets.timm.common import Facts, branch


def attention(net: Net, x: Map, *, heads: int, window: int, shifted: bool) -> Map:
    """Attend within windows, the grid rolled before and after where they are shifted."""
    height, width, channels = x.height, x.width, x.channels
    if shifted:
        x = net.copy(x)
    rows, columns = -(-height // window) * window, -(-width // window) * window
    x = net.padded(x, rows - height, columns - width)
    x = net.copy(x)
    area, reach = window * window, 2 * window - 1
    with net.within("attn"):
        table = net.parameter("relative_position_bias_table", reach * reach, heads)
        qkv = net.linear(x, "qkv", 3 * channels, role="attention", slot="qkv")
        q, k, v = net.split(qkv, [channels] * 3)
        del x, qkv
        x = net.attend(q, k, v, heads, keys=area, table=table, masked=shifted)
        del q, k, v
        x = net.linear(x, "proj", channels, role="attention", slot="o")
    x = net.copy(x)
    if (rows, columns) != (height, width):
        x = net.cropped(x, height, width)
    return net.copy(x) if shifted else x


def block(net: Net, x: Map, *, heads: int, window: int, shifted: bool, ratio: float, rate: float) -> Map:
    """Run one block."""
    channels = x.channels
    x = net.add(
        x, net.drop_path(attention(net, net.layer_norm(x, "norm1"), heads=heads, window=window, shifted=shifted), rate)
    )
    y = net.layer_norm(x, "norm2")
    with net.within("mlp"):
        y = net.act(net.linear(y, "fc1", int(ratio * channels), role="mlp", slot="up"), "gelu")
        y = net.linear(y, "fc2", channels, role="mlp", slot="down")
    return branch(net, y, x, rate)


def model(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a Swin Transformer."""
    width = facts["width"]
    x = net.conv(x, "patch_embed.proj", width, facts["patch"], stride=facts["patch"], padding=0, bias=True)
    x = net.layer_norm(x, "patch_embed.norm")
    for number, (depth, heads) in enumerate(zip(facts["depths"], facts["heads"], strict=True)):
        with net.within(f"layers.{number}"):
            if number:
                height, columns = -(-x.height // 2), -(-x.width // 2)
                x = net.padded(x, 2 * height - x.height, 2 * columns - x.width)
                x = net.copy(net.view(x, 4 * x.channels, height, columns))
                x = net.layer_norm(x, "downsample.norm")
                x = net.linear(x, "downsample.reduction", x.channels // 2, bias=False)
            window = min(facts["windows"][number], x.height)
            for index in range(depth):
                shifted = bool(index % 2) and window < min(x.height, x.width)
                x = net.block(f"blocks.{index}", block, x, heads=heads, window=window, shifted=shifted,
                              ratio=facts["ratio"], rate=facts["drop_path"])  # fmt: skip
    x = net.layer_norm(x, "norm")
    x = net.view(net.mean(x), x.channels, 1)
    return net.linear(x, "head.fc", classes, role="head") if classes else x
