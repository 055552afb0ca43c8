"""Whole steps: golden rows, laws, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter
from tests.configs import CONFIGS
from vrameter.errors import RequestError, UnknownNameError
from vrameter.units import GIB

LLAMA = {"config": CONFIGS["llama-3.1-8b"], "name": "llama-3.1-8b"}


def ask(model: Any = LLAMA, *, engine: str = "transformers", num_devices: int = 1, **more: Any) -> dict[str, Any]:
    """Return the response to a training request; settings and other fields by keyword."""
    fields = {
        name: more.pop(name)
        for name in ("dtype", "quantization", "device", "parallelism", "engine_version")
        if name in more
    }
    return vrameter.estimate(
        {"task": "training", "model": model, "engine": engine, "num_devices": num_devices, "settings": more, **fields}
    )


def phase(answer: dict[str, Any], term: str, name: str) -> int:
    """Return the bytes of a term in a phase."""
    return sum(
        item["bytes"] for item in answer["devices"][0]["items"] if item["term"] == term and name in item["phases"]
    )


# -- golden rows -----------------------------------------------------------------------------------------


def test_llama_8b_without_recompute() -> None:
    """32 layers of 200,840 bytes a token at 8192 tokens: 49.03 GiB, before the loss."""
    answer = ask(precision="bf16", dtype="bf16", seq_len=8192, attn_implementation="flash_attention_2")
    assert phase(answer, "activations", "forward") == pytest.approx(49.033 * GIB, rel=1e-3)


def test_llama_8b_with_recompute() -> None:
    """One input of a layer each, 2 GiB."""
    answer = ask(
        precision="bf16", dtype="bf16", seq_len=8192, recompute="full", attn_implementation="flash_attention_2"
    )
    assert phase(answer, "activations", "forward") == pytest.approx(2.0 * GIB, rel=0.02)


@pytest.mark.parametrize(
    ("precision", "dtype", "optimizer", "state", "step"),
    [
        ("bf16", "bf16", "adamw_torch", 4, 2),
        ("bf16", "bf16", "adamw_torch_fused", 4, 0),
        ("fp32", "fp32", "adamw_torch", 8, 4),
    ],
)
def test_adam_per_parameter(precision: str, dtype: str, optimizer: str, state: int, step: int) -> None:
    answer = ask(precision=precision, dtype=dtype, optimizer=optimizer, seq_len=16)
    params = answer["model"]["num_params"]
    assert phase(answer, "optimizer_state", "step") == state * params
    assert phase(answer, "temporary", "step") == step * params


def test_eight_bit_adam() -> None:
    answer = ask(precision="bf16", dtype="bf16", optimizer="adamw_torch_8bit", seq_len=16)
    assert phase(answer, "optimizer_state", "step") / answer["model"]["num_params"] == pytest.approx(2.03125, rel=1e-3)


LORA = [
    ("llama-2-7b", 8, ["q_proj", "v_proj"], 4_194_304), ("llama-2-7b", 16, "all-linear", 39_976_960),
    ("llama-2-7b", 64, "all-linear", 159_907_840), ("llama-3.1-8b", 16, "all-linear", 41_943_040),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rank", "targets", "params"), LORA)
def test_lora_counts(name: str, rank: int, targets: list[str] | str, params: int) -> None:
    answer = ask({"config": CONFIGS[name]}, finetuning="lora", adapter={"rank": rank, "targets": targets}, seq_len=16)
    assert phase(answer, "adapters", "step") == 4 * params


def test_megatron_bytes_per_parameter() -> None:
    """18 bytes plain; 6 and 12 split among 8 with the distributed optimizer."""
    args = {"num-layers": 4, "hidden-size": 512, "num-attention-heads": 8, "seq-length": 64, "max-position-embeddings": 64,
            "use-mcore-models": True, "bf16": True}  # fmt: skip
    for zero, each in ((0, 18.0), (1, 7.5)):
        answer = ask(
            {"megatron_args": args}, engine="megatron", num_devices=8, parallelism={"data": 8, "zero_stage": zero}
        )
        held = sum(
            item["bytes"] for item in answer["devices"][0]["items"]
            if item["term"] in ("weights", "gradients", "master_weights", "optimizer_state") and "step" in item["phases"]
        )  # fmt: skip
        assert held == each * answer["model"]["num_params"]


@pytest.mark.parametrize(
    ("settings", "weights", "shared"),
    [
        # 2 + 4 bytes whole; 4 + 4 + 4 among the devices.
        ({}, 6, 12),
        # The lower halves of the masters stand beside bf16 weights; moments stay in fp32 unless they are told.
        ({"use_precision_aware_optimizer": True}, 6, 10),
        ({"use_precision_aware_optimizer": True, "moment_dtype": "bf16", "gradient_dtype": "bf16"}, 4, 6),
        ({"use_precision_aware_optimizer": True, "moment_dtype": "fp8"}, 6, 4),
    ],
)
def test_megatrons_precision_aware_optimizer(settings: dict[str, Any], weights: int, shared: int) -> None:
    args = {"num-layers": 4, "hidden-size": 512, "num-attention-heads": 8, "seq-length": 64, "max-position-embeddings": 64,
            "use-mcore-models": True, "bf16": True}  # fmt: skip
    answer = ask(
        {"megatron_args": args}, engine="megatron", num_devices=8, parallelism={"data": 8, "zero_stage": 1}, **settings
    )
    held = sum(
        phase(answer, term, "step") for term in ("weights", "gradients", "master_weights", "optimizer_state")
    )  # fmt: skip
    assert held == (weights + shared / 8) * answer["model"]["num_params"]


def test_bf16_gradients_are_copied_for_the_step() -> None:
    """Four bytes for each parameter stand while fp32 masters are stepped, and none with the precision-aware optimizer."""
    args = {"num-layers": 4, "hidden-size": 512, "num-attention-heads": 8, "seq-length": 64, "max-position-embeddings": 64,
            "use-mcore-models": True, "bf16": True, "grad-reduce-in-bf16": True}  # fmt: skip
    model = {"megatron_args": args}
    plain, aware = ask(model, engine="megatron"), ask(model, engine="megatron", use_precision_aware_optimizer=True)
    assert phase(plain, "temporary", "step") - phase(aware, "temporary", "step") == 4 * plain["model"]["num_params"]


# -- laws ------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(64, 2048), st.sampled_from(["none", "full"]), st.sampled_from(["full", "lora"]))
def test_more_never_needs_less(batch: int, length: int, recompute: str, finetuning: str) -> None:
    one = ask(micro_batch=batch, seq_len=length, recompute=recompute, finetuning=finetuning)
    longer = ask(micro_batch=batch, seq_len=length + 64, recompute=recompute, finetuning=finetuning)
    wider = ask(micro_batch=batch + 1, seq_len=length, recompute=recompute, finetuning=finetuning)
    peak = one["report"]["peak_allocated_bytes"]
    assert longer["report"]["peak_allocated_bytes"] >= peak
    assert wider["report"]["peak_allocated_bytes"] >= peak
    entry = one["devices"][0]["peak"]
    assert entry["low_bytes"] <= entry["used_bytes"] <= entry["high_bytes"]
    assert entry["allocated_bytes"] <= entry["reserved_bytes"] <= entry["used_bytes"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_splits_and_the_shards_make_the_whole(stage: int) -> None:
    """Optimizer state of all devices together is at least that of one without splitting."""
    plain = ask(num_devices=8, parallelism={"data": 8})
    split = ask(num_devices=8, parallelism={"data": 8, "zero_stage": stage})
    whole = phase(plain, "optimizer_state", "step")
    assert whole <= 8 * phase(split, "optimizer_state", "step") < whole * 1.001
    assert split["report"]["peak_allocated_bytes"] < plain["report"]["peak_allocated_bytes"]


@pytest.mark.parametrize(("stage", "devices"), [(1, 2), (2, 4), (3, 8)])
def test_a_step_of_zero_makes_fp32_gradients_of_its_shard(stage: int, devices: int) -> None:
    """The third stage takes 10**9 parameters at a time: more than an eighth of the model."""
    answer = ask(
        num_devices=devices, parallelism={"data": devices, "zero_stage": stage}, precision="bf16", dtype="bf16", seq_len=16,
        optimizer="adamw_torch_fused",
    )  # fmt: skip
    shard = 8_030_261_248 // devices
    assert phase(answer, "temporary", "step") == pytest.approx(
        6 * min(shard, 10**9) if stage == 3 else 6 * shard, rel=1e-3
    )


def test_old_losses_copy_logits_and_let_the_output_go() -> None:
    """Logits in fp32, their shifted copy and the log-softmax: 12 bytes a token and word; with the output held 16."""
    tokens, words = 8192, 128_256
    asked: dict[str, Any] = {
        "precision": "bf16",
        "dtype": "bf16",
        "seq_len": tokens,
        "recompute": "full",
        "finetuning": "lora",
    }
    passed = ask(engine_version="4.40", **asked)
    held = ask(engine="fsdp_qlora", engine_version="2024", **asked)
    kept = 2 * 33 * tokens * 4096
    top = [max(answer["report"][f"{name}_bytes"] for name in ("loss", "backward")) for answer in (passed, held)]
    standing = [
        phase(answer, "weights", "loss") + phase(answer, "optimizer_state", "loss") for answer in (passed, held)
    ]
    logits = [(each - still - kept) / (tokens * words) for each, still in zip(top, standing, strict=True)]
    assert logits == [pytest.approx(12, abs=0.6), pytest.approx(16, abs=0.6)]


def test_an_allocator_that_hoards_stops_at_the_devices_end() -> None:
    """An old release of ms-swift kept blocks of every length; on a small device there is no room for them."""
    asked: dict[str, Any] = {"engine": "ms-swift", "finetuning": "lora", "seq_len": 2048, "recompute": "full"}
    new = ask(device="a100-sxm-80gb", engine_version="3.1", **asked)
    old = ask(device="a100-sxm-80gb", engine_version="2.x", **asked)
    small = ask(device="rtx-4090", engine_version="2.x", **asked)
    assert old["report"]["peak_reserved_bytes"] > 1.2 * new["report"]["peak_reserved_bytes"]
    assert small["report"]["peak_used_bytes"] <= small["devices"][0]["capacity_bytes"]
    assert old["report"]["peak_allocated_bytes"] == small["report"]["peak_allocated_bytes"]


def test_recompute_and_a_fused_loss_save() -> None:
    plain = ask(seq_len=4096)["report"]["peak_allocated_bytes"]
    less = ask(seq_len=4096, recompute="full")["report"]["peak_allocated_bytes"]
    assert ask(seq_len=4096, recompute="full", loss="fused")["report"]["peak_allocated_bytes"] < less < plain


def test_freezing_trains_the_last_layers() -> None:
    """Two layers of 218,112,000 parameters and the last norm; nothing is kept below them."""
    answer = ask(finetuning="freeze", precision="bf16", dtype="bf16", seq_len=1024)
    assert phase(answer, "optimizer_state", "step") == 4 * (2 * 218_112_000 + 4096)
    more = ask(finetuning="freeze", precision="bf16", dtype="bf16", seq_len=1024, num_trainable_layers=4)
    assert phase(more, "activations", "forward") > 1.9 * phase(answer, "activations", "forward")


def test_advice_names_what_fits() -> None:
    answer = ask(
        {"config": CONFIGS["llama-3.2-1b"]},
        device="a100-sxm-80gb",
        advise=True,
        seq_len=2048,
        precision="bf16",
        dtype="bf16",
    )
    most = answer["limits"]["micro_batch"]
    again = ask({"config": CONFIGS["llama-3.2-1b"]}, device="a100-sxm-80gb", seq_len=2048, precision="bf16", dtype="bf16",
                micro_batch=most)  # fmt: skip
    beyond = ask({"config": CONFIGS["llama-3.2-1b"]}, device="a100-sxm-80gb", seq_len=2048, precision="bf16", dtype="bf16",
                 micro_batch=most + 1)  # fmt: skip
    assert again["devices"][0]["fits"]
    assert not beyond["devices"][0]["fits"]
    saved = [change["saves_bytes"] for change in answer["changes"]]
    assert saved == sorted(saved, reverse=True)


# -- refusals --------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_devices": 6, "parallelism": {"tensor": 4}}, "parallelism"),
    ({"num_devices": 8, "parallelism": {"data": 8, "zero_stage": 3}, "optimizer": "galore_adamw"}, "settings.optimizer"),
    ({"finetuning": "lora", "adapter": {"targets": ["query"]}}, "settings.adapter.targets"),
    ({"finetuning": "full", "quantization": "bnb-nf4"}, "quantization"),
    ({"finetuning": "lora", "quantization": "q4_k_m"}, "quantization"),
    ({"precision": "fp16", "dtype": "fp16"}, "settings.precision"),
    ({"optimizer": "adamwww"}, "settings.optimizer"),
    ({"micro_bach": 1}, "settings.micro_bach"),
    ({"freeze": ["wheels"]}, "settings.freeze"),
    ({"finetuning": "peft", "adapter": {"method": "lroa"}}, "settings.adapter.method"),
    ({"finetuning": "lora", "adapter": {"targets": "all-linear", "modules_to_save": ["hat"]}}, "settings.adapter.modules_to_save"),
]  # fmt: skip


@pytest.mark.parametrize(("given_", "field"), REFUSED)
def test_refusals_name_the_field(given_: dict[str, Any], field: str) -> None:
    with pytest.raises((RequestError, UnknownNameError)) as caught:
        ask(**given_)
    assert caught.value.field == field
    assert caught.value.hint


def test_learned_positions_bound_the_length() -> None:
    gpt2 = {"config": {"model_type": "gpt2", "n_layer": 2, "n_positions": 1024}}
    with pytest.raises(RequestError, match="1024 positions"):
        ask(gpt2, seq_len=2048)
    assert any("131072" in warning for warning in ask(seq_len=262144)["warnings"])


def test_missing_targets_name_those_there_are() -> None:
    with pytest.raises(UnknownNameError) as caught:
        ask(finetuning="lora", adapter={"targets": ["zzz"]})
    assert "q_proj" in (caught.value.hint or "")


def test_old_classes_lose_in_their_own_numbers() -> None:
    """Before 4.45 GPT-2 computed its loss on bf16 logits, Llama on an fp32 copy that stayed beside a shifted one."""

    def loss(model: str, version: str) -> int:
        answer = vrameter.estimate(
            {
                "task": "training", "model": model, "engine": "transformers",
                "engine_version": version, "dtype": "bf16",
                "settings": {"precision": "bf16", "micro_batch": 4, "seq_len": 1024, "recompute": "full", "autocast": False},
            }
        )  # fmt: skip
        return answer["report"]["loss_bytes"] - answer["report"]["weights_bytes"]

    rows = 4 * 1024 * 50257
    assert loss("openai-community/gpt2", "5.2") - loss("openai-community/gpt2", "4.40") == pytest.approx(
        rows * 4, rel=0.1
    )
    assert loss("llama-3.1-8b", "4.40") > loss("llama-3.1-8b", "5.2")
