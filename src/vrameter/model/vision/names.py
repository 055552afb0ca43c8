"""Names of image models that no repository's config.json stands behind: timm's and Ultralytics'."""

from __future__ import annotations

from vrameter.model.architecture import Architecture

TIMM, YOLO = "timm/", "yolo"


def is_name(text: str) -> bool:
    """Say whether a text names an image model of timm or of Ultralytics."""
    lowered = text.lower()
    if lowered.startswith(TIMM):
        return True
    if YOLO not in lowered:
        return False
    from vrameter.model.vision import ultralytics

    return ultralytics.is_name(lowered)


def read(text: str) -> Architecture:
    """Return the model of a name.

    Raises
    ------
    UnknownNameError
        For one that is not known here, with the nearest.
    """
    from vrameter.model.vision import timm, ultralytics

    return timm.read_name(text) if text.lower().startswith(TIMM) else ultralytics.read_name(text)


__all__ = ["is_name", "read"]
