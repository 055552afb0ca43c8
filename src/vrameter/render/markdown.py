"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vrameter.i18n import tr
from vrameter.render import words
from vrameter.units import format_bytes


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; columns are ``(title, "left" | "right")``."""
    lines = ["| " + " | ".join(title for title, _ in columns) + " |"]
    lines.append("|" + "|".join("---:" if align == "right" else "---" for _, align in columns) + "|")
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def response_markdown(response: Mapping[str, Any]) -> str:
    """Return an estimate as a verdict and a table of terms."""
    if "rule_of_thumb" in response:
        return rule_markdown(response)
    entry = response["devices"][0]
    columns = [(tr("term"), "left"), (tr("size"), "right"), (tr("interval"), "left"), (tr("basis"), "left")]
    rows = [
        (
            words.term_label(item["term"]),
            format_bytes(item["bytes"]),
            words.interval(item["low_bytes"], item["high_bytes"]),
            words.basis_label(item["basis"]),
        )
        for item in words.merged_items(entry)
    ]
    peak = entry["peak"]
    label = tr("peak, %(phase)s", phase=words.phase_label(peak["phase"]))
    rows.append(
        (
            f"**{label}**",
            f"**{format_bytes(peak['used_bytes'])}**",
            words.interval(peak["low_bytes"], peak["high_bytes"]),
            "",
        )
    )
    pool = words.pool_line(response)
    lines = [
        f"**{words.verdict(response)}**",
        "",
        *([pool, ""] if pool else []),
        words.setup(response),
        "",
        table(columns, rows),
    ]
    phases = words.phases(response)
    if phases:
        columns = [(tr("phase"), "left"), (tr("size"), "right")]
        lines += [
            "",
            table(columns, [(label, format_bytes(size)) for label, size in phases]),
            "",
            words.fullest(response),
        ]
    limits = words.limits(response)
    if limits:
        lines += ["", limits]
    for heading, changes in words.advice(response):
        lines += ["", heading, "", *(f"- {line}" for line in changes)]
    if response["devices"][1:]:
        lines += ["", tr("The other devices:"), ""]
        lines += [f"- {words.device_line(each)}" for each in response["devices"][1:]]
    return "\n".join(lines)


def rule_markdown(response: Mapping[str, Any]) -> str:
    """Return the rule of thumb as a table."""
    rule = response["rule_of_thumb"]
    columns = [(tr("term"), "left"), ("GB", "right"), ("GiB", "right")]
    labels = {
        "weights": tr("weights"),
        "inference_low": tr("inference (x 1.3)"),
        "inference_high": tr("inference (x 1.5)"),
        "training": tr("training (x 3 and more)"),
    }
    rows = [(label, f"{rule['gb'][name]:.1f}", f"{rule['gib'][name]:.3f}") for name, label in labels.items()]
    title = tr(
        "Rule of thumb for %(params)s parameters: parameters x bytes per value.", params=f"{rule['num_params']:,}"
    )
    return "\n".join([f"**{title}** ({rule['dtype']})", "", table(columns, rows)])
