"""Where a repository's files are: a folder or the Hub, asked in the same words so that the answers are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from vrameter.errors import ConfigError
from vrameter.i18n import tr
from vrameter.sources.byte_source import ByteSource
from vrameter.sources.safetensors import Header

MAX_DOCUMENT_BYTES = 2**26


class Place(Protocol):
    """Files below one root.

    Parameters
    ----------
    name
        What to call the place.
    files
        Every path with its bytes.
    """

    @property
    def name(self) -> str: ...

    @property
    def files(self) -> Mapping[str, int]: ...

    def document(self, path: str) -> Any:
        """Return a JSON document, None where there is no such file."""
        ...

    def headers(self, paths: Sequence[str]) -> tuple[Header, ...]:
        """Return the headers of safetensors files; each tensor bears its file's number among them."""
        ...

    def source(self, path: str) -> AbstractContextManager[ByteSource]:
        """Return a file's bytes, read piece by piece while the block runs."""
        ...


def parse_document(text: bytes, name: str) -> Any:
    """Return the value of a JSON document.

    Raises
    ------
    ConfigError
        For one that is empty, or not JSON.
    """
    if not text.strip():
        raise ConfigError(
            tr("%(file)s: is empty.", file=name), field="model", hint=tr("Give the config.json of one model.")
        )
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            tr("%(file)s: is not JSON (%(reason)s).", file=name, reason=str(error)),
            field="model",
            hint=tr("Give the config.json of one model."),
        ) from None


__all__ = ["MAX_DOCUMENT_BYTES", "Place", "parse_document"]
