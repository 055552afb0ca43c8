"""config.json -> Wiring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrameter.model.config import class_facts
from vrameter.model.wiring import Wiring

# How all published models of a class scale rotary positions, where a config.json is silent.
_ROPE_OF_CLASS = {"apertus": "llama3", "phimoe": "longrope"}
_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")


def wiring_of(values: Mapping[str, Any]) -> Wiring:
    """Return the facts of a config's decoder; fields of the wrong type count as not given."""
    text: Mapping[str, Any] = values
    while inner := next((text[name] for name in _TEXT if isinstance(text.get(name), Mapping)), None):
        text = inner
    kind = text.get("model_type")
    defaults = class_facts(kind).defaults if isinstance(kind, str) else {}
    merged = {**defaults, **text}
    rope = _rope(merged)
    scaling_kind = rope.get("rope_type") or rope.get("type") or _ROPE_OF_CLASS.get(str(kind))
    fraction = rope.get("partial_rotary_factor", merged.get("partial_rotary_factor", merged.get("rotary_pct", 1.0)))
    norm = merged.get("norm_topk_prob", merged.get("moe_renormalize"))
    scaling = merged.get("routed_scaling_factor", 1.0)
    padding = merged.get("pad_token_id")
    roberta = str(merged.get("model_type", "")) in ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm")
    return Wiring(
        rope_scaling=scaling_kind if isinstance(scaling_kind, str) and scaling_kind != "default" else "",
        rotary_fraction=float(fraction) if isinstance(fraction, (int, float)) else 1.0,
        norm_topk_prob=norm if isinstance(norm, bool) else None,
        sigmoid_router=merged.get("scoring_func") == "sigmoid" or merged.get("topk_method") == "noaux_tc",
        scaled_experts=isinstance(scaling, (int, float)) and scaling not in (0, 1),
        expert_groups=_whole(merged.get("n_group"), 1),
        groups_per_token=_whole(merged.get("topk_group"), 1),
        parallel_residual=merged.get("use_parallel_residual", merged.get("parallel_attn", True)) is not False,
        no_rope_step=_whole(merged.get("no_rope_layer_interval"), 0),
        scaled_by_position=bool(rope.get("llama_4_scaling_beta")),
        position_offset=1 + _whole(padding, 1) if roberta else 0,
    )


def _rope(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how rotary positions are scaled, of full attention where kinds of layers differ."""
    for name in ("rope_scaling", "rope_parameters"):
        found = values.get(name)
        if isinstance(found, Mapping):
            full = found.get("full_attention")
            return full if isinstance(full, Mapping) else found
    return {}


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


__all__ = ["wiring_of"]
