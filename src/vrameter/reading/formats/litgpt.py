"""litgpt's YAML or flags.

References
----------
.. [1] Lightning-AI/litgpt, ``config_hub``, ``litgpt/finetune``, ``litgpt/pretrain.py``.
"""

from __future__ import annotations

from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.shared import frozen_in_full, one_device
from vrameter.reading.values import choice, positive, real, whole

TABLE: Table = {
    "precision": to("settings.precision", choice(**{
        "bf16_true": "bf16", "bf16_mixed": "bf16-mixed", "16_mixed": "fp16-mixed", "16_true": "fp16", "32_true": "fp32", "32": "fp32",
        "bf16": "bf16-mixed", "16": "fp16-mixed",
    })),
    "quantize": to("quantization", choice(**{
        "bnb.nf4": "bnb-nf4", "bnb.nf4_dq": "bnb-nf4-dq", "bnb.fp4": "bnb-nf4", "bnb.fp4_dq": "bnb-nf4-dq", "bnb.int8_training": "bnb-int8",
        "bnb.int8": "bnb-int8",
    })),
    "train.micro_batch_size": to("settings.micro_batch", positive),
    "train.max_seq_length": to("settings.seq_len", positive),
    "lora_r": to("settings.adapter.rank", whole),
    "lora_alpha": to("settings.adapter.alpha", real),
    "lora_dropout": to("settings.adapter.dropout", real),
    **together(
        "checkpoint_dir model_name model_config initial_checkpoint_dir devices num_nodes lora_query lora_key lora_value lora_projection "
        "lora_mlp lora_head optimizer train.global_batch_size finetune_method optimizer.class_path data.init_args.max_seq_length"
    ),
    **ignored("data", "data tokenizer_dir seed"),
    **ignored(
        "course",
        "train.epochs train.max_tokens train.max_steps train.lr_warmup_steps train.lr_warmup_fraction train.max_norm train.min_lr "
        "train.tie_embeddings train.log_interval train.save_interval optimizer.init_args train.max_time",
    ),
    **ignored("files", "out_dir logger_name access_token resume log "),
    **ignored("evaluation", "eval"),
}  # fmt: skip
_TARGETS = {
    "lora_query": ("q_proj", True), "lora_key": ("k_proj", False), "lora_value": ("v_proj", True), "lora_projection": ("o_proj", False),
}  # fmt: skip


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    draft.request.setdefault("engine", "litgpt")
    place: Any = draft.get("checkpoint_dir") or draft.get("initial_checkpoint_dir") or draft.get("model_name")
    if place and draft.asked("model") is None:
        parts = [part for part in str(place).rstrip("/").split("/") if part not in ("checkpoints", ".", "..", "")]
        draft.put("model", "/".join(parts[-2:]))
    draft.used("checkpoint_dir initial_checkpoint_dir model_name", "model")
    tunes = draft.asked("settings.adapter.rank") is not None or "lora" in str(draft.get("finetune_method", ""))
    pretrain = not tunes and (draft.has("model_name") or draft.get("finetune_method") == "pretrain")
    draft.settle("finetune_method", "settings.finetuning", "lora" if tunes else "pretrain" if pretrain else "full")
    if tunes:
        targets = [target for key, (target, default) in _TARGETS.items() if draft.on(key, default)]
        if draft.on("lora_mlp"):
            targets += ["gate_proj", "up_proj", "down_proj"]
        if draft.on("lora_head"):
            targets.append("lm_head")
        draft.settle(
            "lora_query lora_key lora_value lora_projection lora_mlp lora_head", "settings.adapter.targets", targets
        )
    else:
        frozen_in_full(draft, "quantize")
    nodes, devices = draft.number("num_nodes", 1) or 1, draft.number("devices")
    if devices:
        draft.settle("devices num_nodes", "num_devices", nodes * devices)
    _optimizer(draft)
    total, micro = draft.number("train.global_batch_size"), draft.asked("settings.micro_batch", 1)
    count = draft.asked("num_devices", 1)
    if total:
        draft.settle("train.global_batch_size", "settings.grad_accumulation", max(1, total // (micro * count)))
    if not tunes and count > 1:
        draft.assume("settings.recompute", "full", tr("litgpt recomputes blocks where FSDP shards them"))
        draft.assume("parallelism.fsdp", "full_shard", tr("litgpt shards a model over several devices"))
    draft.assume("settings.precision", "bf16", tr("litgpt takes bf16-true on devices that have it"))
    draft.assume("settings.micro_batch", 1, tr("the default of %(format)s", format="litgpt"))
    one_device(draft)


def _optimizer(draft: Draft) -> None:
    value = draft.get("optimizer.class_path") or draft.get("optimizer")
    if isinstance(value, dict):
        value = value.get("class_path")
    if not value:
        return
    kind = str(value).rpartition(".")[2].lower()
    known = {"adamw": "adamw_torch", "adam": "adamw_torch", "sgd": "sgd", "pagedadamw": "paged_adamw_32bit", "adamw8bit": "adamw_bnb_8bit",
             "pagedadamw8bit": "paged_adamw_8bit", "galoreadamw": "galore_adamw", "lion": "lion"}  # fmt: skip
    if kind not in known:
        raise refused("optimizer", value, tr("one of %(names)s", names=", ".join(known)))
    packed = draft.asked("quantization")
    found = "paged_adamw_32bit" if packed and kind in ("adamw", "adam") else known[kind]
    draft.settle("optimizer optimizer.class_path", "settings.optimizer", found)
