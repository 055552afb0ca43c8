"""Parameters that are trained beside a frozen base, and what a method keeps frozen of its own.

`adapter_size` answers for one method and the matrices that it adapts, of whatever kind of model: language models,
denoisers of images. What a method keeps and makes in a pass is in `vrameter.training.programs.adapters`.

References
----------
.. [1] E. Hu et al., "LoRA", 2021, arXiv:2106.09685; S.-Y. Liu et al., "DoRA", 2024, arXiv:2402.09353;
       D. Kopiczko et al., "VeRA", 2023, arXiv:2310.11454; H. Liu et al., "IA3", 2022, arXiv:2205.05638;
       X. Li, P. Liang, "Prefix-Tuning", 2021, arXiv:2101.00190; B. Lester et al., "Prompt Tuning", 2021, arXiv:2104.08691.
.. [2] peft 0.21.2, ``tuners``: the shapes of ``update_layer``, the defaults of ``config.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Matrix:
    """Frozen matrices that get adapters: one, or one of equal shape in each of several layers.

    Parameters
    ----------
    inputs, outputs
        Widths of the linear layer; of a table, its rows and its columns. [elements]
    count
        How many there are.
    stack
        Experts that are stored as one parameter; 1 for a plain matrix.
    target
        The name that chose it.
    feedforward
        Whether its method treats it as part of the perceptron: IA3 scales inputs there.
    bias
        Whether the layer has a bias.
    element
        Size of one number of the matrix. [bytes]
    """

    inputs: int
    outputs: int
    count: int = 1
    stack: int = 1
    target: str = ""
    feedforward: bool = False
    bias: bool = False
    element: int = 2


@dataclass(frozen=True, slots=True)
class Size:
    """What a method brings.

    Parameters
    ----------
    trained
        Parameters that get gradients. [elements]
    frozen
        What it keeps on the device beside them: matrices, places of numbers, averages. [bytes]
    """

    trained: int = 0
    frozen: int = 0

    def __add__(self, other: Size) -> Size:
        """Return both together."""
        return Size(self.trained + other.trained, self.frozen + other.frozen)

    def __mul__(self, count: int) -> Size:
        """Return what several of them bring."""
        return Size(self.trained * count, self.frozen * count)


def adapter_size(
    method: str, matrices: Sequence[Matrix], *, rank: int, element: int, options: Mapping[str, Any] | None = None
) -> Size:
    """Return what adapters of a method on some matrices bring.

    Parameters
    ----------
    method
        peft's name in lower case, or a name of a variant of LoRA.
    element
        Size of one number of an adapter. [bytes]
    options
        Fields of the method's configuration under peft's names; those left out are peft's defaults.

    Examples
    --------
    Rank 8 on the query and value matrices of Llama 2 7B:

    >>> adapter_size("lora", [Matrix(4096, 4096, count=64)], rank=8, element=4)
    Size(trained=4194304, frozen=0)
    """
    from vrameter.memory.adapter_methods import METHODS, canonical, options_of

    name, implied = canonical(method)
    found = METHODS[name]
    chosen = options_of(name, {**implied, **(options or {})})
    total = Size()
    for matrix in matrices:
        total += found.own(matrix, rank, chosen, element) * matrix.count
    return total + found.shared(matrices, rank, chosen, element) if found.shared and matrices else total


def rank_of(
    trained: int, method: str, matrices: Sequence[Matrix], *, rank: int, options: Mapping[str, Any] | None = None
) -> int:
    """Return the rank that gives a stated number of trained parameters; `rank` itself where none gives it exactly.

    >>> rank_of(8_388_608, "lora", [Matrix(4096, 4096, count=64)], rank=8)
    16
    """

    def count(value: int) -> int:
        return adapter_size(method, matrices, rank=value, element=4, options=options).trained

    if not matrices or count(rank) == trained:
        return rank
    first = count(1)
    slope = count(2) - first
    if slope <= 0 or (trained - first) % slope:
        return rank
    found = 1 + (trained - first) // slope
    return found if 1 <= found <= 2**16 and count(found) == trained else rank


# -- the plain ones, as formulas ------------------------------------------------------------------------


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


def prefix_params(*, num_tokens: int, num_layers: int, kv_width: int) -> int:
    """Return the learned keys and values of prefix tuning.

    Formula::

        num_tokens * num_layers * 2 * kv_width
    """
    return num_tokens * num_layers * 2 * kv_width


def projected_prefix_params(
    *, num_tokens: int, num_layers: int, kv_width: int, hidden_size: int, encoder_size: int
) -> int:
    """Return prefix tuning's table and the two layers that make keys and values of it.

    Formula::

        num_tokens * hidden_size + hidden_size * encoder_size + encoder_size + (encoder_size + 1) * num_layers * 2 * kv_width
    """
    return (
        num_tokens * hidden_size
        + hidden_size * encoder_size
        + encoder_size
        + (encoder_size + 1) * num_layers * 2 * kv_width
    )


def prompt_params(*, num_tokens: int, hidden_size: int) -> int:
    """Return the learned embeddings of prompt tuning.

    Formula::

        num_tokens * hidden_size
    """
    return num_tokens * hidden_size


def multitask_prompt_params(*, num_tokens: int, hidden_size: int, num_tasks: int, num_ranks: int) -> int:
    """Return a prompt that tasks share and the low-rank factors of each task.

    Formula::

        num_tokens * hidden_size + num_tasks * num_ranks * (num_tokens + hidden_size)
    """
    return num_tokens * hidden_size + num_tasks * num_ranks * (num_tokens + hidden_size)


def prompt_encoder_params(*, num_tokens: int, hidden_size: int, encoder_size: int) -> int:
    """Return p-tuning's table and its perceptron of three layers.

    Formula::

        num_tokens * hidden_size + hidden_size * encoder_size + encoder_size
        + encoder_size * encoder_size + encoder_size + encoder_size * hidden_size + hidden_size
    """
    return (
        num_tokens * hidden_size
        + hidden_size * encoder_size
        + encoder_size
        + encoder_size * encoder_size
        + encoder_size
        + encoder_size * hidden_size
        + hidden_size
    )


def recurrent_prompt_encoder_params(*, num_tokens: int, hidden_size: int, encoder_size: int, num_layers: int) -> int:
    """Return p-tuning's table, its bidirectional LSTM and the perceptron behind it.

    Formula::

        num_tokens * hidden_size + 8 * encoder_size * (hidden_size + encoder_size + 2)
        + (num_layers - 1) * 8 * encoder_size * (3 * encoder_size + 2)
        + 4 * encoder_size * encoder_size + 2 * encoder_size + 2 * encoder_size * hidden_size + hidden_size
    """
    return (
        num_tokens * hidden_size
        + 8 * encoder_size * (hidden_size + encoder_size + 2)
        + (num_layers - 1) * 8 * encoder_size * (3 * encoder_size + 2)
        + 4 * encoder_size * encoder_size
        + 2 * encoder_size
        + 2 * encoder_size * hidden_size
        + hidden_size
    )


def adaption_prompt_params(*, num_tokens: int, num_layers: int, hidden_size: int) -> int:
    """Return Llama-Adapter's prompts, one for each of the last layers, and their gates.

    Formula::

        num_layers * (num_tokens * hidden_size + 1)
    """
    return num_layers * (num_tokens * hidden_size + 1)


__all__ = [
    "Matrix", "Size", "adapter_size", "adaption_prompt_params", "lora_params", "multitask_prompt_params", "prefix_params",
    "projected_prefix_params", "prompt_encoder_params", "prompt_params", "rank_of", "recurrent_prompt_encoder_params",
]  # fmt: skip
