"""The header of a GGUF file: keys, then the name, shape, type and place of every tensor [1]_.

Nothing that the header says of itself is believed before it is checked: numbers of keys, tensors and elements, lengths
of texts and of the header as a whole are bounded, and what is longer than anything of use is passed over, its length kept.

References
----------
.. [1] ggml, ``docs/gguf.md`` and ``ggml/src/gguf.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from struct import Struct, calcsize, unpack_from
from typing import NamedTuple

from vrameter.errors import SourceError
from vrameter.i18n import tr
from vrameter.sources.byte_source import ByteSource

MAGIC = b"GGUF"
_POINTER = b"vers"
_OLDER = (b"lmgg", b"fmgg", b"tjgg")
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

FIRST_READ = 4 * 2**20
MAX_HEADER_BYTES = 128 * 2**20
MAX_KEYS = 2**16
MAX_TENSORS = 2**18
MAX_STRINGS = 2**22
MAX_KEY_BYTES = 2**16 - 1
MAX_NAME_BYTES = 63
MAX_STRING_BYTES = 64 * 2**20
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 2**20
MAX_ELEMENTS = 2**63 - 1

# Texts and arrays up to these lengths are kept; of longer ones, such as a tokenizer's words, only the length.
KEPT_STRING_BYTES = 4096
KEPT_NUMBERS = 4096
KEPT_STRINGS = 64

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NAMES = {
    0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 8: "string", 9: "array", 10: "u64",
    11: "i64", 12: "f64",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_U32, _U64 = Struct("<I"), Struct("<Q")


class TensorInfo(NamedTuple):
    """A tensor as the header lists it: `extents` with the row length first, `offset` from the start of the data."""

    name: str
    extents: tuple[int, ...]
    type_id: int
    offset: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its data.

    Parameters
    ----------
    metadata
        Keys and values. A text or array too long to keep is ``{"type": "string", "length": 128256}``.
    data_start
        Where the data begins. [bytes]
    """

    version: int
    metadata: dict[str, object]
    tensors: tuple[TensorInfo, ...]
    data_start: int
    alignment: int = DEFAULT_ALIGNMENT


def read_header(source: ByteSource) -> Header:
    """Return the header of a GGUF file.

    Raises
    ------
    SourceError
        For anything that is no GGUF file of version 2 or 3, is cut short, or states more than the bounds allow.
    """
    reader = _Reader(source)
    version = _version(reader)
    num_tensors = reader.count("tensors", MAX_TENSORS, least_bytes=24)
    num_keys = reader.count("keys", MAX_KEYS, least_bytes=13)
    metadata: dict[str, object] = {}
    for _ in range(num_keys):
        key = reader.text(MAX_KEY_BYTES, "key")
        if not key or key in metadata:
            raise reader.bad(tr("the key '%(key)s' is empty or stands there twice", key=key))
        metadata[key] = reader.value(key)
    alignment = _alignment(reader, metadata)
    tensors = tuple(_tensor(reader) for _ in range(num_tensors))
    return Header(version, metadata, tensors, -(-reader.position // alignment) * alignment, alignment)


def _version(reader: _Reader) -> int:
    magic = reader.take(4)
    if magic == _POINTER:
        raise SourceError(
            tr("'%(file)s': is a Git LFS pointer, not the weights.", file=reader.name),
            field="model",
            hint=tr("Fetch the files first: git lfs pull. Or name the repository on the Hub."),
        )
    if magic != MAGIC:
        raise reader.bad(
            tr("it begins with %(value)s", value=repr(magic)[1:]),
            hint=tr("Files in ggml's older formats are converted with llama.cpp's convert_llama_ggml_to_gguf.py.")
            if magic in _OLDER
            else None,
        )
    version = reader.u32()
    if version and not version & 0xFFFF:
        raise reader.bad(
            tr("it is big-endian, which only big-endian machines load"),
            hint=tr("Take a little-endian file, or turn it round with gguf-py's gguf_convert_endian.py."),
        )
    if version not in VERSIONS:
        raise reader.bad(
            tr("it is GGUF version %(version)s, and versions 2 and 3 are read", version=version),
            hint=tr("Convert the model again with a current llama.cpp.") if version < 2 else None,
        )
    return version


def _alignment(reader: _Reader, metadata: dict[str, object]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):  # type: ignore[operator]
        raise reader.bad(tr("general.alignment is %(value)s, not a power of two", value=repr(value)[:40]))
    return value  # type: ignore[return-value]


def _tensor(reader: _Reader) -> TensorInfo:
    name = reader.text(MAX_NAME_BYTES, "tensor")
    dimensions = reader.u32()
    if dimensions > MAX_DIMENSIONS:
        raise reader.bad(
            tr(
                "tensor '%(tensor)s' has %(count)s dimensions, more than %(most)s",
                tensor=name,
                count=dimensions,
                most=MAX_DIMENSIONS,
            )
        )
    *extents, type_id, offset = reader.unpack(f"<{dimensions}QIQ")
    if any(extent > MAX_ELEMENTS for extent in extents) or prod(extents) > MAX_ELEMENTS:
        raise reader.bad(
            tr(
                "tensor '%(tensor)s' claims %(shape)s elements",
                tensor=name,
                shape=" × ".join(map(str, reversed(extents))),
            )
        )
    return TensorInfo(name, tuple(extents), type_id, offset)


@dataclass
class _Reader:
    """A place in the header, over a piece of it held in memory."""

    source: ByteSource
    _piece: bytes = field(default=b"", repr=False)
    _start: int = 0
    _at: int = 0

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._start + self._at

    def bad(self, reason: str, *, hint: str | None = None) -> SourceError:
        """Return the error of a header that cannot be believed."""
        return SourceError(
            tr("'%(file)s': is no readable GGUF file: %(reason)s.", file=self.name, reason=reason),
            field="model",
            hint=hint or tr("Download the file again, or convert the model again with a current llama.cpp."),
        )

    def _cut(self, end: int) -> SourceError:
        return self.bad(
            tr("it is cut short at %(size)s bytes, inside the header", size=min(self.source.size or end, end)),
            hint=tr("Download the file again."),
        )

    def need(self, length: int) -> None:
        """Make sure that `length` more bytes are held."""
        if len(self._piece) - self._at >= length:
            return
        position = self.position
        if position + length > MAX_HEADER_BYTES:
            raise self.bad(tr("it is longer than %(limit)s bytes", limit=MAX_HEADER_BYTES))
        if self.source.size is not None and position + length > self.source.size:
            raise self._cut(self.source.size)
        wanted = min(max(length, FIRST_READ), MAX_HEADER_BYTES - position)
        self._piece = self.source.read(position, wanted)
        self._start, self._at = position, 0
        if len(self._piece) < length:
            raise self._cut(position + len(self._piece))

    def skip(self, length: int) -> None:
        """Pass over bytes without keeping them."""
        end = self.position + length
        if end > MAX_HEADER_BYTES:
            raise self.bad(tr("it is longer than %(limit)s bytes", limit=MAX_HEADER_BYTES))
        if self.source.size is not None and end > self.source.size:
            raise self._cut(self.source.size)
        if end - self._start <= len(self._piece):
            self._at = end - self._start
        else:
            self._piece, self._start, self._at = b"", end, 0

    def take(self, length: int) -> bytes:
        self.need(length)
        at = self._at
        self._at += length
        return self._piece[at : at + length]

    def unpack(self, form: str) -> tuple[int, ...]:
        size = calcsize(form)
        self.need(size)
        values = unpack_from(form, self._piece, self._at)
        self._at += size
        return values

    def u32(self) -> int:
        return self.unpack("<I")[0]

    def u64(self) -> int:
        return self.unpack("<Q")[0]

    def count(self, what: str, most: int, *, least_bytes: int) -> int:
        """Return how many of something follow, which take at least so many bytes each."""
        number = self.u64()
        size = self.source.size
        if number > most or (size is not None and number * least_bytes > size):
            raise self.bad(tr("it claims %(count)s %(what)s", count=number, what=what))
        return number

    def text(self, most: int, what: str) -> str:
        length = self.u64()
        if length > most:
            raise self.bad(tr("the name of a %(what)s claims %(count)s bytes", what=what, count=length))
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.bad(tr("the name of a %(what)s is not UTF-8", what=what)) from None

    def value(self, key: str) -> object:
        """Return the value of a key, or the length of one too long to keep."""
        kind = self.u32()
        if kind in _NUMBERS:
            return self.unpack("<" + _NUMBERS[kind])[0]
        if kind == _STRING:
            return self._string(key)
        if kind == _ARRAY:
            return self._array(key)
        raise self.bad(tr("the key '%(key)s' has the unknown type %(kind)s", key=key, kind=kind))

    def _string(self, key: str) -> object:
        length = self.u64()
        if length > MAX_STRING_BYTES:
            raise self.bad(tr("the text of '%(key)s' claims %(count)s bytes", key=key, count=length))
        if length > KEPT_STRING_BYTES:
            self.skip(length)
            return {"type": "string", "length": length}
        return self.take(length).decode("utf-8", errors="replace")

    def _array(self, key: str) -> object:
        kind, count = self.u32(), self.u64()
        if kind == _ARRAY:
            raise self.bad(tr("the array of '%(key)s' holds arrays", key=key))
        if kind == _STRING:
            size = self.source.size
            if count > MAX_STRINGS or (size is not None and 8 * count > size):
                raise self.bad(tr("the array of '%(key)s' claims %(count)s texts", key=key, count=count))
            if count <= KEPT_STRINGS:
                return [self._string(key) for _ in range(count)]
            self._skip_strings(key, count)
        elif kind in _NUMBERS:
            size = calcsize("<" + _NUMBERS[kind])
            if count * size > MAX_HEADER_BYTES:
                raise self.bad(tr("the array of '%(key)s' claims %(count)s numbers", key=key, count=count))
            if count <= KEPT_NUMBERS:
                return list(self.unpack(f"<{count}{_NUMBERS[kind]}"))
            self.skip(count * size)
        else:
            raise self.bad(tr("the key '%(key)s' has the unknown type %(kind)s", key=key, kind=kind))
        return {"type": _NAMES[kind], "length": count}

    def _skip_strings(self, key: str, count: int) -> None:
        """Pass over texts, each with its length before it."""
        read = _U64.unpack_from
        while count:
            self.need(8)
            piece, at = self._piece, self._at
            last = len(piece) - 8
            while count and at <= last:
                length = read(piece, at)[0]
                if length > MAX_STRING_BYTES:
                    raise self.bad(tr("the text of '%(key)s' claims %(count)s bytes", key=key, count=length))
                at += 8 + length
                count -= 1
            if at <= len(piece):
                self._at = at
            else:
                self._at = len(piece)
                self.skip(at - len(piece))


__all__ = [
    "DEFAULT_ALIGNMENT", "MAX_HEADER_BYTES", "MAX_KEYS", "MAX_STRINGS", "MAX_STRING_BYTES", "MAX_TENSORS", "Header",
    "TensorInfo", "read_header",
]  # fmt: skip
