"""Sizes of llama.cpp's buffers, as lines of the ledger state them.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/llama-model.cpp``, ``src/llama-kv-cache.cpp``, ``src/llama-context.cpp``.
"""

from __future__ import annotations


def model_bytes(*, tensors: int, padding: int) -> int:
    """Return the model buffer of one device. [bytes].

    Formula::

        tensors + padding

    Parameters
    ----------
    tensors
        Tensors as the file stores them. [bytes]
    padding
        What alignment adds, and on a GPU the padding of quantised rows to 512 elements. [bytes]
    """
    return tensors + padding


def cache_bytes(*, cells: int, streams: int, cell_bytes: int, padding: int) -> int:
    """Return the caches of keys and values of one device's layers. [bytes].

    Formula::

        cells * streams * cell_bytes + padding

    Parameters
    ----------
    cells
        Tokens that a stream holds. [tokens]
    streams
        1 where all sequences share a cache, else one for each.
    cell_bytes
        Keys and values of one token in all these layers. [bytes]
    padding
        Padding of tensors. [bytes]

    Examples
    --------
    >>> cache_bytes(cells=8192, streams=1, cell_bytes=131072, padding=0)
    1073741824
    """
    return cells * streams * cell_bytes + padding


def state_bytes(*, rows: int, row_bytes: int, padding: int) -> int:
    """Return the recurrent states of one device's layers. [bytes].

    Formula::

        rows * row_bytes + padding

    Parameters
    ----------
    rows
        States of each layer: one per sequence, more where drafts can be taken back.
    row_bytes
        One sequence's states in all these layers, in fp32. [bytes]
    """
    return rows * row_bytes + padding


def compute_buffer_bytes(*, planned: int) -> int:
    """Return the compute buffer of one device. [bytes].

    Formula::

        planned

    Parameters
    ----------
    planned
        What the allocator's moves over the tensors of the largest graph come to. [bytes]
    """
    return planned


def output_bytes(*, rows: int, vocab_size: int, hidden_size: int) -> int:
    """Return logits and embeddings kept in host memory for the caller. [bytes].

    Formula::

        4 * rows * (vocab_size + hidden_size)

    Parameters
    ----------
    hidden_size
        0 where no embeddings are asked for.

    Examples
    --------
    >>> output_bytes(rows=4, vocab_size=128256, hidden_size=0)
    2052096
    """
    return 4 * rows * (vocab_size + hidden_size)


def pool_bytes(*, tokens: int, width: int, used: int) -> int:
    """Return the scratch memory of the largest matrix product, which is in no buffer that the program prints. [bytes].

    Formula::

        tokens * used * (width + width // 8)

    Parameters
    ----------
    tokens
        Tokens of a physical batch. [tokens]
    width
        The longest row that is multiplied, quantised to 8 bits with a scale per 32. [elements]
    used
        Experts per token where there are any, else 1.
    """
    return tokens * used * (width + width // 8)


def overhead_bytes(*, reserved: int) -> int:
    """Return what the program leaves alone on a GPU. [bytes].

    Formula::

        reserved
    """
    return reserved


__all__ = [
    "cache_bytes", "compute_buffer_bytes", "model_bytes", "output_bytes", "overhead_bytes", "pool_bytes", "state_bytes",
]  # fmt: skip
