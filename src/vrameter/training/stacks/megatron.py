"""Megatron-LM and what is built on it: Megatron Bridge, ms-swift's Megatron commands.

References
----------
.. [1] NVIDIA/Megatron-LM, ``megatron/core``; Transformer Engine 2.x.
.. [2] modelscope/ms-swift, ``Megatron-SWIFT/Command-line-parameters.md``: ``expert_tensor_parallel_size``, ``exp_avg_dtype``.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.settings.training import TrainingSettings
from vrameter.training.programs.scene import Numbers
from vrameter.training.recipes import Recipe
from vrameter.training.stacks import Stack

_DEFAULTS = {"optimizer": "adam", "precision": "bf16-mixed", "attn_implementation": "flash_attention_2", "loss": "full"}
STACKS = {
    name: Stack(
        name,
        program="megatron",
        loss="megatron",
        gradients="buffer",
        defaults=_DEFAULTS,
        adapts_experts=True,
    )
    for name in ("megatron", "megatron-bridge")
}
STACKS["megatron-swift"] = replace(STACKS["megatron"], name="megatron-swift", limits=True, expert_tensor=1, documents=8)


def recipe(name: str, precision: str, settings: TrainingSettings) -> Recipe:
    """Return Megatron's numbers: half-precision weights, a buffer of main gradients, fp32 masters and moments.

    Megatron Bridge's recipes keep gradients and moments in bf16.
    """
    if precision == "fp32":
        return Recipe(4, 4, Numbers(4, 4), 4, main_gradient=4)
    half = precision in ("fp16", "fp16-mixed")
    narrow = name == "megatron-bridge"
    main = {"fp32": 4, "bf16": 2, "fp16": 2}.get(settings.gradient_dtype or "", 2 if half or narrow else 4)
    aware = settings.use_precision_aware_optimizer and name != "megatron-swift"
    moment = 2 if narrow or aware else 4
    return Recipe(2, 2, Numbers(2, 2), 2, main_gradient=main, master=4, moment=moment, gradient_copy=4 if half else 0)


def stack(name: str, version: str | None = None) -> Stack:
    """Return one of these stacks."""
    return STACKS[name]
