"""Everything a person reads, in English or Korean.

English is the source language. `tr` looks a whole sentence up in a gettext catalogue and then
fills its named placeholders, because word order differs between languages.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gettext import NullTranslations

LANGUAGES = ("en", "ko")
_language: ContextVar[str] = ContextVar("vrameter_language", default="")


def language_of_locale() -> str:
    """Return the language that the environment asks for."""
    for variable in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(variable, "")
        if value:
            return "ko" if value.lower().startswith("ko") else "en"
    return "en"


def set_language(language: str | None) -> None:
    """Choose the language of all that follows; None follows the locale."""
    _language.set(language or language_of_locale())


def language() -> str:
    """Return the language in use."""
    return _language.get() or language_of_locale()


@lru_cache(maxsize=len(LANGUAGES))
def _catalogue(name: str) -> NullTranslations:
    from gettext import translation
    from pathlib import Path

    return translation("vrameter", localedir=str(Path(__file__).parent / "locale"), languages=[name], fallback=True)


def tr(message: str, /, **values: object) -> str:
    """Return `message` in the language in use, its ``%(name)s`` placeholders filled."""
    chosen = language()
    if chosen != "en":
        message = _catalogue(chosen).gettext(message)
    return message % values if values else message
