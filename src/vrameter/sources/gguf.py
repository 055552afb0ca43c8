"""GGUF files: what their headers list, checked against the files, one file or a split set.

Sizes follow from shapes and types and are exact; where each tensor lies in its file must agree with them.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from math import prod
from pathlib import Path

from vrameter.errors import SourceError
from vrameter.i18n import tr
from vrameter.model.gguf_types import BLOCKS, REMOVED_TYPE_IDS, TYPE_IDS
from vrameter.model.tensor_table import StoredTensor, TensorTable
from vrameter.sources.byte_source import ByteSource, LocalFile
from vrameter.sources.gguf_header import Header, TensorInfo, read_header

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)\Z", re.IGNORECASE)
MAX_SHARDS = 1024


def read_gguf(*sources: ByteSource) -> TensorTable:
    """Return the tensors of a GGUF file, or of all files of a split set in their order.

    Raises
    ------
    SourceError
        For a header that cannot be believed, a tensor of a type not known here, one that lies where it cannot, a file
        that ends too early, or files that do not make a set.
    """
    tensors: list[StoredTensor] = []
    files: list[tuple[str, int]] = []
    metadata: dict[str, object] = {}
    seen: set[str] = set()
    for number, source in enumerate(sources):
        header = read_header(source)
        _check_split(header, source, number, len(sources))
        stored, end = _stored(header, source, number, seen)
        tensors += stored
        files.append((source.name, end if source.size is None else source.size))
        metadata = metadata or {**header.metadata, "GGUF.version": header.version}
    expected = metadata.get("split.tensors.count")
    if isinstance(expected, int) and len(sources) > 1 and expected != len(tensors):
        raise _bad(
            sources[0],
            tr("the set should hold %(expected)s tensors and holds %(count)s", expected=expected, count=len(tensors)),
        )
    return TensorTable("gguf", tuple(tensors), tuple(files), metadata)


def read_gguf_path(path: Path) -> TensorTable:
    """Return the tensors of a local GGUF file, with all files of its set where it is split.

    Raises
    ------
    SourceError
        Where a file of the set is missing or cannot be read.
    SourceError
        As `read_gguf`.
    """
    names = split_names(path.name)
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing == [path.name] == names:
        raise SourceError(
            tr("model: there is no file '%(value)s'.", value=str(path)),
            field="model",
            hint=tr("Give a folder with a config.json, or a model's name."),
        )
    if missing:
        raise SourceError(
            tr(
                "model: '%(file)s' is one of %(count)s files, and %(missing)s are missing: %(names)s.",
                file=path.name, count=len(names), missing=len(missing), names=", ".join(missing[:3]),
            ),
            field="model",
            hint=tr("Put all files of the set into one folder, and give any of them."),
        )  # fmt: skip
    with ExitStack() as opened:
        return read_gguf(*(opened.enter_context(LocalFile(path.parent / name, name=name)) for name in names))


def split_names(name: str) -> list[str]:
    """Return the names of all files of the set that a file belongs to, in order.

    >>> split_names("a-00002-of-00003.gguf")
    ['a-00001-of-00003.gguf', 'a-00002-of-00003.gguf', 'a-00003-of-00003.gguf']
    >>> split_names("model-q4_k_m.gguf")
    ['model-q4_k_m.gguf']
    """
    match = _SHARD.match(name)
    count = int(match["count"]) if match else 0
    if match is None or not 0 < int(match["number"]) <= count <= MAX_SHARDS:
        return [name]
    return [f"{match['stem']}-{number:05}-of-{count:05}{match['suffix']}" for number in range(1, count + 1)]


def _check_split(header: Header, source: ByteSource, number: int, count: int) -> None:
    """Refuse files that do not make a set, each in its place."""
    stated = header.metadata.get("split.count", 0)
    place = header.metadata.get("split.no", 0)
    if count == 1 and stated in (0, 1):
        return
    if stated != count:
        raise _bad(
            source,
            tr("it is part of a set of %(stated)s files, and %(count)s were given", stated=stated, count=count),
            hint=tr("Give the files under the names they came with: name-00001-of-0000N.gguf."),
        )
    if place != number:
        raise _bad(source, tr("it is file %(place)s of its set, not %(number)s", place=place, number=number))


def _stored(header: Header, source: ByteSource, file: int, seen: set[str]) -> tuple[list[StoredTensor], int]:
    """Return a file's tensors with their bytes, and where the last one ends in the file."""
    end = 0
    last = ""
    found: list[StoredTensor] = []
    for info in header.tensors:
        if info.name in seen:
            raise _bad(source, tr("the tensor '%(tensor)s' stands there twice", tensor=info.name))
        seen.add(info.name)
        name, num_bytes = _type_and_bytes(info, source)
        if info.offset % header.alignment:
            raise _bad(
                source,
                tr(
                    "the tensor '%(tensor)s' lies at %(offset)s, which is no multiple of %(alignment)s",
                    tensor=info.name, offset=info.offset, alignment=header.alignment,
                ),
            )  # fmt: skip
        if info.offset < end:
            raise _bad(
                source,
                tr("the tensors '%(one)s' and '%(other)s' overlap or are out of order", one=last, other=info.name),
            )
        end, last = info.offset + num_bytes, info.name
        found.append(StoredTensor(info.name, tuple(reversed(info.extents)), name, num_bytes, file))
    whole = header.data_start + end if found else header.data_start
    if source.size is not None and found and whole > source.size:
        raise _bad(
            source,
            tr(
                "it ends at %(size)s bytes, and its last tensor '%(tensor)s' at %(end)s",
                size=source.size, tensor=last, end=whole,
            ),
            hint=tr("The download is not complete: download the file again."),
        )  # fmt: skip
    return found, whole


def _type_and_bytes(info: TensorInfo, source: ByteSource) -> tuple[str, int]:
    """Return the type of a tensor and what it takes. [bytes]."""
    name = TYPE_IDS.get(info.type_id)
    if name is None:
        removed = REMOVED_TYPE_IDS.get(info.type_id)
        if removed is not None:
            raise _bad(
                source,
                tr(
                    "the tensor '%(tensor)s' has the type %(type)s (number %(number)s), which llama.cpp removed",
                    tensor=info.name, type=removed, number=info.type_id,
                ),
                hint=tr("Take a file in Q4_0 or IQ4_NL: it is repacked while it loads."),
            )  # fmt: skip
        raise _bad(
            source,
            tr(
                "the tensor '%(tensor)s' has the type number %(number)s, which llama.cpp does not have",
                tensor=info.name, number=info.type_id,
            ),
            hint=tr("Forks such as ik_llama.cpp number types of their own: take a file in a type of llama.cpp."),
        )  # fmt: skip
    values, size = BLOCKS[name]
    row = info.extents[0] if info.extents else 1
    if row % values:
        raise _bad(
            source,
            tr(
                "the rows of '%(tensor)s' have %(columns)s values, no multiple of the %(values)s in a block of %(type)s",
                tensor=info.name, columns=row, values=values, type=name,
            ),
        )  # fmt: skip
    return name, prod(info.extents) // values * size


def _bad(source: ByteSource, reason: str, *, hint: str | None = None) -> SourceError:
    return SourceError(
        tr("'%(file)s': is no readable GGUF file: %(reason)s.", file=source.name, reason=reason),
        field="model",
        hint=hint or tr("Download the file again, or convert the model again with a current llama.cpp."),
    )


__all__ = ["read_gguf", "read_gguf_path", "split_names"]
