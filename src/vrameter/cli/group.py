"""The group of commands. A first word that is no command is a model: ``vrameter llama-3.1-8b``."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import click

from vrameter.cli import COMMANDS
from vrameter.i18n import tr

ASK = "ask"


class Group(click.Group):
    """Commands loaded on first use, and one for everything else."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS and cmd_name != ASK:
            return None
        return import_module(f"vrameter.cli.{cmd_name}").command()  # type: ignore[no-any-return]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in COMMANDS:
            return super().resolve_command(ctx, args)
        return ASK, self.get_command(ctx, ASK), args

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Flags before the model belong to the question, not to the group.
        if args and args[0].startswith("-") and args[0] not in ("--help", "--version", "-h"):
            ctx._protected_args, ctx.args = args[:1], args[1:]
            return args[1:]
        return super().parse_args(ctx, args)


def show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the version and leave."""
    if value and not ctx.resilient_parsing:
        from vrameter import __version__

        click.echo(f"vrameter {__version__}")
        ctx.exit()


@lru_cache(maxsize=1)
def _settings() -> dict[str, Any]:
    return {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def group() -> click.Group:
    """Return the command line, its help in the language in use."""
    text = tr(
        "How much GPU memory a model needs, whether it fits, and why.\n\n"
        "vrameter MODEL shows the memory of a model in every precision; vrameter MODEL --device GPU says whether it fits. "
        "MODEL is a catalogue name, a repository on the Hub, a folder or weight file, or a number of parameters such as 8.8B."
    )
    return Group(
        name="vrameter",
        help=text,
        context_settings=_settings(),
        no_args_is_help=True,
        subcommand_metavar=tr("MODEL [OPTIONS] | COMMAND [ARGS]..."),
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=show_version,
                help=tr("Show the version."),
            ),
            click.Option(
                ["--lang"],
                metavar="en|ko",
                expose_value=False,
                help=tr("Language of all that is shown (default: the locale)."),
            ),
        ],
    )
