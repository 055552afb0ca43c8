"""LLaMA-Factory's YAML or JSON, or ``llamafactory-cli train`` with flags.

References
----------
.. [1] hiyouga/LLaMA-Factory 0.9.1 and 0.9.5, ``src/llamafactory/hparams``: ``cutoff_len`` 2048, ``finetuning_type`` lora, ``lora_rank`` 8,
       ``lora_target`` all, ``lora_dropout`` 0, ``double_quantization`` and ``use_reentrant_gc`` on, ``freeze_trainable_layers`` 2, the
       towers of images and their projector frozen; ``model/adapter.py``: trained weights are turned into fp32 unless ``pure_bf16``.
"""

from __future__ import annotations

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.formats import trainer
from vrameter.reading.shared import adapter, frozen_in_full, half_precision, one_device
from vrameter.reading.values import choice, name, positive, switch, whole

STAGES = {"pt": "sft", "sft": "sft", "rm": "reward", "ppo": "ppo", "dpo": "dpo", "kto": "kto"}
TABLE: Table = {
    **trainer.BASE,
    "model_name_or_path": to("model", name),
    "cutoff_len": to("settings.seq_len", positive),
    "per_device_train_batch_size": to("settings.micro_batch", positive),
    "packing": to("settings.packing", switch),
    "neat_packing": to("settings.packing", lambda value: switch(value) or None),
    "flash_attn": to("settings.attn_implementation", choice(
        auto=None, disabled="eager", sdpa="sdpa", fa2="flash_attention_2", fa3="flash_attention_3", true="flash_attention_2",
        flash_attention_2="flash_attention_2", flash_attention_3="flash_attention_3", off="eager", false="eager",
    )),
    "freeze_trainable_layers": to("settings.num_trainable_layers", lambda value: abs(whole(value)) or None),
    "ref_model": to("settings.ref_model", lambda value: True),
    "reward_model": to("settings.reward_model", name),
    **together(
        "stage finetuning_type lora_rank lora_alpha lora_dropout lora_target additional_target use_dora use_rslora quantization_bit "
        "quantization_method quantization_type double_quantization pure_bf16 enable_liger_kernel use_unsloth use_unsloth_gc "
        "disable_gradient_checkpointing use_reentrant_gc freeze_vision_tower freeze_multi_modal_projector freeze_language_model "
        "pref_loss use_galore use_apollo use_badam use_adam_mini use_muon galore_rank apollo_rank train_from_scratch "
        "galore_layerwise apollo_layerwise use_mca use_distributed_optimizer oft_rank oft_block_size oft_target fp8"
    ),
    "tensor_model_parallel_size": to("parallelism.tensor", positive),
    "pipeline_model_parallel_size": to("parallelism.pipeline", positive),
    "expert_model_parallel_size": to("parallelism.expert", positive),
    "context_parallel_size": to("parallelism.context", positive),
    "cp_size": to("parallelism.context", positive),
    "sequence_parallel": to("parallelism.sequence", switch),
    "recompute_granularity": to("settings.recompute", choice(full="full", selective="selective", none="none")),
    **ignored(
        "data",
        "dataset dataset_dir template eval_dataset max_samples preprocessing_num_workers overwrite_cache mix_strategy val_size "
        "tokenized_path train_on_prompt mask_history streaming buffer_size interleave_probs default_system image_max_pixels "
        "image_min_pixels video_max_pixels video_min_pixels video_fps video_maxlen enable_thinking tool_format media_dir "
        "preprocessing_batch_size ignore_pad_token_for_loss eval_on_each_dataset data_shared_file_system audio_sampling_rate "
        "image_do_pan_and_scan crop_to_patches use_audio_in_video preserve_thinking image_dir image_resolution video_resolution",
    ),
    **ignored(
        "course",
        "pref_beta pref_ftx ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards loraplus_lr_ratio kto_chosen_weight "
        "kto_rejected_weight simpo_gamma dpo_label_smoothing galore_update_interval galore_scale galore_target apollo_target "
        "apollo_update_interval apollo_scale rope_scaling shift_attn mixture_of_depths upcast_layernorm upcast_lmhead_output "
        "freeze_extra_modules freeze_trainable_modules create_new_adapter pissa_init pissa_iter pissa_convert resize_vocab "
        "split_special_tokens add_tokens add_special_tokens use_llama_pro ld_alpha print_param_status disable_shuffling "
        "early_stopping_steps compute_accuracy use_asft_loss use_dft_loss asft_alpha use_eaft_loss eaft_alpha pref_bco_weight "
        "loraplus_lr_embedding galore_proj_type apollo_proj* apollo_scale_* module_dropout new_special_tokens* init_special_tokens "
        "block_diag_attn",
    ),
    **ignored(
        "files",
        "adapter_name_or_path adapter_folder plot_loss export_dir export_size infer_backend infer_dtype offload_folder use_fast_tokenizer "
        "ms_hub_token om_hub_token swanlab_project use_swanlab swanlab_run_name include_effective_tokens_per_second "
        "ray_* master_addr master_port ref_model_adapters reward_model_adapters reward_model_type resources_per_worker swanlab_* "
        "export_* vllm_* sglang_* enable_torch_profiler profiler_* profile_modules use_kv_cache use_cache infer_*",
    ),
    **ignored("sampling", "temperature top_p top_k max_new_tokens max_length num_beams do_sample repetition_penalty length_penalty "
              "skip_special_tokens eval_num_beams"),
    **ignored("unmodelled", "moe_aux_loss_coef ref_model_quantization_bit reward_model_quantization_bit "
              "fp8_backend fp8_enable_* enable_fp8_dgrad use_kt kt_* use_v1_kernels badam_* use_hyper_parallel hyper_parallel_args "
              "quantization_device_map compute_dtype device_map bias_activation_fusion apply_rope_fusion overlap_* moe_grouped_gemm "
              "moe_token_dispatcher_type train_mm_proj_only"),
}  # fmt: skip
_SPECIAL = {
    "use_galore": "galore_adamw",
    "use_apollo": "apollo_adamw",
    "use_adam_mini": "adam_mini",
    "use_muon": "muon",
}


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    # Degrees of tensors and pipelines are those of its Megatron adapter.
    mcore = draft.on("use_mca") or any(
        draft.asked(f"parallelism.{degree}") for degree in ("tensor", "pipeline", "expert")
    )
    draft.request.setdefault(
        "engine", "megatron" if mcore else "unsloth" if draft.on("use_unsloth") else "llama-factory"
    )  # fmt: skip
    draft.used("use_unsloth use_mca", "engine")
    draft.settle(
        "use_distributed_optimizer", "parallelism.zero_stage",
        1 if mcore and draft.on("use_distributed_optimizer", True) else None,
    )  # fmt: skip
    stage = str(draft.get("stage", "sft")).lower()
    if stage not in STAGES:
        raise refused("stage", stage, tr("one of %(names)s", names=", ".join(STAGES)))
    objective = STAGES[stage]
    if stage == "dpo" and draft.has("pref_loss"):
        objective = {"orpo": "orpo", "simpo": "simpo", "ipo": "ipo"}.get(str(draft.get("pref_loss")), "dpo")
    draft.settle("stage pref_loss", "settings.objective", objective)
    if draft.on("pure_bf16"):
        draft.settle("pure_bf16", "settings.precision", "bf16")
        if str(draft.get("finetuning_type", "lora")).lower() == "lora":
            draft.assume("settings.adapter.dtype", "bf16", tr("%(key)s leaves adapters in it", key="pure_bf16"))
    else:
        half_precision(draft)
    if draft.on("disable_gradient_checkpointing"):
        draft.values["gradient_checkpointing"] = False
        draft.waiting["gradient_checkpointing"] = "disable_gradient_checkpointing"
    trainer.base(draft, checkpointing=True, why=tr("LLaMA-Factory recomputes unless disable_gradient_checkpointing"))
    draft.used("disable_gradient_checkpointing", "settings.recompute")
    if draft.on("use_unsloth_gc") and draft.asked("settings.recompute") == "full":
        # Inputs of layers wait in host memory.
        draft.settle("use_unsloth_gc", "settings.activation_offload", True)
    if draft.asked("settings.recompute") == "full" and draft.asked("settings.recompute_reentrant") is None:
        reentrant = draft.on("use_reentrant_gc", True)
        draft.assume("settings.recompute_reentrant", reentrant, tr("the default of %(format)s", format="LLaMA-Factory"))
    draft.used("use_reentrant_gc", "settings.recompute_reentrant")
    for key, optimizer in _SPECIAL.items():
        if draft.on(key):
            layerwise = draft.on(f"{key.removeprefix('use_')}_layerwise")
            draft.put("settings.optimizer", f"{optimizer}_layerwise" if layerwise else optimizer)
            rank = draft.number(f"{key.removeprefix('use_')}_rank")
            if rank:
                draft.settle(f"{key.removeprefix('use_')}_rank", "settings.optimizer_args", f"rank={rank}")
            draft.used(f"{key} {key.removeprefix('use_')}_layerwise", "settings.optimizer")
        draft.used(key, "settings.optimizer")
    if draft.on("fp8"):
        draft.settle("fp8", "settings.precision", "fp8")
    if draft.on("enable_liger_kernel"):
        draft.put("settings.fused_kernels", True)
        draft.put("settings.loss", "fused")
    draft.used("enable_liger_kernel", "settings.fused_kernels")
    draft.assume("settings.precision", "fp32", tr("neither %(one)s nor %(other)s is on", one="bf16", other="fp16"))
    _tuning(draft, pretrain=stage == "pt")
    draft.assume("settings.seq_len", 2048, tr("the default of %(format)s", format="LLaMA-Factory"))
    draft.assume("settings.micro_batch", 8, tr("the default of %(format)s", format="TrainingArguments"))
    one_device(draft)


def _tuning(draft: Draft, *, pretrain: bool) -> None:
    bits = draft.number("quantization_bit")
    method = str(draft.get("quantization_method", "bnb")).lower()
    if bits is not None:
        known = {("bnb", 4): "bnb-nf4-dq" if draft.on("double_quantization", True) else "bnb-nf4", ("bnb", 8): "bnb-int8",
                 ("bitsandbytes", 4): "bnb-nf4-dq", ("bitsandbytes", 8): "bnb-int8", ("hqq", 4): "hqq-int4", ("eetq", 8): "eetq"}  # fmt: skip
        if (method, bits) not in known:
            raise refused(
                "quantization_bit", bits, tr("one of %(names)s", names=", ".join(f"{m} {b}" for m, b in known))
            )
        draft.put("quantization", known[method, bits])
    draft.used("quantization_bit quantization_method quantization_type double_quantization", "quantization")
    kind = str(draft.get("finetuning_type", "lora")).lower()
    if kind not in ("lora", "full", "freeze", "oft"):
        raise refused("finetuning_type", kind, tr("one of %(names)s", names="lora, full, freeze"))
    if kind == "oft":
        draft.note(tr("finetuning_type oft is counted as lora of the same rank."))
    if not draft.has("finetuning_type"):
        draft.assume("settings.finetuning", "lora", tr("the default of %(format)s", format="LLaMA-Factory"))
    draft.used("finetuning_type use_dora use_rslora", "settings.finetuning")
    if kind in ("lora", "oft"):
        if draft.has("finetuning_type"):
            draft.put("settings.finetuning", "dora" if draft.on("use_dora") else "lora")
        adapter(
            draft, rank="lora_rank", alpha="lora_alpha", dropout="lora_dropout", targets="lora_target", saved="additional_target",
            defaults={"rank": 8, "targets": "all-linear"},
        )  # fmt: skip
    else:
        draft.put("settings.finetuning", "pretrain" if kind == "full" and pretrain else kind)
        frozen_in_full(draft, "quantization_bit")
    keys = {"freeze_vision_tower": "vit", "freeze_multi_modal_projector": "aligner"}
    frozen = [part for key, part in keys.items() if draft.on(key, True)]
    if any(draft.has(key) for key in keys):
        draft.settle(keys, "settings.freeze", frozen or None)
    elif draft.has("image_max_pixels") or draft.has("media_dir"):
        draft.assume("settings.freeze", frozen, tr("the default of %(format)s", format="LLaMA-Factory"))
    if draft.on("freeze_language_model"):
        draft.put("settings.freeze_llm", True)
    draft.used("freeze_vision_tower freeze_multi_modal_projector freeze_language_model", "settings.freeze")
