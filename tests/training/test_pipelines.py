"""Training the denoiser of a pipeline: what is known, then laws."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter import estimate
from vrameter.errors import RequestError

GIB = 2**30
LORA = {"rank": 16, "targets": ["to_q", "to_k", "to_v", "to_out.0"], "dtype": "fp32"}
VIDEO = {
    "image_size": [480, 720],
    "num_frames": 49,
    "precision": "bf16",
    "optimizer": "adamw_torch",
    "precompute": True,
}


def asked(model: str, engine: str = "finetrainers", **settings: Any) -> dict[str, Any]:
    return estimate({"task": "training", "model": model, "engine": engine, "device": "a100-80gb", "settings": settings})


# Measured by finetrainers. [docs/training/cogvideox.md; examples/_legacy/training/README.md]
@pytest.mark.parametrize(
    ("model", "settings", "figure", "gib", "within"),
    [
        ("CogVideoX-5b", {"finetuning": "full", "recompute": "full"}, "steady_bytes", 31.16, 0.005),
        ("CogVideoX-5b", {"finetuning": "full", "recompute": "full"}, "peak_reserved_bytes", 52.94, 0.03),
        ("CogVideoX-2b", {"finetuning": "lora", "adapter": LORA}, "peak_reserved_bytes", 43.76, 0.03),
        ("CogVideoX-2b", {"finetuning": "lora", "adapter": LORA, "recompute": "full", "micro_batch": 4},
         "peak_reserved_bytes", 21.80, 0.06),
    ],
)  # fmt: skip
def test_measured(model: str, settings: dict[str, Any], figure: str, gib: float, within: float) -> None:
    assert asked(model, **VIDEO, **settings)["report"][figure] / GIB == pytest.approx(gib, rel=within)


def test_adapters_are_counted_from_their_targets() -> None:
    adapters = [each for each in asked("CogVideoX-2b", **VIDEO, finetuning="lora", adapter=LORA)["devices"][0]["items"]
                if each["term"] == "adapters"]  # fmt: skip
    assert adapters[0]["bytes"] == 4 * 30 * 4 * 16 * (1920 + 1920)


def test_checkpoints_and_smaller_optimizers_need_less() -> None:
    peaks = [
        asked("CogVideoX-2b", **{**VIDEO, **more}, finetuning="full")["report"]["peak_allocated_bytes"]
        for more in ({}, {"recompute": "full"}, {"recompute": "full", "optimizer": "adamw_bnb_8bit"})
    ]
    assert peaks == sorted(peaks, reverse=True)


def test_encoders_that_stay_count() -> None:
    alone = asked("CogVideoX-2b", **VIDEO)["report"]["weights_bytes"]
    assert asked("CogVideoX-2b", **{**VIDEO, "precompute": False})["report"]["weights_bytes"] > 2 * alone


def test_unets_are_not_trained_yet() -> None:
    with pytest.raises(RequestError):
        asked("stable-diffusion-xl-base-1.0", "diffusers", image_size=1024)


def test_a_pipeline_is_trained_by_diffusers_with_adapters_on_attention() -> None:
    answer = estimate(
        {"model": "FLUX.1-dev", "task": "training", "settings": {"finetuning": "lora", "recompute": "full"}}
    )
    assert answer["request"]["engine"] == "diffusers"
    assert answer["request"]["settings"]["adapter"]["targets"] == ["to_k", "to_q", "to_v", "to_out.0"]
    assert answer["request"]["settings"]["optimizer"] == "adamw_torch"
    assert next(item["bytes"] for item in answer["devices"][0]["items"] if item["term"] == "adapters") > 0


def test_a_stack_of_language_models_trains_no_pipeline() -> None:
    with pytest.raises(RequestError) as caught:
        estimate({"model": "FLUX.1-dev", "task": "training", "engine": "axolotl"})
    assert caught.value.field == "engine"
    assert "finetrainers" in caught.value.hint
