"""Stacks on transformers' Trainer: the same layers, other defaults.

References
----------
.. [1] transformers 5.23, ``training_args.py``: AdamW fused from torch 2.8 on, foreach before; TRL 0.2x, axolotl, LLaMA-Factory,
       ms-swift, Unsloth: their own argument classes.
.. [2] AnswerDotAI/fsdp_qlora, ``train.py``.
"""

from __future__ import annotations

import re
from dataclasses import replace

from vrameter.training.stacks import Stack

_TRAINER = {"optimizer": "adamw_torch_fused", "precision": "bf16-mixed", "attn_implementation": "sdpa", "loss": "full"}
STACKS = {
    "transformers": Stack("transformers", defaults=_TRAINER),
    "trl": Stack("trl", defaults=_TRAINER),
    "deepspeed": Stack("deepspeed", zero_stage=2, defaults={**_TRAINER, "optimizer": "adam"}),
    "axolotl": Stack("axolotl", defaults={**_TRAINER, "attn_implementation": "flash_attention_2"}),
    "llama-factory": Stack("llama-factory", defaults={**_TRAINER, "optimizer": "adamw_torch"}),
    "ms-swift": Stack("ms-swift", defaults=_TRAINER),
    "unsloth": Stack(
        "unsloth",
        defaults={**_TRAINER, "optimizer": "adamw_bnb_8bit", "fused_kernels": True, "loss": "fused", "recompute": "full",
                  "activation_offload": True, "attn_implementation": "flash_attention_2"},
    ),
    "fsdp_qlora": Stack("fsdp_qlora", defaults={**_TRAINER, "precision": "bf16", "optimizer": "adamw_torch"}, adapter_dtype=None),
}  # fmt: skip


# Versions whose layers copied keys and values to every query head and whose loss copied the logits.
# The first transformers that came out after peft 0.21.
PEFT_021 = (5, 16)
OLD = {"transformers": 4.45, "trl": 0.12, "ms-swift": 3.0, "fsdp_qlora": 9999.0}


def stack(name: str, version: str | None = None) -> Stack:
    """Return one of these stacks; older ones copied more."""
    found = STACKS[name]
    match = re.match(r"(\d+)(?:\.(\d*))?", version or "")
    if match is None or name not in OLD:
        return found
    number = float(f"{match[1]}.{match[2] or 0}")
    if name == "transformers" and (int(match[1]), int(match[2] or 0)) < PEFT_021:
        # Before transformers 5 each expert was a module of its own.
        found = replace(found, peft_before_021=True, adapts_experts=int(match[1]) < 5)
    return replace(found, shifts_logits=True, repeats_kv=True) if number < OLD[name] else found
