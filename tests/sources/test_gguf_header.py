"""GGUF headers: read as written, and not believed where they lie."""

from __future__ import annotations

import re
import struct
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gguf_files import Memory, data_bytes, header, stored, text
from tests.gguf_models import llama

from vrameter.errors import SourceError
from vrameter.model.gguf_types import BLOCKS, REMOVED_TYPE_IDS, TYPE_IDS
from vrameter.sources.byte_source import Growing
from vrameter.sources.gguf import read_gguf
from vrameter.sources.gguf_header import FIRST_READ, MAX_HEADER_BYTES, read_header

METADATA: dict[str, Any] = {
    "general.architecture": "llama", "llama.block_count": 1, "llama.rope.freq_base": 500000.0, "general.flag": True,
    "llama.attention.head_count_kv": [8, 4], "llama.attention.sliding_window_pattern": [True, False],
    "general.tags": ["a", "b"], "tokenizer.ggml.tokens": [f"token {number}" for number in range(500)],
    "tokenizer.chat_template": "x" * 5000,
}  # fmt: skip
TENSORS = stored({"token_embd.weight": (100, 64), "blk.0.attn_q.weight": (64, 64), "output_norm.weight": (64,)}, "q8_0")
HEADER = header(METADATA, TENSORS)
WHOLE = HEADER + bytes(data_bytes(TENSORS))


def refused(data: bytes, *, size: int | None = None) -> str:
    """Return what is said of bytes that are no sound file."""
    with pytest.raises(SourceError) as caught:
        read_gguf(Memory(data, size=size))
    assert caught.value.field == "model"
    assert caught.value.hint
    return caught.value.message


def start(*, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


@pytest.mark.parametrize("version", [2, 3])
def test_what_was_written_is_read(version: int) -> None:
    """Short values as they are; of what is longer than anything of use only the length."""
    read = read_header(Memory(header(METADATA, TENSORS, version=version)))
    assert read.version == version
    assert read.data_start == len(HEADER)
    assert read.metadata == {
        **METADATA,
        "tokenizer.ggml.tokens": {"type": "string", "length": 500},
        "tokenizer.chat_template": {"type": "string", "length": 5000},
    }
    assert [(info.name, info.extents, TYPE_IDS[info.type_id]) for info in read.tensors] == [
        ("token_embd.weight", (64, 100), "q8_0"), ("blk.0.attn_q.weight", (64, 64), "q8_0"),
        ("output_norm.weight", (64,), "f32"),
    ]  # fmt: skip


def test_table_of_a_file() -> None:
    """Shapes are turned round, bytes follow from blocks, the file keeps its name and size."""
    table = read_gguf(Memory(WHOLE))
    assert table.tensors == tuple(TENSORS)
    assert table.num_bytes == 100 * 64 // 32 * 34 + 64 * 64 // 32 * 34 + 64 * 4
    assert table.files == (("test.gguf", len(WHOLE)),)
    assert table.kind == "gguf"
    assert table.exact


@pytest.mark.parametrize("name", sorted(TYPE_IDS.values()))
def test_every_type(name: str) -> None:
    """A row of every type takes its blocks."""
    values, size = BLOCKS[name]
    tensors = stored({"x": (3, 4 * values)}, name)
    assert read_gguf(Memory(header({}, tensors), size=2**20)).num_bytes == 3 * 4 * size


def test_types_are_those_of_gguf_py() -> None:
    """Numbers and blocks of the gguf package; q8_1 is 36 bytes in ggml's C, and never stored."""
    constants = pytest.importorskip("gguf.constants")
    theirs = {
        int(kind): (kind.name.lower(), constants.GGML_QUANT_SIZES[kind]) for kind in constants.GGMLQuantizationType
    }
    for number, (name, sizes) in theirs.items():
        assert TYPE_IDS[number] == name
        assert BLOCKS[name] == ((32, 36) if name == "q8_1" else sizes)


def test_gguf_py_reads_and_writes_the_same(tmp_path: Any) -> None:
    """A file of its writer gives the same table here."""
    gguf = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_head_count_kv([4, 8])
    writer.add_token_list(["a"] * 1000)
    writer.add_tensor("token_embd.weight", numpy.zeros((10, 64), dtype=numpy.float16))
    writer.add_tensor("output_norm.weight", numpy.zeros(64, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    table = read_gguf(Memory(path.read_bytes()))
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in table.tensors] == [
        ("token_embd.weight", (10, 64), "f16"), ("output_norm.weight", (64,), "f32"),
    ]  # fmt: skip
    assert table.metadata["llama.attention.head_count_kv"] == [4, 8]
    assert table.metadata["tokenizer.ggml.tokens"] == {"type": "string", "length": 1000}


def test_long_tokenizers_are_read_in_ranges() -> None:
    """A header of several ranges costs no more than its own length rounded up to the next range."""
    words = [f"some rather long token number {number}" for number in range(150_000)]
    data = header({**METADATA, "tokenizer.ggml.tokens": words}, TENSORS)
    assert len(data) > FIRST_READ
    memory = Memory(data + bytes(64 * 2**20))
    growing = Growing(memory.read, name="far.gguf", size=memory.size, first=FIRST_READ)
    assert read_header(growing).metadata["tokenizer.ggml.tokens"] == {"type": "string", "length": 150_000}
    assert memory.most <= 4 * len(data)


# -- headers that lie ------------------------------------------------------------------------------------


def test_cut_at_any_byte() -> None:
    """A file cut inside its header says so, wherever it was cut and whether or not its size is known."""
    for length in range(len(HEADER) - 32):
        assert re.search("cut short|claims", refused(HEADER[:length]))
        with pytest.raises(SourceError):
            read_header(Memory(HEADER[:length], sized=False))


def test_cut_data() -> None:
    """A download that stopped says which tensor is missing."""
    assert "output_norm.weight" in refused(WHOLE[:-33])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut short"),
        (b"PK\x03\x04" + bytes(60), "begins with"),
        (b"tjgg" + bytes(60), "begins with"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "big-endian"),
        (start(version=0), "version 0"),
        (start(version=1), "version 1"),
        (start(version=4), "version 4"),
        (start(tensors=2**60), "1152921504606846976 tensors"),
        (start(keys=2**60), "1152921504606846976 keys"),
        (start(keys=2**63), "keys"),
        (start(keys=1) + struct.pack("<Q", 2**62) + bytes(64), "claims 4611686018427387904 bytes"),
        (start(keys=1) + text(b"\xff\xfe") + bytes(64), "not UTF-8"),
        (start(keys=1) + text("") + struct.pack("<II", 4, 1), "empty"),
        (start(keys=2) + 2 * (text("a") + struct.pack("<II", 4, 1)) + bytes(64), "twice"),
        (start(keys=1) + text("a") + struct.pack("<IQ", 8, 2**60) + bytes(64), "claims 1152921504606846976 bytes"),
        (start(keys=1) + text("a") + struct.pack("<IIQ", 9, 8, 2**60) + bytes(64), "claims 1152921504606846976 texts"),
        (start(keys=1) + text("a") + struct.pack("<IIQ", 9, 5, 2**60) + bytes(64), "claims 1152921504606846976 numbers"),
        (start(keys=1) + text("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(64), "holds arrays"),
        (start(keys=1) + text("a") + struct.pack("<II", 13, 1) + bytes(64), "unknown type 13"),
        (start(keys=1) + text("a") + struct.pack("<IIQ", 9, 77, 1) + bytes(64), "unknown type 77"),
        (start(keys=1) + text("general.alignment") + struct.pack("<II", 4, 24) + bytes(64), "power of two"),
        (start(keys=1) + text("general.alignment") + struct.pack("<II", 4, 0) + bytes(64), "power of two"),
        (start(keys=1) + text("general.alignment") + struct.pack("<If", 6, 32.0) + bytes(64), "power of two"),
        (start(tensors=1) + text("x" * 64) + bytes(64), "claims 64 bytes"),
        (start(tensors=1) + text("x") + struct.pack("<I", 5) + bytes(64), "5 dimensions"),
        (start(tensors=1) + text("x") + struct.pack("<IQIQ", 1, 2**63, 0, 0) + bytes(64), "elements"),
        (start(tensors=1) + text("x") + struct.pack("<I4QIQ", 4, *[2**16] * 4, 0, 0) + bytes(64), "elements"),
        (start(tensors=1) + text("x") + struct.pack("<IQIQ", 1, 2**40, 0, 0) + bytes(64), "ends at"),
        (start(tensors=1) + text("x") + struct.pack("<IQIQ", 1, 8, 0, 2**62) + bytes(64), "ends at"),
        (start(tensors=1) + text("x") + struct.pack("<IQIQ", 1, 8, 0, 8) + bytes(64), "no multiple of 32"),
        (start(tensors=1) + text("x") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(64), "no multiple of the 32"),
        (start(tensors=2) + 2 * (text("x") + struct.pack("<IQIQ", 1, 8, 0, 0)) + bytes(64), "twice"),
        (start(tensors=2) + text("x") + struct.pack("<IQIQ", 1, 9, 0, 0) + text("y") + struct.pack("<IQIQ", 1, 9, 0, 32)
         + bytes(128), "overlap"),
        (start(tensors=2) + text("x") + struct.pack("<IQIQ", 1, 8, 0, 32) + text("y") + struct.pack("<IQIQ", 1, 8, 0, 0)
         + bytes(128), "overlap"),
    ],
)  # fmt: skip
def test_lies(data: bytes, words: str) -> None:
    """One clear error each."""
    assert words in refused(data)


@pytest.mark.parametrize(("number", "name"), sorted(REMOVED_TYPE_IDS.items()))
def test_removed_types_are_named(number: int, name: str) -> None:
    """A type that llama.cpp had once."""
    assert name in refused(start(tensors=1) + text("x") + struct.pack("<IQIQ", 1, 32, number, 0) + bytes(64))


def test_unknown_types_are_named() -> None:
    """A type of a fork's own: its number, and what to do."""
    assert "139" in refused(start(tensors=1) + text("x") + struct.pack("<IQIQ", 1, 256, 139, 0) + bytes(512))


def test_a_lie_costs_no_memory() -> None:
    """What a header claims is not set aside before it was seen."""
    lies = [
        start(tensors=2**18, keys=0), start(keys=2**16),
        start(keys=1) + text("a") + struct.pack("<IIQ", 9, 8, 2**22),
        start(keys=1) + text("a") + struct.pack("<IIQ", 9, 5, MAX_HEADER_BYTES // 4),
    ]  # fmt: skip
    for lie in lies:
        source = Memory(lie, size=2**50)
        tracemalloc.start()
        with pytest.raises(SourceError):
            read_gguf(source)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 2**20


MODEL = header(
    {"general.architecture": "llama"}, stored(llama(layers=2, hidden=64, width=128, heads=4, kv=2, vocab=100)[2])
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_changed_bytes_give_a_table_or_one_error(data: st.DataObject) -> None:
    """Whatever happens to a header, nothing else comes out than a table or a clear error."""
    raw = bytearray(data.draw(st.sampled_from([HEADER, MODEL])))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        if not raw:
            break
    source = Memory(bytes(raw), size=data.draw(st.sampled_from([None, len(raw), 2**40])) or len(raw))
    with suppress(SourceError):
        table = read_gguf(source)
        assert table.num_bytes <= 2**41
        assert len({tensor.name for tensor in table.tensors}) == len(table.tensors)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_after_the_magic(tail: bytes) -> None:
    """Bytes of no meaning are refused or read, and nothing else."""
    with suppress(SourceError):
        assert read_gguf(Memory(b"GGUF\x03\x00\x00\x00" + tail, size=2**30)).num_bytes <= 2**30
