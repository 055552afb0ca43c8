"""axolotl's YAML.

References
----------
.. [1] docs.axolotl.ai, "Config Reference"; ``examples/llama-3``.
"""

from __future__ import annotations

from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, to, together
from vrameter.reading.formats import trainer
from vrameter.reading.shared import adapter, frozen_in_full, fsdp_options, one_device, packed_base
from vrameter.reading.values import choice, dtype, name, names, positive, switch

TABLE: Table = {
    **trainer.BASE,
    "base_model": to("model", name),
    "sequence_len": to("settings.seq_len", positive),
    "micro_batch_size": to("settings.micro_batch", positive),
    "sample_packing": to("settings.packing", switch),
    "context_parallel_size": to("parallelism.context", positive),
    "sequence_parallel_degree": to("parallelism.context", positive),
    "tensor_parallel_size": to("parallelism.tensor", positive),
    "dp_shard_size": to("parallelism.data", positive),
    "expert_parallel_size": to("parallelism.expert", positive),
    "torch_dtype": to("dtype", dtype),
    "rl": to("settings.objective", choice(dpo="dpo", ipo="ipo", orpo="orpo", kto="kto", simpo="simpo", grpo="grpo")),
    "reward_model": to("settings.objective", lambda value: "reward" if switch(value) else None),
    **together(
        "load_in_4bit load_in_8bit adapter lora_r lora_alpha lora_dropout lora_target_modules lora_target_linear "
        "lora_target_parameters lora_modules_to_save peft_use_dora peft_use_rslora optimizer bf16 bfloat16 fp16 float16 "
        "flash_attention sdp_attention xformers_attention eager_attention flex_attention attn_implementation plugins liger_rope "
        "liger_rms_norm liger_glu_activation liger_layer_norm liger_swiglu liger_cross_entropy liger_fused_linear_cross_entropy "
        "cut_cross_entropy fsdp_version gradient_checkpointing trl.num_generations trl.max_completion_length trl.use_vllm "
        "trl.vllm_gpu_memory_utilization trl.vllm_mode lora_mlp_kernel lora_qkv_kernel lora_o_kernel chunked_cross_entropy "
        "chunked_cross_entropy_num_chunks cce unfrozen_parameters peft"
    ),
    **ignored(
        "data",
        "datasets dataset_prepared_path val_set_size test_datasets chat_template special_tokens tokens pad_to_sequence_len "
        "eval_sample_packing dataset_processes shuffle_merged_datasets train_on_inputs group_by_length rl_beta default_system_message "
        "sample_packing_group_size sample_packing_bin_size skip_prepare_dataset pretraining_dataset tokenizer_config "
        "tokenizer_type added_tokens_overrides excess_length_strategy roles_to_train message_property_mappings "
        "dataset_exact_deduplication multipack_real_batches dataloader_num_workers chat_template_jinja",
    ),
    **ignored(
        "course",
        "learning_rate lr_scheduler num_epochs warmup_steps warmup_ratio weight_decay cosine_min_lr_ratio embedding_lr "
        "loraplus_lr_ratio max_grad_norm early_stopping_patience strict orpo_alpha s2_attention flash_attn_cross_entropy "
        "flash_attn_rms_norm flash_attn_fuse_qkv flash_attn_fuse_mlp noisy_embedding_alpha curriculum_sampling "
        "lr_groups lora_fan_in_fan_out neftune_noise_alpha adam_beta1 adam_beta2 adam_epsilon "
        "reinit_weights dpo_label_smoothing",
    ),
    **ignored(
        "files",
        "output_dir hub_model_id hf_use_auth_token wandb_project wandb_entity wandb_watch wandb_name wandb_log_model wandb_mode "
        "wandb_run_id mlflow_tracking_uri mlflow_experiment_name saves_per_epoch save_steps save_strategy logging_steps debug "
        "model_type base_model_config revision_of_model trust_remote_code is_llama_derived_model is_mistral_derived_model "
        "is_falcon_derived_model lora_model_dir resume_from_checkpoint auto_resume_from_checkpoints use_tensorboard comet_project_name "
        "save_safetensors tokenizer_use_fast tokenizer_legacy use_comet profiler_steps push_dataset_to_hub "
        "experimental_skip_move_to_device lora_on_cpu gpu_memory_limit is_mistral_derived_model cls_model_config processor_type",
    ),
    **ignored("evaluation", "evals_per_epoch eval_steps eval_table_size eval_max_new_tokens eval_batch_size do_bench_eval eval_causal_lm_metrics"),
    **ignored("launch", "local_rank ddp_timeout ddp device device_map max_memory"),
    **ignored("unmodelled", "relora_steps relora_warmup_steps lisa_step_interval lisa_n_layers gptq llmcompressor qat fp8 peft_layers_to_transform lora_layers_to_transform "
              "low_cpu_mem_usage trl.vllm_server_host trl.reward_funcs"),
}  # fmt: skip
_ALIASES = {
    "adamw_bnb_8bit": "adamw_bnb_8bit",
    "adamw_8bit": "adamw_bnb_8bit",
    "adopt_adamw": "adamw_torch",
    "muon": "muon",
}
_KERNELS = (
    ("flash_attention", "flash_attention_2"), ("flex_attention", "flex_attention"), ("sdp_attention", "sdpa"),
    ("xformers_attention", "flash_attention_2"), ("eager_attention", "eager"),
)  # fmt: skip


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    draft.request.setdefault("engine", "axolotl")
    for one, other in (("bfloat16", "bf16"), ("float16", "fp16")):
        if draft.has(one) and not draft.has(other):
            draft.values[other], draft.waiting[other] = draft.values[one], draft.waiting.pop(one)
    if str(draft.get("bf16")).lower() == "full":
        draft.settle("bf16 fp16", "settings.precision", "bf16")
        del draft.values["bf16"]
    elif draft.get("bf16") == "auto":
        draft.settle("bf16 fp16", "settings.precision", "bf16-mixed")
        draft.assumed["settings.precision"] = {
            "value": "bf16-mixed",
            "why": tr("'auto' is bf16 on devices that have it"),
        }
        del draft.values["bf16"]
    if draft.has("optimizer"):
        draft.values["optim"] = _ALIASES.get(str(draft.get("optimizer")), draft.get("optimizer"))
        draft.waiting["optim"] = draft.waiting.pop("optimizer")
    if isinstance(draft.get("fsdp_config"), dict) and not draft.get("fsdp"):
        draft.values["fsdp"], draft.waiting["fsdp"] = ["full_shard"], "fsdp_config"
    trainer.base(draft)
    if draft.has("fsdp_version") and draft.asked("parallelism.fsdp"):
        fsdp_options(draft, {"fsdp_version": draft.get("fsdp_version")}, "axolotl")
        draft.understood.pop("axolotl.fsdp_version", None)
        draft.used("fsdp_version", "parallelism.fsdp")
    draft.assume("settings.precision", "fp32", tr("neither %(one)s nor %(other)s is on", one="bf16", other="fp16"))
    _kernels(draft)
    _adapter(draft)
    if draft.has("unfrozen_parameters"):
        draft.note(tr("unfrozen_parameters trains some tensors alone; all are counted as trained."))
        draft.ignore(
            "unfrozen_parameters", draft.get("unfrozen_parameters"), tr("may change memory, and is not modelled")
        )
        draft.waiting.pop("unfrozen_parameters")
    if draft.has("trl.num_generations"):
        draft.settle("trl.num_generations", "settings.num_generations", draft.number("trl.num_generations"))
    if draft.on("trl.use_vllm") and draft.get("trl.vllm_mode") == "colocate":
        draft.settle(
            "trl.use_vllm trl.vllm_mode trl.vllm_gpu_memory_utilization", "settings.rollout_memory_utilization",
            draft.get("trl.vllm_gpu_memory_utilization", 0.3),
        )  # fmt: skip
    draft.assume("settings.micro_batch", 1, tr("the default of %(format)s", format="axolotl"))
    draft.assume("settings.seq_len", 512, tr("the default of %(format)s", format="axolotl"))
    one_device(draft)


def _kernels(draft: Draft) -> None:
    asked: Any = None
    if draft.has("attn_implementation"):
        asked = trainer.ATTENTION(draft.get("attn_implementation"))
    else:
        asked = next((kernel for key, kernel in _KERNELS if draft.on(key)), None)
        if asked is None:
            draft.assume("settings.attn_implementation", "sdpa", tr("no attention kernel is switched on"))
    draft.settle("attn_implementation " + " ".join(key for key, _ in _KERNELS), "settings.attn_implementation", asked)
    plugins = " ".join(names(draft.get("plugins"))) if draft.has("plugins") else ""
    liger = [
        key
        for key in ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_layer_norm", "liger_swiglu")
        if draft.on(key)
    ]
    if liger:
        draft.put("settings.fused_kernels", True)
    if draft.on("liger_fused_linear_cross_entropy") or draft.on("cut_cross_entropy") or "CutCrossEntropy" in plugins:
        draft.put("settings.loss", "fused")
    elif draft.on("chunked_cross_entropy"):
        draft.put("settings.loss", "chunked")
    draft.used(
        "liger_rope liger_rms_norm liger_glu_activation liger_layer_norm liger_swiglu plugins", "settings.fused_kernels"
    )
    draft.used(
        "liger_fused_linear_cross_entropy cut_cross_entropy liger_cross_entropy chunked_cross_entropy", "settings.loss"
    )
    if draft.on("lora_mlp_kernel") or draft.on("lora_qkv_kernel"):
        draft.note(tr("axolotl's LoRA kernels save some activations; that saving is not counted."))
    for key in ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"):
        if draft.waiting.pop(key, None):
            draft.ignore(key, draft.get(key), tr("may change memory, and is not modelled"))


def _adapter(draft: Draft) -> None:
    kind = str(draft.get("adapter") or "").lower()
    if kind == "qlora" and not draft.has("load_in_4bit"):
        draft.values["load_in_4bit"] = True
    packed = packed_base(draft, nested_default=True)
    draft.used("adapter", "settings.finetuning")
    if kind not in ("lora", "qlora"):
        draft.assume("settings.finetuning", "full", tr("nothing asks for an adapter"))
        if packed:
            frozen_in_full(draft, "load_in_4bit" if packed.startswith("bnb-nf4") else "load_in_8bit")
        return
    draft.put("settings.finetuning", "dora" if draft.on("peft_use_dora") else "lora")
    draft.used("peft_use_dora peft_use_rslora", "settings.finetuning")
    linear = draft.on("lora_target_linear")
    adapter(
        draft, rank="lora_r", alpha="lora_alpha", dropout="lora_dropout", targets="lora_target_modules", saved="lora_modules_to_save",
        defaults={"rank": 8, "alpha": 16} if linear or draft.has("lora_target_modules") else {"rank": 8, "alpha": 16, "targets": "all-linear"},
    )  # fmt: skip
    if linear:
        draft.settle("lora_target_linear", "settings.adapter.targets", "all-linear")
    draft.used("lora_target_linear", "settings.adapter.targets")
