"""vLLM: figures of published start-up logs, then laws that hold for every request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.errors import RequestError, VrameterError

GIB = 2**30
H100 = {"name": "h100-sxm-80gb", "capacity_bytes": 85_029_615_043}
"""The H100 of most logs: 79.19 GiB, of which 0.95 are 75.23."""
MODELS = ["llama-3.1-8b", "gemma-3-12b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt2"]


def serve(model: Any, **fields: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, "engine": "vllm", **fields})


def at_019(model: str, tensor: int = 1, pipeline: int = 1, length: int = 8192, **fields: Any) -> vrameter.Response:
    """Return the answer under what most logs were started with: release 0.19.0, utilization 0.95."""
    given_ = {"max_model_len": length, "gpu_memory_utilization": 0.95, **fields.pop("settings", {})}
    return serve(
        model, device=H100, num_devices=tensor * pipeline, parallelism={"tensor": tensor, "pipeline": pipeline},
        engine_version="0.19.0", settings=given_, **fields,
    )  # fmt: skip


def test_llama_31_8b_on_an_h100() -> None:
    """Printed: 14.99, 1.83, 0.25 and 58.1 GiB; 29,750 blocks; 476,000 tokens; 58.11 sequences of 8,192."""
    report = at_019("llama-3.1-8b")["report"]
    assert report["weights_bytes"] / GIB == pytest.approx(14.99, abs=0.005)
    assert report["non_torch_bytes"] / GIB == pytest.approx(0.25, abs=0.005)
    assert report["requested_bytes"] / GIB == pytest.approx(75.23, abs=0.005)
    assert report["kv_pool_bytes"] / GIB == pytest.approx(58.1, rel=0.001)
    assert report["kv_blocks"] == pytest.approx(29_750, abs=2)
    assert report["kv_tokens"] == report["kv_blocks"] * 16
    assert report["max_concurrency"] == pytest.approx(58.11, abs=0.02)
    assert report["max_concurrency_len"] == 8192
    assert report["kv_bytes_per_token"] == 131_072


@pytest.mark.parametrize(
    ("model", "tensor", "printed"),
    [
        ("llama-3.1-8b", 2, 7.51),
        ("llama-3.1-8b", 4, 3.77),
        ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", 1, 44.76),
        ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", 2, 22.8),
        ("google/gemma-3-27b-it", 4, 13.17),
        ("Qwen/Qwen2.5-7B-Instruct", 1, 14.25),
    ],
)
def test_weights_of_a_rank(model: str, tensor: int, printed: float) -> None:
    """Printed by 0.19.0: matrices split, norms and tables copied, the vocabulary padded, whole segments."""
    report = at_019(model, tensor)["report"]
    assert report["weights_bytes"] / GIB == pytest.approx(printed, rel=0.003)


def test_kinds_of_layers_share_blocks() -> None:
    """Gemma 3 27B: seven groups of ten layers; printed: 36,560 tokens of a pool of 19.5 GiB."""
    answer = at_019("google/gemma-3-27b-it")
    assert answer["kv_cache"]["num_groups"] == 7
    assert answer["kv_cache"]["block_bytes"] == 1_310_720
    assert answer["report"]["kv_tokens"] == pytest.approx(36_560, rel=0.002)


def test_pipeline_stages_hold_the_smallest_pool() -> None:
    """The stage with the head has the least room; its blocks count for all."""
    one, four = at_019("llama-3.1-8b"), at_019("llama-3.1-8b", pipeline=4)
    assert sum(device.get("count", 1) for device in four["devices"]) == 4
    assert four["report"]["kv_blocks"] > 4 * one["report"]["kv_blocks"]
    used = [device["peak"]["used_bytes"] for device in four["devices"]]
    assert used == sorted(used, reverse=True)


def test_a_stage_more_than_layers_is_refused() -> None:
    with pytest.raises(RequestError, match="33 stages"):
        at_019("llama-3.1-8b", pipeline=33)


def test_fp8_halves_a_token() -> None:
    full, half = at_019("llama-3.1-8b"), at_019("llama-3.1-8b", settings={"kv_cache_dtype": "fp8"})
    assert half["report"]["kv_bytes_per_token"] * 2 == full["report"]["kv_bytes_per_token"]
    assert half["report"]["kv_tokens"] // 2 == pytest.approx(full["report"]["kv_tokens"], abs=16)


def test_releases_differ() -> None:
    """0.20 asks for 0.92 and takes graphs out of the pool; 0.17 changed how logits are cut."""
    old = serve("llama-3.1-8b", device="h100", engine_version="0.19.1")["report"]
    new = serve("llama-3.1-8b", device="h100", engine_version="0.20.0")["report"]
    sorting = serve("llama-3.1-8b", device="h100", engine_version="0.16.0")["report"]
    assert new["requested_bytes"] * 90 == pytest.approx(old["requested_bytes"] * 92, rel=1e-9)
    grown = new["requested_bytes"] - old["requested_bytes"]
    assert new["kv_pool_bytes"] == old["kv_pool_bytes"] + grown - new["cuda_graph_estimated_bytes"]
    assert sorting["activation_bytes"] > 2 * old["activation_bytes"]


def test_no_graphs_when_eager() -> None:
    graphs, eager = (serve("llama-3.1-8b", device="h100", settings={"enforce_eager": on}) for on in (False, True))
    assert eager["report"]["kv_pool_bytes"] > graphs["report"]["kv_pool_bytes"]
    assert "cuda_graphs" not in {item["term"] for item in eager["devices"][0]["items"]}


def test_a_pool_of_a_given_size() -> None:
    report = serve(
        "llama-3.1-8b", device="rtx-4090", settings={"kv_cache_memory_bytes": 4 * GIB, "max_model_len": 1024}
    )
    assert report["kv_cache"]["pool_bytes"] == 4 * GIB
    assert report["kv_cache"]["tokens"] == 32768


def test_too_long_names_the_longest() -> None:
    """24 GiB hold 16 GiB of weights and some tens of thousands of tokens."""
    answer = serve("llama-3.1-8b", device="rtx-4090")
    longest = answer["limits"]["max_model_len"]
    assert answer["devices"][0]["fits"] is False
    assert f"{longest:,}" in answer["refused"]
    fitting = serve("llama-3.1-8b", device="rtx-4090", settings={"max_model_len": longest})
    assert "refused" not in fitting
    assert "refused" in serve("llama-3.1-8b", device="rtx-4090", settings={"max_model_len": longest + 16})
    assert (
        serve("llama-3.1-8b", device="rtx-4090", settings={"max_model_len": -1})["kv_cache"]["max_model_len"] == longest
    )


def test_no_room_for_any_block() -> None:
    answer = serve("llama-3.1-70b", device="h100")
    assert "no available memory for the cache blocks" in answer["refused"]
    assert answer["devices"][0]["fits"] is False


def test_most_sequences_are_of_full_length() -> None:
    answer = serve("llama-3.1-8b", device="h100", settings={"max_model_len": 8192})
    most = answer["limits"]["max_num_seqs"]
    assert (
        serve("llama-3.1-8b", device="h100", settings={"max_model_len": 8192, "max_num_seqs": most})["kv_cache"][
            "max_concurrency"
        ]
        >= most
    )
    assert (
        serve("llama-3.1-8b", device="h100", settings={"max_model_len": 8192, "max_num_seqs": most + 1})["kv_cache"][
            "max_concurrency"
        ]
        < most + 1
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"settings": {"kv_cache_dtype": "fp7"}}, "kv_cache_dtype"),
        ({"settings": {"gpu_memory_utilization": 1.2}}, "gpu_memory_utilization"),
        ({"settings": {"block_size": 7}}, "block_size"),
        ({"settings": {"max_num_batched_tokens": 16, "max_num_seqs": 64}}, "max_num_batched_tokens"),
        ({"parallelism": {"tensor": 3}, "num_devices": 3}, "tensor"),
        ({"parallelism": {"tensor": 2}, "num_devices": 2, "settings": {"decode_context_parallel_size": 2}}, "context"),
        ({"engine_version": "newest"}, "engine_version"),
        ({"settings": {"max_model_length": 5}}, "max_model_len"),
        ({"settings": {"tensor_parallel_size": 2}}, "parallelism.tensor"),
    ],
)
def test_what_is_never_legal(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(VrameterError) as found:
        serve("llama-3.1-8b", device="h100", **fields)
    assert said in str(found.value) + found.value.hint
    assert found.value.hint


def test_experts_over_all_ranks() -> None:
    """Data ranks copy attention and split experts, by width or, with expert parallelism, by number: the same bytes."""
    one = serve("qwen3-30b-a3b", device="h100")["report"]["weights_bytes"]
    tensor, data, whole = (
        serve("qwen3-30b-a3b", device="h100", num_devices=2, **fields)["report"]["weights_bytes"]
        for fields in (
            {"parallelism": {"tensor": 2}},
            {"parallelism": {"data": 2}},
            {"parallelism": {"data": 2}, "settings": {"enable_expert_parallel": True}},
        )
    )
    assert one // 2 < tensor < data < one
    assert data == pytest.approx(whole, rel=0.001)
    dense = serve("llama-3.1-8b", device="h100", num_devices=2, parallelism={"data": 2})
    assert dense["report"]["weights_bytes"] == serve("llama-3.1-8b", device="h100")["report"]["weights_bytes"]


def test_adapters_and_drafts_take_from_the_pool() -> None:
    plain = serve("llama-3.1-8b", device="h100")["report"]["kv_pool_bytes"]
    adapters = serve("llama-3.1-8b", device="h100", settings={"enable_lora": True, "max_loras": 4, "max_lora_rank": 64})
    draft = {"method": "draft_model", "model": "llama-3.2-1b", "num_speculative_tokens": 4}
    drafted = serve("llama-3.1-8b", device="h100", settings={"speculative_config": draft})
    assert adapters["report"]["kv_pool_bytes"] < plain
    assert drafted["report"]["kv_pool_bytes"] < plain - 2 * GIB
    assert drafted["report"]["kv_bytes_per_token"] == 131_072 + 2 * 16 * 8 * 64 * 2


def test_without_a_device_the_least_is_shown() -> None:
    answer = serve("llama-3.1-8b", settings={"max_model_len": 4096})
    cache = next(item for item in answer["devices"][0]["items"] if item["term"] == "kv_cache")
    assert cache["bytes"] == 4096 * 131_072
    assert "limits" not in answer


def test_latent_attention_is_not_split() -> None:
    one, two = (
        serve("deepseek-v2-lite", device="h100", num_devices=degree, parallelism={"tensor": degree})
        for degree in (1, 2)
    )
    assert one["report"]["kv_bytes_per_token"] == two["report"]["kv_bytes_per_token"] == 27 * 576 * 2


lengths = st.integers(min_value=512, max_value=32768)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(MODELS), lengths, lengths)
def test_more_tokens_never_need_less(model: str, first: int, second: int) -> None:
    less, more = sorted((first, second))
    limit = 1024 if model == "gpt2" else 40960
    small, large = (
        serve(model, device="h100", settings={"max_model_len": min(limit, length), "max_num_seqs": 32})["kv_cache"]
        for length in (less, more)
    )
    assert small["bytes_per_sequence"] <= large["bytes_per_sequence"]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(MODELS), st.integers(1, 64), st.sampled_from([2048, 4096, 16384]))
def test_the_requested_memory_is_what_its_parts_are(model: str, num_seqs: int, num_tokens: int) -> None:
    chosen = {"max_num_seqs": num_seqs, "max_num_batched_tokens": num_tokens, "max_model_len": 1024}
    report = serve(model, device="h100", settings=chosen)["report"]
    parts = ("kv_pool_bytes", "weights_bytes", "activation_bytes", "non_torch_bytes", "cuda_graph_estimated_bytes")
    assert sum(report[part] for part in parts) == report["requested_bytes"]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(MODELS), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 3]))
def test_splitting_never_needs_more_and_loses_nothing(model: str, tensor: int, pipeline: int) -> None:
    devices = tensor * pipeline
    try:
        split = serve(model, device="h100", num_devices=devices, parallelism={"tensor": tensor, "pipeline": pipeline})
    except RequestError:
        return
    whole, held = (
        [
            (item["values"]["tensors"], device.get("count", 1))
            for device in answer["devices"]
            for item in device["items"]
            if item["term"] == "weights"
        ]
        for answer in (serve(model, device="h100"), split)
    )
    assert max(size for size, _ in held) <= whole[0][0]
    assert sum(size * count for size, count in held) >= whole[0][0]


def test_latent_attention_over_the_releases() -> None:
    """DeepSeek-R1 over eight H200: heads of 256 first, then latent vectors; 0.7.1 to 0.7.3 keep products in fp8 too."""
    found = {
        version: serve(
            "deepseek-ai/DeepSeek-R1", device="h200", num_devices=8, parallelism={"tensor": 8}, engine_version=version
        )["report"]
        for version in ("0.6.6", "0.7.2", "0.8.5")
    }
    assert found["0.6.6"]["kv_bytes_per_token"] == 61 * 16 * 2 * 256 * 2
    assert found["0.7.2"]["kv_bytes_per_token"] == found["0.8.5"]["kv_bytes_per_token"] == 61 * 576 * 2
    assert found["0.7.2"]["block_size"] == 16
    assert found["0.8.5"]["block_size"] == 64
    products = 61 * 16 * (512 * (1536 + 7168) + 1536 * 64 * 2)
    assert found["0.7.2"]["weights_bytes"] - found["0.8.5"]["weights_bytes"] == products


def test_tables_of_three_axes_are_four_times_as_long() -> None:
    """Qwen2.5-VL 7B: printed 15.6271 GiB, 0.09 of it more positions than the model has."""
    report = serve("Qwen/Qwen2.5-VL-7B-Instruct", engine_version="0.11.0")["report"]
    assert report["weights_bytes"] / GIB == pytest.approx(15.6271, rel=0.0005)
