"""Training requests that cannot be answered, settings that change nothing, and random ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.cli import main
from vrameter.errors import VrameterError
from vrameter.memory.optimizer import OPTIMIZERS
from vrameter.settings.training import (
    AdapterSettings,
    AttentionKernel,
    Finetuning,
    Loss,
    Objective,
    Precision,
    Recompute,
    RecomputePolicy,
    Schedule,
    TrainingSettings,
)  # fmt: skip
from vrameter.training.adapting import METHODS
from vrameter.training.contradictions import IDLE, OF_LANGUAGE
from vrameter.training.stacks import MODULES

TOP = ("model", "engine", "dtype", "quantization", "device", "num_devices", "parallelism")


def request(**fields: Any) -> dict[str, Any]:
    """Return a request; settings and other fields by keyword."""
    top = {name: fields.pop(name) for name in TOP if name in fields}
    return {"task": "training", "model": "llama-3.1-8b", **top, "settings": fields}


def lora(**adapter: Any) -> dict[str, Any]:
    return {"finetuning": "lora", "adapter": adapter}


# request, field, what the hint says
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    # degrees
    (request(num_devices=6, parallelism={"tensor": 4}), "parallelism", "divisor of 6"),
    (request(num_devices=8, parallelism={"tensor": 2, "data": 2}), "parallelism.data", "data 4"),
    (request(num_devices=1, parallelism={"tensor": 2}), "num_devices", "once"),
    (request(engine="megatron", num_devices=3, parallelism={"tensor": 3}), "parallelism.tensor", "1, 2, 4, 8"),
    (request(model="FLUX.1-dev", num_devices=8, parallelism={"tensor": 4}), "parallelism.tensor", "data"),
    (request(model="FLUX.1-dev", adapter={"rank": 4}), "settings.adapter", "lora"),
    (request(model="FLUX.1-dev", dtype="int4"), "dtype", "bf16"),
    (request(engine="megatron", num_devices=64, parallelism={"pipeline": 64}), "parallelism.pipeline", "32 or less"),
    (request(model="qwen3-30b-a3b", engine="megatron", num_devices=3, parallelism={"expert": 3}), "parallelism.expert", "128"),
    (request(engine="megatron", num_devices=4, parallelism={"expert": 4}), "parallelism.expert", "data"),
    (request(engine="litgpt", num_devices=4, parallelism={"context": 4}), "parallelism.context", "megatron"),
    (request(engine="unsloth", num_devices=4, parallelism={"tensor": 4}), "parallelism.tensor", "deepspeed"),
    (request(engine="trl", num_devices=4, parallelism={"pipeline": 4}), "parallelism.pipeline", "naive"),
    (request(engine="megatron", num_devices=4, parallelism={"pipeline": 4}, decoder_first_pipeline_num_layers=31),
     "settings.decoder_first_pipeline_num_layers", "multiple of 3"),
    # sharding
    (request(num_devices=8, parallelism={"fsdp": "full_shard", "zero_stage": 3}), "parallelism.fsdp", "DeepSpeed"),
    (request(num_devices=8, parallelism={"fsdp": "fullshard"}), "parallelism.fsdp", "full_shard"),
    (request(num_devices=8, parallelism={"offload": "optimiser"}), "parallelism.offload", "optimizer"),
    (request(num_devices=8, parallelism={"zero_stage": 3}, optimizer="muon"), "settings.optimizer", "AdamW"),
    (request(num_devices=8, parallelism={"fsdp": "full_shard"}, optimizer="galore_adamw"), "settings.optimizer", "AdamW"),
    (request(num_devices=8, parallelism={"zero_stage": 4}), "parallelism.zero_stage", "from 0 to 3"),
    # optimizers
    (request(optimizer="adamwww"), "settings.optimizer", "adamw"),
    (request(optimizer="galore_adamw", optimizer_args="rank=abc"), "settings.optimizer_args", "rank=128"),
    (request(optimizer="galore_adamw", optimizer_args="rank=-5"), "settings.optimizer_args", "rank=128"),
    (request(optimizer_in_backward=True, grad_accumulation=4), "settings.grad_accumulation", "1"),
    (request(optimizer="lomo", grad_accumulation=4), "settings.grad_accumulation", "1"),
    # adapters
    (request(**lora(rank=0)), "settings.adapter.rank", "from 1"),
    (request(**lora(rank=-1)), "settings.adapter.rank", "from 1"),
    (request(**lora(rank=10**9)), "settings.adapter.rank", "65536"),
    (request(**lora(rnk=8)), "settings.adapter.rnk", "rank"),
    (request(**lora(lora_alpha=8)), "settings.adapter.lora_alpha", "alpha"),
    (request(**lora(dropout=1.5)), "settings.adapter.dropout", "below 1"),
    (request(**lora(alpha=float("nan"))), "settings.adapter.alpha", "at least 0"),
    (request(**lora(dtype="fp8")), "settings.adapter.dtype", "bf16"),
    (request(**lora(targets=[3])), "settings.adapter.targets", "list of texts"),
    (request(**lora(targets=["query"])), "settings.adapter.targets", "q_proj"),
    (request(**lora(target_parameters=["experts"])), "settings.adapter.target_parameters", "leave it out"),
    (request(finetuning="lora", adapter=8), "settings.adapter", "object"),
    (request(adapter={"rank": 8}), "settings.adapter", "lora"),
    (request(finetuning="dora", adapter={"method": "prompt_tuning"}), "settings.adapter.method", "peft"),
    (request(finetuning="peft", adapter={"method": "lroa"}), "settings.adapter.method", "lora"),
    (request(finetuning="peft", adapter={"method": "adapter_v2"}), "settings.adapter.method", "litgpt"),
    # formats and numbers
    (request(finetuning="lora", quantization="q4_k_m"), "quantization", "bnb-nf4"),
    (request(finetuning="full", quantization="bnb-nf4"), "quantization", "lora"),
    (request(precision="fp16", dtype="fp16"), "settings.precision", "fp16-mixed"),
    (request(dtype="int4"), "dtype", "bf16"),
    # sizes
    (request(model="gpt2", seq_len=4096), "settings.seq_len", "1024"),
    (request(micro_batch=0), "settings.micro_batch", "from 1"),
    (request(micro_batch=10**30), "settings.micro_batch", "1048576"),
    (request(seq_len=-1), "settings.seq_len", "from 1"),
    (request(local_batch=3, micro_batch=2), "settings.local_batch", "multiple of 2"),
    (request(global_batch_size=9, micro_batch=2, num_devices=2), "settings.global_batch_size", "multiple of 4"),
    (request(image_size=-3), "settings.image_size", "from 1"),
    (request(image_size=[1, 2, 3]), "settings.image_size", "list of whole numbers"),
    (request(finetuning="freeze", num_trainable_layers=0), "settings.num_trainable_layers", "from 1 to 32"),
    (request(finetuning="freeze", num_trainable_layers=33), "settings.num_trainable_layers", "from 1 to 32"),
    (request(freeze=["llm"]), "settings.freeze", "lora"),
    (request(freeze="vit"), "settings.freeze", "list of texts"),
    (request(attention_dropout=2), "settings.attention_dropout", "below 1"),
    (request(rollout_memory_utilization=3), "settings.rollout_memory_utilization", "from 0 to 1"),
    # words of other programs
    (request(recompute="fulll"), "settings.recompute", "full"),
    (request(recompute=True), "settings.recompute", "full"),
    (request(loss="liger"), "settings.loss", "fused"),
    (request(attn_implementation="flash"), "settings.attn_implementation", "flash_attention_2"),
    (request(finetuning="qlora"), "settings.finetuning", "lora"),
    (request(precision="bf16_mixed"), "settings.precision", "bf16-mixed"),
    (request(objective="grop"), "settings.objective", "grpo"),
    (request(per_device_train_batch_size=4), "settings.per_device_train_batch_size", "micro_batch"),
    (request(gradient_checkpointing=True), "settings.gradient_checkpointing", "recompute"),
    (request(lora_rank=8), "settings.lora_rank", "adapter.rank"),
    (request(learning_rate=1e-4), "settings.learning_rate", "leave it out"),
    # engines and devices
    (request(engine="vllm"), "engine", "torchtitan"),
    (request(engine="torchtitann"), "engine", "torchtitan"),
    ({"model": "llama-3.1-8b", "engine": "torchtitan"}, "engine", "training"),
    (request(device="0GB"), "device", "24GiB"),
    (request(device="-5GB"), "device", "24GiB"),
    (request(device="24"), "device", "24GiB"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "field", "hint"), REFUSED, ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(REFUSED)]
)
@pytest.mark.parametrize("language", ["en", "ko"])
def test_field_value_and_next_step(request_: dict[str, Any], field: str, hint: str, language: str) -> None:
    from vrameter.i18n import set_language

    set_language(language)
    try:
        with pytest.raises(VrameterError) as caught:
            vrameter.estimate(request_)
    finally:
        set_language("en")
    error = caught.value
    assert error.field == field
    assert error.exit_code == 2
    assert error.hint
    assert "%(" not in error.message + error.hint
    assert len(error.message) < 600
    if language == "en":
        assert field.split(".")[0] in error.message
        assert hint in error.hint, error.hint


def test_a_batch_answers_with_the_same_words(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    file = tmp_path / "requests.jsonl"
    chosen = [entry for entry in REFUSED if "nan" not in repr(entry[0])]
    file.write_text("\n".join(json.dumps(request_) for request_, _, _ in chosen))
    assert main(["batch", str(file), "--lang", "en"]) == 1
    answers = [json.loads(line)["error"] for line in capsysbinary.readouterr().out.splitlines()]
    assert [answer["field"] for answer in answers] == [field for _, field, _ in chosen]
    assert all(hint in answer["hint"] for answer, (_, _, hint) in zip(answers, chosen, strict=True))


def test_half_a_character_is_told_as_such(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('{"model": "\\ud800"}\n{"model": "x"')
    assert main(["batch", str(file), "--lang", "en"]) == 1
    half, cut = (json.loads(line)["error"]["message"] for line in capsysbinary.readouterr().out.splitlines())
    assert "half a character" in half
    assert "truncated" in cut


FLAGS = [
    (["--lora-rank", "8"], "--adapter-rank"), (["--gradient-checkpointing"], "--recompute"), (["--batch-size", "4"], "--micro-batch"),
    (["--load-in-4bit"], "--quantization"), (["--learning-rate", "3"], "leave it out"), (["--zero", "3"], "--zero-stage"),
    (["--finetuning", "lroa"], "'lora'"), (["--adapter-rank", "many"], "--help"), (["--adapter-targets", "q_proj,zzz"], "finetuning"),
    (["--device", "0GB"], "24GiB"), (["--engine", "sglang"], "torchtitan"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "hint"), FLAGS, ids=[" ".join(flags) for flags, _ in FLAGS])
def test_flags_of_other_programs(flags: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llama-3.1-8b", "--task", "training", *flags, "--lang", "en"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    message, next_step = shown.err.strip().splitlines()
    assert message.startswith("error: ")
    assert next_step.startswith("hint: ")
    assert hint in next_step


def test_adapters_by_flags_are_those_of_the_object(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        ["--adapter-rank", "64", "--adapter-targets", "q_proj,v_proj"],
        ["--adapter", '{"rank": 64}', "--adapter-targets", '["q_proj", "v_proj"]'],
        ["--adapter-rank", "8", "--set", "adapter.rank=64", "--set", 'adapter.targets=["q_proj", "v_proj"]'],
    ]
    answers = []
    for words in flags:
        assert main(["llama-3.1-8b", "--task", "training", "--finetuning", "lora", "-f", "json", *words]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["request"]["settings"]["adapter"]["targets"] == ["q_proj", "v_proj"]


def test_an_error_is_an_object_where_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["llama-3.1-8b", "--task", "training", "--finetuning", "lora", "--adapter-rank", "0", "--lang", "en"]
    for form in (["--format", "json"], ["-f", "json"], ["--format=json"]):
        assert main([*words, *form]) == 2
        shown = capsys.readouterr()
        assert json.loads(shown.out)["error"]["field"] == "settings.adapter.rank"
        assert shown.err.startswith("error: settings.adapter.rank: 0 is not")
    assert main(["models", "\udcff", "-f", "json"]) == 2
    assert "\\udcff" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize("pattern", ["\udcff", "--", "!"], ids=["not UTF-8", "dashes", "mark"])
def test_a_pattern_without_letters_lists_nothing(pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--", pattern]) == 2
    assert capsys.readouterr().out == ""


# -- without effect --------------------------------------------------------------------------------------

WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "ema": {"ema": True, "finetuning": "lora"},
    "optimizer_args": {"optimizer_args": "rank=4"},
    "num_trainable_layers": {"num_trainable_layers": 3},
    "rollout_memory_utilization": {"rollout_memory_utilization": 0.5},
    "reward_model": {"reward_model": "llama-3.2-1b"},
    "critic_model": {"critic_model": "llama-3.2-1b"},
    "recompute_modules": {"recompute_modules": ["mlp"], "recompute": "full"},
    "recompute_policy": {"recompute_policy": "op", "recompute": "full"},
    "loss_chunk_tokens": {"loss_chunk_tokens": 64, "loss": "fused"},
    "activation_offload": {"activation_offload": True},
    "pipeline_schedule": {"pipeline_schedule": "gpipe"},
    "decoder_first_pipeline_num_layers": {"decoder_first_pipeline_num_layers": 3},
    "decoder_last_pipeline_num_layers": {"decoder_last_pipeline_num_layers": 3},
    "image_size": {"image_size": 224},
    "num_frames": {"num_frames": 8},
    "video": {"video": {"fps": 1}},
    "resident_components": {"resident_components": ["x"]},
    "text_len": {"text_len": 77},
    "precompute": {"precompute": True},
}


@pytest.mark.parametrize("name", sorted(IDLE))
def test_a_setting_told_without_effect_has_none(name: str) -> None:
    given_ = WITHOUT_EFFECT[name]
    answer = vrameter.estimate(request(device="h100", **given_))
    assert any(name in warning for warning in answer["warnings"]), answer["warnings"]
    rest = {key: value for key, value in given_.items() if key != name}
    assert vrameter.estimate(request(device="h100", **rest))["report"] == answer["report"]


@pytest.mark.parametrize("policy", [None, "op", "layer", "attention"])
def test_selective_recompute_is_told_where_a_stack_has_none(policy: str | None) -> None:
    none = vrameter.estimate(request(recompute="none"))
    selective = vrameter.estimate(request(recompute="selective", recompute_policy=policy))
    told = any("recompute selective" in warning for warning in selective["warnings"])
    assert told == (selective["report"] == none["report"])


@pytest.mark.parametrize(
    ("name", "value"), [("recompute", "none"), ("fused_kernels", False), ("activation_offload", False)]
)
def test_what_is_stated_stands_above_a_stacks_default(name: str, value: object) -> None:
    """Unsloth recomputes, fuses and offloads unless it is told not to."""
    answer = vrameter.estimate(request(engine="unsloth", finetuning="lora", **{name: value}))
    assert answer["request"]["settings"][name] == value
    assert answer["report"] != vrameter.estimate(request(engine="unsloth", finetuning="lora"))["report"]


@pytest.mark.parametrize("engine", ["deepspeed", "torchtitan"])
def test_no_sharding_where_a_stack_shards_by_itself(engine: str) -> None:
    usual = vrameter.estimate(request(engine=engine, num_devices=8))
    whole = vrameter.estimate(request(engine=engine, num_devices=8, parallelism={"zero_stage": 0}))
    assert whole["request"]["parallelism"]["zero_stage"] == 0
    state = [
        sum(each["bytes"] for each in answer["devices"][0]["items"] if each["term"] == "optimizer_state")
        for answer in (usual, whole)
    ]
    assert state[1] == pytest.approx(8 * state[0], rel=1e-6)


@pytest.mark.parametrize(("device", "precision", "told"), [("t4", "bf16-mixed", True), ("t4", "fp16-mixed", False),
                                                            ("a100-sxm-80gb", "fp8", True), ("h100", "fp8", False), ("h100", "bf16-mixed", False)])  # fmt: skip
def test_numbers_that_a_device_has_not_are_told(device: str, precision: str, told: bool) -> None:
    answer = vrameter.estimate(request(device=device, precision=precision))
    assert any("has no arithmetic in" in warning for warning in answer["warnings"]) == told


OF_LANGUAGE_GIVEN: dict[str, Any] = {
    "seq_len": 33, "objective": "dpo", "loss": "full", "loss_chunk_tokens": 7, "packing": True, "padding_free": True, "freeze": ["llm"],
    "freeze_llm": True, "num_trainable_layers": 3, "ref_model": True, "reward_model": "x", "critic_model": "x", "num_generations": 3,
    "rollout_memory_utilization": 0.5, "pipeline_schedule": "gpipe", "recompute_modules": ["mlp"],
}  # fmt: skip


@pytest.mark.parametrize("name", OF_LANGUAGE)
def test_a_pipeline_is_told_which_settings_are_of_language_models(name: str) -> None:
    plain = vrameter.estimate(request(model="FLUX.1-dev", device="h100-sxm-80gb", finetuning="lora"))
    answer = vrameter.estimate(
        request(model="FLUX.1-dev", device="h100-sxm-80gb", finetuning="lora", **{name: OF_LANGUAGE_GIVEN[name]})
    )
    assert answer["report"] == plain["report"]
    assert f"Without effect on this estimate: {name}." in answer["warnings"]
    again = vrameter.estimate(plain["request"])
    assert (again["report"], again["warnings"]) == (plain["report"], plain["warnings"])


def test_an_engine_that_writes_answers_is_missed() -> None:
    assert any(
        "rollout_memory_utilization" in warning for warning in vrameter.estimate(request(objective="grpo"))["warnings"]
    )
    known = vrameter.estimate(request(objective="grpo", device="h100", rollout_memory_utilization=0.4))
    assert not any("rollout_memory_utilization" in warning for warning in known["warnings"])


# -- random requests -------------------------------------------------------------------------------------


def words(hint: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(list(hint.__args__))


def some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


ADAPTERS = some({
    "method": st.sampled_from(METHODS), "rank": st.integers(1, 256), "dropout": st.sampled_from([0.0, 0.1]),
    "targets": st.sampled_from(["all-linear", ["q_proj"], ["q_proj", "down_proj"], ["lm_head"], ["gate_proj"], [], ["c_attn"]]),
    "dtype": st.sampled_from(["fp32", "bf16"]), "modules_to_save": st.sampled_from([[], ["lm_head"], ["embed_tokens"]]),
    "num_virtual_tokens": st.integers(1, 100),
})  # fmt: skip
SETTINGS = some({
    "finetuning": words(Finetuning), "adapter": ADAPTERS, "precision": words(Precision), "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
    "objective": words(Objective), "autocast": st.booleans(), "master_weights": st.sampled_from(["fp32", "bf16", None]),
    "gradient_dtype": st.sampled_from(["fp32", "bf16", None]), "optimizer_in_backward": st.booleans(), "offload_gradients": st.booleans(),
    "optimizer_cpu_offload": st.booleans(), "ema": st.booleans(), "micro_batch": st.integers(1, 9), "seq_len": st.integers(1, 5000),
    "grad_accumulation": st.integers(0, 9), "packing": st.booleans(), "recompute": words(Recompute),
    "recompute_policy": words(RecomputePolicy), "activation_offload": st.booleans(), "attn_implementation": words(AttentionKernel),
    "fused_kernels": st.booleans(), "compile": st.booleans(), "loss": words(Loss), "loss_chunk_tokens": st.integers(1, 4096),
    "attention_dropout": st.sampled_from([0.0, 0.1]), "freeze": st.sampled_from([[], ["vit"], ["vit", "aligner"], ["llm"]]),
    "num_trainable_layers": st.integers(0, 40), "pipeline_schedule": words(Schedule), "ref_model": st.booleans(),
    "reward_model": st.sampled_from(["llama-3.2-1b", "x"]), "rollout_memory_utilization": st.floats(0, 1), "rollout_sleep": st.booleans(),
    "image_size": st.sampled_from([224, [256, 320]]), "num_frames": st.integers(1, 9), "advise": st.sampled_from([False, False, False, True]),
})  # fmt: skip
DEGREES = some({
    "tensor": st.sampled_from([1, 2, 4]), "pipeline": st.sampled_from([1, 2, 3]), "context": st.sampled_from([1, 2]),
    "expert": st.sampled_from([1, 2, 4]), "sequence": st.booleans(), "virtual_pipeline": st.sampled_from([1, 2]),
    "zero_stage": st.integers(0, 3), "fsdp": st.sampled_from([None, "full_shard", "fsdp2", "shard_grad_op", "hybrid_shard", "no_shard"]),
    "offload": st.sampled_from([None, "optimizer", "cpu", "parameters", "all"]),
})  # fmt: skip
MODELS = ["FLUX.1-dev", "stable-diffusion-xl-base-1.0", "llama-3.2-1b", "qwen3-30b-a3b", "gpt2", "t5-base", "bert-base-uncased", "qwen2.5-vl-7b-instruct", "mamba-2.8b", "deepseek-v2-lite",
          "vit-base-patch16-224", "whisper-small"]  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_training_requests_answer_or_explain(data: st.DataObject) -> None:
    asked: dict[str, Any] = {
        "task": "training",
        "model": data.draw(st.sampled_from(MODELS)),
        "engine": data.draw(st.sampled_from(sorted(MODULES))),
        "num_devices": data.draw(st.sampled_from([1, 1, 2, 4, 8, 12])),
        "settings": data.draw(SETTINGS),
    }
    for name, strategy in (
        ("parallelism", DEGREES), ("device", st.sampled_from(["h100", "rtx-4090", "24GiB"])), ("dtype", st.sampled_from(["bf16", "fp32"])),
        ("quantization", st.sampled_from(["bnb-nf4", "bnb-int8", "awq", "q4_k_m", "fp8"])),
    ):  # fmt: skip
        if data.draw(st.sampled_from([True, False, False, False])):
            asked[name] = data.draw(strategy)
    try:
        answer = vrameter.estimate(asked)
    except VrameterError as error:
        if not (error.message and error.field and error.hint):
            raise
        return
    peak = answer["devices"][0]["peak"]
    assert 0 < peak["low_bytes"] <= peak["used_bytes"] <= peak["high_bytes"]
    assert peak["allocated_bytes"] <= peak["reserved_bytes"] <= peak["used_bytes"]
    for item in answer["devices"][0]["items"]:
        assert 0 <= item["low_bytes"] <= item["bytes"] <= item["high_bytes"], item


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(st.sampled_from([*TrainingSettings.__struct_fields__, "lr"]), PLAIN, max_size=3),
    st.dictionaries(st.sampled_from([*AdapterSettings.__struct_fields__, "r"]), PLAIN, max_size=2),
)
def test_random_values_answer_or_explain(values: dict[str, Any], adapter: dict[str, Any]) -> None:
    asked = {"task": "training", "model": "gpt2", "settings": {"finetuning": "lora", "adapter": adapter, **values}}
    try:
        assert vrameter.estimate(asked)["devices"]
    except VrameterError as error:
        if not (error.message and error.field and error.hint):
            raise


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from([
    "--task", "training", "--finetuning", "lora", "--adapter-rank", "8", "-1", "x", "--seq-len", "2k", "--zero-stage", "3", "--device", "h100",
    "8xh100", "--adapter-targets", "q_proj,v_proj", "--set", "adapter.rank=3", "a.b.c=1", "--recompute", "full", "--no-compile", "--freeze",
    "--engine", "megatron", "--tp", "2", "", "\udcff", "--format", "json", "--adapter", "{", "{}", "[1]", "--float8", "--image-size", "3,4",
]), max_size=8))  # fmt: skip
def test_random_command_lines_answer_or_explain(arguments: list[str]) -> None:
    assert main(["gpt2", *arguments]) in (0, 1, 2)
