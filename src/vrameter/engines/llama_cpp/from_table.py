"""A GGUF file's own tensors, as its header lists them."""

from __future__ import annotations

import re

from vrameter.engines.llama_cpp.file import FileTensor, ModelFile
from vrameter.model.tensor_table import TensorTable

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\Z")
# Names of towers that lie in a model's own file and are no part of the language model.
_APART = ("v.", "a.", "mm.", "model.")


def file_of_table(table: TensorTable, num_layers: int) -> ModelFile:
    """Return the file that a table lists.

    Parameters
    ----------
    num_layers
        Layers that are computed; those behind them predict further tokens.
    """
    outside: dict[str, FileTensor] = {}
    layers: list[dict[str, FileTensor]] = [{} for _ in range(num_layers)]
    last = num_layers - 1
    for tensor in table.tensors:
        match = _BLOCK.match(tensor.name)
        ne = tensor.shape[::-1]
        if match is None:
            if not tensor.name.startswith(_APART):
                outside[tensor.name] = FileTensor(tensor.name, tensor.dtype, ne)
            continue
        number = int(match[1])
        last = max(last, number)
        if number < num_layers:
            layers[number][match[2]] = FileTensor(match[2], tensor.dtype, ne)
    shared: dict[tuple[FileTensor, ...], dict[str, FileTensor]] = {}
    return ModelFile(
        outside,
        tuple(shared.setdefault(tuple(layer.values()), layer) for layer in layers),
        skipped=last + 1 - num_layers,
    )


__all__ = ["file_of_table"]
