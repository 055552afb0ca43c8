"""Pipelines of diffusers against what their projects measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.scores import Pair, Score
from vrameter import estimate
from vrameter.units import GIB

FILE = Path(__file__).parent / "cases" / "diffusion.jsonl"
TRAINING = FILE.with_name("diffusion_training.jsonl")
Case = Mapping[str, Any]
GB = 10**9

# A post whose figures do not grow with the batch: read in GiB they are the weights alone, to the printed digit.
WEIGHTS_ONLY = "quanto-"
LEGACY = "its transformer stood in fp32, which the request does not say: 30 GiB stood reserved before the first step"
NOTES = {
    "cogtrain-full-2b-AdamW--rNone-gcT-bs1": LEGACY,
    "cogtrain-full-5b-AdamW-8bit-rNone-gcT-bs1": LEGACY,
    "cogtrain-full-5b-AdamW+CPUOffloadOptimizer-cpuoff-rNone-gcT-bs1": LEGACY,
    "cogtrain-full-2b-AdamW+CPUOffloadOptimizer-cpuoff-rNone-gcT-bs4": LEGACY,
    **dict.fromkeys(
        ("peft-img-hra--flux2-klein-default", "peft-img-fourierft--flux2-klein-default"),
        "products of the size of the weights: the allocator holds another share beside them than beside activations",
    ),
    **dict.fromkeys(
        (
            "amused-256-full-bs8",
            "amused-256-full-bs4",
            "amused-256-full-bs1",
            "amused-256-full-8bit-bs8",
            "amused-256-full-8bit-bs16",
            "amused-256-full-8bit-bs1",
            "amused-512-full-bs4",
            "amused-512-full-8bit-bs8",
            "amused-512-full-8bit-bs4",
            "amused-512-lora-bs4",
            "amused-512-lora-bs8",
        ),
        "its metric is not named; pictures made for validation every 250 steps are within",
    ),
    "sd3-model_cpu_offload+noT5": "its metric is not named: 0.7 GB of 4.3 GB",
    "hunyuan-CPUoffloading": "its metric is not named",
    "fluxq-torchaoint4wo(DiT+T5)": "open: more stands reserved after loading than its format and its conversion take",
    "fluxq-quantoint4(DiT+T5)": "1.4 GB more after loading than its format takes: what quanto keeps of 4-bit matrices is not modelled",
    "sdxl-fp16+SDPA": "decoding in fp32: cuDNN's copies are calibrated in bf16",
    "sdxl-fp16+SDPA+compile": "decoding in fp32: cuDNN's copies are calibrated in bf16",
    "sdxl-fp16VAEslicing": "attention written out, in a release that is not stated",
}


def cases(file: Path = FILE) -> Iterator[tuple[Case, Mapping[str, Any]]]:
    """Yield every case with its answer."""
    for line in file.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        yield case, estimate(case["request"])


def pairs(answered: list[tuple[Case, Mapping[str, Any]]], figure: str) -> tuple[Pair, ...]:
    """Return the pairs of one figure."""
    found = []
    for case, answer in answered:
        if figure not in case["measured"] or case["id"].startswith(WEIGHTS_ONLY):
            continue
        peak = answer["devices"][0]["peak"]
        measured = case["measured"][figure]
        slack = case["rounding_bytes"]
        inside = (
            None if figure != "peak_used_bytes" else peak["low_bytes"] - slack <= measured <= peak["high_bytes"] + slack
        )
        found.append(Pair(case["id"], answer["report"][figure], measured, float(slack), inside))
    return tuple(found)


def weights_alone(answered: list[tuple[Case, Mapping[str, Any]]]) -> tuple[Pair, ...]:
    """Return weights against the post that prints nothing else, its unit read as GiB."""
    return tuple(
        Pair(case["id"], answer["report"]["weights_bytes"], case["measured"]["peak_used_bytes"] / GB * GIB, 0.005 * GIB)
        for case, answer in answered
        if case["id"].startswith(WEIGHTS_ONLY)
    )


def scores() -> list[Score]:
    """Return the scores of this area."""
    answered = list(cases())
    named = (
        ("weights_bytes", "weights", "median ≤ 0.5 %"),
        ("peak_allocated_bytes", "peak allocated", "median ≤ 3 %, p90 ≤ 10 %"),
        ("reserved_after_load_bytes", "reserved after loading", ""),
        ("peak_reserved_bytes", "peak reserved", "median ≤ 5 %"),
        ("peak_used_bytes", "peak, its metric not named", "within 15 %"),
    )
    found = [Score("diffusers", title, pairs(answered, figure), target, NOTES) for figure, title, target in named]
    trained = list(cases(TRAINING))
    for figure, title in (("steady_bytes", "training: steady"), ("peak_reserved_bytes", "training: peak reserved")):
        found.append(Score("diffusers", title, pairs(trained, figure), "median ≤ 5 %", NOTES))
    unnamed = pairs(trained, "peak_used_bytes")
    found.append(Score("diffusers", "training: peak, its metric not named", unnamed, "within 15 %", NOTES))
    return [*found, Score("diffusers", "weights alone, unit not named", weights_alone(answered), "", NOTES)]
