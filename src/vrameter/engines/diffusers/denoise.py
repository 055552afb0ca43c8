"""What one pass of a denoiser holds at its fullest moment, beside its weights.

Without gradients a block's tensors die with the block, so the fullest block decides; a UNet holds besides what it
skips to the way up.

References
----------
.. [1] diffusers 0.42.1, ``models/attention_processor.py``, ``models/embeddings.py``: rotary positions are applied in fp32.
"""

from __future__ import annotations

from vrameter.engines.diffusers.shape import Shape
from vrameter.model.architecture import Attention, FeedForward, Layer
from vrameter.model.diffusion.pipeline import Module
from vrameter.model.diffusion.unet import Stage, UNetPlan, unet_plan

# Classes whose queries and keys are turned by their position, in fp32.
ROTARY = ("Flux", "Chroma", "QwenImage", "Hunyuan", "Wan", "LTX", "Mochi", "ZImage", "Lumina2")


def attention_bytes(
    *, rows: int, hidden: int, inner: int, element_bytes: int, rotary: int, score_rows: int, keys: int, heads: int
) -> int:
    """Return what a block holds during attention. [bytes].

    Formula::

        rows * (2 * hidden + 3 * inner) * element_bytes + rows * inner * 4 * rotary * 4
        + score_rows * keys * heads * 2 * element_bytes

    Parameters
    ----------
    rows
        Tokens of all samples. [tokens]
    hidden, inner
        Widths of the stream, with its norm beside it, and of queries, keys and values. [elements]
    rotary
        Whether positions turn queries: a copy, its halves turned, and two products in fp32.
    score_rows
        Rows of the score matrix where it is written out (eager), else 0. [tokens]
    """
    return (
        rows * (2 * hidden + 3 * inner) * element_bytes
        + rows * inner * 4 * rotary * 4
        + score_rows * keys * heads * 2 * element_bytes
    )


def perceptron_bytes(
    *, rows: int, hidden: int, intermediate: int, copies: int, element_bytes: int, integer: int
) -> int:
    """Return what a block holds during its perceptron. [bytes].

    Formula::

        rows * (2 * hidden + copies * intermediate) * element_bytes + rows * (hidden + 4 * intermediate) * integer

    Parameters
    ----------
    copies
        2 for a plain perceptron, its product and its activation; 4 for a gated one, both products and theirs. [tensors]
    integer
        Whether it multiplies in int8: inputs of one byte, sums of four.
    """
    return rows * (2 * hidden + copies * intermediate) * element_bytes + rows * (hidden + 4 * intermediate) * integer


def denoise_bytes(module: Module, shape: Shape, *, element_bytes: int, eager: bool, integer: bool) -> int:
    """Return what one pass holds at its fullest moment. [bytes]."""
    samples = shape.samples * shape.passes
    if module.name == "unet":
        return _unet(unet_plan(module.cfg), shape, samples, element_bytes, eager=eager, integer=integer)
    rotary = int(module.class_name.startswith(ROTARY) or module.cfg.flag("use_rotary_positional_embeddings", False))
    peaks = []
    for component in module.architecture.components:
        for layer, _ in component.layer_groups:
            tokens = shape.tokens + (shape.text_tokens if joined_streams(layer) else 0)
            if "refiner" in component.layers_prefix:
                tokens = shape.text_tokens
            peaks.append(
                _block(
                    layer,
                    component.hidden_size,
                    samples,
                    tokens,
                    element_bytes,
                    rotary=rotary,
                    eager=eager,
                    integer=integer,
                )
            )
    return max(peaks, default=0) + samples * shape.tokens * module.architecture.main.hidden_size * element_bytes


def joined_streams(layer: Layer) -> bool:
    """Say whether a block sees text and picture as one sequence: it has no cross-attention."""
    return not any(tensor.role == "cross_attention" for tensor in layer.all_tensors)


def _block(
    layer: Layer, hidden: int, samples: int, tokens: int, element_bytes: int, *, rotary: int, eager: bool, integer: bool
) -> int:
    rows = samples * tokens
    found = []
    beside = _parallel(layer, hidden)
    attentions = [part for part in layer.parts if isinstance(part, Attention)]
    widths = [(part.num_heads * part.head_dim, part.num_heads) for part in attentions] or [(hidden, 0)]
    for inner, heads in widths:
        found.append(
            attention_bytes(
                rows=rows, hidden=hidden, inner=inner, element_bytes=element_bytes, rotary=rotary,
                score_rows=rows if eager else 0, keys=tokens, heads=heads,
            )
            + rows * beside * element_bytes
        )  # fmt: skip
    for part in layer.parts:
        if isinstance(part, FeedForward):
            found.append(
                perceptron_bytes(
                    rows=rows, hidden=hidden, intermediate=part.intermediate_size, copies=4 if part.gated else 2,
                    element_bytes=element_bytes, integer=int(integer),
                )
            )  # fmt: skip
    return max(found)


def _parallel(layer: Layer, hidden: int) -> int:
    """Return the width of a perceptron that waits beside attention until both are joined. [elements]."""
    for part in layer.parts:
        if isinstance(part, FeedForward) and any(
            tensor.linear and tensor.shape[-1] == hidden + part.intermediate_size for tensor in part.tensors
        ):
            return part.intermediate_size * (2 if part.gated else 1)
    return 0


def _unet(plan: UNetPlan, shape: Shape, samples: int, element_bytes: int, *, eager: bool, integer: bool) -> int:
    """Return the fullest moment of a UNet: the skipped maps, and the fullest residual or transformer block."""
    frames, rows, columns = shape.latent
    area = [samples * frames * rows * columns // 4**index for index in range(len(plan.down))]
    skipped = [(plan.down[0].channels, area[0])]
    peak = 0
    for index, stage in enumerate(plan.down):
        for inputs, outputs in stage.resnets:
            peak = max(
                peak,
                _held(skipped, element_bytes)
                + _stage(stage, inputs, outputs, area[index], samples, element_bytes, eager=eager, integer=integer),
            )
            skipped.append((outputs, area[index]))
        if stage.resampled:
            skipped.append((stage.channels, area[index + 1]))
    for index, stage in enumerate(plan.up):
        pixels = area[len(plan.down) - 1 - index]
        for inputs, outputs in stage.resnets:
            here = _stage(stage, inputs, outputs, pixels, samples, element_bytes, eager=eager, integer=integer)
            peak = max(peak, _held(skipped, element_bytes) + here)
            skipped.pop()
    return peak


def _held(maps: list[tuple[int, int]], element_bytes: int) -> int:
    return sum(channels * pixels for channels, pixels in maps) * element_bytes


def _stage(
    stage: Stage,
    inputs: int,
    outputs: int,
    pixels: int,
    samples: int,
    element_bytes: int,
    *,
    eager: bool,
    integer: bool,
) -> int:
    """Return the fullest moment of a residual block, its input, norm and activation, or of a transformer block after it."""
    residual = 3 * inputs * pixels * element_bytes
    if not stage.depth:
        return residual
    beside = outputs * pixels * element_bytes  # what the transformer block is added to
    attended = attention_bytes(
        rows=pixels, hidden=outputs, inner=outputs, element_bytes=element_bytes, rotary=0,
        score_rows=pixels if eager else 0, keys=pixels // samples, heads=stage.heads,
    )  # fmt: skip
    passed = perceptron_bytes(
        rows=pixels, hidden=outputs, intermediate=4 * outputs, copies=4, element_bytes=element_bytes,
        integer=int(integer),
    )  # fmt: skip
    return max(residual, beside + attended, beside + passed)
