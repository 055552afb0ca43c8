"""Tables of rotary angles: positions and widths as configs lead to them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.configs import CONFIGS
from vrameter.model.read import read_config
from vrameter.model.rotary import rotary_axes


@pytest.mark.parametrize(
    ("model", "values", "tables"),
    [
        ("llama-3.1-8b", {}, ((131_072, 128),)),
        ("llama-3.2-1b", {}, ((131_072, 64),)),
        ("llama-2-7b", {"rope_scaling": {"type": "linear", "factor": 4.0}}, ((16_384, 128),)),
        (
            "llama-2-7b",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}},
            ((16_384, 128),),
        ),
        ("llama-2-7b", {"partial_rotary_factor": 0.5}, ((4096, 64),)),
    ],
)
def test_tables(model: str, values: dict[str, Any], tables: tuple[tuple[int, int], ...]) -> None:
    assert read_config({**CONFIGS[model], **values}, name=model).rotary_tables == tables


def test_learned_positions_need_none() -> None:
    assert read_config({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, name="gpt2").rotary_tables == ()


@pytest.mark.parametrize(
    ("values", "model_type", "axes"),
    [
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}}, "qwen2_5_vl", "sections"),
        (
            {"text_config": {"rope_parameters": {"mrope_section": [11, 11, 10], "mrope_interleaved": True}}},
            "x",
            "interleaved",
        ),
        ({"text_config": {"model_type": "qwen3_vl_text"}}, "qwen3_vl", "interleaved"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "llama", ""),
        ({}, "llama", ""),
    ],
)
def test_axes(values: dict[str, Any], model_type: str, axes: str) -> None:
    assert rotary_axes(values, model_type) == axes
