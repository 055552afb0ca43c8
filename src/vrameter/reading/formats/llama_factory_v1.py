"""LLaMA-Factory's YAML since its version 1: one object for each plugin.

References
----------
.. [1] hiyouga/LLaMA-Factory, August 2026, ``src/llamafactory/v1/config``: ``cutoff_len`` 2048, ``micro_batch_size`` 1, ``bf16`` and
       ``enable_activation_checkpointing`` on; ``examples/v1``.
"""

from __future__ import annotations

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.formats import deepspeed
from vrameter.reading.shared import adapter, frozen_in_full, one_device
from vrameter.reading.values import name, positive, switch, whole

TABLE: Table = {
    "model": to("model", name),
    "micro_batch_size": to("settings.micro_batch", positive),
    "global_batch_size": to("settings.global_batch_size", positive),
    "cutoff_len": to("settings.seq_len", positive),
    "cp_size": to("parallelism.context", positive),
    "enable_activation_checkpointing": to("settings.recompute", lambda value: "full" if switch(value) else "none"),
    "peft_config.freeze_trainable_layers": to("settings.num_trainable_layers", lambda value: abs(whole(value)) or None),
    "batching_strategy": to("settings.padding_free", lambda value: "padding_free" in str(value) or None),
    **together(
        "bf16 peft_config.name peft_config.r peft_config.lora_alpha peft_config.lora_dropout peft_config.target_modules quant_config.name "
        "quant_config.quantization_bit dist_config.name dist_config.config_file optim_config.name train_type pref_loss"
    ),
    **ignored("data", "train_dataset eval_dataset template sample_backend max_new_tokens batching_workers data_args"),
    **ignored("course", "learning_rate max_steps num_train_epochs max_grad_norm lr_scheduler_config seed full_determinism pref_beta pref_ftx "
              "simpo_gamma dpo_label_smoothing ld_alpha optim_config"),
    **ignored("files", "output_dir model_class trust_remote_code resume_from_checkpoint save_* logging_steps export_dir"),
    **ignored("launch", "dp_size cp_mode mp_replicate_size mp_shard_size dist_timeout dist_config"),
    **ignored("unmodelled", "kernel_config peft_config quant_config init_config"),
}  # fmt: skip
_OPTIMIZERS = {"adamw": "adamw_torch_fused", "muon": "muon"}


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    draft.request.setdefault("engine", "llama-factory")
    draft.settle("bf16", "settings.precision", "bf16-mixed" if draft.on("bf16", True) else "fp32")
    draft.settle("train_type pref_loss", "settings.objective", {"dpo": "dpo"}.get(str(draft.get("train_type")).lower()))
    bits = draft.number("quant_config.quantization_bit")
    if bits not in (None, 4, 8):
        raise refused("quant_config.quantization_bit", bits, tr("one of %(names)s", names="4, 8"))
    draft.settle(
        "quant_config.name quant_config.quantization_bit", "quantization",
        "bnb-nf4-dq" if bits == 4 else "bnb-int8" if bits == 8 else None,
    )  # fmt: skip
    kind = str(draft.get("peft_config.name", "full")).lower()
    if kind not in ("full", "lora", "freeze"):
        raise refused("peft_config.name", kind, tr("one of %(names)s", names="lora, freeze"))
    draft.settle("peft_config.name", "settings.finetuning", kind)
    if kind == "lora":
        prefix = "peft_config."
        adapter(
            draft, rank=f"{prefix}r", alpha=f"{prefix}lora_alpha", dropout=f"{prefix}lora_dropout", targets=f"{prefix}target_modules",
            saved=f"{prefix}modules_to_save", defaults={"rank": 8, "targets": "all-linear"},
        )  # fmt: skip
    else:
        frozen_in_full(draft, "quant_config.quantization_bit")
    place = str(draft.get("dist_config.name", "")).lower()
    if place == "fsdp2":
        draft.settle("dist_config.name", "parallelism.fsdp", "fsdp2")
    elif place == "deepspeed" and draft.has("dist_config.config_file"):
        file = draft.get("dist_config.config_file")
        deepspeed.read_named(draft, file, draft.waiting.pop("dist_config.config_file"))
        draft.used("dist_config.name", "parallelism.zero_stage")
    if draft.has("optim_config.name"):
        asked = str(draft.get("optim_config.name")).lower()
        if asked not in _OPTIMIZERS:
            raise refused("optim_config.name", asked, tr("one of %(names)s", names=", ".join(_OPTIMIZERS)))
        draft.settle("optim_config.name", "settings.optimizer", _OPTIMIZERS[asked])
    usual = tr("the default of %(format)s", format="LLaMA-Factory")
    draft.assume("settings.recompute", "full", usual)
    draft.assume("settings.seq_len", 2048, usual)
    draft.assume("settings.micro_batch", 1, usual)
    one_device(draft)


__all__ = ["TABLE", "finish"]
