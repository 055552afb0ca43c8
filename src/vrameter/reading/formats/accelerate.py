"""accelerate's YAML, alone or named by ``accelerate launch --config_file``.

References
----------
.. [1] huggingface.co/docs/accelerate, "FSDP", "DeepSpeed", "Megatron-LM" usage guides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, contradiction, ignored, to, together
from vrameter.reading.formats import deepspeed
from vrameter.reading.shared import fsdp_options
from vrameter.reading.values import choice, positive, switch

TABLE: Table = {
    "num_processes": to("num_devices", positive),
    "mixed_precision": to("settings.precision", choice(
        no="fp32", none="fp32", false="fp32", bf16="bf16-mixed", fp16="fp16-mixed", fp8="fp8",
    )),
    "megatron_lm_config.megatron_lm_tp_degree": to("parallelism.tensor", positive),
    "megatron_lm_config.megatron_lm_pp_degree": to("parallelism.pipeline", positive),
    "megatron_lm_config.megatron_lm_sequence_parallelism": to("parallelism.sequence", switch),
    "megatron_lm_config.megatron_lm_recompute_activations": to(
        "settings.recompute", lambda value: "selective" if switch(value) else None
    ),
    "parallelism_config.parallelism_config_tp_size": to("parallelism.tensor", positive),
    "parallelism_config.parallelism_config_cp_size": to("parallelism.context", positive),
    "gradient_accumulation_steps": to("settings.grad_accumulation", positive),
    **together("distributed_type fsdp_config deepspeed_config dynamo_config use_cpu"),
    **ignored(
        "launch",
        "compute_environment debug downcast_bf16 machine_rank main_training_function num_machines rdzv_backend same_network "
        "tpu_env tpu_use_cluster tpu_use_sudo main_process_ip main_process_port gpu_ids enable_cpu_affinity commands command_file "
        "tpu_name tpu_zone tpu_vm rdzv_conf ipex_config mpirun_config ",
    ),
    **ignored("unmodelled", "fp8_config megatron_lm_config.megatron_lm_num_micro_batches megatron_lm_config.megatron_lm_gradient_clipping "
              "megatron_lm_config.megatron_lm_use_distributed_optimizer parallelism_config "),
}  # fmt: skip
_DEEPSPEED: Table = {
    "gradient_accumulation_steps": to("settings.grad_accumulation", positive),
    **together("zero_stage offload_optimizer_device offload_param_device deepspeed_config_file"),
    **ignored("course", "gradient_clipping zero3_init_flag deepspeed_hostfile deepspeed_multinode_launcher deepspeed_exclusion_filter "
              "deepspeed_inclusion_filter"),
    **ignored("files", "zero3_save_16bit_model offload_optimizer_nvme_path offload_param_nvme_path"),
    **ignored("unmodelled", "deepspeed_moe_layer_cls_names"),
}  # fmt: skip


def read(draft: Draft, tree: Mapping[str, Any], *, prefix: str = "") -> None:
    """Read accelerate's keys into a draft."""
    part = draft.part("accelerate")
    said = draft.asked("settings.precision")
    part.take(tree, TABLE, prefix=prefix)
    mixed = part.asked("settings.precision")
    if said is not None and said != mixed:
        # The Trainer's own switch sets accelerate's.
        part.put("settings.precision", said)
        part.note(
            tr("accelerate's mixed_precision differs from the training arguments, which decide: %(value)s.", value=said)
        )
    kind = str(part.get("distributed_type", "NO")).upper()
    part.used("distributed_type use_cpu", "parallelism")
    if kind == "FSDP":
        part.put("parallelism.fsdp", "full_shard")
        options = part.get("fsdp_config")
        if isinstance(options, Mapping):
            fsdp_options(part, dict(options), f"{prefix}fsdp_config")
        part.used("fsdp_config", "parallelism.fsdp")
    elif kind == "DEEPSPEED":
        _deepspeed(part, prefix)
    if isinstance(part.get("dynamo_config"), Mapping):
        backend = str(part.get("dynamo_config").get("dynamo_backend", "NO")).upper()
        part.settle("dynamo_config", "settings.compile", True if backend not in ("NO", "") else None)
    part.close()


def _deepspeed(part: Draft, prefix: str) -> None:
    options = part.get("deepspeed_config")
    if not isinstance(options, Mapping):
        return
    inner = part.part("accelerate")
    inner.take(options, _DEEPSPEED, prefix=f"{prefix}deepspeed_config.")
    if inner.has("deepspeed_config_file"):
        deepspeed.read_named(inner, inner.get("deepspeed_config_file"), inner.waiting.pop("deepspeed_config_file"))
    stage, said = inner.number("zero_stage"), part.asked("parallelism.zero_stage")
    if stage is not None:
        if said is not None and said != stage:
            raise contradiction(
                "zero_stage",
                tr("parallelism.zero_stage: DeepSpeed's configuration says %(value)s where another key says %(other)s.",
                   value=said, other=stage),
                tr("Give one stage."),
            )  # fmt: skip
        inner.settle("zero_stage", "parallelism.zero_stage", stage)
    elif said is None:
        inner.assume("parallelism.zero_stage", 2, tr("the default of %(format)s", format="accelerate"))
    state, weights = (
        str(inner.get(key, "none")).lower() in ("cpu", "nvme")
        for key in ("offload_optimizer_device", "offload_param_device")
    )
    where = "all" if state and weights else "optimizer" if state else "parameters" if weights else None
    inner.settle("offload_optimizer_device offload_param_device", "parallelism.offload", where)
    part.used("deepspeed_config", "parallelism.zero_stage")
    deepspeed.stored(part)
    inner.close()


def is_accelerate(tree: Mapping[str, Any]) -> bool:
    """Say whether a document is accelerate's."""
    return "distributed_type" in tree or "compute_environment" in tree
