"""Megatron-LM and what is built on it: Megatron Bridge, ms-swift's Megatron commands.

References
----------
.. [1] NVIDIA/Megatron-LM, ``megatron/core``; Transformer Engine 2.x.
.. [2] NVIDIA-NeMo/Megatron-Bridge 0.3 and August 2026, ``recipes``, ``perf_recipes``: ``grad_reduce_in_fp32`` is off;
       ``exp_avg_dtype`` is bf16 for DeepSeek, Moonlight, OLMoE, Qwen3's and Nemotron's experts, and for no dense model.
.. [3] Megatron-LM, ``core/optimizer/distrib_optimizer.py``: ``_copy_model_grads_to_main_grads``.
.. [4] Megatron-LM, ``core/optimizer/optimizer_config.py``: ``store_param_remainders``, on by default, with Transformer Engine 2.1;
       ``--exp-avg-dtype`` and ``--main-grads-dtype`` are fp32 by default.
.. [5] modelscope/ms-swift, ``Megatron-SWIFT/Command-line-parameters.md``: ``expert_tensor_parallel_size``.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.settings.training import TrainingSettings
from vrameter.training.programs.scene import Numbers
from vrameter.training.recipes import SIZES, Recipe
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


def recipe(name: str, precision: str, settings: TrainingSettings, *, mixture: bool) -> Recipe:
    """Return Megatron's numbers: half-precision weights, a buffer of main gradients, fp32 masters and moments.

    Megatron Bridge's recipes keep gradients in bf16, and those of mixtures of experts their moments as well [2]_. Before the
    optimizer steps, Megatron copies bf16 gradients to fp32 beside the masters [3]_. Its precision-aware optimizer does not: it works
    on the weights themselves and keeps the lower 16 bits of the masters beside them [4]_. (Bridge turns that off by naming a float8
    recipe even where none is used.)

    Parameters
    ----------
    mixture
        Whether the model has experts.
    """
    if precision == "fp32":
        return Recipe(4, 4, Numbers(4, 4), 4, main_gradient=4)
    half = precision in ("fp16", "fp16-mixed")
    narrow = name == "megatron-bridge"
    main = {"fp32": 4, "bf16": 2, "fp16": 2}.get(settings.gradient_dtype or "", 2 if half or narrow else 4)
    moment = SIZES[settings.moment_dtype or ("bf16" if narrow and mixture else "fp32")]
    aware = settings.use_precision_aware_optimizer and not half and not narrow
    return Recipe(
        2, 2, Numbers(2, 2), 2, main_gradient=main, master=2 if aware and precision != "fp8" else 4, moment=moment,
        gradient_copy=4 if half else 0, step_copy=4 if main == 2 and not half and not aware else 0,
    )  # fmt: skip


def stack(name: str, version: str | None = None) -> Stack:
    """Return one of these stacks."""
    return STACKS[name]
