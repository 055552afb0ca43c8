"""Which format a configuration is in, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table
from vrameter.reading.shared import one_device

# format -> module in formats, keys that only it has, keys that it shares with others
FORMATS: dict[str, tuple[str, str, str]] = {
    "transformers": ("trainer", "per_device_train_batch_size output_dir", "learning_rate gradient_checkpointing num_train_epochs"),
    "trl": ("trainer", "max_seq_length use_peft dataset_text_field num_generations max_prompt_length lora_task_type max_completion_length",
            "per_device_train_batch_size output_dir lora_r beta model_name_or_path"),
    "axolotl": ("axolotl", "base_model sequence_len sample_packing micro_batch_size datasets val_set_size dataset_prepared_path",
                "adapter lora_r num_epochs flash_attention"),
    "llama-factory": ("llama_factory", "finetuning_type cutoff_len stage lora_target quantization_bit template dataset_dir flash_attn",
                      "model_name_or_path dataset per_device_train_batch_size plot_loss"),
    "llama-factory-v1": ("llama_factory_v1", "model_class train_dataset peft_config dist_config quant_config kernel_config sample_backend",
                         "model cutoff_len micro_batch_size"),
    "ms-swift": ("swift", "train_type tuner_type sft_type attn_impl rlhf_type quant_bits freeze_vit split_dataset_ratio model_id_or_path",
                 "model dataset torch_dtype target_modules max_length"),
    "deepspeed": ("deepspeed", "zero_optimization train_micro_batch_size_per_gpu train_batch_size steps_per_print", "bf16 fp16 optimizer"),
    "accelerate": ("accelerate", "distributed_type compute_environment num_machines deepspeed_config main_training_function", "mixed_precision num_processes"),
    "torchtune": ("torchtune", "checkpointer enable_activation_checkpointing optimizer_in_bwd metric_logger clip_grad_norm", "model optimizer loss tokenizer batch_size"),
    "torchtitan": ("torchtitan", "parallelism activation_checkpoint job metrics module", "model training optimizer checkpoint lr_scheduler"),
    "litgpt": ("litgpt", "checkpoint_dir out_dir lora_query lora_mlp train model_config", "precision quantize devices lora_r eval model_name"),
    "verl": ("verl", "actor_rollout_ref algorithm critic reward_model", "data trainer"),
    "openrlhf": ("openrlhf", "ds ckpt actor_num_gpus_per_node micro_train_batch_size prompt_data generate_max_len colocate_all_models",
                 "train pretrain zero_stage rollout vllm algo packing_samples"),
    "nemo": ("nemo", "exp_manager", "trainer model name"),
    "megatron-bridge": ("bridge", "ddp scheduler rng mixed_precision", "train checkpoint model dataset optimizer logger peft"),
    "megatron-swift": ("megatron_swift", "mcore_model no_save_optim cross_entropy_loss_fusion decoder_first_pipeline_num_layers",
                       "model dataset max_length micro_batch_size global_batch_size recompute_granularity tuner_type"),
    "megatron": ("megatron", "num_layers hidden_size num_attention_heads tensor_model_parallel_size micro_batch_size seq_length global_batch_size "
                 "pipeline_model_parallel_size encoder_num_layers use_mcore_models transformer_impl", "lr bf16"),
}  # fmt: skip
ALIASES = {
    "hf": "transformers", "trainer": "transformers", "llamafactory": "llama-factory", "llama_factory": "llama-factory",
    "bridge": "megatron-bridge", "nemo2": "megatron-bridge", "swift": "ms-swift", "megatron-lm": "megatron", "titan": "torchtitan", "tune": "torchtune", "lit-gpt": "litgpt",
}  # fmt: skip


def format_named(given: str) -> str:
    """Return a format by the name that ``--as`` gives it."""
    lowered = ALIASES.get(given.strip().lower(), given.strip().lower())
    if lowered not in FORMATS:
        raise UnknownNameError(
            tr("--as: there is no format '%(value)s'.", value=given[:60]), lowered, FORMATS, field="--as",
            otherwise=tr("Use one of: %(names)s.", names=", ".join(FORMATS)),
        )  # fmt: skip
    return lowered


def format_of(tree: Mapping[str, Any]) -> str | None:
    """Return the format that a document's keys tell: two points for a key of its own, one for a shared one."""
    model = tree.get("model")
    if isinstance(model, Mapping) and isinstance(tree.get("train"), Mapping) and "_component_" not in model:
        return "megatron-bridge"
    keys = {str(key).replace("-", "_").partition(".")[0] for key in tree}
    scores = {
        kind: 2 * len(keys & set(own.split())) + len(keys & set(shared.split()))
        for kind, (_, own, shared) in FORMATS.items()
    }
    best = max(scores, key=lambda kind: scores[kind])
    if scores[best] < 2:
        return None
    if best.startswith("megatron") and "model" in keys and "num_layers" not in keys:
        best = "megatron-swift"
    if best.startswith("llama-factory") and "model_name_or_path" in keys:
        best = "llama-factory"
    if best == "transformers" and keys & set(FORMATS["trl"][1].split()):
        best = "trl"
    return best


def read_tree(draft: Draft, tree: Mapping[str, Any], kind: str) -> None:
    """Read a document of a format into a draft."""
    module = import_module(f"vrameter.reading.formats.{FORMATS[kind][0]}")
    draft.format = kind
    draft.request["task"] = "training"
    if kind in ("deepspeed", "accelerate"):
        with draft.refusing():
            module.read(draft, tree)
        draft.request.setdefault("engine", "transformers")
        one_device(draft)
        return
    if kind in ("torchtune", "verl", "nemo"):
        tree = module.interpolated(tree) if kind == "torchtune" else module.prepared(tree)
    if kind in ("megatron", "megatron-swift", "torchtitan", "litgpt"):
        tree = {key.replace("-", "_"): value for key, value in tree.items()}
    if kind == "trl":
        draft.request.setdefault("engine", "trl")
    table: Table = module.TABLE
    if kind == "megatron":
        draft.values["__all__"] = dict(tree)
    draft.take(tree, table)
    finish: Callable[[Draft], None] = module.finish
    with draft.refusing():
        finish(draft)
    draft.values.pop("__all__", None)


def unknown_format(name: str) -> RequestError:
    """Return the error of a text that is no configuration and no command known here."""
    return RequestError(
        tr("%(name)s: is no configuration and no command known here.", name=name),
        field="FILE",
        hint=tr("Force its format with --as: %(names)s.", names=", ".join(FORMATS)),
    )


__all__ = ["ALIASES", "FORMATS", "format_named", "format_of", "read_tree", "unknown_format"]
