"""Constants fitted to what engines printed: each with the runs it was fitted to, its range, and its error elsewhere.

They lie in ``data/engine_constants.json``; ``benchmarks/fit_engines.py`` fits them anew and checks them on runs that it
left out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from vrameter.data import read_bytes
from vrameter.units import MIB

FILE = "engine_constants.json"


class Span(Struct, frozen=True):
    """A size with the interval in which it was seen. [MiB]."""

    low: int
    typical: int
    high: int

    @property
    def bytes(self) -> tuple[int, int, int]:
        """Low, typical and high. [bytes]."""
        return self.low * MIB, self.typical * MIB, self.high * MIB


class Spans(Struct, frozen=True):
    """A size on a device alone, and on one of several that work together, on a link of their own or over PCIe."""

    alone: Span
    linked: Span
    apart: Span
    stages: Span

    def of(self, *, group: bool, linked: bool, stages: bool) -> Span:
        """Return the span of a device: in a group that works on the same layers, in a pipeline, or alone."""
        if group:
            return self.linked if linked else self.apart
        return self.stages if stages else self.alone


class Since(Struct, frozen=True):
    """A size from one release on."""

    version: str
    spans: Spans


class GraphLaw(Struct, frozen=True):
    """CUDA graphs: a fixed part, one that tensor ranks split, and so much for each layer and captured size. [KiB]."""

    fixed_kib: int
    split_kib: int
    layer_kib: int
    low_hundredths: int
    high_hundredths: int


class VllmConstants(Struct, frozen=True):
    """What vLLM takes that its source does not say. `residual_hundredths`: hidden widths alive beside the MLP's."""

    residual_hundredths: dict[str, int]
    startup: Spans
    non_torch: list[Since]
    graphs: dict[str, GraphLaw]
    notes: dict[str, Any]


class SglangConstants(Struct, frozen=True):
    """What SGLang takes that its source does not say."""

    runtime: Spans
    graphs: GraphLaw
    notes: dict[str, Any]


class Constants(Struct, frozen=True):
    """The file."""

    vllm: VllmConstants
    sglang: SglangConstants
    multiprocessors: dict[str, int]


@lru_cache(maxsize=1)
def constants() -> Constants:
    """Return the constants of all engines."""
    return msgspec.json.decode(read_bytes(FILE), type=Constants)


__all__ = ["Constants", "GraphLaw", "Span", "Spans", "constants"]
