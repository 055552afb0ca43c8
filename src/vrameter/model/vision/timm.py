"""timm's models by their registered names: facts in data, programs in `nets.timm`."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import msgspec

from vrameter.data import read_bytes
from vrameter.model.architecture import Tensor
from vrameter.model.vision.net import Map, Net, Step

PROGRAMS = {
    "vit": "vit", "resnet": "resnet", "convnext": "convnext", "efficientnet": "efficientnet", "regnet": "regnet", "swin": "swin",
    "densenet": "plain", "vgg": "plain",
}  # fmt: skip


def program(family: str) -> Step:
    """Return the program of a family."""
    module = import_module(f"vrameter.model.vision.nets.timm.{PROGRAMS[family]}")
    found: Step = getattr(module, family if PROGRAMS[family] == "plain" else "model")
    return found


def parameters(family: str, facts: dict[str, Any]) -> list[Tensor]:
    """Return the parameters of a model."""
    net = Net()
    height, width = facts["image"]
    program(family)(net, Map(3, height, width), facts, facts["classes"])
    return [tensor for _, tensor in net.tensors]


@lru_cache(maxsize=1)
def models() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the facts of every model, by family and name."""
    found: dict[str, Any] = msgspec.json.decode(read_bytes("timm_models.json"))
    found.pop("source")
    return found


__all__ = ["models", "parameters", "program"]
