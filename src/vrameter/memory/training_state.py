"""Weights, gradients and optimizer state per parameter, by precision recipe.

The constant part of training memory; activations come on top. Counted from what each recipe keeps:
weights, gradients, an fp32 master copy where there is one, and Adam's two moments.

References
----------
.. [1] S. Rajbhandari et al., "ZeRO", 2020, arXiv:1910.02054, section 3.1 (16 bytes, K = 12).
.. [2] Megatron-LM, ``theoretical_memory_usage.py`` (18 bytes with fp32 main gradients).
"""

from __future__ import annotations

from vrameter.units import ceil_div

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


def numbers_bytes(*, num_params: int, element_bytes: int) -> int:
    """Return what one number for each parameter takes: the parameters themselves, gradients, a copy.

    Formula::

        num_params * element_bytes

    Examples
    --------
    >>> numbers_bytes(num_params=8_030_261_248, element_bytes=4)
    32121044992
    """
    return num_params * element_bytes


def sharded_bytes(*, num_params: int, element_bytes: int, shards: int, rounding: int) -> int:
    """Return one device's shard of one number for each parameter.

    Formula::

        ceil_div(num_params * element_bytes, shards) + rounding

    Parameters
    ----------
    shards
        Devices among which every tensor is split. [devices]
    rounding
        What rounding up tensor by tensor adds to rounding up once. [bytes]
    """
    return ceil_div(num_params * element_bytes, shards) + rounding


def packed_bytes(*, quantized: int, scales: int) -> int:
    """Return what frozen matrices of a quantisation take.

    Formula::

        quantized + scales

    Parameters
    ----------
    quantized
        Packed values. [bytes]
    scales
        Their scales, zero points, codebooks and indices. [bytes]
    """
    return quantized + scales


def sharded_packed_bytes(*, quantized: int, scales: int, shards: int, rounding: int) -> int:
    """Return one device's shard of frozen matrices of a quantisation.

    Formula::

        ceil_div(quantized + scales, shards) + rounding
    """
    return ceil_div(quantized + scales, shards) + rounding


def side_bytes(*, adapter_params: int, copied_params: int, shards: int, element_bytes: int) -> int:
    """Return one number for each parameter beside a frozen base, on one device.

    Formula::

        ceil_div(adapter_params + copied_params, shards) * element_bytes

    Parameters
    ----------
    adapter_params
        Of the adapters.
    copied_params
        Of modules that are trained as full copies.
    """
    return ceil_div(adapter_params + copied_params, shards) * element_bytes


def dealt_bytes(*, fullest: int) -> int:
    """Return what the fullest device gets of whole tensors that are dealt out to devices by size.

    Formula::

        fullest

    Parameters
    ----------
    fullest
        Sum of the tensors that it gets. [bytes]
    """
    return fullest


def frozen_side_bytes(*, size: int) -> int:
    """Return what a method holds frozen beside the base.

    Formula::

        size

    Parameters
    ----------
    size
        Bases that all layers share, or factors of their matrices. [bytes]
    """
    return size
