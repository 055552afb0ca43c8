"""What holds of every step, whatever the model and the stack."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.errors import VrameterError
from vrameter.training.stacks import MODULES, stack

LLAMA = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 1024, "max_position_embeddings": 8192,
}  # fmt: skip
MODELS: list[Any] = ["llama-3.2-1b", "qwen3-30b-a3b", "gpt2", "t5-base", "bert-base-uncased", "mamba-2.8b", "deepseek-v2-lite",
                     "qwen2.5-vl-7b-instruct", {"config": LLAMA}]  # fmt: skip
STATE = ("weights", "adapters", "master_weights", "optimizer_state", "gradients")


def ask(model: Any, engine: str, *, num_devices: int = 1, **more: Any) -> dict[str, Any]:
    """Return the response; settings and other fields by keyword."""
    top = {name: more.pop(name) for name in ("parallelism", "quantization", "dtype") if name in more}
    return vrameter.estimate(
        {"task": "training", "model": model, "engine": engine, "num_devices": num_devices, "settings": more, **top}
    )


def held(answer: dict[str, Any], *terms: str, phase: str = "step") -> int:
    return sum(
        item["bytes"] for item in answer["devices"][0]["items"] if item["term"] in terms and phase in item["phases"]
    )


def peak(answer: dict[str, Any]) -> int:
    size: int = answer["devices"][0]["peak"]["allocated_bytes"]
    return size


stacks = st.sampled_from(sorted(MODULES))
models = st.sampled_from(MODELS)
shapes = st.fixed_dictionaries({
    "micro_batch": st.integers(1, 4), "seq_len": st.integers(16, 500), "recompute": st.sampled_from(["none", "full"]),
    "finetuning": st.sampled_from(["full", "lora"]), "precision": st.sampled_from(["bf16-mixed", "bf16", "fp32"]),
    "attn_implementation": st.sampled_from(["eager", "sdpa", "flash_attention_2"]), "loss": st.sampled_from(["full", "fused", "chunked"]),
    "optimizer": st.sampled_from(["adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "adafactor", "sgd"]),
    "grad_accumulation": st.integers(1, 3),
})  # fmt: skip


def answered(model: Any, engine: str, **more: Any) -> dict[str, Any] | None:
    """Return the response, None where the stack has no such layers or adapters."""
    try:
        return ask(model, engine, **more)
    except VrameterError:
        return None


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(models, stacks, shapes)
def test_more_tokens_never_need_less(model: Any, engine: str, shape: dict[str, Any]) -> None:
    one = answered(model, engine, **shape)
    if one is None:
        return
    wider = ask(model, engine, **{**shape, "micro_batch": shape["micro_batch"] + 1})
    assert peak(wider) >= peak(one)
    if stack(engine).program == "megatron" and shape["attn_implementation"] == "eager":
        return  # its fused softmax takes some lengths and not others, which go through fp32
    longer = ask(model, engine, **{**shape, "seq_len": shape["seq_len"] + 12})
    assert peak(longer) >= peak(one)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(models, stacks, shapes)
def test_figures_stand_in_order(model: Any, engine: str, shape: dict[str, Any]) -> None:
    """Steady state, peak, what the allocator holds, what the driver sees; low, estimate, high."""
    answer = answered(model, engine, **shape)
    if answer is None:
        return
    report, entry = answer["report"], answer["devices"][0]["peak"]
    assert report["weights_bytes"] <= report["steady_bytes"] <= entry["allocated_bytes"]
    assert entry["allocated_bytes"] <= entry["reserved_bytes"] <= entry["used_bytes"]
    assert entry["low_bytes"] <= entry["used_bytes"] <= entry["high_bytes"]
    for name in ("peak_allocated", "peak_reserved", "peak_used"):
        assert report[f"{name}_low_bytes"] <= report[f"{name}_bytes"] <= report[f"{name}_high_bytes"]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(models, stacks, shapes)
def test_recompute_keeps_no_more(model: Any, engine: str, shape: dict[str, Any]) -> None:
    kept = [answered(model, engine, **{**shape, "recompute": how}) for how in ("none", "full")]
    if kept[0] is None or kept[1] is None:
        return
    none, full = (held(answer, "activations", phase="loss") for answer in kept if answer)
    assert full <= none


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(models, stacks, shapes)
def test_adapters_hold_less_state_than_the_whole(model: Any, engine: str, shape: dict[str, Any]) -> None:
    both = [answered(model, engine, **{**shape, "finetuning": how}) for how in ("full", "lora")]
    if both[0] is None or both[1] is None:
        return
    full, lora = (held(answer, "optimizer_state", "gradients", "master_weights") for answer in both if answer)
    assert lora < full or full == 0


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(models, stacks, shapes)
def test_accumulation_never_needs_less(model: Any, engine: str, shape: dict[str, Any]) -> None:
    few = answered(model, engine, **shape)
    if few is None:
        return
    many = ask(model, engine, **{**shape, "grad_accumulation": shape["grad_accumulation"] + 1})
    assert peak(many) >= peak(few)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(stacks, st.sampled_from(["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"]), shapes)
def test_more_parameters_never_need_less(engine: str, name: str, shape: dict[str, Any]) -> None:
    small = answered({"config": LLAMA}, engine, **shape)
    large = answered({"config": {**LLAMA, name: 2 * int(str(LLAMA[name]))}}, engine, **shape)
    if small is None or large is None:
        return
    assert large["model"]["num_params"] > small["model"]["num_params"]
    assert peak(large) >= peak(small)


@pytest.mark.parametrize("model", ["llama-3.2-1b", "qwen3-30b-a3b", "t5-base"])
@pytest.mark.parametrize("finetuning", ["full", "lora"])
def test_stages_of_zero_hold_less_and_less(model: str, finetuning: str) -> None:
    states = [
        ask(model, "transformers", num_devices=8, finetuning=finetuning, parallelism={"data": 8, "zero_stage": stage}, precision="bf16",
            dtype="bf16", master_weights="fp32")
        for stage in range(4)
    ]  # fmt: skip
    sizes = [held(answer, *STATE) for answer in states]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[3] < sizes[0]


@pytest.mark.parametrize("engine", ["deepspeed", "torchtitan", "megatron"])
@pytest.mark.parametrize("degrees", [{}, {"zero_stage": 1}, {"zero_stage": 3}])
def test_more_devices_hold_less_each(engine: str, degrees: dict[str, int]) -> None:
    if engine == "torchtitan" and degrees:
        degrees = {}
    sizes = [
        held(ask("llama-3.2-1b", engine, num_devices=count, parallelism=degrees), *STATE) for count in (2, 4, 8, 64)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_shards_make_the_whole() -> None:
    """What all devices hold together of the state is the state, but for rounding."""
    whole = held(ask("llama-3.2-1b", "deepspeed", num_devices=8, parallelism={"zero_stage": 1}), "optimizer_state")
    plain = held(
        ask("llama-3.2-1b", "transformers", master_weights="fp32", precision="bf16", dtype="bf16"), "optimizer_state"
    )
    assert plain <= 8 * whole < plain + 8 * 1000


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(models, stacks, stacks, shapes)
def test_an_answer_does_not_depend_on_the_question_before(
    model: Any, before: str, engine: str, shape: dict[str, Any]
) -> None:
    """Costs of layers are remembered: those of one stack are not those of another."""
    from vrameter.training import pieces

    pieces._COSTS.clear()
    first = answered(model, engine, **shape)
    pieces._COSTS.clear()
    answered(model, before, **shape)
    second = answered(model, engine, **shape)
    assert (first and first["report"]) == (second and second["report"])


def test_adapters_of_one_stack_are_not_those_of_another() -> None:
    """Torchtune's adapters have the numbers of the base, peft's are fp32."""
    from vrameter.training import pieces

    shape = {
        "finetuning": "lora",
        "precision": "bf16",
        "dtype": "bf16",
        "attn_implementation": "flash_attention_2",
        "seq_len": 512,
    }
    answers = []
    for order in (("transformers", "torchtune"), ("torchtune", "transformers")):
        pieces._COSTS.clear()
        answers.append({engine: peak(ask("llama-3.2-1b", engine, **shape)) for engine in order})
    assert answers[0] == answers[1]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(models, stacks, shapes, st.sampled_from([1, 8]), st.sampled_from(["full", "lora", "freeze", "pretrain"]))
def test_a_resolved_request_has_the_same_answer(
    model: Any, engine: str, shape: dict[str, Any], devices: int, finetuning: str
) -> None:
    """Every default that was filled in is the one that was used."""
    shape = {key: value for key, value in shape.items() if key not in ("precision", "optimizer", "loss")}
    first = answered(model, engine, num_devices=devices, **{**shape, "finetuning": finetuning})
    if first is None:
        return
    again = vrameter.estimate(first["request"])
    assert again["report"] == first["report"]
    assert again["request"] == first["request"]
