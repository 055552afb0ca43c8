"""The command line: ``vrameter MODEL`` answers; each further command is a module.

Only the module of the command that runs is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vrameter.errors import VrameterError
from vrameter.i18n import LANGUAGES, set_language, tr

COMMANDS = ("estimate", "explain", "inspect", "read", "batch", "models", "devices", "dtypes")


_arguments: list[str] = []


def asked(flag: str) -> str | None:
    """Return the value that the command line gives a flag, before it is parsed: the engine decides which flags there are."""
    for index, argument in enumerate(_arguments):
        if argument == flag and index + 1 < len(_arguments):
            return _arguments[index + 1]
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
    return None


def words() -> tuple[str, ...]:
    """Return the words of the command line."""
    return tuple(_arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 answered, 1 does not fit (with --check), 2 unusable, 3 unreachable."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _arguments[:] = given
    try:
        given = take_language(given)
    except VrameterError as error:
        return complain(error)
    _arguments[:] = given
    import click

    from vrameter.cli.group import group

    try:
        status = group()(args=given, prog_name="vrameter", standalone_mode=False)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        from vrameter.cli.usage import explained

        return complain(explained(error))
    except VrameterError as error:
        return complain(error)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return status if isinstance(status, int) else 0


def take_language(given: list[str]) -> list[str]:
    """Set the language that ``--lang`` asks for, and return the arguments without it: help is written in it too."""
    rest: list[str] = []
    chosen: str | None = None
    items = iter(given)
    for argument in items:
        if argument == "--lang":
            chosen = next(items, "")
        elif argument.startswith("--lang="):
            chosen = argument.partition("=")[2]
        else:
            rest.append(argument)
    if chosen is not None and chosen not in LANGUAGES:
        from vrameter.errors import RequestError

        set_language(None)
        raise RequestError(
            tr("--lang: '%(value)s' is not one of %(names)s.", value=chosen, names=", ".join(LANGUAGES)),
            field="--lang",
            hint=tr("Give %(expected)s.", expected="--lang ko"),
        )
    set_language(chosen)
    return rest


def complain(error: VrameterError) -> int:
    """Write an error and its next step to stderr, where JSON was asked for as an object to stdout too; return the exit status."""
    say(tr("error: %(message)s", message=error.message))
    if error.hint:
        say(tr("hint: %(hint)s", hint=error.hint))
    if asked("--format") == "json" or asked("-f") == "json":
        from vrameter.cli.write import write_json

        write_json({"error": error.to_dict()})
    return error.exit_code


def say(text: str) -> None:
    """Write a line to stderr, whatever its encoding can show."""
    encoding = sys.stderr.encoding or "utf-8"
    print(text.encode(encoding, errors="backslashreplace").decode(encoding), file=sys.stderr)
