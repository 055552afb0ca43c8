"""What an autoencoder holds at its fullest moment while it makes pixels of latents.

The widest maps at full resolution decide. A residual block holds its input, the norm of it and the activation of that;
while it convolves, its input, what is convolved, and the result, with what cuDNN keeps of both beside them; while it
upsamples, the small map, the large one and its convolution.

References
----------
.. [1] diffusers 0.42.1, ``models/autoencoders/vae.py``, ``models/resnet.py``, ``models/upsampling.py``; tiles of
       ``AutoencoderKL.tiled_decode``.
.. [2] ``AutoencoderKLCogVideoX``: two latent frames at once, with what each convolution has seen of those before;
       ``AutoencoderKLHunyuanVideo``: 16 frames at once; ``AutoencoderKLWan``: one latent frame at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import msgspec

from vrameter.data import read_bytes
from vrameter.engines.diffusers.shape import Shape
from vrameter.model.config import Config
from vrameter.model.diffusion.pipeline import Module
from vrameter.units import ceil_div

ALL = 2**30
"""Latent frames of one pass where a video is decoded whole."""


class Share(msgspec.Struct, frozen=True):
    """A share with its interval, in thousandths."""

    low: int
    typical: int
    high: int


class Constants(msgspec.Struct, frozen=True):
    """What is calibrated on measured runs.

    Parameters
    ----------
    convolution_workspace
        What a convolution's library keeps of its input and output.
    checkpoint_slack, plain_slack, step_slack
        What the allocator holds beside what comes and goes, of that: in passes whose blocks run again, in other passes, and in the
        optimizer's step.
    modelled
        How wide the intervals of a step's activations and temporaries are.
    """

    convolution_workspace: Share
    checkpoint_slack: Share
    plain_slack: Share
    step_slack: Share
    modelled: Share


@lru_cache(maxsize=1)
def constants() -> Constants:
    """Return the calibrated constants of this area."""
    return msgspec.json.decode(read_bytes("diffusion_constants.json"), type=Constants)


@dataclass(frozen=True, slots=True)
class Decoder:
    """The shape of a decoder and of what it is given at once.

    Parameters
    ----------
    stages
        Channels in and out of each stage, from the smallest resolution up, and how it grows: edge and frames.
    conditioned
        Whether norms look at the latents, which makes two maps more of every one.
    padded
        Frames that a causal convolution puts before its input.
    cached
        Whether convolutions keep what they have seen of frames before.
    frames_at_once
        Latent frames of one pass.
    norm_maps
        Maps that live in a residual block's norm: its input, the norm, its activation; 5 where it computes in fp32.
    """

    stages: tuple[tuple[int, int, int, int], ...]
    latent_channels: int
    out_channels: int
    conditioned: bool = False
    padded: int = 0
    cached: bool = False
    frames_at_once: int = 1
    layers: int = 2
    norm_maps: int = 3


def residual_bytes(*, pixels: int, inputs: int, beside: int, element_bytes: int) -> int:
    """Return what a residual block holds when its norm is activated. [bytes].

    Formula::

        pixels * (3 * inputs + beside) * element_bytes

    Parameters
    ----------
    beside
        Channels of other maps that live then. [channels]

    Notes
    -----
    1536 bytes a pixel for the 256 channels of the usual decoder in 16 bits: 1.5 GiB at 1024 by 1024.

    >>> residual_bytes(pixels=1024 * 1024, inputs=256, beside=0, element_bytes=2) / 2**30
    1.5
    """
    return pixels * (3 * inputs + beside) * element_bytes


def convolution_bytes(
    *, pixels: int, inputs: int, outputs: int, beside: int, element_bytes: int, thousandths: int
) -> int:
    """Return what lives while a map is convolved. [bytes].

    Formula::

        pixels * (inputs + outputs + beside) * element_bytes + pixels * (inputs + outputs) * element_bytes * thousandths // 1000

    Parameters
    ----------
    beside
        Channels of other maps that live then. [channels]
    thousandths
        What the library keeps of input and output: copies in the order it computes in.
    """
    return (
        pixels * (inputs + outputs + beside) * element_bytes
        + pixels * (inputs + outputs) * element_bytes * thousandths // 1000
    )


def decoder_of(module: Module) -> Decoder:
    """Return the shape of an autoencoder's decoder."""
    cfg = module.cfg
    if "z_dim" in cfg.values or module.class_name in ("AutoencoderKLWan", "AutoencoderKLQwenImage"):
        base = cfg.integer("base_dim", 96)
        widths = [base * times for times in cfg.integers("dim_mult", [1, 2, 4, 4], least=1)][::-1]
        over_time = [*cfg.sequence("temperal_downsample", [False, True, True])][::-1]
        stages, before = [], widths[0]
        for index, width in enumerate(widths):
            last = index == len(widths) - 1
            stages.append(
                (
                    before if index == 0 else before // 2,
                    width,
                    1 if last else 2,
                    2 if not last and over_time[index] else 1,
                )
            )
            before = width
        return Decoder(
            tuple(stages), cfg.integer("z_dim", 16), cfg.integer("out_channels", 3), padded=2, cached=True,
            layers=cfg.integer("num_res_blocks", 2),
        )  # fmt: skip
    if module.class_name == "AutoencoderKLLTXVideo":
        return _of_ltx(cfg)
    widths = [*cfg.integers("block_out_channels", [128, 256, 512, 512], least=1)][::-1]
    stages, before = [], widths[0]
    causal = module.class_name in ("AutoencoderKLHunyuanVideo", "AutoencoderKLCogVideoX")
    times = cfg.integer("temporal_compression_ratio", 4) if causal else 1
    late = module.class_name == "AutoencoderKLHunyuanVideo"
    steps = times.bit_length() - 1
    growing = range(len(widths) - 1)[-steps:] if late and steps else range(steps)
    for index, width in enumerate(widths):
        last = index == len(widths) - 1
        stages.append((before, width, 1 if last else 2, 2 if index in growing and not last else 1))
        before = width
    conditioned = module.class_name == "AutoencoderKLCogVideoX"
    return Decoder(
        tuple(stages), cfg.integer("latent_channels", 4), cfg.integer("out_channels", 3), conditioned=conditioned,
        padded=2 if causal else 0, cached=conditioned, frames_at_once=2 if conditioned else 5 if causal else ALL,
        layers=cfg.integer("layers_per_block", 2),
    )  # fmt: skip


def _of_ltx(cfg: Config) -> Decoder:
    """Return LTX-Video's decoder, which ends at patches of pixels, and whose norms compute in fp32."""
    widths = cfg.integers("decoder_block_out_channels", [128, 256, 512, 512], least=1)[::-1]
    grown = cfg.sequence("decoder_spatio_temporal_scaling", [True, True, True, False])[::-1]
    rising = zip(widths, [*widths[1:], widths[-1]], [*grown[1:], False], strict=False)
    stages = tuple((width, after, 2 if larger else 1, 2 if larger else 1) for width, after, larger in rising)
    return Decoder(
        stages, cfg.integer("latent_channels", 128), cfg.integer("out_channels", 3), frames_at_once=ALL, norm_maps=5
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """The fullest moment of one stage. [bytes] of all maps; `caches` of what convolutions have seen."""

    bytes: int
    caches: int


def stage_moments(decoder: Decoder, pixels: int, frames: int, element_bytes: int, thousandths: int) -> list[Moment]:
    """Return the fullest moment of every stage, from the smallest resolution up; `pixels` are latents at once."""
    moments = []
    for inputs, outputs, edge, slow in decoder.stages:
        wider = max(inputs, outputs)
        padded = ceil_div(wider * decoder.padded, max(1, frames))
        latents = 2 * decoder.latent_channels if decoder.conditioned else 0
        extra = 3 * wider + latents if decoder.conditioned else (decoder.norm_maps - 3) * wider
        residual = residual_bytes(pixels=pixels, inputs=wider, beside=extra, element_bytes=element_bytes)
        convolved = convolution_bytes(
            pixels=pixels, inputs=wider + padded, outputs=outputs, beside=inputs + (wider if padded else 0),
            element_bytes=element_bytes, thousandths=thousandths,
        )  # fmt: skip
        peak = max(residual, convolved)
        caches = 0
        if decoder.cached:
            blocks = decoder.layers + 1
            seen = 2 * blocks * outputs + (inputs - outputs)
            caches = pixels * seen * element_bytes * min(2, frames) // max(1, frames)
            if decoder.conditioned:
                caches += pixels * 2 * 2 * blocks * decoder.latent_channels * element_bytes
        if edge > 1 or slow > 1:
            factor = edge * edge * slow
            small, pixels, frames = outputs * pixels, pixels * factor, frames * slow
            halved = outputs // 2 if decoder.cached and not decoder.conditioned else outputs
            padded = 0 if decoder.cached else ceil_div(outputs * decoder.padded, max(1, frames))
            upsampled = convolution_bytes(
                pixels=pixels, inputs=outputs + padded, outputs=halved, beside=outputs if padded else 0,
                element_bytes=element_bytes, thousandths=thousandths,
            )  # fmt: skip
            peak = max(peak, upsampled + small * element_bytes)
        moments.append(Moment(peak, caches))
    return moments


# Edge of a tile of latents. [diffusers 0.42.1]
TILE_LATENTS = {
    "AutoencoderKLHunyuanVideo": 32, "AutoencoderKLWan": 32, "AutoencoderKLQwenImage": 32, "AutoencoderKLLTXVideo": 16,
}  # fmt: skip


def decode_moments(
    module: Module, shape: Shape, *, tiling: bool, slicing: bool, element_bytes: int, thousandths: int
) -> tuple[list[int], int]:
    """Return the fullest moments of the stages, and what waits beside them: finished pictures, what convolutions have seen."""
    decoder = decoder_of(module)
    if shape.frames == 1:
        decoder = replace(decoder, stages=tuple((*stage[:3], 1) for stage in decoder.stages))
    frames, rows, columns = shape.latent
    samples = 1 if slicing else shape.samples
    pixels = samples * shape.height * shape.width * shape.frames
    finished = 0
    at_once = min(frames, decoder.frames_at_once) if shape.frames > 1 else 1
    if shape.frames > 1 and at_once < frames:
        finished = 2 * pixels * decoder.out_channels * element_bytes
    if tiling:
        tile = TILE_LATENTS.get(module.class_name) or _tile(module)
        if rows > tile or columns > tile:
            rows, columns = min(rows, tile), min(columns, tile)
            finished = 2 * pixels * decoder.out_channels * element_bytes
    if slicing:
        finished += shape.samples * shape.height * shape.width * shape.frames * decoder.out_channels * element_bytes
    moments = stage_moments(decoder, samples * at_once * rows * columns, at_once, element_bytes, thousandths)
    return [moment.bytes for moment in moments], finished + sum(moment.caches for moment in moments)


def _tile(module: Module) -> int:
    """Return the edge of a tile of latents: of the pictures that the autoencoder was made for; CogVideoX halves both edges."""
    cfg = module.cfg
    if module.class_name == "AutoencoderKLCogVideoX":
        return max(1, int(cfg.integer("sample_height", 480)) // 2 // 8)
    stages = len(cfg.integers("block_out_channels", [128, 256, 512, 512]))
    return max(1, int(cfg.integer("sample_size", 512)) >> (stages - 1))


__all__ = ["constants", "convolution_bytes", "decode_moments", "decoder_of", "residual_bytes", "stage_moments"]
