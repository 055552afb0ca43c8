"""Tables of rotary angles: positions and widths as configs lead to them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.configs import CONFIGS
from vrameter.model.read import read_config


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
