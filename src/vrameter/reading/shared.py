"""What several formats share: half precision, packed base weights, adapters, sharding words."""

from __future__ import annotations

import math
import re
from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, contradiction
from vrameter.reading.values import Unfit, name, names, real, switch, whole

ALL_LINEAR = ("all-linear", "all_linear", "all", "linear")
FSDP = {
    "full_shard": "full_shard", "shard_grad_op": "shard_grad_op", "hybrid_shard": "hybrid_shard", "no_shard": "no_shard",
    "hybrid_shard_zero2": "hybrid_shard", "hybrid_shard_zero_2": "hybrid_shard", "_hybrid_shard_zero2": "hybrid_shard",
    "1": "full_shard", "2": "shard_grad_op", "3": "no_shard", "4": "hybrid_shard", "5": "hybrid_shard", "fully_shard": "fsdp2",
}  # fmt: skip


def half_precision(
    draft: Draft, *, default: str | None = None, why: str = "", bf16: str = "bf16", fp16: str = "fp16"
) -> None:
    """Read the switches of mixed precision."""
    both = draft.on(bf16), draft.on(fp16)
    if all(both):
        raise contradiction(
            fp16, tr("%(one)s and %(other)s: both are true.", one=bf16, other=fp16), tr("Enable one of them.")
        )
    if any(both):
        draft.settle(f"{bf16} {fp16}", "settings.precision", "bf16-mixed" if both[0] else "fp16-mixed")
    else:
        if draft.has(bf16) or draft.has(fp16):
            if draft.get(bf16) != "auto" and draft.get(fp16) != "auto" and draft.has(bf16):
                default, why = "fp32", tr("neither %(one)s nor %(other)s is on", one=bf16, other=fp16)
            draft.used(f"{bf16} {fp16}", "settings.precision")
        if default and draft.asked("settings.precision") is None:
            draft.assume("settings.precision", default, why)


def packed_base(
    draft: Draft, *, nested_default: bool = False, nested: str = "use_bnb_nested_quant", kind: str = ""
) -> str | None:
    """Read load_in_4bit and load_in_8bit; return the format of the frozen weights."""
    four, eight = draft.on("load_in_4bit"), draft.on("load_in_8bit")
    if four and eight:
        raise contradiction(
            "load_in_8bit", tr("%(one)s and %(other)s: both are true.", one="load_in_4bit", other="load_in_8bit"),
            tr("Enable one of them."),
        )  # fmt: skip
    found = None
    if four:
        double = draft.on(nested, nested_default)
        found = "bnb-nf4-dq" if double else "bnb-nf4"
        if kind and str(draft.get(kind, "nf4")).lower() == "fp4":
            draft.note(tr("fp4 weights take the bytes of nf4."))
    elif eight:
        found = "bnb-int8"
    if found:
        draft.put("quantization", found)
    draft.used(f"load_in_4bit load_in_8bit {nested} {kind}", "quantization")
    return found


def adapter(
    draft: Draft, *, rank: str, alpha: str, dropout: str, targets: str, saved: str, defaults: dict[str, Any]
) -> None:
    """Read an adapter; `defaults` are the stack's own and are told as assumptions."""
    fields = {"rank": (rank, whole), "alpha": (alpha, real), "dropout": (dropout, real)}
    for field, (key, convert) in fields.items():
        if draft.has(key):
            try:
                draft.settle(key, f"settings.adapter.{field}", convert(draft.get(key)))
            except Unfit as unfit:
                from vrameter.reading.draft import refused

                raise refused(key, draft.get(key), str(unfit)) from None
        elif field in defaults:
            draft.assume(
                f"settings.adapter.{field}", defaults[field], tr("the default of %(format)s", format=draft.format)
            )
    if draft.has(targets):
        draft.settle(targets, "settings.adapter.targets", target_names(draft.get(targets)))
    elif "targets" in defaults:
        draft.assume(
            "settings.adapter.targets", defaults["targets"], tr("the default of %(format)s", format=draft.format)
        )
    if draft.has(saved):
        draft.settle(saved, "settings.adapter.modules_to_save", names(draft.get(saved)))
    for key in ("lora_target_parameters", "target_parameters"):
        if draft.has(key):
            draft.settle(key, "settings.adapter.target_parameters", names(draft.get(key)))
    if draft.has("target_regex"):
        draft.settle("target_regex", "settings.adapter.targets", target_names(draft.get("target_regex")))


# What no list of names holds: marks of a regular expression.
_EXPRESSION = re.compile(r"[\\^$*+?|()]")


def target_names(value: Any) -> str | list[str]:
    """Return the names of linear layers, ``all-linear``, or a regular expression as it stands."""
    if isinstance(value, str) and _EXPRESSION.search(value) and not value.lstrip().startswith("["):
        return value.strip()
    found = names(value)
    return "all-linear" if len(found) == 1 and found[0].lower() in ALL_LINEAR else found


def frozen_in_full(draft: Draft, key: str) -> None:
    """Refuse full fine-tuning of packed weights."""
    if draft.asked("quantization") and draft.asked("settings.finetuning", "full") in ("full", "pretrain", "freeze"):
        raise contradiction(
            key,
            tr("%(key)s: packed weights (%(value)s) are frozen: they cannot be trained in full.",
               key=key, value=draft.asked("quantization")),
            tr("Ask for an adapter (LoRA), or leave the quantisation out."),
        )  # fmt: skip


def fsdp_words(draft: Draft, key: str) -> None:
    """Read transformers' ``fsdp``: words such as ``full_shard auto_wrap offload``."""
    value = draft.get(key)
    words = names(value) if isinstance(value, (str, list)) else ["full_shard"] if value is True else []
    lowered = [word.lower() for word in words]
    strategy = next((FSDP[word] for word in lowered if word in FSDP), None)
    if "offload" in lowered:
        draft.put("parallelism.offload", "cpu")
    if strategy is None and lowered and lowered[0] not in ("false", "auto_wrap"):
        raise contradiction(key, tr("%(key)s: %(value)s names no strategy.", key=key, value=repr(value)[:80]),
                            tr("Use one of: %(names)s.", names="full_shard, shard_grad_op, hybrid_shard, no_shard"))  # fmt: skip
    draft.settle(key, "parallelism.fsdp", strategy or ("full_shard" if "auto_wrap" in lowered else None))


def fsdp_options(draft: Draft, options: dict[str, Any], key: str) -> None:
    """Read the options of FSDP, by transformers', accelerate's or axolotl's spelling."""
    for option, value in options.items():
        shown, word = f"{key}.{option}", option.removeprefix("fsdp_").lower()
        if word in ("sharding_strategy", "reshard_after_forward") and value is not None:
            text = str(value).lower()
            if text in ("true", "false"):
                strategy = "full_shard" if text == "true" else "shard_grad_op"
            elif text in FSDP:
                strategy = FSDP[text]
            else:
                raise contradiction(shown, tr("%(key)s: %(value)s names no strategy.", key=shown, value=repr(value)[:80]),
                                    tr("Use one of: %(names)s.", names=", ".join(FSDP)))  # fmt: skip
            if draft.asked("parallelism.fsdp") == "fsdp2":
                strategy = "fsdp2" if strategy == "full_shard" else strategy
            draft.put("parallelism.fsdp", strategy, shown)
        elif word == "version":
            if str(value) == "2" and draft.asked("parallelism.fsdp") in (None, "full_shard"):
                draft.put("parallelism.fsdp", "fsdp2")
            draft.understood[shown] = "parallelism.fsdp"
        elif word in ("offload_params", "cpu_offload"):
            if switch(value):
                draft.put("parallelism.offload", "cpu")
            draft.understood[shown] = "parallelism.offload"
        elif word == "activation_checkpointing":
            if switch(value):
                draft.put("settings.recompute", "full")
            draft.understood[shown] = "settings.recompute"
        elif word in _FSDP_REST:
            draft.ignore(shown, value, tr("steers how training goes, not its memory"))
        elif word in ("transformer_layer_cls_to_wrap", "auto_wrap_policy", "min_num_params"):
            draft.ignore(shown, value, tr("may change memory, and is not modelled"))
        else:
            reason = tr("is not a key of %(format)s known here", format="FSDP")
            draft.ignore(shown, value, reason)
            draft.note(f"{shown}: {reason}.")


_FSDP_REST = (
    "backward_prefetch", "backward_prefetch_policy", "forward_prefetch", "use_orig_params", "sync_module_states", "state_dict_type",
    "cpu_ram_efficient_loading", "limit_all_gathers", "final_state_dict_type", "xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt",
    "mixed_precision_policy", "ignored_modules", "enable_prefetch", "sync_module_states_on_load",
)  # fmt: skip


def recompute(draft: Draft, key: str, *, default: bool, why: str = "") -> None:
    """Read the switch of gradient checkpointing."""
    value = draft.get(key)
    if isinstance(value, str) and value.lower() in ("offload", "unsloth", "offload_disk", "true_offload"):
        draft.put("settings.activation_offload", True)
        draft.settle(key, "settings.recompute", "full")
    elif draft.has(key):
        draft.settle(key, "settings.recompute", "full" if draft.on(key) else "none")
    else:
        draft.assume(
            "settings.recompute",
            "full" if default else "none",
            why or tr("the default of %(format)s", format=draft.format),
        )


def without_devices() -> str:
    """Return the note of a sharded run that does not say over how many devices."""
    return tr("The state is to be sharded, and nothing says over how many devices: give --num-devices.")


def fsdp_alone(draft: Draft) -> None:
    """Leave the distributed optimizer out where FSDP shards everything: Megatron asks for both at once."""
    if draft.asked("parallelism.fsdp"):
        draft.request["parallelism"].pop("zero_stage", None)


def one_device(draft: Draft) -> None:
    """Assume one device where nothing tells how many."""
    degrees = draft.asked("parallelism", {})
    shares = 1
    for degree in ("tensor", "data", "context"):
        shares *= degrees.get(degree, 1)
    # Experts are split among the devices of a stage.
    product = math.lcm(shares, degrees.get("expert", 1)) * degrees.get("pipeline", 1)
    if draft.asked("num_devices") is None:
        if degrees.get("fsdp") or degrees.get("zero_stage"):
            draft.note(without_devices())
        draft.assume("num_devices", product, tr("nothing says how many processes start"))


__all__ = [
    "adapter", "frozen_in_full", "fsdp_alone", "fsdp_options", "fsdp_words", "half_precision", "name", "one_device", "packed_base", "recompute",
    "target_names",
]  # fmt: skip
