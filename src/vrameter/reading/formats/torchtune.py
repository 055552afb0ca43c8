"""torchtune's YAML.

References
----------
.. [1] meta-pytorch/torchtune 0.3 and 0.6, ``recipes/configs``: one component per ``_component_``; ``recipes/*_distributed.py`` shard by FSDP2,
       and what a configuration leaves out (recompute, offloading, compilation, a step in the backward pass) is off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.shared import one_device
from vrameter.reading.values import choice, names, positive, real, switch, whole

TABLE: Table = {
    "batch_size": to("settings.micro_batch", positive),
    "gradient_accumulation_steps": to("settings.grad_accumulation", positive),
    "tokenizer.max_seq_len": to("settings.seq_len", positive),
    "dataset.packed": to("settings.packing", switch),
    "optimizer_in_bwd": to("settings.optimizer_in_backward", switch),
    "enable_activation_offloading": to("settings.activation_offload", switch),
    "compile": to("settings.compile", switch),
    "dtype": to("settings.precision", choice(bf16="bf16", fp32="fp32", fp16="fp16")),
    "tensor_parallel_dim": to("parallelism.tensor", positive),
    "context_parallel_dim": to("parallelism.context", positive),
    "data_parallel_shard_dim": to("parallelism.data", lambda value: whole(value) if whole(value) > 0 else None),
    "fsdp_cpu_offload": to("parallelism.offload", lambda value: "cpu" if switch(value) else None),
    "model.lora_rank": to("settings.adapter.rank", whole),
    "model.lora_alpha": to("settings.adapter.alpha", real),
    "model.lora_dropout": to("settings.adapter.dropout", real),
    "enable_activation_checkpointing": to("settings.recompute", lambda value: "full" if switch(value) else "none"),
    **together(
        "checkpointer.checkpoint_dir base_model_path optimizer._component_ optimizer.fused optimizer.foreach loss._component_ "
        "loss.num_output_chunks model._component_ model.lora_attn_modules model.apply_lora_to_mlp model.apply_lora_to_output "
        "model.quantize_base model.use_dora optimizer.momentum loss dataset._component_ kd_loss teacher_model policy_model grpo_samples "
        "data_parallel_replicate_dim model.decoder_trainable model.encoder_trainable"
    ),
    **ignored("data", "dataset tokenizer._component_ tokenizer.path tokenizer.prompt_template tokenizer.merges_file seed shuffle "
              "dataset.source dataset.split dataset.train_on_input dataset.column_map dataset.new_system_prompt dataset.data_files "
              "dataset.conversation_column dataset.conversation_style tokenizer.special_tokens_path tokenizer.image_size dataset_val "
              "dataset.* dataset_val.* datasets datasets.* dataloader.* dataloader collate_fn tokenizer.* prompt* min_response_length "
              "stop_token_ids penalise_no_eos reward_* limit tasks"),
    **ignored(
        "files",
        "output_dir checkpointer checkpointer._component_ checkpointer.checkpoint_files checkpointer.output_dir checkpointer.model_type "
        "checkpointer.recipe_checkpoint checkpointer.adapter_checkpoint resume_from_checkpoint save_adapter_weights_only metric_logger "
        "log_every_n_steps log_peak_memory_stats log_level profiler checkpoint_dir enable_async_checkpointing save_last_epoch_only "
        "optimizer.state_dict checkpointer.* metric_logger.* profiler.* save_* teacher_checkpointer.* teacher_checkpointer ref_checkpointer.* "
        "ref_checkpointer ref_policy_checkpointer.* ref_policy_checkpointer value_checkpointer.* value_checkpointer reward_checkpointer.* "
        "reward_checkpointer name orchestration.* orchestration inference.* postprocessing.* training.*",
    ),
    **ignored(
        "course",
        "optimizer.lr optimizer.weight_decay optimizer.betas optimizer.eps optimizer.nesterov lr_scheduler epochs max_steps_per_epoch "
        "clip_grad_norm custom_sharded_layers num_warmup_steps loss.ignore_index fsdp_reshard_after_forward loss.* lr_scheduler.* optimizer.* "
        "kd_ratio kd_loss.* ppo_* num_steps forward_batch_size whiten_rewards gamma lmbda kl_coeff temperature top_k "
        "max_generated_tokens reward_functions",
    ),
    **ignored("evaluation", "run_val_every_n_steps batch_size_val"),
    **ignored("launch", "device cudnn_deterministic_mode low_cpu_ram"),
    **ignored("unmodelled", "enable_fp8_training fp8_recipe_name tensor_parallel_plan* ac_mode ac_option quantizer quantizer.* fsdp.* fsdp fsdp_* "
              "memory_efficient_fsdp_wrap enable_kv_cache max_seq_length max_new_tokens model.* teacher_model.* reward_and_value_model.* "
              "policy_model.* use_loss_parallel_ctx_manager"),
}  # fmt: skip
_OPTIMIZERS = {
    "AdamW": "adamw_torch", "Adam": "adamw_torch", "SGD": "sgd", "AdamW8bit": "adamw_bnb_8bit", "PagedAdamW8bit": "paged_adamw_8bit",
    "PagedAdamW": "paged_adamw_32bit", "AdamW4bit": "adamw_torch_4bit", "AdamWFp8": "adamw_torch_fp8", "Adafactor": "adafactor_torch",
    "Lion": "lion", "Lion8bit": "lion_8bit", "CPUOffloadOptimizer": "adamw_torch",
}  # fmt: skip
_BUILDER = re.compile(
    r"(?P<kind>lora_|qlora_)?(?P<family>[a-z]+(?:_llama)?)(?P<version>\d*(?:_\d+)?)_(?P<size>(?:\d+_)?\d+b(?:_\w+)?|mini|medium)$"
)
_SLOTS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "output_proj": "o_proj"}


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    draft.request.setdefault("engine", "torchtune")
    builder = str(draft.get("model._component_", "")).rpartition(".")[2]
    tunes = builder.startswith(("lora_", "qlora_")) or draft.has("model.lora_attn_modules")
    _model(draft, builder)
    draft.put("settings.finetuning", ("dora" if draft.on("model.use_dora") else "lora") if tunes else "full")
    draft.used("model._component_ model.use_dora", "settings.finetuning")
    if tunes:
        slots = draft.get("model.lora_attn_modules", ["q_proj", "v_proj"])
        targets = [_SLOTS.get(each, each) for each in names(slots)]
        if draft.on("model.apply_lora_to_mlp"):
            targets += ["gate_proj", "up_proj", "down_proj"]
        if draft.on("model.apply_lora_to_output"):
            targets.append("lm_head")
        draft.settle(
            "model.lora_attn_modules model.apply_lora_to_mlp model.apply_lora_to_output",
            "settings.adapter.targets",
            targets,
        )
        draft.assume("settings.adapter.rank", 8, tr("the default of %(format)s", format="torchtune"))
        if builder.startswith("qlora_") or draft.on("model.quantize_base"):
            draft.put("quantization", "bnb-nf4-dq")
            draft.note(tr("torchtune's NF4 weights are counted as bitsandbytes' with double quantisation."))
        draft.used("model.quantize_base", "quantization")
    _optimizer(draft)
    loss = str(draft.get("loss._component_", draft.get("loss", "")))
    if loss:
        chunked = "Chunked" in loss or "LinearCrossEntropy" in loss
        draft.settle("loss._component_ loss.num_output_chunks loss", "settings.loss", "chunked" if chunked else "full")
    _objective(draft, loss)
    if draft.has("model.decoder_trainable") and str(draft.get("model.decoder_trainable")) == "frozen":
        draft.settle("model.decoder_trainable", "settings.freeze_llm", True)
    if draft.has("model.encoder_trainable") and str(draft.get("model.encoder_trainable")) == "frozen":
        draft.settle("model.encoder_trainable", "settings.freeze", ["vit"])
    draft.assume("settings.recompute", "none", tr("the default of %(format)s", format="torchtune"))
    draft.assume("settings.micro_batch", 2, tr("the default of %(format)s", format="torchtune"))
    draft.used("dataset._component_", "settings.packing")
    one_device(draft)


def _objective(draft: Draft, loss: str) -> None:
    kind = loss.rpartition(".")[2].lower()
    preferences = {"dpoloss": "dpo", "rsoloss": "dpo", "simpoloss": "simpo"}
    if draft.has("grpo_samples"):
        draft.settle("grpo_samples", "settings.objective", "grpo")
    elif draft.has("policy_model") or kind == "ppoloss":
        draft.settle("policy_model", "settings.objective", "ppo")
    elif draft.has("kd_loss") or draft.has("teacher_model"):
        draft.settle("kd_loss teacher_model", "settings.objective", "gkd")
    elif kind in preferences:
        draft.settle("", "settings.objective", preferences[kind])


def _optimizer(draft: Draft) -> None:
    kind = str(draft.get("optimizer._component_", "")).rpartition(".")[2]
    if not kind:
        return
    if kind not in _OPTIMIZERS:
        raise refused("optimizer._component_", kind, tr("one of %(names)s", names=", ".join(_OPTIMIZERS)))
    found = _OPTIMIZERS[kind]
    if found == "adamw_torch" and draft.on("optimizer.fused"):
        found = "adamw_torch_fused"
    if found == "sgd" and draft.get("optimizer.momentum"):
        found = "sgd_momentum"
    draft.settle(
        "optimizer._component_ optimizer.fused optimizer.foreach optimizer.momentum", "settings.optimizer", found
    )


def _model(draft: Draft, builder: str) -> None:
    place = str(draft.get("checkpointer.checkpoint_dir", "")).rstrip("/").rpartition("/")[2]
    match = _BUILDER.match(builder)
    if draft.asked("model") is None and match:
        version = match["version"].replace("_", ".")
        family, size = match["family"].replace("code_llama", "codellama"), match["size"].replace("_", ".")
        if match["family"] == "mistral":
            found = "mistral-7b-v0.1"
        elif match["family"] in ("phi",):
            found = f"phi-{version}-{size}"
        elif match["family"] in ("llama", "gemma"):
            found = "-".join(part for part in (family, version, size) if part)
        else:
            found = f"{family}{version}-{size}".replace(".base", "").replace(".instruct", "")
        draft.put("model", found)
        why = tr("the builder %(name)s", name=builder)
        draft.assumed["model"] = {"value": found, "why": why}
    elif draft.asked("model") is None and place:
        draft.put("model", place)
    draft.used("checkpointer.checkpoint_dir", "model")


def interpolated(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with values such as ``${batch_size}`` replaced by what they name."""

    def look(path: str) -> Any:
        found: Any = tree
        for part in path.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return None if isinstance(found, (Mapping, list)) or len(str(found)) > 1024 else found

    def walk(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: walk(each) for key, each in value.items()}
        if isinstance(value, str) and len(value) <= 1024:
            whole_match = re.fullmatch(r"\$\{([\w.]+)\}", value)
            if whole_match and look(whole_match[1]) is not None:
                return look(whole_match[1])
            return re.sub(r"\$\{([\w.]+)\}", lambda match: str(look(match[1]) or match[0]), value)
        return value

    return {key: walk(value) for key, value in tree.items()}


__all__ = ["TABLE", "finish", "interpolated"]
