"""Pipelines of diffusers: known peaks, then laws."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrameter import estimate
from vrameter.engines.diffusers.decode import decode_moments
from vrameter.engines.diffusers.shape import Shape
from vrameter.errors import RequestError, UnknownNameError, VrameterError
from vrameter.model.diffusion.pipeline import Module, Pipeline
from vrameter.sources import catalogue

GIB = 2**30


def asked(model: str, **fields: Any) -> dict[str, Any]:
    top = {name: fields.pop(name) for name in ("dtype", "quantization", "device") if name in fields}
    return estimate({"model": model, "engine": "diffusers", **top, "settings": fields})


def vae(model: str) -> Module:
    pipeline = catalogue.find(model).architecture()
    assert isinstance(pipeline, Pipeline)
    module = pipeline.module("vae")
    assert module is not None
    return module


def picture(edge: int, samples: int = 1) -> Shape:
    return Shape(
        samples=samples, passes=1, height=edge, width=edge, frames=1, space=8, time=1, patch=(2, 1), text_tokens=77
    )


# Three maps of 256 channels at full resolution, without what cuDNN keeps. [MEMORY_MODEL G-A8]
@pytest.mark.parametrize(
    ("edge", "element_bytes", "gib"), [(1024, 2, 1.5), (1024, 4, 3.0), (512, 2, 0.375), (2048, 2, 6.0)]
)
def test_decoding(edge: int, element_bytes: int, gib: float) -> None:
    stages, beside = decode_moments(
        vae("FLUX.1-dev"), picture(edge), tiling=False, slicing=False, element_bytes=element_bytes, thousandths=0
    )
    assert (max(stages) / GIB, beside) == (gib, 0)


# Everything resident. [MEMORY_MODEL G-D1]
@pytest.mark.parametrize(
    ("model", "dtype", "gigabytes"), [("FLUX.1-dev", "bf16", 33.74), ("stable-diffusion-xl-base-1.0", "fp16", 6.94)]
)
def test_resident_weights(model: str, dtype: str, gigabytes: float) -> None:
    assert asked(model, dtype=dtype)["report"]["weights_bytes"] / 1e9 == pytest.approx(gigabytes, abs=0.006)


# Peaks that projects measured, of allocated memory. [diffusers-torchao, README.md; one H100]
MEASURED = [
    ("FLUX.1-dev", {"batch_size": 8}, 51_012_000_000),
    ("FLUX.1-dev", {"batch_size": 4}, 42_402_000_000),
]


@pytest.mark.parametrize(("model", "call", "measured"), MEASURED)
def test_measured_peaks(model: str, call: dict[str, Any], measured: int) -> None:
    got = asked(model, device="h100-sxm-80gb", height=1024, width=1024, **call)
    assert got["report"]["peak_allocated_bytes"] == pytest.approx(measured, rel=0.01)


def test_a_pipeline_needs_no_engine_named() -> None:
    answer = estimate({"model": "FLUX.1-dev", "device": "rtx-4090"})
    assert answer["request"]["engine"] == "diffusers"
    assert not answer["devices"][0]["fits"]


def test_t5_keeps_wo_in_fp32_beside_fp16() -> None:
    wide = asked("stable-diffusion-3-medium-diffusers", dtype="fp16")["report"]["weights_bytes"]
    even = asked("stable-diffusion-3-medium-diffusers", dtype="bf16")["report"]["weights_bytes"]
    assert wide - even == 2 * 24 * 4096 * 10240


def test_modules_left_out_of_a_whole_list_are_not_loaded() -> None:
    half = {"dtype": "fp16"}
    answer = asked(
        "stable-diffusion-3-medium-diffusers",
        components={"transformer": half, "text_encoder": half, "text_encoder_2": half, "vae": half},
    )
    assert "text_encoder_3" not in answer["request"]["settings"]["components"]
    assert any("text_encoder_3" in text for text in answer["warnings"])


def test_offloading_needs_less_and_names_the_fullest_module() -> None:
    peaks = [
        asked("FLUX.1-dev", offload=name)["report"]["peak_allocated_bytes"] for name in ("none", "model", "sequential")
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert asked("FLUX.1-dev", offload="model")["report"]["weights_bytes"] == 2 * 11_901_408_320


def test_sdxl_decodes_in_fp32_where_it_is_fp16() -> None:
    half = asked("stable-diffusion-xl-base-1.0", dtype="fp16")["report"]["activation_bytes"]
    assert half == 2 * asked("stable-diffusion-xl-base-1.0", dtype="bf16")["report"]["activation_bytes"]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["FLUX.1-dev", "stable-diffusion-xl-base-1.0", "CogVideoX-5b"]),
    st.integers(1, 6),
    st.integers(16, 96),
)
def test_more_never_needs_less(model: str, samples: int, edge: int) -> None:
    def peak(**call: Any) -> int:
        return int(asked(model, **call)["report"]["peak_used_bytes"])

    base = {"batch_size": samples, "height": 16 * edge, "width": 16 * edge}
    assert peak(**base) <= peak(**{**base, "batch_size": samples + 1})
    assert peak(**base) <= peak(**{**base, "height": 16 * edge + 16})
    assert peak(**base, vae_slicing=True) <= peak(**base) * 1.05


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({"model": "FLUX.1-dev", "settings": {"num_frames": 49}}, RequestError),
        ({"model": "FLUX.1-dev", "settings": {"components": {"unet": {"dtype": "fp16"}}}}, UnknownNameError),
        ({"model": "FLUX.1-dev", "settings": {"offload": "disk"}}, RequestError),
        ({"model": "FLUX.1-dev", "num_devices": 2}, RequestError),
        ({"model": "llama-3.1-8b", "engine": "diffusers"}, RequestError),
        ({"model": "FLUX.1-dev", "engine": "vllm"}, VrameterError),
    ],
    ids=str,
)
def test_refusals(request_: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        estimate(request_)


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    most = asked("stable-diffusion-v1-5", device="rtx-4090")["limits"]["batch_size"]
    fits = [
        asked("stable-diffusion-v1-5", device="rtx-4090", batch_size=count)["devices"][0]["fits"]
        for count in (most, most + 1)
    ]
    assert fits == [True, False]
