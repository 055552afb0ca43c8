"""``vrameter MODEL``: the overview of a model, or with a device or settings, one estimate."""

from __future__ import annotations

from typing import Any

import click

from vrameter.cli.options import output_options, question_options, request_of
from vrameter.i18n import tr


class Ask(click.Command):
    """The command of a first word that is no command: it has no name of its own."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage("vrameter", " ".join(self.collect_usage_pieces(ctx)))


def command() -> click.Command:
    """Return the command."""
    return Ask(
        "vrameter",
        callback=run,
        params=[click.Argument(["model"], required=False), *question_options(), *output_options()],
        help=tr("Show a model's memory in every precision, or with a device or settings, what one use of it needs."),
    )


def run(model: str | None, format_: str, check: bool, **given: Any) -> int:
    """Answer with an overview where only a model is named, else with an estimate."""
    request = request_of(model, given)
    if set(request) <= {"model", "online"} and not check:
        from vrameter.overview import overview
        from vrameter.units import is_count

        if not is_count(request["model"]):
            from vrameter.cli.write import write_overview

            return write_overview(overview(**request), format_)
    from vrameter.cli.write import write_response
    from vrameter.response import estimate

    return write_response(estimate(request), format_, check=check)
