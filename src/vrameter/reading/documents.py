"""Text -> plain data: JSON, YAML and TOML, within bounds. Nothing in a document is ever executed.

YAML goes through the safe constructors alone; aliases are counted as if they were written out before anything is built,
so that a few lines cannot stand for billions of nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vrameter.errors import RequestError
from vrameter.i18n import tr

MAX_BYTES = 2**18
MAX_NODES = 50_000
MAX_DEPTH = 32
Tree = dict[str, Any]

_TOML_HEAD = re.compile(r"^\s*\[\[?[A-Za-z0-9_.\"' -]+\]\]?\s*(#.*)?$")


def parse(text: str, *, name: str = "FILE") -> Tree | None:
    """Return a document as an object with text keys, None where it is no object of any of the three languages.

    Raises
    ------
    RequestError
        For a document out of bounds, or one whose language is plain but whose syntax is broken.
    """
    check_size(text, name)
    lowered = name.lower()
    if lowered.endswith(".toml") or (not lowered.endswith((".yaml", ".yml", ".json")) and _looks_toml(text)):
        return _object(_toml(text, name), name)
    if text.lstrip()[:1] == "{" or lowered.endswith(".json"):
        return _object(_json(text, name), name)
    return _object(_yaml(text, name), name)


def check_size(text: str, name: str) -> None:
    """Refuse a text that is larger than any configuration."""
    if len(text) > MAX_BYTES:
        raise RequestError(
            tr("%(name)s: longer than the %(limit)s characters of a configuration.", name=name, limit=MAX_BYTES),
            field=name,
            hint=tr("Give the configuration file itself, not data or a log."),
        )


def _looks_toml(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) and _TOML_HEAD.match(lines[0]) is not None and lines[0].lstrip()[:1] == "["


def _broken(name: str, language: str, reason: object) -> RequestError:
    first = " ".join(str(reason).split())[:200]
    return RequestError(
        tr("%(name)s: is not %(language)s (%(reason)s).", name=name, language=language, reason=first),
        field=name,
        hint=tr("Give a configuration file or a command; force its format with --as."),
    )


def _json(text: str, name: str) -> Any:
    import msgspec

    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        # JSON with comments or trailing commas is YAML's flow style.
        try:
            return _yaml(text, name)
        except RequestError:
            raise _broken(name, "JSON", error) from None


def _toml(text: str, name: str) -> Any:
    try:
        from tomllib import TOMLDecodeError, loads
    except ModuleNotFoundError:  # Python 3.10
        from tomli import TOMLDecodeError, loads  # type: ignore[import-not-found,no-redef,unused-ignore]
    try:
        return loads(text)
    except (TOMLDecodeError, RecursionError, ValueError) as error:
        raise _broken(name, "TOML", error) from None


def _yaml(text: str, name: str) -> Any:
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _weight(node, {}, 0) > MAX_NODES:
            raise RequestError(
                tr(
                    "%(name)s: more than %(limit)s values once its aliases are written out.", name=name, limit=MAX_NODES
                ),
                field=name,
                hint=tr("Give the configuration file itself, not data or a log."),
            )
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, OverflowError) as error:
        raise _broken(name, "YAML", getattr(error, "problem", None) or error) from None
    finally:
        loader.dispose()


def _weight(node: Any, known: dict[int, int], depth: int) -> int:
    """Return the nodes below a node with every alias written out."""
    if depth > MAX_DEPTH:
        raise RecursionError(tr("nested deeper than %(limit)s levels", limit=MAX_DEPTH))
    if id(node) in known:
        return known[id(node)]
    # An alias of a node that is still open would be a cycle.
    known[id(node)] = MAX_NODES + 1
    children: list[Any] = []
    if isinstance(node.value, list):
        for child in node.value:
            children += child if isinstance(child, tuple) else (child,)
    total = 1
    for child in children:
        total += _weight(child, known, depth + 1)
    known[id(node)] = total
    return total


def _object(value: Any, name: str) -> Tree | None:
    if not isinstance(value, Mapping):
        return None
    return {str(key): _plain(each, 1, name) for key, each in value.items()}


def _plain(value: Any, depth: int, name: str) -> Any:
    """Return a value of JSON's kinds; dates and the like become text."""
    if depth > MAX_DEPTH:
        raise _broken(name, "a configuration", tr("nested deeper than %(limit)s levels", limit=MAX_DEPTH))
    if isinstance(value, Mapping):
        return {str(key): _plain(each, depth + 1, name) for key, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(each, depth + 1, name) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


__all__ = ["MAX_BYTES", "Tree", "check_size", "parse"]
