"""torchtune: its own modules, bf16 throughout, loss over chunks.

References
----------
.. [1] torchtune 0.3 and 0.6, ``recipes/configs`` (``custom_sharded_layers`` of the full recipes), ``recipes/*_distributed.py`` (FSDP2 over
       all devices), ``modules/loss``.
"""

from __future__ import annotations

from vrameter.training.stacks import Stack

STACK = Stack(
    "torchtune", loss="chunked", adapter_dtype=None, fsdp="fsdp2", repeats_kv=True, fused_steps=True, shards_ends=True,
    defaults={"optimizer": "adamw_torch_fused", "precision": "bf16", "attn_implementation": "sdpa", "loss": "chunked"},
)  # fmt: skip


def stack(name: str, version: str | None = None) -> Stack:
    """Return the stack."""
    return STACK
