"""The answer back: every change, asked as a request, needs what it promises; the stack has it; some fit together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.engines.choice import PIPELINES
from vrameter.errors import VrameterError
from vrameter.training.proposals import ACTIVATIONS_TO_HOST, BITSANDBYTES, STEPS_IN_BACKWARD, TRAINERS
from vrameter.training.stacks import MODULES

Request = dict[str, Any]


def request(model: str = "llama-3.2-1b", device: str = "rtx-4090", num_devices: int = 1, **fields: Any) -> Request:
    top = {name: fields.pop(name) for name in ("engine", "dtype", "quantization", "parallelism") if name in fields}
    return {"task": "training", "model": model, "device": device, "num_devices": num_devices, **top, "settings": fields}


def advised(asked: Request) -> vrameter.Response:
    return vrameter.estimate({**asked, "settings": {**asked["settings"], "advise": True}})


def applied(asked: Request, change: dict[str, Any]) -> Request:
    """Return the request with a change made."""
    fields = {
        name: change[name]
        for name in ("dtype", "quantization", "parallelism", "num_devices", "device")
        if name in change
    }
    return {**asked, **fields, "settings": {**asked["settings"], **change.get("settings", {})}}


def used(answer: vrameter.Response) -> int:
    size: int = answer["devices"][0]["peak"]["used_bytes"]
    return size


ASKED: list[Request] = [
    request(),
    request("llama-3.1-8b"),
    request("llama-3.1-8b", finetuning="lora", device="rtx-3060"),
    request("llama-3.1-8b", engine="torchtune", optimizer="adamw_torch"),
    request("llama-3.1-8b", engine="torchtitan"),
    request("llama-3.1-70b", engine="deepspeed", device="h100", num_devices=8, recompute="full"),
    request("llama-3.1-70b", engine="torchtitan", device="h100", num_devices=8),
    request("qwen3-30b-a3b", engine="megatron", device="h100", num_devices=8),
    request("llama-3.1-8b", engine="axolotl", device="a100-sxm-40gb", num_devices=4, parallelism={"fsdp": "full_shard"}),
    request(engine="trl", micro_batch=16, seq_len=8192, objective="dpo"),
    request("qwen3-30b-a3b", engine="megatron-swift", device="h100", num_devices=8, global_batch_size=64, micro_batch=2,
            parallelism={"pipeline": 2, "expert": 4}),
]  # fmt: skip


@pytest.mark.parametrize(
    "asked", ASKED, ids=[f"{each['model']}-{each.get('engine')}-{n}" for n, each in enumerate(ASKED)]
)
def test_what_is_promised_is_what_it_needs(asked: Request) -> None:
    answer = advised(asked)
    assert answer["changes"]
    for change in answer["changes"]:
        again = vrameter.estimate(applied(asked, change))
        assert used(again) == change["peak_bytes"] == used(answer) - change["saves_bytes"], change["change"]
        assert again["devices"][0]["fits"] == change["fits"]
        assert change["saves_bytes"] > 0
    for name, most in answer["limits"].items():
        totals = (
            {"global_batch_size": most * 32}
            if name == "micro_batch" and "global_batch_size" in asked["settings"]
            else {}
        )
        if most:
            fitting = {**asked, "settings": {**asked["settings"], **totals, name: most}}
            assert vrameter.estimate(fitting)["devices"][0]["fits"]


STACKS = st.sampled_from(sorted(set(MODULES) - set(PIPELINES["training"])))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    STACKS, st.sampled_from([1, 2, 8]), st.sampled_from(["full", "lora", "freeze", "pretrain"]), st.integers(1, 4), st.integers(64, 4096),
    st.sampled_from(["adamw_torch", "lion", "sgd", "muon", "adafactor", "adamw_bnb_8bit", "galore_adamw"]), st.integers(1, 3),
    st.sampled_from(["rtx-4090", "8GiB"]),
)  # fmt: skip
def test_promises_hold_for_every_stack(
    engine: str, devices: int, finetuning: str, batch: int, length: int, optimizer: str, steps: int, device: str
) -> None:
    asked = request(
        engine=engine, num_devices=devices, finetuning=finetuning, micro_batch=batch, seq_len=length, optimizer=optimizer,
        grad_accumulation=steps, device=device,
    )  # fmt: skip
    try:
        answer = advised(asked)
    except VrameterError:
        return  # an optimizer on whole matrices where the stack splits them, or steps that cannot be put off
    for change in answer.get("changes", []):
        assert used(vrameter.estimate(applied(asked, change))) == change["peak_bytes"], change["change"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    STACKS,
    st.sampled_from([1, 8]),
    st.sampled_from(["full", "lora"]),
    st.sampled_from(["adamw_torch", "lion", "muon", "sgd"]),
)
def test_changes_are_those_of_the_stack(engine: str, devices: int, finetuning: str, optimizer: str) -> None:
    asked = request("llama-3.1-8b", engine=engine, num_devices=devices, finetuning=finetuning, optimizer=optimizer)
    try:
        answer = advised(asked)
    except VrameterError:
        return
    for change in answer.get("changes", []):
        if change.get("num_devices", devices) == 1:
            degrees = change.get("parallelism", {})
            assert not degrees.get("fsdp")
            assert not degrees.get("zero_stage") or degrees.get("offload")
        wanted = change.get("settings", {})
        if "activation_offload" in wanted:
            assert engine in ACTIVATIONS_TO_HOST
        if "optimizer_in_backward" in wanted:
            assert engine in STEPS_IN_BACKWARD
        if "8bit" in wanted.get("optimizer", ""):
            assert engine in BITSANDBYTES
            assert optimizer in ("adamw_torch", "lion")
            assert ("lion" in wanted["optimizer"]) == (optimizer == "lion")
        if (change.get("parallelism", {}).get("zero_stage") or 0) > 1:
            assert engine in TRAINERS
        if wanted.get("finetuning") == "lora":
            assert finetuning == "full"
            assert engine not in ("torchtitan", "megatron")


def test_where_no_change_fits_alone_those_that_fit_together_are_told() -> None:
    answer = advised(request("llama-3.1-8b", engine="transformers", micro_batch=2))
    alone = [change for change in answer["changes"] if "together" not in change]
    joint = [change for change in answer["changes"] if "together" in change]
    assert not any(change["fits"] for change in alone)
    assert 1 <= len(joint) <= 2
    for change in joint:
        assert change["fits"]
        assert change["headroom_bytes"] >= 0
        assert len(change["together"]) > 1
    trained = [change for change in joint if change.get("settings", {}).get("finetuning") != "lora"]
    assert trained, "one of them trains what was asked"
    text = str(answer)
    assert "None of these fits alone; together:" in text
    assert "left" in text


def test_no_change_of_those_that_fit_together_is_idle() -> None:
    asked = request(engine="trl", micro_batch=16, seq_len=8192)
    joint = [change for change in advised(asked)["changes"] if "together" in change]
    assert joint
    for change in joint:
        for name in change.get("settings", {}):
            if name in ("micro_batch", "loss", "recompute", "optimizer"):
                less = {
                    key: value
                    for key, value in change["settings"].items()
                    if key != name and key != "grad_accumulation"
                }
                assert not vrameter.estimate(applied(asked, {**change, "settings": less}))["devices"][0]["fits"], name


def test_more_devices_where_nothing_else_does() -> None:
    change = advised(request("llama-3.1-8b", engine="torchtitan"))["changes"][-1]
    assert change["num_devices"] == 16
    assert change["device"] == "16xrtx-4090"
    assert change["fits"]


def test_no_advice_without_asking() -> None:
    answer = vrameter.estimate(request())
    assert "changes" not in answer
    assert "limits" not in answer


def test_a_mac_is_advised_what_runs_there() -> None:
    for change in advised(request("llama-3.1-8b", device="m3-max-64gb"))["changes"]:
        assert "quantization" not in change
        assert not change.get("parallelism")
        assert "8bit" not in change.get("settings", {}).get("optimizer", "")
