"""Models of a local Ollama store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.gguf_files import stored, write
from tests.gguf_models import llama, mmproj
from tests.sources.test_gguf import full

import vrameter
from vrameter.errors import RequestError, SourceError, UnknownNameError
from vrameter.sources import resolve
from vrameter.sources.ollama import parts_of

MODEL = llama(layers=2, hidden=256, width=512, heads=4, kv=2, vocab=1000)


class Store:
    """A store in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(self, path: Path) -> str:
        """Move a file into the store and return its digest."""
        digest = hashlib.sha256(path.name.encode()).hexdigest()
        path.rename(self.root / "blobs" / f"sha256-{digest}")
        return f"sha256:{digest}"

    def add(self, name: str, *layers: tuple[str, str]) -> None:
        """Write a manifest: ``host/namespace/model/tag`` and its layers by kind and digest."""
        file = self.root / "manifests" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        listed = [
            {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": 1}
            for kind, digest in layers
        ]
        file.write_text(json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:0"}, "layers": listed}))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path / "models")
    monkeypatch.setenv("OLLAMA_MODELS", str(made.root))
    weights = write(tmp_path / "weights", full(MODEL), stored(MODEL[2], "q8_0"))
    settings = tmp_path / "params"
    settings.write_text(json.dumps({"num_ctx": 16384, "stop": ["<|eot|>"], "temperature": 0.6}))
    template = tmp_path / "template"
    template.write_text("{{ .Prompt }}")
    layers = [("model", made.blob(weights)), ("template", made.blob(template)), ("params", made.blob(settings))]
    made.add("registry.ollama.ai/library/small/latest", *layers)
    made.add("registry.ollama.ai/library/small/8b", *layers)
    made.add("hf.co/someone/Small-GGUF/Q8_0", *layers)
    clip = write(tmp_path / "clip", {"general.architecture": "clip", **mmproj()[1]}, stored(mmproj()[2]))
    made.add("registry.ollama.ai/library/seeing/latest", layers[0], ("projector", made.blob(clip)))
    lora = write(
        tmp_path / "lora", {"general.type": "adapter"}, stored({"blk.0.attn_q.weight.lora_a": (8, 256)}, "f32")
    )
    made.add("registry.ollama.ai/someone/tuned/latest", layers[0], ("adapter", made.blob(lora)))
    return made


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("ollama:small", "small:latest"), ("ollama:small:8b", "small:8b"),
        ("ollama:hf.co/someone/Small-GGUF:Q8_0", "hf.co/someone/Small-GGUF:Q8_0"),
    ],
)  # fmt: skip
def test_names(store: Store, reference: str, name: str) -> None:
    """Short and long names; the model's own parameters that matter are told."""
    found = resolve(reference)
    assert found.name == name
    assert found.source == "ollama"
    assert found.table is not None
    assert found.table.num_bytes == sum(tensor.num_bytes for tensor in stored(MODEL[2], "q8_0"))
    assert any("num_ctx = 16384" in note for note in found.notes)
    assert not any("temperature" in note for note in found.notes)


def test_projectors_and_adapters_count(store: Store) -> None:
    """What lies beside the model is part of it."""

    def weights(model: str) -> int:
        answer = vrameter.estimate({"model": model, "engine": "transformers"})
        return int(answer["report"]["weights_bytes"])

    alone = weights("ollama:small")
    seeing = weights("ollama:seeing")
    assert seeing - alone == sum(tensor.num_bytes for tensor in stored(mmproj()[2]))
    tuned = weights("ollama:someone/tuned")
    assert tuned - alone == 8 * 256 * 4


def test_unknown_names(store: Store) -> None:
    """The nearest names of the store are offered."""
    with pytest.raises(UnknownNameError) as caught:
        resolve("ollama:smal:latest")
    assert "small:latest" in str(caught.value.hint)
    with pytest.raises(UnknownNameError):
        resolve("ollama:small:70b")


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a/b/c/d/e", "a:b:c", "x/..", "small:..", "a b"])
def test_names_that_are_none(store: Store, name: str) -> None:
    """No name leads out of the store."""
    with pytest.raises(RequestError):
        resolve(f"ollama:{name}")


def test_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none the message says where it was looked for."""
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="nowhere"):
        resolve("ollama:small")


@pytest.mark.parametrize(
    "layers",
    [[], [("template", "sha256:" + "0" * 64)], [("model", "sha256:../../x")], [("model", "sha256:" + "0" * 64)]],
)
def test_damaged_manifests(store: Store, layers: list[Any]) -> None:
    """A manifest without weights, with a digest that is none, or whose file is gone."""
    store.add("registry.ollama.ai/library/bad/latest", *layers)
    with pytest.raises(SourceError):
        resolve("ollama:bad")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"layers": 3}', '{"layers": [{"mediaType": "x"}]}', "[" * 100000])
def test_manifests_that_are_none(store: Store, text: str) -> None:
    """Bytes of no meaning where a manifest should be."""
    file = store.root / "manifests/registry.ollama.ai/library/bad/latest"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(SourceError):
        resolve("ollama:bad")


def test_parts_of_names() -> None:
    """Registry, namespace, model and tag, each with its default."""
    assert parts_of("a") == ("registry.ollama.ai", "library", "a", "latest")
    assert parts_of("b/a:x") == ("registry.ollama.ai", "b", "a", "x")
    assert parts_of("localhost:5000/b/a:x") == ("localhost:5000", "b", "a", "x")
    assert parts_of("localhost:5000/b/a") == ("localhost:5000", "b", "a", "latest")
