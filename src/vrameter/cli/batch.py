"""``vrameter batch FILE``: JSON Lines in, JSON Lines out."""

from __future__ import annotations

import sys

import click

from vrameter.i18n import tr


def command() -> click.Command:
    """Return the command."""
    return click.Command(
        "batch",
        callback=run,
        params=[
            click.Argument(["file"]),
            click.Option(
                ["--lang"],
                metavar="en|ko",
                expose_value=False,
                help=tr("Language of all that is shown (default: the locale)."),
            ),
        ],
        help=tr("Answer one request per line of FILE (- reads standard input), one response per line, in order."),
    )


def run(file: str) -> int:
    """Answer every line; 1 where one could not be answered."""
    from vrameter.errors import SourceError
    from vrameter.jsonlines import batch

    out = sys.stdout.buffer
    status = 0
    try:
        lines = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: PTH123, SIM115
    except OSError as error:
        raise SourceError(
            tr("FILE: '%(value)s' cannot be read (%(reason)s).", value=file, reason=error.strerror or ""),
            field="FILE",
            hint=tr("Give a file of JSON Lines, or - for standard input."),
        ) from None
    with lines:
        for answer, answered in batch(lines):
            out.write(answer + b"\n")
            if not answered:
                status = 1
        out.flush()
    return status
