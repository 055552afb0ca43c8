"""A diffusion pipeline: modules by subfolder, each with a config of its own.

A pipeline's config is that of ``model_index.json`` with the modules' own configs inside::

    {"_class_name": "FluxPipeline", "components": {"transformer": {"_class_name": "FluxTransformer2DModel", ...}, ...}}

The config of one module alone is a pipeline of that module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vrameter.errors import ConfigError, closest
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Component, joined
from vrameter.model.config import Config
from vrameter.model.diffusion.registry import MODULES, reader

DENOISERS = ("transformer", "transformer_2", "unet")
"""Subfolders whose module runs at every step; of two transformers each runs for a part of the steps."""
AUTOENCODERS = ("vae", "vqvae")
"""Subfolders of what turns pictures into latents and back."""
NOT_MODULES = ("scheduler", "tokenizer", "feature_extractor", "safety_checker", "processor")


@dataclass(frozen=True)
class Module:
    """One subfolder of a pipeline."""

    name: str
    class_name: str
    architecture: Architecture
    config: Mapping[str, Any]

    @property
    def cfg(self) -> Config:
        """Its config, checked on reading."""
        return Config(self.config, path=f"config.{self.name}")


@dataclass(frozen=True, eq=False)
class Pipeline(Architecture):
    """A pipeline as one model: the components of all its modules."""

    modules: tuple[Module, ...] = ()

    def module(self, name: str) -> Module | None:
        """Return the module of a subfolder."""
        return next((module for module in self.modules if module.name == name), None)

    @property
    def autoencoder(self) -> Module | None:
        """The module that turns pictures into latents and back."""
        return next((module for module in self.modules if module.name in AUTOENCODERS), None)


def is_pipeline(values: Mapping[str, Any]) -> bool:
    """Say whether a config is diffusers': of a pipeline, or of one of its modules."""
    return isinstance(values.get("components"), Mapping) or ("_class_name" in values and "model_type" not in values)


def read_pipeline(values: Mapping[str, Any], *, name: str = "") -> Pipeline:
    """Return the pipeline that a config describes.

    Raises
    ------
    ConfigError
        Naming the field that is missing or wrong, or a class not known here.
    """
    from vrameter.model.read import DTYPES

    class_name = values.get("_class_name", "")
    configs = values.get("components")
    if not isinstance(configs, Mapping):
        configs = {_subfolder(str(class_name)): values}
    modules = tuple(
        _module(str(key), config) for key, config in configs.items() if not str(key).startswith(NOT_MODULES)
    )
    if not modules:
        raise ConfigError(
            tr("config.components: is empty."), field="config.components", hint=tr("Give the config of each module.")
        )
    stated = values.get("torch_dtype") or values.get("dtype")
    notes = [note for module in modules for note in module.architecture.notes]
    missing = values.get("missing")
    if isinstance(missing, (list, tuple)) and missing:
        notes.append(
            tr("Not recorded of this pipeline, and so left out: %(names)s.", names=", ".join(map(str, missing)))
        )
    return Pipeline(
        name=name or str(class_name),
        model_type="diffusion",
        class_name=str(class_name),
        components=tuple(component for module in modules for component in _placed(module)),
        dtype=DTYPES.get(str(stated).removeprefix("torch.")) if stated else None,
        notes=tuple(dict.fromkeys(notes)),
        modules=modules,
    )


def _subfolder(class_name: str) -> str:
    if class_name.startswith(("Autoencoder", "VQModel")):
        return "vae"
    return "unet" if class_name.startswith("UNet") else "transformer"


def _module(name: str, config: object) -> Module:
    from vrameter.model.read import read_config

    if not isinstance(config, Mapping):
        raise ConfigError(
            tr("config.%(name)s: is not an object.", name=name),
            field=f"config.{name}",
            hint=tr("Give the config.json of that subfolder."),
        )
    class_name = config.get("_class_name")
    if class_name is None:
        architecture = read_config(config, name=name)
        return Module(name, architecture.class_name, architecture, config)
    read = reader(str(class_name))
    if read is None:
        near = closest(str(class_name), MODULES)
        raise ConfigError(
            tr("config.%(name)s._class_name: '%(value)s' is not a class known here.", name=name, value=class_name),
            field=f"config.{name}._class_name",
            hint=tr("Did you mean %(names)s?", names=", ".join(near)) if near else tr("Known are: %(names)s.", names=", ".join(MODULES)),
        )  # fmt: skip
    cfg = Config(config, path=f"config.{name}")
    components = tuple(replace(each, name=each.name or name) for each in read(cfg, ""))
    architecture = Architecture(
        name=name, model_type=str(class_name), class_name=str(class_name), components=components,
        notes=tuple(cfg.notes),
    )  # fmt: skip
    return Module(name, str(class_name), architecture, config)


def _placed(module: Module) -> tuple[Component, ...]:
    """Return a module's components as parts of the pipeline. Nothing in one generates tokens."""
    found = module.architecture.components
    return tuple(
        replace(
            each,
            kind="encoder" if each.kind in ("decoder", "vision", "head") else each.kind,
            name=module.name if len(found) == 1 else f"{module.name} {each.name}".strip(),
            prefix=joined(module.name, each.prefix),
            layers_prefix=joined(module.name, each.layers_prefix),
        )
        for each in found
    )


__all__ = ["AUTOENCODERS", "DENOISERS", "Module", "Pipeline", "is_pipeline", "read_pipeline"]
