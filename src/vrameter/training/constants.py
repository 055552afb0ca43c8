"""The few numbers that measurements set: the allocator's slack and how wide intervals are."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from vrameter.data import read_bytes


class Slack(msgspec.Struct, frozen=True):
    """Bounds in thousandths, with the runs behind them."""

    low: int
    high: int
    unit: str
    runs: str
    range: str
    held_out: str
    typical: int = 1000


class Constants(msgspec.Struct, frozen=True):
    """All fitted numbers of training."""

    slack: dict[str, Slack]
    modelled: Slack
    routing: Slack
    fill: Slack
    samples: Slack
    nccl: Slack
    nccl_group: Slack
    context: Slack


@lru_cache(maxsize=1)
def constants() -> Constants:
    """Return the numbers of ``data/training_constants.json``."""
    return msgspec.json.decode(read_bytes("training_constants.json"), type=Constants)


__all__ = ["Constants", "Slack", "constants"]
