"""GGUF files for tests: headers written byte by byte, their data a hole in a sparse file."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from vrameter.model.gguf_types import BLOCKS, TYPE_IDS
from vrameter.model.tensor_table import StoredTensor, TensorTable

IDS = {name: number for number, name in TYPE_IDS.items()}
Tensors = Mapping[str, tuple[int, ...]]
"""Shapes by name, outputs before inputs."""


class Float(float):
    """A number written as f32."""


def text(value: str | bytes) -> bytes:
    """Return a text with its length before it."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value_of(value: Any) -> bytes:
    """Return the type and the bytes of a value."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(item) for item in value)
    if isinstance(value[0], bool):
        return struct.pack(f"<IIQ{len(value)}?", 9, 7, len(value), *value)
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def stored(tensors: Tensors, types: Mapping[str, str] | str = "f16") -> list[StoredTensor]:
    """Return tensors with their bytes; vectors are in f32 where no type is given by name."""
    found = []
    for name, shape in tensors.items():
        of = types if isinstance(types, str) else types.get(name, "f32")
        if isinstance(types, str) and len(shape) < 2:
            of = "f32"
        values, size = BLOCKS[of]
        found.append(StoredTensor(name, shape, of, prod(shape) // values * size))
    return found


def header(
    metadata: Mapping[str, Any], tensors: Sequence[StoredTensor], *, version: int = 3, alignment: int = 32
) -> bytes:
    """Return a header, padded up to its data."""
    out = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    out += [text(key) + value_of(value) for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        extents = tuple(reversed(tensor.shape))
        out.append(
            text(tensor.name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, IDS[tensor.dtype], offset)
        )
        offset += -(-tensor.num_bytes // alignment) * alignment
    whole = b"".join(out)
    return whole + b"\0" * (-len(whole) % alignment)


def data_bytes(tensors: Sequence[StoredTensor], alignment: int = 32) -> int:
    """Return what the tensors take in a file, padding between them counted."""
    return sum(-(-tensor.num_bytes // alignment) * alignment for tensor in tensors)


def write(path: Path, metadata: Mapping[str, Any], tensors: Sequence[StoredTensor], **how: Any) -> Path:
    """Write a file whose data takes no disk."""
    head = header(metadata, tensors, **how)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + data_bytes(tensors, how.get("alignment", 32)))
    return path


def table(
    architecture: str, keys: Mapping[str, Any], tensors: Tensors, types: Mapping[str, str] | str = "f16"
) -> TensorTable:
    """Return the table of a file without writing it; keys of the architecture are given below its name."""
    metadata: dict[str, object] = {"general.architecture": architecture}
    metadata |= {key if "." in key and key.split(".")[0] in ("general", "tokenizer", "clip") else f"{architecture}.{key}": value
                 for key, value in keys.items()}  # fmt: skip
    return TensorTable("gguf", tuple(stored(tensors, types)), metadata=metadata)


class Memory:
    """Bytes in memory as a source, which counts what was read."""

    def __init__(self, data: bytes, *, size: int | None = None, sized: bool = True) -> None:
        self.name = "test.gguf"
        self.data = data
        self.size = (len(data) if size is None else size) if sized else None
        self.most = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset, fewer at the end."""
        piece = self.data[offset : offset + length]
        self.most = max(self.most, offset + len(piece))
        return piece
