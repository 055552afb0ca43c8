"""Sizes that were published or printed, which the formulas have to give: caches, tokens of a pool, weights and counts."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter import estimate
from vrameter.sources import catalogue

GIB, MIB = 2**30, 2**20


def cache(model: str, engine: str, quantization: str | None = None, **settings: Any) -> int:
    request = {"model": model, "engine": engine, "settings": settings}
    answer = estimate(request | ({"quantization": quantization} if quantization else {}))
    return sum(item["bytes"] for item in answer["devices"][0]["items"] if item["term"] == "kv_cache")


@pytest.mark.parametrize(
    ("model", "tokens", "published"),
    [("deepseek-ai/DeepSeek-V3.1", 163_840, 10.72), ("moonshotai/Kimi-K2-Instruct-0905", 262_144, 17.16)],
)
def test_latent_caches_are_what_cards_print(model: str, tokens: int, published: float) -> None:
    assert cache(model, "transformers", context_length=tokens) / GIB == pytest.approx(published, abs=0.01)


def test_caches_of_llama_cpp_are_what_it_prints() -> None:
    quantised = {"cache_type_k": "q8_0", "cache_type_v": "q8_0", "flash_attn": True}
    # llama.cpp #11200: 64 layers, 8 heads of 128; LLamaSharp #1099
    assert cache("Qwen/Qwen2.5-32B-Instruct", "llama.cpp", "q4_k_m", n_ctx=32_768, **quantised) == 4352 * MIB
    assert cache("Qwen/Qwen2.5-3B-Instruct", "llama.cpp", "q4_k_m", n_ctx=4096) == 144 * MIB


def test_a_rank_of_four_holds_what_two_servers_print() -> None:
    answer = estimate(
        {
            "model": "Qwen/Qwen3-235B-A22B",
            "engine": "sglang",
            "device": "4xh200",
            "parallelism": {"tensor": 4},
        }
    )
    per_token = answer["report"]["kv_bytes_per_token"]
    # SGLang (vLLM #21348): 367,404 tokens, keys 8.23 GiB and values 8.23 GiB
    assert 367_404 * per_token / 2 / GIB == pytest.approx(8.23, abs=0.005)
    # vLLM, the same model: 8.11 GiB hold 178,880 tokens
    assert 8.11 * GIB / per_token == pytest.approx(178_880, rel=0.015)


def test_counts_and_files_of_mixtures() -> None:
    count = {name: catalogue.find(name).architecture().num_params for name in ("moonshotai/Kimi-K2-Instruct",
             "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2")}  # fmt: skip
    assert count["moonshotai/Kimi-K2-Instruct"] == 1_026_408_209_408
    # 61 indexers of 13,959,424
    assert count["deepseek-ai/DeepSeek-V3.2"] - count["deepseek-ai/DeepSeek-V3"] == 61 * 13_959_424
    weights = [estimate({"model": f"openai/gpt-oss-{size}"})["report"]["weights_bytes"] for size in ("20b", "120b")]
    assert weights == [13_761_264_768, 65_248_815_744]


def test_the_rule_of_thumb_of_8_8_billion_in_fp32() -> None:
    """35.2 GB of weights; 45.8 and 52.8 for inference; 105.6 for training, told as about 106 and more."""
    sizes = estimate({"model": "8.8B", "dtype": "fp32"})["rule_of_thumb"]["gb"]
    assert [sizes[name] for name in ("weights", "inference_low", "inference_high", "training")] == pytest.approx(
        [35.2, 45.76, 52.8, 105.6]
    )


def test_concurrency_that_vllm_prints() -> None:
    """VLLM PR 12569: 1381 blocks of 16 tokens serve 10.79 sequences of 2048."""
    settings = {"num_gpu_blocks_override": 1381, "max_model_len": 2048}
    cache = estimate({"model": "llama-3.1-8b", "engine": "vllm", "device": "h100", "settings": settings})["kv_cache"]
    assert (cache["blocks"], cache["tokens"], cache["max_concurrency"]) == (1381, 22_096, 10.79)
