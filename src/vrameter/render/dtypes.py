"""Number formats and quantisations, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vrameter.i18n import tr
from vrameter.model.dtypes import DTYPES, Dtype, dtype
from vrameter.model.schemes import SCHEMES
from vrameter.render.markdown import table as markdown_table
from vrameter.render.text import table as text_table

Table = Callable[[Sequence[tuple[str, str]], Sequence[Sequence[str]]], str]


def chosen(name: str | None) -> list[Dtype]:
    """Return the number formats of a name, all where there is none."""
    return [dtype(name, field="NAME")] if name else list(DTYPES.values())


def dtypes_json(name: str | None) -> dict[str, Any]:
    """Return number formats and quantisations as plain data."""
    return {
        "dtypes": [
            {
                "name": entry.name,
                "bits": entry.bits,
                "bytes_per_value": float(entry.bytes_per_value),
                "kind": entry.kind,
                "exponent_bits": entry.exponent,
                "mantissa_bits": entry.mantissa,
                "largest": entry.largest,
                "smallest_normal": entry.smallest,
                "decimal_digits": entry.digits,
                "purpose": tr(entry.purpose),
                "hardware": tr(entry.hardware),
                "aliases": list(entry.aliases),
            }
            for entry in chosen(name)
        ],
        "quantizations": []
        if name
        else [
            {
                "name": scheme.name,
                "bits_per_weight": float(scheme.formats[0].bits_per_weight),
                "formula": scheme.formats[0].formula,
                "summary": tr(scheme.summary),
            }
            for scheme in SCHEMES.values()
        ],
        "notes": notes(),
    }


def notes() -> list[str]:
    """Return what a data type is, and what of GPU memory it applies to."""
    return [
        tr("A data type is an encoding of numbers, not a range: fewer bits mean less memory, less precision, or both."),
        tr(
            "It applies to each thing in GPU memory apart: weights; activations and KV cache; gradients and optimizer state. "
            "A model with 4-bit weights usually computes, and caches, in 16 bits."
        ),
        tr("tf32 is a way to compute: its 19 bits are stored in 32, so it saves no memory."),
    ]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _tables(name: str | None, table: Table) -> list[str]:
    entries = chosen(name)
    columns = [
        (tr("data type"), "left"), (tr("bytes"), "right"), (tr("exponent + mantissa bits"), "right"), (tr("largest"), "right"),
        (tr("smallest normal"), "right"), (tr("digits"), "right"),
    ]  # fmt: skip
    rows = [
        (
            entry.name,
            f"{float(entry.bytes_per_value):g}",
            f"{entry.exponent} + {entry.mantissa}" if entry.kind == "float" else "-",
            _number(entry.largest),
            _number(entry.smallest),
            entry.digits,
        )
        for entry in entries
    ]
    blocks = [table(columns, rows)]
    purposes = [(tr("data type"), "left"), (tr("what it is for"), "left"), (tr("hardware"), "left")]
    blocks.append(table(purposes, [(entry.name, tr(entry.purpose), tr(entry.hardware)) for entry in entries]))
    if not name:
        formats = [(tr("quantisation"), "left"), (tr("bits per weight"), "right"), (tr("what it is"), "left")]
        blocks.append(
            table(
                formats,
                [
                    (scheme.name, f"{float(scheme.formats[0].bits_per_weight):.4g}", tr(scheme.summary))
                    for scheme in SCHEMES.values()
                ],
            )
        )
    return blocks


def dtypes_text(name: str | None) -> str:
    """Return number formats and quantisations for a terminal."""
    return "\n\n".join([*_tables(name, text_table), "\n".join(notes())])


def dtypes_markdown(name: str | None) -> str:
    """Return number formats and quantisations as Markdown."""
    return "\n\n".join([*_tables(name, markdown_table), "\n\n".join(notes())])
