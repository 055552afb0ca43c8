"""UNets: Stable Diffusion 1 to XL, and Stable Video Diffusion's, which mixes every block over the frames.

References
----------
.. [1] R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2021, arXiv:2112.10752.
.. [2] diffusers 0.42.1, ``models/unets``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.config import Config
from vrameter.model.diffusion.blocks import attention, embedder, feed_forward, linear
from vrameter.model.diffusion.registry import Components, reads


@dataclass(frozen=True, slots=True)
class Stage:
    """One resolution on the way down or up.

    Parameters
    ----------
    resnets
        Channels in and out of each residual block; going up, skipped ones are counted in.
    depth
        Transformer blocks after each residual block; 0 for none.
    resampled
        Whether the resolution changes at its end.
    """

    channels: int
    resnets: tuple[tuple[int, int], ...]
    depth: int
    heads: int
    resampled: bool


@dataclass(frozen=True, slots=True)
class UNetPlan:
    """The shape of a UNet: what its tensors and its feature maps follow from."""

    down: tuple[Stage, ...]
    middle: Stage
    up: tuple[Stage, ...]
    cross: int
    in_channels: int
    out_channels: int
    linear_projection: bool

    @property
    def time_channels(self) -> int:
        return 4 * self.down[0].channels


def _each(value: object, count: int, default: int) -> list[int]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [int(item) for item in value]
    return [int(value) if isinstance(value, int) else default] * count


def unet_plan(cfg: Config) -> UNetPlan:
    """Return the shape that a UNet's config describes."""
    channels: list[int] = cfg.integers("block_out_channels", [320, 640, 1280, 1280], least=1)
    count = len(channels)
    down_types = cfg.sequence("down_block_types", ["CrossAttnDownBlock2D"] * (count - 1) + ["DownBlock2D"])
    up_types = cfg.sequence("up_block_types", ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (count - 1))
    if len(down_types) != count or len(up_types) != count:
        raise cfg.fail(
            "down_block_types", "has %(length)s entries for %(count)s stages.", length=len(down_types), count=count
        )
    layers = _each(cfg.get("layers_per_block"), count, 2)
    depths = _each(cfg.get("transformer_layers_per_block"), count, 1)
    heads = _each(cfg.get("num_attention_heads") or cfg.get("attention_head_dim"), count, 8)
    crossed = _each(cfg.get("cross_attention_dim"), 1, 1280)

    def crosses(name: object) -> bool:
        return "CrossAttn" in str(name)

    down: list[Stage] = []
    before = channels[0]
    for index, width in enumerate(channels):
        resnets = tuple((before if place == 0 else width, width) for place in range(layers[index]))
        depth = depths[index] if crosses(down_types[index]) else 0
        down.append(Stage(width, resnets, depth, heads[index], index < count - 1))
        before = width
    last = channels[-1]
    middle = Stage(last, ((last, last), (last, last)), depths[-1], heads[-1], False)
    up: list[Stage] = []
    rising, before = channels[::-1], last
    for index, width in enumerate(rising):
        number = layers[::-1][index] + 1
        skipped = rising[min(index + 1, count - 1)]
        resnets = tuple(
            ((before if place == 0 else width) + (skipped if place == number - 1 else width), width)
            for place in range(number)
        )
        depth = depths[::-1][index] if crosses(up_types[index]) else 0
        up.append(Stage(width, resnets, depth, heads[::-1][index], index < count - 1))
        before = width
    return UNetPlan(
        tuple(down), middle, tuple(up), crossed[0], cfg.integer("in_channels", 4), cfg.integer("out_channels", 4),
        cfg.flag("use_linear_projection", False),
    )  # fmt: skip


def resnet(name: str, inputs: int, outputs: int, time: int, *kernel: int, shortcut: bool = True) -> Tensors:
    """Return a residual block that is told the time step; `time` is 0 where it is not."""
    size = kernel or (3, 3)
    tensors = parts.norm(f"{name}.norm1", inputs, bias=True) + parts.conv(f"{name}.conv1", outputs, inputs, *size)
    if time:
        tensors += linear(f"{name}.time_emb_proj", outputs, time)
    tensors += parts.norm(f"{name}.norm2", outputs, bias=True) + parts.conv(f"{name}.conv2", outputs, outputs, *size)
    if shortcut and inputs != outputs:
        tensors += parts.conv(f"{name}.conv_shortcut", outputs, inputs, *([1] * len(size)))
    return tensors


def transformer_block(name: str, size: int, heads: int, cross: int) -> Tensors:
    """Return self-attention, cross-attention and a gated perceptron."""
    dim = size // heads
    tensors = attention(f"{name}.attn1", size, head_dim=dim, bias=False).tensors
    tensors += attention(f"{name}.attn2", size, head_dim=dim, bias=False, kv_inputs=cross).tensors
    tensors += feed_forward(f"{name}.ff", size, 4 * size, gated=True).tensors
    for index in (1, 2, 3):
        tensors += parts.norm(f"{name}.norm{index}", size, bias=True)
    return tensors


def _transformer(name: str, stage: Stage, plan: UNetPlan, *, over_time: bool) -> Tensors:
    size = stage.channels
    kernel = () if plan.linear_projection or over_time else (1, 1)
    tensors = parts.norm(f"{name}.norm", size, bias=True)
    for which in ("proj_in", "proj_out"):
        tensors += (
            parts.conv(f"{name}.{which}", size, size, *kernel) if kernel else linear(f"{name}.{which}", size, size)
        )
    for index in range(stage.depth):
        tensors += transformer_block(f"{name}.transformer_blocks.{index}", size, stage.heads, plan.cross)
        if over_time:
            block = f"{name}.temporal_transformer_blocks.{index}"
            tensors += transformer_block(block, size, stage.heads, plan.cross)
            tensors += parts.norm(f"{block}.norm_in", size, bias=True)
            tensors += feed_forward(f"{block}.ff_in", size, 4 * size, gated=True).tensors
    if over_time:
        tensors += embedder(f"{name}.time_pos_embed", size, 4 * size, size)
        tensors += parts.parameter(f"{name}.time_mixer.mix_factor", 1)
    return tensors


def _residual(name: str, inputs: int, outputs: int, time: int, *, over_time: bool) -> Tensors:
    if not over_time:
        return resnet(name, inputs, outputs, time)
    return (
        *resnet(f"{name}.spatial_res_block", inputs, outputs, time),
        *resnet(f"{name}.temporal_res_block", outputs, outputs, time, 3, 1, 1),
        *parts.parameter(f"{name}.time_mixer.mix_factor", 1),
    )


@reads("UNet2DConditionModel", "UNetSpatioTemporalConditionModel")
def unet(cfg: Config, prefix: str) -> Components:
    """Read the UNet of latent diffusion [1]_ as one component, whose every tensor has its place in the names."""
    plan = unet_plan(cfg)
    over_time = any("SpatioTemporal" in str(name) for name in cfg.sequence("down_block_types", []))
    first, time = plan.down[0].channels, plan.time_channels
    tensors = parts.conv("conv_in", first, plan.in_channels, 3, 3) + embedder("time_embedding", first, time)
    if cfg.get("addition_embed_type") == "text_time" or over_time:
        tensors += embedder("add_embedding", cfg.integer("projection_class_embeddings_input_dim"), time)
    for way, stages in (("down", plan.down), ("up", plan.up)):
        for index, stage in enumerate(stages):
            name = f"{way}_blocks.{index}"
            for place, (inputs, outputs) in enumerate(stage.resnets):
                tensors += _residual(f"{name}.resnets.{place}", inputs, outputs, time, over_time=over_time)
                if stage.depth:
                    tensors += _transformer(f"{name}.attentions.{place}", stage, plan, over_time=over_time)
            if stage.resampled:
                tensors += parts.conv(f"{name}.{way}samplers.0.conv", stage.channels, stage.channels, 3, 3)
    for place, (inputs, outputs) in enumerate(plan.middle.resnets):
        tensors += _residual(f"mid_block.resnets.{place}", inputs, outputs, time, over_time=over_time)
    tensors += _transformer("mid_block.attentions.0", plan.middle, plan, over_time=over_time)
    tensors += parts.norm("conv_norm_out", first, bias=True) + parts.conv("conv_out", plan.out_channels, first, 3, 3)
    return (Component(kind="denoiser", name=prefix, hidden_size=first, tensors=tensors, prefix=prefix),)
