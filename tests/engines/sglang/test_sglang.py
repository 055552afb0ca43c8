"""SGLang: pools of published start-up logs, defaults by device, then laws."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.engines.sglang import pools
from vrameter.errors import VrameterError

GIB = 2**30


def serve(model: Any, **fields: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, "engine": "sglang", **fields})


def test_a_fixed_number_of_tokens() -> None:
    """Qwen2.5 0.5B, 20,480 tokens: printed 0.98 GiB of weights, and two pools of 0.12 GiB."""
    report = serve("Qwen/Qwen2.5-0.5B-Instruct", settings={"max_total_tokens": 20480})["report"]
    assert report["weights_bytes"] / GIB == pytest.approx(0.98, rel=0.02)
    assert report["kv_pool_bytes"] / GIB == pytest.approx(0.24, abs=0.01)
    assert report["kv_tokens"] == 20480


def test_a_24_gb_card() -> None:
    """DeepSeek-R1-Distill-Qwen-7B on an RTX 3090 at 0.88: printed 5.64 GiB; fused buffers may take some of it."""
    chosen = {"mem_fraction_static": 0.88, "chunked_prefill_size": 2048}
    report = serve("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", device="rtx-3090", settings=chosen)["report"]
    assert report["weights_bytes"] / GIB == pytest.approx(14.39, rel=0.005)
    assert report["kv_pool_bytes"] / GIB == pytest.approx(5.64, rel=0.1)


@pytest.mark.parametrize(
    ("memory", "tensor", "expected"),
    [
        (15360, 1, (2048, 8)),
        (24564, 1, (4096, 48)),
        (46068, 8, (4096, 160)),
        (81559, 1, (8192, 256)),
        (183359, 1, (16384, 512)),
    ],
)
def test_defaults_by_device(memory: int, tensor: int, expected: tuple[int, int]) -> None:
    assert pools.defaults(memory, tensor) == expected


def test_states_share_with_keys_and_values() -> None:
    """Nine parts of nineteen are for states; one slot is padding."""
    slots = pools.state_slots(rest=19 * GIB, ratio_thousandths=900, slot_bytes=75 * 2**20)
    pool = pools.state_pool_bytes(num_slots=slots, slot_bytes=75 * 2**20)
    assert pool <= 19 * GIB * 900 // 1900 < pool + 75 * 2**20


def test_windows_keep_a_share_of_the_tokens() -> None:
    """A window's layers keep four fifths of the tokens; without pools of their own they keep all."""
    own = serve("google/gemma-3-12b-it", device="h100")
    all_ = serve("google/gemma-3-12b-it", device="h100", settings={"disable_hybrid_swa_memory": True})
    assert own["kv_cache"]["window_bytes_per_token"] > 0
    assert all_["kv_cache"]["window_bytes_per_token"] == 0
    assert own["report"]["kv_tokens"] > all_["report"]["kv_tokens"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"settings": {"kv_cache_dtype": "fp7"}}, "kv_cache_dtype"),
        ({"settings": {"mem_fraction_static": 1.5}}, "mem_fraction_static"),
        ({"settings": {"context_length": 200_000}}, "131072"),
        ({"parallelism": {"tensor": 3}, "num_devices": 3}, "divisible"),
    ],
)
def test_what_is_never_legal(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(VrameterError) as found:
        serve("llama-3.1-8b", device="h100", **fields)
    assert said in str(found.value) + found.value.hint


def test_weights_beyond_the_share() -> None:
    answer = serve("llama-3.1-8b", device="rtx-4090", settings={"mem_fraction_static": 0.5})
    assert "mem_fraction_static" in answer["refused"]
    assert "more devices" in serve("llama-3.1-70b", device="h100")["refused"]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["llama-3.1-8b", "gemma-3-12b", "deepseek-v2-lite"]), st.integers(50, 94), st.integers(1, 64))
def test_pools_stay_within_the_share(model: str, percent: int, page: int) -> None:
    answer = serve(model, device="h100", settings={"mem_fraction_static": percent / 100, "page_size": page})
    report = answer["report"]
    capacity = answer["devices"][0]["capacity_bytes"]
    assert report["kv_pool_bytes"] + report["weights_bytes"] <= capacity * percent // 100
    assert report["kv_tokens"] % page == 0
    assert report["max_concurrency"] == pytest.approx(report["kv_tokens"] / report["max_concurrency_len"], abs=0.006)
