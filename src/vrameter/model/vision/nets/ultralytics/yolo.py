"""YOLOv5 [1]_, YOLOv8 [2]_ and YOLO11 [3]_: a backbone, a neck that goes up and down again, and a head on three grids.

The tables of layers give depth and width of each; the modules below are what those names stand for.

References
----------
.. [1] Ultralytics YOLOv5 v7.0, ``models/yolov5s.yaml``, https://github.com/ultralytics/yolov5.
.. [2] Ultralytics YOLOv8, ``cfg/models/v8``, https://github.com/ultralytics/ultralytics.
.. [3] Ultralytics YOLO11, ``cfg/models/11``; R. Khanam, M. Hussain, "YOLOv11", 2024, arXiv:2410.17725.
.. [4] X. Li et al., "Generalized Focal Loss", 2020, arXiv:2006.04388: boxes as distributions over 16 distances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from vrameter.model.vision.net import HEAD, Map, Net, Step

ANCHORS, DISTANCES, MASKS, PROTOTYPES, LAST = 3, 16, 32, 256, 1280
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """How deep and wide a size is."""

    depth: float
    width: float
    widest: int

    def channels(self, number: int) -> int:
        """Return a width, a multiple of 8."""
        return ceil(min(number, self.widest) * self.width / 8) * 8

    def repeats(self, number: int) -> int:
        """Return a number of repeated blocks."""
        return max(round(number * self.depth), 1) if number > 1 else number


def unit(
    net: Net,
    x: Map,
    name: str,
    channels: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    act: bool = True,
    padding: int | None = None,
) -> Map:
    """Run a convolution, its norm and a SiLU."""
    with net.within(name):
        x = net.batch_norm(net.conv(x, "conv", channels, kernel, stride=stride, groups=groups, padding=padding), "bn")
        return net.act(x, "silu", inplace=True) if act else x


def bottleneck(
    net: Net, x: Map, name: str, channels: int, *, kernels: tuple[int, int], share: float, skips: bool
) -> Map:
    """Run two convolutions, with what came in added where the widths agree."""
    with net.within(name):
        y = unit(net, x, "cv1", int(channels * share), kernels[0])
        y = unit(net, y, "cv2", channels, kernels[1])
        return net.add(x, y) if skips and x.channels == channels else y


def split_block(
    net: Net, x: Map, channels: int, repeats: int, *, skips: bool, kernels: tuple[int, int] = (1, 3)
) -> Map:
    """Run C3: bottlenecks on one half, a convolution on the other."""
    half = channels // 2
    y = unit(net, x, "cv1", half)
    for index in range(repeats):
        y = bottleneck(net, y, f"m.{index}", half, kernels=kernels, share=1.0, skips=skips)
    z = unit(net, x, "cv2", half)
    both = net.join([y, z])
    del y, z
    return unit(net, both, "cv3", channels)


def gathered_block(
    net: Net,
    x: Map,
    channels: int,
    repeats: int,
    *,
    skips: bool,
    share: float = 0.5,
    inner: str = "bottleneck",
    squeeze: float = 1.0,
) -> Map:
    """Run C2f, and C3k2 whose inner blocks may be C3 themselves: what every inner block makes is put together."""
    half = int(channels * share)
    made = net.split(unit(net, x, "cv1", 2 * half), [half, half])
    for index in range(repeats):
        if inner == "bottleneck":
            made.append(bottleneck(net, made[-1], f"m.{index}", half, kernels=(3, 3), share=squeeze, skips=skips))
        else:
            with net.within(f"m.{index}"):
                made.append(split_block(net, made[-1], half, 2, skips=skips, kernels=(3, 3)))
    both = net.join(made)
    del made
    return unit(net, both, "cv2", channels)


def pyramid(net: Net, x: Map, channels: int) -> Map:
    """Run SPPF: three poolings one after another, put together."""
    made = [unit(net, x, "cv1", x.channels // 2)]
    for _ in range(3):
        made.append(net.pool(made[-1], "max", 5, 1, 2))
    both = net.join(made)
    del made
    return unit(net, both, "cv2", channels)


def attention(net: Net, x: Map, heads: int) -> Map:
    """Attend over all positions by heads whose keys are half as wide as their values."""
    width, keys = x.channels, x.channels // 2
    qkv = unit(net, x, "qkv", width + 2 * keys, act=False)
    q, k, v = net.split(qkv, [keys, keys, width])
    del qkv
    y = net.attend_eagerly(q, k, v, heads)
    places = net.copy(v)
    del q, k, v
    y = net.add(y, unit(net, places, "pe", width, 3, groups=width, act=False))
    return unit(net, y, "proj", width, act=False)


def attentive_block(net: Net, x: Map, channels: int, repeats: int) -> Map:
    """Run C2PSA: attention and a perceptron on one half."""
    half = channels // 2
    a, b = net.split(unit(net, x, "cv1", 2 * half), [half, half])
    for index in range(repeats):
        with net.within(f"m.{index}"):
            with net.within("attn"):
                y = attention(net, b, half // 64)
            b = net.add(b, y)
            with net.within("ffn"):
                y = unit(net, unit(net, b, "0", 2 * half), "1", half, act=False)
            b = net.add(b, y)
            del y
    both = net.join([a, b])
    del a, b
    return unit(net, both, "cv2", channels)


class Builder:
    """Layers one after another, numbered as in the tables."""

    def __init__(self, net: Net, scale: Scale) -> None:
        self.net, self.scale, self.number = net, scale, 0

    def run(self, step: Step, *inputs: Map, **facts: Any) -> Map:
        """Run the next layer."""
        name, self.number = f"model.{self.number}", self.number + 1
        return self.net.block(name, step, *inputs, **facts)

    def conv(self, x: Map, width: int, kernel: int = 3, stride: int = 2, padding: int | None = None) -> Map:
        """Run a convolution layer."""
        width = self.scale.channels(width)
        return self.run(lambda net, y: unit(net, y, "", width, kernel, stride, padding=padding), x)

    def join(self, *maps: Map) -> Map:
        """Put maps together."""
        self.number += 1
        return self.net.join(maps)

    def up(self, x: Map) -> Map:
        """Double the grid."""
        self.number += 1
        return self.net.upsample(x, 2)


def v5(at: Builder, x: Map, facts: Facts) -> list[Map]:
    """Run YOLOv5's backbone and, for a detector, its neck."""
    scale = at.scale

    def c3(y: Map, width: int, repeats: int, skips: bool = True) -> Map:
        return at.run(split_block, y, channels=scale.channels(width), repeats=scale.repeats(repeats), skips=skips)

    x = at.conv(x, 64, 6, 2, 2)
    x = c3(at.conv(x, 128), 128, 3)
    three = x = c3(at.conv(x, 256), 256, 6)
    four = x = c3(at.conv(x, 512), 512, 9)
    x = c3(at.conv(x, 1024), 1024, 3)
    if facts["task"] == "classify":
        return [x]
    x = at.run(pyramid, x, channels=scale.channels(1024))
    ten = at.conv(x, 512, 1, 1)
    x = c3(at.join(at.up(ten), four), 512, 3, skips=False)
    del four
    fourteen = at.conv(x, 256, 1, 1)
    low = c3(at.join(at.up(fourteen), three), 256, 3, skips=False)
    del three
    middle = c3(at.join(at.conv(low, 256), fourteen), 512, 3, skips=False)
    high = c3(at.join(at.conv(middle, 512), ten), 1024, 3, skips=False)
    return [low, middle, high]


def v8(at: Builder, x: Map, facts: Facts) -> list[Map]:
    """Run YOLOv8's backbone and, for a detector, its neck."""
    scale = at.scale

    def c2f(y: Map, width: int, repeats: int, skips: bool = False) -> Map:
        return at.run(gathered_block, y, channels=scale.channels(width), repeats=scale.repeats(repeats), skips=skips)

    x = at.conv(x, 64)
    x = c2f(at.conv(x, 128), 128, 3, skips=True)
    three = x = c2f(at.conv(x, 256), 256, 6, skips=True)
    four = x = c2f(at.conv(x, 512), 512, 6, skips=True)
    x = c2f(at.conv(x, 1024), 1024, 3, skips=True)
    if facts["task"] == "classify":
        return [x]
    five = at.run(pyramid, x, channels=scale.channels(1024))
    return neck(at, three, four, five, c2f, (512, 256, 512, 1024), 3)


def eleven(at: Builder, x: Map, facts: Facts) -> list[Map]:
    """Run YOLO11's backbone and, for a detector, its neck."""
    scale = at.scale
    large = facts["size"] in "mlx"

    def c3k2(y: Map, width: int, repeats: int, nested: bool = False, share: float = 0.5) -> Map:
        inner = "nested" if nested or large else "bottleneck"
        return at.run(gathered_block, y, channels=scale.channels(width), repeats=scale.repeats(repeats), skips=True, share=share,
                      inner=inner, squeeze=0.5)  # fmt: skip

    x = at.conv(x, 64)
    x = c3k2(at.conv(x, 128), 256, 2, share=0.25)
    three = x = c3k2(at.conv(x, 256), 512, 2, share=0.25)
    four = x = c3k2(at.conv(x, 512), 512, 2, nested=True)
    x = c3k2(at.conv(x, 1024), 1024, 2, nested=True)
    if facts["task"] != "classify":
        x = at.run(pyramid, x, channels=scale.channels(1024))
    x = at.run(attentive_block, x, channels=scale.channels(1024), repeats=scale.repeats(2))
    if facts["task"] == "classify":
        return [x]

    def block(y: Map, width: int, repeats: int) -> Map:
        return c3k2(y, width, repeats, nested=width == 1024)

    return neck(at, three, four, x, block, (512, 256, 512, 1024), 2)


def neck(
    at: Builder,
    three: Map,
    four: Map,
    five: Map,
    block: Callable[[Map, int, int], Map],
    widths: tuple[int, int, int, int],
    repeats: int,
) -> list[Map]:
    """Go up to the finest grid and down again."""
    first = block(at.join(at.up(five), four), widths[0], repeats)
    del four
    low = block(at.join(at.up(first), three), widths[1], repeats)
    del three
    middle = block(at.join(at.conv(low, 256), first), widths[2], repeats)
    high = block(at.join(at.conv(middle, 512), five), widths[3], repeats)
    return [low, middle, high]


def prototypes(net: Net, x: Map, width: int) -> Map:
    """Make the maps that masks are mixed of."""
    with net.within("proto"):
        x = unit(net, x, "cv1", width, 3)
        x = net.deconv(x, "upsample", width, 2, stride=2)
        return unit(net, unit(net, x, "cv2", width, 3), "cv3", MASKS)


def anchored(net: Net, maps: list[Map], classes: int, masks: int) -> list[Map]:
    """Run YOLOv5's head: one convolution a grid, three boxes a position."""
    found = []
    for index, x in enumerate(maps):
        x = net.conv(x, f"m.{index}", ANCHORS * (classes + 5 + masks), bias=True)
        found.append(net.copy(x))
    return found


def distributed(net: Net, maps: list[Map], classes: int, *, light: bool) -> list[Map]:
    """Run YOLOv8's head, or YOLO11's with its light class branch: boxes as distributions, and scores of classes."""
    boxes = max(16, maps[0].channels // 4, 4 * DISTANCES)
    scores = max(maps[0].channels, min(classes, 100))
    found = []
    for index, x in enumerate(maps):
        with net.within(f"cv2.{index}"):
            box = unit(net, unit(net, x, "0", boxes, 3), "1", boxes, 3)
            box = net.conv(box, "2", 4 * DISTANCES, bias=True)
        with net.within(f"cv3.{index}"):
            if light:
                y = unit(net, unit(net, x, "0.0", x.channels, 3, groups=x.channels), "0.1", scores)
                y = unit(net, unit(net, y, "1.0", scores, 3, groups=scores), "1.1", scores)
            else:
                y = unit(net, unit(net, x, "0", scores, 3), "1", scores, 3)
            y = net.conv(y, "2", classes, bias=True)
        found.append(net.join([box, y]))
        del box, y
    net.parameter("dfl.conv.weight", 1, DISTANCES, 1, 1, buffer=True)
    return found


def coefficients(net: Net, maps: list[Map]) -> Map:
    """Run the branch of masks: how much of each prototype a box takes."""
    width = max(maps[0].channels // 4, MASKS)
    found = []
    for index, x in enumerate(maps):
        with net.within(f"cv4.{index}"):
            y = net.conv(unit(net, unit(net, x, "0", width, 3), "1", width, 3), "2", MASKS, bias=True)
        found.append(net.view(y, MASKS, y.places))
        del y
    return net.stack(found)


BODIES = {"yolov5": v5, "yolov8": v8, "yolo11": eleven}


def model(net: Net, x: Map, facts: Facts, classes: int) -> Map:
    """Run a model, its head and, on a tape, its loss."""
    at = Builder(net, Scale(*facts["scale"]))
    maps = BODIES[facts["version"]](at, x, facts)
    task = facts["task"]
    number = at.number
    net.begin()
    with net.within(f"model.{number}"):
        net.piece = HEAD
        if task == "classify":
            y = unit(net, maps[-1], "conv", LAST)
            return net.linear(net.view(net.mean(y), LAST, 1), "linear", classes, role="head")
        masks = MASKS if task == "segment" else 0
        proto = mixed = None
        if masks:
            proto = prototypes(net, maps[0], at.scale.channels(PROTOTYPES))
        if facts["head"] == "yolov5":
            found = anchored(net, maps, classes, masks)
        else:
            mixed = coefficients(net, maps) if masks else None
            found = distributed(net, maps, classes, light=facts["head"] == "yolo11")
        del maps
        net.begin()
        return net.detection_loss(found, classes, proto=proto, mixed=mixed, anchored=facts["head"] == "yolov5")
