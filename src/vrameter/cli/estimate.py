"""``vrameter estimate MODEL``: what one use of a model needs, and whether it fits."""

from __future__ import annotations

from typing import Any

import click

from vrameter.cli.options import output_options, question_options, request_of
from vrameter.i18n import tr


def command() -> click.Command:
    """Return the command."""
    return click.Command(
        "estimate",
        callback=run,
        params=[click.Argument(["model"], required=False), *question_options(), *output_options()],
        help=tr("Say what one use of a model needs, and whether it fits."),
    )


def run(model: str | None, format_: str, check: bool, **given: Any) -> int:
    """Answer one question."""
    from vrameter.cli.write import write_response
    from vrameter.response import estimate

    return write_response(estimate(request_of(model, given)), format_, check=check)
