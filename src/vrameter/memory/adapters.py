"""Parameters that are trained beside a frozen base.

References
----------
.. [1] E. Hu et al., "LoRA", 2021, arXiv:2106.09685; S.-Y. Liu et al., "DoRA", 2024, arXiv:2402.09353;
       D. Kopiczko et al., "VeRA", 2023, arXiv:2310.11454; H. Liu et al., "IA3", 2022, arXiv:2205.05638;
       X. Li, P. Liang, "Prefix-Tuning", 2021, arXiv:2101.00190; B. Lester et al., "Prompt Tuning", 2021, arXiv:2104.08691.
.. [2] peft 0.21, ``tuners``.
"""

from __future__ import annotations


def lora_params(*, rank: int, inputs: int, outputs: int) -> int:
    """Return the parameters of the low-rank update of one linear layer.

    Formula::

        rank * (inputs + outputs)

    Examples
    --------
    Rank 8 on the query matrix of Llama 2 7B; with the value matrix and 32 layers, 4,194,304 in all:

    >>> 2 * 32 * lora_params(rank=8, inputs=4096, outputs=4096)
    4194304
    """
    return rank * (inputs + outputs)


def dora_params(*, rank: int, inputs: int, outputs: int) -> int:
    """Return the parameters of a low-rank update that learns the length of each row as well.

    Formula::

        rank * (inputs + outputs) + outputs
    """
    return rank * (inputs + outputs) + outputs


def vera_params(*, rank: int, outputs: int) -> int:
    """Return the trained vectors of VeRA; its two random matrices are shared and frozen.

    Formula::

        rank + outputs
    """
    return rank + outputs


def vera_shared_params(*, rank: int, inputs: int, outputs: int) -> int:
    """Return the frozen matrices that all layers of VeRA share, as wide as the widest layer.

    Formula::

        rank * (inputs + outputs)
    """
    return rank * (inputs + outputs)


def prefix_params(*, num_tokens: int, num_layers: int, kv_width: int) -> int:
    """Return the learned keys and values of prefix tuning.

    Formula::

        num_tokens * num_layers * 2 * kv_width
    """
    return num_tokens * num_layers * 2 * kv_width


def prompt_params(*, num_tokens: int, hidden_size: int) -> int:
    """Return the learned embeddings of prompt tuning.

    Formula::

        num_tokens * hidden_size
    """
    return num_tokens * hidden_size


__all__ = [
    "dora_params", "lora_params", "prefix_params", "prompt_params", "vera_params", "vera_shared_params",
]  # fmt: skip
