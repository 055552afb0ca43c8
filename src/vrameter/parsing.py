"""Small readings of what people type."""

from __future__ import annotations

from vrameter.units import parse_count


def is_count(text: object) -> bool:
    """Say whether a model reference is a bare number of parameters.

    >>> is_count("8.8B"), is_count("llama-3.1-8b")
    (True, False)
    """
    if isinstance(text, str):
        text = text.strip()
        return parse_count(text) is not None or (text[:1] in "-+" and parse_count(text[1:]) is not None)
    return isinstance(text, (int, float))
