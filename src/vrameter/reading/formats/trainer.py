"""transformers' ``TrainingArguments`` and TRL's configs, from JSON, YAML or flags.

References
----------
.. [1] transformers, ``training_args.py``; TRL, ``SFTConfig``, ``DPOConfig``, ``GRPOConfig``, ``ORPOConfig``, ``KTOConfig``,
       ``ModelConfig``; 0.12 to 1.16: GRPO's answers have 256 tokens in 0.24 and 512 in 1.16, its penalty (``beta``) is 0.04 in 0.15 and
       0 in 0.19, the engine's share of memory 0.9 in 0.15 and 0.3 in 0.19, its place a server in 0.24 and the same device in 1.16;
       it stays awake unless ``vllm_enable_sleep_mode``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrameter.i18n import tr
from vrameter.reading.documents import parse
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.formats import deepspeed
from vrameter.reading.shared import (
    adapter,
    frozen_in_full,
    fsdp_options,
    fsdp_words,
    half_precision,
    one_device,
    packed_base,
    recompute,
)
from vrameter.reading.values import choice, dtype, name, positive, real, switch

ATTENTION = choice(
    eager="eager", sdpa="sdpa", flash_attention_2="flash_attention_2", flash_attention_3="flash_attention_3",
    flex_attention="flex_attention", flash_attn="flash_attention_2", flash_attention="flash_attention_2",
    flash_attn_2="flash_attention_2", fa2="flash_attention_2", auto=None,
)  # fmt: skip

# Keys of the Trainer that other configurations built on it share.
BASE: Table = {
    "gradient_accumulation_steps": to("settings.grad_accumulation", positive),
    "torch_compile": to("settings.compile", switch),
    "optim_args": to("settings.optimizer_args", name),
    "padding_free": to("settings.padding_free", switch),
    "packing": to("settings.packing", lambda value: switch(value)),
    "activation_offloading": to("settings.activation_offload", switch),
    **together(
        "bf16 fp16 tf32 half_precision_backend optim adafactor gradient_checkpointing gradient_checkpointing_kwargs deepspeed fsdp "
        "activation_checkpointing activation_checkpointing_kwargs zero_stage offload "
        "fsdp_config use_liger_kernel use_liger liger_kernel_config torch_compile_backend torch_compile_mode accelerator_config "
        "fsdp_transformer_layer_cls_to_wrap local_rank parallelism_config optim_target_modules"
    ),
    **ignored(
        "course",
        "do_train learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_ratio warmup_steps weight_decay adam_beta1 adam_beta2 "
        "adam_epsilon max_grad_norm num_train_epochs max_steps seed data_seed label_smoothing_factor full_determinism use_cpu "
        "no_cuda use_mps_device neftune_noise_alpha average_tokens_across_devices fp16_opt_level fp16_backend ddp_timeout "
        "ddp_backend ddp_broadcast_buffers jit_mode_eval use_ipex tpu_num_cores past_index torchdynamo ray_scope "
        "enable_jit_checkpoint project trackio_* tpu_metrics_debug use_legacy_prediction_loop _n_gpu n_gpu",
    ),
    **ignored(
        "unmodelled",
        "ddp_find_unused_parameters ddp_bucket_cap_mb torch_empty_cache_steps auto_find_batch_size ddp_static_graph "
        "auto_find_batch_size_steps fsdp_min_num_params",
    ),
    **ignored(
        "files",
        "output_dir overwrite_output_dir logging_dir logging_strategy logging_first_step logging_steps logging_nan_inf_filter "
        "log_level log_level_replica log_on_each_node save_strategy save_steps save_total_limit save_safetensors "
        "save_on_each_node save_only_model restore_callback_states_from_checkpoint run_name disable_tqdm report_to hub_model_id "
        "hub_strategy hub_token hub_private_repo hub_always_push hub_revision push_to_hub push_to_hub_model_id "
        "push_to_hub_organization push_to_hub_token resume_from_checkpoint skip_memory_metrics debug mp_parameters cache_dir "
        "hf_hub_token include_num_input_tokens_seen include_tokens_per_second trust_remote_code model_revision token "
        "use_auth_token use_fast_tokenizer tokenizer_name tokenizer_name_or_path config_name overwrite_cache low_cpu_mem_usage "
        "wandb_project ",
    ),
    **ignored(
        "data",
        "group_by_length length_column_name dataloader_drop_last dataloader_num_workers dataloader_pin_memory "
        "dataloader_persistent_workers dataloader_prefetch_factor remove_unused_columns label_names ignore_data_skip split_batches "
        "dispatch_batches dataset_name dataset_config dataset_config_name dataset_train_split dataset_test_split dataset_streaming "
        "dataset_mixer* dataset_mix_* data_path data_split dataset_kwargs dataset_num_proc dataset_text_field dataset_batch_size train_file validation_file test_file "
        "preprocessing_num_workers max_train_samples streaming validation_split_percentage train_on_inputs chat_template_path "
        "ignore_bias_buffers chars_per_token pad_token eos_token truncation_mode completion_only_loss assistant_only_loss "
        "packing_strategy pad_to_multiple_of shuffle_dataset datasets mixture skip_prepare_dataset label_pad_token_id "
        "padding_value tools keep_linebreaks line_by_line pad_to_max_length train_sampling_strategy dataloader_multiprocessing_context "
        "dataloader_in_order chat_template_kwargs",
    ),
    **ignored(
        "evaluation",
        "do_eval do_predict eval_strategy evaluation_strategy prediction_loss_only per_device_eval_batch_size "
        "per_gpu_eval_batch_size eval_accumulation_steps eval_delay eval_steps eval_on_start eval_do_concat_batches "
        "eval_use_gather_object batch_eval_metrics include_inputs_for_metrics include_for_metrics metric_for_best_model "
        "greater_is_better load_best_model_at_end fp16_full_eval bf16_full_eval eval_packing generate_during_eval "
        "max_eval_samples max_predict_samples predict_with_generate num_sample_generations",
    ),
}  # fmt: skip

TABLE: Table = {
    **BASE,
    "model_name_or_path": to("model", name),
    "model_name": to("model", name),
    "model_id": to("model", name),
    "per_device_train_batch_size": to("settings.micro_batch", positive),
    "per_gpu_train_batch_size": to("settings.micro_batch", positive),
    "attn_implementation": to("settings.attn_implementation", ATTENTION),
    "torch_dtype": to("dtype", dtype),
    "dtype": to("dtype", dtype),
    "ref_model": to("settings.ref_model", lambda value: True),
    "ref_model_name_or_path": to("settings.ref_model", lambda value: True),
    "teacher_model_name_or_path": to("settings.objective", lambda value: "gkd"),
    "reward_model_path": to("settings.reward_model", name),
    "reward_model_name_or_path": to("settings.reward_model", name),
    "num_generations": to("settings.num_generations", positive),
    "vllm_gpu_memory_utilization": to("settings.rollout_memory_utilization", real),
    "vllm_enable_sleep_mode": to("settings.rollout_sleep", switch),
    **together(
        "max_seq_length max_length max_seq_len block_size model_max_length max_prompt_length max_completion_length beta loss_type "
        "desirable_weight undesirable_weight use_peft lora_r lora_rank lora_alpha lora_dropout lora_target_modules target_modules "
        "lora_modules_to_save modules_to_save lora_task_type use_rslora use_dora load_in_4bit load_in_8bit bnb_4bit_quant_type "
        "use_bnb_nested_quant bnb_4bit_use_double_quant bnb_4bit_compute_dtype use_vllm vllm_mode precompute_ref_log_probs "
        "lora_target_parameters r response_length use_unsloth use_liger_loss lora_dim "
        "use_gradient_checkpointing full_finetuning use_lora use_flash_attn max_prompt_token_length"
    ),
    **ignored(
        "course",
        "label_smoothing cpo_alpha simpo_gamma rpo_alpha reference_free sync_ref_model ref_model_mixup_alpha ref_model_sync_steps "
        "num_iterations epsilon epsilon_high scale_rewards reward_weights mask_truncated_completions disable_dropout "
        "f_divergence_type f_alpha_divergence_coef discopop_tau use_weighting use_logits_to_keep delta importance_sampling_level "
        "force_use_ref_model ld_alpha is_encoder_decoder bnb_4bit_quant_storage loss_weights center_rewards_coefficient sapo_* vespo_* "
        "entropy_* use_adaptive_entropy top_entropy_quantile multi_objective_aggregation off_policy_mask_threshold use_bias_correction_kl "
        "normalize_advantages reward_clip_range max_tool_calling_iterations router_aux_loss_coef lmbda seq_kd token_level "
        "num_ppo_epochs whiten_rewards kl_coef cliprange* vf_coef gamma lam missing_eos_penalty num_sample_generations stop_token* "
        "world_size num_total_batches random_state loftq_config num_train_steps total_episodes kl_estimator num_epochs reduce_loss "
        "with_tracking checkpointing_steps lora_module_name num_warmup_steps dropout actor_* critic_* offload_reference_model "
        "enable_hybrid_engine inference_tp_size num_padding_at_beginning ppo_epochs generation_batches per_device_generation_batch_size",
    ),
    **ignored("sampling", "temperature top_p top_k min_p repetition_penalty cache_implementation generation_kwargs"),
    **ignored(
        "unmodelled",
        "generation_batch_size steps_per_generation vllm_server_host vllm_server_port vllm_tensor_parallel_size "
        "vllm_guided_decoding_regex vllm_server_base_url vllm_server_timeout vllm_importance_sampling_correction "
        "ds3_gather_for_generation base_model_attribute_name precompute_ref_batch_size vllm_max_model_length vllm_model_impl vllm_group_port "
        "vllm_structured_outputs_regex vllm_importance_sampling_* cast_lm_head_to_fp32 use_transformers_continuous_batching "
        "transformers_continuous_batching_config use_transformers_paged num_mini_batches local_rollout_forward_batch_size "
        "sft_model_path",
    ),
    **ignored(
        "files", "log_completions num_completions_to_print wandb_log_unique_prompts model_init_kwargs ref_model_init_kwargs "
        "model_adapter_name ref_adapter_name use_cache model_code_revision config reward_funcs reward_model_revision teacher_model_revision "
        "teacher_model_init_kwargs log_* num_generations_eval exp_name",
    ),
}  # fmt: skip
DPO_LOSSES = {
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_pair", "discopop",
    "apo_zero", "apo_down", "sigmoid_norm",
}  # fmt: skip


def base(draft: Draft, *, checkpointing: bool = False, why: str = "") -> None:
    """Read the Trainer's switches that several stacks share: precision, optimizer, recompute, kernels, sharding."""
    half_precision(draft)
    if draft.on("tf32") and draft.asked("settings.precision") in (None, "fp32"):
        draft.put("settings.precision", "tf32")
    draft.used("tf32 half_precision_backend", "settings.precision")
    if draft.has("optim"):
        draft.settle("optim", "settings.optimizer", optimizer_name(draft.get("optim"), "optim"))
    elif draft.on("adafactor"):
        draft.put("settings.optimizer", "adafactor")
    draft.used("adafactor", "settings.optimizer")
    # transformers 5 calls it activation checkpointing.
    named = "activation_checkpointing" if draft.has("activation_checkpointing") else "gradient_checkpointing"
    recompute(draft, named, default=checkpointing, why=why)
    kwargs = draft.get(f"{named}_kwargs")
    if isinstance(kwargs, Mapping) and "use_reentrant" in kwargs and draft.asked("settings.recompute") == "full":
        draft.settle(f"{named}_kwargs", "settings.recompute_reentrant", switch(kwargs["use_reentrant"]))
    if draft.on("use_liger_kernel") or draft.on("use_liger"):
        options = draft.get("liger_kernel_config")
        options = options if isinstance(options, Mapping) else {}
        draft.put("settings.fused_kernels", True)
        if options.get("fused_linear_cross_entropy", True) is not False:
            draft.put("settings.loss", "fused")
    draft.used("use_liger_kernel use_liger liger_kernel_config", "settings.fused_kernels")
    if draft.has("torch_compile_backend") or draft.has("torch_compile_mode"):
        draft.settle("torch_compile_backend torch_compile_mode", "settings.compile", True)
    if draft.get("fsdp") not in (None, "", [], False):
        fsdp_words(draft, "fsdp")
        options = document(draft, "fsdp_config")
        if options:
            fsdp_options(draft, options, "fsdp_config")
            draft.used("fsdp_config", "parallelism.fsdp")
    if draft.get("deepspeed") is True:
        # DeepSpeed's own examples: the switch, and the stage beside it.
        draft.settle("deepspeed zero_stage", "parallelism.zero_stage", min(draft.number("zero_stage", 0) or 0, 3))
        draft.settle("offload", "parallelism.offload", "all" if draft.on("offload") else None)
    elif draft.has("deepspeed") and draft.get("deepspeed") is not False:
        deepspeed.read_named(draft, draft.get("deepspeed"), draft.waiting.pop("deepspeed"))


def document(draft: Draft, key: str) -> dict[str, Any]:
    """Return an object that a key holds or names a file of."""
    value = draft.get(key)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str) and draft.open is not None:
        try:
            return parse(draft.open(value), name=value) or {}
        except FileNotFoundError:
            draft.note(tr("%(key)s: '%(value)s' cannot be read; give it beside this file.", key=key, value=value[:80]))
    return {}


def optimizer_name(value: Any, key: str) -> str:
    """Return an optimizer that is known here, or refuse its name."""
    from vrameter.errors import UnknownNameError, closest
    from vrameter.memory.optimizer import OPTIMIZERS, optimizer

    text = name(value)
    try:
        optimizer(text)
    except UnknownNameError:
        near = closest(text, OPTIMIZERS)
        raise refused(key, text, tr("one of %(names)s", names=", ".join(near or OPTIMIZERS))) from None
    return text


def finish(draft: Draft) -> None:
    """Read the keys of the Trainer and of TRL that belong together."""
    objective = draft.asked("settings.objective") or _objective(draft)
    named = draft.get("use_gradient_checkpointing")
    if named is not None or draft.on("use_unsloth"):
        # The arguments of FastLanguageModel.
        draft.request.pop("engine", None)
        draft.put("engine", "unsloth")
        draft.used("use_unsloth", "engine")
        off = named is False or str(named).lower() == "false"
        draft.values["gradient_checkpointing"] = False if off else "unsloth" if named in (None, "unsloth") else True
        draft.used("use_gradient_checkpointing", "settings.recompute")
    trl = objective is not None or draft.has("use_peft") or draft.has("max_seq_length") or draft.has("packing")
    draft.request.setdefault("engine", "trl" if trl else "transformers")
    trl = draft.asked("engine") == "trl"
    usual = tr("the default of %(format)s", format="TRL")
    base(draft, checkpointing=trl, why=usual if trl else "")
    if objective:
        draft.settle("", "settings.objective", None if "settings.objective" in draft.assumed else objective)
        shared = "loss_type desirable_weight undesirable_weight"
        draft.used(shared if objective == "grpo" else f"beta {shared}", "settings.objective")
    if draft.asked("engine") == "unsloth" and not (draft.has("bf16") or draft.has("fp16")):
        draft.assume("settings.precision", "bf16-mixed", tr("'auto' is bf16 on devices that have it"))
    if trl and not draft.has("bf16"):
        draft.assume("settings.precision", "bf16-mixed", usual)
    draft.assume("settings.precision", "fp32", tr("neither %(one)s nor %(other)s is on", one="bf16", other="fp16"))
    _length(draft, objective)
    packed = packed_base(
        draft, nested="bnb_4bit_use_double_quant" if draft.has("bnb_4bit_use_double_quant") else "use_bnb_nested_quant",
        kind="bnb_4bit_quant_type",
    )  # fmt: skip
    draft.used("bnb_4bit_compute_dtype", "quantization")
    if draft.on("use_flash_attn"):
        draft.settle("use_flash_attn", "settings.attn_implementation", "flash_attention_2")
    ranked = bool({"lora_r", "lora_rank", "r"} & draft.values.keys()) or bool(draft.number("lora_dim"))
    switched = next((key for key in ("use_peft", "use_lora") if draft.has(key)), "use_peft")
    tunes = draft.on(switched, ranked) and not draft.on("full_finetuning")
    if tunes:
        draft.put("settings.finetuning", "dora" if draft.on("use_dora") else "lora")
        rank = next((key for key in ("lora_r", "lora_rank", "r", "lora_dim") if draft.has(key)), "lora_r")
        targets = "target_modules" if draft.has("target_modules") else "lora_target_modules"
        saved = "modules_to_save" if draft.has("modules_to_save") else "lora_modules_to_save"
        defaults = {"rank": 16, "alpha": 32, "dropout": 0.05, "targets": "all-linear"}
        adapter(
            draft,
            rank=rank,
            alpha="lora_alpha",
            dropout="lora_dropout",
            targets=targets,
            saved=saved,
            defaults=defaults,
        )
        draft.used("use_peft use_lora use_dora use_rslora full_finetuning", "settings.finetuning")
    else:
        draft.assume("settings.finetuning", "full", tr("nothing asks for an adapter"))
        draft.used("use_peft use_lora full_finetuning", "settings.finetuning")
        if packed:
            frozen_in_full(draft, "load_in_4bit" if packed.startswith("bnb-nf4") else "load_in_8bit")
    # Until TRL 1.0 the engine was a server of its own unless vllm_mode said otherwise.
    if draft.on("use_vllm") and draft.get("vllm_mode", "colocate") == "colocate":
        draft.assume("settings.rollout_memory_utilization", 0.3, usual)
        draft.assume("settings.rollout_sleep", False, usual)
    draft.used("use_vllm vllm_mode", "settings.rollout_memory_utilization")
    if str(draft.get("loss_type", "")).lower() == "chunked_nll":
        draft.settle("loss_type", "settings.loss", "fused")
    if draft.on("use_liger_loss"):
        draft.settle("use_liger_loss", "settings.loss", "fused")
    if draft.on("precompute_ref_log_probs"):
        draft.settle("precompute_ref_log_probs", "settings.ref_model", False)
    elif objective == "grpo" and trl and draft.asked("settings.ref_model") is None:
        penalised = draft.has("beta") and real(draft.get("beta")) != 0
        if draft.has("beta"):
            draft.settle("beta", "settings.ref_model", None if penalised else False)
        else:
            draft.assume("settings.ref_model", False, tr("beta is 0 by default: nothing is compared with a reference"))
    draft.assume("settings.micro_batch", 8, tr("the default of %(format)s", format="TrainingArguments"))
    one_device(draft)


def _objective(draft: Draft) -> str | None:
    loss = str(draft.get("loss_type", "")).lower()
    if draft.asked("settings.num_generations"):
        return "grpo"
    if draft.has("desirable_weight") or draft.has("undesirable_weight"):
        return "kto"
    if loss in ("simpo", "cpo"):
        return loss
    if loss in DPO_LOSSES:
        return "ipo" if loss == "ipo" else "dpo"
    if draft.has("beta"):
        draft.note(
            tr(
                "beta tells of preference training without saying which: DPO is assumed; say --set objective=orpo, kto, ..."
            )
        )
        draft.assume("settings.objective", "dpo", tr("beta alone does not tell which"))
        return "dpo"
    return None


def _length(draft: Draft, objective: str | None) -> None:
    for key in ("max_seq_length", "max_length", "max_seq_len", "block_size", "model_max_length"):
        length = draft.number(key)
        if length is not None:
            draft.settle(key, "settings.seq_len", length)
            draft.used("max_prompt_length max_completion_length", "settings.seq_len")
            return
    prompt, answer = (
        draft.number("max_prompt_length", draft.number("max_prompt_token_length")),
        draft.number("max_completion_length") or draft.number("response_length"),
    )
    if objective in ("grpo", "rloo", "ppo") and not (prompt and answer):
        total = (prompt or 512) + (answer or 512)
        why = tr("prompts of 512 tokens and answers of 512, where they are not stated")
        draft.used(
            "max_prompt_length max_prompt_token_length max_completion_length response_length", "settings.seq_len"
        )
        draft.assume("settings.seq_len", total, why)
    elif prompt and answer:
        draft.settle("max_prompt_length max_completion_length response_length", "settings.seq_len", prompt + answer)
    elif draft.asked("engine") == "trl":
        draft.assume("settings.seq_len", 1024, tr("the default of %(format)s", format="TRL"))


__all__ = ["ATTENTION", "BASE", "TABLE", "base", "document", "finish", "optimizer_name"]
