"""What a config says of a network beyond the shapes of its tensors, as far as an engine's memory depends on it.

Two models of equal shapes may still differ in what is computed: whether positions are rotated by learned frequencies
(which some engines store), how experts are scored and weighed, whether embeddings are scaled.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wiring:
    """Facts of a decoder's config.

    Parameters
    ----------
    rope_scaling
        Kind of scaling of rotary positions: ``llama3``, ``longrope``, ``yarn``, ...; empty where there is none.
    rotary_fraction
        Part of a head that is rotated.
    norm_topk_prob
        Whether the weights of chosen experts are divided by their sum; None where the config does not say.
    sigmoid_router
        Whether experts are scored by a sigmoid rather than a softmax.
    scaled_experts
        Whether the experts' weights are multiplied by a constant other than one.
    expert_groups, groups_per_token
        Groups of experts, and how many of them a token may use.
    parallel_residual
        Whether attention and perceptron read the same input.
    no_rope_step
        Every how many layers positions are not rotated; 0 where all are.
    scaled_by_position
        Whether queries are multiplied by a factor of their position.
    position_offset
        Rows of a position table that stand for padding.
    """

    rope_scaling: str = ""
    rotary_fraction: float = 1.0
    norm_topk_prob: bool | None = None
    sigmoid_router: bool = False
    scaled_experts: bool = False
    expert_groups: int = 1
    groups_per_token: int = 1
    parallel_residual: bool = True
    no_rope_step: int = 0
    scaled_by_position: bool = False
    position_offset: int = 0


NONE = Wiring()


__all__ = ["NONE", "Wiring"]
