"""CUDA graphs: which batch sizes are captured, and what that takes.

A captured graph holds its kernels' arguments in driver memory, and all graphs share a pool for the tensors of a step.
Both grow with layers and sizes; how much is the driver's business, so it is fitted to logs.

References
----------
.. [1] vLLM 0.8.5, 0.11, 0.19, ``config/vllm.py`` (``_set_cudagraph_sizes``); 0.6.6, ``worker/model_runner.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from vrameter.engines import Values
from vrameter.engines.constants import GraphLaw, constants
from vrameter.engines.vllm.versions import Rules
from vrameter.model.architecture import Architecture

LARGEST = 512
LARGEST_V0 = 256


def capture_sizes(
    rules: Rules, *, max_num_seqs: int, num_tokens: int, drafts: int = 0, largest: int | None = None
) -> list[int]:
    """Return the batch sizes that are captured by default. [tokens].

    >>> from vrameter.engines.vllm.versions import rules_of
    >>> sizes = capture_sizes(rules_of("0.19.0"), max_num_seqs=1024, num_tokens=8192)
    >>> len(sizes), sizes[-1]
    (51, 512)
    """
    if rules.engine == "v0":
        most = min(LARGEST_V0, max_num_seqs) if largest is None else largest
        return [1, 2, 4, *range(8, most + 1, 8)] if most >= 4 else list(range(1, most + 1))
    most = min(max_num_seqs * (1 + drafts) * 2, LARGEST) if largest is None else largest
    most = min(most, num_tokens)
    if rules.graph_sizes == 8:
        found = [1, 2, 4, *range(8, most + 1, 8)]
    else:
        found = [1, 2, 4, *range(8, min(most + 1, 256), 8), *range(256, most + 1, 16)]
    return [size for size in found if size <= most]


def graph_bytes(
    *, fixed_kib: int, split_kib: int, tensor_parallel: int, num_layers: int, num_sizes: int, layer_kib: int
) -> int:
    """Return what captured graphs take. [bytes].

    Formula::

        (fixed_kib + split_kib // tensor_parallel + num_sizes * num_layers * layer_kib) * 1024

    Parameters
    ----------
    fixed_kib, split_kib, layer_kib
        Fitted: of any graphs, of what tensor ranks split, of a layer and size. [KiB]
    """
    return (fixed_kib + split_kib // tensor_parallel + num_sizes * num_layers * layer_kib) * 1024


def graph_values(
    share: Architecture, rules: Rules, sizes: Sequence[int], *, tensor: int, estimated: bool
) -> tuple[Values, GraphLaw]:
    """Return the arguments of `graph_bytes`, and the law with its bounds."""
    law = constants().vllm.graphs["v0" if rules.engine == "v0" else "estimated" if estimated else "captured"]
    return {
        "fixed_kib": law.fixed_kib,
        "split_kib": law.split_kib,
        "tensor_parallel": tensor,
        "num_layers": len(share.main.layers),
        "num_sizes": len(sizes),
        "layer_kib": law.layer_kib,
    }, law


def bounds(size: int, law: GraphLaw) -> tuple[int, int]:
    """Return the interval of a law's size. [bytes]."""
    return size * law.low_hundredths // 100, size * law.high_hundredths // 100


__all__ = ["bounds", "capture_sizes", "graph_bytes", "graph_values"]
