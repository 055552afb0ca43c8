"""An output layer of its own, for programs that never share the token table with it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from vrameter.model.architecture import Architecture, Component
from vrameter.model.parts import lm_head


@lru_cache(maxsize=64)
def untied(architecture: Architecture) -> Architecture:
    """Return a model with an output layer of its own."""
    if not architecture.tied:
        return architecture
    main = architecture.main
    tensors = lm_head(main.vocab_size, main.hidden_size)
    head = Component(kind="head", name="head", hidden_size=main.hidden_size, tensors=tensors)
    others = tuple(each for each in architecture.components if each.kind != "head")
    return replace(architecture, components=(*others, head), tied=())


__all__ = ["untied"]
