"""What a checkpoint's own configuration says of each tensor, and how its fields are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vrameter.errors import ConfigError
from vrameter.i18n import tr
from vrameter.model.architecture import Component, Tensor, joined
from vrameter.model.formats import Format
from vrameter.model.module_names import Names, spellings
from vrameter.model.schemes import Scheme

PATH = "config.quantization_config"


@dataclass(frozen=True)
class Configured:
    """What a checkpoint's own configuration says of each tensor.

    Parameters
    ----------
    scheme
        What the method covers where nothing else is said.
    ignored
        Modules left in the model's dtype.
    groups
        Modules with a format of their own, asked before `ignored`.
    exceptions
        The same by exact name, asked first; None leaves a module alone.
    approximate
        Whether the method's storage is modelled rather than known.
    """

    name: str
    scheme: Scheme
    ignored: Names = field(default_factory=lambda: Names(()))
    groups: tuple[tuple[Names, Format | None], ...] = ()
    exceptions: Mapping[str, Format | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    approximate: bool = False

    def format_of(self, component: Component, layer: int | None, tensor: Tensor, *, is_main: bool) -> Format | None:
        """Return the format of a tensor, None for one that stays in the model's dtype."""
        if tensor.buffer or len(tensor.shape) < 2 or not (tensor.linear or tensor.role in ("embedding", "router")):
            return None
        name = (
            joined(component.prefix, tensor.name)
            if layer is None
            else f"{component.layers_prefix}.{layer}.{tensor.name}"
        )
        if self.exceptions:
            for spelling in spellings(name):
                words = spelling.split(".")
                for end in range(len(words), 0, -1):
                    prefix = ".".join(words[:end])
                    if prefix in self.exceptions:
                        return self.exceptions[prefix]
        for names, form in self.groups:
            if name in names and tensor.linear:
                return None if name in self.ignored else form
        if name in self.ignored:
            return None
        return self.scheme.format_of(component, tensor, is_main=is_main)


def covering(form: Format | None, *, towers: bool = False, head: bool = False, experts: bool = True) -> Scheme:
    """Return a scheme for linear layers in the decoder, and on request for towers and the head."""
    return Scheme(
        form.name if form else "none", form, form if experts else None, head=form if head else None, towers=towers
    )


def integer(config: Mapping[str, Any], name: str, default: int, *, least: int = 0, most: int = 2**31) -> int:
    """Return a whole number, `default` where the field is missing or null."""
    value = config.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(
            tr(
                "%(field)s: %(value)s is not a whole number of at least %(least)s.",
                field=f"{PATH}.{name}",
                value=repr(value)[:60],
                least=least,
            ),
            field=f"{PATH}.{name}",
        )
    return value


def strings(config: Mapping[str, Any], *fields: str) -> list[str]:
    """Return the texts of all these lists together."""
    found: list[str] = []
    for name in fields:
        value = config.get(name)
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [item for item in value if isinstance(item, str)]
    return found


def mapping(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a nested object, an empty one where there is none."""
    value = config.get(name)
    return value if isinstance(value, Mapping) else {}


def ignored(config: Mapping[str, Any], *always: str) -> Names:
    """Return the modules that a configuration leaves alone, under any of the names for that list."""
    listed = list(always)
    listed += strings(
        config,
        "modules_to_not_convert",
        "ignored_layers",
        "ignore",
        "exclude_modules",
        "llm_int8_skip_modules",
        "skip_modules",
    )
    return Names(listed, field=PATH)


__all__ = ["PATH", "Configured", "covering", "ignored", "integer", "mapping", "strings"]
