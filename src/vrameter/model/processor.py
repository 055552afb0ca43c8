"""What a checkpoint's own processor says of images, where config.json leaves it to the library's defaults.

References
----------
.. [1] transformers 5.23, ``models/qwen2_vl/image_processing_qwen2_vl.py``: ``size`` holds areas in pixels under the names
       of edges; ``min_pixels`` and ``max_pixels`` are their older names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vrameter.model.architecture import Architecture, Component
from vrameter.model.image_input import AreaBounded

MAX_AREA = 2**40


def with_processor(architecture: Architecture, document: object) -> Architecture:
    """Return an architecture whose images have the bounds that a preprocessor_config.json states.

    Parameters
    ----------
    document
        The parsed file, or a processor_config.json that holds it as ``image_processor``; anything else changes nothing.
    """
    if not isinstance(document, Mapping):
        return architecture
    stated = document.get("image_processor", document)
    if not isinstance(stated, Mapping):
        return architecture
    components = tuple(_bounded(component, stated) for component in architecture.components)
    same = all(new is old for new, old in zip(components, architecture.components, strict=True))
    return architecture if same else replace(architecture, components=components)


def _bounded(component: Component, stated: Mapping[str, Any]) -> Component:
    image = component.image
    if not isinstance(image, AreaBounded):
        return component
    size = stated.get("size")
    edges = size if isinstance(size, Mapping) and {"shortest_edge", "longest_edge"} <= set(size) else {}
    least = _area(stated.get("min_pixels"), edges.get("shortest_edge"), image.min_pixels)
    most = _area(stated.get("max_pixels"), edges.get("longest_edge"), image.max_pixels)
    if least > most or (least, most) == (image.min_pixels, image.max_pixels):
        return component
    return replace(component, image=replace(image, min_pixels=least, max_pixels=most))


def _area(*stated: object) -> int:
    """Return the first that is an area in pixels."""
    return next(
        (area for area in stated if isinstance(area, int) and not isinstance(area, bool) and 0 < area <= MAX_AREA), 1
    )


__all__ = ["with_processor"]
