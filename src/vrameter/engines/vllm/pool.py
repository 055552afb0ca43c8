"""The KV pool of vLLM: what is left of the requested memory, how many blocks, tokens and sequences that is.

References
----------
.. [1] vLLM 0.19, ``v1/worker/gpu_worker.py`` (``determine_available_memory``), ``v1/worker/utils.py``
       (``request_memory``); 0.20 takes out the estimate of CUDA graphs too.
.. [2] vLLM 0.19 and 0.21, ``v1/core/kv_cache_utils.py`` (``_report_kv_cache_config``): the printed number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from vrameter.engines.vllm.blocks import Layout
from vrameter.units import ceil_div


def requested_bytes(*, capacity: int, utilization_millionths: int) -> int:
    """Return what vLLM asks of a device. [bytes].

    Formula::

        ceil_div(capacity * utilization_millionths, 1000000)

    >>> round(requested_bytes(capacity=85029615043, utilization_millionths=950000) / 2**30, 2)
    75.23
    """
    return ceil_div(capacity * utilization_millionths, 1000000)


def pool_bytes(
    *, requested: int, weights: int, adapters: int, draft: int, activations: int, non_torch: int, graphs: int
) -> int:
    """Return what is left for the KV pool; negative where the rest does not fit. [bytes].

    Formula::

        requested - weights - adapters - draft - activations - non_torch - graphs

    Parameters
    ----------
    graphs
        The estimate of CUDA graphs, where the release takes it out. [bytes]
    """
    return requested - weights - adapters - draft - activations - non_torch - graphs


def num_blocks(*, pool: int, block_bytes: int) -> int:
    """Return the whole blocks of a pool. [blocks].

    Formula::

        max(0, pool // block_bytes)
    """
    return max(0, pool // block_bytes)


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as the log describes it.

    Parameters
    ----------
    bytes
        What is left for it. [bytes]
    blocks
        Whole blocks of all ranks.
    """

    layout: Layout
    bytes: int
    blocks: int
    max_model_len: int

    @property
    def concurrency(self) -> float:
        """Sequences of full length that the pool holds."""
        needed = self.layout.blocks_per_request(self.max_model_len)
        return self.blocks / needed if needed else 0.0

    def tokens(self, *, by_concurrency: bool) -> int:
        """Return the number of tokens that the log prints. [tokens]."""
        if by_concurrency:
            needed = self.layout.blocks_per_request(self.max_model_len)
            return self.blocks * self.max_model_len // needed if needed else 0
        per_group = self.blocks // max(1, len(self.layout.groups))
        return per_group * self.layout.block_tokens * self.layout.context_parallel

    @property
    def needed(self) -> int:
        """What one sequence of full length takes. [bytes]."""
        return self.layout.blocks_per_request(self.max_model_len) * self.layout.block_bytes()


__all__ = ["Pool", "num_blocks", "pool_bytes", "requested_bytes"]
