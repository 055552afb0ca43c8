"""How the tensors of a GGUF file are stored, as a plan of weights takes it."""

from __future__ import annotations

from math import prod

from vrameter.model.architecture import Architecture, joined
from vrameter.model.gguf_mixture import Piece
from vrameter.model.gguf_types import BLOCKS
from vrameter.model.orientation import Key, component_key
from vrameter.model.tensor_table import TensorTable

# Numbers of mixtures in ``general.file_type``.
FILE_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m",
    13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs",
    21: "q2_k_s", 22: "iq3_xs", 23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m", 28: "iq2_s",
    29: "iq2_m", 30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0", 38: "mxfp4_moe", 39: "nvfp4",
    40: "q1_0", 41: "q2_0",
}  # fmt: skip
_COMPUTED = {"f32": "fp32", "f64": "fp32", "bf16": "bf16"}


def main_type(table: TensorTable) -> str:
    """Return the type that most elements of the matrices have."""
    sums: dict[str, int] = {}
    for tensor in table.tensors:
        if len(tensor.shape) > 1:
            sums[tensor.dtype] = sums.get(tensor.dtype, 0) + prod(tensor.shape)
    return max(sums, key=lambda name: sums[name], default="f32")


def file_mixture(table: TensorTable) -> str:
    """Return what a file calls its mixture of types, else its commonest type.

    A file that says it is in 16 bits and is not, because it was quantised by other means, goes by its commonest type.
    """
    stated = table.metadata.get("general.file_type")
    name = FILE_TYPES.get(stated) if isinstance(stated, int) else None
    common = main_type(table)
    if name is None or (name in BLOCKS and BLOCKS[name][0] == 1 and name != common):
        return common
    return name


def compute_dtype(table: TensorTable) -> str:
    """Return the number format that a model of a file computes in: its own where it is not quantised, else fp16."""
    return _COMPUTED.get(main_type(table), "fp16")


def stored_pieces(architecture: Architecture, table: TensorTable) -> dict[Key, tuple[Piece, ...]]:
    """Return how a file stores every tensor of the architecture made of it, by component, layer and name."""
    types = {tensor.name: tensor.dtype for tensor in table.tensors}
    found: dict[Key, tuple[Piece, ...]] = {}
    for component in architecture.components:
        key = component_key(component)
        for tensor in component.tensors:
            found[key, None, tensor.name] = (Piece("file", tensor.shape, types[joined(component.prefix, tensor.name)]),)
        for number, layer in enumerate(component.layers, component.first_layer):
            for tensor in layer.all_tensors:
                name = f"{component.layers_prefix}.{number}.{tensor.name}"
                found[key, number, tensor.name] = (Piece("file", tensor.shape, types[name]),)
    return found


__all__ = ["FILE_TYPES", "compute_dtype", "file_mixture", "main_type", "stored_pieces"]
