"""``vrameter models [PATTERN]``: the names of the catalogue."""

from __future__ import annotations

import click

from vrameter.cli.options import output_options
from vrameter.i18n import tr

SHOWN_AT_MOST = 60


def command() -> click.Command:
    """Return the command."""
    return click.Command(
        "models",
        callback=run,
        params=[
            click.Argument(["pattern"], required=False),
            click.Option(["--types"], is_flag=True, help=tr("list the kinds of network (model_type) that are read")),
            click.Option(["--all", "all_"], is_flag=True, help=tr("show every match, however many there are")),
            *output_options(check=False),
        ],
        help=tr("List the models of the catalogue, or those whose name holds PATTERN (* and ? are understood)."),
    )


def run(pattern: str | None, format_: str, types: bool, all_: bool) -> int:
    """List models, or kinds of network."""
    from vrameter.cli.write import write_table
    from vrameter.errors import UnknownNameError

    if types:
        from vrameter.model.families.index import MODULES

        kinds = sorted(name for name in MODULES if (pattern or "").lower() in name.lower())
        if not kinds:
            raise UnknownNameError(
                tr("PATTERN: no kind of network holds '%(value)s'.", value=pattern or ""),
                pattern or "",
                MODULES,
                field="PATTERN",
                otherwise=tr("List the kinds with: vrameter models --types"),
            )
        return write_table([(tr("kind of network"), "left")], [(name,) for name in kinds], format_, plain=kinds)
    return _list(pattern or "", format_, all_=all_)


def _list(pattern: str, format_: str, *, all_: bool) -> int:
    from vrameter.cli.write import warn, write_table
    from vrameter.errors import UnknownNameError
    from vrameter.render import words
    from vrameter.sources import catalogue
    from vrameter.units import format_count

    found = [entry for entry in catalogue.entries() if catalogue.matches(entry.id, pattern)]
    if not found:
        raise UnknownNameError(
            tr("PATTERN: no model's name holds '%(value)s'.", value=pattern),
            pattern,
            catalogue.names(),
            field="PATTERN",
            otherwise=tr("List the names with: vrameter models"),
        )
    shown = found if all_ or pattern or format_ != "human" else sorted(
        found, key=lambda entry: -(entry.num_downloads or 0)
    )[:SHOWN_AT_MOST]  # fmt: skip
    rows = [
        (
            entry.id,
            format_count(entry.computed_params or entry.published_params or 0),
            f"{entry.context_length:,}" if entry.context_length else "-",
            entry.license or "-",
            words.trust_label(entry.trust),
        )
        for entry in shown
    ]
    columns = [
        (tr("model"), "left"), (tr("parameters"), "right"), (tr("longest context"), "right"), (tr("licence"), "left"),
        (tr("its shape comes from"), "left"),
    ]  # fmt: skip
    plain = [
        {
            "name": entry.id,
            "num_params": entry.computed_params or entry.published_params,
            "max_seq_len": entry.context_length,
            "license": entry.license or None,
            "release_date": entry.release_date or None,
            "trust": entry.trust,
        }
        for entry in shown
    ]
    status = write_table(columns, rows, format_, plain=plain)
    if len(shown) < len(found):
        warn(
            [
                tr(
                    "The %(shown)s most downloaded of %(count)s. All of them: vrameter models --all",
                    shown=len(shown),
                    count=len(found),
                )
            ]
        )
    return status
