"""ms-swift: YAML, JSON, or ``swift sft --...``.

References
----------
.. [1] swift.readthedocs.io, "Command Line Parameters".
.. [2] modelscope/ms-swift 2.6, 3.9 and 4.6, ``swift/arguments`` and ``trainers/arguments.py``: LoRA of rank 8, alpha 32, dropout 0.05 on all
       linear layers, recompute on, ``per_device_train_batch_size`` 1, steps until a batch has 16 sequences, towers of images frozen;
       weights in the checkpoint's numbers, which decide the precision; ``vllm_gpu_memory_utilization`` 0.9, ``sleep_level`` 0.
"""

from __future__ import annotations

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.formats import trainer
from vrameter.reading.shared import adapter, frozen_in_full, one_device
from vrameter.reading.values import choice, dtype, name, positive, real, switch

TABLE: Table = {
    **trainer.BASE,
    "model": to("model", name),
    "model_id_or_path": to("model", name),
    "max_length": to("settings.seq_len", positive),
    "per_device_train_batch_size": to("settings.micro_batch", positive),
    "attn_impl": to("settings.attn_implementation", choice(
        eager="eager", sdpa="sdpa", flash_attn="flash_attention_2", flash_attention_2="flash_attention_2", flash_attention_4="flash_attention_3",
        flash_attention_3="flash_attention_3", flex_attention="flex_attention", auto=None, none=None,
    )),
    "torch_dtype": to("dtype", dtype),
    "sequence_parallel_size": to("parallelism.context", positive),
    "num_generations": to("settings.num_generations", positive),
    "vllm_gpu_memory_utilization": to("settings.rollout_memory_utilization", real),
    "reward_model": to("settings.reward_model", name),
    "freeze_llm": to("settings.freeze_llm", switch),
    "teacher_model": to("settings.objective", lambda value: "gkd"),
    "seq_length": to("settings.seq_len", positive),
    "rlhf_type": to("settings.objective", choice(
        dpo="dpo", orpo="orpo", simpo="simpo", kto="kto", cpo="cpo", rm="reward", ppo="ppo", grpo="grpo", gkd="gkd",
    )),
    "ref_model": to("settings.ref_model", lambda value: True),
    **together(
        "train_type tuner_type sft_type target_modules lora_rank lora_alpha lora_dropout modules_to_save use_dora use_rslora quant_bits "
        "quant_method bnb_4bit_quant_type bnb_4bit_use_double_quant bnb_4bit_compute_dtype freeze_vit freeze_aligner "
        "max_completion_length use_vllm vllm_mode vit_gradient_checkpointing sleep_level freeze_parameters freeze_parameters_ratio "
        "trainable_parameters use_galore galore_rank lora_dtype target_parameters target_regex reference_free"
    ),
    **ignored(
        "data",
        "dataset val_dataset split_dataset_ratio template system columns strict dataset_num_proc max_pixels truncation_strategy "
        "load_from_cache_file dataset_shuffle shuffle_buffer_size lazy_tokenize loss_scale response_prefix padding_side "
        "agent_template val_dataset_shuffle custom_register_path external_plugins interleave_prob norm_bbox cached_* max_new_tokens "
        "enable_thinking preserve_thinking add_non_thinking_prefix use_chat_template new_special_tokens num_labels problem_type "
        "is_binary_loss_scale template_backend stopping_strategy download_mode disable_auto_column_mapping custom_dataset_info decision_* "
        "model_kwargs packing_num_proc chord_* disable_ignore_empty_think",
    ),
    **ignored(
        "files",
        "model_name model_author model_type task_type use_hf hub_token add_version create_checkpoint_symlink adapters acc_strategy "
        "logging_steps check_model task swanlab_* model_revision load_args save_only_model load_data_args merge_lora ignore_args_error "
        "stream infer_backend max_batch_size metric result_path write_batch_size local_repo_path callbacks resume_only_model "
        "reward_model_* reward_template reward_adapters teacher_model_* teacher_adapters ref_adapters ref_model_* early_stop_interval "
        "eval_* deploy_* to_* host port api_key",
    ),
    **ignored("course", "beta temperature top_p top_k reward_funcs reward_weights num_iterations epsilon lora_bias init_weights lorap_lr_ratio "
              "vit_lr aligner_lr rpo_alpha log_* stop_words repetition_penalty loss_type epsilon_high delta lmbda seq_kd sft_alpha gkd_logits_topk "
              "overlong_filter dynamic_sample max_resample_times importance_sampling_level steps_per_generation generation_batch_size "
              "advantage_estimator kl_in_reward scale_rewards rollout_importance_* off_policy_* fipo_* tau_* real_tau multi_turn_scheduler "
              "max_turns vllm_server_pass_dataset desirable_weight undesirable_weight center_rewards_coefficient simpo_gamma cpo_alpha "
              "label_smoothing ld_alpha discopop_tau loss_weights num_ppo_epochs whiten_rewards kl_coef cliprange* vf_coef gamma lam "
              "num_mini_batches local_rollout_forward_batch_size missing_eos_penalty cosine_* repetition_* soft_* sync_ref_model "
              "top_entropy_quantile router_replay_mode num_iterations use_logits_to_keep rope_scaling optimizer lora_ga_* "
              "enable_dft_loss enable_channel_loss init_strategy hqq_axis reward_model_plugin gym_env use_gym_env "
              "context_manager completion_length_limit_scope galore_* llamapro_* reft_* adalora_* boft_* fourier_* vera_* adapter_act "
              "adapter_length response_length num_sample_generations qk_clip_threshold max_epochs"),
    **ignored("unmodelled", "async_generate vllm_max_model_len vllm_tensor_parallel_size offload_optimizer offload_model move_model_batches "
              "deepspeed_autotp_size zero_hpz_partition_size packing_length device_map max_memory vllm_server_host vllm_server_port "
              "experts_impl offload_teacher_model teacher_deepspeed vllm_* sglang_* lmdeploy_* lisa_* served_model_name freeze_parameters_regex trainable_parameters_regex "
              "tuner_backend use_swift_lora use_ray device_groups enable_npu_model_patch bnb_4bit_quant_storage max_model_len"),
}  # fmt: skip


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    draft.request.setdefault("engine", "ms-swift")
    trainer.base(draft, checkpointing=True)
    if draft.asked("dtype") in ("bf16", "fp16"):
        draft.assume("settings.precision", f"{draft.asked('dtype')}-mixed", tr("as the weights' data type"))
    else:
        draft.assume("settings.precision", "bf16-mixed", tr("the data type of most checkpoints"))
    bits = draft.number("quant_bits")
    if bits is not None:
        method = str(draft.get("quant_method", "bnb")).lower()
        double = draft.on("bnb_4bit_use_double_quant", True)
        known = {("bnb", 4): "bnb-nf4-dq" if double else "bnb-nf4", ("bnb", 8): "bnb-int8", ("hqq", 4): "hqq-int4"}
        if (method, bits) not in known:
            raise refused("quant_bits", bits, tr("one of %(names)s", names=", ".join(f"{m} {b}" for m, b in known)))
        draft.put("quantization", known[method, bits])
    draft.used(
        "quant_bits quant_method bnb_4bit_quant_type bnb_4bit_use_double_quant bnb_4bit_compute_dtype", "quantization"
    )
    kind = next((str(draft.get(key)).lower() for key in ("tuner_type", "train_type", "sft_type") if draft.has(key)), "")
    if not kind:
        draft.assume("settings.finetuning", "lora", tr("the default of %(format)s", format="ms-swift"))
        kind = "lora"
    elif kind not in (
        "lora",
        "full",
        "longlora",
        "lora_llm",
        "adapter",
        "adalora",
        "llamapro",
        "vera",
        "boft",
        "fourierft",
        "reft",
        "bone",
    ):
        raise refused("train_type", kind, tr("one of %(names)s", names="lora, full, adalora, vera"))
    elif kind == "full":
        draft.put("settings.finetuning", "full")
    else:
        draft.put(
            "settings.finetuning",
            "dora" if draft.on("use_dora") else "lora" if kind in ("lora", "longlora", "lora_llm") else "peft",
        )
        if kind not in ("lora", "longlora", "lora_llm"):
            draft.put("settings.adapter.method", kind)
    draft.used("tuner_type train_type sft_type use_dora use_rslora", "settings.finetuning")
    if kind == "full":
        frozen_in_full(draft, "quant_bits")
    else:
        adapter(
            draft, rank="lora_rank", alpha="lora_alpha", dropout="lora_dropout", targets="target_modules", saved="modules_to_save",
            defaults={"rank": 8, "alpha": 32, "dropout": 0.05, "targets": "all-linear"},
        )  # fmt: skip
        if draft.has("lora_dtype"):
            draft.settle("lora_dtype", "settings.adapter.dtype", dtype(draft.get("lora_dtype")))
    parts = {"freeze_vit": "vit", "freeze_aligner": "aligner"}
    frozen = [part for key, part in parts.items() if draft.on(key, True)]
    if any(draft.has(key) for key in parts):
        draft.settle(parts, "settings.freeze", frozen or None)
    elif draft.has("max_pixels"):
        draft.assume("settings.freeze", frozen, tr("the default of %(format)s", format="ms-swift"))
    if draft.on("reference_free"):
        draft.settle("reference_free", "settings.ref_model", False)
    if draft.has("vit_gradient_checkpointing"):
        draft.settle(
            "vit_gradient_checkpointing",
            "settings.vision_recompute",
            "full" if draft.on("vit_gradient_checkpointing") else "none",
        )
    if draft.on("use_vllm") and str(draft.get("vllm_mode", "colocate")) == "colocate":
        draft.assume("settings.rollout_memory_utilization", 0.9, tr("the default of %(format)s", format="ms-swift"))
        draft.put("settings.rollout_sleep", (draft.number("sleep_level") or 0) > 0)
    draft.used("use_vllm vllm_mode sleep_level", "settings.rollout_memory_utilization")
    draft.assume("settings.micro_batch", 1, tr("the default of %(format)s", format="ms-swift"))
    one_device(draft)
