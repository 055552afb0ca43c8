"""Figures of training that were published, or measured with autograd's own hooks, which the formulas have to give."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from tests.configs import CONFIGS
from tests.training.scenes import LENGTH, SEQS, TOY, block_cost
from vrameter.memory.published_training import (
    block_activation_bytes,
    deepspeed_stage3_bytes,
    deepspeed_stage3_host_bytes,
    megatron_state_bytes,
    zero_state_bytes,
)
from vrameter.model.read import read_config

GB, GIB = 10**9, 2**30
LLAMA_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32000, "max_position_embeddings": 2048,
}  # fmt: skip
LLAMA_65B = {
    **LLAMA_7B,
    "hidden_size": 8192,
    "intermediate_size": 22016,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}


def step(config: dict[str, Any], engine: str = "transformers", **fields: Any) -> dict[str, Any]:
    top = {name: fields.pop(name) for name in ("dtype", "quantization") if name in fields}
    return vrameter.estimate(
        {"task": "training", "model": {"config": config}, "engine": engine, "settings": fields, **top}
    )


def moving(answer: dict[str, Any], phase: str) -> int:
    """Return activations and temporaries of a phase. [bytes]."""
    return sum(
        item["bytes"] for item in answer["devices"][0]["items"]
        if phase in item["phases"] and item["term"] in ("activations", "temporary")
    )  # fmt: skip


# -- published formulas ----------------------------------------------------------------------------------


def test_zero_of_its_paper() -> None:
    """Figure 1: 7.5 billion parameters on 64 devices."""
    sizes = [zero_state_bytes(num_params=7_500_000_000, devices=64, stage=stage) / GB for stage in range(4)]
    assert sizes == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


@pytest.mark.parametrize(("devices", "distributed", "each"), [(1, 0, 18), (8, 1, 7.5), (64, 1, 6.1875)])
def test_megatron_by_its_own_report(devices: int, distributed: int, each: float) -> None:
    assert megatron_state_bytes(num_params=64_000, devices=devices, distributed=distributed) == each * 64_000


def test_deepspeeds_estimator() -> None:
    large = [
        deepspeed_stage3_bytes(num_params=2851 * 10**6, largest_layer=32 * 10**6, devices=1, split_bytes=split) / GIB
        for split in (18, 2, 0)
    ]
    assert large == pytest.approx([47.913, 5.430, 0.119], abs=5e-4)
    sizes = {"num_params": 60_506_624, "largest_layer": 16_449_536, "devices": 1}
    small = [deepspeed_stage3_bytes(split_bytes=split, **sizes) / GIB for split in (0, 2, 18)]
    assert [round(size, 2) for size in small] == [0.06, 0.17, 1.08]
    host = [deepspeed_stage3_host_bytes(host_bytes=each, **sizes) / GIB for each in (18, 16, 0)]
    assert [round(size, 2) for size in host] == [1.52, 1.35, 0.09]


@pytest.mark.parametrize(
    ("heads", "length", "hidden", "expected"),
    [(96, 2048, 12288, 80), (128, 2048, 20480, 64), (160, 2048, 25600, 64), (64, 2048, 6144, 106.67)],
)
def test_attention_matrices_of_published_models(heads: int, length: int, hidden: int, expected: float) -> None:
    """5 a s / h of GPT-3, MT-NLG, a model of 1T and one of 22B."""
    both = [
        block_activation_bytes(num_tokens=length, hidden_size=hidden, num_heads=heads, length=length, tensor_parallel=1, selective=each)
        for each in (0, 1)
    ]  # fmt: skip
    assert (both[0] - both[1]) / (length * hidden) == pytest.approx(expected, abs=0.01)


def test_a_block_of_gpt_3() -> None:
    sizes = {"num_tokens": 2048, "hidden_size": 12288, "num_heads": 96, "length": 2048, "tensor_parallel": 1}
    assert [block_activation_bytes(selective=each, **sizes) / GIB for each in (0, 1)] == [2.671875, 0.796875]


# -- measured with autograd's hooks ----------------------------------------------------------------------


def test_a_mixture_keeps_what_was_measured() -> None:
    model = read_config(
        {"model_type": "qwen3_moe", **TOY, "moe_intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2}
    )
    assert block_cost(model).saved / (SEQS * LENGTH) == pytest.approx(12_220.25, rel=5e-3)


def test_latent_attention_keeps_what_was_measured() -> None:
    """17,680 bytes a token with torch's math on a CPU; a fused kernel keeps queries, keys, values and outputs of 48 numbers a head."""
    model = read_config({
        "model_type": "deepseek_v3", "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 8,
        "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "vocab_size": 128,
        "num_hidden_layers": 2, "first_k_dense_replace": 2, "n_routed_experts": 8, "moe_intermediate_size": 128, "num_experts_per_tok": 2,
        "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    })  # fmt: skip
    math = 8 * 8 * 48 + 4 * 8 * 64 + 6 * 8 * 32
    fused = 2 * 4 * 8 * 48 + 4 * 8
    assert block_cost(model).saved == (17_680 - math + fused) * SEQS * LENGTH


def test_one_layer_runs_again() -> None:
    """Llama 3.1 8B at 8192 tokens: what a layer keeps, and the gradients on their way through it."""
    made = block_cost(read_config(CONFIGS["llama-3.1-8b"]), kernel="flash", seqs=1, length=8192)
    assert made.saved == 200_840 * 8192
    assert made.backward / GIB == pytest.approx(2.032, rel=1e-3)


TOY_MODEL = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1792, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
BF16 = {
    "precision": "bf16",
    "dtype": "bf16",
    "attn_implementation": "flash_attention_2",
    "seq_len": 1024,
    "grad_accumulation": 2,
}


def test_peaks_of_a_toy_model() -> None:
    """Measured on a CPU; the tables of rotations, 256 bytes a token here, are not counted."""
    again = step({**TOY_MODEL, "vocab_size": 512}, recompute="full", **BF16)
    assert moving(again, "backward") / 1024 == pytest.approx(35_632, rel=0.01)
    plain = step({**TOY_MODEL, "vocab_size": 32_000}, **BF16)
    assert moving(plain, "loss") / 1024 == pytest.approx(374_620, rel=0.01)
    assert moving(plain, "backward") / 1024 == pytest.approx(438_612, rel=0.01)


def test_a_loss_over_a_large_vocabulary() -> None:
    """8192 tokens and 128,256 words: 10 and 12 bytes a logit."""
    config = {**TOY_MODEL, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 128_256,
              "max_position_embeddings": 8192}  # fmt: skip
    answer = step(config, **{**BF16, "seq_len": 8192})
    assert moving(answer, "loss") / GIB == pytest.approx(9.785, rel=0.02)
    assert moving(answer, "backward") / GIB == pytest.approx(11.742, rel=0.02)


# -- whole runs ------------------------------------------------------------------------------------------


def test_adam_in_bf16_by_galores_paper() -> None:
    """14 GB of weights and 42 of gradients and moments for 7 billion: 8 bytes a parameter; 2 GB of activations beside them."""
    answer = step(LLAMA_7B, seq_len=2048, precision="bf16", dtype="bf16", recompute="full")
    held = sum(
        item["bytes"] for item in answer["devices"][0]["items"]
        if item["term"] in ("weights", "gradients", "optimizer_state") and "step" in item["phases"]
    )  # fmt: skip
    assert held == 8 * answer["model"]["num_params"]
    assert (7e9 * 8 + moving(answer, "loss")) / GB == pytest.approx(58, rel=0.03)


# LLaMA-Factory's table of hardware: [GB]
TABLE = [
    (LLAMA_7B, "full", None, 140), (LLAMA_7B, "lora", None, 16), (LLAMA_7B, "lora", "bnb-int8", 10), (LLAMA_7B, "lora", "bnb-nf4", 6),
    (LLAMA_65B, "full", None, 1200), (LLAMA_65B, "lora", None, 160), (LLAMA_65B, "lora", "bnb-int8", 80), (LLAMA_65B, "lora", "bnb-nf4", 48),
]  # fmt: skip


@pytest.mark.parametrize(("config", "finetuning", "quantization", "expected"), TABLE)
def test_what_llama_factory_asks_for(
    config: dict[str, Any], finetuning: str, quantization: str | None, expected: int
) -> None:
    fields = {"quantization": quantization} if quantization else {}
    answer = step(config, "llama-factory", finetuning=finetuning, recompute="full", seq_len=2048, **fields)
    assert answer["devices"][0]["peak"]["used_bytes"] / GB == pytest.approx(expected, rel=0.25)


def test_a_model_of_65_billion_by_qloras_paper() -> None:
    """On one card of 48 GB; in full, more than 780 GB."""
    packed = step(
        LLAMA_65B,
        finetuning="lora",
        quantization="bnb-nf4-dq",
        recompute="full",
        seq_len=512,
        optimizer="paged_adamw_32bit",
    )
    assert packed["devices"][0]["peak"]["used_bytes"] < 48 * GB
    assert step(LLAMA_65B, recompute="full", seq_len=512)["devices"][0]["peak"]["used_bytes"] > 780 * GB
