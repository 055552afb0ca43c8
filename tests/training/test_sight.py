"""Towers of images and videos in a training step."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from vrameter.errors import RequestError

MODEL = {
    "config": {
        "model_type": "qwen2_5_vl",
        "text_config": {
            "model_type": "qwen2_5_vl_text", "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 1024, "num_hidden_layers": 2,
        },
        "vision_config": {"hidden_size": 256, "intermediate_size": 704, "num_heads": 8, "out_hidden_size": 256, "depth": 8},
    },
    "name": "toy",
}  # fmt: skip


def kept(**settings: Any) -> int:
    """Return the activations that stand when the loss runs."""
    asked = {"precision": "bf16", "seq_len": 64, "attn_implementation": "flash_attention_2", **settings}
    answer = vrameter.estimate({"task": "training", "model": MODEL, "dtype": "bf16", "settings": asked})
    return sum(
        item["bytes"]
        for item in answer["devices"][0]["items"]
        if item["term"] == "activations" and "loss" in item["phases"]
    )


def test_a_trained_tower_keeps_activations_of_every_patch() -> None:
    """448 pixels are 1024 patches; a layer keeps 12,840 bytes of each, and the merger its own."""
    one = kept(image_size=448) - kept()
    assert one == pytest.approx(8 * 1024 * 12_840, rel=0.05)
    assert kept(image_size=448, micro_batch=2) - kept(micro_batch=2) == 2 * one
    assert kept(image_size=448, num_frames=4) - kept() == 2 * one


def test_recomputed_and_frozen_towers_keep_less() -> None:
    whole = kept(image_size=448) - kept()
    again = kept(image_size=448, vision_recompute="full") - kept()
    assert again < whole / 6
    assert kept(image_size=448, freeze=["vit"]) == kept(freeze=["vit"])
    assert kept(image_size=448, recompute="full") - kept(recompute="full") == again
    assert kept(image_size=448, recompute="full", vision_recompute="none") - kept(recompute="full") == whole


def test_a_frozen_tower_still_runs_forwards() -> None:
    asked = {"precision": "bf16", "seq_len": 16, "freeze": ["vit"], "recompute": "full"}
    small, large = (
        vrameter.estimate({"task": "training", "model": MODEL, "dtype": "bf16", "settings": {**asked, **more}})
        for more in ({}, {"image_size": 1792})
    )
    assert large["report"]["forward_bytes"] > small["report"]["forward_bytes"] + 16384 * 704 * 2


def test_the_bounds_of_a_video_processor_are_read() -> None:
    """A frame has at least 1.05 times 128 tokens of 28 by 28 pixels."""
    video = {"VIDEO_MAX_PIXELS": 448 * 448, "FPS_MAX_FRAMES": 4}
    assert kept(video=video) == kept(image_size=448, num_frames=4)
    assert kept(video={**video, "VIDEO_MAX_PIXELS": 1000}) == kept(image_size=324, num_frames=4)


@pytest.mark.parametrize("value", ["many", 0, -3, 2.5])
def test_a_bound_that_is_no_count_is_refused(value: object) -> None:
    with pytest.raises(RequestError) as caught:
        kept(video={"VIDEO_MAX_PIXELS": 50176, "FPS_MAX_FRAMES": value})
    assert caught.value.field == "settings.video.FPS_MAX_FRAMES"


@pytest.mark.parametrize("size", [[], [448, 448, 3], 0, [-1, 448]])
def test_a_size_that_is_none_is_refused(size: object) -> None:
    with pytest.raises(RequestError) as caught:
        kept(image_size=size)
    assert caught.value.field == "settings.image_size"
