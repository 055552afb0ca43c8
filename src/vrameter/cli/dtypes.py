"""``vrameter dtypes``: what each number format is, and each quantisation."""

from __future__ import annotations

import click

from vrameter.cli.options import output_options
from vrameter.i18n import tr


def command() -> click.Command:
    """Return the command."""
    return click.Command(
        "dtypes",
        callback=run,
        params=[click.Argument(["name"], required=False), *output_options(check=False)],
        help=tr(
            "Show what each data type is: size, range, precision, purpose, hardware; and the quantisation formats."
        ),
    )


def run(name: str | None, format_: str) -> int:
    """List data types, or tell of one."""
    from vrameter.render.dtypes import dtypes_json, dtypes_markdown, dtypes_text

    if format_ == "json":
        from vrameter.cli.write import write_json

        write_json(dtypes_json(name))
        return 0
    from vrameter.cli.write import write_text

    if format_ == "quiet":
        answer = dtypes_json(name)
        write_text("\n".join(entry["name"] for entry in answer["dtypes"]))
    else:
        write_text(dtypes_markdown(name) if format_ == "md" else dtypes_text(name))
    return 0
