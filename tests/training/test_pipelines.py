"""Training the denoiser of a pipeline: what is known, then laws."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter import estimate
from vrameter.errors import RequestError, VrameterError

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


# Measured by finetrainers and by peft. [docs/training/*.md; examples/_legacy/training/README.md; method_comparison/image-gen/results]
@pytest.mark.parametrize(
    ("model", "settings", "figure", "gib", "within"),
    [
        ("CogVideoX-5b", {"finetuning": "full", "recompute": "full"}, "steady_bytes", 31.16, 0.005),
        ("CogVideoX-5b", {"finetuning": "full", "recompute": "full"}, "peak_reserved_bytes", 52.94, 0.01),
        ("CogVideoX-2b", {"finetuning": "lora", "adapter": LORA}, "peak_reserved_bytes", 43.76, 0.01),
        ("CogVideoX-2b", {"finetuning": "lora", "adapter": LORA, "recompute": "full", "micro_batch": 4},
         "peak_reserved_bytes", 21.80, 0.01),
        ("LTX-Video", {"finetuning": "full", "recompute": "full", "image_size": [512, 768]}, "peak_reserved_bytes", 20.36, 0.01),
    ],
)  # fmt: skip
def test_measured(model: str, settings: dict[str, Any], figure: str, gib: float, within: float) -> None:
    assert asked(model, **{**VIDEO, **settings})["report"][figure] / GIB == pytest.approx(gib, rel=within)


def test_what_a_process_keeps_besides_is_added_as_it_is_said() -> None:
    """A model that scores pictures, and the latents and prompts of 14 samples: peft's benchmark, 29.34 GiB between steps."""
    base = {"finetuning": "full", "precision": "bf16", "recompute": "full", "micro_batch": 2, "image_size": 512, "text_len": 512,
            "resident_components": ["transformer"]}  # fmt: skip
    plain = asked("FLUX.2-klein-base-4B", "diffusers", **base)["report"]["steady_bytes"]
    beside = asked("FLUX.2-klein-base-4B", "diffusers", **base, cached_samples=14, resident_bytes=346_321_920)["report"]
    assert beside["steady_bytes"] - plain == 346_321_920 + 14 * 2 * (512 * 7680 + 32 * 32 * 128)
    assert beside["steady_bytes"] / GIB == pytest.approx(29.34, rel=0.002)


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


SDXL = "stable-diffusion-xl-base-1.0"


def peak(model: str = SDXL, **settings: Any) -> int:
    found: int = asked(model, "diffusers", **settings)["report"]["peak_allocated_bytes"]
    return found


def test_unets_are_trained_level_by_level() -> None:
    """Twice the edge makes four times the activations; checkpoints keep fewer of them."""

    def activations(**settings: Any) -> int:
        items = asked(SDXL, "diffusers", finetuning="lora", precompute=True, **settings)["devices"][0]["items"]
        return sum(each["bytes"] for each in items if each["term"] == "activations" and "loss" in each["phases"])

    small, large = activations(image_size=512), activations(image_size=1024)
    assert 3.7 * small < large < 4.1 * small
    assert activations(image_size=1024, recompute="full") < 0.5 * large


@pytest.mark.parametrize(
    "model", [SDXL, "stable-diffusion-v1-5", "FLUX.1-dev", "Wan2.1-T2V-1.3B-Diffusers", "stable-diffusion-3.5-medium"]
)
def test_a_step_needs_less_the_less_it_trains(model: str) -> None:
    def backward(**settings: Any) -> int:
        found: int = asked(model, "diffusers", precompute=True, **settings)["report"]["backward_bytes"]
        return found

    assert backward() > backward(recompute="full") > backward(recompute="full", finetuning="lora")


def test_encoders_on_the_device_run_in_phases_of_their_own() -> None:
    """A video is encoded beside the weights; where everything was encoded before there is no such phase."""
    report = asked("CogVideoX-2b", "diffusers", finetuning="lora", recompute="full", precision="bf16")["report"]
    assert report["vae_encode_bytes"] > report["text_encode_bytes"] > report["load_bytes"]
    before = asked("CogVideoX-2b", "diffusers", finetuning="lora", recompute="full", precision="bf16", precompute=True)
    assert "vae_encode_bytes" not in before["report"]
    assert not any("encode" in phase for item in before["devices"][0]["items"] for phase in item["phases"])


def test_a_text_encoder_is_trained_beside_the_unet() -> None:
    alone, both = (
        asked(SDXL, "diffusers", finetuning="full", train_text_encoder=flag)["report"] for flag in (False, True)
    )
    clip = 123_060_480
    assert both["step_bytes"] - alone["step_bytes"] == pytest.approx(clip * (4 + 4 + 8 + 4 - 2), rel=0.01)
    adapters = asked(SDXL, "diffusers", finetuning="lora", train_text_encoder=True)["devices"][0]["items"]
    assert sum(each["term"] == "adapters" for each in adapters) == 2


def test_an_averaged_copy_is_in_fp32() -> None:
    assert peak(finetuning="full", ema=True) - peak(finetuning="full") == 4 * 2_567_463_684


def test_several_devices_share_the_state() -> None:
    def needed(**parallelism: Any) -> int:
        settings = {"finetuning": "full", "precision": "bf16", "recompute": "full", "precompute": True}
        request = {"task": "training", "model": SDXL, "engine": "diffusers", "num_devices": 4, "parallelism": parallelism,
                   "settings": settings}  # fmt: skip
        found: int = estimate(request)["report"]["peak_allocated_bytes"]
        return found

    copies, sharded, offloaded = (
        needed(data=4),
        needed(data=4, fsdp="full_shard"),
        needed(data=4, zero_stage=2, offload="optimizer"),
    )
    assert sharded < offloaded < copies


@pytest.mark.parametrize("model", [SDXL, "FLUX.1-dev", "CogVideoX-2b"])
def test_the_largest_that_fits_fits(model: str) -> None:
    settings = {"finetuning": "lora", "recompute": "full", "precision": "bf16", "precompute": True}
    limits = asked(model, "diffusers", **settings, advise=True)["limits"]
    for name, unit in (("micro_batch", 1), ("image_size", 16 if model != SDXL else 32)):
        assert asked(model, "diffusers", **settings, **{name: limits[name]})["devices"][0]["fits"]
        assert not asked(model, "diffusers", **settings, **{name: limits[name] + unit})["devices"][0]["fits"]


def test_changes_that_save_are_named_with_what_they_save() -> None:
    answer = asked(SDXL, "diffusers", finetuning="full", ema=True, micro_batch=4, advise=True)
    labels = [entry["change"] for entry in answer["changes"]]
    assert "keep no averaged copy of the weights" in labels
    assert "recompute activations in the backward pass" in labels
    for entry in answer["changes"]:
        if set(entry) == {"change", "saves_bytes", "peak_bytes", "settings", "fits"}:
            settings = {"finetuning": "full", "ema": True, "micro_batch": 4, **entry["settings"]}
            again = asked(SDXL, "diffusers", **settings)["devices"][0]["peak"]["used_bytes"]
            assert again == entry["peak_bytes"]


@pytest.mark.parametrize(
    ("model", "settings", "field", "says"),
    [
        (SDXL, {"resident_components": ["unett"]}, "settings.resident_components", "unet"),
        (SDXL, {"recompute": "selective"}, "settings.recompute", "full"),
        (SDXL, {"image_size": 1000}, "settings.image_size", "992 or 1024"),
        (SDXL, {"image_size": [512, 512, 3]}, "settings.image_size", "whole numbers"),
        (SDXL, {"finetuning": "freeze"}, "settings.finetuning", "lora"),
        (SDXL, {"train_text_encoder": True, "precompute": True}, "settings.precompute", "train_text_encoder"),
        (SDXL, {"finetuning": "lora", "adapter": {"targets": ["to_qq"]}}, "settings.adapter.targets", "to_q"),
        ("stable-video-diffusion-img2vid-xt", {}, "model", "inference"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_a_next_step(model: str, settings: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(VrameterError) as caught:
        asked(model, "diffusers", **settings)
    assert caught.value.field == field
    assert says in caught.value.hint


def test_what_has_no_effect_is_said() -> None:
    """Checkpoints of aMUSEd's denoiser do nothing; 8-bit products are counted as 16-bit ones."""
    plain = {"finetuning": "full", "precompute": True, "image_size": 512, "precision": "fp16-mixed"}
    answer = asked("amused-512", "diffusers", **plain, recompute="full")
    assert any("UVit2DModel" in warning for warning in answer["warnings"])
    assert answer["report"]["backward_bytes"] == asked("amused-512", "diffusers", **plain)["report"]["backward_bytes"]
    answer = asked("FLUX.1-dev", "diffusers", finetuning="lora", precision="fp8", float8={"recipe": "tensorwise"})
    assert any("float8" in warning for warning in answer["warnings"])


def test_older_releases_wrote_square_masks() -> None:
    """HunyuanVideo's attention was given a mask of all pairs of tokens before diffusers 0.33."""

    def needed(version: str) -> int:
        settings = {**VIDEO, "finetuning": "lora", "recompute": "full"}
        request = {
            "task": "training",
            "model": "HunyuanVideo",
            "engine": "diffusers",
            "engine_version": version,
            "settings": settings,
        }
        found: int = estimate(request)["report"]["backward_bytes"]
        return found

    tokens = 13 * 30 * 45 + 256
    assert needed("0.35.1") == needed("0.33")
    assert needed("0.32.2") - needed("0.33") == 2 * (tokens**2 - tokens)


def test_a_module_without_a_denoiser_is_not_trained() -> None:
    config = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256], "latent_channels": 4}
    with pytest.raises(RequestError) as caught:
        estimate({"task": "training", "model": {"config": config}, "engine": "diffusers"})
    assert caught.value.field == "model"


def test_diffusers_trains_no_language_model() -> None:
    with pytest.raises(RequestError) as caught:
        estimate({"task": "training", "model": "llama-3.1-8b", "engine": "finetrainers"})
    assert caught.value.field == "engine"


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
