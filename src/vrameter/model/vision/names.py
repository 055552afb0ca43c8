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


def registered(text: str) -> bool:
    """Say whether a text without a prefix is the name under which timm keeps a model, such as ``resnet50``."""
    from vrameter.model.vision import timm

    return text.partition(".")[0].lower() in timm.models()


def read(text: str) -> Architecture:
    """Return the model of a name; a name without a prefix that is no detector's is timm's.

    Raises
    ------
    UnknownNameError
        For one that is not known here, with the nearest.
    """
    from vrameter.model.vision import timm, ultralytics

    lowered = text.lower()
    if lowered.startswith(TIMM):
        return timm.read_name(text)
    return ultralytics.read_name(text) if ultralytics.is_name(lowered) else timm.read_name(TIMM + text)


__all__ = ["is_name", "read", "registered"]
