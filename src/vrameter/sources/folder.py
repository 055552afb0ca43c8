"""Files on this machine: a folder, a Hub cache's folder, a weight file or a set of shards, or a config.json alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrameter.errors import ConfigError, SourceError
from vrameter.i18n import language, tr
from vrameter.sources.byte_source import LocalFile
from vrameter.sources.paths import WEIGHTS
from vrameter.sources.place import MAX_DOCUMENT_BYTES, parse_document
from vrameter.sources.safetensors import Header, read_header

if TYPE_CHECKING:
    from vrameter.sources import Model

MAX_CONFIG_BYTES = 32 * 2**20
MAX_FILES = 50_000
MAX_DEPTH = 3
REMEMBERED = 16
PIPELINE = "model_index.json"

Signature = tuple[tuple[str, int, int], ...]
_MODELS: dict[tuple[str, str | None, str], tuple[Signature, Model]] = {}


def read(text: str, *, quantization: str | None = None) -> Model:
    """Return the model of a folder, a weight file or a config.json.

    Raises
    ------
    SourceError
        Where there is no such file, or its header cannot be believed.
    ConfigError
        Where a config.json holds no configuration.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise _no_file(Path(text)) from None
    if os.path.isdir(path):  # noqa: PTH112
        folder = snapshot_of(path)
        if os.path.isfile(folder / PIPELINE):  # noqa: PTH113
            from vrameter.sources.pipeline_folder import read_pipeline_folder

            pipeline = read_pipeline_folder(folder)
            if pipeline is not None:
                return pipeline
        return _remembered(folder, None, quantization)
    if path.suffix == ".gguf":
        from vrameter.sources.gguf_model import read_model

        return read_model(path)
    if path.name.endswith(".index.json") or path.suffix in WEIGHTS:
        if not os.path.isfile(path):  # noqa: PTH113
            raise _no_file(path)
        return _remembered(path.parent, path.name, quantization)
    return read_config_file(path)


def read_config_file(path: Path) -> Model:
    """Return the model that a config.json alone describes."""
    from vrameter.model.read import read_config
    from vrameter.sources import Model

    if not os.path.isfile(path):  # noqa: PTH113
        raise _no_file(path)
    name = path.resolve().parent.name if path.name == "config.json" and path.parent != Path() else path.stem
    architecture = read_config(parse_config(path), name=name)
    return Model(name=architecture.name, architecture=architecture, num_params=architecture.num_params, source="folder")


def parse_config(file: Path) -> Any:
    """Return the object of a config.json, within bounds.

    Raises
    ------
    ConfigError
        For a file that is empty, too large, or not JSON.
    """
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(
            tr("%(file)s: larger than %(limit)s bytes, so no config.json.", file=str(file), limit=MAX_CONFIG_BYTES),
            field="model",
            hint=tr("Give the config.json of one model."),
        )
    return parse_document(file.read_bytes(), str(file))


def snapshot_of(path: Path) -> Path:
    """Return the folder of files behind a Hub cache's ``models--org--name``: the main branch's, else the newest."""
    snapshots = path / "snapshots"
    if not snapshots.is_dir():
        return path
    try:
        commit = (path / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = ""
    if commit and "/" not in commit and (snapshots / commit).is_dir():
        return snapshots / commit
    found = sorted((each for each in snapshots.iterdir() if each.is_dir()), key=lambda each: each.stat().st_mtime)
    return found[-1] if found else path


class LocalPlace:
    """A folder.

    Parameters
    ----------
    only
        Whether a single file was named, so that folders below do not matter.
    """

    def __init__(self, root: Path, *, only: bool = False) -> None:
        self.root = root
        self.name = _name_of(root)
        self.files: Mapping[str, int] = {}
        self.signature: Signature = ()
        listed = sorted(_listed(root, 1 if only else MAX_DEPTH))
        self.files = {path: size for path, size, _ in listed}
        self.signature = tuple(entry for entry in listed if entry[0].endswith((*WEIGHTS, ".json")))

    def document(self, path: str) -> Any:
        """Return a JSON document, None where there is no such file."""
        if path not in self.files:
            return None
        file = self.root / path
        if self.files[path] > MAX_DOCUMENT_BYTES:
            raise ConfigError(
                tr("%(file)s: larger than %(limit)s bytes.", file=str(file), limit=MAX_DOCUMENT_BYTES), field="model"
            )
        with LocalFile(file) as source:
            return parse_document(source.read(0, MAX_DOCUMENT_BYTES), str(file))

    def headers(self, paths: Sequence[str]) -> tuple[Header, ...]:
        """Return the headers of safetensors files; each tensor bears its file's number among them."""
        headers = []
        for number, path in enumerate(paths):
            with LocalFile(self.root / path) as source:
                headers.append(read_header(source, file=number))
        return tuple(headers)

    def source(self, path: str) -> LocalFile:
        """Return a file's bytes, read piece by piece."""
        return LocalFile(self.root / path)


def _remembered(root: Path, only: str | None, quantization: str | None) -> Model:
    """Return the model of a folder or file, read again only where a file has changed."""
    from vrameter.sources.checkpoint import read_checkpoint

    found = LocalPlace(root, only=only is not None)
    if not any(path.endswith(".gguf") for path in found.files):
        quantization = None
    key = (str(root / (only or "")), quantization, language())
    kept = _MODELS.get(key)
    if kept is not None and kept[0] == found.signature:
        return kept[1]
    name = only.rpartition(".")[0] if only else ""
    source = "file" if only else "folder"
    model = read_checkpoint(found, source=source, name=name, quantization=quantization, only=only)
    while len(_MODELS) >= REMEMBERED:
        del _MODELS[next(iter(_MODELS))]
    _MODELS[key] = (found.signature, model)
    return model


def forget() -> None:
    """Forget the files that this process has read."""
    _MODELS.clear()


def _listed(root: Path, depth: int) -> Iterator[tuple[str, int, int]]:
    """Yield the files below a folder with their size and time; hidden ones and what cannot be seen are left out."""
    count = 0
    for folder, folders, files in os.walk(root):
        below = Path(folder).relative_to(root)
        folders[:] = [each for each in folders if not each.startswith(".")] if len(below.parts) + 1 < depth else []
        for file in files:
            count += 1
            if count > MAX_FILES:
                raise SourceError(
                    tr("model: '%(folder)s' holds more than %(limit)s files.", folder=str(root), limit=MAX_FILES),
                    field="model",
                    hint=tr("Give the folder of one model."),
                )
            try:
                status = os.stat(Path(folder) / file)  # noqa: PTH116
            except OSError:
                continue
            yield (below / file).as_posix(), status.st_size, status.st_mtime_ns


def _name_of(root: Path) -> str:
    """Return what a folder is called; a Hub cache's snapshot by its repository."""
    resolved = root.resolve()
    if resolved.parent.name == "snapshots" and resolved.parent.parent.name.startswith("models--"):
        return resolved.parent.parent.name.removeprefix("models--").replace("--", "/")
    return resolved.name


def _no_file(path: Path) -> SourceError:
    return SourceError(
        tr("model: there is no file '%(value)s'.", value=str(path)),
        field="model",
        hint=tr("Give a folder with a config.json, or a model's name."),
    )


__all__ = ["LocalPlace", "forget", "parse_config", "read", "read_config_file", "snapshot_of"]
