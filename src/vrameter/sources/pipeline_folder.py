"""A folder of a diffusion pipeline: ``model_index.json``, and a config.json in the folder of each module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrameter.errors import ConfigError
from vrameter.i18n import tr

if TYPE_CHECKING:
    from vrameter.sources import Model


def read_pipeline_folder(folder: Path) -> Model | None:
    """Return the pipeline of a folder that holds a ``model_index.json``; None where a module has no config that can be read.

    Raises
    ------
    ConfigError
        Where the index names no modules.
    """
    from vrameter.model.diffusion.pipeline import read_pipeline
    from vrameter.sources import Model
    from vrameter.sources.folder import PIPELINE, parse_config

    index = parse_config(folder / PIPELINE)
    if not isinstance(index, Mapping):
        raise ConfigError(
            tr("%(file)s: names no modules.", file=str(folder / PIPELINE)),
            field="model",
            hint=tr("Give the folder of a pipeline of diffusers."),
        )
    named = [str(name) for name, value in index.items() if isinstance(value, (list, tuple)) and any(value)]
    files = {name: folder / name / "config.json" for name in named}
    components: dict[str, Any] = {name: parse_config(file) for name, file in files.items() if file.is_file()}
    config = {"_class_name": index.get("_class_name", ""), "components": components}
    try:
        pipeline = read_pipeline(config, name=folder.resolve().name)
    except ConfigError:
        return None  # the headers of its files still tell its weights
    return Model(name=pipeline.name, architecture=pipeline, num_params=pipeline.num_params, source="folder")


__all__ = ["read_pipeline_folder"]
