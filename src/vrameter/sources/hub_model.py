"""A repository on the Hub as a model; what its files say when it was downloaded is the same (`vrameter.sources.checkpoint`)."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vrameter.errors import SourceError
from vrameter.i18n import language, tr
from vrameter.sources.checkpoint import read_checkpoint
from vrameter.sources.hub import HubPlace, endpoint, is_offline
from vrameter.sources.hub_cache import home

if TYPE_CHECKING:
    from vrameter.sources import Model

# Answers of this process, so that one command asks once. [seconds]
REMEMBERED, REMEMBERED_SECONDS = 16, 120.0
# After the Hub could not be reached, other names are not tried for a while: a list of requests must not wait for each.
PAUSE_SECONDS = 30.0

# Stands for any quantisation, where it chooses no file.
ANY = "*"
_MODELS: dict[tuple[str, ...], tuple[float, Model]] = {}
_silent_since: dict[str, tuple[float, SourceError]] = {}


def read(repository: str, revision: str | None, *, quantization: str | None = None, online: bool = False) -> Model:
    """Return the model of a repository.

    Parameters
    ----------
    online
        Whether to ask where the branch points now, however fresh the answer that is kept.

    Raises
    ------
    UnknownNameError, RequestError
        Where there is no such repository, revision or quantisation.
    SourceError
        Where it may not be read, or the Hub cannot be reached and nothing is kept.
    """
    asked = (endpoint(), repository, revision or "", str(online), language(), str(is_offline()), str(home()))
    for choice in (ANY, quantization or ""):
        kept = _MODELS.get((*asked, choice))
        if kept is not None and time.monotonic() - kept[0] < REMEMBERED_SECONDS:
            return kept[1]
    model, has_choice = _read(repository, revision, quantization, online)
    while len(_MODELS) >= REMEMBERED:
        del _MODELS[next(iter(_MODELS))]
    _MODELS[(*asked, (quantization or "") if has_choice else ANY)] = (time.monotonic(), model)
    return model


def _read(repository: str, revision: str | None, quantization: str | None, online: bool) -> tuple[Model, bool]:
    """Return the model, and whether the quantisation chooses among its files."""
    silent = _silent_since.get(endpoint())
    if silent is not None and time.monotonic() - silent[0] < PAUSE_SECONDS and not online:
        downloaded = _downloaded(repository, revision, quantization)
        if downloaded is not None:
            return downloaded, True
        raise silent[1]
    try:
        place = HubPlace(repository, revision, ask=online)
        place.fetch_documents()
        model = read_checkpoint(place, source="hub", quantization=quantization)
    except SourceError as error:
        downloaded = _downloaded(repository, revision, quantization)
        if downloaded is not None:
            return downloaded, True
        if error.unreachable:
            _silent_since[endpoint()] = (time.monotonic(), error)
        raise
    _silent_since.pop(endpoint(), None)
    noted = replace(model, notes=(*place.notes, *model.notes), revision=place.commit or place.revision)
    return noted, any(path.endswith(".gguf") for path in place.files)


def _downloaded(repository: str, revision: str | None, quantization: str | None) -> Model | None:
    """Return the model as huggingface_hub's own cache holds it, where someone downloaded it."""
    cache = Path(os.environ.get("HF_HUB_CACHE") or home() / "hub").expanduser()
    folder = cache / f"models--{repository.replace('/', '--')}"
    name = revision or "main"
    try:
        reference = folder / "refs" / name
        commit = reference.read_text(encoding="ascii").strip() if reference.is_file() else name
        snapshot = folder / "snapshots" / commit
        if "/" in commit or ".." in name or not snapshot.is_dir():
            return None
        from vrameter.sources.folder import LocalPlace

        model = read_checkpoint(LocalPlace(snapshot), source="hub", name=repository, quantization=quantization)
    except (OSError, UnicodeDecodeError, SourceError):
        return None
    note = tr("The Hub was not asked: '%(name)s' is read as it was downloaded to this machine.", name=repository)
    return replace(model, notes=(note, *model.notes), revision=commit)


def forget() -> None:
    """Forget what this process was told, so that the next question is asked again."""
    _MODELS.clear()
    _silent_since.clear()


__all__ = ["forget", "read"]
