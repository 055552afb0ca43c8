"""Towers for images and sound, and what projects them into the language model: a file of its own, or part of one.

Names begin with ``v.``, ``a.`` or that of the projector; blocks of towers are layers, everything else stands beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vrameter.model.architecture import Component, ComponentKind, Layer, Tensor
from vrameter.model.from_gguf.block import Place, Shape, layer_of
from vrameter.model.from_gguf.keys import Keys
from vrameter.model.from_gguf.names import stem, tensor_of

_BLOCK = re.compile(r"(?P<prefix>[va]\.blk)\.(?P<number>\d{1,4})\.(?P<name>.+)\Z")
_KINDS: dict[str, tuple[ComponentKind, str]] = {"v": ("vision", "vision_tower"), "a": ("audio", "audio_tower")}
_EMBEDDING = re.compile(r"position_embd|pos_emb|class_embd|token_embd|image_newline|view_seperator|query\Z|boi\Z|eoi\Z")
_CONVOLUTION = re.compile(r"patch_embd|conv|peg\.")


def towers(tensors: Mapping[str, Shape], metadata: Mapping[str, object]) -> tuple[Component, ...]:
    """Return the components for images and sound that a file holds, none where it holds none."""
    sides: dict[str, dict[str, Shape]] = {}
    for name, shape in tensors.items():
        side = name.split(".", 1)[0]
        sides.setdefault(side if side in _KINDS else "mm", {})[name] = shape
    found = [_tower(side, sides[side], metadata) for side in ("v", "a") if side in sides]
    if "mm" in sides:
        outside = tuple(_outside(name, shape, projector=True) for name, shape in sides["mm"].items())
        width = max((shape[0] for name, shape in sides["mm"].items() if len(shape) == 2), default=0)
        found.append(Component(kind="projector", name="projector", hidden_size=width, tensors=outside))
    return tuple(found)


def _tower(side: str, tensors: Mapping[str, Shape], metadata: Mapping[str, object]) -> Component:
    kind, name = _KINDS[side]
    blocks: dict[int, dict[str, Shape]] = {}
    outside: list[Tensor] = []
    for full, shape in tensors.items():
        match = _BLOCK.match(full)
        if match:
            blocks.setdefault(int(match["number"]), {})[match["name"]] = shape
        else:
            outside.append(_outside(full, shape))
    keys = _keys(kind, metadata)
    hidden = keys.number("embedding_length") or _residual_width(blocks)
    made: dict[Layer, Layer] = {}
    layers = []
    first = min(blocks, default=0)
    for number in range(first, max(blocks, default=-1) + 1):
        place = Place("clip", keys, number, hidden, encoder=True)
        layer = layer_of(blocks.get(number, {}), place)
        layers.append(made.setdefault(layer, layer))
    patch, image = keys.number("patch_size"), keys.number("image_size")
    return Component(
        kind=kind,
        name=name,
        hidden_size=hidden,
        layers=tuple(layers),
        tensors=tuple(outside),
        layers_prefix=f"{side}.blk",
        max_positions=(image // patch) ** 2 if patch and image else 0,
        first_layer=first,
    )


def _keys(kind: str, metadata: Mapping[str, object]) -> Keys:
    """Return the keys of a tower: those of a projector file, or of a model that holds its tower."""
    own = Keys(metadata, f"clip.{kind}")
    return (
        own
        if own.get("embedding_length") is not None
        else Keys(metadata, f"{metadata.get('general.architecture')}.{kind}")
    )


def _residual_width(blocks: Mapping[int, Mapping[str, Shape]]) -> int:
    shapes = (
        shape for block in blocks.values() for name, shape in block.items() if stem(name) in ("ln1", "attn_pre_norm")
    )
    return next((shape[-1] for shape in shapes), 0)


def _outside(name: str, shape: Shape, *, projector: bool = False) -> Tensor:
    tensor = tensor_of(name.split(".", 1)[-1], shape)._replace(name=name)
    if tensor.role == "norm":
        return tensor
    if _EMBEDDING.search(stem(name)):
        return tensor._replace(role="embedding", slot="position", linear=False)
    if _CONVOLUTION.search(stem(name)) and (len(shape) > 2 or name.endswith(".bias")):
        return tensor._replace(role="convolution", slot="", linear=False)
    matrix = len(shape) == 2 and not name.endswith(".bias")
    return tensor._replace(role="projector" if projector else "other", slot="", linear=matrix)


__all__ = ["towers"]
