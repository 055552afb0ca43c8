"""Where a number comes from: the formula, the same with numbers put in, the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vrameter.i18n import tr
from vrameter.render import words
from vrameter.units import format_bytes


def explanations(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return items with their formulas substituted."""
    return [{**item, "substituted": words.substituted(item["formula"], item["values"])} for item in items]


def explanation_text(response: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str:
    """Return a paragraph per item."""
    blocks = [words.setup(response)]
    for item in explanations(items):
        phases = ", ".join(words.phase_label(phase) for phase in item["phases"])
        lines = [
            f"{words.term_label(item['term'])} ({item['term']}) = {format_bytes(item['bytes'])} = {item['bytes']:,} B",
            f"  {item['formula']}",
            f"  = {item['substituted']}",
            *(["  " + tr("where: %(note)s", note=item["note"])] if item.get("note") else []),
            "  " + tr("alive in: %(phases)s", phases=phases),
            "  " + tr("basis: %(basis)s", basis=words.basis_label(item["basis"])),
            "  " + tr("source: %(source)s", source=item["source"]),
        ]
        span = words.interval(item["low_bytes"], item["high_bytes"])
        if span:
            lines.insert(3, "  " + tr("interval: %(span)s", span=span))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def explanation_markdown(response: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str:
    """Return a section per item."""
    blocks = [words.setup(response)]
    for item in explanations(items):
        blocks.append(
            f"### {words.term_label(item['term'])}: {format_bytes(item['bytes'])}\n\n"
            f"```\n{item['formula']}\n= {item['substituted']}\n= {item['bytes']:,} B\n```\n\n"
            + (tr("where: %(note)s", note=item["note"]) + "; " if item.get("note") else "")
            + tr("basis: %(basis)s", basis=words.basis_label(item["basis"]))
            + "; "
            + tr("source: %(source)s", source=item["source"])
        )
    return "\n\n".join(blocks)
