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
from functools import lru_cache
from typing import TYPE_CHECKING

from vrameter.errors import VrameterError
from vrameter.i18n import tr
from vrameter.ledger import Item, item
from vrameter.model.architecture import Attention
from vrameter.settings.training import TrainingSettings
from vrameter.training.setup import Setup
from vrameter.training.sharing import split
from vrameter.training.standing import Lines
from vrameter.units import GIB, ceil_div

if TYPE_CHECKING:
    from vrameter.training.answer import Static

# Objectives that compare with a frozen model, and those that score by others.
REFERENCED = ("dpo", "ipo", "kto", "ppo", "grpo", "rloo", "gkd")
SOURCE = "models that are compared with or that score: reference, reward, critic, teacher"
# Objectives whose trainers generate answers while they train (TRL's and ms-swift's ``ds3_gather_for_generation``, on by default).
GENERATING = ("ppo", "grpo", "rloo", "gkd")
# Rerankers read two words of the output layer at the last token.
WITHOUT_VOCABULARY = ("embedding", "reranker", "sequence-classification", "reward")
# What an engine that sleeps keeps, in thousandths of the device. [CALIBRATION: assumed, its context and graphs]
ASLEEP = 20
# What names no reward model: a function scores.
NO_MODEL = "none"
# Megatron's caches of keys and values where nothing else is said, and the tokens of one block. [GiB], [tokens]
DYNAMIC_BUFFER, DYNAMIC_BLOCK = 40, 256


def companions(asked: Setup, static: Static, *, phases: tuple[str, ...]) -> Lines:
    """Return the weights of reference, reward, critic and teacher models on one device.

    One that is not named, or whose name is not in the catalogue, is taken to be as large as the model itself. A critic
    is trained like the policy. The reward model "none" is a function that takes no memory.
    """
    settings = asked.settings
    items: list[Item] = []

    def model(note: str, num_params: int | None = None) -> None:
        degrees = asked.degrees
        items.append(
            item("other_models", frozen_bytes, phases=phases, source=SOURCE, note=note,
                 num_params=num_params or asked.architecture.num_params, element_bytes=asked.recipe.numbers.compute,
                 shards=degrees.shards if degrees.splits_weights else 1, devices=degrees.tensor * degrees.pipeline)
        )  # fmt: skip

    reference = settings.ref_model
    if reference is None:
        reference = settings.objective == "gkd" or (settings.objective in REFERENCED and asked.full)
    if reference:
        model(tr("the teacher") if settings.objective == "gkd" else tr("the reference"))
    if settings.objective == "ppo":
        if settings.reward_model != NO_MODEL:
            model(tr("the reward model"), num_params_of(settings.reward_model))
        critic = num_params_of(settings.critic_model)
        if asked.full and critic is None:
            items.append(
                item("other_models", trained_model_bytes, phases=phases, source=SOURCE,
                     note=tr("the critic, trained like the model itself"), weights=static.weights.bytes,
                     master_weights=static.master.bytes, optimizer_state=static.state.bytes,
                     gradients=static.gradients.bytes + static.fresh_gradients.bytes)
            )  # fmt: skip
        else:
            model(tr("the critic"), critic)
            if asked.full and critic is not None:
                trained = (
                    static.master.bytes + static.state.bytes + static.gradients.bytes + static.fresh_gradients.bytes
                )
                items.append(
                    item("other_models", in_proportion_bytes, phases=phases, source=SOURCE, note=tr("the critic's state"),
                         model_state=trained, critic_params=critic, model_params=asked.architecture.num_params)
                )  # fmt: skip
    return Lines(tuple(items))


@lru_cache(maxsize=64)
def num_params_of(name: str | None) -> int | None:
    """Return the parameters of a model of the catalogue; None where no name is given or it is not known there."""
    if name is None:
        return None
    from vrameter.sources import catalogue

    try:
        return catalogue.find(name).architecture().num_params
    except VrameterError:
        return None


def unknown_companions(settings: TrainingSettings) -> list[str]:
    """Return what has to be said of models beside the one that is trained."""
    if settings.objective != "ppo":
        return []
    names = {"reward_model": settings.reward_model, "critic_model": settings.critic_model}
    return [
        tr(
            "settings.%(name)s: '%(value)s' is not in the catalogue: it is taken to be as large as the model itself.",
            name=name, value=value,
        ) if value else tr("%(name)s is not named: it is taken to be as large as the model itself.", name=name)
        for name, value in names.items() if value != NO_MODEL and num_params_of(value) is None
    ]  # fmt: skip


def frozen_bytes(*, num_params: int, element_bytes: int, shards: int, devices: int) -> int:
    """Return a frozen model's share of one device.

    Formula::

        ceil_div(ceil_div(num_params * element_bytes, shards), devices)

    Parameters
    ----------
    shards
        Devices among which every tensor is split. [devices]
    devices
        Devices among which tensor and pipeline parallelism split the model. [devices]
    """
    return ceil_div(ceil_div(num_params * element_bytes, shards), devices)


def trained_model_bytes(*, weights: int, master_weights: int, optimizer_state: int, gradients: int) -> int:
    """Return a second model that is trained like the first.

    Formula::

        weights + master_weights + optimizer_state + gradients
    """
    return weights + master_weights + optimizer_state + gradients


def in_proportion_bytes(*, model_state: int, critic_params: int, model_params: int) -> int:
    """Return the state of a second model of another size that is trained in the same way.

    Formula::

        ceil_div(model_state * critic_params, model_params)

    Parameters
    ----------
    model_state
        Master weights, optimizer state and gradients of the first. [bytes]
    """
    return ceil_div(model_state * critic_params, model_params)


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


def gathered_for_generation(asked: Setup) -> int:
    """Return the weights that ZeRO's third stage puts together on each device to generate without an engine. [bytes]."""
    settings, degrees = asked.settings, asked.degrees
    if settings.objective not in GENERATING or settings.rollout_memory_utilization is not None or degrees.zero < 3:
        return 0
    return asked.architecture.num_params * asked.recipe.numbers.compute


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
        return max(1, args.number(f"rl-inference-{name}-model-parallel-size", trained))

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
    size = int(args.real("inference-dynamic-batching-buffer-size-gb", DYNAMIC_BUFFER) * GIB)
    if args.text("rl-kv-cache-management-mode", "persist") == "persist":
        total += size
    width = sum(
        part.num_kv_heads * (part.head_dim + part.value_dim)
        for layer in share.main.layers
        for part in layer.parts
        if isinstance(part, Attention)
    )
    block = ceil_div(width, degrees.pipeline) * element * DYNAMIC_BLOCK
    requests = args.number("inference-dynamic-batching-max-requests", size // max(1, block))
    if args.text("cuda-graph-impl") == "local":
        total += 2 * requests * asked.architecture.main.vocab_size * element
    return total


def scores_vocabulary(asked: Setup) -> bool:
    """Say whether the objective needs logits over the vocabulary."""
    return asked.settings.objective not in WITHOUT_VOCABULARY


__all__ = ["companions", "gathered_for_generation", "generator", "rollout", "scores_vocabulary", "unknown_companions"]
