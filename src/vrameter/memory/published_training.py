"""Published formulas of training memory, for comparison: ZeRO, DeepSpeed's estimators, Megatron's activations.

Estimates do not go by these; they count tensors. They stand here because people know them.

References
----------
.. [1] S. Rajbhandari et al., "ZeRO", 2020, arXiv:1910.02054, figure 1.
.. [2] DeepSpeed 0.19, ``runtime/zero/stage3.py``: ``estimate_zero3_model_states_mem_needs``.
.. [3] V. Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, arXiv:2205.05198, eq. 1-6.
"""

from __future__ import annotations


def zero_state_bytes(*, num_params: int, devices: int, stage: int) -> int:
    """Return weights, gradients and optimizer state of one device under ZeRO, 16 bytes a parameter.

    Formula::

        num_params * (2 if stage < 3 else 0) + num_params * (2 if stage < 2 else 0)
        + num_params * (12 if stage < 1 else 0)
        + num_params * (0 if stage < 1 else 12 if stage < 2 else 14 if stage < 3 else 16) // devices

    Examples
    --------
    7.5 billion parameters on 64 devices:

    >>> [round(zero_state_bytes(num_params=7_500_000_000, devices=64, stage=stage) / 10**9, 1) for stage in range(4)]
    [120.0, 31.4, 16.6, 1.9]
    """
    kept = (2 if stage < 3 else 0) + (2 if stage < 2 else 0) + (12 if stage < 1 else 0)
    split = 0 if stage < 1 else 12 if stage < 2 else 14 if stage < 3 else 16
    return num_params * kept + num_params * split // devices


def deepspeed_stage3_bytes(*, num_params: int, largest_layer: int, devices: int, split_bytes: int) -> int:
    """Return what DeepSpeed's estimator says a device needs at stage 3: 18 bytes a parameter split, less what is offloaded.

    Formula::

        4 * largest_layer + split_bytes * num_params // devices

    Parameters
    ----------
    split_bytes
        18 without offload, 2 with the optimizer offloaded, 0 with parameters too. [bytes]

    Examples
    --------
    T5-3B on one device, as the estimator prints it in GiB:

    >>> sizes = dict(num_params=2851 * 10**6, largest_layer=32 * 10**6, devices=1)
    >>> [round(deepspeed_stage3_bytes(split_bytes=split, **sizes) / 2**30, 2) for split in (18, 2, 0)]
    [47.91, 5.43, 0.12]
    """
    return 4 * largest_layer + split_bytes * num_params // devices


def deepspeed_stage3_host_bytes(*, num_params: int, largest_layer: int, devices: int, host_bytes: int) -> int:
    """Return what DeepSpeed's estimator says the host needs at stage 3: half more than what is offloaded, or than one layer.

    Formula::

        (num_params * max(4 * devices, host_bytes) if host_bytes else largest_layer * 4 * devices) * 3 // 2

    Parameters
    ----------
    host_bytes
        18 with optimizer and parameters offloaded, 16 with the optimizer alone, 0 without offload. [bytes]

    Examples
    --------
    T5-small on one device, as the estimator prints it in GiB:

    >>> sizes = dict(num_params=60_506_624, largest_layer=16_449_536, devices=1)
    >>> [round(deepspeed_stage3_host_bytes(host_bytes=each, **sizes) / 2**30, 2) for each in (18, 16, 0)]
    [1.52, 1.35, 0.09]
    """
    return (num_params * max(4 * devices, host_bytes) if host_bytes else largest_layer * 4 * devices) * 3 // 2


def megatron_state_bytes(*, num_params: int, devices: int, distributed: int) -> int:
    """Return Megatron's weights, main gradients, masters and moments: 18 bytes, or 6 and 12 that are split.

    Formula::

        num_params * 6 + num_params * 12 // (devices if distributed else 1)

    Examples
    --------
    >>> megatron_state_bytes(num_params=1000, devices=8, distributed=0), megatron_state_bytes(num_params=1000, devices=8, distributed=1)
    (18000, 7500)
    """
    return num_params * 6 + num_params * 12 // (devices if distributed else 1)


def block_activation_bytes(
    *, num_tokens: int, hidden_size: int, num_heads: int, length: int, tensor_parallel: int, selective: int
) -> int:
    """Return the activations of one GPT block with sequence parallelism: 34 bytes a number, and the attention matrices.

    Formula::

        num_tokens * (34 * hidden_size + (0 if selective else 5 * num_heads * length)) // tensor_parallel

    Examples
    --------
    GPT-3 at 2048 tokens, without and with selective recompute, in GiB:

    >>> sizes = dict(num_tokens=2048, hidden_size=12288, num_heads=96, length=2048, tensor_parallel=1)
    >>> [block_activation_bytes(selective=selective, **sizes) / 2**30 for selective in (0, 1)]
    [2.671875, 0.796875]
    """
    return num_tokens * (34 * hidden_size + (0 if selective else 5 * num_heads * length)) // tensor_parallel


__all__ = [
    "block_activation_bytes",
    "deepspeed_stage3_bytes",
    "deepspeed_stage3_host_bytes",
    "megatron_state_bytes",
    "zero_state_bytes",
]
