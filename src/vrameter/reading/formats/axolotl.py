"""axolotl's YAML.

References
----------
.. [1] docs.axolotl.ai, "Config Reference"; ``examples/llama-3``.
.. [2] axolotl 0.9, 0.12 and 0.19, ``utils/schemas``: ``bf16`` is auto, ``optimizer`` adamw_torch_fused, ``sequence_len`` 512,
       ``micro_batch_size`` 1, ``gradient_checkpointing`` off, ``lora_dropout`` 0, ``lora_r`` peft's 8, and LoRA's kernels are on where
       nothing speaks against them; ``utils/config``: checkpointing is reentrant, and weights are loaded in bf16 where it trains in it;
       0.19, ``core/builders``: activation offloading keeps all activations in host memory in place of recomputing them.
"""

from __future__ import annotations

from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.formats import trainer
from vrameter.reading.shared import adapter, frozen_in_full, fsdp_options, one_device, packed_base
from vrameter.reading.values import choice, dtype, name, names, positive, real, switch

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
    "rl": to("settings.objective", choice(
        dpo="dpo", ipo="ipo", orpo="orpo", kto="kto", simpo="simpo", grpo="grpo", gdpo="grpo", ebft="grpo",
    )),
    "process_reward_model": to("settings.objective", lambda value: "reward" if switch(value) else None),
    "trl.vllm_enable_sleep_mode": to("settings.rollout_sleep", switch),
    "reward_model": to("settings.objective", lambda value: "reward" if switch(value) else None),
    **together(
        "load_in_4bit load_in_8bit adapter lora_r lora_alpha lora_dropout lora_target_modules lora_target_linear "
        "lora_target_parameters lora_modules_to_save peft_use_dora peft_use_rslora optimizer bf16 bfloat16 fp16 float16 "
        "flash_attention sdp_attention xformers_attention eager_attention flex_attention attn_implementation plugins liger_rope "
        "liger_rms_norm liger_glu_activation liger_layer_norm liger_swiglu liger_cross_entropy liger_fused_linear_cross_entropy "
        "cut_cross_entropy fsdp_version gradient_checkpointing trl.num_generations trl.max_completion_length trl.use_vllm "
        "trl.vllm_gpu_memory_utilization trl.vllm_mode lora_mlp_kernel lora_qkv_kernel lora_o_kernel chunked_cross_entropy "
        "chunked_cross_entropy_num_chunks cce unfrozen_parameters peft freeze_mm_modules tiled_mlp sage_attention vllm.gpu_memory_utilization "
        "trl.beta precompute_ref_log_probs dpo_padding_free trl.use_liger_loss dpo_use_liger_kernel float32 activation_offloading "
        "batch_flattening selective_checkpointing layer_offloading lora_embedding_kernel gptq"
    ),
    **ignored(
        "data",
        "datasets dataset_prepared_path val_set_size test_datasets chat_template special_tokens tokens pad_to_sequence_len "
        "eval_sample_packing dataset_processes shuffle_merged_datasets train_on_inputs group_by_length rl_beta default_system_message "
        "sample_packing_group_size sample_packing_bin_size skip_prepare_dataset pretraining_dataset tokenizer_config "
        "tokenizer_type added_tokens_overrides excess_length_strategy roles_to_train message_property_mappings "
        "dataset_exact_deduplication multipack_real_batches dataloader_num_workers chat_template_jinja eot_tokens tokenizer_use_mistral_common "
        "tokenizer_save_jinja_files sample_packing_* streaming_* pretrain_multipack_* pretraining_sample_concatenation dataset_* "
        "num_dataset_shards_to_save shuffle_before_merging_datasets min_sample_len max_prompt_len eval_sequence_len total_num_tokens "
        "total_supervised_tokens is_preprocess preprocess_iterable fix_untrained_tokens chat_template_kwargs role_boundaries image_size "
        "image_resize_algorithm processor_kwargs use_pose pose_* max_packed_sequence_len base_model_ignore_patterns",
    ),
    **ignored(
        "course",
        "learning_rate lr_scheduler num_epochs warmup_steps warmup_ratio weight_decay cosine_min_lr_ratio embedding_lr "
        "loraplus_lr_ratio max_grad_norm early_stopping_patience strict orpo_alpha s2_attention flash_attn_cross_entropy "
        "flash_attn_rms_norm flash_attn_fuse_qkv flash_attn_fuse_mlp noisy_embedding_alpha curriculum_sampling "
        "lr_groups lora_fan_in_fan_out neftune_noise_alpha adam_beta1 adam_beta2 adam_epsilon "
        "reinit_weights dpo_label_smoothing loss_watchdog_* cosine_constant_lr_ratio lr_* eta_min adam_eps adam_epsilon2 adam_beta3 dion_* "
        "loraplus_lr_embedding embedding_lr_scale jagged_restart_* kto_* cpo_alpha simpo_gamma rl_beta dpo_beta dpo_loss_* dpo_use_weighting "
        "dpo_norm_loss dpo_use_logits_to_keep rpo_alpha center_rewards_coefficient num_labels use_eaft eaft_* ebft gc_steps gc_collect_steps "
        "resize_token_embeddings_to_32x mean_resizing_embeddings shrink_embeddings scaling_softmax* grokfast_* kd_* diffusion "
        "spectrum_* dynamic_checkpoint lora_alpha_pattern peft_init_lora_weights batch_size world_size trainer_cls",
    ),
    **ignored(
        "files",
        "output_dir hub_model_id hf_use_auth_token wandb_project wandb_entity wandb_watch wandb_name wandb_log_model wandb_mode "
        "wandb_run_id mlflow_tracking_uri mlflow_experiment_name saves_per_epoch save_steps save_strategy logging_steps debug "
        "model_type base_model_config revision_of_model trust_remote_code is_llama_derived_model is_mistral_derived_model "
        "is_falcon_derived_model lora_model_dir resume_from_checkpoint auto_resume_from_checkpoints use_tensorboard comet_project_name "
        "save_safetensors tokenizer_use_fast tokenizer_legacy use_comet profiler_steps push_dataset_to_hub "
        "experimental_skip_move_to_device lora_on_cpu gpu_memory_limit is_mistral_derived_model cls_model_config processor_type "
        "swanlab_* use_swanlab otel_* use_otel_metrics use_wandb use_mlflow mlflow_* hf_mlflow_log_artifacts comet_* gradio_* "
        "use_trackio trackio_* torchdistx_path save_first_step profiler_steps_start include_tkps merge_lora merge_method "
        "axolotl_config_path is_qwen_derived_model hatchery test_value",
    ),
    **ignored("evaluation", "evals_per_epoch eval_steps eval_table_size eval_max_new_tokens eval_batch_size do_bench_eval eval_causal_lm_metrics do_causal_lm_eval bench_* "
              "generate_samples num_generation_samples generation_* lm_eval_*"),
    **ignored("launch", "local_rank ddp_timeout ddp device device_map max_memory use_ray ray_* resources_per_worker"),
    **ignored(
        "unmodelled",
        "relora* lisa_* llmcompressor qat fp8 quantize_moe_experts model_quantization_config peft_layers_to_transform lora_layers_to_transform low_cpu_mem_usage trl ebft gptq_* fp8_* "
        "lora_rank_pattern peft_layer_replication peft_layers_pattern peft_trainable_token_indices peft_ensure_weight_tying "
        "peft_autocast_adapter_dtype bnb_config_kwargs qlora_sharded_model_loading dp_replicate_size use_kernels use_scattermoe "
        "use_sonicmoe use_dsv4_kernels use_glm_dsa_kernels dsv4_* gemma4_* nvfp4_* expert_backend nonexpert_quantization moe_* "
        "experts_implementation expert_parallel_* llama4_linearized_experts fused_attn_kernel flash_optimum flex_attn_compile_kwargs "
        "large_head_attention flash_attn_d512 sdpa_varlen ple_cpu_offload tiled_mlp_* deepcompile fp32_norms fp32_norm_classes "
        "embeddings_skip_upcast model_config overrides_of_model_config overrides_of_model_kwargs type_of_model rope_scaling "
        "model_quantization_config_kwargs use_onebitllms liger_rms_norm_gated liger_use_token_scaling liger_kernel_impl dense_mixer mora "
        "qgalore_* heads_k_stride ring_attn_func torch_compile_options quantization vllm fsdp_final_state_dict_type",
    ),
}  # fmt: skip
_ALIASES = {
    "adamw_bnb_8bit": "adamw_bnb_8bit",
    "adamw_8bit": "adamw_bnb_8bit",
    "adopt_adamw": "adamw_torch",
    "muon": "muon",
    "ao_adamw_4bit": "adamw_torch_4bit",
    "ao_adamw_8bit": "adamw_torch_8bit",
    "ao_adamw_fp8": "adamw_torch_fp8",
}
# Kernels of other names that keep what a flash kernel keeps.
_FLASH = ("xformers", "sage", "flash_attention_4", "flash_attention_torch", "fp8", "flash")
_KERNELS = (
    ("flash_attention", "flash_attention_2"), ("flex_attention", "flex_attention"), ("sdp_attention", "sdpa"),
    ("xformers_attention", "flash_attention_2"), ("sage_attention", "flash_attention_2"), ("eager_attention", "eager"),
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
    if not (draft.has("bf16") or draft.has("fp16") or draft.on("float32") or draft.asked("settings.precision")):
        draft.assume("settings.precision", "bf16-mixed", tr("'auto' is bf16 on devices that have it"))
    draft.used("float32", "settings.precision")
    trainer.base(draft)
    _checkpoints(draft)
    if draft.asked("settings.precision") in ("bf16", "bf16-mixed") and not draft.asked("parallelism.fsdp"):
        draft.assume("dtype", "bf16", tr("axolotl loads weights in the numbers that it trains in"))
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
    if draft.on("freeze_mm_modules"):
        draft.settle("freeze_mm_modules", "settings.freeze", ["vit", "aligner"])
    if draft.on("tiled_mlp"):
        draft.note(tr("tiled_mlp runs perceptrons over pieces of a sequence; that saving is not counted."))
    if draft.on("trl.use_liger_loss") or draft.on("dpo_use_liger_kernel"):
        draft.settle("trl.use_liger_loss dpo_use_liger_kernel", "settings.loss", "fused")
    if draft.on("dpo_padding_free") or draft.on("batch_flattening"):
        draft.settle("dpo_padding_free batch_flattening", "settings.padding_free", True)
    if draft.on("precompute_ref_log_probs"):
        draft.settle("precompute_ref_log_probs", "settings.ref_model", False)
    elif draft.asked("settings.objective") == "grpo" and not draft.get("trl.beta"):
        draft.assume("settings.ref_model", False, tr("beta is 0 by default: nothing is compared with a reference"))
        draft.used("trl.beta", "settings.ref_model")
    if draft.has("trl.num_generations"):
        draft.settle("trl.num_generations", "settings.num_generations", draft.number("trl.num_generations"))
    if draft.on("trl.use_vllm") and draft.get("trl.vllm_mode") == "colocate":
        draft.settle(
            "trl.use_vllm trl.vllm_mode trl.vllm_gpu_memory_utilization vllm.gpu_memory_utilization", "settings.rollout_memory_utilization",
            draft.get("trl.vllm_gpu_memory_utilization", draft.get("vllm.gpu_memory_utilization", 0.9)),
        )  # fmt: skip
        draft.assume("settings.rollout_sleep", False, tr("the default of %(format)s", format="TRL"))
    draft.assume("settings.micro_batch", 1, tr("the default of %(format)s", format="axolotl"))
    draft.assume("settings.seq_len", 512, tr("the default of %(format)s", format="axolotl"))
    one_device(draft)


def _kernels(draft: Draft) -> None:
    asked: Any = None
    if draft.has("attn_implementation"):
        given = str(draft.get("attn_implementation")).lower()
        # A path on the Hub names a kernel of its own.
        flash = given in _FLASH or "/" in given
        asked = "flash_attention_2" if flash else trainer.ATTENTION(draft.get("attn_implementation"))
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
    if any(draft.on(key) for key in _LORA_KERNELS) or _kernels_by_default(draft):
        draft.note(tr("axolotl's LoRA kernels save some activations; that saving is not counted."))
    for key in _LORA_KERNELS:
        if draft.waiting.pop(key, None):
            draft.ignore(key, draft.get(key), tr("may change memory, and is not modelled"))


_LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def _kernels_by_default(draft: Draft) -> bool:
    """Say whether axolotl turns its kernels on by itself: for LoRA without dropout, outside reinforcement learning and FSDP 1."""
    if draft.get("adapter") not in ("lora", "qlora") or any(draft.has(key) for key in _LORA_KERNELS):
        return False
    if draft.asked("settings.objective") or (draft.get("adapter") == "lora" and draft.on("load_in_8bit")):
        return False
    dropped = draft.has("lora_dropout") and real(draft.get("lora_dropout")) > 0
    return not dropped and draft.asked("parallelism.fsdp") in (None, "fsdp2")


def _checkpoints(draft: Draft) -> None:
    """Read what is kept, recomputed or moved to host memory."""
    if draft.asked("settings.recompute") == "full" and draft.asked("settings.objective") is None:
        draft.assume("settings.recompute_reentrant", True, tr("the default of %(format)s", format="axolotl"))
    value = draft.get("activation_offloading")
    if value in (None, False) or str(value).lower() == "false":
        draft.used("activation_offloading", "settings.activation_offload")
    elif value is True or str(value).lower() in ("true", "legacy", "disk", "hidden_states"):
        draft.settle("activation_offloading", "settings.activation_offload", True)
        draft.put("settings.recompute", "full")
    else:
        raise refused(
            "activation_offloading", value, tr("one of %(names)s", names="true, false, legacy, disk, hidden_states")
        )
    chosen = draft.get("selective_checkpointing")
    saved = chosen.get("save", ["attention"]) if isinstance(chosen, dict) else ["attention"]
    if chosen not in (None, False) and saved == ["attention"] and draft.asked("settings.recompute") == "full":
        draft.settle("selective_checkpointing", "settings.recompute", "selective")
        draft.put("settings.recompute_policy", "attention")
    for key in ("selective_checkpointing", "layer_offloading"):
        if key in draft.waiting and draft.get(key) not in (None, False):
            draft.ignore(key, draft.get(key), tr("may change memory, and is not modelled"))
            draft.note(tr("%(key)s changes what stays in memory; that is not counted.", key=key))
            draft.waiting.pop(key, None)


def _adapter(draft: Draft) -> None:
    kind = str(draft.get("adapter") or "").lower()
    if kind == "qlora" and not draft.has("load_in_4bit"):
        draft.values["load_in_4bit"] = True
    packed = packed_base(draft, nested_default=True)
    draft.used("adapter", "settings.finetuning")
    draft.used("gptq", "quantization")
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
        defaults={"rank": 8} if linear or draft.has("lora_target_modules") else {"rank": 8, "targets": "all-linear"},
    )  # fmt: skip
    if linear:
        draft.settle("lora_target_linear", "settings.adapter.targets", "all-linear")
    draft.used("lora_target_linear", "settings.adapter.targets")
