"""What is in a model's files: a line for each component, role and number format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrameter.i18n import tr
from vrameter.render.markdown import table as markdown_table
from vrameter.render.text import table as text_table
from vrameter.units import format_bytes


def _columns() -> list[tuple[str, str]]:
    return [
        (tr("component"), "left"),
        (tr("role"), "left"),
        (tr("layers"), "left"),
        (tr("stored as"), "left"),
        (tr("tensors"), "right"),
        (tr("parameters"), "right"),
        (tr("bytes"), "right"),
        ("", "right"),
    ]


def _rows(answer: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for component in answer["components"]:
        name = component["name"] if component["loaded"] else tr("%(name)s (not loaded)", name=component["name"])
        for role, sums in sorted(component["roles"].items(), key=lambda pair: -pair[1]["bytes"]):
            layers = sums["layers"]
            span = "" if layers is None else str(layers[0]) if layers[0] == layers[1] else f"{layers[0]}-{layers[1]}"
            for dtype, part in sorted(sums["dtypes"].items(), key=lambda pair: -pair[1]["bytes"]):
                rows.append([name, role, span, dtype, *_numbers(part)])
                name = ""
    rows.append([tr("in all"), "", "", "", *_numbers(answer)])
    return rows


def _numbers(sums: Mapping[str, Any]) -> list[str]:
    return [f"{sums['tensors']:,}", f"{sums['num_params']:,}", f"{sums['bytes']:,}", format_bytes(sums["bytes"])]


def heading(answer: Mapping[str, Any]) -> str:
    """Return the model in one line, with what is loaded where that is not what is stored."""
    parts = [answer["model"], answer["architecture"] or "", answer["revision"][:12] if answer.get("revision") else ""]
    if answer["files"]:
        parts.append(tr("%(count)s files", count=len(answer["files"])))
    if answer["loaded_bytes"] != answer["bytes"]:
        parts.append(tr("%(bytes)s loaded", bytes=format_bytes(answer["loaded_bytes"])))
    return " · ".join(part for part in parts if part)


def inspection_text(answer: Mapping[str, Any]) -> str:
    """Return the answer for a terminal."""
    return f"{heading(answer)}\n\n{text_table(_columns(), _rows(answer))}"


def inspection_markdown(answer: Mapping[str, Any]) -> str:
    """Return the answer as Markdown."""
    return f"**{heading(answer)}**\n\n{markdown_table(_columns(), _rows(answer))}"


__all__ = ["inspection_markdown", "inspection_text"]
