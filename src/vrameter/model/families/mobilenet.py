"""MobileNetV5, Gemma 3n's vision tower: convolutions and multi-query attention in stages.

A config names the network (``mobilenetv5_300m_enc``) and repeats no sizes; those here are of that name in timm 1.0.31,
under whose wrapper transformers keeps it.

References
----------
.. [1] D. Qin et al., "MobileNetV4", 2024, arXiv:2404.10518 (the blocks); Google, "Gemma 3n", 2025 (the network).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.registry import tower
from vrameter.model.families.vision_parts import tower_of
from vrameter.model.image_input import ImageInput

KNOWN = "mobilenetv5_300m_enc"
STEM, FUSED = 64, 1920  # channels of the first convolution, and of the two last stages side by side
# width, kernels of the depthwise convolutions before and within each inverted block, expansion: (start, middle, ratio)
FIRST = (128, ((0, 0, 4),) * 3)
SECOND = (256, ((3, 5, 6), (5, 0, 4), (3, 0, 4), (5, 0, 4), (3, 0, 4)))
THIRD = (640, ((5, 5, 6), *((5, 0, 4),) * 7, (0, 0, 1)))
FOURTH = (1280, ((5, 5, 6),))
# width, pairs of attention and inverted block, heads, width of a head, whether keys and values are thinned out
PAIRS = {640: (14, 12, 64, True), 1280: (19, 16, 96, False)}


def normed(name: str, norm: str, outputs: int, inputs: int, kernel: int = 1) -> Tensors:
    """Return a convolution without a bias and the norm behind it."""
    return (*parts.conv(name, outputs, inputs, kernel, kernel, bias=False), *parts.norm(norm, outputs))


def depthwise(name: str, width: int, kernel: int) -> Tensors:
    """Return a convolution of each channel for itself, or nothing for kernel 0."""
    return normed(f"{name}.conv", f"{name}.bn", width, 1, kernel) if kernel else ()


def inverted(inputs: int, outputs: int, start: int, middle: int, ratio: int) -> Layer:
    """Return a universal inverted bottleneck [1]_."""
    inner = inputs * ratio
    tensors = (
        *depthwise("dw_start", inputs, start),
        *normed("pw_exp.conv", "pw_exp.bn", inner, inputs),
        *depthwise("dw_mid", inner, middle),
        *normed("pw_proj.conv", "pw_proj.bn", outputs, inner),
        *parts.parameter("layer_scale.gamma", outputs),
    )
    return Layer((), tensors)


def edge(inputs: int, outputs: int, ratio: int) -> Layer:
    """Return a fused inverted block: one convolution widens, one narrows."""
    inner = inputs * ratio
    tensors = (*normed("conv_exp", "bn1", inner, inputs, 3), *normed("conv_pwl", "bn2", outputs, inner))
    return Layer((), tensors)


def multi_query(width: int, heads: int, dim: int, *, thinned: bool) -> Layer:
    """Return multi-query attention over the grid; keys and values may be taken from every other patch."""

    def projected(name: str, outputs: int, inputs: int) -> Tensors:
        return parts.conv(f"attn.{name}.proj", outputs, inputs, 1, 1, bias=False, role="attention")

    tensors = (*projected("query", heads * dim, width), *projected("output", width, heads * dim))
    for name in ("key", "value"):
        if thinned:
            tensors += normed(f"attn.{name}.down_conv", f"attn.{name}.norm", width, 1, 3)
        tensors += projected(name, dim, width)
    attention = Attention(
        tensors=tensors, num_heads=heads, num_kv_heads=1, head_dim=dim, value_dim=dim, scope="encoder"
    )
    return Layer((attention,), (*parts.norm("norm", width), *parts.parameter("layer_scale.gamma", width)))


@tower("gemma3n_vision")
def gemma3n_vision(cfg: Config, prefix: str) -> Component:
    """Gemma 3n's tower: 768 pixels become 16 times 16 tokens."""
    name = cfg.text("architecture", KNOWN)
    if name != KNOWN:
        raise cfg.fail("architecture", "'%(value)s' is not a network known here.", value=name)
    hidden = cfg.integer("hidden_size", 2048)
    stages: list[Layer] = []
    before = STEM
    for stage, (width, blocks) in enumerate((FIRST, SECOND, THIRD, FOURTH)):
        made: list[Layer] = []
        for start, middle, ratio in blocks:
            made.append(edge(before, width, ratio) if stage == 0 else inverted(before, width, start, middle, ratio))
            before = width
        pairs, heads, dim, thinned = PAIRS.get(width, (0, 1, 1, False))
        for _ in range(pairs):
            made += [multi_query(width, heads, dim, thinned=thinned), inverted(width, width, 0, 0, 2)]
        stages.append(stage_of(made))
    around = (
        *parts.conv("conv_stem.conv", STEM, 3, 3, 3),
        *parts.norm("conv_stem.bn", STEM),
        *normed("msfa.ffn.pw_exp.conv", "msfa.ffn.pw_exp.bn", 2 * FUSED, FUSED),
        *normed("msfa.ffn.pw_proj.conv", "msfa.ffn.pw_proj.bn", hidden, 2 * FUSED),
        *parts.norm("msfa.norm", hidden),
    )
    image = ImageInput(patch_size=(48, 48), image_size=(768, 768))
    base = joined(prefix, "timm_model")
    return tower_of(cfg, base, tuple(stages), tensors=around, hidden=hidden, layers_name="blocks", image=image)


def stage_of(blocks: Sequence[Layer]) -> Layer:
    """Return blocks, numbered in their names, as one layer."""
    members = tuple(
        replace(part, tensors=parts.below(str(index), part.tensors))
        for index, block in enumerate(blocks)
        for part in block.parts
    )
    return Layer(
        members, tuple(each for index, block in enumerate(blocks) for each in parts.below(str(index), block.tensors))
    )
