"""The answer back: what fits at most, and which changes would help how much, asked of the same functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from vrameter.engines import Answer, Ask
from vrameter.errors import VrameterError
from vrameter.i18n import tr
from vrameter.search import largest_fitting
from vrameter.training.setup import Setup
from vrameter.training.vision import asking

MOST = {"micro_batch": 4096, "seq_len": 2**22}
Estimate = Callable[[Ask], Answer]


def changed(ask: Ask, *, settings: dict[str, Any] | None = None, **fields: Any) -> Ask:
    """Return the same question with other settings and fields."""
    merged = {**ask.request.settings, **(settings or {}), "advise": False}
    return replace(ask, request=msgspec.structs.replace(ask.request, settings=merged, **fields))


def limits(asked: Setup, estimate: Estimate) -> dict[str, int]:
    """Return the largest micro-batch and the longest sequence that fit, each with all else as asked."""
    device = asked.ask.device
    if device is None:
        return {}
    found = {}
    positions = asked.architecture.main.max_positions
    image = asked.architecture.network is not None
    for name, most in MOST.items():
        if image and name == "seq_len":
            continue
        bound = min(most, positions) if name == "seq_len" and positions else most

        def headroom(number: int, name: str = name) -> int:
            answer = estimate(changed(asked.ask, settings={name: number}))
            return device.capacity_bytes - answer.ledgers[0][0].peak().used

        found[name] = largest_fitting(headroom, most=bound, start=getattr(asked.settings, name) or asked.length)
    return found


def changes(asked: Setup, peak: int, estimate: Estimate) -> list[dict[str, Any]]:
    """Return what would need less, the change that saves most first.

    Parameters
    ----------
    peak
        What the request as asked needs. [bytes]
    """
    found = []
    capacity = asked.ask.device.capacity_bytes if asked.ask.device else None
    for label, settings, fields in _candidates(asked):
        try:
            answer = estimate(changed(asked.ask, settings=settings, **fields))
        except VrameterError:
            continue
        used = answer.ledgers[0][0].peak().used
        if used >= peak:
            continue
        entry: dict[str, Any] = {"change": label, "saves_bytes": peak - used, "peak_bytes": used}
        if settings:
            entry["settings"] = settings
        for name, value in fields.items():
            entry[name] = msgspec.to_builtins(value)
        if capacity is not None:
            entry["fits"] = used <= capacity
        found.append(entry)
    return sorted(found, key=lambda entry: -int(entry["saves_bytes"]))


def _candidates(asked: Setup) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    settings = asked.settings
    if asked.architecture.network is not None:
        return asking.candidates(settings) + _shared(asked)
    rows: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        (tr("recompute activations in the backward pass"), {"recompute": "full"}, {}),
        (tr("keep saved activations in host memory"), {"recompute": "full", "activation_offload": True}, {}),
        (tr("a fused loss that makes logits a chunk at a time"), {"loss": "fused"}, {}),
        (tr("fused norms, rotations and activations"), {"fused_kernels": True}, {}),
        (tr("a fused attention kernel"), {"attn_implementation": "flash_attention_2"}, {}),
        (tr("an 8-bit optimizer"), {"optimizer": "adamw_bnb_8bit"}, {}),
        (tr("a paged 8-bit optimizer"), {"optimizer": "paged_adamw_8bit"}, {}),
        (tr("step each parameter as its gradient arrives"), {"optimizer_in_backward": True, "grad_accumulation": 1}, {}),
        (tr("one sequence at a time"), {"micro_batch": 1, "grad_accumulation": settings.micro_batch * max(1, settings.grad_accumulation)}, {}),
        (tr("half the sequence length"), {"seq_len": max(1, asked.length // 2)}, {}),
    ]  # fmt: skip
    if asked.full and asked.stack.program == "transformers":
        adapter = {"rank": 16, "targets": "all-linear"}
        rows.append(
            (tr("train low-rank adapters (LoRA)"), {"finetuning": "lora", "adapter": adapter}, {"dtype": "bf16"})
        )
        rows.append(
            (tr("low-rank adapters on a 4-bit base (QLoRA)"), {"finetuning": "lora", "adapter": adapter},
             {"dtype": "bf16", "quantization": "bnb-nf4"})
        )  # fmt: skip
    elif asked.plan.quantization is None and asked.adapters is not None:
        rows.append((tr("a 4-bit base (QLoRA)"), {}, {"quantization": "bnb-nf4"}))
    rows += _shared(asked)
    return [
        row for row in rows if any(getattr(settings, name, None) != value for name, value in row[1].items()) or row[2]
    ]


def _shared(asked: Setup) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return what devices could share, and what the host could hold."""
    degrees = asked.degrees
    rows: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    if degrees.data > 1 and degrees.fsdp is None:
        parallelism = asked.ask.request.parallelism
        for stage in range(degrees.zero + 1, 4):
            rows.append(
                (tr("ZeRO stage %(stage)s", stage=stage), {}, {"parallelism": msgspec.structs.replace(parallelism, zero_stage=stage)})
            )  # fmt: skip
    if degrees.offload is None:
        parallelism = msgspec.structs.replace(asked.ask.request.parallelism, offload="optimizer")
        rows.append((tr("keep the optimizer's state in host memory"), {}, {"parallelism": parallelism}))
    return rows


__all__ = ["changed", "changes", "limits"]
