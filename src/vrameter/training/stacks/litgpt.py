"""LitGPT: Lightning Fabric, one fused projection, adapters by slot, loss over chunks.

References
----------
.. [1] LitGPT 0.4, ``finetune/``: AdamW of torch (foreach on CUDA), bitsandbytes' paged AdamW on a quantised base.
"""

from __future__ import annotations

from vrameter.training.stacks import Stack

STACK = Stack(
    "litgpt", program="litgpt", loss="fabric", adapter_dtype=None,
    defaults={"optimizer": "adamw_torch", "precision": "bf16", "attn_implementation": "sdpa", "loss": "chunked", "loss_chunk_tokens": 128},
)  # fmt: skip


def stack(name: str) -> Stack:
    """Return the stack."""
    return STACK
