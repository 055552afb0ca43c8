"""Megatron Bridge's YAML of overrides, and the ``section.key=value`` words of it and of NeMo 2's recipes.

Its recipes are Python and choose the model, which the overrides therefore do not name.

References
----------
.. [1] NVIDIA-NeMo/Megatron-Bridge 0.3 and August 2026, ``training/config.py``, ``training/mixed_precision.py``, ``peft/lora.py`` (rank 32 on
       ``linear_qkv``, ``linear_proj``, ``linear_fc1``, ``linear_fc2``), ``recipes``; NVIDIA/NeMo 2.x, ``nemo.lightning.MegatronStrategy``.
"""

from __future__ import annotations

from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.formats.nemo import projections
from vrameter.reading.shared import fsdp_alone, one_device
from vrameter.reading.values import choice, names, positive, real, switch, whole

_STRATEGY = "trainer.strategy"


def _width(value: Any) -> str | None:
    """Return a data type, also from ``torch.bfloat16``."""
    return str(choice(
        bfloat16="bf16", float32="fp32", float16="fp16", bf16="bf16", fp32="fp32", fp16="fp16", uint8="fp8", fp8="fp8",
    )(str(value).rpartition(".")[2]))  # fmt: skip


TABLE: Table = {
    **{f"{place}.tensor_model_parallel_size": to("parallelism.tensor", positive) for place in ("model", _STRATEGY)},
    **{f"{place}.pipeline_model_parallel_size": to("parallelism.pipeline", positive) for place in ("model", _STRATEGY)},
    **{f"{place}.virtual_pipeline_model_parallel_size": to("parallelism.virtual_pipeline", positive) for place in ("model", _STRATEGY)},
    **{f"{place}.context_parallel_size": to("parallelism.context", positive) for place in ("model", _STRATEGY)},
    **{f"{place}.expert_model_parallel_size": to("parallelism.expert", positive) for place in ("model", _STRATEGY)},
    **{f"{place}.expert_tensor_parallel_size": to("parallelism.expert_tensor", positive) for place in ("model", _STRATEGY)},
    **{f"{place}.sequence_parallel": to("parallelism.sequence", switch) for place in ("model", _STRATEGY)},
    **{f"{place}.recompute_granularity": to("settings.recompute", choice(full="full", selective="selective", none="none"))
       for place in ("model", "model.config")},
    **{f"{place}.recompute_method": to("settings.recompute_method", choice(uniform="uniform", block="block")) for place in ("model", "model.config")},
    **{f"{place}.recompute_num_layers": to("settings.recompute_num_layers", positive) for place in ("model", "model.config")},
    "model.recompute_modules": to("settings.recompute_modules", names),
    **{f"{place}.seq_length": to("settings.seq_len", positive) for place in ("dataset", "model", "data", "model.config")},
    **{f"{place}.micro_batch_size": to("settings.micro_batch", positive) for place in ("train", "data")},
    "model.mtp_num_layers": to("settings.mtp_num_layers", whole),
    "model.cross_entropy_loss_fusion": to("settings.cross_entropy_loss_fusion", switch),
    "optimizer.optimizer": to("settings.optimizer", choice(adam="adam", sgd="sgd_momentum", muon="muon", dist_muon="muon")),
    "optimizer.use_precision_aware_optimizer": to("settings.use_precision_aware_optimizer", switch),
    "optimizer.optimizer_cpu_offload": to("settings.optimizer_cpu_offload", switch),
    "optimizer.optimizer_offload_fraction": to("settings.optimizer_offload_fraction", real),
    "optimizer.exp_avg_dtype": to("settings.moment_dtype", _width),
    "ddp.grad_reduce_in_fp32": to("settings.gradient_dtype", lambda value: "fp32" if switch(value) else "bf16"),
    "ddp.overlap_grad_reduce": to("settings.overlap_grad_reduce", switch),
    "peft.dropout": to("settings.adapter.dropout", real),
    **together(
        "train.global_batch_size data.global_batch_size mixed_precision mixed_precision.grad_reduce_in_fp32 mixed_precision.fp8 peft.dim peft.alpha peft.target_modules "
        "peft ddp.use_distributed_optimizer ddp.use_megatron_fsdp ddp.data_parallel_sharding_strategy trainer.devices trainer.num_nodes"
    ),
    **ignored("files", "checkpoint logger rng profiling resume log tokenizer nvrx_* ft straggler inprocess_restart tensor_inspect trainer.callbacks"),
    **ignored("data", "dataset.* dataset data.*"),
    **ignored("evaluation", "validation"),
    **ignored("launch", "dist env_vars trainer.*"),
    **ignored("course", "train.* scheduler optim.* optim optimizer.* optimizer_config_override_provider"),
    **ignored("unmodelled", "model.* ddp.* comm_overlap mixed_precision.* peft.* kd_config rerun_state_machine factory"),
}  # fmt: skip


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    usual = tr("the default of %(format)s", format="Megatron Bridge")
    draft.request.setdefault("engine", "megatron-bridge")
    recipe = (
        str(draft.get("mixed_precision", "bf16_mixed")).lower().replace("-", "_")
        if not isinstance(draft.get("mixed_precision"), dict)
        else "bf16_mixed"
    )
    if not recipe.startswith(("bf16", "fp16", "nemotron", "nanov2")):
        raise refused(
            "mixed_precision",
            recipe,
            tr("one of %(names)s", names="bf16_mixed, fp16_mixed, bf16_with_fp8_current_scaling_mixed"),
        )
    eight = "fp8" in recipe or draft.get("mixed_precision.fp8") not in (None, False)
    draft.settle(
        "mixed_precision mixed_precision.fp8", "settings.precision",
        "fp8" if eight else "fp16-mixed" if recipe.startswith("fp16") else "bf16-mixed",
    )  # fmt: skip
    if draft.has("mixed_precision.grad_reduce_in_fp32"):
        wide = draft.on("mixed_precision.grad_reduce_in_fp32")
        draft.settle("mixed_precision.grad_reduce_in_fp32", "settings.gradient_dtype", "fp32" if wide else "bf16")
    elif recipe == "bf16_mixed" and draft.has("mixed_precision"):
        draft.assume("settings.gradient_dtype", "fp32", tr("%(name)s reduces gradients in fp32", name="bf16_mixed"))
    draft.settle(
        "ddp.use_distributed_optimizer", "parallelism.zero_stage", int(draft.on("ddp.use_distributed_optimizer", True))
    )
    if draft.on("ddp.use_megatron_fsdp"):
        strategy = str(draft.get("ddp.data_parallel_sharding_strategy", "no_shard")).lower()
        shards = {"optim_grads_params": "full_shard", "optim_grads": "shard_grad_op"}
        draft.settle(
            "ddp.use_megatron_fsdp ddp.data_parallel_sharding_strategy", "parallelism.fsdp", shards.get(strategy)
        )
    if any(draft.has(key) for key in ("peft.dim", "peft.alpha", "peft.target_modules")) or draft.get("peft") in (
        "lora",
        "dora",
    ):
        draft.settle("peft", "settings.finetuning", "dora" if draft.get("peft") == "dora" else "lora")
        draft.settle("peft.dim", "settings.adapter.rank", draft.number("peft.dim", 32))
        if draft.has("peft.alpha"):
            draft.settle("peft.alpha", "settings.adapter.alpha", real(draft.get("peft.alpha")))
        targets = draft.get("peft.target_modules", ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"])
        draft.settle("peft.target_modules", "settings.adapter.targets", projections(targets))
    else:
        draft.assume("settings.finetuning", "pretrain", tr("nothing asks for an adapter"))
    each, nodes = draft.number("trainer.devices"), draft.number("trainer.num_nodes", 1) or 1
    if each and draft.asked("num_devices") is None:
        draft.settle("trainer.devices trainer.num_nodes", "num_devices", each * nodes)
    total = draft.number("train.global_batch_size", draft.number("data.global_batch_size"))
    draft.settle("train.global_batch_size data.global_batch_size", "settings.global_batch_size", total)
    if draft.asked("model") is None:
        draft.note(tr("The model is chosen by a recipe in Python: give it with --model."))
    draft.assume("settings.recompute", "none", usual)
    draft.assume("settings.micro_batch", 1, usual)
    fsdp_alone(draft)
    one_device(draft)


__all__ = ["TABLE", "finish"]
