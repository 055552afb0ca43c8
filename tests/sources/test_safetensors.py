"""Headers of safetensors files: what they say, and what happens when they lie."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.checkpoints import LLAMA, document, llama, num_bytes, safetensors, write

from vrameter.errors import SourceError, VrameterError
from vrameter.sources.byte_source import Growing, LocalFile
from vrameter.sources.safetensors import BITS, MAX_HEADER_BYTES, parse_header, read_header

ENTRY = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


def of(entries: object) -> bytes:
    return json.dumps(entries).encode()


def test_a_header_lists_every_tensor(tmp_path: Path) -> None:
    tensors = llama()
    write(tmp_path, {"model.safetensors": safetensors(tensors)})
    with LocalFile(tmp_path / "model.safetensors") as source:
        header = read_header(source)
    assert [tensor.name for tensor in header.tensors] == list(tensors)
    assert {tensor.name: (tensor.dtype.upper(), tensor.shape) for tensor in header.tensors} == tensors
    assert sum(tensor.num_bytes for tensor in header.tensors) == num_bytes(tensors)
    assert header.format == "pt"
    assert header.file_bytes == (tmp_path / "model.safetensors").stat().st_size


@pytest.mark.parametrize("dtype", BITS)
def test_every_number_format_has_its_size(dtype: str) -> None:
    size = 8 * BITS[dtype] // 8
    header = parse_header(of({"a": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, size]}}), name="x")
    assert header.tensors[0].num_bytes == size


def test_tensors_may_be_listed_in_any_order() -> None:
    entries = {"b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}, "a": ENTRY}
    assert [tensor.name for tensor in parse_header(of(entries), name="x", size=8 + len(of(entries)) + 3).tensors] == [
        "b",
        "a",
    ]


def test_no_tensors_and_empty_tensors_are_files_too() -> None:
    assert parse_header(b"{}", name="x", size=10).tensors == ()
    assert (
        parse_header(of({"a": {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]}}), name="x")
        .tensors[0]
        .num_bytes
        == 0
    )
    assert (
        parse_header(of({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}), name="x").tensors[0].shape == ()
    )


def test_metadata_may_use_the_words_of_tensors() -> None:
    entries = {"__metadata__": {"format": "pt", "dtype": "x", "shape": "y", "data_offsets": "z"}, "a": ENTRY}
    assert len(parse_header(of(entries), name="x").tensors) == 1


BAD: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "not that of a safetensors"),
    "a list": (b"[]", "not a JSON object"),
    "a number as entry": (of({"a": 0}), "not that of a safetensors"),
    "metadata that is no object": (of({"__metadata__": 3}), "not that of a safetensors"),
    "two of a name": (b'{"a":' + of(ENTRY) + b',"a":' + of(ENTRY) + b"}", "twice"),
    "two of a name, the second elsewhere": (
        b'{"a":' + of(ENTRY) + b',"a":' + of({**ENTRY, "data_offsets": [1, 2]}) + b"}", "twice"
    ),
    "negative shape": (of({"a": {**ENTRY, "shape": [-1]}}), "impossible shape"),
    "overflowing shape": (of({"a": {**ENTRY, "shape": [2**40, 2**40]}}), "impossible shape"),
    "overflow hidden by a zero": (of({"a": {**ENTRY, "shape": [2**62, 4, 0], "data_offsets": [0, 0]}}), "impossible shape"),
    "shape beyond any integer": (b'{"a":{"dtype":"U8","shape":[' + b"9" * 400 + b'],"data_offsets":[0,1]}}', "whole numbers|impossible"),
    "fractional shape": (of({"a": {**ENTRY, "shape": [1.5]}}), "whole numbers"),
    "endless shape": (of({"a": {**ENTRY, "shape": [1] * 5000}}), "whole numbers"),
    "no shape": (of({"a": {"dtype": "U8", "data_offsets": [0, 1]}}), "whole numbers"),
    "unknown dtype": (of({"a": {**ENTRY, "dtype": "Q8"}}), "unknown type 'Q8'"),
    "offsets the wrong way round": (of({"a": {**ENTRY, "data_offsets": [1, 0]}}), "impossible place"),
    "negative offsets": (of({"a": {**ENTRY, "data_offsets": [-1, 0]}}), "impossible place"),
    "three offsets": (of({"a": {**ENTRY, "data_offsets": [0, 1, 2]}}), "impossible place"),
    "a hole": (of({"a": {**ENTRY, "data_offsets": [1, 2]}}), "begins at byte 1"),
    "an overlap": (of({"a": {**ENTRY, "shape": [2], "data_offsets": [0, 2]}, "b": {**ENTRY, "data_offsets": [1, 2]}}), "begins at byte 1"),
    "another length than shape and type say": (of({"a": {**ENTRY, "shape": [3]}}), "has 1 bytes"),
    "half a byte": (of({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}), "has 2 bytes"),
    "not UTF-8": (b'{"\xff":' + of(ENTRY) + b"}", "UTF-8"),
    "something behind": (of({"a": ENTRY}) + b" x", "not that of a safetensors"),
    "deep lists": (b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}", "not that of a safetensors"),
    "deep lists in a field of no meaning": (b'{"a":{"x":' + b"[" * 10**6 + b"]" * 10**6 + b"}}", "nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_header_that_lies_is_one_clear_error(name: str) -> None:
    text, said = BAD[name]
    with pytest.raises(SourceError, match=said) as caught:
        parse_header(text, name="model.safetensors")
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert "model.safetensors" in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"", "shorter than the eight bytes"),
        (b"\x01\x02", "shorter than the eight bytes"),
        (struct.pack("<Q", 2**63), "at most"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), "at most"),
        (struct.pack("<Q", 1000) + b"{}", "the file has 10"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1), "at most"),
        (b"PK\x03\x04" + bytes(100), "not a JSON object|at most|claims"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(start)
    with LocalFile(tmp_path / "a.safetensors") as source, pytest.raises(SourceError, match=said):
        read_header(source)


def test_cut_off_at_any_byte(tmp_path: Path) -> None:
    whole = safetensors({"a": ("U8", (3,)), "b": ("F16", (2, 2))})
    content = whole.part(0, whole.size)
    for length in range(len(content)):
        (tmp_path / "a.safetensors").write_bytes(content[:length])
        with LocalFile(tmp_path / "a.safetensors") as source, pytest.raises(SourceError):
            read_header(source)


def test_bytes_behind_the_last_tensor_are_refused(tmp_path: Path) -> None:
    whole = safetensors({"a": ("U8", (3,))})
    (tmp_path / "a.safetensors").write_bytes(whole.part(0, whole.size) + b"x")
    with LocalFile(tmp_path / "a.safetensors") as source, pytest.raises(SourceError, match="overlong"):
        read_header(source)


@pytest.mark.parametrize("filler", [b"[],", b"9999,", b'"",'])
def test_memory_stays_near_the_headers_own_length(filler: bytes) -> None:
    """Four megabytes that would unfold to a hundred are refused without unfolding."""
    long = filler * (4 * 2**20 // len(filler)) + b"0"
    for text in (b'{"a":{"dtype":"U8","shape":[' + long + b'],"data_offsets":[0,1]}}', b'{"a":[' + long + b"]}"):
        tracemalloc.start()
        try:
            with pytest.raises(SourceError):
                parse_header(text, name="x")
            assert tracemalloc.get_traced_memory()[1] < 4 * len(text)
        finally:
            tracemalloc.stop()


# -- fuzz ---------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*BITS, "Q4", "", "bf16"]) | json_values,
        "shape": st.lists(st.integers(-2, 2**66), max_size=4) | json_values,
        "data_offsets": st.lists(st.integers(-2, 2**66), min_size=2, max_size=2) | json_values,
    },
)


def only_our_errors(read: Callable[[], Any]) -> None:
    said = "read"
    try:
        read()
    except VrameterError as error:
        said = error.message
    assert 0 < len(said) < 600


@given(st.dictionaries(st.text(max_size=12) | st.just("__metadata__"), entries | json_values, max_size=5))
def test_any_object_ends_in_a_table_or_an_error_of_ours(values: dict[str, Any]) -> None:
    only_our_errors(lambda: parse_header(json.dumps(values).encode(), name="x"))


@given(st.binary(max_size=400), st.integers(0, 2**64 - 1) | st.integers(0, 500))
def test_any_bytes_end_in_a_table_or_an_error_of_ours(text: bytes, length: int) -> None:
    content = struct.pack("<Q", length) + text
    source = Growing(lambda offset, count: content[offset : offset + count], name="x", size=len(content), first=16)
    only_our_errors(lambda: read_header(source))


@given(st.data())
def test_one_changed_byte_ends_in_a_table_or_an_error_of_ours(data: st.DataObject) -> None:
    content = bytearray(safetensors({"a.weight": ("BF16", (2, 3)), "b": ("U8", (4,))}).head)
    size = len(content) + 16
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    source = Growing(lambda offset, count: bytes(content[offset : offset + count]), name="x", size=size)
    only_our_errors(lambda: read_header(source))


@given(
    st.lists(
        st.tuples(st.sampled_from(list(BITS)), st.lists(st.integers(0, 9).map(lambda n: 8 * n), max_size=3)), max_size=6
    )
)
def test_what_was_written_is_read(shapes: list[tuple[str, list[int]]]) -> None:
    tensors = {f"t{number}": (dtype, (*shape, 8)) for number, (dtype, shape) in enumerate(shapes)}
    file = safetensors(tensors)
    header = read_header(Growing(file.part, name="x", size=file.size))
    assert sum(tensor.num_bytes for tensor in header.tensors) == num_bytes(tensors)
    assert header.file_bytes == file.size


def test_the_config_alone_still_answers(tmp_path: Path) -> None:
    from vrameter.sources import resolve

    write(tmp_path, {"config.json": document(LLAMA)})
    assert resolve(str(tmp_path)).source == "folder"
