"""Inference with MLX: known answers, then laws."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.errors import RequestError

GIB = 2**30


def ask(model: str = "llama-3.1-8b", **fields: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, "engine": "mlx", **fields})


def cache(response: vrameter.Response, phase: str = "decode") -> int:
    return sum(
        item["bytes"]
        for item in response["devices"][0]["items"]
        if item["term"] == "kv_cache" and phase in item["phases"]
    )


def test_llama_31_8b_in_4_bits() -> None:
    """4.5 bits of every matrix, the token table and the head included: 4.52 GB."""
    answer = ask(quantization="mlx-4bit", device="m3-max-64gb")
    matrices = 8_030_261_248 - 65 * 4096
    assert answer["report"]["weights_bytes"] == matrices * 9 // 16 + 65 * 4096 * 2
    assert cache(answer) == GIB
    assert answer["devices"][0]["confidence"] == "surely"


def test_caches_grow_by_256_tokens() -> None:
    assert cache(ask(settings={"context_length": 1025})) == 131_072 * 1280


def test_a_rotating_cache_keeps_its_size_and_one_piece_of_the_prompt() -> None:
    answer = ask(settings={"context_length": 32768, "max_kv_size": 4096})
    assert cache(answer) == 131_072 * 4096
    assert cache(answer, "prefill") == 131_072 * (4096 + 2047)


def test_a_quantised_cache_has_scales_and_biases_of_16_bits() -> None:
    answer = ask(settings={"context_length": 8192, "kv_bits": 8})
    assert cache(answer) == 8192 * 131_072 * (8 + 32 / 64) / 16
    short = ask(settings={"context_length": 4096, "kv_bits": 8})
    assert cache(short) == 4096 * 131_072, "not quantised before quantized_kv_start"


def test_windows_are_not_quantised() -> None:
    with pytest.raises(RequestError, match="rotating"):
        ask("gemma-2-9b", settings={"kv_bits": 4})
    assert any("max_kv_size" in text for text in ask("gemma-2-9b", settings={"max_kv_size": 512})["warnings"])


def test_one_device() -> None:
    with pytest.raises(RequestError, match="one device"):
        ask(device="m3-max-64gb", num_devices=2)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["llama-3.1-8b", "gemma-2-9b", "deepseek-v2-lite", "qwen3-30b-a3b"]),
    st.integers(16, 20000), st.integers(1, 8), st.sampled_from([None, 512, 4096]),
)  # fmt: skip
def test_more_never_needs_less(model: str, tokens: int, batch: int, size: int | None) -> None:
    def used(**changed: int) -> int:
        asked = {"context_length": tokens, "batch_size": batch, "max_kv_size": size} | changed
        return int(ask(model, settings=asked)["devices"][0]["peak"]["used_bytes"])

    base = used()
    assert used(context_length=tokens + 300) >= base
    assert used(batch_size=batch + 1) >= base


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["m3-max-64gb", "16GiB", "8GiB"]),
    st.integers(1, 3),
    st.sampled_from(["mlx-4bit", "mlx-8bit", None]),
)
def test_what_fits_at_most_fits_and_one_more_does_not(device: str, batch: int, quantization: str | None) -> None:
    asked = {"context_length": 2048, "batch_size": batch}
    answer = ask(quantization=quantization, device=device, settings=asked)
    for name, most in answer["limits"].items():
        for value, fits in ((most, True), (most + 1, False)):
            if value < 1 or (name == "context_length" and value > 131072):
                continue
            found = ask(quantization=quantization, device=device, settings={**asked, name: value})
            assert found["devices"][0]["fits"] is fits, (name, value)
