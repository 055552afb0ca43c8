"""What changed from release to release of vLLM: one row for each change, the newest rules where no version is named.

References
----------
.. [1] vLLM 0.6.6, 0.7.3, 0.8.5, 0.9.2, 0.11.0, 0.13.0, 0.15.0, 0.17.0, 0.19.0, 0.20.0, 0.21.0, 0.23.0, 0.25.0, 0.27.0,
       0.29.0, 0.33.0: ``v1/worker/gpu_worker.py``,
       ``v1/sample/ops/topk_topp_sampler.py``, ``v1/core/kv_cache_utils.py``, ``engine/arg_utils.py``,
       ``config/cache.py``; a change stands at the first of these releases that has it, or at the release that its
       log or pull request names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from vrameter.errors import RequestError
from vrameter.i18n import tr

Version = tuple[int, ...]
Sampler = Literal["sort", "triton", "flashinfer"]
NEWEST = "0.33.0"


@dataclass(frozen=True, slots=True)
class Rules:
    """How one release behaves.

    Parameters
    ----------
    engine
        The generation of the scheduler: V0 profiles whole prompts unless they are read in chunks.
    utilization
        Share of the device by default. [thousandths]
    sampler
        How the profile's dummy sampling cuts the distribution, which decides the peak.
    graphs_counted
        Whether the estimate of CUDA graphs is taken out of the KV pool.
    graph_sizes
        Steps of captured batch sizes: ``8`` up to the largest, or ``16`` from 256 on.
    groups
        Whether layers with a window or a state get blocks of their own kind.
    tokens_by_concurrency
        Whether the printed number of tokens is what the pool holds at full length, or blocks by groups.
    group_slack
        Up to how much more layers one kind may have than another for groups to be as large as the larger. [hundredths]
    null_block
        Whether the one block that is never given out is left out when lengths are checked.
    states_cached
        Whether prefix caching, and with it aligned states, is on for recurrent layers.
    steps_in_flight
        Whether a window keeps the tokens of every step under way, not only of one.
    large_from
        GiB from which a device counts as large, and as largest, for the defaults of a step.
    small_a100
        Whether an A100 counts as small whatever its memory.
    buffers_stay
        Whether work buffers of experts stay after a step.
    triton_experts
        Whether MXFP4 experts run on Triton's kernels on Hopper, which the package brings along.
    axis_positions
        How many times the model's positions a table of rotary angles has that counts time, height and width apart.
    own_positions
        Whether this is no longer so where these are interleaved.
    latent
        Whether latent attention caches latent vectors, not heads filled up to 256.
    latent_fp8
        Whether it does so only where weights are not quantised, or in fp8.
    absorbed_latent
        Whether latent attention keeps its projections multiplied out.
    """

    engine: Literal["v0", "v1"] = "v1"
    utilization: int = 900
    sampler: Sampler = "sort"
    graphs_counted: bool = False
    graph_sizes: int = 8
    groups: bool = False
    tokens_by_concurrency: bool = False
    group_slack: int = 100
    null_block: bool = False
    states_cached: bool = False
    steps_in_flight: bool = False
    large_from: tuple[int, ...] = (70,)
    small_a100: bool = False
    buffers_stay: bool = False
    triton_experts: bool = False
    axis_positions: int = 4
    own_positions: bool = False
    latent: bool = True
    latent_fp8: bool = False
    absorbed_latent: bool = False


# First release with a change -> the fields that changed.
CHANGES: tuple[tuple[str, dict[str, object]], ...] = (
    ("0.0.0", {"engine": "v0", "large_from": (), "latent": False, "axis_positions": 1}),
    ("0.7.1", {"latent": True, "latent_fp8": True, "absorbed_latent": True}),
    ("0.7.2", {"axis_positions": 4}),
    ("0.7.3", {"latent_fp8": False}),
    ("0.7.4", {"absorbed_latent": False}),
    ("0.8.0", {"engine": "v1", "large_from": (70,)}),
    ("0.9.0", {"small_a100": True}),
    ("0.9.1", {"groups": True}),
    ("0.12.0", {"graph_sizes": 16, "buffers_stay": True, "triton_experts": True}),
    ("0.13.0", {"group_slack": 125}),
    ("0.17.0", {"sampler": "triton"}),
    ("0.19.0", {"group_slack": 150}),
    ("0.20.0", {"utilization": 920, "graphs_counted": True}),
    ("0.21.0", {"sampler": "flashinfer", "tokens_by_concurrency": True}),
    ("0.26.0", {"steps_in_flight": True, "states_cached": True}),
    ("0.28.0", {"null_block": True, "large_from": (70, 160)}),
    ("0.33.0", {"own_positions": True}),
)


def parse_version(text: str) -> Version:
    """Return the numbers that a version begins with.

    >>> parse_version("v0.26.1rc1.dev608")
    (0, 26, 1)
    """
    match = re.match(r"\s*v?(\d+(?:\.\d+){0,3})", text)
    if match is None:
        raise RequestError(
            tr("engine_version: '%(value)s' is not a version.", value=text),
            field="engine_version",
            hint=tr("Give one such as %(example)s, or leave it out.", example=NEWEST),
        )
    return tuple(int(part) for part in match[1].split("."))


@lru_cache(maxsize=64)
def rules_of(version: str | None) -> Rules:
    """Return the rules of a release; those of the newest where there is none.

    >>> rules_of("0.19.0").graphs_counted, rules_of(None).graphs_counted
    (False, True)
    """
    wanted = parse_version(version if version is not None else NEWEST)
    rules = Rules()
    for since, fields in CHANGES:
        if parse_version(since) <= wanted:
            rules = replace(rules, **fields)  # type: ignore[arg-type]
    return rules


__all__ = ["CHANGES", "NEWEST", "Rules", "Version", "parse_version", "rules_of"]
