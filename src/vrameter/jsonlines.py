"""Many questions: JSON Lines in, JSON Lines out, one answer per line and in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from vrameter.errors import RequestError, VrameterError
from vrameter.i18n import tr
from vrameter.response import estimate

MAX_LINE_BYTES = 16 * 2**20


def batch(lines: Iterable[bytes | str]) -> Iterator[tuple[bytes, bool]]:
    """Answer each line; yield the answer as JSON and whether the line could be answered.

    A line that cannot be answered becomes an ``error`` object and the run goes on. Empty lines are skipped.
    """
    decode = msgspec.json.Decoder().decode
    encode = msgspec.json.Encoder().encode
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE_BYTES:
                raise RequestError(
                    tr("line %(number)s: longer than %(limit)s bytes.", number=number, limit=MAX_LINE_BYTES),
                    field=f"line {number}",
                    hint=tr("Give one request per line."),
                )
            try:
                request = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if _half_character(line):
                    raise RequestError(
                        tr("line %(number)s: holds half a character (a lone \\ud800 to \\udfff).", number=number),
                        field=f"line {number}",
                        hint=tr("Write the character itself, or both halves of it."),
                    ) from None
                raise RequestError(
                    tr("line %(number)s: is not JSON (%(reason)s).", number=number, reason=str(error)),
                    field=f"line {number}",
                    hint=tr("Give one JSON object per line."),
                ) from None
            yield encode(estimate(request)), True
        except VrameterError as error:
            yield encode({"error": error.to_dict()}), False


def _half_character(line: bytes | str) -> bool:
    """Say whether a line is JSON but for a lone half of a surrogate pair, which is no character."""
    import json

    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
