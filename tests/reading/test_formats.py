"""Examples of every format, in the shape that its own documentation shows, with the requests that they amount to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vrameter.reading import Reading, read_text

EXAMPLES = Path(__file__).parent / "examples"
LLAMA_3 = "meta-llama/Meta-Llama-3-8B-Instruct"

# example -> format, fields of the request that it decides
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "axolotl_lora_8b.yaml": ("axolotl", {
        "model": "NousResearch/Meta-Llama-3-8B", "engine": "axolotl", "quantization": "bnb-int8", "settings.seq_len": 4096,
        "settings.micro_batch": 2, "settings.grad_accumulation": 4, "settings.packing": True, "settings.finetuning": "lora",
        "settings.adapter": {"rank": 32, "alpha": 16.0, "dropout": 0.05, "targets": "all-linear"},
        "settings.optimizer": "adamw_bnb_8bit", "settings.precision": "bf16-mixed", "settings.recompute": "full",
        "settings.recompute_reentrant": True, "settings.attn_implementation": "flash_attention_2",
    }),
    "axolotl_qlora_fsdp.yaml": ("axolotl", {
        "quantization": "bnb-nf4-dq", "settings.adapter.targets": ["q_proj", "v_proj", "k_proj", "o_proj"], "settings.loss": "fused",
        "settings.fused_kernels": True, "parallelism": {"fsdp": "full_shard", "offload": "cpu"},
    }),
    "llama3_lora_sft.yaml": ("llama-factory", {
        "model": LLAMA_3, "engine": "llama-factory", "settings.objective": "sft", "settings.finetuning": "lora",
        "settings.adapter": {"rank": 8, "targets": "all-linear"}, "settings.seq_len": 2048, "settings.micro_batch": 1,
        "settings.grad_accumulation": 8, "settings.precision": "bf16-mixed", "settings.recompute": "full",
    }),
    "llama3_full_sft.yaml": ("llama-factory", {
        "settings.finetuning": "full", "parallelism.zero_stage": 2, "settings.loss": "fused", "dtype": "bf16",
        "settings.attn_implementation": "flash_attention_2", "settings.micro_batch": 1, "settings.grad_accumulation": 2,
    }),
    "llama3_lora_dpo.yaml": ("llama-factory", {
        "settings.objective": "orpo", "quantization": "bnb-nf4-dq", "settings.precision": "fp16-mixed",
        "settings.adapter": {"rank": 16, "alpha": 32.0, "targets": ["q_proj", "v_proj"]},
    }),
    "trainer.json": ("transformers", {
        "model": "Qwen/Qwen2.5-7B", "engine": "transformers", "settings.micro_batch": 4, "settings.optimizer": "adafactor",
        "settings.recompute": "full", "settings.recompute_reentrant": False, "settings.compile": True, "settings.seq_len": 2048,
        "parallelism": {"fsdp": "full_shard", "offload": "cpu"}, "settings.finetuning": "full",
    }),
    "trl_sft.yaml": ("trl", {
        "engine": "trl", "quantization": "bnb-nf4", "settings.finetuning": "lora", "settings.seq_len": 2048, "settings.packing": True,
        "settings.adapter": {"rank": 32, "alpha": 16.0, "dropout": 0.05, "targets": "all-linear"},
        "settings.attn_implementation": "flash_attention_2",
    }),
    "trl_grpo.yaml": ("trl", {
        "settings.objective": "grpo", "settings.num_generations": 8, "settings.seq_len": 1536,
        "settings.rollout_memory_utilization": 0.25,
    }),
    "ds_z3_offload.json": ("deepspeed", {
        "parallelism": {"zero_stage": 3, "offload": "all"}, "settings.micro_batch": 2, "settings.grad_accumulation": 4,
        "num_devices": 8, "settings.precision": "bf16-mixed", "settings.optimizer": "adam", "dtype": "bf16",
    }),
    "ds_z2_config.json": ("deepspeed", {"parallelism": {"zero_stage": 2}}),
    "accelerate_fsdp.yaml": ("accelerate", {
        "num_devices": 8, "parallelism": {"fsdp": "full_shard"}, "settings.precision": "bf16-mixed",
    }),
    "accelerate_ds3.yaml": ("accelerate", {
        "num_devices": 16, "parallelism": {"zero_stage": 3, "offload": "optimizer"}, "settings.grad_accumulation": 2,
    }),
    "torchtune_8b_full.yaml": ("torchtune", {
        "model": "llama-3.1-8b", "engine": "torchtune", "settings.finetuning": "full", "settings.optimizer": "paged_adamw_8bit",
        "settings.optimizer_in_backward": True, "settings.loss": "chunked", "settings.precision": "bf16", "settings.micro_batch": 2,
        "settings.seq_len": 2048, "settings.packing": True, "settings.recompute": "full",
    }),
    "torchtune_8b_lora.yaml": ("torchtune", {
        "settings.finetuning": "lora", "settings.optimizer": "adamw_torch_fused",
        "settings.adapter": {"rank": 8, "alpha": 16.0, "dropout": 0.0,
                             "targets": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
        "settings.grad_accumulation": 8, "settings.seq_len": 4096,
    }),
    "llama3_8b.toml": ("torchtitan", {
        "model": "llama-3.1-8b", "engine": "torchtitan", "settings.finetuning": "pretrain", "settings.seq_len": 8192,
        "settings.micro_batch": 1, "settings.recompute": "selective", "settings.recompute_policy": "op", "dtype": "fp32",
        "settings.optimizer": "adamw_torch_fused", "settings.precision": "bf16-mixed",
    }),
    "litgpt_qlora.yaml": ("litgpt", {
        "model": "meta-llama/Meta-Llama-3-8B", "engine": "litgpt", "quantization": "bnb-nf4", "settings.precision": "bf16",
        "settings.adapter": {"rank": 32, "alpha": 16.0, "dropout": 0.05, "targets": ["q_proj", "v_proj"]}, "settings.micro_batch": 2,
        "settings.grad_accumulation": 4, "settings.seq_len": 512, "settings.optimizer": "paged_adamw_32bit",
    }),
    "megatron_pretrain.sh": ("megatron", {
        "engine": "megatron", "num_devices": 16, "settings.micro_batch": 1, "settings.grad_accumulation": 64,
        "parallelism": {"tensor": 4, "pipeline": 2, "sequence": True, "zero_stage": 1}, "settings.precision": "bf16-mixed",
        "settings.recompute": "full", "settings.recompute_method": "uniform", "settings.recompute_num_layers": 1,
        "settings.attn_implementation": "flash_attention_2", "settings.seq_len": 4096,
    }),
    "swift_sft.sh": ("ms-swift", {
        "model": "Qwen/Qwen2.5-7B-Instruct", "engine": "ms-swift", "num_devices": 2, "parallelism": {"zero_stage": 2},
        "settings.finetuning": "lora", "settings.seq_len": 2048, "settings.attn_implementation": "flash_attention_2",
        "settings.adapter": {"rank": 8, "alpha": 32.0, "dropout": 0.05, "targets": "all-linear"}, "settings.grad_accumulation": 16,
    }),
    "verl_grpo.sh": ("verl", {
        "model": "Qwen/Qwen2.5-7B-Instruct", "num_devices": 8, "settings.seq_len": 4096, "settings.micro_batch": 4,
        "settings.objective": "grpo", "settings.ref_model": True, "settings.rollout_memory_utilization": 0.6, "dtype": "fp32",
        "settings.grad_accumulation": 32, "parallelism": {"fsdp": "full_shard"}, "settings.padding_free": True,
    }),
    "openrlhf_dpo.sh": ("openrlhf", {
        "model": "meta-llama/Llama-3.1-8B-Instruct", "num_devices": 4, "settings.objective": "dpo", "parallelism": {"zero_stage": 3},
        "settings.adapter": {"rank": 16, "targets": "all-linear"}, "settings.seq_len": 4096, "settings.micro_batch": 2,
        "settings.recompute": "full",
    }),
    "megatron_swift.sh": ("megatron-swift", {
        "model": "Qwen/Qwen3-30B-A3B", "engine": "megatron-swift", "num_devices": 8, "settings.recompute": "selective",
        "settings.recompute_modules": ["layernorm", "moe_act"], "settings.grad_accumulation": 8,
        "parallelism": {"expert": 8, "tensor": 2, "sequence": True, "zero_stage": 1},
        "settings.adapter": {"rank": 16, "alpha": 32, "dropout": 0.05, "targets": "all-linear"},
    }),
    "nemo_gpt.yaml": ("nemo", {
        "num_devices": 16, "settings.precision": "bf16-mixed", "settings.recompute": "selective", "settings.seq_len": 4096,
        "parallelism": {"tensor": 4, "pipeline": 2, "sequence": True, "zero_stage": 1}, "settings.global_batch_size": 128,
        "model.megatron_args.max-position-embeddings": 4096, "model.megatron_args.normalization": "RMSNorm",
        "model.megatron_args.group-query-attention": True, "model.megatron_args.swiglu": True,
    }),
    "bridge_lora.yaml": ("megatron-bridge", {
        "settings.adapter": {"rank": 16, "alpha": 32.0, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        "settings.recompute_modules": ["core_attn", "mlp"], "settings.moment_dtype": "bf16", "settings.gradient_dtype": "fp32",
        "settings.use_precision_aware_optimizer": True, "parallelism": {"tensor": 2, "context": 2, "zero_stage": 1},
    }),
    "llamafactory_v1.yaml": ("llama-factory-v1", {
        "model": "Qwen/Qwen3-4B", "quantization": "bnb-nf4-dq", "settings.adapter": {"rank": 16, "alpha": 32.0, "targets": "all-linear"},
        "parallelism": {"fsdp": "fsdp2"}, "settings.seq_len": 4096,
    }),
    "torchtitan_registry.sh": ("torchtitan", {
        "model": "llama-3.1-8b", "num_devices": 8, "settings.seq_len": 8192, "settings.micro_batch": 2, "settings.recompute_policy": "op",
        "parallelism": {"tensor": 2},
    }),
    "Modelfile": ("ollama", {"model": "ollama:llama3.1:8b", "engine": "ollama", "settings": {"num_ctx": 16384}}),
}  # fmt: skip


def reading_of(name: str) -> Reading:
    def beside(reference: str) -> str:
        return (EXAMPLES / Path(reference).name).read_text()

    return read_text((EXAMPLES / name).read_text(), name=name, open=beside)


def field(request: Any, path: str) -> Any:
    for part in path.split("."):
        request = request.get(part) if isinstance(request, dict) else None
    return request


@pytest.mark.parametrize("name", KNOWN)
def test_known_examples(name: str) -> None:
    expected_format, expected = KNOWN[name]
    reading = reading_of(name)
    assert reading.format == expected_format
    assert {path: field(reading.request, path) for path in expected} == expected


def test_every_example_is_known() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_no_key_of_an_example_is_unknown(name: str) -> None:
    odd = [entry["key"] for entry in reading_of(name).ignored if "known here" in entry["reason"]]
    assert odd == []


@pytest.mark.parametrize("name", KNOWN)
def test_every_key_ends_in_one_place(name: str) -> None:
    reading = reading_of(name)
    told = [entry["key"] for entry in reading.ignored]
    assert len(told) == len(set(told))
    assert not set(told) & set(reading.understood)
    for target, entry in reading.assumed.items():
        assert entry["why"], target


def test_megatron_arguments_describe_the_model() -> None:
    model = reading_of("megatron_pretrain.sh").request["model"]["megatron_args"]
    assert model["num-layers"] == 32
    assert model["vocab-size"] == 32000
    assert model["swiglu"] is True
    assert "lr" not in model
