"""Peaks of single training kernels, forward and backward: losses, norms and gated perceptrons on their own.

Counted at the allocator by Liger-Kernel's own benchmark on an A100, to the byte [1]_: ten runs whose gradients stay, so
that each holds the sum of the earlier ones beside its own. The baselines of cut cross-entropy [2]_ are multiples of the
logits.

References
----------
.. [1] linkedin/Liger-Kernel, ``benchmark/data/all_benchmark_data.csv`` and ``benchmark/scripts``; losses, norms and
       perceptrons at version 0.2.1, the fused output layer at 0.4.2.
.. [2] E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024, arXiv:2411.09009.
"""

from __future__ import annotations

from vrameter.units import ceil_div, ceil_to


def column_sum_bytes(*, num_rows: int, num_columns: int, multiprocessors: int) -> int:
    """Return what torch's sum over the rows of a 16-bit matrix takes beside its result.

    Where columns are too few to fill the device, blocks share the rows: each block of 32 by 4 threads, four columns to a
    thread, writes fp32 sums once for every column it covers, and a counter per block column. Sixteen such blocks fill a
    multiprocessor, and a thread adds between 16 and 256 numbers [1]_.

    Formula::

        512 * num_columns * max(min(ceil_div(16 * multiprocessors, ceil_div(num_columns, 128)), ceil_div(num_rows, 64)),
                                ceil_div(num_rows, 1024))
        + ceil_to(4 * ceil_div(num_columns, 128), 512)

    Notes
    -----
    Holds from 1024 rows on; a sum of fewer takes nothing.

    References
    ----------
    .. [1] PyTorch 2.4, ``aten/src/ATen/native/cuda/Reduce.cuh``: ``setReduceConfig``, ``global_memory_size``.

    Examples
    --------
    >>> column_sum_bytes(num_rows=2048, num_columns=8192, multiprocessors=108)
    113246720
    """
    covers = ceil_div(num_columns, 128)
    shared = min(ceil_div(16 * multiprocessors, covers), ceil_div(num_rows, 64))
    return 512 * num_columns * max(shared, ceil_div(num_rows, 1024)) + ceil_to(4 * covers, 512)


def cross_entropy_bytes(*, num_tokens: int, vocab_size: int) -> int:
    """Return the peak of PyTorch's cross-entropy on fp32 logits: five tensors as large as they are, and the labels.

    Formula::

        20 * num_tokens * vocab_size + 8 * num_tokens + 1024

    Examples
    --------
    >>> cross_entropy_bytes(num_tokens=16384, vocab_size=32768)
    10737550336
    """
    return 20 * num_tokens * vocab_size + 8 * num_tokens + 1024


def fused_cross_entropy_bytes(*, num_tokens: int, vocab_size: int) -> int:
    """Return the peak of Liger's cross-entropy on fp32 logits: gradients take the logits' place.

    Formula::

        4 * num_tokens * vocab_size + 21 * num_tokens + 512

    Examples
    --------
    >>> fused_cross_entropy_bytes(num_tokens=16384, vocab_size=32768)
    2147828224
    """
    return 4 * num_tokens * vocab_size + 21 * num_tokens + 512


def linear_cross_entropy_bytes(*, num_tokens: int, vocab_size: int, hidden_size: int, blas_workspace: int) -> int:
    """Return the peak of a bf16 output layer and cross-entropy one after the other.

    The weight, its gradient and its copy; logits, log-softmax and gradient; hidden states and their gradient; one workspace
    for the forward and one for the backward thread.

    Formula::

        6 * vocab_size * hidden_size + num_tokens * (6 * vocab_size + 4 * hidden_size + 8) + 2 * blas_workspace + 1024

    Examples
    --------
    >>> linear_cross_entropy_bytes(num_tokens=4096, vocab_size=128256, hidden_size=4096, blas_workspace=8519680)
    6388220928
    """
    return (
        6 * vocab_size * hidden_size + num_tokens * (6 * vocab_size + 4 * hidden_size + 8) + 2 * blas_workspace + 1024
    )


def fused_linear_cross_entropy_bytes(
    *, num_tokens: int, vocab_size: int, hidden_size: int, chunk_tokens: int, blas_workspace: int
) -> int:
    """Return the peak of Liger's fused output layer and loss: logits of one chunk of tokens at a time.

    A chunk's logits in bf16 and in fp32 stand beside the scaled gradient of the chunk before.

    Formula::

        8 * vocab_size * hidden_size + 8 * chunk_tokens * vocab_size + num_tokens * (6 * hidden_size + 12)
        + 2 * blas_workspace + 1024

    Notes
    -----
    Leaves out what the allocator does not cut off a block that is up to one MiB too large: 128 KiB and 1 MiB in two of
    the four published figures, 0.02 %.

    Examples
    --------
    >>> fused_linear_cross_entropy_bytes(
    ...     num_tokens=4096, vocab_size=128256, hidden_size=4096, chunk_tokens=128, blas_workspace=8519680
    ... )
    4451779584
    """
    return (
        8 * vocab_size * hidden_size + 8 * chunk_tokens * vocab_size + num_tokens * (6 * hidden_size + 12)
        + 2 * blas_workspace + 1024
    )  # fmt: skip


def rms_norm_bytes(*, num_tokens: int, hidden_size: int) -> int:
    """Return the peak of transformers' RMS norm in bf16.

    Formula::

        40 * num_tokens * hidden_size + 4 * num_tokens + 12 * hidden_size

    Examples
    --------
    >>> rms_norm_bytes(num_tokens=2048, hidden_size=4096)
    335601664
    """
    return 40 * num_tokens * hidden_size + 4 * num_tokens + 12 * hidden_size


def fused_rms_norm_bytes(*, num_tokens: int, hidden_size: int, scratch: int) -> int:
    """Return the peak of Liger's RMS norm in bf16: input, output, their gradients, and every token's gradient of the weight.

    Formula::

        10 * num_tokens * hidden_size + 4 * num_tokens + 16 * hidden_size + scratch

    Parameters
    ----------
    scratch
        What summing the weight's gradients takes: `column_sum_bytes`. [bytes]

    Examples
    --------
    >>> scratch = column_sum_bytes(num_rows=2048, num_columns=8192, multiprocessors=108)
    >>> fused_rms_norm_bytes(num_tokens=2048, hidden_size=8192, scratch=scratch)
    281158144
    """
    return 10 * num_tokens * hidden_size + 4 * num_tokens + 16 * hidden_size + scratch


def gated_perceptron_bytes(*, num_tokens: int, hidden_size: int, intermediate_size: int, blas_workspace: int) -> int:
    """Return the peak of a gated perceptron in bf16: seven tensors of its width, weights and their gradients.

    With few tokens the peak comes later, where the first matrix's gradient is added up: five tensors have that width then.

    Formula::

        max(num_tokens * (14 * intermediate_size + 8 * hidden_size) + 12 * hidden_size * intermediate_size,
            num_tokens * (12 * intermediate_size + 10 * hidden_size) + 14 * hidden_size * intermediate_size)
        + 2 * blas_workspace

    Examples
    --------
    >>> gated_perceptron_bytes(num_tokens=32768, hidden_size=4096, intermediate_size=11008, blas_workspace=8519680)
    6681788416
    """
    product = num_tokens * (14 * intermediate_size + 8 * hidden_size) + 12 * hidden_size * intermediate_size
    matrix = num_tokens * (12 * intermediate_size + 10 * hidden_size) + 14 * hidden_size * intermediate_size
    return max(product, matrix) + 2 * blas_workspace


def fused_gated_perceptron_bytes(
    *, num_tokens: int, hidden_size: int, intermediate_size: int, blas_workspace: int
) -> int:
    """Return the peak of Liger's gated perceptron in bf16: the product is made again in the backward pass.

    Formula::

        num_tokens * (6 * intermediate_size + 14 * hidden_size) + 14 * hidden_size * intermediate_size
        + 2 * blas_workspace

    Examples
    --------
    >>> fused_gated_perceptron_bytes(num_tokens=8192, hidden_size=4096, intermediate_size=11008, blas_workspace=8519680)
    1659109376
    """
    return (
        num_tokens * (6 * intermediate_size + 14 * hidden_size)
        + 14 * hidden_size * intermediate_size + 2 * blas_workspace
    )  # fmt: skip


def loss_bytes(*, num_tokens: int, vocab_size: int, bytes_per_logit: int) -> int:
    """Return the peak of a loss as a multiple of its logits: 12 forward and 14 with the backward pass in plain PyTorch.

    Formula::

        num_tokens * vocab_size * bytes_per_logit

    Examples
    --------
    >>> loss_bytes(num_tokens=8192, vocab_size=256000, bytes_per_logit=12) / 2**20
    24000.0
    """
    return num_tokens * vocab_size * bytes_per_logit


__all__ = [
    "column_sum_bytes", "cross_entropy_bytes", "fused_cross_entropy_bytes", "fused_gated_perceptron_bytes", "fused_linear_cross_entropy_bytes",
    "fused_rms_norm_bytes", "gated_perceptron_bytes", "linear_cross_entropy_bytes", "loss_bytes", "rms_norm_bytes",
]  # fmt: skip
