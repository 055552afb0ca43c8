"""What a configuration says, as a person reads it: understood, assumed, ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrameter.i18n import tr
from vrameter.render.markdown import table

Rows = list[tuple[str, str]]
WIDTH = 104


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_shown(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _value(request: Mapping[str, Any], target: str) -> str:
    found: Any = request
    for name in target.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, Mapping) and "megatron_args" in found:
        return tr("given by its arguments")
    return "" if found is None else _shown(found)


def _understood(answer: Mapping[str, Any]) -> Rows:
    by_field: dict[str, list[str]] = {}
    for key, target in answer["understood"].items():
        by_field.setdefault(target, []).append(key)
    return [
        (f"{target} {_value(answer['request'], target)}".strip(), _listed(keys)) for target, keys in by_field.items()
    ]


def _listed(keys: list[str]) -> str:
    """Return keys in one line, the rest counted."""
    text = ""
    for shown, key in enumerate(keys):
        if shown and len(text) + len(key) > WIDTH - 40:
            return tr("%(keys)s and %(count)s more", keys=text, count=len(keys) - shown)
        text = f"{text}, {key}" if text else key
    return text


def _assumed(answer: Mapping[str, Any]) -> Rows:
    return [(f"{target} {_shown(each['value'])}", str(each["why"])) for target, each in answer["assumed"].items()]


def _ignored(answer: Mapping[str, Any]) -> Rows:
    by_reason: dict[str, list[str]] = {}
    for entry in answer["ignored"]:
        by_reason.setdefault(entry["reason"], []).append(entry["key"])
    return [(_listed(keys), reason) for reason, keys in by_reason.items()]


def _parts(answer: Mapping[str, Any]) -> list[tuple[str, Rows]]:
    parts = [
        (tr("understood"), _understood(answer)), (tr("assumed"), _assumed(answer)), (tr("ignored"), _ignored(answer)),
    ]  # fmt: skip
    return [part for part in parts if part[1]]


def reading_text(answer: Mapping[str, Any]) -> str:
    """Return what was read as lines."""
    lines = [tr("Read as %(format)s.", format=answer["format"])]
    for title, rows in _parts(answer):
        lines.append(f"  {title}")
        lines += [f"    {left}  ({right})" for left, right in rows]
    return "\n".join(lines)


def reading_markdown(answer: Mapping[str, Any]) -> str:
    """Return what was read as tables."""
    blocks = [tr("Read as %(format)s.", format=answer["format"])]
    for title, rows in _parts(answer):
        blocks.append(table([(title, "left"), (tr("from or why"), "left")], rows))
    return "\n\n".join(blocks)


__all__ = ["reading_markdown", "reading_text"]
