"""Small image classifiers: RegNet, MobileNet, EfficientNet, PoolFormer, SegFormer.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] I. Radosavovic et al., "Designing Network Design Spaces" (RegNet), 2020, arXiv:2003.13678.
.. [2] A. Howard et al., "MobileNets", 2017, arXiv:1704.04861; M. Sandler et al., "MobileNetV2", 2018, arXiv:1801.04381.
.. [3] M. Tan and Q. Le, "EfficientNet", 2019, arXiv:1905.11946.
.. [4] W. Yu et al., "MetaFormer Is Actually What You Need for Vision" (PoolFormer), 2021, arXiv:2111.11418.
.. [5] E. Xie et al., "SegFormer", 2021, arXiv:2105.15203.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import ceil

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Part, Tensors
from vrameter.model.config import Config
from vrameter.model.families.conv_vision import staged, stages
from vrameter.model.families.registry import Built, tower
from vrameter.model.families.vision_parts import channels, listed_sizes, pair, tower_of
from vrameter.model.families.vit import image_heads
from vrameter.model.image_input import ImageInput


def normed(name: str, outputs: int, inputs: int, kernel: int, *, norm: str = "normalization") -> Tensors:
    """Return a convolution without a bias and its batch norm."""
    return (
        *parts.conv(f"{name}.convolution", outputs, inputs, kernel, kernel, bias=False),
        *parts.batch_norm(f"{name}.{norm}", outputs),
    )


@tower("regnet", base="regnet", heads=image_heads(names=("classifier.1",)))
def regnet(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """RegNet [1]_: bottlenecks of grouped convolutions, in the second kind with a gate on channels."""
    before = first = cfg.integer("embedding_size")
    width_of_group, gated = cfg.integer("groups_width"), cfg.text("layer_type", "y") == "y"
    layers: list[Layer] = []
    for number, (depth, width) in enumerate(stages(cfg)):
        groups = max(1, width // width_of_group)
        strided = number > 0 or cfg.flag("downsample_in_first_stage", True)
        tensors: Tensors = ()
        for index in range(depth):
            name = f"layers.{index}"
            if before != width or (strided and index == 0):
                tensors += normed(f"{name}.shortcut", width, before, 1)
            tensors += normed(f"{name}.layer.0", width, before, 1)
            tensors += normed(f"{name}.layer.1", width, width // groups, 3)
            if gated:
                narrow = round(before / 4)
                tensors += parts.conv(f"{name}.layer.2.attention.0", narrow, width, 1, 1)
                tensors += parts.conv(f"{name}.layer.2.attention.2", width, narrow, 1, 1)
            tensors += normed(f"{name}.layer.{3 if gated else 2}", width, width, 1)
            before = width
        layers.append(Layer((), tensors))
    around = normed("embedder.embedder", first, channels(cfg), 3)
    return staged(cfg, prefix, layers, around, before, layers_name="encoder.stages", patch=4)


def divisible(value: float, divisor: int, least: int | None = None) -> int:
    """Return a width rounded to a multiple of `divisor`, but not down by more than a tenth.

    >>> divisible(30, 8), divisible(11, 8), divisible(3, 8)
    (32, 16, 8)
    """
    rounded = max(divisor if least is None else least, int(value + divisor / 2) // divisor * divisor)
    return int(rounded + divisor if rounded < 0.9 * value else rounded)


def single(
    cfg: Config, prefix: str, layers: list[Layer], tensors: Tensors, width: int, *, layers_name: str
) -> Component:
    """Return a tower whose image shrinks thirty-two times."""
    image = ImageInput(patch_size=(32, 32), image_size=pair(cfg, "image_size", 224))
    return tower_of(cfg, prefix, tuple(layers), tensors=tensors, hidden=width, layers_name=layers_name, image=image)


@tower("mobilenet_v1", base="mobilenet_v1", heads=image_heads())
def mobilenet_v1(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """MobileNet [2]_: each convolution split into one over space and one over channels."""
    scale, least = cfg.number("depth_multiplier", 1.0), cfg.integer("min_depth")
    depth = 32
    width = max(int(depth * scale), least)
    stem, layers = normed("conv_stem", width, channels(cfg), 3), []
    for index, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)):
        before = width
        if stride == 2 or index == 0:
            depth *= 2
            width = max(int(depth * scale), least)
        for outputs, inputs, kernel in ((before, 1, 3), (width, before, 1)):
            tensors = parts.conv("convolution", outputs, inputs, kernel, kernel, bias=False)
            layers.append(Layer((), (*tensors, *parts.batch_norm("normalization", outputs))))
    return single(cfg, prefix, layers, stem, width, layers_name="layer")


@tower("mobilenet_v2", base="mobilenet_v2", heads=image_heads())
def mobilenet_v2(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """MobileNet V2 [2]_: blocks that widen, look around, and narrow."""
    scale, divisor, least = (
        cfg.number("depth_multiplier", 1.0),
        cfg.integer("depth_divisible_by"),
        cfg.integer("min_depth"),
    )
    ratio = cfg.number("expand_ratio", 6.0)

    def scaled(width: int) -> int:
        return divisible(round(width * scale), divisor, least)

    widths = [scaled(w) for w in (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)]
    first, fine = scaled(32), cfg.flag("finegrained_output", True) and scale < 1.0
    last = 1280 if fine else scaled(1280)
    layers = []
    for before, width in pairwise(widths):
        wide = divisible(round(before * ratio), divisor, least)
        steps = (("expand_1x1", wide, before, 1), ("conv_3x3", wide, 1, 3), ("reduce_1x1", width, wide, 1))
        layers.append(Layer((), tuple(t for step in steps for t in normed(*step))))
    stem = (
        *normed("conv_stem.first_conv", first, channels(cfg), 3),
        *(() if cfg.flag("first_layer_is_expansion", True) else normed("conv_stem.expand_1x1", first, first, 1)),
        *normed("conv_stem.conv_3x3", first, 1, 3),
        *normed("conv_stem.reduce_1x1", widths[0], first, 1),
        *normed("conv_1x1", last, widths[-1], 1),
    )
    return single(cfg, prefix, layers, stem, last, layers_name="layer")


@tower("efficientnet", base="efficientnet", heads=image_heads())
def efficientnet(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """EfficientNet [3]_: MobileNet V2's blocks with a gate on channels, widened and deepened together."""
    wider, deeper = cfg.number("width_coefficient", 2.0), cfg.number("depth_coefficient", 3.1)
    divisor = cfg.integer("depth_divisor")
    inputs = cfg.integers("in_channels", least=1)
    count = len(inputs)
    outputs, kernels, repeats, ratios = (
        listed_sizes(cfg, name, count)
        for name in ("out_channels", "kernel_sizes", "num_block_repeats", "expand_ratios")
    )
    squeeze = cfg.number("squeeze_expansion_ratio", 0.25)

    def scaled(width: int) -> int:
        return divisible(width * wider, divisor)

    def rounded(name: str, outputs: int, inputs: int, kernel: int, norm: str) -> Tensors:
        return (
            *parts.conv(name, outputs, inputs, kernel, kernel, bias=False),
            *parts.batch_norm(norm, outputs),
        )

    layers: list[Layer] = []
    for stage in range(count):
        times = ceil(repeats[stage] * deeper)
        if times > 1024:
            raise cfg.fail(
                "num_block_repeats", "%(value)s is not between %(least)s and %(most)s.", value=times, least=1, most=1024
            )
        for index in range(times):
            before = scaled(outputs[stage] if index else inputs[stage])
            wide, width = before * ratios[stage], scaled(outputs[stage])
            narrow = max(1, int(before * squeeze))
            layers.append(
                Layer(
                    (),
                    (
                        *(
                            rounded("expansion.expand_conv", wide, before, 1, "expansion.expand_bn")
                            if ratios[stage] != 1
                            else ()
                        ),
                        *rounded(
                            "depthwise_conv.depthwise_conv", wide, 1, kernels[stage], "depthwise_conv.depthwise_norm"
                        ),
                        *parts.conv("squeeze_excite.reduce", narrow, wide, 1, 1),
                        *parts.conv("squeeze_excite.expand", wide, narrow, 1, 1),
                        *rounded("projection.project_conv", width, wide, 1, "projection.project_bn"),
                    ),
                )
            )
    first, last = scaled(32), scaled(1280)
    around = (
        *rounded("embeddings.convolution", first, channels(cfg), 3, "embeddings.batchnorm"),
        *rounded("encoder.top_conv", last, scaled(outputs[-1]), 1, "encoder.top_bn"),
    )
    return single(cfg, prefix, layers, around, cfg.integer("hidden_dim", last), layers_name="encoder.blocks")


def _normed_classifier(cfg: Config, class_name: str) -> Built | None:
    """Return a classifier behind a norm of its own."""
    built = image_heads()(cfg, class_name)
    if built is None:
        return None
    *body, head = built.components
    norm = parts.norm("norm", head.hidden_size, bias=True)
    return Built((*body, replace(head, tensors=(*norm, *head.tensors))))


@tower("poolformer", base="poolformer", heads=_normed_classifier)
def poolformer(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """PoolFormer [4]_: pooling instead of attention."""
    found = stages(cfg)
    sizes = listed_sizes(cfg, "patch_sizes", len(found))
    ratio, scaled = cfg.number("mlp_ratio", 4.0), cfg.flag("use_layer_scale", True)
    layers: list[Layer] = []
    around: Tensors = ()
    before = channels(cfg)
    for number, (depth, width) in enumerate(found):
        around += parts.conv(
            f"encoder.patch_embeddings.{number}.projection", width, before, sizes[number], sizes[number]
        )
        inner = int(width * ratio)
        tensors: Tensors = ()
        for index in range(depth):
            if scaled:
                tensors += parts.parameter(f"{index}.layer_scale_1", width)
                tensors += parts.parameter(f"{index}.layer_scale_2", width)
            tensors += parts.conv(f"{index}.output.conv1", inner, width, 1, 1)
            tensors += parts.conv(f"{index}.output.conv2", width, inner, 1, 1)
            tensors += parts.norm(f"{index}.before_norm", width, bias=True)
            tensors += parts.norm(f"{index}.after_norm", width, bias=True)
        layers.append(Layer((), tensors))
        before = width
    return staged(cfg, prefix, layers, around, before, layers_name="encoder.block", patch=4)


@tower("segformer", base="segformer", heads=image_heads())
def segformer(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """SegFormer [5]_: attention to a shrunk image, a convolution inside the perceptron."""
    found = stages(cfg)
    count = len(found)
    sizes, ratios, heads, inner = (
        listed_sizes(cfg, name, count) for name in ("patch_sizes", "sr_ratios", "num_attention_heads", "mlp_ratios")
    )
    layers: list[Layer] = []
    before = channels(cfg)
    for number, (depth, width) in enumerate(found):
        if width % heads[number]:
            raise cfg.fail(
                "hidden_sizes", "%(value)s is not a multiple of the %(heads)s attention heads.", value=width,
                heads=heads[number],
            )  # fmt: skip
        tensors = (
            *parts.conv("patch_embeddings.proj", width, before, sizes[number], sizes[number]),
            *parts.norm("patch_embeddings.layer_norm", width, bias=True),
            *parts.norm("layer_norm", width, bias=True),
        )
        members: list[Part] = []
        for index in range(depth):
            name, ratio = f"blocks.{index}", ratios[number]
            shrinking = (
                *parts.conv(f"{name}.attention.sequence_reduction.sequence_reduction", width, width, ratio, ratio),
                *parts.norm(f"{name}.attention.sequence_reduction.layer_norm", width, bias=True),
            )
            wide = width * inner[number]
            members.append(
                parts.attention(
                    hidden_size=width, num_heads=heads[number], name=f"{name}.attention", bias=True, scope="encoder",
                    extra=shrinking if ratio > 1 else (),
                )
            )  # fmt: skip
            members.append(
                parts.mlp(
                    hidden_size=width, intermediate_size=wide, gated=False, bias=True, name=f"{name}.mlp", up="fc1",
                    down="fc2", extra=parts.conv(f"{name}.mlp.dwconv.dwconv", wide, 1, 3, 3),
                )
            )  # fmt: skip
            tensors += parts.norm(f"{name}.layernorm_before", width, bias=True)
            tensors += parts.norm(f"{name}.layernorm_after", width, bias=True)
        layers.append(Layer(tuple(members), tensors))
        before = width
    return staged(cfg, prefix, layers, (), before, layers_name="stages", patch=4)


__all__ = ["divisible"]
