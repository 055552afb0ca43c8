"""ms-swift's Megatron commands: ``megatron sft --...``, ``megatron pt``, ``megatron rlhf``.

References
----------
.. [1] modelscope/ms-swift 3.9 and 4.6, ``swift/megatron/arguments``: ``micro_batch_size`` 1, ``global_batch_size`` 16,
       ``recompute_granularity`` selective with ``core_attn``, ``tuner_type`` full, ``use_distributed_optimizer`` and ``padding_free`` on,
       ``attention_backend`` flash, ``lora_rank`` 8, ``freeze_vit`` and ``freeze_aligner`` on, ``optimizer`` adam, gradients in fp32
       unless ``main_grads_dtype`` says bf16; ``cross_entropy_loss_fusion`` off in 3.9 and on in 4.6.
"""

from __future__ import annotations

from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.shared import adapter, fsdp_alone, one_device
from vrameter.reading.values import choice, dtype, name, names, positive, real, switch, whole

_WIDTH = choice(fp32="fp32", bf16="bf16", fp16="fp16", fp8="fp8")
TABLE: Table = {
    "model": to("model", name),
    "micro_batch_size": to("settings.micro_batch", positive),
    "tensor_model_parallel_size": to("parallelism.tensor", positive),
    "pipeline_model_parallel_size": to("parallelism.pipeline", positive),
    "context_parallel_size": to("parallelism.context", positive),
    "expert_model_parallel_size": to("parallelism.expert", positive),
    "expert_tensor_parallel_size": to("parallelism.expert_tensor", positive),
    "virtual_pipeline_model_parallel_size": to("parallelism.virtual_pipeline", positive),
    "sequence_parallel": to("parallelism.sequence", switch),
    "recompute_method": to("settings.recompute_method", choice(uniform="uniform", block="block", none=None)),
    "recompute_num_layers": to("settings.recompute_num_layers", positive),
    "recompute_granularity": to("settings.recompute", choice(full="full", selective="selective", none="none")),
    "recompute_modules": to("settings.recompute_modules", names),
    "cross_entropy_loss_fusion": to("settings.cross_entropy_loss_fusion", switch),
    "overlap_grad_reduce": to("settings.overlap_grad_reduce", switch),
    "optimizer_cpu_offload": to("settings.optimizer_cpu_offload", switch),
    "optimizer_offload_fraction": to("settings.optimizer_offload_fraction", real),
    "use_precision_aware_optimizer": to("settings.use_precision_aware_optimizer", switch),
    "exp_avg_dtype": to("settings.moment_dtype", _WIDTH),
    "main_grads_dtype": to("settings.gradient_dtype", _WIDTH),
    "optimizer": to("settings.optimizer", choice(adam="adam", sgd="sgd_momentum", muon="muon", dist_muon="muon")),
    "decoder_first_pipeline_num_layers": to("settings.decoder_first_pipeline_num_layers", whole),
    "decoder_last_pipeline_num_layers": to("settings.decoder_last_pipeline_num_layers", whole),
    "mtp_num_layers": to("settings.mtp_num_layers", whole),
    "padding_free": to("settings.padding_free", switch),
    "packing": to("settings.packing", switch),
    "freeze_llm": to("settings.freeze_llm", switch),
    "torch_dtype": to("dtype", dtype),
    "rlhf_type": to("settings.objective", choice(dpo="dpo", kto="kto", grpo="grpo", gkd="gkd", rm="reward")),
    "ref_model": to("settings.ref_model", lambda value: True),
    "mcore_ref_model": to("settings.ref_model", lambda value: True),
    "num_generations": to("settings.num_generations", positive),
    **together(
        "tuner_type train_type target_modules lora_rank lora_alpha lora_dropout modules_to_save lora_dtype global_batch_size max_length "
        "seq_length attention_backend fp8_format use_distributed_optimizer freeze_vit freeze_aligner vit_gradient_checkpointing bf16 fp16 "
        "task_type reference_free use_vllm vllm_mode vllm_gpu_memory_utilization sleep_level max_completion_length "
        "moe_layer_recompute data_parallel_sharding_strategy use_megatron_fsdp offload_optimizer offload_model"
    ),
    **ignored(
        "data",
        "dataset val_dataset cached_dataset cached_val_dataset split_dataset_ratio template system columns strict dataset_num_proc max_pixels "
        "truncation_strategy load_from_cache_file dataset_shuffle loss_scale response_prefix agent_template interleave_prob norm_bbox "
        "custom_register_path external_plugins train_dataloader_shuffle dataloader_* data_sharding group_by_length streaming num_labels "
        "enable_thinking add_non_thinking_prefix use_chat_template num_workers new_special_tokens no_create_attention_mask* mask_* "
        "shuffle_buffer_size stopping_strategy lazy_tokenize packing_* model_kwargs remove_unused_columns preserve_thinking",
    ),
    **ignored(
        "course",
        "lr min_lr lr_* weight_decay* start_weight_decay end_weight_decay clip_grad adam_beta1 adam_beta2 adam_eps sgd_momentum muon_* seed "
        "train_iters num_train_epochs max_epochs finetune perform_initialization beta rpo_alpha label_smoothing f_divergence_type "
        "desirable_weight undesirable_weight calculate_KL center_rewards_coefficient lmbda seq_kd sft_alpha teacher_kl_coef gkd_logits_topk "
        "temperature top_p top_k repetition_penalty epsilon epsilon_high delta scale_rewards advantage_estimator kl_in_reward "
        "importance_sampling_level rollout_importance_sampling_* off_policy_* fipo_* tau_* real_tau cosine_* repetition_* soft_* "
        "dynamic_sample max_resample_times overlong_filter reward_funcs reward_weights reward_model_plugin num_iterations sync_ref_model "
        "ref_model_* top_entropy_quantile log_entropy router_replay_mode max_turns multi_turn_scheduler completion_length_limit_scope "
        "moe_aux_loss_coeff moe_z_loss_coeff moe_router_* vit_lr aligner_lr lora_bias use_rslora loss_type enable_dft_loss "
        "enable_channel_loss mtp_loss_scaling_factor manual_gc* problem_type rope_scaling init_weights test_convert_* generation_batch_size "
        "steps_per_generation max_grad_norm learning_rate warmup_ratio gym_env use_gym_env apply_wd_to_qk_layernorm attention_softmax_in_fp32",
    ),
    **ignored(
        "files",
        "output_dir save save_* load add_version no_save_optim no_save_rng no_load_optim no_load_rng async_save use_hf hub_token model_type "
        "model_revision mcore_* logging_steps log_* report_to tensorboard_* wandb_* swanlab_* exit_* merge_lora max_shard_size adapters "
        "ref_adapters check_model metric_for_best_model greater_is_better use_persistent_ckpt_worker dist_ckpt_* distrib_optim_* "
        "ignore_args_error callbacks bridge_backend load_args load_data_args teacher_tag_key teacher_model_type teacher_model_revision "
        "early_stop_interval to_hf to_mcore model_author model_name",
    ),
    **ignored("evaluation", "eval_iters eval_interval eval_steps num_generations_eval"),
    **ignored("launch", "local_rank ddp_timeout ddp_backend nccl_comm_warmup use_cpu_initialization device_groups use_ray data_parallel_random_init"),
    **ignored(
        "unmodelled",
        "moe_* overlap_* fp8_* fp4_* masked_softmax_fusion bias_* apply_rope_fusion gradient_accumulation_fusion no_* account_for_* "
        "cross_entropy_fusion_impl tp_comm_overlap cp_* batch_p2p_comm align_* microbatch_group_size_per_vp_stage optimizer_cuda_graph "
        "pipeline_model_parallel_layout main_params_dtype exp_avg_sq_dtype accumulate_allreduce_grads_in_fp32 freeze_parameters* "
        "trainable_parameters* target_regex vit_gradient_checkpointing_kwargs vit_attn_impl teacher_model* offload_bridge "
        "offload_teacher_model move_model_batches async_generate vllm_* megatron_extra_kwargs language_model_only te_rng_tracker "
        "linear_decoupled_in_proj sequence_packing_scheduler mlp_padding_free apply_query_key_layer_scaling mtp_* dsa_* apply_dsa_* csa_* "
        "use_fused_mhc mhc_* engram_* task_* reward_model calculate_per_token_loss strict_fsdp_* mrl_dims deterministic_mode "
        "decoder_input_*",
    ),
}  # fmt: skip


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    usual = tr("the default of %(format)s", format="ms-swift")
    draft.request.setdefault("engine", "megatron-swift")
    half = "fp16-mixed" if draft.on("fp16") or draft.asked("dtype") == "fp16" else "bf16-mixed"
    draft.settle("fp8_format bf16 fp16", "settings.precision", "fp8" if draft.get("fp8_format") else half)
    draft.request.pop("dtype", None)
    _tuning(draft, usual)
    if draft.on("moe_layer_recompute"):
        draft.settle("moe_layer_recompute", "settings.recompute_modules", ["moe"])
    draft.assume("settings.recompute", "selective", usual)
    if draft.has("attention_backend"):
        eager = str(draft.get("attention_backend")).lower() in ("unfused", "local")
        draft.settle("attention_backend", "settings.attn_implementation", "eager" if eager else "flash_attention_2")
    for key in ("max_length", "seq_length"):
        draft.settle(key, "settings.seq_len", draft.number(key))
    draft.settle(
        "use_distributed_optimizer", "parallelism.zero_stage", int(draft.on("use_distributed_optimizer", True))
    )
    _sharding(draft)
    parts = {"freeze_vit": "vit", "freeze_aligner": "aligner"}
    given = [part for key, part in parts.items() if draft.on(key, True)]
    if any(draft.has(key) for key in parts):
        draft.settle(parts, "settings.freeze", given or None)
    if draft.has("vit_gradient_checkpointing"):
        again = "full" if draft.on("vit_gradient_checkpointing") else "none"
        draft.settle("vit_gradient_checkpointing", "settings.vision_recompute", again)
    if draft.on("reference_free"):
        draft.settle("reference_free", "settings.ref_model", False)
    if draft.on("use_vllm") and str(draft.get("vllm_mode")) == "colocate":
        share: Any = draft.get("vllm_gpu_memory_utilization", 0.9)
        draft.settle(
            "use_vllm vllm_mode vllm_gpu_memory_utilization", "settings.rollout_memory_utilization", real(share)
        )
        draft.settle("sleep_level", "settings.rollout_sleep", (draft.number("sleep_level") or 0) > 0)
    total, micro = draft.number("global_batch_size", 16) or 16, draft.asked("settings.micro_batch", 1)
    product = 1
    for degree in ("tensor", "pipeline", "context"):
        product *= draft.asked(f"parallelism.{degree}", 1)
    count = draft.asked("num_devices")
    steps = max(1, total // (micro * max(1, count // product))) if count else None
    if steps is not None:
        draft.settle("global_batch_size", "settings.grad_accumulation", steps)
    else:
        draft.settle("global_batch_size", "settings.global_batch_size", total)
    draft.assume("settings.micro_batch", 1, usual)
    fsdp_alone(draft)
    one_device(draft)


def _tuning(draft: Draft, usual: str) -> None:
    key = "tuner_type" if draft.has("tuner_type") else "train_type"
    kind = str(draft.get(key, "full")).lower()
    if kind not in ("lora", "full", "lora_llm"):
        raise refused(key, kind, tr("one of %(names)s", names="lora, full"))
    if kind == "lora_llm":
        draft.note(tr("lora_llm trains towers in full beside adapters; that is counted as adapters alone."))
    if draft.has(key):
        draft.settle(key, "settings.finetuning", "full" if kind == "full" else "lora")
    else:
        draft.assume("settings.finetuning", "full", usual)
    if kind != "full":
        adapter(
            draft, rank="lora_rank", alpha="lora_alpha", dropout="lora_dropout", targets="target_modules", saved="modules_to_save",
            defaults={"rank": 8, "alpha": 32, "dropout": 0.05, "targets": "all-linear"},
        )  # fmt: skip
        if draft.has("lora_dtype"):
            draft.settle("lora_dtype", "settings.adapter.dtype", dtype(draft.get("lora_dtype")))


def _sharding(draft: Draft) -> None:
    strategy = str(draft.get("data_parallel_sharding_strategy", "no_shard")).lower()
    if draft.on("use_megatron_fsdp"):
        shards = {"optim_grads_params": "full_shard", "optim_grads": "shard_grad_op"}
        draft.settle("use_megatron_fsdp data_parallel_sharding_strategy", "parallelism.fsdp", shards.get(strategy))


__all__ = ["TABLE", "finish"]
