"""What weight files hold: every tensor with its type, shape and bytes, as their headers list them.

A table is a fact about files, whatever their format; an `Architecture` says which layer and role a tensor has. Where
there is a table, weights are its sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

CHOSEN = "name.quantization"
"""Where `TensorTable.metadata` keeps what a file's own name calls its quantisation."""


class StoredTensor(NamedTuple):
    """One tensor of a file.

    Parameters
    ----------
    name
        As the file spells it.
    shape
        As torch orders it, outputs before inputs; a GGUF file's order is turned round.
    dtype
        The file's own word for its storage in lower case: ``bf16``, ``f8_e4m3``, ``u8``, ``q4_k``.
    num_bytes
        What it takes in the file. [bytes]
    file
        Number of the file in `TensorTable.files`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    file: int = 0


@dataclass(frozen=True)
class TensorTable:
    """The tensors that a loader would load, once each.

    Parameters
    ----------
    kind
        What the files are: ``torch`` stands for pickles whose sizes come from an index or a file list, never from
        reading them.
    files
        Their names and sizes. [bytes]
    metadata
        What the headers say besides, as far as it matters.
    exact
        Whether every tensor was seen in a header, rather than sizes alone.
    """

    kind: Literal["safetensors", "gguf", "torch"]
    tensors: tuple[StoredTensor, ...]
    files: tuple[tuple[str, int], ...] = ()
    metadata: dict[str, object] = field(default_factory=dict)
    exact: bool = True

    @cached_property
    def num_bytes(self) -> int:
        """The sum over all tensors. [bytes]."""
        return sum(tensor.num_bytes for tensor in self.tensors)
