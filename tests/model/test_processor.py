"""Bounds of images as a checkpoint's own processor states them."""

from __future__ import annotations

import pytest

from vrameter.model.architecture import Architecture
from vrameter.model.image_input import AreaBounded
from vrameter.model.processor import with_processor
from vrameter.sources import catalogue


@pytest.fixture(scope="module")
def seeing() -> Architecture:
    return catalogue.find("Qwen/Qwen2-VL-2B-Instruct").architecture()


def bounds(architecture: Architecture) -> tuple[int, int]:
    image = next(component.image for component in architecture.components if component.image is not None)
    assert isinstance(image, AreaBounded)
    return image.min_pixels, image.max_pixels


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"min_pixels": 3136, "max_pixels": 12845056}, (3136, 12845056)),
        ({"size": {"shortest_edge": 3136, "longest_edge": 12845056}}, (3136, 12845056)),
        ({"image_processor": {"max_pixels": 802816}}, (3136, 802816)),
    ],
)
def test_stated_bounds_are_taken(seeing: Architecture, document: object, expected: tuple[int, int]) -> None:
    """The published preprocessor_config.json of Qwen2-VL allows ten times what the class does."""
    read = with_processor(seeing, document)
    assert bounds(read) == expected
    assert read.num_params == seeing.num_params


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"size": {"shortest_edge": 224}}, {"max_pixels": "many"}, {"max_pixels": -1}, {"max_pixels": 10**30},
     {"min_pixels": 10**9}, {"max_pixels": True}, {"image_processor": 3}],
)  # fmt: skip
def test_what_states_nothing_changes_nothing(seeing: Architecture, document: object) -> None:
    assert with_processor(seeing, document) is seeing
