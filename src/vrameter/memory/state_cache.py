"""The states of recurrent mixers: a fixed size per sequence, however long it gets.

A state-space or linear-attention layer keeps the last columns of its short convolution and one matrix per head.

References
----------
.. [1] vLLM, ``model_executor/layers/mamba/mamba_utils.py``: shapes and dtypes of the states, kernel - 1 columns.
.. [2] transformers 5.23, ``cache_utils.LinearAttentionLayer``: `kernel` columns, and states as their kernels return
       them: fp32 from Mamba's scans whatever the model's dtype (seen on the CPU for ten families).
"""

from __future__ import annotations

from vrameter.model.architecture import Architecture, Recurrent, remembered


def recurrent_state_bytes(
    *, conv_channels: int, conv_columns: int, conv_element_bytes: int, state_elements: int, state_element_bytes: int
) -> int:
    """Return what one layer keeps of one sequence.

    Formula::

        conv_channels * conv_columns * conv_element_bytes + state_elements * state_element_bytes

    Examples
    --------
    One gated delta net layer of Qwen3-Next, bf16 convolution and fp32 state:

    >>> recurrent_state_bytes(conv_channels=8192, conv_columns=3, conv_element_bytes=2,
    ...                       state_elements=32 * 128 * 128, state_element_bytes=4)
    2146304
    """
    return conv_channels * conv_columns * conv_element_bytes + state_elements * state_element_bytes


SCANS = frozenset({"mamba", "mamba2"})


@remembered
def state_bytes_per_sequence(
    architecture: Architecture, *, element_bytes: int = 2, spare_column: bool = False, fp32_scans: bool = False
) -> int:
    """Return the states of one sequence over all layers of a model or of a share. [bytes].

    Parameters
    ----------
    element_bytes
        Bytes of an element in the model's dtype; a state that is kept in fp32 takes 4 whatever it is. [bytes]
    spare_column
        Whether the convolution keeps `kernel` columns, as transformers does, or one less, as engines do.
    fp32_scans
        Whether Mamba's states are kept in fp32 even where the model does not ask for it, as transformers does [2]_.
    """
    decoder = architecture.decoder
    if decoder is None:
        return 0
    total = 0
    for layer, places in decoder.layer_groups:
        for part in layer.parts:
            if isinstance(part, Recurrent):
                columns = max(0, part.conv_kernel - (0 if spare_column else 1))
                total += len(places) * recurrent_state_bytes(
                    conv_channels=part.conv_channels,
                    conv_columns=columns,
                    conv_element_bytes=element_bytes,
                    state_elements=part.state_elements,
                    state_element_bytes=4 if part.state_fp32 or (fp32_scans and part.kind in SCANS) else element_bytes,
                )
    return total


def state_cache_bytes(*, num_seqs: int, bytes_per_sequence: int) -> int:
    """Return the bytes of all recurrent states.

    Formula::

        num_seqs * bytes_per_sequence
    """
    return num_seqs * bytes_per_sequence
