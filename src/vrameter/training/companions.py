"""Models beside the one that is trained: what preference and reinforcement learning compare and score with.

References
----------
.. [1] R. Rafailov et al., "Direct Preference Optimization", 2023, arXiv:2305.18290; K. Ethayarajh et al., "KTO", 2024,
       arXiv:2402.01306; J. Hong et al., "ORPO", 2024, arXiv:2403.07691; Z. Shao et al., "DeepSeekMath" (GRPO), 2024,
       arXiv:2402.03300.
.. [2] TRL 0.2x, ``trainer/``: with adapters the reference is the model with its adapters switched off.
.. [3] Megatron-LM, ``core/inference/contexts/dynamic_context.py``, ``training/config/inference_config.py``,
       ``core/inference/text_generation_controllers``: caches, and logits that graphs write.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vrameter.model.architecture import Attention
from vrameter.training.setup import Setup
from vrameter.training.sharing import split
from vrameter.units import GIB, ceil_div

if TYPE_CHECKING:
    from vrameter.training.answer import Static

# Objectives that compare with a frozen model, and those that score by others.
REFERENCED = ("dpo", "ipo", "kto", "ppo", "grpo", "rloo", "gkd")
# Rerankers read two words of the output layer at the last token.
WITHOUT_VOCABULARY = ("embedding", "reranker", "sequence-classification", "reward")
# What an engine that sleeps keeps, in thousandths of the device. [CALIBRATION: assumed, its context and graphs]
ASLEEP = 20
# Megatron's caches of keys and values where nothing else is said, and the tokens of one block. [GiB], [tokens]
DYNAMIC_BUFFER, DYNAMIC_BLOCK = 40, 256


def companions(asked: Setup, static: Static) -> int:
    """Return the weights of reference, reward, critic and teacher models on one device. [bytes].

    Without names they are taken to be as large as the model itself. A critic is trained like the policy. The reward model "none" is
    a function that takes no memory.
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
        total += 0 if settings.reward_model == "none" else one
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


def generator(asked: Setup) -> int:
    """Return what Megatron's own inference holds while it trains by reinforcement (``perform-rl-step``). [bytes].

    A buffer for keys and values of a fixed size, which stays unless its management is to offload or to recompute; a second
    copy of the weights where inference is split otherwise than training; logits of as many requests as there are blocks,
    where graphs write them and where they are read.
    """
    args = asked.megatron
    if args is None or not args.flag("perform-rl-step"):
        return 0

    def degree(name: str, trained: int) -> int:
        return args.number(f"rl-inference-{name}-model-parallel-size", trained)

    trained = asked.degrees
    degrees = replace(
        trained, tensor=degree("tensor", trained.tensor), pipeline=degree("pipeline", trained.pipeline),
        expert=degree("expert", trained.expert), expert_tensor=degree("expert-tensor", trained.expert_tensor),
    )  # fmt: skip
    own = any(name.startswith("rl-inference-") and name.endswith("parallel-size") for name in args.values)
    share, element = split(asked.architecture, degrees), asked.recipe.numbers.compute
    total = 0
    # Unified memory stays counted where its pages are sent to the host.
    idle = args.flag("rl-offload-inference-model-weights-when-idle")
    if own and not (idle and args.text("rl-inference-model-unified-memory-level", "0") == "0"):
        total += ceil_div(share.num_params, degrees.pipeline) * element
    size = float(args.text("inference-dynamic-batching-buffer-size-gb") or DYNAMIC_BUFFER) * GIB
    if args.text("rl-kv-cache-management-mode", "persist") == "persist":
        total += int(size)
    width = sum(
        part.num_kv_heads * (part.head_dim + part.value_dim)
        for layer in share.main.layers
        for part in layer.parts
        if isinstance(part, Attention)
    )
    block = ceil_div(width, degrees.pipeline) * element * DYNAMIC_BLOCK
    requests = args.number("inference-dynamic-batching-max-requests", int(size) // max(1, block))
    if args.text("cuda-graph-impl") == "local":
        total += 2 * requests * asked.architecture.main.vocab_size * element
    return total


def scores_vocabulary(asked: Setup) -> bool:
    """Say whether the objective needs logits over the vocabulary."""
    return asked.settings.objective not in WITHOUT_VOCABULARY


__all__ = ["companions", "generator", "rollout", "scores_vocabulary"]
