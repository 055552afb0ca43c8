"""What a step of DeepSpeed's ZeRO takes beside weights, gradients and state.

A device makes its shard of the gradients flat, then turns it to fp32 beside its masters [1]_. The first two stages do so
with the whole shard and let the narrow gradients go; the third takes a billion parameters at a time and keeps its
buffer of gradients [2]_.

References
----------
.. [1] DeepSpeed 0.16, ``runtime/zero/stage_1_and_2.py``: ``step``.
.. [2] DeepSpeed 0.16, ``runtime/zero/stage3.py``: ``_create_fp16_sub_groups``, ``_prepare_fp32_grad_for_sub_group``.
"""

from __future__ import annotations

# Parameters of a shard that the third stage steps at once (``sub_group_size``).
SUB_GROUP = 10**9


def zero_step_bytes(*, num_params: int, stage: int, gradient_bytes: int, temporaries: int = 0) -> int:
    """Return what a step of ZeRO takes beside weights, gradients and state: its shard of gradients flat, then in fp32.

    Formula::

        max(
            num_params * (gradient_bytes + 4),
            num_params * (4 + 4 * temporaries - (gradient_bytes if stage < 3 else 0)),
        )

    Parameters
    ----------
    num_params
        Trained parameters of one device's shard; with stage 3 those of one sub-group. [parameters]
    gradient_bytes
        One number of a gradient as the backward pass leaves it. Before stage 3 these go when the fp32 ones are made. [bytes]
    temporaries
        Copies of all parameters that the optimizer makes; 0 for a fused one. [copies]

    Examples
    --------
    >>> zero_step_bytes(num_params=10**9, stage=2, gradient_bytes=2)
    6000000000
    """
    released = gradient_bytes if stage < 3 else 0
    return max(num_params * (gradient_bytes + 4), num_params * (4 + 4 * temporaries - released))


__all__ = ["SUB_GROUP", "zero_step_bytes"]
