"""A table for a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from vrameter.i18n import tr
from vrameter.render import words
from vrameter.units import format_bytes


def response_table(response: Mapping[str, Any]) -> str:
    """Return an estimate as an HTML table with a bar per term."""
    entry = response["devices"][0]
    whole = max(entry.get("budget_bytes", 0), entry["peak"]["used_bytes"]) or 1
    rows = []
    for item in words.merged_items(entry):
        share = min(100.0, 100 * item["bytes"] / whole)
        drawn = f'<div style="background:#4c78a8;height:0.8em;width:{share:.1f}%"></div>'
        note = words.interval(item["low_bytes"], item["high_bytes"]) or words.basis_label(item["basis"])
        rows.append(
            f"<tr><td>{escape(words.term_label(item['term']))}</td>"
            f'<td style="text-align:right">{format_bytes(item["bytes"])}</td>'
            f'<td style="width:16em">{drawn}</td><td>{escape(note)}</td></tr>'
        )
    peak = entry["peak"]
    rows.append(
        f"<tr><th>{escape(tr('peak, %(phase)s', phase=words.phase_label(peak['phase'])))}</th>"
        f'<th style="text-align:right">{format_bytes(peak["used_bytes"])}</th><td></td>'
        f"<td>{escape(words.interval(peak['low_bytes'], peak['high_bytes']))}</td></tr>"
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in response.get("warnings", ()))
    return (
        f"<p><strong>{escape(words.verdict(response))}</strong><br>{escape(words.setup(response))}</p>"
        f"<table>{''.join(rows)}</table>" + "".join(_further(response)) + (f"<ul>{notes}</ul>" if notes else "")
    )


def _further(response: Mapping[str, Any]) -> Iterator[str]:
    """Yield the phases, the fullest device, what fits at most, what could be done otherwise, and the other devices."""
    phases = words.phases(response)
    if phases:
        line = " · ".join(f"{label} {format_bytes(size)}" for label, size in phases)
        yield f"<p>{escape(line)}<br>{escape(words.fullest(response))}</p>"
    limits = words.limits(response)
    if limits:
        yield f"<p>{escape(limits)}</p>"
    others = [words.device_line(each) for each in response["devices"][1:]]
    for heading, lines in [*words.advice(response), *([(tr("The other devices:"), others)] if others else [])]:
        yield f"<p>{escape(heading)}</p><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
