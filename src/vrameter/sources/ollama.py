"""Models in a local Ollama store: ``ollama:name[:tag]``.

Ollama keeps a manifest for every name, which lists layers by kind and digest; the weights are GGUF files among them [1]_.
Only the store on disk is read; nothing is pulled and no server is asked.

References
----------
.. [1] Ollama, ``docs/import.mdx`` and ``server/manifest.go``: manifests by registry, namespace, model and tag.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vrameter.errors import RequestError, SourceError, UnknownNameError
from vrameter.i18n import tr
from vrameter.model.tensor_table import TensorTable
from vrameter.sources.byte_source import LocalFile
from vrameter.sources.gguf import read_gguf
from vrameter.sources.gguf_model import model_of, with_adapter, with_projector

if TYPE_CHECKING:
    from vrameter.sources import Model

PREFIX = "ollama:"
DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
SYSTEM_STORE = Path("/usr/share/ollama/.ollama/models")
MAX_DOCUMENT_BYTES = 4 * 2**20
MAX_LISTED = 4096
MAX_LAYERS = 256

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})\Z")
_KIND = "application/vnd.ollama.image."
# Parameters of a model that change how much memory it takes.
_MEMORY_PARAMETERS = ("num_ctx", "num_batch", "num_gpu", "num_keep", "use_mmap", "num_parallel")


class _Layer(msgspec.Struct):
    mediaType: str
    digest: str
    size: int = 0


class _Manifest(msgspec.Struct):
    layers: list[_Layer]


def is_reference(text: str) -> bool:
    """Say whether a reference names a model in an Ollama store."""
    return text.lower().startswith(PREFIX)


def read(text: str) -> Model:
    """Return the model that ``ollama:name[:tag]`` names, with its projector and adapters.

    Raises
    ------
    UnknownNameError
        With the nearest names in the store.
    SourceError
        Where there is no store, or a file of the model is missing or cannot be believed.
    """
    name = text[len(PREFIX) :].strip()
    parts = parts_of(name)
    root = store()
    manifest = _manifest(root, parts, name)
    shown = ":".join((parts[2] if parts[:2] == (DEFAULT_HOST, DEFAULT_NAMESPACE) else "/".join(parts[:3]), parts[3]))
    found = model_of(_table(root, manifest, "model", name), name=shown, source="ollama", notes=_notes(root, manifest))
    if any(_kind(layer) == "projector" for layer in manifest.layers):
        found = with_projector(found, _table(root, manifest, "projector", name))
    if any(_kind(layer) == "adapter" for layer in manifest.layers):
        found = with_adapter(found, _table(root, manifest, "adapter", name))
    return found


def parts_of(name: str) -> tuple[str, str, str, str]:
    """Return registry, namespace, model and tag of a name.

    >>> parts_of("llama3.1:8b"), parts_of("hf.co/bartowski/Qwen2.5-7B-Instruct-GGUF:Q4_K_M")[3]
    (('registry.ollama.ai', 'library', 'llama3.1', '8b'), 'Q4_K_M')

    Raises
    ------
    RequestError
        For a name that is none.
    """
    body, _, tag = name.rpartition(":")
    if not body or "/" in tag:
        body, tag = name, ""
    pieces = body.split("/")
    whole = [*[DEFAULT_HOST, DEFAULT_NAMESPACE][: 3 - len(pieces)], *pieces, tag or DEFAULT_TAG]
    host = whole[0].replace(":", "", 1)
    if len(whole) != 4 or not all(_PART.match(piece) and ".." not in piece for piece in (host, *whole[1:])):
        raise RequestError(
            tr("model: '%(value)s' is not a name in an Ollama store.", value=PREFIX + name),
            field="model",
            hint=tr("Give ollama:name, ollama:name:tag or ollama:namespace/name:tag, as 'ollama list' shows it."),
        )
    return whole[0], whole[1], whole[2], whole[3]


def store() -> Path:
    """Return the folder of the local store: OLLAMA_MODELS, else the user's, else that of the system's service.

    Raises
    ------
    SourceError
        Where there is none.
    """
    stated = os.environ.get("OLLAMA_MODELS")
    places = [Path(stated).expanduser()] if stated else [Path.home() / ".ollama" / "models", SYSTEM_STORE]
    for place in places:
        if (place / "manifests").is_dir():
            return place
    raise SourceError(
        tr("model: there is no Ollama store at %(places)s.", places=", ".join(str(place) for place in places)),
        field="model",
        hint=tr("Set OLLAMA_MODELS to the folder that holds 'manifests' and 'blobs', or give a .gguf file."),
    )


def _manifest(root: Path, parts: tuple[str, str, str, str], name: str) -> _Manifest:
    file = root.joinpath("manifests", *parts)
    if not file.is_file():
        known = list(_known(root))
        raise UnknownNameError(
            tr("model: '%(value)s' is not in the Ollama store %(place)s.", value=PREFIX + name, place=str(root)),
            name,
            known,
            field="model",
            otherwise=tr("It holds: %(names)s.", names=", ".join(sorted(known)[:8]))
            if known
            else tr("It is empty. Pull a model first: ollama pull %(name)s", name=name),
        )
    try:
        manifest = msgspec.json.decode(_document(file), type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(name, tr("its manifest cannot be read (%(reason)s)", reason=str(error)), name) from None
    if not any(_kind(layer) == "model" for layer in manifest.layers) or len(manifest.layers) > MAX_LAYERS:
        raise _damaged(name, tr("its manifest lists no GGUF file"), name)
    return manifest


def _damaged(name: str, reason: str, pulled: str) -> SourceError:
    return SourceError(
        tr("model: '%(value)s': %(reason)s.", value=PREFIX + name, reason=reason),
        field="model",
        hint=tr("Pull it again: ollama pull %(name)s", name=pulled),
    )


def _document(file: Path) -> bytes:
    with LocalFile(file) as source:
        return source.read(0, MAX_DOCUMENT_BYTES)


def _known(root: Path) -> Iterator[str]:
    """Yield the names in a store as they are asked for."""
    for number, file in enumerate((root / "manifests").glob("*/*/*/*")):
        if number >= MAX_LISTED:
            return
        host, namespace, model, tag = file.parts[-4:]
        short = host == DEFAULT_HOST
        yield f"{'' if short and namespace == DEFAULT_NAMESPACE else f'{namespace}/' if short else f'{host}/{namespace}/'}{model}:{tag}"


def _kind(layer: _Layer) -> str:
    return layer.mediaType.removeprefix(_KIND)


def _table(root: Path, manifest: _Manifest, kind: str, name: str) -> TensorTable:
    """Return the tensors of all layers of a kind."""
    with ExitStack() as opened:
        files = [
            opened.enter_context(LocalFile(_blob(root, layer, name), name=f"{PREFIX}{name} ({kind})"))
            for layer in manifest.layers
            if _kind(layer) == kind
        ]
        return read_gguf(*files)


def _blob(root: Path, layer: _Layer, name: str) -> Path:
    match = _DIGEST.match(layer.digest)
    if match is None:
        raise _damaged(name, tr("its manifest names no digest but %(value)s", value=repr(layer.digest)[:40]), name)
    return root / "blobs" / f"sha256-{match[1]}"


def _notes(root: Path, manifest: _Manifest) -> list[str]:
    """Return a sentence about the parameters that the model sets for itself."""
    values: dict[str, Any] = {}
    for layer in manifest.layers:
        if _kind(layer) == "params" and _DIGEST.match(layer.digest):
            try:
                values |= msgspec.json.decode(_document(_blob(root, layer, "")), type=dict[str, Any])
            except (SourceError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
    stated = [f"{key} = {values[key]}" for key in _MEMORY_PARAMETERS if isinstance(values.get(key), (int, bool))]
    return [tr("The Ollama model sets %(values)s.", values=", ".join(stated))] if stated else []


__all__ = ["PREFIX", "is_reference", "parts_of", "read", "store"]
