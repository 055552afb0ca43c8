"""TensorRT-LLM and TGI: documented shares, and laws."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from vrameter.errors import VrameterError

ENGINES = ("tensorrt-llm", "tgi")


def serve(engine: str, model: str = "llama-3.1-8b", **fields: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, "engine": engine, **fields})


def test_a_share_of_what_is_free() -> None:
    """TensorRT-LLM: the pool grows in proportion to free_gpu_memory_fraction, in blocks of 32 tokens."""
    nine, half = (
        serve("tensorrt-llm", device="h100", settings={"free_gpu_memory_fraction": share})["report"]
        for share in (0.9, 0.45)
    )
    block = 32 * 131_072
    assert nine["kv_pool_bytes"] == pytest.approx(2 * half["kv_pool_bytes"], abs=2 * block)
    assert nine["kv_pool_bytes"] % block == 0
    assert nine["block_size"] == 32


def test_tokens_cap_the_pool() -> None:
    answer = serve("tensorrt-llm", device="h100", settings={"max_tokens": 10_000, "max_seq_len": 4096})
    assert answer["report"]["kv_tokens"] == 10_016


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_known_is_an_interval(engine: str) -> None:
    items = {item["term"]: item for item in serve(engine, device="h100")["devices"][0]["items"]}
    assert items["activations"]["basis"] == "assumed"
    assert items["activations"]["low_bytes"] < items["activations"]["bytes"] < items["activations"]["high_bytes"]


@pytest.mark.parametrize("engine", ENGINES)
def test_splitting_never_needs_more(engine: str) -> None:
    one, two = (
        serve(engine, device="h100", num_devices=degree, parallelism={"tensor": degree})["report"] for degree in (1, 2)
    )
    assert two["weights_bytes"] < one["weights_bytes"] <= 2 * two["weights_bytes"]
    assert two["kv_bytes_per_token"] * 2 == one["kv_bytes_per_token"]
    assert two["kv_tokens"] > 2 * one["kv_tokens"]


@pytest.mark.parametrize("engine", ENGINES)
def test_too_large_is_refused(engine: str) -> None:
    answer = serve(engine, "llama-3.1-70b", device="h100")
    assert answer["refused"]
    assert answer["devices"][0]["fits"] is False


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unknown_cache(engine: str) -> None:
    with pytest.raises(VrameterError, match="kv_cache_dtype"):
        serve(engine, settings={"kv_cache_dtype": "fp7"})
