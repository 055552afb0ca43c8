"""Ollama: its defaults by memory, and llama.cpp below."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter


def ask(model: str = "llama-3.1-8b", **fields: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, "quantization": "q4_k_m", "engine": "ollama", **fields})


@pytest.mark.parametrize(
    ("device", "tokens", "batch"),
    [(None, 4096, 512), ("rtx-3060", 4096, 512), ("rtx-4090", 32_768, 1024), ("h100", 131_072, 2048)],
)
def test_context_and_batch_by_memory(device: str | None, tokens: int, batch: int) -> None:
    request = ask(**({"device": device} if device else {}))["request"]
    assert request["settings"]["num_ctx"] == tokens
    assert request["settings"]["num_batch"] == batch


def test_below_it_is_llama_cpp() -> None:
    own = ask(settings={"num_ctx": 8192, "num_batch": 512, "OLLAMA_NUM_PARALLEL": 2})["report"]
    below = vrameter.estimate(
        {
            "model": "llama-3.1-8b", "quantization": "q4_k_m", "engine": "llama.cpp",
            "settings": {"n_ctx": 16_384, "n_parallel": 2, "kv_unified": False, "n_batch": 512, "n_ubatch": 512},
        }
    )["report"]  # fmt: skip
    assert own["buffers"] == below["buffers"]


def test_one_gpu_takes_what_fits_on_it() -> None:
    alone = ask(device="2xrtx-4090", settings={"num_ctx": 8192})
    spread = ask(device="2xrtx-4090", settings={"num_ctx": 8192, "OLLAMA_SCHED_SPREAD": True})
    assert [entry["name"] for entry in alone["devices"]] == ["rtx-4090", "host"]
    assert [entry["name"] for entry in spread["devices"]] == ["rtx-4090", "rtx-4090", "host"]


def test_overhead_is_left_alone() -> None:
    plain, less = (
        ask(device="rtx-4090", settings={"num_ctx": 8192, "OLLAMA_GPU_OVERHEAD": size})["devices"][0]["headroom_bytes"]
        for size in (0, 2**30)
    )
    assert plain - less == 2**30


def test_recurrent_models_serve_one_sequence() -> None:
    response = ask("Qwen/Qwen3.5-9B", settings={"num_ctx": 4096, "OLLAMA_NUM_PARALLEL": 4})
    assert response["kv_cache"]["max_concurrency"] == 1.0
