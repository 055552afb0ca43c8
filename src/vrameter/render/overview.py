"""The overview of a model: a row per precision, the rule of thumb beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrameter.i18n import tr
from vrameter.render.markdown import table as markdown_table
from vrameter.render.text import table as text_table
from vrameter.units import format_bytes


def _columns(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    length = answer["context_length"]
    return [
        (tr("precision"), "left"),
        (tr("weights"), "right"),
        (tr("inference, %(tokens)s tokens", tokens=f"{length:,}") if length else tr("inference"), "right"),
        (tr("training state"), "right"),
        (tr("rule of thumb: inference"), "right"),
        (tr("training"), "right"),
    ]


def _rows(answer: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for row in answer["rows"]:
        rule = row["rule_of_thumb"]
        training = row["training_state_bytes"]
        rows.append(
            [
                row["name"],
                format_bytes(row["weights_bytes"]),
                format_bytes(row["inference_bytes"]),
                format_bytes(training) if training else "-",
                f"{format_bytes(rule['inference_low_bytes'])} ~ {format_bytes(rule['inference_high_bytes'])}"
                if rule
                else "-",
                f"{format_bytes(rule['training_bytes'])} +" if rule else "-",
            ]
        )
    return rows


def heading(answer: Mapping[str, Any]) -> str:
    """Return the model in one line."""
    model = answer["model"]
    parts = [model["name"], tr("%(params)s parameters", params=f"{model['num_params']:,}")]
    if model["num_active_params"] != model["num_params"]:
        parts.append(tr("%(params)s active per token", params=f"{model['num_active_params']:,}"))
    parts.append(model["architecture"])
    if answer["kv_cache"]:
        parts.append(tr("KV cache %(bytes)s B per token", bytes=f"{answer['kv_cache']['bytes_per_token']:,}"))
    return " · ".join(part for part in parts if part)


def overview_text(answer: Mapping[str, Any]) -> str:
    """Return the overview for a terminal."""
    return f"{heading(answer)}\n\n{text_table(_columns(answer), _rows(answer))}"


def overview_markdown(answer: Mapping[str, Any]) -> str:
    """Return the overview as Markdown."""
    return f"**{heading(answer)}**\n\n{markdown_table(_columns(answer), _rows(answer))}"
