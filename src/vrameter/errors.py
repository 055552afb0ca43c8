"""What can go wrong, each with the field, the value and what to type next."""

from __future__ import annotations

from collections.abc import Iterable

from vrameter.i18n import tr


class VrameterError(Exception):
    """A request that cannot be answered.

    Parameters
    ----------
    message
        One sentence that names the field and the value, already in the reader's language.
    field
        Path of the field in the request, such as ``settings.context_length``.
    hint
        What to type next.
    """

    kind = "error"
    exit_code = 2

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint

    def to_dict(self) -> dict[str, str | None]:
        """Return the error as a batch line or problem document carries it."""
        answer: dict[str, str | None] = {"kind": self.kind, "message": self.message, "field": self.field}
        if self.hint:
            answer["hint"] = self.hint
        return {name: text and text.encode(errors="backslashreplace").decode() for name, text in answer.items()}


class RequestError(VrameterError):
    """A field has a wrong type or value, or contradicts another."""

    kind = "invalid-request"


class UnknownNameError(VrameterError):
    """A name is not in the list that it should be in."""

    kind = "unknown-name"

    def __init__(
        self, message: str, name: str, known: Iterable[str], *, field: str | None = None, otherwise: str | None = None
    ) -> None:
        close = closest(name, known)
        hint = tr("Did you mean %(names)s?", names=", ".join(f"'{item}'" for item in close)) if close else otherwise
        super().__init__(message, field=field, hint=hint)


class ConfigError(VrameterError):
    """A config.json does not describe a model that can be read."""

    kind = "invalid-config"


class SourceError(VrameterError):
    """A file or a repository cannot be reached, or what is there cannot be believed.

    `unreachable` is True where nobody answers at all, so that other names would fare no better.
    """

    kind = "unreachable-source"
    exit_code = 3
    unreachable = False


LEAST_PART = 4  # letters that a part of a name has


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` known names that look like `name`, the nearest first; else those that hold it.

    >>> closest("adamww", ["adamw", "lion_8bit"]), closest("8bit", ["adamw", "lion_8bit"])
    (['adamw'], ['lion_8bit'])
    """
    from difflib import get_close_matches

    lowered = {item.lower(): item for item in known}
    found = get_close_matches(name.lower(), list(lowered), n=count, cutoff=0.72)
    if not found and len(name) >= LEAST_PART:
        found = [item for item in lowered if name.lower() in item][:count]
    return [lowered[item] for item in found]
