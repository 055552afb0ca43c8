"""``vrameter explain MODEL --term TERM``: the formula, the same with numbers put in, the source."""

from __future__ import annotations

from typing import Any

import click

from vrameter.cli.options import output_options, question_options, request_of
from vrameter.errors import UnknownNameError
from vrameter.i18n import tr


def command() -> click.Command:
    """Return the command."""
    return click.Command(
        "explain",
        callback=run,
        params=[
            click.Argument(["model"], required=False),
            click.Option(["--term", "-t"], metavar="TERM", help=tr("one term, such as kv_cache (default: all)")),
            *question_options(),
            *output_options(check=False),
        ],
        help=tr("Show where a number comes from: its formula, the same with numbers put in, its source."),
    )


def run(model: str | None, format_: str, term: str | None, **given: Any) -> int:
    """Explain the terms of one estimate."""
    from vrameter.cli.write import write_explanation
    from vrameter.response import estimate

    request = request_of(model, given)
    request.get("settings", {}).pop("advise", None)  # what else could be done explains nothing
    response = estimate(request)
    entries = response["devices"]
    items = entries[0]["items"]
    names = list(dict.fromkeys(item["term"] for entry in entries for item in entry["items"]))
    if term is not None:
        chosen = term.strip().lower().replace("-", "_")
        if chosen not in names:
            raise UnknownNameError(
                tr("--term: this estimate has no term '%(value)s'.", value=term),
                chosen,
                names,
                field="--term",
                otherwise=tr("Use one of: %(names)s.", names=", ".join(names)),
            )
        holder = next(entry for entry in entries if any(item["term"] == chosen for item in entry["items"]))
        items = [item for item in holder["items"] if item["term"] == chosen]
        if holder is not entries[0]:
            items = [{"note": holder["name"], **item} for item in items]
    return write_explanation(response, items, format_)
