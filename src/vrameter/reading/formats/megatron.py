"""Megatron-LM's argument list.

Arguments that shape the model go to the model as they stand; the others become a training request.

References
----------
.. [1] NVIDIA/Megatron-LM, ``megatron/training/arguments.py``, ``examples``.
"""

from __future__ import annotations

from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.shared import fsdp_alone, one_device
from vrameter.reading.values import choice, positive, real, switch, whole

SHAPE = [
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "group_query_attention",
    "kv_channels",
    "seq_length",
    "max_position_embeddings",
    "vocab_size",
    "make_vocab_size_divisible_by",
    "position_embedding_type",
    "normalization",
    "swiglu",
    "untie_embeddings_and_output_weights",
    "disable_bias_linear",
    "add_qkv_bias",
    "qk_layernorm",
    "num_experts",
    "moe_router_topk",
    "moe_ffn_hidden_size",
    "moe_layer_freq",
    "moe_shared_expert_intermediate_size",
    "moe_router_enable_expert_bias",
    "multi_latent_attention",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_head_dim",
    "qk_pos_emb_head_dim",
    "v_head_dim",
    "mtp_num_layers",
    "transformer_impl",
    "spec",
    "use_mcore_models",
    "hybrid_override_pattern",
    "hybrid_layer_pattern",
    "mamba_head_dim",
    "mamba_num_groups",
    "mamba_state_dim",
    "encoder_num_layers",
    "decoder_num_layers",
    "decoder_seq_length",
    "img_h",
    "img_w",
    "patch_dim",
    "bert_no_binary_head",
    "disable_vision_class_token",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
    "pipeline_model_parallel_layout",
    "accumulate_allreduce_grads_in_fp32",
    "defer_embedding_wgrad_compute",
    "wgrad_deferral_limit",
    "attention_backend",
    "attention_dropout",
    "hidden_dropout",
    "recompute_modules",
    "bf16",
    "fp16",
    "tensor_model_parallel_size",
    "num_layers_per_virtual_pipeline_stage",
    "num_virtual_stages_per_pipeline_rank",
    "decoder_first_pipeline_num_layers",
    "decoder_last_pipeline_num_layers",
    "moe_grouped_gemm",
    "no_gradient_accumulation_fusion",
    "moe_token_dispatcher_type",
    "moe_expert_capacity_factor",
    "moe_router_dtype",
    "moe_router_force_load_balancing",
    "tp_comm_overlap",
    "fp8_param_gather",
    "num_distributed_optimizer_instances",
    "no_use_layer_wise_param_layout",
    "grad_reduce_in_bf16",
    "main_grads_dtype",
    "exp_avg_dtype",
    "cross_entropy_fusion_impl",
    "deterministic_mode",
    "microbatch_group_size_per_virtual_pipeline_stage",
    "mamba_num_heads",
    "fine_grained_activation_offloading",
    "offload_modules",
    "perform_rl_step",
    "cuda_graph_impl",
    "inference_dynamic_batching_buffer_size_gb",
    "inference_dynamic_batching_max_requests",
    "rl_kv_cache_management_mode",
    "rl_inference_tensor_model_parallel_size",
    "rl_inference_pipeline_model_parallel_size",
    "rl_inference_expert_model_parallel_size",
    "rl_inference_expert_tensor_model_parallel_size",
    "rl_offload_inference_model_weights_when_idle",
    "rl_inference_model_unified_memory_level",
]

TABLE: Table = {
    **together(
        "global_batch_size use_flash_attn attention_backend fp8_format fp8_hybrid fp8_e4m3 recompute_granularity recompute_activations "
        "recompute_modules use_torch_fsdp2 data_parallel_sharding_strategy use_megatron_fsdp use_custom_fsdp no_gradient_accumulation_fusion "
        "deterministic_mode " + " ".join(SHAPE)
    ),
    "micro_batch_size": to("settings.micro_batch", positive),
    "tensor_model_parallel_size": to("parallelism.tensor", positive),
    "pipeline_model_parallel_size": to("parallelism.pipeline", positive),
    "context_parallel_size": to("parallelism.context", positive),
    "expert_model_parallel_size": to("parallelism.expert", positive),
    "expert_tensor_parallel_size": to("parallelism.expert_tensor", positive),
    "num_virtual_stages_per_pipeline_rank": to("parallelism.virtual_pipeline", positive),
    "sequence_parallel": to("parallelism.sequence", switch),
    "use_distributed_optimizer": to("parallelism.zero_stage", lambda value: 1 if switch(value) else None),
    "seq_length": to("settings.seq_len", positive),
    "recompute_method": to("settings.recompute_method", choice(uniform="uniform", block="block")),
    "recompute_num_layers": to("settings.recompute_num_layers", positive),
    "optimizer": to("settings.optimizer", choice(adam="adam", sgd="sgd_momentum", muon="muon", dist_muon="muon")),
    "cross_entropy_loss_fusion": to("settings.cross_entropy_loss_fusion", switch),
    "overlap_grad_reduce": to("settings.overlap_grad_reduce", switch),
    "optimizer_cpu_offload": to("settings.optimizer_cpu_offload", switch),
    "optimizer_offload_fraction": to("settings.optimizer_offload_fraction", real),
    "use_precision_aware_optimizer": to("settings.use_precision_aware_optimizer", switch),
    "exp_avg_dtype": to("settings.moment_dtype", choice(fp32="fp32", bf16="bf16", fp16="fp16", fp8="fp8")),
    "main_grads_dtype": to("settings.gradient_dtype", choice(fp32="fp32", bf16="bf16")),
    "grad_reduce_in_bf16": to("settings.gradient_dtype", lambda value: "bf16" if switch(value) else None),
    "decoder_first_pipeline_num_layers": to("settings.decoder_first_pipeline_num_layers", whole),
    "decoder_last_pipeline_num_layers": to("settings.decoder_last_pipeline_num_layers", whole),
    "mtp_num_layers": to("settings.mtp_num_layers", whole),
    "model": to("model"),
    **ignored(
        "course",
        "lr min_lr lr_decay_style lr_decay_iters lr_decay_samples lr_warmup_iters lr_warmup_fraction lr_warmup_samples lr_warmup_init "
        "weight_decay adam_beta1 adam_beta2 adam_eps clip_grad init_method_std seed train_iters train_samples start_weight_decay "
        "end_weight_decay weight_decay_incr_style lr_wsd_decay_style rotary_base rotary_percent rope_scaling_factor use_rope_scaling "
        "norm_epsilon rampup_batch_size moe_aux_loss_coeff moe_router_load_balancing_type moe_z_loss_coeff moe_router_score_function "
        "moe_router_bias_update_rate moe_router_topk_scaling_factor moe_router_group_topk moe_router_num_groups "
        "moe_router_pre_softmax initial_loss_scale loss_scale min_loss_scale loss_scale_window hysteresis squared_relu "
        "rotary_seq_len_interpolation_factor mtp_loss_scaling_factor use_rotary_position_embeddings no_rope_fusion "
        "attention_softmax_in_fp32 override_opt_param_scheduler use_checkpoint_opt_param_scheduler mscale mscale_all_dim beta_fast beta_slow "
        "manual_gc manual_gc_* empty_unused_memory_level rotary_scaling_factor check_for_nan_in_loss_and_grad no_check_for_nan* "
        "grpo_* langrl_* rl_* calculate_per_token_loss moe_router_* moe_token_drop_policy no_position_embedding attention_softmax_* "
        "apply_query_key_layer_scaling apply_residual_connection_post_layernorm glu_linear_offset softmax_type quick_geglu "
        "activation_func_clamp_value window_attn_skip_freq lr_* weight_decay* muon_* sgd_momentum loss_scale* use_loss_scaling rotary_* "
        "init_method_xavier_uniform retro_* kv_lora_* model_provider language_model_type vision_model_type task dummy_*",
    ),
    **ignored(
        "files",
        "save load save_interval log_interval tensorboard_dir tensorboard_queue_size log_throughput log_timers_to_tensorboard "
        "log_validation_ppl_to_tensorboard log_memory_to_tensorboard log_num_zeros_in_grad log_params_norm wandb_project wandb_exp_name "
        "wandb_save_dir use_dist_ckpt dist_ckpt_format ckpt_format no_load_optim no_load_rng no_save_optim no_save_rng exit_interval "
        "exit_duration_in_mins exit_on_missing_checkpoint auto_detect_ckpt_format async_save timing_log_level log_progress profile "
        "profile_step_start profile_step_end use_pytorch_profiler finetune logging_level log_world_size_to_tensorboard "
        "timing_log_option ckpt_* no_create_attention_mask_in_dataloader pretrained_checkpoint use_checkpoint_args dist_ckpt_* profile_* "
        "record_memory_* memory_snapshot_* wandb_* log_* tensorboard_* export_* language_model_checkpoint "
        "allow_missing_vision_projection_checkpoint no_use_tokenizer_model_from_checkpoint_args exit_* save_* load_* enable_experimental "
        "trust_remote_code non_persistent_* one_logger_* logging_* timing_*",
    ),
    **ignored(
        "data",
        "data_path train_data_path valid_data_path test_data_path split vocab_file merge_file tokenizer_type tokenizer_model "
        "data_cache_path mock_data num_workers reset_position_ids reset_attention_mask eod_mask_loss data_args_path num_dataset_builder_threads "
        "per_split_data_args_path no_mmap_bin_files dataloader_type create_attention_mask_in_dataloader data_parallel_random_init "
        "tokenizer_* tiktoken_* special_tokens dataset_provider dataloader_* data_* image_tag_type prompt_* prefix_* sft sft_*",
    ),
    **ignored("evaluation", "eval_iters eval_interval"),
    **ignored("launch", "distributed_* local_rank use_tp_pp_dp_mapping nccl_* lazy_mpu_init use_cpu_initialization disable_gloo_process_groups "
              "nproc_per_node nnodes node_rank master_addr master_port DDP_impl init_model_with_meta_device use_nccl_ub high_priority_*"),
    **ignored("sampling", "inference_* temperature top_k top_p out_seq_length num_samples max_tokens_to_oom sample_* guess_file answer_file "
              "input_image_path gt_path output_path num_partitions partition_id num_prompt_examples flash_decode"),
    **ignored(
        "unmodelled",
        "moe_pad_expert_input_to_capacity moe_permute_fusion "
        "moe_enable_deepep overlap_param_gather overlap_moe_expert_parallel_comm enable_cuda_graph external_cuda_graph "
        "distribute_saved_activations fp8_amax_history_len fp8_amax_compute_algo fp8_margin fp8_recipe "
        "main_params_dtype ddp_bucket_size moe_use_legacy_grouped_gemm "
        "no_masked_softmax_fusion no_bias_gelu_fusion no_bias_swiglu_fusion no_bias_dropout_fusion cp_comm_type "
        "moe_layer_recompute moe_shared_expert_overlap apply_layernorm_1p "
        "overlap_* no_overlap_* moe_* fp8_* fp4_* cuda_graph_* te_rng_tracker no_* use_te "
        "freeze_ViT freeze_LM pixel_shuffle use_tiling max_num_tiles use_thumbnail num_frames encoder_seq_length padded_vocab_size "
        "window_size enable_gpt_oss fsdp_* use_fused_weighted_squared_relu cp_* hierarchical_context_parallel_sizes "
        "reuse_grad_buf_for_mxfp8_param_ag exp_avg_sq_dtype store_param_remainders "
        "vision_* img_embedding_idx disable_* bias_* gradient_accumulation_fusion masked_softmax_fusion megatron_fsdp_* mtp_*",
    ),
}  # fmt: skip


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    draft.request.setdefault("engine", "megatron")
    shaped = {key for key in SHAPE if draft.has(key)}
    given = draft.values.get("__all__", {})
    if draft.asked("model") is None and ("num_layers" in given or "encoder_num_layers" in given):
        arguments = {key.replace("_", "-"): given[key] for key in SHAPE if key in given and given[key] is not None}
        draft.put("model", {"megatron_args": {key: _plain(value) for key, value in arguments.items()}})
        if "vocab_size" not in given:
            draft.assumed["model.megatron_args.vocab-size"] = {
                "value": None,
                "why": tr("the tokenizer's size is not stated: GPT-2's or BERT's"),
            }
    draft.used("bf16 fp16", "settings.precision")
    draft.used("tensor_model_parallel_size", "parallelism.tensor")
    draft.used(shaped, "model")
    draft.put("settings.finetuning", "pretrain")
    kinds = {"bf16": "bf16-mixed", "fp16": "fp16-mixed"}
    half = [kinds[key] for key in kinds if draft.on(key)]
    eight = draft.has("fp8_format") or draft.on("fp8_hybrid") or draft.on("fp8_e4m3")
    draft.settle(
        "fp8_format fp8_hybrid fp8_e4m3", "settings.precision", "fp8" if eight else half[0] if half else "fp32"
    )
    _recompute(draft)
    _attention(draft)
    total, micro = draft.number("global_batch_size"), draft.asked("settings.micro_batch", 1)
    product = 1
    for degree in ("tensor", "pipeline", "context"):
        product *= draft.asked(f"parallelism.{degree}", 1)
    count = draft.asked("num_devices")
    if count is not None and total:
        draft.settle(
            "global_batch_size", "settings.grad_accumulation", max(1, total // (micro * max(1, count // product)))
        )
    elif total:
        draft.settle("global_batch_size", "settings.global_batch_size", total)
    per_stage = draft.number("num_layers_per_virtual_pipeline_stage")
    layers, stages = _number(given.get("num_layers")), draft.asked("parallelism.pipeline", 1)
    if per_stage and layers and stages > 1:
        draft.put("parallelism.virtual_pipeline", max(1, layers // (per_stage * stages)))
    strategy = str(draft.get("data_parallel_sharding_strategy", "")).lower()
    if draft.on("use_torch_fsdp2"):
        draft.put("parallelism.fsdp", "fsdp2")
    elif draft.on("use_megatron_fsdp") or draft.on("use_custom_fsdp"):
        draft.put(
            "parallelism.fsdp",
            "full_shard" if "params" in strategy else "shard_grad_op" if "grads" in strategy else None,
        )
    draft.used("use_torch_fsdp2 use_megatron_fsdp use_custom_fsdp data_parallel_sharding_strategy", "parallelism.fsdp")
    draft.assume("settings.micro_batch", 1, tr("the default of %(format)s", format="Megatron"))
    draft.assume("settings.optimizer", "adam", tr("the default of %(format)s", format="Megatron"))
    fsdp_alone(draft)
    one_device(draft)


def _recompute(draft: Draft) -> None:
    mode = str(draft.get("recompute_granularity", "")).lower()
    if mode and mode not in ("full", "selective"):
        raise refused("--recompute-granularity", mode, tr("one of %(names)s", names="full, selective"))
    if not mode:
        mode = "selective" if draft.on("recompute_activations") else "none"
    draft.settle("recompute_granularity recompute_activations", "settings.recompute", mode)


def _attention(draft: Draft) -> None:
    given = draft.values.get("__all__", {})
    backend = str(given.get("attention_backend", "auto")).lower()
    eager = backend in ("unfused", "local") or (
        str(given.get("transformer_impl")) == "local" and not draft.on("use_flash_attn")
    )
    draft.settle("use_flash_attn", "settings.attn_implementation", "eager" if eager else "flash_attention_2")


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _plain(value: Any) -> Any:
    """Return an argument as the model's reader takes it: numbers as numbers."""
    number = _number(value) if isinstance(value, str) else None
    return value if number is None else number
