"""The answer back for a pipeline: what fits at most, and which changes would help how much."""

from __future__ import annotations

from typing import Any

import msgspec

from vrameter.engines import Answer
from vrameter.errors import VrameterError
from vrameter.i18n import tr
from vrameter.search import largest_fitting
from vrameter.training.advice import Estimate, changed
from vrameter.training.diffusion.run import FULL, Run, unit_of

MOST = {"micro_batch": 4096, "image_size": 2**14, "num_frames": 2**12}


def limits(run: Run, estimate: Estimate) -> dict[str, int]:
    """Return the largest micro-batch, the largest square picture and the longest video that fit, each with all else as asked."""
    device, shape = run.ask.device, run.shape
    if device is None:
        return {}

    def headroom(values: dict[str, Any]) -> int:
        answer = estimate(changed(run.ask, settings=values))
        return device.capacity_bytes - answer.ledgers[0][0].peak().used

    unit = unit_of(run.module, run.shape)
    found = {
        "micro_batch": largest_fitting(
            lambda number: headroom({"micro_batch": number}), most=MOST["micro_batch"], start=run.settings.micro_batch
        ),
        "image_size": unit
        * largest_fitting(
            lambda number: headroom({"image_size": number * unit}), most=MOST["image_size"] // unit, start=max(1, shape.height // unit)
        ),
    }  # fmt: skip
    if shape.frames > 1:
        steps = largest_fitting(
            lambda number: headroom({"num_frames": 1 + number * shape.time}), most=MOST["num_frames"] // shape.time,
            start=max(1, (shape.frames - 1) // shape.time),
        )  # fmt: skip
        found["num_frames"] = 1 + steps * shape.time if steps else 0
    return found


def changes(run: Run, peak: int, estimate: Estimate) -> list[dict[str, Any]]:
    """Return what would need less, the change that saves most first.

    Parameters
    ----------
    peak
        What the request as asked needs. [bytes]
    """
    found = []
    capacity = run.ask.device.capacity_bytes if run.ask.device else None
    for label, settings, fields in _candidates(run):
        try:
            answer: Answer = estimate(changed(run.ask, settings=settings, **fields))
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


def _candidates(run: Run) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    settings, shape, unit = run.settings, run.shape, unit_of(run.module, run.shape)
    half = [max(unit, edge // 2 // unit * unit) for edge in (shape.height, shape.width)]
    rows: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        (tr("recompute activations in the backward pass"), {"recompute": "full"}, {}),
        (tr("encode prompts and pictures before, and leave their encoders off the device"),
         {"precompute": True, "train_text_encoder": False, "resident_components": None}, {}),
        (tr("an 8-bit optimizer"), {"optimizer": "adamw_bnb_8bit"}, {}),
        (tr("one sample at a time"),
         {"micro_batch": 1, "grad_accumulation": settings.micro_batch * max(1, settings.grad_accumulation)}, {}),
        (tr("pictures of half the height and width"), {"image_size": half}, {}),
        (tr("keep no averaged copy of the weights"), {"ema": False}, {}),
    ]  # fmt: skip
    if settings.finetuning in FULL:
        adapter = {"rank": 16, "targets": []}
        lora = {"finetuning": "lora", "adapter": adapter, "precision": "bf16"}
        rows.append((tr("train low-rank adapters (LoRA)"), lora, {"dtype": "bf16"}))
        rows.append(
            (tr("low-rank adapters on a 4-bit base (QLoRA)"), lora, {"dtype": "bf16", "quantization": "bnb-nf4"})
        )
    elif run.asked.plan.quantization is None:
        rows.append((tr("a 4-bit base (QLoRA)"), {}, {"quantization": "bnb-nf4"}))
    degrees, parallelism = run.asked.degrees, run.ask.request.parallelism
    if degrees.data > 1 and degrees.fsdp is None:
        rows += [
            (tr("ZeRO stage %(stage)s", stage=stage), {}, {"parallelism": msgspec.structs.replace(parallelism, zero_stage=stage)})
            for stage in range(degrees.zero + 1, 4)
        ]  # fmt: skip
    if degrees.offload is None:
        rows.append(
            (tr("keep the optimizer's state in host memory"), {}, {"parallelism": msgspec.structs.replace(parallelism, offload="optimizer")})
        )  # fmt: skip
    return [row for row in rows if any(getattr(settings, name) != value for name, value in row[1].items()) or row[2]]


__all__ = ["changes", "limits"]
