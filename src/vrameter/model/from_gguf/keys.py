"""The keys of a GGUF file that say how wide and how many things are, one number or one for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vrameter.errors import ConfigError
from vrameter.i18n import tr

MAX_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class Keys:
    """The metadata of a file, below the name of its architecture.

    Parameters
    ----------
    prefix
        The architecture, before every key of its own: ``llama``, ``clip.vision``.
    """

    metadata: Mapping[str, object]
    prefix: str

    def get(self, key: str) -> object:
        """Return a value, None where there is none."""
        return self.metadata.get(f"{self.prefix}.{key}")

    def number(self, key: str, default: int = 0) -> int:
        """Return a whole number; of a list by layers its largest.

        Raises
        ------
        ConfigError
            Where it is no such number.
        """
        value = self.get(key)
        if value is None:
            return default
        numbers = value if isinstance(value, list) and value else [value]
        if not all(isinstance(item, int) and 0 <= item < 2**40 for item in numbers):
            raise ConfigError(
                tr(
                    "model: the key '%(key)s' is %(value)s, not a number.",
                    key=f"{self.prefix}.{key}",
                    value=str(value)[:60],
                ),
                field="model",
                hint=tr("Convert the model again with a current llama.cpp."),
            )
        return int(max(numbers))

    def at(self, key: str, layer: int, default: int = 0) -> int:
        """Return the number of a layer, from one number for all or from a list; `default` past its end."""
        value = self.get(key)
        if not isinstance(value, list):
            return self.number(key, default)
        self.number(key)
        return int(value[layer]) if layer < len(value) else default

    def first(self, key: str, default: int = 0) -> int:
        """Return the number of the first layer."""
        return self.at(key, 0, default)

    def length(self, key: str) -> int:
        """Return the number of items of a list, also of one too long to keep; `key` is a whole key."""
        value = self.metadata.get(key)
        if isinstance(value, list):
            return len(value)
        length = value.get("length") if isinstance(value, dict) else None
        return length if isinstance(length, int) else 0


__all__ = ["MAX_LAYERS", "Keys"]
