"""Ultralytics' models by their names: ``yolov5s``, ``yolov8n-seg``, ``yolo11x-cls``, with or without ``.pt``."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec

from vrameter.data import read_bytes
from vrameter.errors import UnknownNameError
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture
from vrameter.model.vision.network import Network, architecture

NAME = re.compile(r"(?:ultralytics/)?(yolov?\d+[a-z0-9]*)(-[a-z0-9]+)?(?:\.pt|\.yaml)?$")
TASKS = {"": "detect", "-seg": "segment", "-cls": "classify"}
# A detector's images are multiples of its coarsest stride; a classifier's are 224 pixels wide by default.
STRIDE, DETECT_SIZE, CLASSIFY_SIZE, COCO, IMAGENET = 32, 640, 224, 80, 1000


@lru_cache(maxsize=1)
def tables() -> dict[str, dict[str, Any]]:
    """Return scales and tasks of each version."""
    found: dict[str, Any] = msgspec.json.decode(read_bytes("yolo_models.json"))
    found.pop("source")
    return found


def names() -> list[str]:
    """Return the name of every model."""
    return [
        f"{version}{size}{suffix}"
        for version, table in tables().items()
        for size in table["scales"]
        for suffix in TASKS
    ]


def is_name(text: str) -> bool:
    """Say whether a text looks like the name of such a model."""
    return NAME.match(text.lower()) is not None


@lru_cache(maxsize=64)
def read_name(reference: str) -> Architecture:
    """Return the model of a name.

    Raises
    ------
    UnknownNameError
        For one that is not known here, with the nearest.
    """
    match = NAME.match(reference.lower())
    stem, suffix = (match[1], match[2] or "") if match else (reference, "")
    later = stem.startswith("yolov5") and stem.endswith("u")  # YOLOv5's body under YOLOv8's head
    stem = stem.removesuffix("u") if later else stem
    version, size = stem[:-1], stem[-1:]
    table = tables().get(version)
    if table is None or size not in table["scales"] or suffix not in TASKS:
        raise UnknownNameError(
            tr("model: '%(value)s' is not a model of Ultralytics known here.", value=reference[:80]),
            f"{stem}{suffix}", names(), field="model",
            otherwise=tr("Known are YOLOv5, YOLOv8 and YOLO11 in sizes n, s, m, l and x, plain, -seg and -cls."),
        )  # fmt: skip
    task = TASKS[suffix]
    scale = list(table["scales"][size])
    if task == "classify" and "classify_widest" in table:
        scale[2] = table["classify_widest"]
    classifies = task == "classify"
    edge = CLASSIFY_SIZE if classifies else DETECT_SIZE
    network = Network(
        "ultralytics", f"{version}{size}{suffix}", "ultralytics.yolo", "model",
        {"version": version, "size": size, "scale": scale, "task": task, "head": "yolov8" if later else version}, (edge, edge), 1 if classifies else STRIDE,
        IMAGENET if classifies else COCO, checkpoints=False, task=task,
    )  # fmt: skip
    return architecture(network).renamed(reference)


__all__ = ["is_name", "names", "read_name", "tables"]
