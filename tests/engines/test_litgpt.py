"""LitGPT's generation: published peaks, then laws."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from vrameter.errors import RequestError


def ask(model: str = "llama-2-7b", **fields: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, "engine": "litgpt", **fields})


@pytest.mark.parametrize(
    ("model", "quantization", "peak"),
    [
        ("microsoft/phi-1_5", None, 2.86e9),
        ("microsoft/phi-1_5", "bnb-nf4", 1.39e9),
        ("llama-2-7b", None, 13.52e9),
        ("llama-2-7b", "bnb-nf4", 4.57e9),
        ("llama-2-70b", "bnb-nf4-dq", 37.21e9),
        ("tiiuae/falcon-40b", "bnb-nf4-dq", 24.63e9),
    ],
)
def test_the_resource_table(model: str, quantization: str | None, peak: float) -> None:
    """LitGPT, tutorials/resource-tables.md: 50 tokens after a short prompt on an A100 40GB."""
    settings = {"context_length": 64, "max_new_tokens": 50}
    answer = ask(model, quantization=quantization, dtype="bf16", device="a100-sxm-40gb", settings=settings)
    assert answer["report"]["peak_allocated_bytes"] == pytest.approx(peak, rel=0.006)


def test_everything_is_allocated_before_the_first_pass() -> None:
    items = ask(settings={"context_length": 1000})["devices"][0]["items"]
    cache = next(item for item in items if item["term"] == "kv_cache")
    assert cache["phases"] == ["load", "prefill", "decode"]
    assert cache["bytes"] == 1000 * 32 * 2 * 4096 * 2
    assert any(item["term"] == "temporary" and item["bytes"] == 1000**2 for item in items)


def test_the_head_is_packed_and_unpacked_through_fp16() -> None:
    half, brain = (
        max(
            item["bytes"]
            for item in ask(quantization="bnb-nf4", dtype=dtype)["devices"][0]["items"]
            if item["term"] == "temporary" and "num_params" in item["values"] and item["phases"] == ["prefill"]
        )
        for dtype in ("fp16", "bf16")
    )
    assert half == 32_000 * 4096 * 2
    assert brain == 2 * half


def test_a_tied_table_stands_twice() -> None:
    tied = ask("qwen2.5-0.5b")["report"]["weights_bytes"]
    shared = vrameter.estimate({"model": "qwen2.5-0.5b"})["report"]["weights_bytes"]
    assert tied - shared == 151_936 * 896 * 2


def test_old_cards_compute_in_fp16() -> None:
    assert ask(device="t4-16gb")["request"]["dtype"] == "fp16"
    assert ask(device="a100-sxm-40gb")["request"]["dtype"] == "bf16"


def test_limits_fit_and_one_more_does_not() -> None:
    answer = ask(device="rtx-4090", settings={"context_length": 2048})
    most = answer["limits"]["batch_size"]
    room = [
        ask(device="rtx-4090", settings={"context_length": 2048, "batch_size": count})["devices"][0]["headroom_bytes"]
        for count in (most, most + 1)
    ]
    assert room[0] >= 0 > room[1]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"num_devices": 2}, "num_devices"),
        ({"quantization": "awq"}, "quantization"),
        ({"model": "google-t5/t5-small"}, "engine"),
        ({"model": "google-bert/bert-base-uncased"}, "engine"),
        ({"settings": {"context_length": 40, "max_new_tokens": 40}}, "settings.max_new_tokens"),
    ],
)
def test_what_litgpt_does_not_run_is_told(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        ask(**fields)
    assert caught.value.field == field
    assert caught.value.hint
