"""Answers to stdout, warnings to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vrameter.i18n import tr

Columns = Sequence[tuple[str, str]]


def write_json(value: object) -> None:
    """Write a value as JSON, indented."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def write_text(text: str) -> None:
    """Write text whatever the terminal's encoding can show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding) + "\n")


def warn(messages: Iterable[str]) -> None:
    """Write warnings to stderr."""
    from vrameter.cli import say

    for message in messages:
        say(tr("note: %(message)s", message=message))


def status_of(response: Mapping[str, Any], *, check: bool) -> int:
    """Return the exit status: 1 where it was checked and does not fit."""
    return 1 if check and response["devices"][0].get("fits") is False else 0


def write_response(response: Mapping[str, Any], format_: str, *, check: bool) -> int:
    """Write one estimate and return the exit status."""
    if check and "fits" not in response["devices"][0]:
        from vrameter.errors import RequestError

        raise RequestError(
            tr("--check: there is no device to check against."),
            field="--check",
            hint=tr("Name one: --device rtx-4090"),
        )
    if format_ == "json":
        write_json(response)
    elif format_ == "quiet":
        write_text(str(response["devices"][0]["peak"]["used_bytes"]))
    elif format_ == "md":
        from vrameter.render.markdown import response_markdown

        write_text(response_markdown(response))
    else:
        from vrameter.render.text import response_text

        write_text(response_text(response))
    if format_ in ("human", "md"):
        warn(response["warnings"])
    return status_of(response, check=check)


def write_table(columns: Columns, rows: Sequence[Sequence[str]], format_: str, *, plain: object, quiet: int = 0) -> int:
    """Write a list as a table, as JSON (`plain`), as Markdown, or as one column (`quiet`)."""
    if format_ == "json":
        write_json(plain)
    elif format_ == "quiet":
        write_text("\n".join(row[quiet] for row in rows))
    elif format_ == "md":
        from vrameter.render.markdown import table

        write_text(table(columns, rows))
    else:
        from vrameter.render.text import table as text_table

        write_text(text_table(columns, rows))
    return 0


def write_overview(answer: Mapping[str, Any], format_: str) -> int:
    """Write the overview of a model."""
    if format_ == "json":
        write_json(answer)
        return 0
    from vrameter.render import overview as render

    if format_ == "quiet":
        write_text(str(answer["model"]["num_params"]))
        return 0
    write_text(render.overview_text(answer) if format_ == "human" else render.overview_markdown(answer))
    warn(answer["warnings"])
    return 0


def write_explanation(response: Mapping[str, Any], items: Sequence[Mapping[str, Any]], format_: str) -> int:
    """Write formula, numbers and source of items."""
    from vrameter.render.explain import explanation_markdown, explanation_text, explanations

    if format_ == "json":
        write_json({"model": response["model"]["name"], "request": response["request"], "items": explanations(items)})
    elif format_ == "quiet":
        write_text("\n".join(str(item["bytes"]) for item in items))
    else:
        write_text((explanation_text if format_ == "human" else explanation_markdown)(response, items))
        if format_ == "human":
            warn(response["warnings"])
    return 0


def write_reading(answer: Mapping[str, Any], format_: str, *, check: bool) -> int:
    """Write what was read from a configuration or a command, and the answer to it."""
    response = answer["response"]
    if format_ == "quiet":
        return write_response(response, format_, check=check)
    if format_ == "json":
        write_json(answer)
        return status_of(response, check=check)
    from vrameter.render.reading import reading_markdown, reading_text

    write_text((reading_text if format_ == "human" else reading_markdown)(answer) + "\n")
    status = write_response(response, format_, check=check)
    warn(answer["notes"])
    return status
