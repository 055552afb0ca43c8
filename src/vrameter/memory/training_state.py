"""Weights, gradients and optimizer state per parameter, by precision recipe.

The constant part of training memory; activations come on top. Counted from what each recipe keeps:
weights, gradients, an fp32 master copy where there is one, and Adam's two moments.

References
----------
.. [1] S. Rajbhandari et al., "ZeRO", 2020, arXiv:1910.02054, section 3.1 (16 bytes, K = 12).
.. [2] Megatron-LM, ``theoretical_memory_usage.py`` (18 bytes with fp32 main gradients).
"""

from __future__ import annotations

# recipe -> bytes per parameter of (weights, gradients, master weights, Adam moments)
RECIPES: dict[str, tuple[int, int, int, int]] = {
    "fp32": (4, 4, 0, 8),
    "bf16": (2, 2, 0, 4),
    "bf16-mixed": (4, 4, 0, 8),
    "fp16-mixed": (4, 4, 0, 8),
    "zero": (2, 2, 4, 8),
    "megatron": (2, 4, 4, 8),
}


def training_state_bytes(*, num_params: int, bytes_per_param: int) -> int:
    """Return weights, gradients and optimizer state of full training.

    Formula::

        num_params * bytes_per_param

    Examples
    --------
    An 8B model with Adam in mixed precision, before activations:

    >>> training_state_bytes(num_params=8_030_261_248, bytes_per_param=sum(RECIPES["bf16-mixed"]))
    128484179968
    """
    return num_params * bytes_per_param
