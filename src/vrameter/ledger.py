"""The answer: named memory terms, the bytes of each on one device, and the phases in which each is alive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from textwrap import dedent
from typing import Literal

Basis = Literal["exact", "modelled", "calibrated", "assumed"]
Held = Literal["tensors", "allocator", "driver"]


@lru_cache(maxsize=256)
def formula_of(term: Callable[..., int]) -> str:
    """Return the ``Formula::`` block of a term's docstring, on one line."""
    _, _, rest = dedent("    " + (term.__doc__ or "")).partition("Formula::")
    lines: list[str] = []
    for line in rest.splitlines()[1:]:
        if line.strip():
            if line.strip() in {"Parameters", "Notes", "Examples", "Returns"} or not line.startswith("    "):
                break
            lines.append(line.strip())
        elif lines:
            break
    return " ".join(lines)


@dataclass(slots=True)
class Item:
    """One line of the ledger; nothing changes it once it is made. It is not frozen because searches make a million of them.

    Parameters
    ----------
    term
        ``weights``, ``kv_cache``, ``activations``, ...
    bytes, low, high
        The estimate and the interval that should hold the truth. [bytes]
    basis
        How the number came about: ``exact`` arithmetic, ``modelled`` from the program's code, ``calibrated`` on
        measurements, or ``assumed``.
    phases
        When it is alive.
    formula
        An expression over `values` whose value is `bytes`.
    held
        By whom: live ``tensors``, the ``allocator`` around them, or the ``driver`` outside it.
    buffer
        What the program calls the buffer that it lies in, where it splits its memory by buffers.
    """

    term: str
    bytes: int
    low: int
    high: int
    basis: Basis
    phases: tuple[str, ...]
    formula: str
    values: Mapping[str, int]
    source: str
    held: Held = "tensors"
    note: str = ""
    buffer: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return the item as the response carries it."""
        answer: dict[str, object] = {
            "term": self.term,
            "bytes": self.bytes,
            "low_bytes": self.low,
            "high_bytes": self.high,
            "basis": self.basis,
            "phases": list(self.phases),
            "formula": self.formula,
            "values": dict(self.values),
            "source": self.source,
        }
        if self.note:
            answer["note"] = self.note
        if self.buffer:
            answer["buffer"] = self.buffer
        return answer


def item(
    term: str,
    function: Callable[..., int],
    *,
    phases: tuple[str, ...],
    source: str,
    basis: Basis = "exact",
    held: Held = "tensors",
    low: int | None = None,
    high: int | None = None,
    note: str = "",
    buffer: str = "",
    **values: int,
) -> Item:
    """Return the line that a term's function computes from `values`, with the formula of its docstring."""
    size = function(**values)
    return Item(
        term=term,
        bytes=size,
        low=size if low is None else low,
        high=size if high is None else high,
        basis=basis,
        phases=phases,
        formula=formula_of(function),
        values=values,
        source=source,
        held=held,
        note=note,
        buffer=buffer,
    )


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that one device needs, and in which phase. [bytes]."""

    phase: str
    allocated: int
    reserved: int
    used: int
    low: int
    high: int

    def to_dict(self) -> dict[str, object]:
        """Return the peak as the response carries it."""
        return {
            "phase": self.phase,
            "allocated_bytes": self.allocated,
            "reserved_bytes": self.reserved,
            "used_bytes": self.used,
            "low_bytes": self.low,
            "high_bytes": self.high,
        }


HOST, DISK = -1, -2
STORES = {HOST: "host", DISK: "disk"}
"""Places of ledgers of host memory and of the disk, and what a response calls them."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that lives on one device, phase by phase.

    Parameters
    ----------
    holds
        Which part of a model that several share.
    place
        Which of the request's devices it is, where they differ; `HOST` for host memory, `DISK` for the disk.
    """

    phases: tuple[str, ...]
    items: tuple[Item, ...] = field(default_factory=tuple)
    holds: str = ""
    place: int = 0

    def at(self, phase: str, *, held: tuple[Held, ...] = ("tensors", "allocator", "driver")) -> int:
        """Return the bytes alive in a phase."""
        return sum(item.bytes for item in self.items if phase in item.phases and item.held in held)

    def bounds(self, phase: str) -> tuple[int, int]:
        """Return the lowest and the highest sum of a phase. [bytes]."""
        alive = [item for item in self.items if phase in item.phases]
        return sum(item.low for item in alive), sum(item.high for item in alive)

    @property
    def used(self) -> int:
        """What the largest phase takes. [bytes]."""
        sums = dict.fromkeys(self.phases, 0)
        for item in self.items:
            for phase in item.phases:
                sums[phase] += item.bytes
        return max(sums.values())

    def peak(self) -> Peak:
        """Return the largest phase, with the interval over all phases."""
        phase = max(self.phases, key=self.at)
        bounds = [self.bounds(each) for each in self.phases]
        return Peak(
            phase=phase,
            allocated=self.at(phase, held=("tensors",)),
            reserved=self.at(phase, held=("tensors", "allocator")),
            used=self.at(phase),
            low=max(low for low, _ in bounds),
            high=max(high for _, high in bounds),
        )
