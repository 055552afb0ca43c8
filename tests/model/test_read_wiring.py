"""Facts of a config beyond shapes."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter.model.from_gguf.keys import Keys
from vrameter.model.from_gguf.wiring import wiring_of_file
from vrameter.model.read_wiring import wiring_of
from vrameter.model.wiring import NONE


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rope_scaling": {"rope_type": "llama3"}}, {"rope_scaling": "llama3"}),
        ({"rope_scaling": {"type": "longrope"}, "partial_rotary_factor": 0.75}, {"rope_scaling": "longrope", "rotary_fraction": 0.75}),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}, "sliding_attention": {}}}, {"rope_scaling": "yarn"}),
        ({"rope_parameters": {"rope_type": "default"}}, {"rope_scaling": ""}),
        ({"text_config": {"norm_topk_prob": False}}, {"norm_topk_prob": False}),
        ({"topk_method": "noaux_tc", "n_group": 8, "topk_group": 4}, {"sigmoid_router": True, "expert_groups": 8, "groups_per_token": 4}),
        ({"routed_scaling_factor": 2.5}, {"scaled_experts": True}),
        ({"use_parallel_residual": False}, {"parallel_residual": False}),
        ({"model_type": "roberta", "pad_token_id": 1}, {"position_offset": 2}),
        ({"model_type": "apertus"}, {"rope_scaling": "llama3"}),
        ({"rope_parameters": {"rope_type": "yarn", "llama_4_scaling_beta": 0.1}}, {"rope_scaling": "yarn", "scaled_by_position": True}),
        ({"rope_scaling": 7, "n_group": "eight", "norm_topk_prob": 1}, {}),
    ],
)  # fmt: skip
def test_facts_of_a_config(values: dict[str, Any], expected: dict[str, Any]) -> None:
    found = wiring_of(values)
    for name in NONE.__dataclass_fields__:
        assert getattr(found, name) == expected.get(name, getattr(NONE, name)), name


def test_facts_of_a_file() -> None:
    keys = {"expert_weights_norm": True, "expert_gating_func": 2, "expert_weights_scale": 2.5, "expert_group_count": 8}
    found = wiring_of_file(Keys({f"deepseek2.{key}": value for key, value in keys.items()}, "deepseek2"))
    assert (found.norm_topk_prob, found.sigmoid_router, found.scaled_experts, found.expert_groups) == (
        True,
        True,
        True,
        8,
    )
    assert wiring_of_file(Keys({}, "llama")).norm_topk_prob is False
