"""The header of a safetensors file: every tensor's name, type, shape and place.

A file is eight bytes with the header's length, the header (one JSON object), then the tensors' bytes end to end [1]_.
Only the header is read. It is believed as far as it agrees with itself and with the size of the file: the tensors must
cover the bytes behind the header exactly once, each as long as its shape and type say.

A header may have `MAX_HEADER_BYTES`, as in the library, and `MAX_TENSORS`. Values are taken apart only once they are
known to be short, so that a header that lies costs no more memory than its own length and the table of its tensors.

References
----------
.. [1] safetensors 0.8, README "Format" and ``safetensors/src/tensor.rs``: limits, number formats, what is refused.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple, NoReturn

import msgspec

from vrameter.errors import SourceError
from vrameter.i18n import tr
from vrameter.model.tensor_table import StoredTensor
from vrameter.sources.byte_source import ByteSource

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 500_000
MAX_SIZE = 2**63 - 1
LENGTH_BYTES = 8
_SHORT = 1024
_POINTER = b"version https://git-lfs"

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of one element of every type that the format knows. [bits]."""


_TYPES = {name: (bits, name.lower()) for name, bits in BITS.items()}


class Header(NamedTuple):
    """What the start of a file says.

    Parameters
    ----------
    format
        Who wrote it, as its metadata says: ``pt``, ``mlx``; empty where it does not.
    header_bytes, file_bytes
        What header and whole file take. [bytes]
    """

    tensors: tuple[StoredTensor, ...]
    format: str
    header_bytes: int
    file_bytes: int


class _Entry(msgspec.Struct):
    dtype: str = ""
    shape: msgspec.Raw = msgspec.Raw()
    data_offsets: msgspec.Raw = msgspec.Raw()


class _Metadata(msgspec.Struct):
    format: str = ""


class _Outer(msgspec.Struct):
    metadata: msgspec.Raw = msgspec.field(name="__metadata__", default=msgspec.Raw(b"{}"))


_entries = msgspec.json.Decoder(dict[str, _Entry])
_outer = msgspec.json.Decoder(_Outer)
_metadata = msgspec.json.Decoder(_Metadata)
_whole_numbers = msgspec.json.Decoder(list[int])


def header_length(start: bytes, *, name: str, size: int | None) -> int:
    """Return the length of the header that a file's first eight bytes state. [bytes].

    Raises
    ------
    SourceError
        Where they are missing, or state what cannot be.
    """
    if len(start) < LENGTH_BYTES:
        _refuse(name, tr("it is shorter than the eight bytes that tell its header's length"))
    if start.startswith(_POINTER[: len(start)]):
        raise SourceError(
            tr("'%(file)s': is a Git LFS pointer, not the weights.", file=name),
            field="model",
            hint=tr("Fetch the files first: git lfs pull. Or name the repository on the Hub."),
        )
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        _refuse(name, tr("its header claims %(length)s bytes, and at most %(limit)s are allowed",
                         length=length, limit=MAX_HEADER_BYTES))  # fmt: skip
    if size is not None and LENGTH_BYTES + length > size:
        _refuse(name, tr("its header claims %(length)s bytes, and the file has %(size)s", length=length, size=size))
    return length


def read_header(source: ByteSource, *, file: int = 0) -> Header:
    """Return what a file holds; `file` is the number that its tensors bear.

    Raises
    ------
    SourceError
        Where the source is no such file, is cut off, or its header contradicts itself.
    """
    length = header_length(source.read(0, LENGTH_BYTES), name=source.name, size=source.size)
    text = source.read(LENGTH_BYTES, length)
    if len(text) < length:
        _refuse(
            source.name, tr("it ends within its header: %(held)s of %(length)s bytes", held=len(text), length=length)
        )
    return parse_header(text, name=source.name, size=source.size, file=file)


def parse_header(text: bytes, *, name: str, size: int | None = None, file: int = 0) -> Header:
    """Return what a header says.

    Parameters
    ----------
    text
        The JSON between the length and the tensors.
    size
        All bytes of the file, where known. [bytes]
    """
    stated = text.count(b'"data_offsets"')
    if stated > MAX_TENSORS:
        _refuse(
            name, tr("it lists %(count)s tensors, and at most %(limit)s are allowed", count=stated, limit=MAX_TENSORS)
        )
    if not text.startswith(b"{"):
        _refuse(name, tr("its header is not a JSON object"))
    try:
        outer = _outer.decode(text).metadata
        entries = _entries.decode(text)
        written_by = _metadata.decode(outer).format
    except UnicodeDecodeError:
        _refuse(name, tr("its header is not UTF-8"))
    except (msgspec.DecodeError, RecursionError) as error:
        reason = tr("it is nested too deeply") if isinstance(error, RecursionError) else str(error)
        _refuse(name, tr("its header is not that of a safetensors file (%(reason)s)", reason=reason))
    entries.pop("__metadata__", None)
    if stated != len(entries) + bytes(outer).count(b'"data_offsets"') + ("data_offsets" in entries):
        _refuse(name, tr("its header lists a tensor twice, or one without its place"))
    tensors, end = _tensors(entries, name, file)
    held = LENGTH_BYTES + len(text) + end
    if size is not None and held != size:
        _refuse(name, tr("its tensors end at byte %(end)s, and the file has %(size)s bytes: it is cut off or overlong",
                         end=held, size=size))  # fmt: skip
    return Header(tuple(tensors), written_by, LENGTH_BYTES + len(text), held)


def _tensors(entries: dict[str, _Entry], name: str, file: int) -> tuple[list[StoredTensor], int]:
    """Return the tensors of a header, and where their bytes end."""
    tensors: list[StoredTensor] = []
    places: list[tuple[int, int, str]] = []
    # Few shapes occur many times: each is read once.
    shapes: dict[bytes, tuple[tuple[int, ...], int]] = {}
    for tensor, entry in entries.items():
        text = bytes(entry.shape)
        if text not in shapes:
            shapes[text] = _shape(text, tensor, name)
        shape, elements = shapes[text]
        begin, end = _place(bytes(entry.data_offsets), tensor, name)
        known = _TYPES.get(entry.dtype)
        if known is None:
            _refuse(name, tr("tensor '%(tensor)s' has the unknown type '%(dtype)s'",
                             tensor=_shown(tensor), dtype=_shown(entry.dtype)))  # fmt: skip
        bits, dtype = known
        if 8 * (end - begin) != elements * bits:
            _refuse(name, tr("tensor '%(tensor)s' of shape %(shape)s and type %(dtype)s has %(length)s bytes",
                             tensor=_shown(tensor), shape=list(shape), dtype=entry.dtype, length=end - begin))  # fmt: skip
        tensors.append(StoredTensor(tensor, shape, dtype, end - begin, file))
        places.append((begin, end, tensor))
    places.sort()
    reached = 0
    for begin, end, tensor in places:
        if begin != reached:
            _refuse(name, tr("tensor '%(tensor)s' begins at byte %(begin)s, and the one before it ends at %(end)s",
                             tensor=_shown(tensor), begin=begin, end=reached))  # fmt: skip
        reached = end
    return tensors, reached


def _shape(text: bytes, tensor: str, name: str) -> tuple[tuple[int, ...], int]:
    """Return a shape and its elements."""
    shape = tuple(_numbers(text, tensor, name))
    bound = 1
    for extent in shape:
        bound *= extent or 1
        if extent < 0 or bound > MAX_SIZE:
            _refuse(name, tr("tensor '%(tensor)s' has the impossible shape %(shape)s",
                             tensor=_shown(tensor), shape=_shown(str(list(shape)))))  # fmt: skip
    return shape, prod(shape)


def _place(text: bytes, tensor: str, name: str) -> tuple[int, int]:
    place = _numbers(text, tensor, name)
    if len(place) != 2 or not 0 <= place[0] <= place[1] <= MAX_SIZE:
        _refuse(name, tr("tensor '%(tensor)s' has the impossible place %(place)s",
                         tensor=_shown(tensor), place=_shown(str(place))))  # fmt: skip
    return place[0], place[1]


def _numbers(text: bytes, tensor: str, name: str) -> list[int]:
    """Return a short list of whole numbers."""
    if len(text) <= _SHORT:
        try:
            return _whole_numbers.decode(text)
        except msgspec.DecodeError:
            pass
    _refuse(
        name, tr("tensor '%(tensor)s' lacks its shape or place, or they are no whole numbers", tensor=_shown(tensor))
    )


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(name: str, reason: str) -> NoReturn:
    raise SourceError(
        tr("'%(file)s': is no readable safetensors file: %(reason)s.", file=name, reason=reason),
        field="model",
        hint=tr("Download it again, or name another file."),
    )


__all__ = [
    "BITS",
    "MAX_HEADER_BYTES",
    "MAX_TENSORS",
    "Header",
    "header_length",
    "parse_header",
    "read_header",
]
