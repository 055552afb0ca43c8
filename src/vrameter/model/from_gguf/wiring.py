"""What the keys of a GGUF file say of a graph beyond shapes.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/llama-hparams.h``: gating functions of experts by number.
"""

from __future__ import annotations

from vrameter.model.from_gguf.keys import Keys
from vrameter.model.wiring import Wiring

SIGMOID = 2


def wiring_of_file(keys: Keys) -> Wiring:
    """Return the facts that a file's keys state; what they leave open is off."""
    scale = keys.get("expert_weights_scale")
    parallel = keys.get("use_parallel_residual")
    return Wiring(
        norm_topk_prob=keys.get("expert_weights_norm") is True,
        sigmoid_router=keys.get("expert_gating_func") == SIGMOID,
        scaled_experts=isinstance(scale, (int, float)) and scale not in (0, 1),
        expert_groups=keys.number("expert_group_count", 1),
        groups_per_token=keys.number("expert_group_used_count", 1),
        parallel_residual=parallel is not False,
        scaled_by_position=bool(keys.get("attention.temperature_scale")),
    )


__all__ = ["wiring_of_file"]
