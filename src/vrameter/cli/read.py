"""``vrameter read FILE|COMMAND``: an answer for what people already have."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from vrameter.cli.options import output_options, question_options, request_of
from vrameter.i18n import tr


def command() -> click.Command:
    """Return the command."""
    return click.Command(
        "read",
        callback=run,
        params=[
            click.Argument(["source"], nargs=-1, required=True, metavar="FILE|COMMAND"),
            click.Option(
                ["--model", "-m"], metavar="NAME", help=tr("the model, where the source names none or another")
            ),
            click.Option(["--as", "as_"], metavar="FORMAT", help=tr("the format, where its content does not tell")),
            *question_options(),
            *output_options(),
        ],
        help=tr(
            "Answer for a configuration file of a training stack or a serving command (in quotes or after --; - reads standard input), "
            "and say what was understood, assumed and ignored."
        ),
    )


def run(source: tuple[str, ...], model: str | None, as_: str | None, format_: str, check: bool, **given: Any) -> int:
    """Read, answer, and tell both."""
    from vrameter.cli.write import write_reading
    from vrameter.reading import read

    asked = request_of(model or ("" if given.get("config") else "-"), given)
    if not model and not given.get("config"):
        del asked["model"]
    text = source[0] if len(source) == 1 else shlex.join(source)
    if text == "-":
        from vrameter.reading.documents import MAX_BYTES

        text = sys.stdin.read(MAX_BYTES + 1) + "\n"
    return write_reading(read(text, format=as_, advise=True, **asked), format_, check=check)
