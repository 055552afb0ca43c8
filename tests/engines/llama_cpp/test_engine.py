"""llama.cpp: buffers that the program itself planned, what it refuses, and laws that hold for every request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.engines_llamacpp import CASES, pairs, read
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter
from tests.gguf_files import stored, write
from tests.gguf_models import llama
from vrameter.engines.llama_cpp.placement import layer_devices
from vrameter.errors import RequestError

# Planned by llama.cpp at 0c1e57098; one of each kind.
GOLDEN = {
    "oracle-llama-3.1-8b-q4_k_m-40cd10e6": "one GPU, flash attention",
    "oracle-qwen2.5-7b-instruct-f16-0a0af7f7": "no flash attention",
    "oracle-llama-3.3-70b-instruct-q4_k_m-7eee3dd8": "four GPUs in a pipeline",
    "oracle-qwen3-8b-iq4_xs-98a6f251": "half of the layers on the host",
    "oracle-qwen3-30b-a3b-q4_k_m-3117768d": "experts of some layers on the host",
    "oracle-qwen2.5-0.5b-instruct-f16-c0f4e07d": "a quantised cache with padded rows",
    "oracle-gemma-3-27b-it-f16-a6d366da": "windows",
    "oracle-gemma-4-26b-a4b-q4_k_s-7c7ab71f": "windows that cache everything, experts",
    "oracle-deepseek-v3-q2_k-d7736dd7": "latent attention",
    "oracle-mamba-codestral-7b-v0.1-f16-05e91eed": "state spaces alone",
    "oracle-granite-4.0-h-small-q8_0-fd1a4108": "state spaces, attention and experts",
    "oracle-qwen3.5-9b-q4_k_m-1dd29281": "gated delta nets, gated attention",
    "oracle-bge-m3-q8_0-2ecd8d47": "an encoder",
    "oracle-gpt-oss-20b-mxfp4_moe-f063f73b": "mxfp4 experts, sinks",
}


def ask(model: str = "llama-3.1-8b", quantization: str = "q4_k_m", **fields: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, "quantization": quantization, "engine": "llama.cpp", **fields})


def buffers(response: vrameter.Response) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = response["report"]["buffers"]
    return found


@pytest.fixture(scope="module")
def planned() -> dict[str, dict[str, Any]]:
    return {case["id"]: case for case in read() if case["id"] in GOLDEN}


@pytest.mark.parametrize("name", GOLDEN, ids=list(GOLDEN.values()))
def test_buffers_are_the_programs_own(planned: dict[str, dict[str, Any]], name: str) -> None:
    case = planned[name]
    found = list(pairs(case, vrameter.estimate(case["request"])))
    assert len(found) >= 5
    assert {pair.case: (figure, pair.estimate) for figure, pair in found} == {
        pair.case: (figure, pair.measured) for figure, pair in found
    }


def test_known_figures_of_llama_31_8b() -> None:
    answer = ask(device="rtx-4090", settings={"n_ctx": 8192, "n_parallel": 1})
    assert buffers(answer)["CUDA0"] == {
        "model_bytes": 4_617_396_480,
        "context_bytes": 2**30,
        "compute_bytes": answer["report"]["compute_bytes"],
    }
    assert answer["report"]["output_bytes"] == 128_256 * 4
    gpu, host = answer["devices"]
    assert gpu["fits"] is True
    assert host["name"] == "host"
    assert "fits" not in host
    assert {item["buffer"] for item in host["items"]} == {"CPU", "CUDA_Host"}
    assert sum(item["bytes"] for item in gpu["items"] if item.get("buffer") == "CUDA0") == sum(
        buffers(answer)["CUDA0"].values()
    )


def test_pinned_instead_of_mapped() -> None:
    mapped, pinned = (buffers(ask(settings={"n_ctx": 4096, "no_mmap": value})) for value in (False, True))
    assert "CPU" not in pinned
    assert mapped["CPU"]["model_bytes"] == pinned["CUDA_Host"]["model_bytes"] == 295_501_824


REFUSALS = [json.loads(line) for line in (CASES.parent / "llamacpp_refusals.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: str(case["id"]))
def test_what_the_program_refuses_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        vrameter.estimate(case["request"])
    assert caught.value.field is not None
    assert caught.value.field.startswith("settings.")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"quantization": "awq"}, "quantization"),
        ({"settings": {"cache_type_v": "q8_0", "flash_attn": False}}, "settings.cache_type_v"),
        ({"settings": {"split_mode": "row"}}, "settings.split_mode"),
        ({"settings": {"tensor_split": [1, 1]}}, "settings.tensor_split"),
        ({"settings": {"override_tensor": ["exps"]}}, "settings.override_tensor"),
        ({"settings": {"override_tensor": ["(=CPU"]}}, "settings.override_tensor"),
        ({"settings": {"main_gpu": 1}}, "settings.main_gpu"),
        ({"settings": {"mmproj": True}}, "settings.mmproj"),
        ({"parallelism": {"tensor": 2}}, "parallelism.tensor"),
        ({"num_devices": 17}, "num_devices"),
        ({"model": "t5-base"}, "model"),
    ],
)
def test_bad_input_names_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        ask(**fields)
    assert caught.value.field == field
    assert caught.value.hint


def test_unequal_devices_share_by_what_they_hold() -> None:
    answer = ask("llama-3.3-70b", device="2xrtx-4090+rtx-3060", settings={"n_ctx": 8192, "n_parallel": 1})
    *gpus, host = answer["devices"]
    assert [entry["name"] for entry in gpus].count("rtx-4090") == 2
    weights = {entry["name"]: _of(entry, "weights") for entry in gpus}
    assert weights["rtx-4090"] > 1.5 * weights["rtx-3060-12gb"]
    assert host["name"] == "host"
    assert answer["request"]["num_devices"] == 3
    headrooms = [entry["headroom_bytes"] for entry in gpus]
    assert headrooms == sorted(headrooms)


def test_other_engines_refuse_unequal_devices() -> None:
    with pytest.raises(RequestError, match="one kind"):
        vrameter.estimate({"model": "llama-3.1-8b", "engine": "vllm", "device": "rtx-4090+rtx-3060"})


def _of(entry: dict[str, Any], term: str) -> int:
    return sum(item["bytes"] for item in entry["items"] if item["term"] == term)


def test_limits_fit_and_more_does_not() -> None:
    question: dict[str, Any] = {"n_ctx": 8192, "n_parallel": 2, "kv_unified": True}
    limits = ask("qwen3-8b", "q8_0", device="rtx-4070-ti", settings=question)["limits"]
    most = limits["n_ctx"]
    assert most % 256 == 0
    for n_ctx, fits in ((most, True), (most + 256, False)):
        response = ask("qwen3-8b", "q8_0", device="rtx-4070-ti", settings=question | {"n_ctx": n_ctx})
        assert response["devices"][0]["fits"] is fits


def test_layers_that_fit_where_the_model_does_not() -> None:
    limits = ask("llama-3.3-70b", device="rtx-4090", settings={"n_ctx": 4096})["limits"]
    layers = limits["n_gpu_layers"]
    assert limits["n_ctx"] == 0
    for count, fits in ((layers, True), (layers + 1, False)):
        response = ask("llama-3.3-70b", device="rtx-4090", settings={"n_ctx": 4096, "n_gpu_layers": count})
        assert response["devices"][0]["fits"] is fits


def test_a_draft_model_and_a_tower_stand_beside_the_model() -> None:
    alone = ask("llama-3.3-70b", device="h100", settings={"n_ctx": 4096, "n_parallel": 1})
    beside = ask(
        "llama-3.3-70b", device="h100", settings={"n_ctx": 4096, "n_parallel": 1, "model_draft": "llama-3.2-1b"}
    )
    draft = [item for item in beside["devices"][0]["items"] if item.get("note") == "draft model"]
    assert {item["term"] for item in draft} == {"weights", "kv_cache", "compute"}
    gained = beside["devices"][0]["peak"]["used_bytes"] - alone["devices"][0]["peak"]["used_bytes"]
    assert gained >= sum(item["bytes"] for item in draft)
    seeing = ask("Qwen/Qwen3.6-27B", settings={"n_ctx": 4096, "mmproj": True})
    tower = {item["term"]: item["bytes"] for item in seeing["devices"][0]["items"] if item.get("note") == "mmproj"}
    assert abs(tower["weights"] / 2**20 - 887.99) < 0.1  # a server's log of this model
    assert abs(tower["compute"] / 2**20 - 248.10) < 0.01


def test_a_file_is_loaded_as_its_header_lists_it(tmp_path: Path) -> None:
    kind, keys, shapes = llama()
    file = write(
        tmp_path / "model.gguf",
        {"general.architecture": kind, **{f"{kind}.{key}": value for key, value in keys.items()}},
        stored(shapes, "q8_0"),
    )
    tensors = stored(shapes, "q8_0")
    own = vrameter.estimate({"model": str(file), "engine": "llama.cpp", "settings": {"n_ctx": 4096}})
    found = buffers(own)
    assert found["CUDA0"]["model_bytes"] + found["CPU"]["model_bytes"] == sum(each.num_bytes for each in tensors)
    assert own["request"]["quantization"] == "q8_0"
    named = ask("llama-3.1-8b", "q8_0", settings={"n_ctx": 4096})
    assert found["CUDA0"]["compute_bytes"] == buffers(named)["CUDA0"]["compute_bytes"]


def test_without_a_graph_the_compute_buffer_is_an_interval() -> None:
    answer = ask("moonshotai/Kimi-K3", settings={"n_ctx": 4096})
    (compute,) = (item for item in answer["devices"][0]["items"] if item["term"] == "compute")
    assert compute["basis"] == "assumed"
    assert compute["low_bytes"] < compute["bytes"] < compute["high_bytes"]
    assert any("no graph" in warning for warning in answer["warnings"])


def test_drafts_keep_states_to_go_back_to() -> None:
    one, four = (
        ask("Qwen/Qwen3.5-9B", settings={"n_ctx": 4096, "n_rs_seq": count})["report"]["state_bytes"] for count in (0, 3)
    )
    assert four == 4 * one


def test_shares_in_single_precision() -> None:
    assert layer_devices(80, 81, [3.0, 1.0]) == (*[0] * 61, *[1] * 20)
    assert layer_devices(4, 0, [1.0]) == (1,) * 5
    assert layer_devices(2, 99, [0.0, 1.0]) == (1, 1, 1)


KINDS = [
    "llama-3.2-1b",
    "gemma-3-1b-it",
    "qwen3-0.6b",
    "deepseek-v2-lite",
    "state-spaces/mamba-2.8b-hf",
    "Qwen/Qwen3.5-9B",
]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 100), st.integers(1, 4), st.booleans(), st.booleans())
def test_more_context_and_more_layers_never_need_less_cache(
    model: str, blocks: int, parallel: int, unified: bool, flash: bool
) -> None:
    base = {"n_parallel": parallel, "kv_unified": unified, "flash_attn": flash, "n_ubatch": 128}
    short, long = (
        ask(model, settings=base | {"n_ctx": n_ctx})["report"] for n_ctx in (256 * blocks, 256 * (blocks + parallel))
    )
    assert short["kv_cache_bytes"] <= long["kv_cache_bytes"]
    assert short.get("state_bytes") == long.get("state_bytes")
    assert all(size >= 0 for buffer in short["buffers"].values() for size in buffer.values())


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(0, 40))
def test_splits_hold_at_least_the_whole(model: str, shares: list[int], layers: int) -> None:
    base = {"n_ctx": 2048, "n_ubatch": 128, "n_gpu_layers": layers}
    whole = buffers(ask(model, settings=base))
    split = buffers(ask(model, num_devices=len(shares), settings=base | {"tensor_split": shares}))
    for figure in ("model_bytes", "context_bytes", "compute_bytes"):
        together = sum(buffer[figure] for buffer in split.values())
        alone = sum(buffer[figure] for buffer in whole.values())
        assert together >= alone if figure != "context_bytes" else together == alone


def test_cases_lie_in_the_tree() -> None:
    assert Path(CASES).stat().st_size < 100_000
