"""Values as configurations write them -> values of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vrameter.i18n import tr


class Unfit(Exception):
    """A value that a key cannot have; carries what it could be."""


def shortened(value: Any) -> Any:
    """Return a value for showing, long ones cut."""
    if isinstance(value, str) and len(value) > 80:
        return value[:77] + "..."
    if isinstance(value, (list, dict)) and len(repr(value)) > 120:
        return repr(value)[:117] + "..."
    if isinstance(value, float) and value != value:
        return "nan"
    return value


def whole(value: Any) -> int:
    """Return a whole number, also from text such as ``4096``, ``4_096`` or ``1e3``.

    >>> whole("1e3")
    1000
    """
    if isinstance(value, bool):
        raise Unfit(tr("a whole number"))
    try:
        number = float(value.replace(",", "").replace("_", "")) if isinstance(value, str) else float(value)
        if number == int(number) and abs(number) < 2**62:
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise Unfit(tr("a whole number"))


def positive(value: Any) -> int | None:
    """Return a whole number above zero; zero and below mean that it is not set."""
    number = whole(value)
    return number if number > 0 else None


def real(value: Any) -> float:
    """Return a number."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
        if number - number == 0:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise Unfit(tr("a number"))


def switch(value: Any) -> bool:
    """Return a switch, also from text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    found = words.get(str(value).strip().lower())
    if found is None:
        raise Unfit(tr("true or false"))
    return found


def name(value: Any) -> str:
    """Return a word."""
    if isinstance(value, (bool, list, dict)) or value is None:
        raise Unfit(tr("a name"))
    return str(value).strip()


def names(value: Any) -> list[str]:
    """Return a list of words, also from text separated by commas or spaces.

    >>> names("q_proj,v_proj")
    ['q_proj', 'v_proj']
    """
    if isinstance(value, str):
        return [part for part in value.strip("[]").replace(",", " ").replace("'", "").replace('"', "").split() if part]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return [part for each in value for part in names(each)]
    raise Unfit(tr("a list of names"))


def dtype(value: Any) -> str | None:
    """Return a data type of weights under our names; ``auto`` is the checkpoint's own."""
    text = name(value).lower().removeprefix("torch.")
    known = {
        "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "half": "fp16", "fp16": "fp16", "float32": "fp32",
        "float": "fp32", "fp32": "fp32", "auto": None, "none": None,
    }  # fmt: skip
    if text not in known:
        raise Unfit(tr("one of %(names)s", names=", ".join(known)))
    return known[text]


def choice(**known: Any) -> Callable[[Any], Any]:
    """Return a converter that knows a few words."""

    def convert(value: Any) -> Any:
        text = str(value).strip().lower().replace("-", "_")
        if text not in known:
            raise Unfit(tr("one of %(names)s", names=", ".join(known)))
        return known[text]

    return convert


__all__ = ["Unfit", "choice", "dtype", "name", "names", "positive", "real", "shortened", "switch", "whole"]
