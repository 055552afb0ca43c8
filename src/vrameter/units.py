"""Bytes and text.

GiB is 2**30 bytes and GB is 10**9: both are read, GiB is shown. Nothing is rounded before it is shown.
"""

from __future__ import annotations

import re

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12

_UNITS = {
    "": 1, "b": 1, "kb": KB, "mb": MB, "gb": GB, "tb": TB, "k": KIB, "m": MIB, "g": GIB, "t": TIB,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB,
}  # fmt: skip
_COUNTS = {"": 1, "k": KB, "m": MB, "b": GB, "t": TB}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-zA-Z]*)\s*\Z")


def ceil_div(number: int, divisor: int) -> int:
    """Return ``number / divisor`` rounded up.

    >>> ceil_div(10, 4)
    3
    """
    return -(-number // divisor)


def ceil_to(number: int, multiple: int) -> int:
    """Return `number` rounded up to a multiple.

    >>> ceil_to(10, 4)
    12
    """
    return ceil_div(number, multiple) * multiple


def parse_bytes(text: str) -> int | None:
    """Return the bytes in a text such as ``24GiB``, ``80 GB`` or ``81559MiB``, or None.

    >>> parse_bytes("24GiB")
    25769803776
    """
    match = _NUMBER.match(text)
    if not match or match[2].lower() not in _UNITS:
        return None
    return exact_product(match[1], _UNITS[match[2].lower()])


def parse_count(text: str) -> int | None:
    """Return the number in a text such as ``8.8B``, ``560m`` or ``8800000000``, or None.

    >>> parse_count("8.8B")
    8800000000
    """
    match = _NUMBER.match(text)
    if not match or match[2].lower() not in _COUNTS:
        return None
    return exact_product(match[1], _COUNTS[match[2].lower()])


def exact_product(decimal: str, factor: int) -> int:
    """Return ``decimal * factor`` in whole numbers, without a float between.

    >>> exact_product("8.8", 10**9)
    8800000000
    """
    whole, _, fraction = decimal.partition(".")
    divisor: int = 10 ** len(fraction)
    return int((whole or "0") + fraction) * factor // divisor


def format_bytes(size: int, *, digits: int = 2) -> str:
    """Return a size in the binary unit that reads best.

    >>> format_bytes(16_060_522_496)
    '14.96 GiB'
    """
    magnitude = abs(size)
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if magnitude >= unit or (unit == GIB and magnitude >= 100 * MIB):
            return f"{size / unit:,.{digits}f} {name}"
    return f"{size} B"


def format_count(number: int) -> str:
    """Return a count in thousands, millions, billions or trillions.

    >>> format_count(8_030_261_248)
    '8.03 B'
    """
    for unit, name in ((TB, "T"), (GB, "B"), (MB, "M"), (KB, "K")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return str(number)


def is_count(reference: object) -> bool:
    """Say whether a model reference is a bare number of parameters.

    >>> is_count("8.8B"), is_count("llama-3.1-8b")
    (True, False)
    """
    if isinstance(reference, str):
        return parse_count(reference.strip().lstrip("+-")) is not None
    return isinstance(reference, (int, float))
