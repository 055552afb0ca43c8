"""Peaks of single training kernels, forward and backward: losses, norms and gated perceptrons on their own.

Counted at the allocator by Liger-Kernel's own benchmark on an A100, to the byte [1]_; the baselines of cut
cross-entropy [2]_ are multiples of the logits.

References
----------
.. [1] linkedin/Liger-Kernel, ``benchmark/data/all_benchmark_data.csv``.
.. [2] E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024, arXiv:2411.09009.
"""

from __future__ import annotations


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

    Formula::

        8 * vocab_size * hidden_size + 10 * chunk_tokens * vocab_size + num_tokens * (4 * hidden_size + 12)
        + 2 * blas_workspace

    Notes
    -----
    Within 0.1 % of the published figures; matrix libraries take a little more for some sizes of the last product.
    """
    return (
        8 * vocab_size * hidden_size + 10 * chunk_tokens * vocab_size + num_tokens * (4 * hidden_size + 12)
        + 2 * blas_workspace
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


def fused_rms_norm_bytes(*, num_tokens: int, hidden_size: int) -> int:
    """Return the peak of Liger's RMS norm in bf16, up to hidden sizes of 4096.

    Formula::

        18 * num_tokens * hidden_size + 4 * num_tokens + 16 * hidden_size + 512

    Examples
    --------
    >>> fused_rms_norm_bytes(num_tokens=2048, hidden_size=4096)
    151069184
    """
    return 18 * num_tokens * hidden_size + 4 * num_tokens + 16 * hidden_size + 512


def gated_perceptron_bytes(*, num_tokens: int, hidden_size: int, intermediate_size: int, blas_workspace: int) -> int:
    """Return the peak of a gated perceptron in bf16: seven tensors of its width, weights and their gradients.

    Formula::

        num_tokens * (14 * intermediate_size + 8 * hidden_size) + 12 * hidden_size * intermediate_size + 2 * blas_workspace

    Examples
    --------
    >>> gated_perceptron_bytes(num_tokens=32768, hidden_size=4096, intermediate_size=11008, blas_workspace=8519680)
    6681788416
    """
    return (
        num_tokens * (14 * intermediate_size + 8 * hidden_size)
        + 12 * hidden_size * intermediate_size + 2 * blas_workspace
    )  # fmt: skip


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
    "cross_entropy_bytes", "fused_cross_entropy_bytes", "fused_gated_perceptron_bytes", "fused_linear_cross_entropy_bytes",
    "fused_rms_norm_bytes", "gated_perceptron_bytes", "linear_cross_entropy_bytes", "loss_bytes", "rms_norm_bytes",
]  # fmt: skip
