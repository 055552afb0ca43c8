"""Inference with transformers: known answers, then laws that hold for every request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter

GIB = 2**30
MODELS = ["llama-3.1-8b", "gemma-2-9b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt2", "t5-base", "bert-base-uncased"]


def ask(model: Any, **fields: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, **fields})


def terms(response: vrameter.Response, phase: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in response["devices"][0]["items"]:
        if phase in item["phases"]:
            found[item["term"]] = found.get(item["term"], 0) + item["bytes"]
    return found


def test_llama_31_8b_on_a_24_gb_card() -> None:
    answer = ask("llama-3.1-8b", device="rtx-4090")
    prefill = terms(answer, "prefill")
    assert prefill["weights"] == 16_060_522_496
    assert prefill["kv_cache"] == GIB
    assert prefill["activations"] == 8192 * (2 * (4 * 4096 + 3 * 14336) + 4 * 128 + 8)
    assert prefill["logits"] == 128256 * 6
    assert answer["devices"][0]["fits"] is True
    assert answer["devices"][0]["confidence"] == "surely"
    assert answer["kv_cache"]["bytes_per_token"] == 131_072


def test_eager_attention_of_a_long_prompt() -> None:
    """4,096 tokens: 5 GiB of scores for one layer of 32 heads."""
    answer = ask("llama-3.1-8b", settings={"attn_implementation": "eager", "context_length": 4096})
    assert terms(answer, "prefill")["temporary"] / GIB == pytest.approx(5.03, abs=0.01)


def test_all_logits_of_a_prompt() -> None:
    few = ask("llama-3.1-8b", settings={"context_length": 4096})
    every = ask("llama-3.1-8b", settings={"context_length": 4096, "logits_to_keep": 0})
    assert terms(few, "prefill")["logits"] == 128256 * (2 + 4)
    assert terms(every, "prefill")["logits"] == 128256 * (4096 * 2 + 4)


def test_beams_multiply_the_cache() -> None:
    one = ask("llama-3.1-8b", settings={"context_length": 1024, "max_new_tokens": 64})
    four = ask("llama-3.1-8b", settings={"context_length": 1024, "max_new_tokens": 64, "num_beams": 4})
    assert terms(four, "decode")["kv_cache"] == 4 * terms(one, "decode")["kv_cache"]


def test_an_encoder_keeps_no_cache() -> None:
    answer = ask("bert-base-uncased", settings={"batch_size": 16, "context_length": 512})
    assert "kv_cache" not in answer
    assert {item["term"] for item in answer["devices"][0]["items"]}.isdisjoint({"kv_cache", "logits"})


def test_tensor_parallelism_halves_and_replicates() -> None:
    """Eight KV heads over two devices halve the cache; over sixteen they are copied, not split."""
    one = ask("llama-3.1-70b", device="h100", parallelism={"tensor": 2})
    many = ask("llama-3.1-70b", device="h100", parallelism={"tensor": 16})
    assert one["kv_cache"]["bytes_per_token"] == 163_840
    assert many["kv_cache"]["bytes_per_token"] == 40_960


def test_a_split_by_layers_is_as_large_as_its_fullest_device() -> None:
    whole = ask("llama-3.1-70b", device="h200")
    half = ask("llama-3.1-70b", device="2xh200")
    share = terms(half, "prefill")["weights"] / terms(whole, "prefill")["weights"]
    assert 0.49 <= share < 0.53


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.integers(16, 4096),
    st.integers(1, 8),
    st.sampled_from([None, "awq", "bnb-nf4", "q4_k_m"]),
)
def test_more_never_needs_less(model: str, tokens: int, batch: int, quantization: str | None) -> None:
    def used(**settings_: int) -> int:
        answer = ask(model, quantization=quantization, settings=settings_)
        return int(answer["devices"][0]["peak"]["used_bytes"])

    base = used(context_length=tokens, batch_size=batch)
    assert used(context_length=tokens + 64, batch_size=batch) >= base
    assert used(context_length=tokens, batch_size=batch + 1) >= base


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODELS[:4]), st.integers(1, 5), st.sampled_from(["rtx-4090", "h100", "24GiB", "t4"]))
def test_splitting_never_needs_more_per_device(model: str, power: int, device: str) -> None:
    one = ask(model, device=device)["devices"][0]
    several = ask(model, device=device, num_devices=2**power)["devices"][0]
    assert several["peak"]["used_bytes"] <= one["peak"]["used_bytes"]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(MODELS), st.integers(1, 200), st.sampled_from([None, "fp16", "fp32"]), st.integers(1, 4096))
def test_the_verdict_agrees_with_its_numbers(model: str, capacity: int, dtype: str | None, tokens: int) -> None:
    device = {"name": "mine", "capacity_bytes": capacity * GIB // 4}
    entry = ask(model, device=device, dtype=dtype, settings={"context_length": tokens})["devices"][0]
    peak = entry["peak"]
    assert entry["headroom_bytes"] == entry["budget_bytes"] - peak["used_bytes"]
    assert entry["fits"] == (entry["headroom_bytes"] >= 0)
    assert peak["low_bytes"] <= peak["used_bytes"] <= peak["high_bytes"]
    assert peak["allocated_bytes"] <= peak["reserved_bytes"] <= peak["used_bytes"]
    alive = sum(item["bytes"] for item in entry["items"] if peak["phase"] in item["phases"])
    assert alive == peak["used_bytes"]


def test_int4_of_a_mixture_counts_every_expert() -> None:
    """What a model must hold are all its parameters, not those that one token uses."""
    answer = ask("qwen3-235b-a22b", quantization="awq")
    assert answer["report"]["weights_bytes"] > 0.5 * answer["model"]["num_params"]
    assert answer["model"]["num_active_params"] < answer["model"]["num_params"] / 10


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.sampled_from(["rtx-4090", "t4", "2xl4", "h100"]),
    st.integers(1, 4),
    st.integers(32, 2048),
)
def test_what_fits_at_most_fits_and_one_more_does_not(model: str, device: str, batch: int, tokens: int) -> None:
    asked = {"batch_size": batch, "context_length": tokens}
    answer = ask(model, device=device, settings=asked)

    def fits(**changed: int) -> bool:
        return bool(ask(model, device=device, settings={**asked, **changed})["devices"][0]["fits"])

    own = answer["model"]["max_seq_len"]
    for name, most in answer["limits"].items():
        if most:
            assert fits(**{name: most}), (name, most)
        if name != "context_length" or most < (own or 2**30):
            assert not fits(**{name: most + 1}), (name, most)


def test_a_long_context_is_bounded_by_the_models_own() -> None:
    assert ask("bert-base-uncased", device="h100")["limits"]["context_length"] == 512
    assert ask("llama-3.1-8b", device="h200")["limits"]["context_length"] == 131072


def test_devices_of_a_split_are_listed_the_fullest_first() -> None:
    answer = ask("llama-3.1-70b", device="3xa100")
    used = [entry["peak"]["used_bytes"] for entry in answer["devices"]]
    assert used == sorted(used, reverse=True)
    assert sum(entry.get("count", 1) for entry in answer["devices"]) == 3
    weights = sum(
        entry.get("count", 1) * sum(item["bytes"] for item in entry["items"] if item["term"] == "weights")
        for entry in answer["devices"]
    )
    assert weights == ask("llama-3.1-70b")["report"]["weights_bytes"]
