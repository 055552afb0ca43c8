"""Text for a terminal: the verdict, then a bar per term."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrameter.i18n import tr
from vrameter.render import words
from vrameter.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console

BAR_CELLS, LEAST_BAR = 24, 4
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, *, cells: int = BAR_CELLS) -> str:
    """Return a bar of up to `cells` cells; anything above nothing shows.

    >>> bar(0.5, cells=4)
    '██'
    """
    eighths = max(1 if share > 0 else 0, round(min(1.0, share) * cells * 8))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def console(*, error: bool = False) -> Console:
    """Return where text goes: in colour on a terminal, plain and unwrapped in a pipe."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    terminal = stream.isatty()
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        width=None if terminal else 160,
        force_terminal=terminal or None,
    )


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """Return an aligned table; columns are ``(title, "left" | "right")``. East Asian characters take two cells."""
    from rich.cells import cell_len

    lines = [[title for title, _ in columns], *([str(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(columns))]
    rendered = []
    for number, line in enumerate(lines):
        cells = []
        for text, width, (_, align) in zip(line, widths, columns, strict=True):
            space = " " * (width - cell_len(text))
            cells.append(space + text if align == "right" else text + space)
        rendered.append("  ".join(cells).rstrip())
        if number == 0:
            rendered.append("  ".join("-" * width for width in widths))
    return "\n".join(rendered)


def response_text(response: Mapping[str, Any]) -> str:
    """Return an estimate: verdict, what was asked, a bar per term at the peak."""
    if "rule_of_thumb" in response:
        return rule_text(response)
    entry = response["devices"][0]
    peak = entry["peak"]
    pool = words.pool_line(response)
    lines = [words.verdict(response), *([f"  {pool}"] if pool else []), "  " + words.setup(response), ""]
    whole = max(entry.get("budget_bytes", 0), peak["used_bytes"]) or 1
    rows: list[tuple[str, str, float, str]] = []
    for item in words.merged_items(entry):
        rows.append(
            (
                "  " + words.term_label(item["term"]),
                format_bytes(item["bytes"]),
                item["bytes"] / whole,
                words.interval(item["low_bytes"], item["high_bytes"]) or words.basis_label(item["basis"]),
            )
        )
    rows.append(
        (
            "  " + tr("peak, %(phase)s", phase=words.phase_label(peak["phase"])),
            format_bytes(peak["used_bytes"]),
            peak["used_bytes"] / whole,
            words.interval(peak["low_bytes"], peak["high_bytes"]),
        )
    )
    if "budget_bytes" in entry:
        rows.append(
            ("  " + tr("device memory"), format_bytes(entry["budget_bytes"]), entry["budget_bytes"] / whole, "")
        )
    width = terminal_width()
    above, lines = lines, []
    phases = words.phases(response)
    if phases:
        lines += ["", "  " + " · ".join(f"{label} {format_bytes(size)}" for label, size in phases)]
        lines += ["  " + words.fullest(response)]
    cache = response.get("kv_cache")
    if cache:
        lines += [
            "",
            "  "
            + tr(
                "KV cache: %(bytes)s per token, %(dtype)s.",
                bytes=f"{cache['bytes_per_token']:,} B",
                dtype=cache["dtype"],
            ),
        ]
    limits = words.limits(response)
    if limits:
        lines += [*([] if cache else [""]), "  " + limits]
    for heading, changes in words.advice(response):
        lines += ["", "  " + heading, *(f"    {line}" for line in changes)]
    others = response["devices"][1:]
    if others:
        lines += ["", "  " + tr("The other devices:")]
        lines += [f"    {words.device_line(each)}" for each in others]
    return "\n".join([*_fitted(above, width), *plain_columns(rows, width), *_fitted(lines, width)])


def _fitted(lines: Iterable[str], width: int | None) -> list[str]:
    """Return lines that are no longer than a terminal is wide, where one reads them."""
    return list(lines) if width is None else [part for line in lines for part in folded(line, width)]


def terminal_width() -> int | None:
    """Return the cells of a line where somebody reads: as COLUMNS says, or of the terminal; None in a pipe or a file."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def plain_columns(rows: Sequence[tuple[str, str, float, str]], width: int | None = None) -> list[str]:
    """Return rows of label, size, share as a bar, and note in line.

    On a narrow terminal bars shrink, and where there is no room for four cells they give way; notes go below.
    """
    from rich.cells import cell_len

    labels, sizes, notes = (max(cell_len(row[index]) for row in rows) for index in (0, 1, 3))  # type: ignore[arg-type]
    room = BAR_CELLS if width is None else min(BAR_CELLS, width - labels - sizes - notes - 6)
    below = width is not None and labels + sizes + notes + 4 > width
    lines = []
    for label, size, share, note in rows:
        line = label + " " * (labels - cell_len(label)) + "  " + " " * (sizes - cell_len(size)) + size
        if room >= LEAST_BAR:
            drawn = bar(share, cells=room)
            line += "  " + drawn + " " * (room - cell_len(drawn))
        lines += [line, *([f"    {note}"] if note else [])] if below else [(line + "  " + note).rstrip()]
    return lines


def folded(line: str, width: int) -> list[str]:
    """Return a line in parts of at most `width` cells, broken at spaces, later parts set in under the first.

    >>> folded("  one two three", 9)
    ['  one two', '    three']
    """
    from rich.cells import cell_len

    if cell_len(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip())
    lines, now = [], " " * indent
    for word in line.split():
        if now.strip() and cell_len(now) + 1 + cell_len(word) > width:
            lines.append(now)
            now = " " * (indent + 2) + word
        else:
            now += (" " if now.strip() else "") + word
    return [*lines, now]


def rule_text(response: Mapping[str, Any]) -> str:
    """Return the rule of thumb under both of its conventions."""
    lines = [words.verdict(response)] if "fits" in response["devices"][0] else []
    return "\n".join([*lines, rules_table(response["model"]["num_params"])])


RULE_ROWS = (("fp32", "fp32/tf32"), ("fp16", "fp16/bf16"), ("fp8", "fp8/int8"), ("int4", "int4"))


def rules_table(num_params: int) -> str:
    """Return the rule of thumb of a number of parameters for each data type, under both of its conventions."""
    from vrameter.memory.rule_of_thumb import rule_of_thumb

    blocks = [tr("Rule of thumb for %(params)s parameters: parameters x bytes per value.", params=f"{num_params:,}")]
    for unit, name, digits in ((10**9, "GB", 1), (1024**3, "GiB", 3)):
        columns = [
            (tr("data type"), "left"),
            (tr("weights"), "right"),
            (tr("inference (x 1.3 ~ x 1.5) [%(unit)s]", unit=name), "right"),
            (tr("training (x 3 and more) [%(unit)s]", unit=name), "right"),
        ]
        rows = []
        for dtype, label in RULE_ROWS:
            rule = rule_of_thumb(num_params, dtype)
            rows.append(
                (
                    label,
                    f"{rounded(rule.weights, unit, digits)} {name}",
                    f"{rounded(rule.inference_low, unit, digits)} ~ {rounded(rule.inference_high, unit, digits)}",
                    tr("about %(size)s and more", size=above(rule.training, unit)),
                )
            )
        title = tr("In GB (divided by 10^9):") if name == "GB" else tr("In GiB (divided by 1024^3):")
        blocks.append("\n" + title + "\n" + table(columns, rows))
    return "\n".join(blocks)


def rounded(size: int, unit: int, digits: int) -> str:
    """Return ``size / unit`` rounded half up to `digits` decimals, from whole numbers.

    >>> rounded(26_400_000_000, 10**9, 1)
    '26.4'
    """
    scale = 10**digits
    units = (2 * size * scale + unit) // (2 * unit)
    return f"{units // scale:,}.{units % scale:0{digits}d}"


def above(size: int, unit: int) -> str:
    """Return ``size / unit`` rounded to a whole number, as "about so many and more".

    >>> above(52_800_000_000, 10**9), above(105_600_000_000, 10**9)
    ('53', '106')
    """
    if size < 10 * unit:
        return rounded(size, unit, 1)
    return f"{(2 * size + unit) // (2 * unit):,}"
