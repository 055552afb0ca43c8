"""ms-swift: YAML, JSON, or ``swift sft --...``.

References
----------
.. [1] swift.readthedocs.io, "Command Line Parameters".
"""

from __future__ import annotations

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.formats import trainer
from vrameter.reading.shared import adapter, frozen_in_full, one_device
from vrameter.reading.values import choice, dtype, name, positive, switch

TABLE: Table = {
    **trainer.BASE,
    "model": to("model", name),
    "model_id_or_path": to("model", name),
    "max_length": to("settings.seq_len", positive),
    "per_device_train_batch_size": to("settings.micro_batch", positive),
    "attn_impl": to("settings.attn_implementation", choice(
        eager="eager", sdpa="sdpa", flash_attn="flash_attention_2", flash_attention_2="flash_attention_2",
        flash_attention_3="flash_attention_3", flex_attention="flex_attention", auto=None, none=None,
    )),
    "torch_dtype": to("dtype", dtype),
    "sequence_parallel_size": to("parallelism.context", positive),
    "num_generations": to("settings.num_generations", positive),
    "vllm_gpu_memory_utilization": to("settings.rollout_memory_utilization"),
    "reward_model": to("settings.reward_model", name),
    "freeze_llm": to("settings.freeze_llm", switch),
    "rlhf_type": to("settings.objective", choice(
        dpo="dpo", orpo="orpo", simpo="simpo", kto="kto", cpo="cpo", rm="reward", ppo="ppo", grpo="grpo", gkd="gkd",
    )),
    "ref_model": to("settings.ref_model", lambda value: True),
    **together(
        "train_type tuner_type sft_type target_modules lora_rank lora_alpha lora_dropout modules_to_save use_dora use_rslora quant_bits "
        "quant_method bnb_4bit_quant_type bnb_4bit_use_double_quant bnb_4bit_compute_dtype freeze_vit freeze_aligner "
        "max_completion_length use_vllm vllm_mode vit_gradient_checkpointing sleep_level freeze_parameters freeze_parameters_ratio "
        "trainable_parameters use_galore galore_rank lora_dtype"
    ),
    **ignored(
        "data",
        "dataset val_dataset split_dataset_ratio template system columns strict dataset_num_proc max_pixels truncation_strategy "
        "load_from_cache_file dataset_shuffle shuffle_buffer_size lazy_tokenize loss_scale response_prefix padding_side "
        "agent_template val_dataset_shuffle custom_register_path external_plugins interleave_prob norm_bbox cached_dataset max_new_tokens",
    ),
    **ignored(
        "files",
        "model_name model_author model_type task_type use_hf hub_token add_version create_checkpoint_symlink adapters acc_strategy "
        "logging_steps check_model task swanlab_project model_revision load_args save_only_model",
    ),
    **ignored("course", "beta temperature top_p top_k reward_funcs reward_weights num_iterations epsilon lora_bias init_weights lorap_lr_ratio "
              "vit_lr aligner_lr rpo_alpha log_completions stop_words repetition_penalty loss_type"),
    **ignored("unmodelled", "async_generate vllm_max_model_len vllm_tensor_parallel_size offload_optimizer offload_model move_model_batches "
              "deepspeed_autotp_size zero_hpz_partition_size packing_length device_map max_memory vllm_server_host vllm_server_port "
              "experts_impl"),
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
    elif kind not in ("lora", "full", "longlora", "adalora", "llamapro", "vera", "boft", "fourierft", "reft", "bone"):
        raise refused("train_type", kind, tr("one of %(names)s", names="lora, full, adalora, vera"))
    elif kind == "full":
        draft.put("settings.finetuning", "full")
    else:
        draft.put(
            "settings.finetuning",
            "dora" if draft.on("use_dora") else "lora" if kind in ("lora", "longlora") else "peft",
        )
        if kind not in ("lora", "longlora"):
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
    frozen = [part for key, part in (("freeze_vit", "vit"), ("freeze_aligner", "aligner")) if draft.on(key)]
    if frozen:
        draft.put("settings.freeze", frozen)
    draft.used("freeze_vit freeze_aligner", "settings.freeze")
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
