"""What is in a model's files: tensors, parameters and bytes by component, role, layers and number format.

Where the files were read, every tensor in them is counted, loaded or not, so that the bytes are those of their headers.
A model that is known by its shape alone is shown as it would be stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.memory.weights import WeightPlan, weight_plan
from vrameter.model.architecture import Architecture
from vrameter.model.dtypes import find_dtype
from vrameter.model.packing import Parameter
from vrameter.model.placement import place
from vrameter.model.tensor_table import TensorTable

_NO_NUMBERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool")


class Row(NamedTuple):
    """Tensors that stand in one place. `bytes` as stored."""

    component: str
    role: str
    layer: int | None
    dtype: str
    tensors: int
    num_params: int
    num_bytes: int
    loaded: bool = True


def inspect(
    source: object, *, dtype: str | None = None, quantization: str | None = None, online: bool = False
) -> dict[str, Any]:
    """Return what a model's files hold, as plain data.

    Parameters
    ----------
    source
        As a request's ``model``: a repository, folder, weight file or catalogue name.
    dtype, quantization
        As in a request; they change what is loaded, and which GGUF file is meant.
    online
        Whether to ask the Hub even where the catalogue knows the model.

    Raises
    ------
    RequestError
        Where the source is only a number of parameters.
    """
    from vrameter.sources import resolve

    model = resolve(source, quantization=quantization, online=online)
    architecture, table = model.architecture, model.table
    if architecture is None:
        raise RequestError(
            tr("model: '%(value)s' is only a number of parameters: there is nothing to look into.", value=model.name),
            field="model",
            hint=tr("Name a repository, a folder, a weight file or a model of the catalogue."),
        )
    plan = weight_plan(architecture, dtype=dtype, quantization=quantization, table=table)
    rows = list(
        _stored_rows(architecture, table) if table is not None and table.kind == "safetensors" else _plan_rows(plan)
    )
    components = _components(rows)
    seen = table is not None and table.exact
    return {
        "model": model.name,
        "source": model.source,
        **({"revision": model.revision} if model.revision else {}),
        "architecture": architecture.class_name or None,
        "files": [{"name": name, "bytes": size} for name, size in (table.files if table else ())],
        "components": components,
        "tensors": sum(row.tensors for row in rows),
        "num_params": sum(row.num_params for row in rows),
        "bytes": table.num_bytes if table is not None else sum(row.num_bytes for row in rows),
        "loaded_params": architecture.num_params,
        "loaded_bytes": plan.of().total,
        "basis": "exact" if seen or table is None else "modelled",
        "warnings": list(dict.fromkeys((*model.notes, *architecture.notes, *plan.warnings))),
    }


def _stored_rows(architecture: Architecture, table: TensorTable) -> Iterator[Row]:
    """Yield every parameter of the files where it belongs."""
    for placed in place(architecture, table).placed:
        for each in placed.parameters:
            yield Row(
                placed.component, placed.role, placed.layer, dtype_of(each), each.num_tensors,
                0 if each.dtype in _NO_NUMBERS and not each.method else each.num_params, each.num_bytes, placed.loaded,
            )  # fmt: skip


def _plan_rows(plan: WeightPlan) -> Iterator[Row]:
    """Yield every tensor of a model as it would be stored, or as a GGUF file holds it."""
    for component in plan.architecture.loaded:
        places = [
            (None, component.tensors),
            *((number, layer.all_tensors) for number, layer in enumerate(component.layers)),
        ]
        for number, tensors in places:
            layer = None if number is None else number + component.first_layer
            for tensor in tensors:
                for form, shape in plan.stored(component, number, tensor):
                    elements = 1
                    for extent in shape:
                        elements *= extent
                    size = form.bytes_of(shape).total
                    yield Row(component.name, tensor.role, layer, form.name, 1, 0 if tensor.buffer else elements, size)


def dtype_of(parameter: Parameter) -> str:
    """Return how a parameter is stored, in our words: the way of packing, else the number format."""
    if parameter.method:
        return parameter.method
    known = find_dtype(parameter.dtype)
    return known.name if known is not None else parameter.dtype


def _components(rows: list[Row]) -> list[dict[str, Any]]:
    """Return sums by component and role, in the order of the model; what loaders skip stands apart."""
    components: dict[tuple[str, bool], dict[str, Any]] = {}
    for row in rows:
        component = components.setdefault(
            (row.component, row.loaded),
            {"name": row.component, "loaded": row.loaded, "tensors": 0, "num_params": 0, "bytes": 0, "dtypes": {}, "roles": {}},
        )  # fmt: skip
        role = component["roles"].setdefault(
            row.role, {"tensors": 0, "num_params": 0, "bytes": 0, "layers": None, "dtypes": {}}
        )
        for sums in (component, role):
            _add(sums, row)
            _add(sums["dtypes"].setdefault(row.dtype, {"tensors": 0, "num_params": 0, "bytes": 0}), row)
        if row.layer is not None:
            first, last = role["layers"] or (row.layer, row.layer)
            role["layers"] = [min(first, row.layer), max(last, row.layer)]
    return sorted(components.values(), key=lambda each: not each["loaded"])


def _add(sums: dict[str, Any], row: Row) -> None:
    sums["tensors"] += row.tensors
    sums["num_params"] += row.num_params
    sums["bytes"] += row.num_bytes


__all__ = ["inspect"]
