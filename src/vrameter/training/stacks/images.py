"""Stacks that train image models: timm's script, Ultralytics' trainers.

References
----------
.. [1] timm 1.0.31, ``train.py``: SGD with momentum and fp32 unless told otherwise.
.. [2] Ultralytics, https://docs.ultralytics.com/modes/train: ``amp=True``, an averaged copy of the weights, SGD
       in long runs, which always has momentum.
"""

from __future__ import annotations

from vrameter.training.stacks import Stack

STACKS = {
    "timm": Stack(
        "timm", program="images", defaults={"optimizer": "sgd_momentum", "precision": "fp32", "attn_implementation": "sdpa", "loss": "full"}
    ),
    "ultralytics": Stack(
        "ultralytics", program="images",
        defaults={"optimizer": "sgd_momentum", "precision": "fp16-mixed", "ema": True, "attn_implementation": "sdpa", "loss": "full"},
    ),
}  # fmt: skip


def stack(name: str, version: str | None = None) -> Stack:
    """Return one of these stacks."""
    return STACKS[name]
