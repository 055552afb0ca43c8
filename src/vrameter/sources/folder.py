"""A folder with a config.json, that file itself, or a .gguf file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrameter.errors import ConfigError, SourceError
from vrameter.i18n import tr

if TYPE_CHECKING:
    from vrameter.sources import Model

MAX_CONFIG_BYTES = 32 * 2**20


def is_path(text: str) -> bool:
    """Say whether a reference means a place on disk rather than a name."""
    return text.startswith((".", "/", "~")) or text.endswith((".json", ".gguf", ".safetensors")) or Path(text).is_dir()


def read(text: str) -> Model:
    """Return the model of a folder, a config.json or a .gguf file.

    Raises
    ------
    SourceError
        Where there is no such file.
    ConfigError
        Where it holds no configuration.
    """
    from vrameter.model.read import read_config
    from vrameter.sources import Model

    path = Path(text).expanduser()
    if path.suffix == ".gguf":
        from vrameter.sources.gguf_model import read_model

        return read_model(path)
    if path.suffix == ".safetensors":
        raise ConfigError(
            tr("model: '%(value)s': weight files are not read in this version.", value=text),
            field="model",
            hint=tr("Give the folder that holds its config.json."),
        )
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise SourceError(
            tr("model: there is no file '%(value)s'.", value=str(file)),
            field="model",
            hint=tr("Give a folder with a config.json, or a model's name."),
        )
    architecture = read_config(parse_config(file), name=path.resolve().name if path.is_dir() else path.stem)
    return Model(name=architecture.name, architecture=architecture, num_params=architecture.num_params, source="folder")


def parse_config(file: Path) -> Any:
    """Return the object of a config.json, within bounds.

    Raises
    ------
    ConfigError
        For a file that is empty, too large, or not JSON.
    """
    import msgspec

    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(
            tr("%(file)s: larger than %(limit)s bytes, so no config.json.", file=str(file), limit=MAX_CONFIG_BYTES),
            field="model",
            hint=tr("Give the config.json of one model."),
        )
    text = file.read_bytes()
    if not text.strip():
        raise ConfigError(
            tr("%(file)s: is empty.", file=str(file)), field="model", hint=tr("Give the config.json of one model.")
        )
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            tr("%(file)s: is not JSON (%(reason)s).", file=str(file), reason=str(error)),
            field="model",
            hint=tr("Give the config.json of one model."),
        ) from None
