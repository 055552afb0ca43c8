"""Which reader reads which `model_type`.

A reader is a function under one of three decorators:

- ``@decoder``: the text decoder of a language model, without its head. Signature ``(cfg, prefix) -> Component``
  (or a tuple of them, such as decoder and multi-token prediction).
- ``@tower``: an encoder, of text, images or sound. Same signature.
- ``@model``: a whole model made of several of these. Signature ``(cfg, class_name) -> Built``.

`index.py`, written by ``tools/index_families.py``, says which module holds the reader of a `model_type`,
so that only that module is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal, TypeVar

from vrameter.model.architecture import Component, Layer, Scope, Tensor, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.index import MODULES

Components = tuple[Component, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A whole model as a reader returns it."""

    components: Components
    tied: tuple[str, ...] = ()
    stored_extra: Tensors = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One reader.

    `base` is the attribute under which a model with a head holds it (``model``, ``transformer``, ``bert``), `task` the
    class that stands for a config without `architectures`, and `heads` its heads beyond the common ones.
    """

    kind: Literal["decoder", "tower", "model"]
    read: Callable[..., Any]
    base: str = "model"
    task: str = ""
    heads: Callable[[Config, str], Built | None] | None = None


ENTRIES: dict[str, Entry] = {}
Function = TypeVar("Function", bound=Callable[..., Any])


def _register(
    kind: Literal["decoder", "tower", "model"], model_types: Sequence[str], **facts: Any
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        for model_type in model_types:
            ENTRIES[model_type] = Entry(kind, function, **facts)
        return function

    return register


def decoder(
    *model_types: str, base: str = "model", heads: Callable[[Config, str], Built | None] | None = None
) -> Callable[[Function], Function]:
    """Register the reader of a text decoder."""
    return _register("decoder", model_types, base=base, task="ForCausalLM", heads=heads)


def tower(
    *model_types: str,
    base: str = "model",
    heads: Callable[[Config, str], Built | None] | None = None,
    task: str = "Model",
) -> Callable[[Function], Function]:
    """Register the reader of an encoder; `heads` gives the tensors of classes with a head, None for no such class."""
    return _register("tower", model_types, base=base, task=task, heads=heads)


def model(*model_types: str) -> Callable[[Function], Function]:
    """Register the reader of a whole model."""
    return _register("model", model_types)


def entry(model_type: str) -> Entry | None:
    """Return the reader of a `model_type`, importing the module that holds it."""
    if model_type not in ENTRIES and model_type in MODULES:
        import_module(f"vrameter.model.families.{MODULES[model_type]}")
    return ENTRIES.get(model_type)


def read_part(cfg: Config, prefix: str, *, kind: Literal["decoder", "tower"] | None = None) -> Components:
    """Return the component of a nested config, by its own `model_type`."""
    found = entry(cfg.model_type)
    if found is None or found.kind == "model" or (kind and found.kind != kind):
        raise cfg.fail("model_type", "'%(value)s' is not a kind of network that can stand here.", value=cfg.model_type)
    return as_tuple(found.read(cfg, prefix))


def within(prefix: str, built: Built) -> Built:
    """Return a whole model as a part of a larger one, every name below `prefix`."""
    return Built(
        tuple(
            replace(
                component,
                prefix=joined(prefix, component.prefix),
                layers_prefix=joined(prefix, component.layers_prefix),
            )
            for component in built.components
        ),
        tied=tuple(joined(prefix, name) for name in built.tied),
        stored_extra=tuple(tensor._replace(name=joined(prefix, tensor.name)) for tensor in built.stored_extra),
    )


def as_tuple(components: Component | Components) -> Components:
    """Return one component or several as several."""
    return (components,) if isinstance(components, Component) else components


Kind = TypeVar("Kind", bound=Hashable)


def stack(kinds: Sequence[Kind], build: Callable[[Kind], Layer]) -> tuple[Layer, ...]:
    """Return a layer per entry of `kinds`, equal kinds sharing one object."""
    made: dict[Kind, Layer] = {}
    for kind in kinds:
        if kind not in made:
            made[kind] = build(kind)
    return tuple(made[kind] for kind in kinds)


LayerScope = tuple[Scope, int | None]

_SCOPES: dict[str, Scope] = {
    "full_attention": "full",
    "attention": "full",
    "global_attention": "full",
    "global": "full",
    "sliding_attention": "sliding",
    "sliding_window_attention": "sliding",
    "local_attention": "sliding",
    "local": "sliding",
    "chunked_attention": "chunked",
}


def layer_scopes(cfg: Config, count: int, *, pattern: Callable[[int], bool] | None = None) -> list[LayerScope]:
    """Return what each layer's attention looks at.

    `layer_types` decides where there is one; else `pattern` says which layers slide; else all do that have a window.
    """
    window = cfg.integer("sliding_window", None, least=0) or None
    types = cfg.per_layer("layer_types", count)
    if types is not None:
        chunk = cfg.integer("attention_chunk_size", None) if "chunked_attention" in types else None
        scopes: list[LayerScope] = []
        for name in types:
            scope = _SCOPES.get(name) if isinstance(name, str) else None
            if scope is None:
                raise cfg.fail("layer_types", "'%(value)s' is not a kind of layer known here.", value=name)
            size = {"sliding": window, "chunked": chunk}.get(scope)
            scopes.append((scope, size) if size else ("full", None))
        return scopes
    if window is None:
        return [("full", None)] * count
    return [("sliding", window) if pattern is None or pattern(index) else ("full", None) for index in range(count)]


def num_labels(cfg: Config) -> int:
    """Return the number of classes of a classification head."""
    labels = cfg.get("id2label")
    if isinstance(labels, dict) and labels:
        return len(labels)
    return int(cfg.integer("num_labels", 2))


__all__ = [
    "ENTRIES", "Built", "Component", "Components", "Config", "Entry", "Layer", "LayerScope", "Tensor", "as_tuple", "decoder",
    "entry", "layer_scopes", "model", "num_labels", "read_part", "stack", "tower", "within",
]  # fmt: skip
