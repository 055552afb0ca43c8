"""Image classifiers in stages: ResNet, ConvNeXt, Swin. Each stage halves the grid and widens the channels.

References
----------
.. [1] K. He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
.. [2] Z. Liu et al., "A ConvNet for the 2020s", 2022, arXiv:2201.03545; S. Woo et al., "ConvNeXt V2", 2023, arXiv:2301.00808.
.. [3] Z. Liu et al., "Swin Transformer", 2021, arXiv:2103.14030.
"""

from __future__ import annotations

from collections.abc import Sequence

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Part, Tensors
from vrameter.model.config import Config
from vrameter.model.families.registry import tower
from vrameter.model.families.vision_parts import channels, fixed_grid, grid, pair, patches, tower_of
from vrameter.model.families.vit import image_heads
from vrameter.model.image_input import ImageInput


def stages(cfg: Config, widths: str = "hidden_sizes") -> list[tuple[int, int]]:
    """Return depth and width of each stage."""
    depths, sizes = cfg.integers("depths", least=1), cfg.integers(widths, least=1)
    if len(depths) != len(sizes):
        raise cfg.fail("depths", "has %(length)s entries for %(count)s layers.", length=len(depths), count=len(sizes))
    return list(zip(depths, sizes, strict=True))


# -- ConvNeXt ------------------------------------------------------------------------------------------


def convnext_model(cfg: Config, prefix: str, *, normalises: bool) -> Component:
    """Return ConvNeXt [2]_; the second version normalises responses instead of scaling channels."""
    layers: list[Layer] = []
    found = stages(cfg)
    scaled = not normalises and cfg.number("layer_scale_init_value", 1e-6) > 0
    before = found[0][1]
    for number, (depth, width) in enumerate(found):
        tensors: Tensors = ()
        if number:
            tensors += parts.norm("downsampling_layer.0", before, bias=True)
            tensors += parts.conv("downsampling_layer.1", width, before, 2, 2)
        for index in range(depth):
            name = f"layers.{index}"
            tensors += parts.parameter(f"{name}.layer_scale_parameter", width) if scaled else ()
            tensors += parts.conv(f"{name}.dwconv", width, 1, 7, 7)
            tensors += parts.norm(f"{name}.layernorm", width, bias=True)
            tensors += parts.linear(f"{name}.pwconv1", 4 * width, width, bias=True, role="mlp")
            if normalises:
                tensors += parts.parameter(f"{name}.grn.weight", 1, 1, 1, 4 * width, role="norm")
                tensors += parts.parameter(f"{name}.grn.bias", 1, 1, 1, 4 * width, role="norm")
            tensors += parts.linear(f"{name}.pwconv2", width, 4 * width, bias=True, role="mlp")
        layers.append(Layer((), tensors))
        before = width
    first = found[0][1]
    around = (
        *patches(cfg, "embeddings.patch_embeddings", first),
        *parts.norm("embeddings.layernorm", first, bias=True),
        *parts.norm("layernorm", before, bias=True),
    )
    return staged(cfg, prefix, layers, around, before, layers_name="encoder.stages")


def staged(
    cfg: Config, prefix: str, layers: Sequence[Layer], tensors: Tensors, width: int, *, layers_name: str, patch: int = 0
) -> Component:
    """Return a tower whose layers are stages; its output is as wide as the last."""
    edge = (patch, patch) if patch else pair(cfg, "patch_size")
    last = edge[0] * 2 ** (len(layers) - 1), edge[1] * 2 ** (len(layers) - 1)
    image = ImageInput(patch_size=last, image_size=pair(cfg, "image_size", 224))
    return tower_of(cfg, prefix, tuple(layers), tensors=tensors, hidden=width, layers_name=layers_name, image=image)


@tower("convnext", base="convnext", heads=image_heads())
def convnext(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """ConvNeXt."""
    return convnext_model(cfg, prefix, normalises=False)


@tower("convnextv2", base="convnextv2", heads=image_heads())
def convnextv2(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """ConvNeXt V2."""
    return convnext_model(cfg, prefix, normalises=True)


# -- ResNet --------------------------------------------------------------------------------------------


@tower("resnet", base="resnet", heads=image_heads(names=("classifier.1",)))
def resnet(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """ResNet [1]_: bottlenecks of three convolutions or blocks of two, each with a batch norm."""

    def convolved(name: str, outputs: int, inputs: int, kernel: int) -> Tensors:
        return (
            *parts.conv(f"{name}.convolution", outputs, inputs, kernel, kernel, bias=False),
            *parts.batch_norm(f"{name}.normalization", outputs),
        )

    before = first = cfg.integer("embedding_size")
    bottleneck = cfg.text("layer_type", "bottleneck") == "bottleneck"
    layers: list[Layer] = []
    for number, (depth, width) in enumerate(stages(cfg)):
        tensors: Tensors = ()
        strided = number > 0 or cfg.flag("downsample_in_first_stage", False)
        for index in range(depth):
            name = f"layers.{index}"
            if before != width or (strided and index == 0):
                tensors += convolved(f"{name}.shortcut", width, before, 1)
            inner = width // 4
            steps = ((inner, before, 1), (inner, inner, 3), (width, inner, 1)) if bottleneck else (
                (width, before, 3), (width, width, 3),
            )  # fmt: skip
            for step, (outputs, inputs, kernel) in enumerate(steps):
                tensors += convolved(f"{name}.layer.{step}", outputs, inputs, kernel)
            before = width
        layers.append(Layer((), tensors))
    around = convolved("embedder.embedder", first, channels(cfg), 7)
    return staged(cfg, prefix, layers, around, before, layers_name="encoder.stages", patch=4)


# -- Swin ----------------------------------------------------------------------------------------------


@tower("swin", base="swin", heads=image_heads())
def swin(cfg: Config, prefix: str, *, classifies: bool = False) -> Component:
    """Swin [3]_: attention within windows, four patches merged to one between stages."""
    first, ratio = cfg.integer("embed_dim"), cfg.number("mlp_ratio", 4)
    depths, heads = cfg.integers("depths", least=1), cfg.integers("num_heads", least=1)
    window, bias = pair(cfg, "window_size"), cfg.flag("qkv_bias", True)
    reach = (2 * window[0] - 1) * (2 * window[1] - 1)
    layers: list[Layer] = []
    width = first
    for number, (depth, count) in enumerate(zip(depths, heads, strict=False)):
        width = first * 2**number
        members: list[Part] = []
        tensors: Tensors = ()
        for index in range(depth):
            name = f"blocks.{index}"
            table = f"{name}.attention.relative_position_bias.relative_position_bias_table"
            members.append(
                parts.attention(
                    hidden_size=width,
                    num_heads=count,
                    name=f"{name}.attention",
                    bias=bias,
                    o_bias=True,
                    scope="encoder",
                    extra=parts.parameter(table, reach, count),
                )
            )
            members.append(
                parts.mlp(
                    hidden_size=width,
                    intermediate_size=int(ratio * width),
                    gated=False,
                    bias=True,
                    name=f"{name}.mlp",
                    up="fc1",
                    down="fc2",
                )
            )
            tensors += parts.norm(f"{name}.layernorm_before", width, bias=True)
            tensors += parts.norm(f"{name}.layernorm_after", width, bias=True)
        if number < len(depths) - 1:
            tensors += parts.linear("downsample.reduction", 2 * width, 4 * width)
            tensors += parts.norm("downsample.norm", 4 * width, bias=True)
        layers.append(Layer(tuple(members), tensors))
    places = parts.parameter("embeddings.position_embeddings", 1, grid(cfg), first, role="embedding", slot="position")
    around = (
        *patches(cfg, "embeddings.patch_embeddings.projection", first),
        *parts.norm("embeddings.norm", first, bias=True),
        *(places if cfg.flag("use_absolute_embeddings", False) else ()),
        *parts.norm("layernorm", width, bias=True),
    )
    return tower_of(
        cfg, prefix, tuple(layers), tensors=around, hidden=width, layers_name="encoder.layers", image=fixed_grid(cfg)
    )
