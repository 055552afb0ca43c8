"""GGUF repositories: of several files the one asked for, on this machine and on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.checkpoints import File, Sparse, write
from tests.gguf_files import data_bytes, header, stored
from tests.gguf_models import llama
from tests.hub_server import Hub, Repository, running

from vrameter.inspection import inspect
from vrameter.response import estimate
from vrameter.sources import hub_model, resolve

KIND, KEYS, SHAPES = llama(layers=4, hidden=256, width=512, heads=4, kv=2, vocab=1000)
METADATA = {"general.architecture": KIND, **{f"{KIND}.{key}": value for key, value in KEYS.items()}}


def file(dtype: str, *, words: int = 0) -> Sparse:
    """Return a whole file; `words` of a tokenizer make its header long."""
    more = {"tokenizer.ggml.tokens": [f"word-{number:08}" for number in range(words)]} if words else {}
    tensors = stored(SHAPES, dtype)
    head = header({**METADATA, **more}, tensors)
    return Sparse(head, len(head) + data_bytes(tensors))


def bytes_of(dtype: str) -> int:
    return sum(tensor.num_bytes for tensor in stored(SHAPES, dtype))


FILES: dict[str, File] = {
    "README.md": b"#", "small-Q8_0.gguf": file("q8_0"), "small-Q4_K_M.gguf": file("q4_0"), "small-F16.gguf": file("f16"),
    "mmproj-small-F16.gguf": file("f16"),
}  # fmt: skip


@pytest.fixture
def hub(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running({"org/small-GGUF": Repository(FILES)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.mark.parametrize(
    ("asked", "dtype"), [(None, "q4_0"), ("q8_0", "q8_0"), ("Q8_0", "q8_0"), ("f16", "f16"), ("q4_k_m", "q4_0")]
)
def test_the_file_asked_for(hub: Hub, tmp_path: Path, asked: str | None, dtype: str) -> None:
    remote = resolve("org/small-GGUF", quantization=asked)
    local = resolve(str(write(tmp_path, FILES)), quantization=asked)
    for model in (remote, local):
        assert model.table is not None
        assert model.table.num_bytes == bytes_of(dtype)
    assert remote.num_params == local.num_params
    assert {each.path for each in hub.weights()} <= {
        f"/org/small-GGUF/resolve/{remote.revision}/{name}" for name in FILES
    }
    assert len({each.path for each in hub.weights()}) == 1


def test_the_answer_is_of_that_file(hub: Hub) -> None:
    answer = estimate({"model": "org/small-GGUF", "quantization": "q8_0", "engine": "transformers"})
    assert answer["report"]["weights_bytes"] == bytes_of("q8_0")
    assert answer["model"]["source"] == "hub"
    seen = inspect("org/small-GGUF", quantization="q4_k_m")
    assert seen["bytes"] == seen["loaded_bytes"] == bytes_of("q4_0"), "the name's label, whatever its tensors are"


def test_what_other_files_there_are_is_said(hub: Hub) -> None:
    warnings = estimate({"model": "org/small-GGUF"})["warnings"]
    assert any("q8_0" in warning and "f16" in warning for warning in warnings)


def test_a_quantisation_that_is_not_there_is_worked_out(hub: Hub) -> None:
    answer = estimate({"model": "org/small-GGUF", "quantization": "q5_0"})
    assert any("no GGUF file in q5_0" in warning for warning in answer["warnings"])
    assert bytes_of("q4_0") < answer["report"]["weights_bytes"] < bytes_of("q8_0")


def test_a_long_header_is_read_in_growing_ranges_and_kept(hub: Hub) -> None:
    hub.repositories["org/long"] = Repository({"long-Q8_0.gguf": file("q8_0", words=300_000)})
    model = resolve("org/long")
    assert model.table is not None
    assert model.table.num_bytes == bytes_of("q8_0")
    spans = [each.span for each in hub.weights()]
    assert 1 < len(spans) <= 4
    hub.asked.clear()
    hub_model.forget()
    assert resolve("org/long").table == model.table
    assert hub.asked == []


def test_a_split_file(hub: Hub, tmp_path: Path) -> None:
    tensors = stored(SHAPES, "q8_0")
    half = len(tensors) // 2
    files: dict[str, File] = {}
    for number, part in enumerate((tensors[:half], tensors[half:])):
        more = {"split.no": number, "split.count": 2, "split.tensors.count": len(tensors)}
        head = header({**(METADATA if number == 0 else {}), **more}, part)
        files[f"Q8_0/small-Q8_0-0000{number + 1}-of-00002.gguf"] = Sparse(head, len(head) + data_bytes(part))
    hub.repositories["org/split"] = Repository(files)
    write(tmp_path, files)
    for model in (
        resolve("org/split"),
        resolve(str(tmp_path)),
        resolve(str(tmp_path / "Q8_0" / "small-Q8_0-00002-of-00002.gguf")),
    ):
        assert model.table is not None
        assert model.table.num_bytes == bytes_of("q8_0")
