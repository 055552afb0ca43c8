"""Tokens and patches of images: values of transformers' processors, then laws."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrameter.model.image_input import (
    AreaBounded,
    Canvases,
    EdgeBounded,
    ImageInput,
    PaddedGrid,
    PatchBudget,
    Tiles,
)

QWEN2_VL = AreaBounded(patch_size=(14, 14), merge=2)
QWEN3_VL = AreaBounded(patch_size=(16, 16), merge=2, min_pixels=256 * 256, max_pixels=4096 * 4096)
GEMMA4 = PatchBudget(patch_size=(16, 16), merge=3, budget=280 * 9)
PIXTRAL = EdgeBounded(patch_size=(16, 16), longest_edge=1024)
MISTRAL3 = EdgeBounded(patch_size=(14, 14), merge=2, longest_edge=1540)
KIMI = PaddedGrid(patch_size=(14, 14), merge=2, budget=16384, longest=512)
INTERNVL = Tiles(patch_size=(14, 14), image_size=(448, 448), merge=2, extra_patches=1, extra_tokens=2)
LLAMA4 = Tiles(
    patch_size=(14, 14), image_size=(336, 336), merge=2, extra_patches=1, max_tiles=16, fit="canvas", extra_tokens=3,
    mark_tokens=1,
)  # fmt: skip
FIVE = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
LLAVA_NEXT = Canvases(patch_size=(14, 14), image_size=(336, 336), extra_patches=1, canvases=FIVE)
ONEVISION = Canvases(
    patch_size=(14, 14), image_size=(384, 384), token_budget=9,
    canvases=tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7)),
)  # fmt: skip
CLIP = ImageInput(patch_size=(14, 14), image_size=(336, 336), extra_patches=1)
RULES = {
    "clip": CLIP, "qwen2_vl": QWEN2_VL, "qwen3_vl": QWEN3_VL, "gemma4": GEMMA4, "pixtral": PIXTRAL, "mistral3": MISTRAL3,
    "kimi": KIMI, "internvl": INTERNVL, "llama4": LLAMA4, "llava_next": LLAVA_NEXT, "onevision": ONEVISION,
}  # fmt: skip

# Tokens by the functions of transformers 5.23's processors: smart_resize, get_resize_output_image_size,
# get_aspect_ratio_preserving_size, navit_resize, get_optimal_tiled_canvas, get_best_fit, _get_number_of_features.
KNOWN = [
    ("clip", 1080, 1920, 576, 577),
    ("qwen2_vl", 1080, 1920, 1222, 4888),
    ("qwen2_vl", 30, 30, 4, 16),
    ("qwen3_vl", 1080, 1920, 2040, 8160),
    ("gemma4", 1080, 1920, 264, 2376),
    ("pixtral", 1080, 1920, 2340, 2304),
    ("mistral3", 1080, 1920, 1736, 6820),
    ("kimi", 1080, 1920, 2691, 10764),
    ("internvl", 1080, 1920, 2306, 9225),
    ("llama4", 1080, 1920, 2322, 9232),
    ("llava_next", 1080, 1920, 1948, 2885),
    ("onevision", 1080, 1920, 7269, 11664),
]


@pytest.mark.parametrize(("rule", "height", "width", "tokens", "patches"), KNOWN)
def test_known_images(rule: str, height: int, width: int, tokens: int, patches: int) -> None:
    """Tokens of the decoder and positions of the tower for an image of a size."""
    image = RULES[rule]
    assert (image.tokens_of(height, width), image.patches_of(height, width)) == (tokens, patches)


def test_largest_images() -> None:
    """What one image may take at most: the processors' bounds are reached."""
    assert QWEN2_VL.max_tokens == 1280
    assert QWEN2_VL.bounded(max_pixels=12_845_056).max_tokens == 16_384
    assert QWEN3_VL.max_tokens == 16_384
    assert GEMMA4.max_tokens == 280
    assert PIXTRAL.max_tokens == 64 * 65
    assert INTERNVL.max_tokens == 13 * 256 + 2
    assert LLAMA4.max_tokens == 17 * 144 + 16 + 3
    assert LLAVA_NEXT.max_tokens == 2928


sizes = st.integers(min_value=64, max_value=4000)


@pytest.mark.parametrize("rule", RULES)
@given(height=sizes, width=sizes)
def test_no_image_takes_more_than_the_largest(rule: str, height: int, width: int) -> None:
    """`max_tokens` and `max_patches` bound every image; every image has at least one token."""
    image: Any = RULES[rule]
    if max(height, width) > 16 * min(height, width):
        return
    assert 1 <= image.tokens_of(height, width) <= image.max_tokens
    assert 1 <= image.patches_of(height, width) <= image.max_patches


@pytest.mark.parametrize("rule", ["qwen2_vl", "qwen3_vl", "kimi"])
@given(height=sizes, width=sizes)
def test_patches_are_whole_tokens(rule: str, height: int, width: int) -> None:
    """Where patches merge, the tower works on `merge` squared patches for every token."""
    image: Any = RULES[rule]
    assert image.patches_of(height, width) == image.merge**2 * image.tokens_of(height, width)
