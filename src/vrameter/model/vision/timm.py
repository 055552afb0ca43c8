"""timm's models by their registered names, or by timm's own config.json: facts in data, programs in `nets.timm`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from vrameter.data import read_bytes
from vrameter.errors import ConfigError, UnknownNameError
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Tensor
from vrameter.model.config import shown
from vrameter.model.vision.net import Map, Net
from vrameter.model.vision.network import Network, architecture

PREFIX = "timm/"
PROGRAMS = {
    "vit": ("vit", "model"), "resnet": ("resnet", "model"), "convnext": ("convnext", "model"),
    "efficientnet": ("efficientnet", "model"), "regnet": ("regnet", "model"), "swin": ("swin", "model"),
    "densenet": ("plain", "densenet"), "vgg": ("plain", "vgg"),
}  # fmt: skip
# Families whose images must be cut into whole patches, and those that timm cannot checkpoint.
PATCHED = ("vit", "swin")
UNCHECKPOINTED = ("vgg",)
MAX_CLASSES = 10**7
MAX_EDGE = 2**14


def parameters(family: str, facts: dict[str, Any]) -> list[Tensor]:
    """Return the parameters of a model."""
    net = Net()
    network_of(family, "", facts).run(net, Map(3, *facts["image"]))
    return [tensor for _, tensor in net.tensors]


def network_of(family: str, name: str, facts: Mapping[str, Any]) -> Network:
    """Return a model's program with its facts."""
    module, function = PROGRAMS[family]
    height, width = facts["image"]
    return Network(
        "timm", name, f"timm.{module}", function, facts, (height, width), facts["patch"] if family in PATCHED else 1,
        facts["classes"], family not in UNCHECKPOINTED, convolves=family not in PATCHED,
    )  # fmt: skip


@lru_cache(maxsize=1)
def models() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return family and facts of every model by its registered name."""
    found: dict[str, Any] = msgspec.json.decode(read_bytes("timm_models.json"))
    found.pop("source")
    return {name: (family, facts) for family, rows in found.items() for name, facts in rows.items()}


@lru_cache(maxsize=64)
def read_name(reference: str) -> Architecture:
    """Return the model that ``timm/NAME`` or ``timm/NAME.TAG`` names.

    Raises
    ------
    UnknownNameError
        For a name that is not known here, with the nearest.
    """
    name = reference[len(PREFIX) :].partition("@")[0]
    found = models().get(name.partition(".")[0].lower())
    if found is None:
        raise UnknownNameError(
            tr("model: '%(value)s' is not a model of timm known here.", value=reference[:80]),
            PREFIX + name.partition(".")[0].lower(), [PREFIX + known for known in models()], field="model",
            otherwise=tr("Known are %(names)s models.", names=", ".join(sorted(PROGRAMS))),
        )  # fmt: skip
    return architecture(network_of(found[0], reference, found[1]))


def is_config(values: Mapping[str, Any]) -> bool:
    """Say whether a config.json is timm's."""
    return "model_type" not in values and isinstance(values.get("architecture"), str)


def read_config(values: Mapping[str, Any], *, name: str = "") -> Architecture:
    """Return the model that timm's config.json describes.

    Raises
    ------
    ConfigError, UnknownNameError
        For an unknown architecture, or a number of classes or an image size that is none.
    """
    registered = values["architecture"]
    base = read_name(PREFIX + registered)
    assert base.network is not None
    classes = values.get("num_classes", base.network.classes)
    if isinstance(classes, bool) or not isinstance(classes, int) or not 0 <= classes <= MAX_CLASSES:
        raise ConfigError(
            tr("config.num_classes: %(value)s is not a number of classes.", value=shown(classes)),
            field="config.num_classes", hint=tr("Give a whole number, 0 for a model without a classifier."),
        )  # fmt: skip
    size = base.network.image_size
    pretrained = values.get("pretrained_cfg")
    stated = pretrained.get("input_size") if isinstance(pretrained, Mapping) else None
    if stated is not None:
        if (
            not isinstance(stated, (list, tuple)) or len(stated) != 3
            or not all(isinstance(edge, int) and 0 < edge <= MAX_EDGE for edge in stated)
        ):  # fmt: skip
            raise ConfigError(
                tr("config.pretrained_cfg.input_size: %(value)s is not [channels, height, width].", value=shown(stated)),
                field="config.pretrained_cfg.input_size", hint=tr("Give for example [3, 224, 224]."),
            )  # fmt: skip
        fits = all(edge % base.network.multiple == 0 for edge in stated[1:])
        size = (stated[1], stated[2]) if fits else size
    return architecture(base.network.sized(size, classes)).renamed(name or PREFIX + registered)


__all__ = ["PREFIX", "is_config", "models", "network_of", "parameters", "read_config", "read_name"]
