"""torchtitan's TOML, also as ``--section.key value`` flags.

References
----------
.. [1] pytorch/torchtitan 0.1 and 0.2, ``config/job_config.py``, ``models/*/train_configs``: ``local_batch_size`` 8, ``seq_len`` 2048, fused
       AdamW, parameters in fp32 and bf16 compute, every second layer recomputed, 1F1B.
.. [2] torchtitan 0.3 and August 2026, ``config/configs.py``, ``models/*/config_registry.py``: configurations are functions of Python
       that ``--module`` and ``--config`` name, recompute is by operation, the loss is cut into eight pieces, and since August 2026 a
       micro-batch is told in tokens (16384 of them in sequences of 2048).
"""

from __future__ import annotations

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.shared import one_device
from vrameter.reading.values import choice, name, names, positive, switch, whole

TABLE: Table = {
    "training.seq_len": to("settings.seq_len", positive),
    "training.local_batch_size": to("settings.micro_batch", positive),
    "training.batch_size": to("settings.micro_batch", positive),
    "training.global_batch_size": to("settings.global_batch_size", lambda value: whole(value) if whole(value) > 0 else None),
    "training.max_context_length": to("settings.seq_len", positive),
    "training.compile": to("settings.compile", switch),
    "compile.enable": to("settings.compile", switch),
    "training.dtype": to("dtype", choice(float32="fp32", bfloat16="bf16")),
    "training.enable_cpu_offload": to("parallelism.offload", lambda value: "cpu" if switch(value) else None),
    "parallelism.tensor_parallel_degree": to("parallelism.tensor", positive),
    "parallelism.pipeline_parallel_degree": to("parallelism.pipeline", positive),
    "parallelism.context_parallel_degree": to("parallelism.context", positive),
    "parallelism.expert_parallel_degree": to("parallelism.expert", positive),
    "parallelism.expert_tensor_parallel_degree": to("parallelism.expert_tensor", positive),
    "training.tensor_parallel_degree": to("parallelism.tensor", positive),
    "experimental.pipeline_parallel_degree": to("parallelism.pipeline", positive),
    "experimental.context_parallel_degree": to("parallelism.context", positive),
    "parallelism.enable_async_tensor_parallel": to("settings.async_tp", switch),
    "experimental.enable_async_tensor_parallel": to("settings.async_tp", switch),
    "optimizer.early_step_in_backward": to("settings.optimizer_in_backward", switch),
    **together(
        "model.name model.flavor model.hf_assets_path model.tokenizer_path optimizer.name optimizer.implementation model.converters "
        "training.mixed_precision_param training.mixed_precision_reduce parallelism.data_parallel_shard_degree "
        "training.data_parallel_shard_degree training.data_parallel_replicate_degree parallelism.data_parallel_replicate_degree "
        "activation_checkpoint.mode "
        "activation_checkpoint.selective_ac_option parallelism.pipeline_parallel_schedule experimental.pipeline_parallel_schedule "
        "parallelism.disable_loss_parallel parallelism.pipeline_parallel_microbatch_size compile.components module config "
        "training.num_tokens_per_microbatch_per_dp_rank activation_checkpoint loss"
    ),
    **ignored(
        "files",
        "job profiling metrics checkpoint comm experimental.custom_import experimental.custom_args_module model.print_after_conversion "
        "training.log_freq memory_estimation validation fault_tolerance profiler validator hf_assets_path dump_folder tokenizer",
    ),
    **ignored("data", "training.dataset training.dataset_path training.seed training.dataloader dataloader training.deterministic"),
    **ignored(
        "course",
        "optimizer.lr optimizer.eps optimizer.beta1 optimizer.beta2 optimizer.weight_decay optimizer.fused lr_scheduler "
        "training.steps training.max_norm training.warmup_steps training.gc_freq training.gc_debug compile.backend debug "
        "training.num_tokens_per_train_step optimizer.* lr_scheduler.*",
    ),
    **ignored(
        "unmodelled",
        "quantize float8 mx parallelism.fsdp_reshard_after_forward parallelism.context_parallel_rotate_method "
        "parallelism.enable_compiled_autograd parallelism.pipeline_parallel_split_points parallelism.pipeline_parallel_layers_per_stage "
        "parallelism.module_fqns_per_model_part activation_checkpoint.per_op_sac_force_recompute_mm_shapes_by_fqns "
        "activation_checkpoint.* model.norm_type parallelism.* compile.* training.* override model_spec",
    ),
}  # fmt: skip
MODELS = {
    ("llama3", "8b"): "llama-3.1-8b", ("llama3", "70b"): "llama-3.1-70b", ("llama3", "405b"): "llama-3.1-405b",
    ("deepseek_v3", "671b"): "deepseek-v3", ("deepseek_v3", "16b"): "deepseek-ai/DeepSeek-V2-Lite",
    ("llama4", "17bx16e"): "meta-llama/Llama-4-Scout-17B-16E", ("llama4", "17bx128e"): "meta-llama/Llama-4-Maverick-17B-128E",
    ("llama2", "7b"): "llama-2-7b", ("llama2", "13b"): "llama-2-13b", ("llama2", "70b"): "llama-2-70b",
}  # fmt: skip
_SCHEDULES = {
    "1f1b": "1f1b", "gpipe": "gpipe", "interleaved1f1b": "interleaved-1f1b", "interleavedzerobubble": "zb-h1", "zbvzerobubble": "zb-h1",
    "dualpipev": "dualpipe",
}  # fmt: skip


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    draft.request.setdefault("engine", "torchtitan")
    registry = draft.has("module") and draft.has("config")
    if not registry:
        # TOML is that of the releases before 0.3.
        draft.request.setdefault("engine_version", "0.2")
    draft.put("settings.finetuning", "pretrain")
    _model(draft)
    kind = str(draft.get("optimizer.name", "AdamW")).lower()
    form = str(draft.get("optimizer.implementation", "fused")).lower()
    if kind not in ("adamw", "adam", "muon"):
        raise refused("optimizer.name", kind, tr("one of %(names)s", names="Adam, AdamW"))
    forms = {"fused": "adamw_torch_fused", "foreach": "adamw_torch", "for-loop": "adamw_torch_loop"}
    if form not in forms:
        raise refused("optimizer.implementation", form, tr("one of %(names)s", names=", ".join(forms)))
    draft.settle(
        "optimizer.name optimizer.implementation", "settings.optimizer", "muon" if kind == "muon" else forms[form]
    )
    _precision(draft)
    _recompute(draft, option="op" if registry else "2")
    if draft.has("training.num_tokens_per_microbatch_per_dp_rank"):
        tokens = draft.number("training.num_tokens_per_microbatch_per_dp_rank") or 16384
        length = draft.asked("settings.seq_len", 2048)
        draft.settle("training.num_tokens_per_microbatch_per_dp_rank", "settings.micro_batch", max(1, tokens // length))
    for key in ("parallelism.pipeline_parallel_schedule", "experimental.pipeline_parallel_schedule"):
        if draft.has(key) and draft.asked("parallelism.pipeline", 1) > 1:
            draft.settle(key, "settings.pipeline_schedule", _SCHEDULES.get(str(draft.get(key)).lower(), "1f1b"))
    shards = draft.number(
        "parallelism.data_parallel_shard_degree", draft.number("training.data_parallel_shard_degree", -1)
    )
    copies = (
        draft.number(
            "parallelism.data_parallel_replicate_degree", draft.number("training.data_parallel_replicate_degree", 1)
        )
        or 1
    )
    if shards is not None and shards > 0:
        draft.put("parallelism.data", shards * copies)
    if copies > 1 and shards != 1:
        draft.put("parallelism.fsdp", "hybrid_shard")
        draft.note(tr("Groups of replicas are counted as shards over all devices: each device holds more."))
    draft.used("parallelism.data_parallel_replicate_degree training.data_parallel_replicate_degree", "parallelism.data")
    draft.used("parallelism.data_parallel_shard_degree training.data_parallel_shard_degree", "parallelism.data")
    if draft.has("parallelism.pipeline_parallel_microbatch_size") and draft.asked("parallelism.pipeline", 1) > 1:
        batch = draft.asked("settings.micro_batch")
        draft.put("settings.local_batch", batch) if batch else None
        size = draft.number("parallelism.pipeline_parallel_microbatch_size")
        draft.settle("parallelism.pipeline_parallel_microbatch_size", "settings.micro_batch", size)
    draft.assume("settings.micro_batch", 8, tr("the default of %(format)s", format="torchtitan"))
    draft.assume("settings.seq_len", 2048, tr("the default of %(format)s", format="torchtitan"))
    one_device(draft)


def _model(draft: Draft) -> None:
    kind, size = str(draft.get("model.name", "")).lower(), str(draft.get("model.flavor", "")).lower()
    if draft.has("module"):
        kind = str(draft.get("module")).lower()
        size = str(draft.get("config", "")).lower().removeprefix(f"{kind}_").partition("_")[0]
    place = draft.get("model.hf_assets_path") or draft.get("model.tokenizer_path")
    known = MODELS.get((kind, size)) or (
        f"qwen3-{size.replace('moe', '')}" if kind == "qwen3" and size[:1].isdigit() else None
    )
    if draft.asked("model") is None:
        if known:
            draft.put("model", known)
        elif place:
            draft.put("model", name(place).rstrip("/").rpartition("/")[2])
            draft.assumed["model"] = {"value": draft.asked("model"), "why": tr("the folder of its tokenizer")}
        elif kind:
            draft.note(
                tr("There is no model known for torchtitan's %(name)s %(size)s: give --model.", name=kind, size=size)
            )
    draft.used("model.name model.flavor model.hf_assets_path model.tokenizer_path module config", "model")


def _precision(draft: Draft) -> None:
    narrow = str(draft.get("training.mixed_precision_param", "bfloat16")).lower()
    if narrow not in ("bfloat16", "float32"):
        raise refused("training.mixed_precision_param", narrow, tr("one of %(names)s", names="bfloat16, float32"))
    if draft.asked("dtype") == "bf16":
        precision = "bf16"
    else:
        precision = "bf16-mixed" if narrow == "bfloat16" else "fp32"
    converters = names(draft.get("model.converters", []))
    if any("float8" in each or "mx" in each for each in converters):
        precision = "fp8"
    draft.settle(
        "training.mixed_precision_param training.mixed_precision_reduce model.converters",
        "settings.precision",
        precision,
    )
    draft.assume("dtype", "fp32", tr("the default of %(format)s", format="torchtitan"))


def _recompute(draft: Draft, *, option: str) -> None:
    # Configurations of Python name a policy: --activation_checkpoint FullAC.
    named = str(draft.get("activation_checkpoint", "")).lower().removesuffix("ac").rstrip("-_:")
    mode = str(draft.get("activation_checkpoint.mode", named or "selective")).lower()
    option = str(draft.get("activation_checkpoint.selective_ac_option", option)).lower()
    told = any(draft.has(key) for key in ("activation_checkpoint", "activation_checkpoint.mode"))
    draft.used("activation_checkpoint", "settings.recompute")
    if mode not in ("none", "full", "selective", "memory_budget"):
        raise refused("activation_checkpoint.mode", mode, tr("one of %(names)s", names="none, selective, full"))
    if mode == "memory_budget":
        draft.note(tr("activation_checkpoint.mode memory_budget is counted as selective."))
    draft.settle(
        "activation_checkpoint.mode activation_checkpoint.selective_ac_option", "settings.recompute",
        "selective" if mode == "memory_budget" else mode,
    )  # fmt: skip
    if not told:
        draft.assumed["settings.recompute"] = {
            "value": mode,
            "why": tr("the default of %(format)s", format="torchtitan"),
        }
    if mode == "selective":
        draft.put("settings.recompute_policy", "op" if option == "op" else "layer")
        if option.isdigit() and int(option) > 0:
            draft.put("settings.recompute_num_layers", int(option))
