"""What runs of published trainers do beyond a plain step: objectives, formats, old releases."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from tests.training.test_estimates import ask, phase
from vrameter.errors import RequestError
from vrameter.units import GIB

LAYERS, WIDTH, WORDS = 32, 4096, 128_256
LAYER = 218_112_000  # parameters of one layer of Llama 3.1 8B, norms included
NORMS = 2 * WIDTH


def trained(answer: dict[str, Any]) -> int:
    """Return the gradients that stand before the step. [bytes]."""
    return phase(answer, "gradients", "step")


# -- objectives ------------------------------------------------------------------------------------------


def test_a_pack_of_preferences_holds_both_answers() -> None:
    asked: dict[str, Any] = {"objective": "dpo", "finetuning": "lora", "recompute": "full", "seq_len": 4096}
    apart, packed = ask(**asked), ask(packing=True, **asked)
    assert phase(apart, "activations", "loss") == pytest.approx(2 * phase(packed, "activations", "loss"), rel=0.01)


def test_scores_take_the_place_of_the_output_layer() -> None:
    plain, scored = ask(seq_len=512), ask(seq_len=512, objective="sequence-classification")
    assert plain["report"]["weights_bytes"] - scored["report"]["weights_bytes"] == 4 * WORDS * WIDTH
    assert phase(scored, "temporary", "loss") < phase(plain, "temporary", "loss") / 20


@pytest.mark.parametrize("objective", ["embedding", "reranker"])
def test_texts_without_words_keep_the_output_layer(objective: str) -> None:
    plain, other = ask(seq_len=512), ask(seq_len=512, objective=objective)
    assert plain["report"]["weights_bytes"] == other["report"]["weights_bytes"]
    assert phase(other, "temporary", "loss") < phase(plain, "temporary", "loss") / 20


def test_a_rerankers_sample_is_eight_documents_in_ms_swift() -> None:
    asked: dict[str, Any] = {"objective": "reranker", "finetuning": "lora", "recompute": "full", "seq_len": 1024}
    one, eight = ask(engine="transformers", **asked), ask(engine="ms-swift", **asked)
    same = ask(engine="transformers", micro_batch=8, **asked)
    assert phase(eight, "activations", "forward") == phase(same, "activations", "forward")
    assert phase(eight, "activations", "forward") > 7 * phase(one, "activations", "forward")


def test_layers_that_look_ahead_are_trained_where_they_are_asked_for() -> None:
    """Qwen3.5-4B has one of 120,599,552 parameters, which a plain loader skips."""
    asked: dict[str, Any] = {"engine": "megatron-swift", "freeze": ["vit"], "seq_len": 256, "recompute": "full"}
    plain, ahead = ask("Qwen/Qwen3.5-4B", **asked), ask("Qwen/Qwen3.5-4B", mtp_num_layers=1, **asked)
    assert ahead["report"]["weights_bytes"] - plain["report"]["weights_bytes"] == 2 * 120_599_552
    assert ahead["report"]["steady_bytes"] - plain["report"]["steady_bytes"] == pytest.approx(
        18 * 120_599_552, rel=0.02
    )


def test_generating_under_zero_3_puts_all_weights_together() -> None:
    asked: dict[str, Any] = {
        "precision": "bf16", "dtype": "bf16", "num_devices": 8, "parallelism": {"data": 8, "zero_stage": 3}, "seq_len": 256,
        "recompute": "full",
    }  # fmt: skip
    plain, ppo, dpo = (ask(objective=each, **asked) for each in ("sft", "ppo", "dpo"))
    whole = 2 * 8_030_261_248
    assert phase(ppo, "communication", "forward") - phase(plain, "communication", "forward") == whole
    assert phase(dpo, "communication", "forward") == phase(plain, "communication", "forward")
    assert phase(ppo, "communication", "loss") == phase(plain, "communication", "loss")
    # A reference and a reward model in half precision, and a critic with all that training takes: 18 bytes a parameter.
    assert phase(ppo, "other_models", "step") == pytest.approx((2 + 2 + 16) * 8_030_261_248 / 8, rel=1e-3)


# -- formats ---------------------------------------------------------------------------------------------


def test_mxfp4_is_unpacked_for_adapters() -> None:
    answer = vrameter.estimate(
        {"task": "training", "model": "openai/gpt-oss-20b", "dtype": "bf16", "settings": {"finetuning": "lora"}}
    )
    assert answer["report"]["weights_bytes"] > 2 * 20_900_000_000
    served = vrameter.estimate({"model": "openai/gpt-oss-20b", "engine": "transformers"})
    assert served["report"]["weights_bytes"] < 15 * GIB


def test_gptq_keeps_unpacked_matrices_where_bnb_unpacks_again() -> None:
    """Two bytes a number of every matrix, for all layers at once where none is recomputed."""
    asked: dict[str, Any] = {"finetuning": "lora", "precision": "fp16", "seq_len": 16}
    kept = {name: phase(ask(quantization=name, **asked), "activations", "loss") for name in ("gptq", "bnb-nf4")}
    assert kept["gptq"] - kept["bnb-nf4"] == pytest.approx(2 * LAYERS * (LAYER - NORMS), rel=0.01)
    again = ask(quantization="gptq", recompute="full", **asked)
    assert phase(again, "activations", "loss") < 0.05 * kept["gptq"]


# -- optimizers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("args", "layers"), [(None, 2), ("lisa_activated_layers=4/lisa_step_interval=20", 4)])
def test_lisa_trains_a_few_layers_beside_embedding_and_head(args: str | None, layers: int) -> None:
    answer = ask(
        optimizer="lisa_adamw", optimizer_args=args, precision="bf16", dtype="bf16", seq_len=64, recompute="full"
    )
    params = layers * LAYER + 2 * WORDS * WIDTH + WIDTH
    assert trained(answer) == 2 * params
    assert phase(answer, "optimizer_state", "step") == 4 * params
    whole = ask(optimizer="adamw_torch", precision="bf16", dtype="bf16", seq_len=64, recompute="full")
    assert trained(whole) == 2 * 8_030_261_248


def test_a_count_of_layers_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        ask(optimizer="lisa_adamw", optimizer_args="lisa_activated_layers=all")
    assert caught.value.field == "settings.optimizer_args"


# -- old releases and several devices --------------------------------------------------------------------


def test_before_torch_2_1_a_step_makes_two_copies_and_a_context_is_whole() -> None:
    asked: dict[str, Any] = {"precision": "bf16", "dtype": "bf16", "optimizer": "adamw_torch", "seq_len": 64}
    old, new = (ask(engine_version=version, device="a100-sxm-80gb", **asked) for version in ("4.31", "4.44"))
    assert phase(old, "temporary", "step") == 2 * phase(new, "temporary", "step") == 4 * 8_030_261_248
    assert phase(old, "runtime", "step") == 1343 * 2**20


def test_a_model_of_its_own_code_hands_on_narrow_logits() -> None:
    """Qwen 1 under DeepSpeed: logits, a copy and the log-softmax in half precision; autocast widens them."""
    qwen = {
        "config": {
            "model_type": "qwen", "hidden_size": 256, "intermediate_size": 1408, "kv_channels": 32, "num_attention_heads": 8,
            "num_hidden_layers": 2, "vocab_size": 65536, "no_bias": True, "seq_length": 8192,
        },
        "name": "toy",
    }  # fmt: skip
    asked: dict[str, Any] = {
        "finetuning": "lora",
        "precision": "bf16",
        "dtype": "bf16",
        "seq_len": 8192,
        "recompute": "full",
    }
    tokens = 8192 * 65536
    plain = ask(qwen, engine_version="4.37", **asked)["report"]["loss_bytes"]
    sharded = ask(qwen, engine_version="4.37", parallelism={"zero_stage": 2}, **asked)["report"]["loss_bytes"]
    widened = ask({**qwen, "config": {**qwen["config"], "model_type": "qwen2", "intermediate_size": 704, "num_key_value_heads": 8}},
                  engine_version="4.37", parallelism={"zero_stage": 2}, **asked)["report"]["loss_bytes"]  # fmt: skip
    assert plain / tokens == pytest.approx(12, abs=0.8)
    assert sharded / tokens == pytest.approx(6, abs=0.8)
    assert widened / tokens == pytest.approx(12, abs=0.8)


def test_the_first_broadcast_of_ddp_widens_the_interval_alone() -> None:
    asked: dict[str, Any] = {"finetuning": "lora", "seq_len": 128, "recompute": "full"}
    one, two = ask(**asked), ask(num_devices=2, parallelism={"data": 2}, **asked)
    sharded = ask(num_devices=2, parallelism={"data": 2, "zero_stage": 2}, **asked)
    assert two["report"]["peak_reserved_high_bytes"] >= 2 * two["report"]["weights_bytes"] * 0.98
    assert two["report"]["peak_allocated_bytes"] == pytest.approx(one["report"]["peak_allocated_bytes"], rel=0.02)
    assert sharded["report"]["peak_reserved_high_bytes"] < 1.5 * sharded["report"]["weights_bytes"]


def test_limits_lower_the_low_end_unless_samples_are_packed() -> None:
    asked: dict[str, Any] = {"finetuning": "lora", "seq_len": 8192, "recompute": "full"}
    below, packed = ask(**asked)["report"], ask(packing=True, **asked)["report"]
    assert below["peak_allocated_bytes"] == packed["peak_allocated_bytes"]
    moving = packed["peak_allocated_bytes"] - packed["weights_bytes"]
    assert packed["peak_allocated_low_bytes"] - below["peak_allocated_low_bytes"] > moving / 2
    assert (
        ask(engine="torchtitan", seq_len=8192)["report"]["peak_allocated_low_bytes"]
        > 0.8 * (ask(engine="torchtitan", seq_len=8192)["report"]["peak_allocated_bytes"])
    )


@pytest.mark.parametrize("rank", [8, 64])
@pytest.mark.parametrize(("engine", "numbers"), [("ms-swift", 2 * 10**8), ("trl", 5 * 10**8), ("axolotl", 10**9)])
def test_a_bucket_is_whole_whatever_is_trained(engine: str, numbers: int, rank: int) -> None:
    """ms-swift's configuration names 200 million numbers, DeepSpeed assumes 500, axolotl's overlaps two such."""
    asked: dict[str, Any] = {
        "finetuning": "lora", "adapter": {"rank": rank, "targets": "all-linear"}, "seq_len": 64, "precision": "bf16",
        "dtype": "bf16", "num_devices": 2, "parallelism": {"data": 2, "zero_stage": 2},
    }  # fmt: skip
    answer = ask(engine=engine, **asked)
    assert phase(answer, "communication", "backward") == 2 * numbers
    assert phase(answer, "communication", "step") == 0


@pytest.mark.parametrize("modules", ["down_proj", "up_proj, down_proj", ["down_proj"]])
def test_ia3_scales_the_inputs_of_the_modules_that_it_is_told(modules: object) -> None:
    """Llama-3.2-3B: 3072 wide, 8192 inside, 28 layers; keys are 1024 outputs."""
    adapter = {"method": "ia3", "targets": ["k_proj", "down_proj"], "options": {"feedforward_modules": modules}}
    answer = ask("llama-3.2-3b", finetuning="peft", adapter=adapter, seq_len=128)
    adapters = sum(item["bytes"] for item in answer["devices"][0]["items"] if item["term"] == "adapters")
    assert adapters == 28 * (1024 + 8192) * 4
