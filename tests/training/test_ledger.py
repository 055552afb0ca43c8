"""What the ledger of a step says of each number: a formula that gives it, parameters and bytes that are the model's own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.memory.optimizer import OPTIMIZERS, Parameter, kept_of, state_of
from vrameter.units import ceil_div, ceil_to

NAMES = {"ceil_div": ceil_div, "ceil_to": ceil_to, "max": max, "min": min}
STATE = ("weights", "adapters", "gradients", "optimizer_state", "master_weights", "ema", "other_models")
CASES: list[dict[str, Any]] = [
    {"model": "llama-3.1-8b"},
    {"model": "llama-3.1-8b", "device": "h100", "settings": {"ema": True, "optimizer": "adamw_8bit"}},
    {"model": "llama-3.1-8b", "quantization": "bnb-nf4", "settings": {"finetuning": "lora"}},
    {"model": "llama-3.1-8b", "settings": {"finetuning": "lora", "adapter": {"targets": ["q_proj"], "modules_to_save": ["lm_head"]}}},
    {"model": "llama-3.1-8b", "num_devices": 8, "parallelism": {"zero_stage": 3}, "engine": "deepspeed"},
    {"model": "llama-3.1-8b", "num_devices": 3, "parallelism": {"zero_stage": 1}, "settings": {"optimizer": "adamw_torch_4bit"}},
    {"model": "llama-3.1-8b", "num_devices": 7, "engine": "torchtitan"},
    {"model": "qwen3-30b-a3b", "num_devices": 8, "engine": "megatron",
     "parallelism": {"tensor": 2, "pipeline": 2, "expert": 2, "zero_stage": 1}},
    {"model": "llama-3.1-8b", "settings": {"optimizer": "galore_adamw", "optimizer_args": "rank=64"}},
    {"model": "llama-3.1-8b", "settings": {"optimizer": "soap"}},
    {"model": "llama-3.1-8b", "settings": {"optimizer": "adafactor"}},
    {"model": "llama-3.1-8b", "settings": {"optimizer": "muon", "recompute": "full"}},
    {"model": "llama-3.1-8b", "settings": {"objective": "ppo", "reward_model": "llama-3.2-1b", "critic_model": "llama-3.2-1b"}},
    {"model": "llama-3.1-8b", "settings": {"objective": "ppo", "precision": "fp32"}},
    {"model": "qwen2.5-vl-7b-instruct", "settings": {"freeze": ["vit"]}},
]  # fmt: skip


def answer(request: dict[str, Any]) -> dict[str, Any]:
    return vrameter.estimate({"task": "training", **request})


def items_of(response: dict[str, Any], term: str, phase: str = "step") -> list[dict[str, Any]]:
    return [each for each in response["devices"][0]["items"] if each["term"] == term and phase in each["phases"]]


@pytest.mark.parametrize("request_", CASES, ids=lambda request: str(sorted(request.get("settings", request))))
def test_formulas_give_the_bytes_and_name_what_they_count(request_: dict[str, Any]) -> None:
    for item in answer(request_)["devices"][0]["items"]:
        assert eval(item["formula"], dict(NAMES), dict(item["values"])) == item["bytes"], item
        assert item["low_bytes"] <= item["bytes"] <= item["high_bytes"], item
        assert item["source"], item
        if item["term"] in STATE:
            assert item["formula"] != "size", item


@pytest.mark.parametrize(
    ("request_", "trained"),
    [
        ({"model": "llama-3.1-8b"}, 8_030_261_248),
        ({"model": "llama-3.1-8b", "num_devices": 8, "parallelism": {"zero_stage": 3}}, 8_030_261_248),
        ({"model": "llama-3.1-8b", "settings": {"finetuning": "lora", "adapter": {"rank": 16, "targets": "all-linear"}}}, 41_943_040),
    ],
)  # fmt: skip
def test_every_parameter_stands_in_weights_gradients_and_state(request_: dict[str, Any], trained: int) -> None:
    response = answer(request_)
    weights = sum(each["values"]["num_params"] for each in items_of(response, "weights"))
    assert weights == response["model"]["num_params"]
    for term in ("gradients", "optimizer_state"):
        counts = [
            each["values"].get("num_params", each["values"].get("adapter_params")) for each in items_of(response, term)
        ]
        assert sum(counts) == trained, term


def test_a_quantised_base_is_told_format_by_format() -> None:
    response = answer({"model": "llama-3.1-8b", "quantization": "bnb-nf4", "settings": {"finetuning": "lora"}})
    packed, plain = items_of(response, "weights")
    assert packed["formula"] == "quantized + scales"
    assert "bnb-nf4" in packed["note"]
    # 6,979,321,856 matrix elements of half a byte, a scale of 4 bytes for 64
    assert packed["values"] == {"quantized": 6_979_321_856 // 2, "scales": 6_979_321_856 // 64 * 4}
    assert plain["values"] == {"num_params": 8_030_261_248 - 6_979_321_856, "element_bytes": 2}


def test_models_beside_the_policy_are_those_that_are_named() -> None:
    named = answer({"model": "llama-3.1-8b", "settings": {"objective": "ppo", "reward_model": "llama-3.2-1b"}})
    by_note = {each["note"]: each["values"] for each in items_of(named, "other_models")}
    assert by_note["the reward model"]["num_params"] == 1_235_814_400
    assert by_note["the reference"]["num_params"] == 8_030_261_248
    assert any("critic_model is not named" in warning for warning in named["warnings"])
    unknown = answer({"model": "llama-3.1-8b", "settings": {"objective": "ppo", "reward_model": "no/such-model"}})
    assert any("'no/such-model'" in warning for warning in unknown["warnings"])


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(OPTIMIZERS)), st.lists(st.integers(1, 300), min_size=1, max_size=3), st.booleans(), st.booleans(),
    st.sampled_from([2, 4]), st.integers(1, 64),
)  # fmt: skip
def test_what_an_optimizer_keeps_has_no_gap(
    name: str, shape: list[int], matrix: bool, embedding: bool, element: int, rank: int
) -> None:
    """Kinds of numbers are disjoint: a tensor's moments are whole, or those of a projection, or sums of rows and columns."""
    rule = OPTIMIZERS[name]
    tensor = Parameter(tuple(shape), element, matrix=matrix, embedding=embedding)
    kept = kept_of(rule, tensor, element=element, rank=rank)
    assert state_of(rule, tensor, element=element, rank=rank) == sum(each.bytes for each in kept)
    assert len({each.what for each in kept}) == len(kept)
    whole = [each for each in kept if each.what == "moments"]
    if whole and not (rule.projected and matrix and len(shape) > 1):
        assert whole[0].count == tensor.size
    if rule.projected and matrix and len(shape) > 1 and whole:
        assert whole[0].count <= tensor.size
