"""A request in the making: each key of a source ends as understood, assumed, ignored with a reason, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from vrameter.errors import RequestError, closest
from vrameter.i18n import tr
from vrameter.reading.values import Unfit, shortened, switch, whole

# Unknown keys for which a near name is looked up: no configuration has more.
MAX_SUGGESTIONS = 64
Opener = Callable[[str], str]
_COMPUTED = re.compile(r"^(\$\(|`|\$\{?\w+\}?$|\$\{[A-Za-z_][\w.]*[:\[])")


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read.

    Parameters
    ----------
    format
        Whose configuration it is.
    request
        The request that it amounts to; without ``model`` where nothing names one.
    understood
        Key of the source -> field of the request that it decided.
    assumed
        Field of the request -> the value that was filled in, and why.
    ignored
        Keys that decide nothing here, each with its value and the reason.
    notes
        What a person should know besides.
    """

    format: str
    request: dict[str, Any]
    understood: dict[str, str]
    assumed: dict[str, dict[str, Any]]
    ignored: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "format": self.format, "request": self.request, "understood": self.understood, "assumed": self.assumed,
            "ignored": list(self.ignored), "notes": list(self.notes),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """What a key means.

    Parameters
    ----------
    field
        Field of the request that it decides; empty where a format reads it together with others.
    convert
        From the key's value to the field's; None as its result leaves the field alone.
    reason
        Why the key decides nothing; the name of one of `REASONS`.
    """

    field: str = ""
    convert: Callable[[Any], Any] | None = None
    reason: str = ""


def to(field: str, convert: Callable[[Any], Any] | None = None) -> Rule:
    """Return the rule of a key that decides one field."""
    return Rule(field, convert)


def ignored(reason: str, names: str) -> dict[str, Rule]:
    """Return the rules of keys, separated by spaces, that decide nothing for one reason."""
    return {name: Rule(reason=reason) for name in names.split()}


def together(names: str) -> dict[str, Rule]:
    """Return the rules of keys, separated by spaces, that a format reads together."""
    return dict.fromkeys(names.split(), Rule())


Table = Mapping[str, Rule]


def reason_text(reason: str) -> str:
    """Return a reason in words."""
    words = {
        "course": tr("steers how training goes, not its memory"),
        "files": tr("names files, logs or accounts"),
        "data": tr("chooses or prepares data"),
        "evaluation": tr("concerns evaluation, which is not counted"),
        "launch": tr("concerns how processes start"),
        "serving": tr("concerns the server, not its memory"),
        "sampling": tr("concerns sampling"),
        "unmodelled": tr("may change memory, and is not modelled"),
        "empty": tr("is empty: the default stands"),
        "off": tr("is off"),
        "unused": tr("has no effect beside the other keys"),
        "default": tr("is 'auto': the other keys decide"),
        "computed": tr("is computed by the script: the default stands"),
    }
    return words[reason]


@dataclass
class Draft:
    """The keys of a source and what has become of them."""

    format: str
    values: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    understood: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, dict[str, Any]] = field(default_factory=dict)
    ignored: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    open: Opener | None = None
    waiting: dict[str, str] = field(default_factory=dict)
    looked: str = ""

    # Keys -----------------------------------------------------------------------------------------------------------

    def take(
        self, tree: Mapping[str, Any], table: Table, *, prefix: str = "", path: str = "", above: Rule | None = None
    ) -> None:
        """Send every key of a tree through a table.

        `prefix` is what a reader sees before the key; `above` the rule of the object that holds it, for keys without one. A key of
        the table that ends in ``*`` stands for all that begin like it.
        """
        stems = sorted((name for name in table if name.endswith("*")), key=len, reverse=True)
        for name, value in tree.items():
            key, shown = f"{path}{name}", f"{prefix}{path}{name}"[:200]
            rule = table.get(key)
            if rule is None:
                rule = next((table[stem] for stem in stems if key.startswith(stem[:-1])), above)
            if isinstance(value, Mapping) and value and any(each.startswith(f"{key}.") for each in table):
                self.take(value, table, prefix=prefix, path=f"{key}.", above=rule if rule and rule.reason else None)
            elif rule is None:
                self._unknown(key, shown, value, table)
            elif rule.reason:
                self.ignore(shown, value, reason_text(rule.reason))
            elif value is None or value == "":
                self.ignore(shown, value, reason_text("empty"))
            elif rule.field:
                self._convert(rule, shown, value)
            else:
                self.values[key] = value
                self.waiting[key] = shown

    def _convert(self, rule: Rule, shown: str, value: Any) -> None:
        if value == "auto":
            self.ignore(shown, value, reason_text("default"))
            return
        try:
            converted = rule.convert(value) if rule.convert else value
        except Unfit as unfit:
            if _is_computed(value):
                self._computed(shown, value)
                return
            raise refused(shown, value, str(unfit)) from None
        if converted is None:
            self.ignore(shown, value, reason_text("off"))
        else:
            self.put(rule.field, converted, shown)

    def _computed(self, shown: str, value: Any) -> None:
        self.ignore(shown, value, reason_text("computed"))
        self.note(tr("%(key)s is computed by the script: give it with --set.", key=shown))

    def _unknown(self, key: str, shown: str, value: Any, table: Table) -> None:
        known = [name for name in table if not name.endswith("*")]
        near = closest(key, known, 1) if len(key) < 64 and len(self.notes) < MAX_SUGGESTIONS else []
        reason = tr("is not a key of %(format)s known here", format=self.format)
        if near:
            reason = tr(
                "is not a key of %(format)s known here: did you mean '%(name)s'?", format=self.format, name=near[0]
            )
        self.ignore(shown, value, reason)
        note = tr("%(key)s: %(reason)s.", key=shown, reason=reason)
        self.note(note.removesuffix(".") if near else note)

    # Values that a format reads together ---------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Say whether the source gives a key that waits."""
        return key in self.values

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key that waits."""
        self.looked = key
        return self.values.get(key, default)

    def on(self, key: str, default: bool = False) -> bool:
        """Return a switch that waits."""
        if key not in self.values or self.values[key] == "auto":
            return default
        try:
            return switch(self.values[key])
        except Unfit as unfit:
            if _is_computed(self.values[key]):
                self._computed(self.waiting.pop(key, key), self.values.pop(key))
                return default
            raise refused(self.waiting.get(key, key), self.values[key], str(unfit)) from None

    def number(self, key: str, default: int | None = None) -> int | None:
        """Return a whole number that waits; None for ``auto``."""
        value = self.values.get(key)
        if value is None or value == "auto":
            return default
        try:
            return whole(value)
        except Unfit as unfit:
            if _is_computed(value):
                self._computed(self.waiting.pop(key, key), self.values.pop(key))
                return default
            raise refused(self.waiting.get(key, key), value, str(unfit)) from None

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn a value that does not fit into an error that names the key which was looked at last."""
        try:
            yield
        except Unfit as unfit:
            key = self.looked or self.format
            raise refused(self.waiting.get(key, key), self.values.get(key), str(unfit)) from None

    def used(self, keys: str | Iterable[str], target: str) -> None:
        """Write down that keys decided a field."""
        for key in keys.split() if isinstance(keys, str) else keys:
            shown = self.waiting.pop(key, None)
            if shown is not None:
                self.understood[shown] = target

    def put(self, target: str, value: Any, key: str = "") -> None:
        """Set a field of the request, for a key of the source."""
        place = self.request
        *path, last = target.split(".")
        for name in path:
            inner = place.get(name)
            place[name] = place = inner if isinstance(inner, dict) else {}
        place[last] = value
        self.assumed.pop(target, None)
        if key:
            self.understood[key] = target

    def settle(self, keys: str | Iterable[str], target: str, value: Any) -> None:
        """Set a field that several waiting keys decide together; None leaves it alone."""
        if value is not None:
            self.put(target, value)
        self.used(keys, target)

    def asked(self, target: str, default: Any = None) -> Any:
        """Return a field of the request."""
        place: Any = self.request
        for name in target.split("."):
            if not isinstance(place, dict) or name not in place:
                return default
            place = place[name]
        return place

    def assume(self, target: str, value: Any, why: str) -> None:
        """Fill a field that nothing decided."""
        if self.asked(target) is None:
            self.put(target, value)
            self.assumed[target] = {"value": value, "why": why}

    def ignore(self, key: str, value: Any, reason: str) -> None:
        """Write down why a key decides nothing."""
        self.ignored.append({"key": key, "value": shortened(value), "reason": reason})

    def note(self, text: str) -> None:
        """Tell a person something, once."""
        if text not in self.notes:
            self.notes.append(text)

    def part(self, format: str) -> Draft:
        """Return a draft of the same request for keys of another format."""
        return replace(self, format=format, values={}, waiting={})

    def close(self) -> None:
        """Write down that keys which still wait had no effect."""
        for key, shown in self.waiting.items():
            value = self.values.get(key)
            self.ignore(shown, value, reason_text("default" if value == "auto" else "unused"))
        self.waiting.clear()

    def done(self) -> Reading:
        """Return the reading."""
        self.close()
        return Reading(self.format, self.request, self.understood, self.assumed, tuple(self.ignored), tuple(self.notes))


def _is_computed(value: Any) -> bool:
    """Say whether a value is what a script makes only when it runs: an unset variable, the output of a program."""
    words = value if isinstance(value, list) else [value]
    return bool(words) and isinstance(words[0], str) and _COMPUTED.match(words[0]) is not None


def refused(key: str, value: object, expected: str) -> RequestError:
    """Return the error of a value that a key cannot have."""
    return RequestError(
        tr("%(key)s: %(value)s is not %(expected)s.", key=key, value=repr(shortened(value)), expected=expected),
        field=key,
        hint=tr("Give %(expected)s.", expected=expected),
    )


def contradiction(key: str, message: str, hint: str) -> RequestError:
    """Return the error of keys that cannot stand together."""
    return RequestError(message, field=key, hint=hint)


__all__ = [
    "Draft", "Opener", "Reading", "Rule", "Table", "contradiction", "ignored", "reason_text", "refused", "to", "together",
]  # fmt: skip
