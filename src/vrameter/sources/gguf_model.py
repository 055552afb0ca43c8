"""GGUF files as models: the table decides what weights take, the architecture what caches and activations do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vrameter.i18n import language
from vrameter.model.architecture import Component, Tensor
from vrameter.model.from_gguf import architecture_of
from vrameter.model.tensor_table import TensorTable
from vrameter.sources.gguf import read_gguf_path, split_names

if TYPE_CHECKING:
    from vrameter.sources import Model


def read_model(path: Path) -> Model:
    """Return the model of a GGUF file, or of the split set that it belongs to.

    Raises
    ------
    SourceError
        Where a file is missing or its header cannot be believed.
    ConfigError
        Where it is no model, or of an architecture not known here.
    """
    stamps = []
    for name in split_names(path.name):
        file = path.parent / name
        status = file.stat() if file.is_file() else None
        stamps.append((name, status.st_mtime_ns, status.st_size) if status else (name, 0, 0))
    return _read(path.absolute(), tuple(stamps), language())


@lru_cache(maxsize=16)
def _read(path: Path, _stamps: tuple[tuple[str, int, int], ...], _language: str) -> Model:
    table = read_gguf_path(path)
    return model_of(table, name=path.stem)


def model_of(table: TensorTable, *, name: str, source: str = "gguf", notes: Sequence[str] = ()) -> Model:
    """Return the model that a table of a GGUF file describes."""
    from vrameter.sources import Model

    architecture = architecture_of(table, name=name)
    return Model(
        name=name,
        architecture=architecture,
        num_params=architecture.num_params,
        source=source,
        notes=tuple(notes),
        table=table,
    )


def with_projector(model: Model, table: TensorTable) -> Model:
    """Return a model with the towers of a projector file (``mmproj``) beside it."""
    assert model.architecture is not None
    return _joined(model, table, architecture_of(table).components)


def with_adapter(model: Model, table: TensorTable) -> Model:
    """Return a model with a LoRA adapter's tensors beside it."""
    tensors = tuple(Tensor(tensor.name, tensor.shape, "other") for tensor in table.tensors)
    width = model.architecture.main.hidden_size if model.architecture else 0
    return _joined(model, table, (Component(kind="other", name="adapter", hidden_size=width, tensors=tensors),))


def _joined(model: Model, table: TensorTable, components: tuple[Component, ...]) -> Model:
    assert model.architecture is not None
    assert model.table is not None
    first = len(model.table.files)
    joined = replace(
        model.table,
        tensors=(*model.table.tensors, *(tensor._replace(file=first + tensor.file) for tensor in table.tensors)),
        files=(*model.table.files, *table.files),
    )
    architecture = replace(model.architecture, components=(*model.architecture.components, *components))
    return replace(model, architecture=architecture, num_params=architecture.num_params, table=joined)


__all__ = ["model_of", "read_model", "with_adapter", "with_projector"]
