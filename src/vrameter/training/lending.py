"""Layers that run again with the weights of another, as ALBERT's groups and Zamba's shared blocks do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from vrameter.model.architecture import Layer, Tensor


def lender(layer: Layer, layers: Iterable[Layer]) -> Layer | None:
    """Return the layer whose weights another runs with: the first of its build that has all of them.

    None where a layer has weights of its own in every part, or where none lends them.
    """
    if all(part.tensors for part in layer.parts):
        return None
    build = [type(part) for part in layer.parts]
    return next(
        (each for each in layers
         if [type(part) for part in each.parts] == build and all(part.tensors for part in each.parts)),
        None,
    )  # fmt: skip


@lru_cache(maxsize=256)
def lent(layer: Layer, owner: Layer) -> Layer:
    """Return a layer as it runs: with its own weights where it has them, and with the owner's elsewhere."""
    own = {tensor.name: tensor for tensor in layer.tensors}
    parts = tuple(mine if mine.tensors else replace(mine, tensors=theirs.tensors)
                  for mine, theirs in zip(layer.parts, owner.parts, strict=True))  # fmt: skip
    return Layer(parts, tuple(own.get(tensor.name, tensor) for tensor in owner.tensors))


def borrowed(layer: Layer, owner: Layer) -> list[Tensor]:
    """Return the owner's weights that a layer runs with."""
    own = {tensor.name for tensor in layer.tensors}
    found = [tensor for mine, theirs in zip(layer.parts, owner.parts, strict=True) if not mine.tensors
             for tensor in theirs.tensors]  # fmt: skip
    return [*found, *(tensor for tensor in owner.tensors if tensor.name not in own)]


__all__ = ["borrowed", "lender", "lent"]
