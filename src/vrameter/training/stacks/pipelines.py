"""Stacks that train pipelines of diffusers: its own scripts, and finetrainers.

References
----------
.. [1] diffusers 0.42.1, ``examples/``: ``torch.optim.AdamW`` with its defaults; adapters in fp32 beside a frozen base in 16 bits.
.. [2] finetrainers 0.0.1, ``trainer.py``: its passes run under accelerate's autocast, adapters are cast to fp32, gradients are
       cleared before its counters are read.
"""

from __future__ import annotations

from vrameter.training.stacks import Stack

_DEFAULTS = {"optimizer": "adamw_torch", "precision": "bf16-mixed", "attn_implementation": "sdpa", "loss": "mse"}
STACKS = {
    "diffusers": Stack("diffusers", program="diffusers", defaults=_DEFAULTS),
    "finetrainers": Stack(
        "finetrainers", program="diffusers", defaults={**_DEFAULTS, "autocast": True}, adapter_dtype=None
    ),
}


def stack(name: str, version: str | None = None) -> Stack:
    """Return one of these stacks."""
    return STACKS[name]
