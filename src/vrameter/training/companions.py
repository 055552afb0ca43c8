"""Models beside the one that is trained: what preference and reinforcement learning compare and score with.

References
----------
.. [1] R. Rafailov et al., "Direct Preference Optimization", 2023, arXiv:2305.18290; K. Ethayarajh et al., "KTO", 2024,
       arXiv:2402.01306; J. Hong et al., "ORPO", 2024, arXiv:2403.07691; Z. Shao et al., "DeepSeekMath" (GRPO), 2024,
       arXiv:2402.03300.
.. [2] TRL 0.2x, ``trainer/``: with adapters the reference is the model with its adapters switched off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vrameter.training.setup import Setup
from vrameter.units import ceil_div

if TYPE_CHECKING:
    from vrameter.training.answer import Static

# Objectives that compare with a frozen model, and those that score by others.
REFERENCED = ("dpo", "ipo", "kto", "ppo", "grpo", "rloo", "gkd")
# Rerankers read two words of the output layer at the last token.
WITHOUT_VOCABULARY = ("embedding", "reranker", "sequence-classification", "reward")
# What an engine that sleeps keeps, in thousandths of the device. [CALIBRATION: assumed, its context and graphs]
ASLEEP = 20


def companions(asked: Setup, static: Static) -> int:
    """Return the weights of reference, reward, critic and teacher models on one device. [bytes].

    Without names they are taken to be as large as the model itself. A critic is trained like the policy.
    """
    settings = asked.settings
    whole = asked.architecture.num_params * asked.recipe.numbers.compute
    one = ceil_div(whole, asked.degrees.shards) if asked.degrees.splits_weights else whole
    one = ceil_div(one, asked.degrees.tensor * asked.degrees.pipeline)
    reference = settings.ref_model
    if reference is None:
        reference = settings.objective == "gkd" or (settings.objective in REFERENCED and asked.full)
    total = one if reference else 0
    if settings.objective == "ppo":
        total += one  # the reward model
        total += static.weights + static.master + static.state + static.fresh_gradients if asked.full else one
    return total


def rollout(asked: Setup) -> int:
    """Return what a colocated engine keeps during the step: little where it sleeps. [bytes]."""
    settings, device = asked.settings, asked.ask.device
    if settings.objective not in ("grpo", "rloo", "ppo") or device is None:
        return 0
    if settings.rollout_memory_utilization is None:
        return 0
    if settings.rollout_sleep:
        return device.capacity_bytes * ASLEEP // 1000
    return int(device.capacity_bytes * settings.rollout_memory_utilization)


def scores_vocabulary(asked: Setup) -> bool:
    """Say whether the objective needs logits over the vocabulary."""
    return asked.settings.objective not in WITHOUT_VOCABULARY


__all__ = ["companions", "rollout", "scores_vocabulary"]
