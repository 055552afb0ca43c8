"""Which engine answers where the request names none."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from vrameter.engines import ENGINES, choice
from vrameter.sources import resolve
from vrameter.spec import parse

MLX = {"group_size": 64, "bits": 4}
EXL = {"quant_method": "exl3", "bits": 4.0}


def named(**fields: Any) -> str:
    request = parse({"model": "llama-3.1-8b", **fields})
    device = None
    if fields.get("device"):
        from vrameter.devices import find

        device = find(fields["device"])
    return choice.default_engine(request, resolve(fields.get("model", "llama-3.1-8b")).architecture, device)


def config(quantization: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 704,
            "num_attention_heads": 8, "num_hidden_layers": 2, "vocab_size": 512, "quantization_config": quantization,
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "transformers"),
        ({"quantization": "awq"}, "transformers"),
        ({"quantization": "mlx-4bit"}, "mlx"),
        ({"quantization": "mlx-4bit", "settings": {"kv_bits": 8}}, "mlx"),
        ({"quantization": "mlx-4bit", "settings": {"num_beams": 2}}, "transformers"),
        ({"quantization": "exl2-4.0bpw"}, "exllama"),
        ({"quantization": "4.65bpw", "settings": {"max_seq_len": 4096}}, "exllama"),
        ({"model": config(MLX)}, "mlx"),
        ({"model": config(EXL)}, "exllama"),
        ({"device": "m3-max-64gb"}, "transformers"),
        ({"task": "training"}, "transformers"),
        ({"quantization": "q4_k_m"}, "llama.cpp"),
        ({"quantization": "q4_k_m", "settings": {"n_ctx": 4096}}, "llama.cpp"),
        ({"quantization": "q4_k_m", "settings": {"context_length": 4096}}, "transformers"),
        ({"quantization": "q4_k_m", "model": "t5-base"}, "transformers"),
    ],
)
def test_the_format_decides(fields: dict[str, Any], expected: str) -> None:
    assert named(**fields) == expected


def test_files_decide_where_no_format_is_asked() -> None:
    architecture = resolve("llama-3.1-8b").architecture
    request = parse({"model": "llama-3.1-8b"})
    assert choice.default_engine(request, architecture, files="gguf", source="gguf") == "llama.cpp"
    assert choice.default_engine(request, architecture, files="gguf", source="ollama") == "ollama"
    assert choice.default_engine(request, architecture, files="safetensors", source="hub") == "transformers"


def test_an_engine_that_is_not_modelled_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ENGINES, "mlx")
    assert named(quantization="mlx-4bit") == "transformers"


def test_the_answer_names_it() -> None:
    assert vrameter.estimate({"model": "llama-3.1-8b"})["request"]["engine"] == "transformers"
    assert vrameter.estimate({"model": "llama-3.1-8b", "quantization": "mlx-4bit"})["request"]["engine"] == "mlx"
    assert vrameter.estimate({"model": "8.8B"})["request"]["engine"] == "transformers"
