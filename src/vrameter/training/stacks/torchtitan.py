"""torchtitan: FSDP2 over fp32 parameters, bf16 compute, selective recompute by operation.

References
----------
.. [1] pytorch/torchtitan, ``torchtitan/models``, ``parallelize_llama.py``.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.training.stacks import Stack

STACK = Stack(
    "torchtitan", loss="upcast", fsdp="fsdp2", repeats_kv=True, fused_steps=True,
    defaults={"optimizer": "adamw_torch_fused", "precision": "bf16-mixed", "attn_implementation": "sdpa", "loss": "full"},
)  # fmt: skip


def stack(name: str, version: str | None = None) -> Stack:
    """Return the stack; at the commit of its first report the loss was not compiled."""
    return replace(STACK, compiles_loss=False) if version and version.startswith("9dec370") else STACK
