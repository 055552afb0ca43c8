"""What each stack assumes where a configuration is silent, release by release, with its source.

A row is a configuration as short as it can be and what it amounts to. Sources are files of the named releases.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.reading.test_formats import field
from vrameter.errors import VrameterError
from vrameter.reading import Reading, read_text


def at(reading: Reading, path: str) -> Any:
    """Return a field of the request that a source amounts to."""
    return field(reading.request, path)


# format: text -> fields of the request, and where the default stands
DEFAULTS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "axolotl", "base_model: a/b\nadapter: lora\n",
        {"settings.precision": "bf16-mixed", "settings.seq_len": 512, "settings.micro_batch": 1, "settings.recompute": "none",
         "settings.adapter": {"rank": 8, "targets": "all-linear"}, "settings.attn_implementation": "sdpa", "dtype": "bf16"},
        "axolotl 0.9.2, 0.12.2, 0.19.0: utils/schemas/config.py, training.py, peft.py; peft 0.21: LoraConfig.r",
    ),
    (
        "axolotl", "base_model: a/b\ngradient_checkpointing: true\n",
        {"settings.recompute": "full", "settings.recompute_reentrant": True, "settings.finetuning": "full"},
        "axolotl 0.19.0: utils/config/__init__.py",
    ),
    (
        "axolotl", "base_model: a/b\ngradient_checkpointing: true\nselective_checkpointing: true\n",
        {"settings.recompute": "selective", "settings.recompute_policy": "attention"},
        "axolotl 0.19.0: utils/schemas/training.py, SelectiveCheckpointingConfig.save",
    ),
    (
        "axolotl", "base_model: a/b\nrl: grpo\n", {"settings.ref_model": False, "settings.objective": "grpo"},
        "axolotl 0.19.0 hands beta on to TRL 1.9, whose default is 0",
    ),
    (
        "llama-factory", "model_name_or_path: a/b\nstage: sft\n",
        {"settings.seq_len": 2048, "settings.finetuning": "lora", "settings.adapter": {"rank": 8, "targets": "all-linear"},
         "settings.micro_batch": 8, "settings.recompute": "full", "settings.recompute_reentrant": True, "settings.precision": "fp32"},
        "LLaMA-Factory 0.9.1, 0.9.5: hparams/*_args.py; transformers 4.57: TrainingArguments",
    ),
    (
        "llama-factory", "model_name_or_path: a/b\nquantization_bit: 4\npure_bf16: true\nuse_unsloth_gc: true\n",
        {"quantization": "bnb-nf4-dq", "settings.precision": "bf16", "settings.adapter.dtype": "bf16", "settings.activation_offload": True},
        "LLaMA-Factory 0.9.5: hparams/model_args.py (double_quantization), model/adapter.py",
    ),
    (
        "llama-factory-v1", "model: a/b\nmodel_class: llm\ntrain_dataset: c\n",
        {"settings.seq_len": 2048, "settings.micro_batch": 1, "settings.finetuning": "full", "settings.precision": "bf16-mixed",
         "settings.recompute": "full"},
        "LLaMA-Factory, August 2026: v1/config/training_args.py",
    ),
    (
        "ms-swift", "--model a/b --dataset c --train_type lora",
        {"settings.adapter": {"rank": 8, "alpha": 32, "dropout": 0.05, "targets": "all-linear"}, "settings.micro_batch": 1,
         "settings.recompute": "full", "settings.precision": "bf16-mixed"},
        "ms-swift 3.9.0, 4.6.0: arguments/tuner_args.py, trainers/arguments.py",
    ),
    (
        "megatron-swift", "--model a/b --micro_batch_size 2",
        {"settings.finetuning": "full", "settings.recompute": "selective", "parallelism.zero_stage": 1, "settings.precision": "bf16-mixed",
         "settings.global_batch_size": 16},
        "ms-swift 3.9.0, 4.6.0: megatron/arguments/megatron_args.py",
    ),
    (
        "trl", "model_name_or_path: a/b\nnum_generations: 8\nbf16: true\n",
        {"settings.ref_model": False, "settings.objective": "grpo", "settings.recompute": "full", "settings.micro_batch": 8},
        "TRL 0.19.1, 0.24.0, 1.16.0: grpo_config.py (beta 0.0), base_config.py; transformers: TrainingArguments",
    ),
    (
        "trl", "model_name_or_path: a/b\nnum_generations: 8\nbeta: 0.04\nuse_vllm: true\n",
        {"settings.rollout_memory_utilization": 0.3, "settings.rollout_sleep": False, "settings.precision": "bf16-mixed"},
        "TRL 1.16.0: grpo_config.py (vllm_mode, vllm_gpu_memory_utilization, vllm_enable_sleep_mode)",
    ),
    (
        "transformers", "model_name_or_path: a/b\noutput_dir: c\nactivation_checkpointing: true\n",
        {"settings.recompute": "full", "settings.micro_batch": 8, "settings.precision": "fp32"},
        "transformers 5.23: training_args.py",
    ),
    (
        "torchtitan", "[model]\nname = 'llama3'\nflavor = '8B'\n[training]\nsteps = 10\n[parallelism]\ndata_parallel_shard_degree = -1\n",
        {"settings.micro_batch": 8, "settings.seq_len": 2048, "settings.recompute": "selective", "settings.recompute_policy": "layer",
         "settings.recompute_num_layers": 2, "settings.optimizer": "adamw_torch_fused", "dtype": "fp32", "engine_version": "0.2"},
        "torchtitan 0.2.0: config/job_config.py",
    ),
    (
        "deepspeed", '{"zero_optimization": {"stage": 2, "overlap_comm": true}, "train_micro_batch_size_per_gpu": 1}',
        {"settings.reduce_bucket_size": 500_000_000, "settings.overlap_grad_reduce": True, "parallelism.zero_stage": 2},
        "DeepSpeed 0.18.0: runtime/zero/config.py",
    ),
    (
        "deepspeed", '{"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "stage3_max_live_parameters": 1e8}}',
        {"settings.reduce_bucket_size": None, "settings.stage3_max_live_parameters": 100_000_000},
        "transformers 4.57.1: integrations/deepspeed.py",
    ),
    (
        "trl", "model_name: unsloth/a\nmax_seq_length: 2048\nload_in_4bit: true\nr: 16\nuse_gradient_checkpointing: unsloth\n",
        {"engine": "unsloth", "settings.recompute": "full", "settings.activation_offload": True, "settings.precision": "bf16-mixed",
         "settings.adapter.rank": 16, "quantization": "bnb-nf4"},
        "Unsloth 2026.10.9: models/loader.py, models/llama.py",
    ),
    (
        "transformers", "--model_name_or_path a/b --max_seq_length 4096 --use_lora --lora_rank 64 --use_flash_attn --output_dir c",
        {"settings.finetuning": "lora", "settings.adapter.rank": 64, "settings.attn_implementation": "flash_attention_2"},
        "open-instruct, August 2026: open_instruct/finetune.py",
    ),
    (
        "verl", "actor_rollout_ref:\n  model:\n    path: a/b\nalgorithm:\n  adv_estimator: gae\n",
        {"settings.seq_len": 1024, "settings.objective": "ppo", "settings.reward_model": "none", "settings.ref_model": False,
         "settings.rollout_memory_utilization": 0.5, "settings.rollout_sleep": True, "parallelism.fsdp": "full_shard", "dtype": "fp32",
         "settings.recompute": "full", "num_devices": 8, "settings.padding_free": True},
        "verl 0.9.1: trainer/config/_generated_ppo_trainer.yaml",
    ),
    (
        "openrlhf", "--pretrain a/b --zero_stage 3 --micro_train_batch_size 2",
        {"parallelism.zero_stage": 3, "settings.seq_len": 2048, "settings.recompute": "none", "dtype": "bf16", "settings.micro_batch": 2},
        "OpenRLHF 0.11.2: cli/train_sft.py",
    ),
    (
        "megatron-bridge", "train: {micro_batch_size: 2}\nmodel: {seq_length: 1024}\npeft: {alpha: 16}\n",
        {"settings.adapter.rank": 32, "settings.precision": "bf16-mixed", "parallelism.zero_stage": 1,
         "settings.adapter.targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
        "Megatron Bridge 0.3.1: peft/lora.py, training/mixed_precision.py",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text", "expected", "source"), DEFAULTS, ids=[f"{row[0]}: {row[3][:60]}" for row in DEFAULTS]
)
def test_defaults(kind: str, text: str, expected: dict[str, Any], source: str) -> None:
    reading = read_text(text, name="a.toml" if text.startswith("[") else "a", format=kind)
    for path, value in expected.items():
        assert at(reading, path) == value, (path, source)


def test_what_was_filled_in_is_told() -> None:
    """A default is an assumption; a key is what was understood."""
    reading = read_text("base_model: a/b\nadapter: lora\nmicro_batch_size: 4\n", name="a.yml")
    assert "settings.precision" in reading.assumed
    assert reading.understood["micro_batch_size"] == "settings.micro_batch"
    assert "settings.micro_batch" not in reading.assumed


# -- keys ------------------------------------------------------------------------------------------------


def test_keys_that_begin_alike_share_a_reason() -> None:
    reading = read_text("base_model: a/b\nswanlab_project: c\nswanlab_anything: d\n", name="a.yml")
    assert {entry["key"] for entry in reading.ignored} >= {"swanlab_project", "swanlab_anything"}
    assert not reading.notes


@pytest.mark.parametrize(
    ("kind", "key", "near"),
    [
        ("axolotl", "context_parapllel_size", "context_parallel_size"),
        ("llama-factory", "cutof_len", "cutoff_len"),
        ("megatron-swift", "tensor_model_parallel_sise", "tensor_model_parallel_size"),
    ],
)
def test_unknown_keys_are_told_with_the_nearest(kind: str, key: str, near: str) -> None:
    reading = read_text(f"{key}: 2\nmodel: a/b\n", name="a.yml", format=kind)
    assert any(near in note for note in reading.notes)


@pytest.mark.parametrize(
    ("kind", "text", "key"),
    [
        ("axolotl", "base_model: a/b\nactivation_offloading: sometimes\n", "activation_offloading"),
        ("axolotl", "base_model: a/b\nrl: reinforce\n", "rl"),
        ("llama-factory-v1", "model: a/b\nquant_config: {quantization_bit: 3}\n", "quant_config.quantization_bit"),
        ("megatron-swift", "--model a/b --tuner_type prefix", "tuner_type"),
        ("verl", "actor_rollout_ref: {actor: {strategy: ddp}}\n", "actor_rollout_ref.actor.strategy"),
        ("nemo", "trainer: {precision: 12}\nexp_manager: {}\nmodel: {num_layers: 2}\n", "trainer.precision"),
        ("megatron-bridge", "train: {micro_batch_size: 1}\nmodel: {}\nmixed_precision: int8\n", "mixed_precision"),
        ("openrlhf", "--ds.param_dtype int4 --pretrain a/b", "ds.param_dtype"),
    ],
)
def test_bad_values_name_their_key(kind: str, text: str, key: str) -> None:
    with pytest.raises(VrameterError) as caught:
        read_text(text, name="a", format=kind)
    assert caught.value.field == key
    assert caught.value.hint


def test_a_regular_expression_stays_one() -> None:
    pattern = r"model.language_model.layers.[\d]+.(mlp|self_attn).(up|down|gate|q|k|v|o)_proj"
    reading = read_text(f"base_model: a/b\nadapter: lora\nlora_target_modules: '{pattern}'\n", name="a.yml")
    assert at(reading, "settings.adapter.targets") == pattern
    listed = read_text("base_model: a/b\nadapter: lora\nlora_target_modules: [q_proj, v_proj]\n", name="a.yml")
    assert at(listed, "settings.adapter.targets") == ["q_proj", "v_proj"]


def test_experts_need_devices_of_their_own() -> None:
    """Two devices share each matrix, and eight the experts: eight, not sixteen; a second stage doubles them."""
    text = "--model a/b --tensor_model_parallel_size 2 --expert_model_parallel_size 8"
    assert at(read_text(text, name="a", format="megatron-swift"), "num_devices") == 8
    text += " --pipeline_model_parallel_size 2"
    assert at(read_text(text, name="a", format="megatron-swift"), "num_devices") == 16


def test_sharding_by_fsdp_takes_the_distributed_optimizers_place() -> None:
    text = "--num-layers 2 --hidden-size 64 --use-distributed-optimizer --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params"
    assert at(read_text(text, name="a", format="megatron"), "parallelism") == {"fsdp": "full_shard"}


@pytest.mark.parametrize("value", ["0.5", "0.55"])
def test_a_share_of_memory_is_a_number(value: str) -> None:
    reading = read_text(
        f"swift rlhf --rlhf_type grpo --model a/b --use_vllm true --vllm_mode colocate --vllm_gpu_memory_utilization {value}"
    )
    assert at(reading, "settings.rollout_memory_utilization") == float(value)


# -- scripts ---------------------------------------------------------------------------------------------


def swift(value: str, *, before: str = "") -> Reading:
    """Return the reading of a command with one computed value."""
    return read_text(f"{before}swift sft --model a/b --gradient_accumulation_steps {value}\n", name="a.sh")


@pytest.mark.parametrize(
    ("value", "before", "expected"),
    [
        ("$(expr 32 / 4 / 2)", "", 4),
        ("$((32 / (2 * N)))", "N=4\n", 4),
        ("`expr 16 / $N`", "N=8\n", 2),
        ("$((GLOBAL / N % 7))", "N=2\nGLOBAL=24\n", 5),
    ],
)
def test_sums_are_worked_out(value: str, before: str, expected: int) -> None:
    assert at(swift(value, before=before), "settings.grad_accumulation") == expected


@pytest.mark.parametrize(
    "value", ["$(nproc)", "$STEPS", "${STEPS:?}", "$((1 / 0))", "$((2 ** 99))", "$((__import__('os')))", "$4"]
)
def test_what_a_script_computes_is_told(value: str) -> None:
    reading = swift(value)
    assert at(reading, "settings.grad_accumulation") is None
    assert any("computed" in note for note in reading.notes)


def test_the_last_of_two_flags_counts() -> None:
    reading = read_text("swift sft --model a/b --max_length 100 --max_length 200", name="a.sh")
    assert at(reading, "settings.seq_len") == 200


def test_arrays_hold_remarks_and_parentheses() -> None:
    script = """
# It's a remark with an apostrophe
ARGS=(
    --num-layers 2  # of them (two)
    --hidden-size 64
    --moe-layer-freq "([0]*1+[1]*1)"
)
ARGS+=("--num-attention-heads 4")
ARGS=("${ARGS[@]}" --seq-length 128 --micro-batch-size 3)
$PREFIX torchrun --nproc_per_node 2 pretrain_gpt.py ${ARGS[@]}
"""
    reading = read_text(script, name="a.sh")
    arguments = at(reading, "model.megatron_args")
    assert arguments["num-layers"] == 2
    assert arguments["num-attention-heads"] == 4
    assert arguments["moe-layer-freq"] == "([0]*1+[1]*1)"
    assert at(reading, "settings.micro_batch") == 3
    assert at(reading, "num_devices") == 2


def test_flags_that_are_kept_in_variables() -> None:
    script = 'TP=${TP:-2}\nOPTIONS="--num-layers 2 --hidden-size 64 --num-attention-heads 4 --tensor-model-parallel-size $TP"\n'
    assert at(read_text(script, name="a.sh"), "parallelism.tensor") == 2


def test_a_configuration_that_is_not_there() -> None:
    def nowhere(name: str) -> str:
        raise FileNotFoundError(name)

    with pytest.raises(VrameterError, match="no such file"):
        read_text("axolotl train lost.yaml", open=nowhere)
    with pytest.raises(VrameterError, match="no such file"):
        read_text(
            "accelerate launch --config_file lost.yaml train.py --model_name_or_path a/b --output_dir c", open=nowhere
        )
