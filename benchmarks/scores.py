"""How near estimates come to what was published or measured: one line per figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pair:
    """One case of one figure. `rounding` is half a printed digit of the source: errors within it are none."""

    case: str
    estimate: float
    measured: float
    rounding: float = 0.0
    inside: bool | None = None

    @property
    def error(self) -> float:
        """Signed relative error beyond the source's rounding."""
        gap = self.estimate - self.measured
        gap = 0.0 if abs(gap) <= self.rounding else gap - self.rounding if gap > 0 else gap + self.rounding
        return gap / abs(self.measured) if self.measured else (0.0 if gap == 0 else float("inf"))


@dataclass(frozen=True)
class Score:
    """The errors of one figure over its cases, as fractions."""

    area: str
    figure: str
    pairs: tuple[Pair, ...]
    target: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> list[float]:
        return sorted(abs(pair.error) for pair in self.pairs)

    @property
    def equal(self) -> int:
        """Cases equal within the source's rounding."""
        return sum(pair.error == 0 for pair in self.pairs)

    @property
    def median(self) -> float:
        return quantile(self.errors, 0.5)

    @property
    def p90(self) -> float:
        return quantile(self.errors, 0.9)

    @property
    def worst(self) -> float:
        return max(self.errors, default=0.0)

    @property
    def bias(self) -> float:
        """Median of the signed errors."""
        return quantile(sorted(pair.error for pair in self.pairs), 0.5)

    @property
    def under(self) -> float:
        """Share of cases estimated more than 5 % too low."""
        return sum(pair.error < -0.05 for pair in self.pairs) / len(self.pairs) if self.pairs else 0.0

    @property
    def held(self) -> float | None:
        """Share of cases whose interval holds the measured figure, where there are intervals."""
        known = [pair.inside for pair in self.pairs if pair.inside is not None]
        return sum(known) / len(known) if known else None

    def figures(self) -> dict[str, float]:
        """Return what a later run is compared with."""
        return {
            "cases": len(self.pairs),
            "equal": self.equal,
            "median": round(self.median, 6),
            "p90": round(self.p90, 6),
            "worst": round(self.worst, 6),
        }


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values, between neighbours by proportion.

    >>> quantile([0.0, 1.0, 2.0], 0.5)
    1.0
    """
    if not values:
        return 0.0
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def percent(value: float) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * value:.2f} %".replace("-0.00 %", "0.00 %")


COLUMNS = (
    "area",
    "figure",
    "cases",
    "equal",
    "median",
    "p90",
    "worst",
    "bias",
    "under by > 5 %",
    "in interval",
    "target",
)


def row(score: Score) -> tuple[str, ...]:
    """Return the line of a score in a table of `COLUMNS`."""
    return (
        score.area,
        score.figure,
        str(len(score.pairs)),
        str(score.equal),
        percent(score.median),
        percent(score.p90),
        percent(score.worst),
        percent(score.bias),
        percent(score.under),
        "-" if score.held is None else percent(score.held),
        score.target or "-",
    )


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned table."""
    lines = [tuple(columns), *map(tuple, rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    left = 2
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "|".join("---" if i < 2 else "---:" for i in range(len(columns))) + "|",
    ]
    lines += ["| " + " | ".join(line) + " |" for line in rows]
    return "\n".join(lines)
