"""Autoencoders of images: what turns latents into pixels.

References
----------
.. [1] R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2021, arXiv:2112.10752.
.. [2] diffusers 0.42.1, ``models/autoencoders``.
"""

from __future__ import annotations

from collections.abc import Callable

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.config import Config
from vrameter.model.diffusion.blocks import attention
from vrameter.model.diffusion.registry import Components, reads
from vrameter.model.diffusion.unet import resnet

Block = Callable[[str, int, int], Tensors]


def middle(name: str, size: int, block: Block, *, attends: bool) -> Tensors:
    """Return two residual blocks and the attention of one head between them."""
    tensors = block(f"{name}.resnets.0", size, size) + block(f"{name}.resnets.1", size, size)
    if attends:
        tensors += parts.norm(f"{name}.attentions.0.group_norm", size, bias=True)
        tensors += attention(f"{name}.attentions.0", size, head_dim=size).tensors
    return tensors


def both_sides(
    cfg: Config,
    channels: list[int],
    layers: int,
    latent: int,
    block: Block,
    *,
    down: Callable[[str, int], Tensors],
    up: Callable[[str, int], Tensors],
    edge: Callable[[str, int, int], Tensors],
    upsampled: Callable[[int], bool] = lambda index: True,
) -> Tensors:
    """Return encoder and decoder: residual blocks per stage, one more each on the way up."""
    attends = cfg.flag("mid_block_add_attention", True)
    last = len(channels) - 1
    tensors = edge("encoder.conv_in", channels[0], cfg.integer("in_channels", 3))
    before = channels[0]
    for index, size in enumerate(channels):
        for place in range(layers):
            tensors += block(f"encoder.down_blocks.{index}.resnets.{place}", before if place == 0 else size, size)
        if index < last:
            tensors += down(f"encoder.down_blocks.{index}.downsamplers.0", size)
        before = size
    tensors += middle("encoder.mid_block", before, block, attends=attends)
    tensors += parts.norm("encoder.conv_norm_out", before, bias=True) + edge("encoder.conv_out", 2 * latent, before)
    tensors += edge("decoder.conv_in", before, latent)
    tensors += middle("decoder.mid_block", before, block, attends=attends)
    for index, size in enumerate(channels[::-1]):
        for place in range(layers + 1):
            tensors += block(f"decoder.up_blocks.{index}.resnets.{place}", before if place == 0 else size, size)
        if index < last and upsampled(index):
            tensors += up(f"decoder.up_blocks.{index}.upsamplers.0", size)
        before = size
    tensors += parts.norm("decoder.conv_norm_out", before, bias=True)
    return tensors + edge("decoder.conv_out", cfg.integer("out_channels", 3), before)


@reads("AutoencoderKL", "AutoencoderKLFlux2")
def autoencoder_kl(cfg: Config, prefix: str) -> Components:
    """Read the autoencoder of latent diffusion [1]_, of 4, 16 or 32 channels."""
    channels = cfg.integers("block_out_channels", [128, 256, 512, 512], least=1)
    latent = cfg.integer("latent_channels", 4)
    tensors = both_sides(
        cfg, channels, cfg.integer("layers_per_block", 2), latent,
        lambda name, inputs, outputs: resnet(name, inputs, outputs, 0),
        down=lambda name, size: parts.conv(f"{name}.conv", size, size, 3, 3),
        up=lambda name, size: parts.conv(f"{name}.conv", size, size, 3, 3),
        edge=lambda name, outputs, inputs: parts.conv(name, outputs, inputs, 3, 3),
    )  # fmt: skip
    if cfg.flag("use_quant_conv", True):
        tensors += parts.conv("quant_conv", 2 * latent, 2 * latent, 1, 1)
    if cfg.flag("use_post_quant_conv", True):
        tensors += parts.conv("post_quant_conv", latent, latent, 1, 1)
    return (Component(kind="autoencoder", name=prefix, hidden_size=channels[-1], tensors=tensors, prefix=prefix),)


@reads("AutoencoderKLTemporalDecoder")
def temporal_decoder(cfg: Config, prefix: str) -> Components:
    """Read Stable Video Diffusion's autoencoder: the usual encoder, a decoder whose blocks mix the frames."""
    channels = cfg.integers("block_out_channels", [64], least=1)
    latent = cfg.integer("latent_channels", 4)

    def block(name: str, inputs: int, outputs: int) -> Tensors:
        if name.startswith("encoder"):
            return resnet(name, inputs, outputs, 0)
        return (
            *resnet(f"{name}.spatial_res_block", inputs, outputs, 0),
            *resnet(f"{name}.temporal_res_block", outputs, outputs, 0, 3, 1, 1),
            *parts.parameter(f"{name}.time_mixer.mix_factor", 1),
        )

    tensors = both_sides(
        cfg, channels, cfg.integer("layers_per_block", 1), latent, block,
        down=lambda name, size: parts.conv(f"{name}.conv", size, size, 3, 3),
        up=lambda name, size: parts.conv(f"{name}.conv", size, size, 3, 3),
        edge=lambda name, outputs, inputs: parts.conv(name, outputs, inputs, 3, 3),
    )  # fmt: skip
    outputs = cfg.integer("out_channels", 3)
    tensors += parts.conv("decoder.time_conv_out", outputs, outputs, 3, 1, 1)
    tensors += parts.conv("quant_conv", 2 * latent, 2 * latent, 1, 1)
    return (Component(kind="autoencoder", name=prefix, hidden_size=channels[-1], tensors=tensors, prefix=prefix),)
