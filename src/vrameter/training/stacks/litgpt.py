"""LitGPT: Lightning Fabric, one fused projection, adapters by slot, loss over chunks.

References
----------
.. [1] LitGPT 0.4, ``finetune/``: AdamW of torch (foreach on CUDA), bitsandbytes' paged AdamW on a quantised base.
.. [2] Lightning 2.1, ``fabric/plugins/precision/bitsandbytes.py``; bitsandbytes 0.41, ``MatMul4Bit``: the input itself is kept.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.training.stacks import Stack

STACK = Stack(
    "litgpt", program="litgpt", loss="fabric", adapter_dtype=None, packed_keeps_input=4, packs_head=True, unties=True, holds_back=("fsdp1",),
    defaults={"optimizer": "adamw_torch", "precision": "bf16", "attn_implementation": "sdpa", "loss": "chunked", "loss_chunk_tokens": 128},
)  # fmt: skip


def stack(name: str, version: str | None = None) -> Stack:
    """Return the stack; in 2023, before it was a package, 4-bit products kept their inputs as they were.

    Lightning 2.1 quantised from fp16, so that a matrix is unpacked to fp16 and turned to bf16 from there.
    """
    return replace(STACK, packed_keeps_input=2, unpacks=2) if version and "." not in version else STACK
