"""DeepSpeed's JSON, alone or named by another configuration.

References
----------
.. [1] deepspeed.ai, "DeepSpeed Configuration JSON"; ms-swift names ready-made ones ``zero0`` to ``zero3_offload``.
.. [2] DeepSpeed 0.18, ``runtime/zero/config.py``: ``reduce_bucket_size`` 5e8, ``stage3_max_live_parameters`` 1e9, ``contiguous_gradients`` on,
       ``overlap_comm`` on with stage 3 alone; transformers fills "auto" with the square of the width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from vrameter.i18n import tr
from vrameter.reading.documents import parse
from vrameter.reading.draft import Draft, Table, contradiction, ignored, refused, to, together
from vrameter.reading.values import name, positive, shortened, whole

TABLE: Table = {
    "train_micro_batch_size_per_gpu": to("settings.micro_batch", positive),
    "gradient_accumulation_steps": to("settings.grad_accumulation", positive),
    "tensor_parallel.autotp_size": to("parallelism.tensor", positive),
    "sequence_parallel_size": to("parallelism.context", positive),
    "zero_optimization.stage3_max_live_parameters": to("settings.stage3_max_live_parameters", whole),
    **together(
        "train_batch_size zero_optimization.stage zero_optimization.offload_optimizer zero_optimization.offload_param "
        "zero_optimization.cpu_offload bf16.enabled fp16.enabled bfloat16.enabled optimizer.type torch_autocast.enabled "
        "torch_autocast.dtype zero_optimization.reduce_bucket_size zero_optimization.overlap_comm zero_optimization.contiguous_gradients"
    ),
    **ignored(
        "unmodelled",
        "zero_optimization.allgather_bucket_size zero_optimization.sub_group_size "
        "zero_optimization.stage3_prefetch_bucket_size zero_optimization.stage3_param_persistence_threshold "
        "zero_optimization.stage3_max_reuse_distance "
        "zero_optimization.reduce_scatter "
        "zero_optimization.allgather_partitions zero_optimization.round_robin_gradients zero_optimization.zero_hpz_partition_size "
        "zero_optimization.zero_quantized_weights zero_optimization.zero_quantized_gradients "
        "zero_optimization.memory_efficient_linear zero_optimization.mics_shard_size "
        "zero_optimization.mics_hierarchical_params_gather activation_checkpointing communication_data_type "
        "zero_optimization.offload_optimizer_config aio compression_training hybrid_engine data_types bf16.immediate_grad_update "
        "fp16.fp16_master_weights_and_grads zero_optimization.zero_quantized_nontrainable_weights pipeline moe",
    ),
    **ignored(
        "course",
        "optimizer.params scheduler gradient_clipping fp16.loss_scale fp16.loss_scale_window fp16.hysteresis "
        "fp16.min_loss_scale fp16.initial_scale_power fp16.auto_cast fp16.consecutive_hysteresis prescale_gradients "
        "gradient_predivide_factor sparse_gradients zero_force_ds_cpu_optimizer zero_allow_untested_optimizer "
        "zero_optimization.ignore_unused_parameters zero_optimization.elastic_checkpoint amp bf16.auto_cast "
        "torch_autocast.lower_precision_safe_modules curriculum_learning data_efficiency elasticity autotuning "
        "progressive_layer_drop",
    ),
    **ignored(
        "files",
        "steps_per_print wall_clock_breakdown dump_state memory_breakdown flops_profiler tensorboard wandb csv_monitor comet "
        "comms_logger checkpoint zero_optimization.stage3_gather_16bit_weights_on_model_save "
        "zero_optimization.stage3_gather_fp16_weights_on_model_save zero_optimization.load_from_fp32_weights nebula "
        "zero_optimization.gather_16bit_weights_on_model_save comms_config monitor_config cuda_visible_devices _comment* _description _note",
    ),
}  # fmt: skip
OPTIMIZERS = {
    "adam": "adam", "adamw": "adam", "fusedadam": "adam", "deepspeedcpuadam": "adam", "onebitadam": "adam", "zerooneadam": "adam",
    "lion": "lion", "adagrad": "adagrad", "sgd": "sgd_momentum", "muon": "muon", "lamb": "adam", "onebitlamb": "adam",
}  # fmt: skip
_NAMED = re.compile(
    r"(?:.*[/_])?(?:ds_)?(?:z(?:ero)?|stage)[_-]?(?P<stage>[0-3])(?:_config)?(?:_no_offload(?:ing)?)?(?P<offload>_offload(?:ing)?)?"
    r"(?:_(?:config|accelerate|bf16))*(?P<file>\.(?:json|conf|ya?ml))?$"
)


def read_named(draft: Draft, value: Any, key: str) -> None:
    """Read a DeepSpeed configuration that another one holds or names."""
    if isinstance(value, Mapping):
        read(draft, value, prefix=f"{key}.")
        draft.understood[key] = "parallelism.zero_stage"
        return
    reference = name(value)
    tree = None
    if reference.endswith((".json", ".yaml", ".yml")) and draft.open is not None:
        try:
            tree = parse(draft.open(reference), name=reference)
        except FileNotFoundError:
            tree = None
    if tree is not None:
        read(draft, tree, prefix=f"{PurePath(reference).name}: ")
        draft.understood[key] = "parallelism.zero_stage"
        return
    match = _NAMED.match(reference.lower())
    if match is None:
        draft.ignore(key, value, tr("names a file that is not here: its stage is unknown"))
        draft.note(
            tr("%(key)s: '%(value)s' cannot be read; give it beside this file.", key=key, value=shortened(value))
        )
        return
    draft.put("parallelism.zero_stage", int(match["stage"]), key)
    stored(draft)
    if match["offload"]:
        draft.put("parallelism.offload", "all" if match["stage"] == "3" else "optimizer")
    if match["file"]:
        why = tr("the file is not here; its name says stage %(stage)s", stage=match["stage"])
        draft.assumed["parallelism.zero_stage"] = {"value": int(match["stage"]), "why": why}


def read(draft: Draft, tree: Mapping[str, Any], *, prefix: str = "") -> None:
    """Read DeepSpeed's keys into a draft."""
    part = draft.part("deepspeed")
    before = {target: draft.asked(target) for target in ("settings.micro_batch", "settings.grad_accumulation")}
    part.take(tree, TABLE, prefix=prefix)
    for target, said in before.items():
        if said is not None and part.asked(target) != said:
            raise contradiction(
                target.partition(".")[2],
                tr("%(field)s: DeepSpeed's configuration says %(value)s where the other says %(other)s.",
                   field=target, value=part.asked(target), other=said),
                tr("Give the same number in both, or 'auto' in DeepSpeed's."),
            )  # fmt: skip
    stage = part.number("zero_optimization.stage", 0) or 0
    if not 0 <= stage <= 3:
        raise refused(f"{prefix}zero_optimization.stage", stage, tr("one of %(names)s", names="0, 1, 2, 3"))
    said = draft.asked("parallelism.zero_stage")
    if said not in (None, stage):
        raise contradiction(
            "zero_stage",
            tr("parallelism.zero_stage: DeepSpeed's configuration says %(value)s where another key says %(other)s.",
               value=stage, other=said),
            tr("Give one stage."),
        )  # fmt: skip
    if part.has("zero_optimization.stage"):
        part.settle("zero_optimization.stage", "parallelism.zero_stage", stage)
    _buckets(part, stage)
    _offload(part, stage)
    _precision(part)
    stored(part)
    if part.has("optimizer.type"):
        kind = name(part.get("optimizer.type")).lower()
        if kind not in OPTIMIZERS:
            raise refused(f"{prefix}optimizer.type", kind, tr("one of %(names)s", names=", ".join(OPTIMIZERS)))
        part.settle("optimizer.type", "settings.optimizer", OPTIMIZERS[kind])
    total = part.number("train_batch_size")
    if total:
        _devices(part, total)
    part.close()


def _buckets(part: Draft, stage: int) -> None:
    """Read the buffers in which gradients are reduced; without contiguous gradients there are none."""
    keys = "zero_optimization.reduce_bucket_size zero_optimization.contiguous_gradients"
    size = part.number("zero_optimization.reduce_bucket_size")
    if stage and part.on("zero_optimization.contiguous_gradients", True):
        if size:
            part.settle(keys, "settings.reduce_bucket_size", size)
        elif not part.has("zero_optimization.reduce_bucket_size"):
            part.assume("settings.reduce_bucket_size", 500_000_000, tr("the default of %(format)s", format="DeepSpeed"))
            part.used(keys, "settings.reduce_bucket_size")
    if part.on("zero_optimization.overlap_comm") and 0 < stage < 3:
        part.settle("zero_optimization.overlap_comm", "settings.overlap_grad_reduce", True)


def _offload(part: Draft, stage: int) -> None:
    places = {}
    for key in ("offload_optimizer", "offload_param"):
        value = part.get(f"zero_optimization.{key}")
        device = value.get("device", "none") if isinstance(value, Mapping) else value
        places[key] = str(device).lower() in ("cpu", "nvme", "true")
    if part.on("zero_optimization.cpu_offload"):
        places["offload_optimizer"] = True
    if places["offload_param"] and stage < 3:
        part.note(tr("zero_optimization.offload_param has an effect with stage 3 alone."))
        places["offload_param"] = False
    where = {(True, True): "all", (True, False): "optimizer", (False, True): "parameters"}.get(
        (places["offload_optimizer"], places["offload_param"])
    )
    part.settle(
        "zero_optimization.offload_optimizer zero_optimization.offload_param zero_optimization.cpu_offload",
        "parallelism.offload", where,
    )  # fmt: skip


def _precision(part: Draft) -> None:
    half = (
        "bf16"
        if part.on("bf16.enabled") or part.on("bfloat16.enabled")
        else "fp16"
        if part.on("fp16.enabled")
        else None
    )
    if (part.on("bf16.enabled") or part.on("bfloat16.enabled")) and part.on("fp16.enabled"):
        raise contradiction(
            "fp16.enabled", tr("bf16.enabled and fp16.enabled: both are true."), tr("Enable one of them.")
        )
    if half is not None:
        part.settle("bf16.enabled bfloat16.enabled fp16.enabled", "settings.precision", f"{half}-mixed")


def stored(part: Draft) -> None:
    """DeepSpeed turns the weights into the half precision that it trains in, and keeps copies in fp32 itself."""
    half = str(part.asked("settings.precision", "")).partition("-")
    if half[2] == "mixed" and part.asked("dtype") is None:
        part.assume("dtype", half[0], tr("DeepSpeed turns the weights into %(name)s", name=half[0]))


def _devices(part: Draft, total: int) -> None:
    """Devices from a batch of all: total = micro batch x accumulation x devices."""
    micro, steps = part.asked("settings.micro_batch"), part.asked("settings.grad_accumulation", 1)
    if micro is None:
        part.put("settings.global_batch_size", whole(total))
    elif total % (micro * steps):
        raise contradiction(
            "train_batch_size",
            tr("train_batch_size: %(total)s is no multiple of %(micro)s sequences x %(steps)s passes.",
               total=total, micro=micro, steps=steps),
            tr("train_batch_size = train_micro_batch_size_per_gpu x gradient_accumulation_steps x devices."),
        )  # fmt: skip
    elif part.asked("num_devices") is None:
        part.put("num_devices", total // (micro * steps))
    part.used("train_batch_size", "num_devices")


def is_deepspeed(tree: Mapping[str, Any]) -> bool:
    """Say whether a document is DeepSpeed's."""
    own = {
        "zero_optimization",
        "train_micro_batch_size_per_gpu",
        "train_batch_size",
        "steps_per_print",
        "wall_clock_breakdown",
    }
    return len(own & set(tree)) >= 1 and ("zero_optimization" in tree or len(own & set(tree)) >= 2)
