"""Autoencoders of video: convolutions over frames, of which only earlier ones are seen.

References
----------
.. [1] W. Kong et al., "HunyuanVideo", 2024, arXiv:2412.03603; Z. Yang et al., "CogVideoX", 2024, arXiv:2408.06072.
.. [2] Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025, arXiv:2503.20314.
.. [3] diffusers 0.42.1, ``models/autoencoders``.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.config import Config
from vrameter.model.diffusion.autoencoders import both_sides
from vrameter.model.diffusion.registry import Components, reads


def _causal(name: str, outputs: int, inputs: int, size: int = 3) -> Tensors:
    return parts.conv(f"{name}.conv", outputs, inputs, size, size, size)


def _component(prefix: str, size: int, tensors: Tensors) -> Components:
    return (Component(kind="autoencoder", name=prefix, hidden_size=size, tensors=tensors, prefix=prefix),)


@reads("AutoencoderKLHunyuanVideo")
def hunyuan_video(cfg: Config, prefix: str) -> Components:
    """HunyuanVideo's autoencoder [1]_."""

    def block(name: str, inputs: int, outputs: int) -> Tensors:
        tensors = parts.norm(f"{name}.norm1", inputs, bias=True) + _causal(f"{name}.conv1", outputs, inputs)
        tensors += parts.norm(f"{name}.norm2", outputs, bias=True) + _causal(f"{name}.conv2", outputs, outputs)
        return tensors + (_causal(f"{name}.conv_shortcut", outputs, inputs, 1) if inputs != outputs else ())

    channels = cfg.integers("block_out_channels", [128, 256, 512, 512], least=1)
    latent = cfg.integer("latent_channels", 16)
    tensors = both_sides(
        cfg, channels, cfg.integer("layers_per_block", 2), latent, block, edge=_causal,
        down=lambda name, size: _causal(f"{name}.conv", size, size),
        up=lambda name, size: _causal(f"{name}.conv", size, size),
    )  # fmt: skip
    tensors += parts.conv("quant_conv", 2 * latent, 2 * latent, 1, 1, 1)
    tensors += parts.conv("post_quant_conv", latent, latent, 1, 1, 1)
    return _component(prefix, channels[-1], tensors)


@reads("AutoencoderKLCogVideoX")
def cogvideox(cfg: Config, prefix: str) -> Components:
    """CogVideoX's autoencoder [1]_: the decoder's norms look at the latents."""
    channels = cfg.integers("block_out_channels", [128, 256, 256, 512], least=1)
    latent = cfg.integer("latent_channels", 16)

    def norm(name: str, size: int) -> Tensors:
        if not name.startswith("decoder"):
            return parts.norm(name, size, bias=True)
        return (
            *parts.norm(f"{name}.norm_layer", size, bias=True),
            *_causal(f"{name}.conv_y", size, latent, 1),
            *_causal(f"{name}.conv_b", size, latent, 1),
        )

    def block(name: str, inputs: int, outputs: int) -> Tensors:
        tensors = norm(f"{name}.norm1", inputs) + _causal(f"{name}.conv1", outputs, inputs)
        tensors += norm(f"{name}.norm2", outputs) + _causal(f"{name}.conv2", outputs, outputs)
        return tensors + (parts.conv(f"{name}.conv_shortcut", outputs, inputs, 1, 1, 1) if inputs != outputs else ())

    tensors = both_sides(
        cfg.over(mid_block_add_attention=False), channels, cfg.integer("layers_per_block", 3), latent, block,
        down=lambda name, size: parts.conv(f"{name}.conv", size, size, 3, 3),
        up=lambda name, size: parts.conv(f"{name}.conv", size, size, 3, 3),
        edge=_causal,
    )  # fmt: skip
    plain = "decoder.conv_norm_out."
    kept = tuple(each._replace(name=each.name.replace("encoder.conv_norm_out", "encoder.norm_out")) for each in tensors)
    own = tuple(each for each in kept if not each.name.startswith(plain)) + norm("decoder.norm_out", channels[0])
    if cfg.flag("use_quant_conv", False):
        own += parts.conv("quant_conv", 2 * latent, 2 * latent, 1, 1, 1)
    if cfg.flag("use_post_quant_conv", False):
        own += parts.conv("post_quant_conv", latent, latent, 1, 1, 1)
    return _component(prefix, channels[-1], own)


@reads("AutoencoderKLWan", "AutoencoderKLQwenImage")
def wan(cfg: Config, prefix: str) -> Components:
    """Wan's autoencoder [2]_, and Qwen-Image's, which has the same shape; the one of Wan 2.2's 5B model is not read."""
    if cfg.flag("is_residual", False):
        raise cfg.fail("is_residual", "%(value)s: this form of the class is not known here.", value=True)
    base, latent = cfg.integer("base_dim", 96), cfg.integer("z_dim", 16)
    widths = [base * times for times in cfg.integers("dim_mult", [1, 2, 4, 4], least=1)]
    over_time = cfg.sequence("temperal_downsample", [False, True, True])
    layers, last = cfg.integer("num_res_blocks", 2), len(widths) - 1

    def gamma(name: str, size: int, dims: int = 3) -> Tensors:
        return parts.parameter(f"{name}.gamma", size, *([1] * dims), role="norm")

    def cube(name: str, outputs: int, inputs: int, *kernel: int) -> Tensors:
        return parts.conv(name, outputs, inputs, *(kernel or (3, 3, 3)))

    def block(name: str, inputs: int, outputs: int) -> Tensors:
        tensors = gamma(f"{name}.norm1", inputs) + cube(f"{name}.conv1", outputs, inputs)
        tensors += gamma(f"{name}.norm2", outputs) + cube(f"{name}.conv2", outputs, outputs)
        return tensors + (cube(f"{name}.conv_shortcut", outputs, inputs, 1, 1, 1) if inputs != outputs else ())

    def inner(name: str, size: int) -> Tensors:
        tensors = block(f"{name}.resnets.0", size, size) + block(f"{name}.resnets.1", size, size)
        tensors += gamma(f"{name}.attentions.0.norm", size, 2)
        tensors += parts.conv(f"{name}.attentions.0.to_qkv", 3 * size, size, 1, 1)
        return tensors + parts.conv(f"{name}.attentions.0.proj", size, size, 1, 1)

    tensors = cube("encoder.conv_in", widths[0], cfg.integer("in_channels", 3))
    before, place = widths[0], 0
    for index, size in enumerate(widths):
        for _ in range(layers):
            tensors += block(f"encoder.down_blocks.{place}", before, size)
            before, place = size, place + 1
        if index < last:
            tensors += parts.conv(f"encoder.down_blocks.{place}.resample.1", size, size, 3, 3)
            if over_time[index]:
                tensors += cube(f"encoder.down_blocks.{place}.time_conv", size, size, 3, 1, 1)
            place += 1
    tensors += inner("encoder.mid_block", before) + gamma("encoder.norm_out", before)
    tensors += cube("encoder.conv_out", 2 * latent, before)
    tensors += cube("quant_conv", 2 * latent, 2 * latent, 1, 1, 1) + cube("post_quant_conv", latent, latent, 1, 1, 1)
    tensors += cube("decoder.conv_in", before, latent) + inner("decoder.mid_block", before)
    for index, size in enumerate(widths[::-1]):
        inputs = before if index == 0 else before // 2
        for number in range(layers + 1):
            tensors += block(f"decoder.up_blocks.{index}.resnets.{number}", inputs if number == 0 else size, size)
        before = size
        if index < last:
            name = f"decoder.up_blocks.{index}.upsamplers.0"
            tensors += parts.conv(f"{name}.resample.1", size // 2, size, 3, 3)
            if over_time[::-1][index]:
                tensors += cube(f"{name}.time_conv", 2 * size, size, 3, 1, 1)
    tensors += gamma("decoder.norm_out", before) + cube("decoder.conv_out", cfg.integer("out_channels", 3), before)
    return _component(prefix, widths[-1], tensors)


@reads("AutoencoderKLLTXVideo")
def ltx_video(cfg: Config, prefix: str) -> Components:
    """LTX-Video's autoencoder: patches of pixels, and upsampling that moves channels into space and time."""

    def block(name: str, inputs: int, outputs: int) -> Tensors:
        tensors = _causal(f"{name}.conv1", outputs, inputs) + _causal(f"{name}.conv2", outputs, outputs)
        if inputs == outputs:
            return tensors
        return (
            tensors
            + parts.norm(f"{name}.norm3", inputs, bias=True)
            + _causal(f"{name}.conv_shortcut", outputs, inputs, 1)
        )

    for name in ("timestep_conditioning", "upsample_residual", "decoder_inject_noise"):
        value = cfg.get(name, False)
        if any(value) if isinstance(value, (list, tuple)) else value:
            raise cfg.fail(name, "%(value)s: this form of the class is not known here.", value=value)
    values, latent = cfg.integer("patch_size", 4) ** 2, cfg.integer("latent_channels", 128)
    edge = values * cfg.integer("patch_size_t", 1)
    widths = cfg.integers("block_out_channels", [128, 256, 512, 512], least=1)
    scaled = cfg.sequence("spatio_temporal_scaling", [True, True, True, False])
    layers = cfg.integers("layers_per_block", [4, 3, 3, 3, 4], least=1)
    before = widths[0]
    tensors = _causal("encoder.conv_in", before, edge * cfg.integer("in_channels", 3))
    for index, width in enumerate(widths):
        name = f"encoder.down_blocks.{index}"
        after = widths[min(index + 1, len(widths) - 1)]
        for place in range(layers[index]):
            tensors += block(f"{name}.resnets.{place}", width, width)
        if scaled[index]:
            tensors += _causal(f"{name}.downsamplers.0", width, width)
        if after != width:
            tensors += block(f"{name}.conv_out", width, after)
        before = after
    for place in range(layers[-1]):
        tensors += block(f"encoder.mid_block.resnets.{place}", before, before)
    tensors += _causal("encoder.conv_out", latent + 1, before)
    rising = cfg.integers("decoder_block_out_channels", [128, 256, 512, 512], least=1)[::-1]
    grown = cfg.sequence("decoder_spatio_temporal_scaling", [True, True, True, False])[::-1]
    counts = cfg.integers("decoder_layers_per_block", [4, 3, 3, 3, 4], least=1)[::-1]
    before = rising[0]
    tensors += _causal("decoder.conv_in", before, latent)
    for place in range(counts[0]):
        tensors += block(f"decoder.mid_block.resnets.{place}", before, before)
    for index, width in enumerate(rising):
        name = f"decoder.up_blocks.{index}"
        if width != before:
            tensors += block(f"{name}.conv_in", before, width)
        if grown[index]:
            tensors += _causal(f"{name}.upsamplers.0.conv", 8 * width, width)
        for place in range(counts[index + 1]):
            tensors += block(f"{name}.resnets.{place}", width, width)
        before = width
    tensors += _causal("decoder.conv_out", edge * cfg.integer("out_channels", 3), before)
    return _component(prefix, widths[-1], tensors)
