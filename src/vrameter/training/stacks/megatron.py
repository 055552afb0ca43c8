"""Megatron-LM and what is built on it: Megatron Bridge, ms-swift's Megatron commands.

References
----------
.. [1] NVIDIA/Megatron-LM, ``megatron/core``; Transformer Engine 2.x.
"""

from __future__ import annotations

from vrameter.training.stacks import Stack

_DEFAULTS = {"optimizer": "adam", "precision": "bf16-mixed", "attn_implementation": "flash_attention_2", "loss": "full"}
STACKS = {
    name: Stack(name, program="megatron", loss="megatron", gradients="buffer", defaults=_DEFAULTS, adapts_experts=True)
    for name in ("megatron", "megatron-bridge", "megatron-swift")
}


def stack(name: str, version: str | None = None) -> Stack:
    """Return one of these stacks."""
    return STACKS[name]
