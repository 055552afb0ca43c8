"""A config.json's ``quantization_config``: which tensor of the checkpoint has which format.

Every method writes its own dialect; `read_quantization_config` turns each into one `Configured`: formats for groups of
modules, modules left alone, and what a method covers when it lists nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrameter.errors import ConfigError, closest
from vrameter.i18n import tr
from vrameter.model.configured import PATH, Configured
from vrameter.model.quantization_methods import READERS


def read_quantization_config(config: Mapping[str, Any], *, model_type: str = "") -> Configured:
    """Return what a ``quantization_config`` says of each tensor.

    Parameters
    ----------
    config
        The object of that name in a config.json, or the whole of an ``hf_quant_config.json``.

    Raises
    ------
    ConfigError
        For a method that is not known or a field that makes no sense.
    """
    inner = config.get("quantization")
    if isinstance(inner, Mapping) and "quant_method" not in config:
        config = {**inner, "quant_method": "modelopt"}
    method = config.get("quant_method")
    if method is None:
        method = _guessed(config)
    key = str(method).lower().replace("_", "-")
    reader = READERS.get(key)
    if reader is None:
        near = closest(key, READERS)
        field = f"{PATH}.quant_method"
        message = tr("%(field)s: '%(value)s' is not a quantisation method known here.", field=field, value=str(method))
        if near:
            raise ConfigError(message, field=field, hint=tr("Did you mean %(names)s?", names=", ".join(near)))
        known = ", ".join(READERS)
        hint = tr("Name the format instead, such as quantization = 'w4a16'. Known methods: %(names)s.", names=known)
        raise ConfigError(message, field=field, hint=hint)
    return reader(config)


def _guessed(config: Mapping[str, Any]) -> str:
    if config.get("load_in_4bit") or config.get("load_in_8bit"):
        return "bitsandbytes"
    if "quant_algo" in config or "quantized_layers" in config:
        return "modelopt"
    if "config_groups" in config:
        return "compressed-tensors"
    if "bits" in config and "group_size" in config:
        return "mlx"
    return ""


__all__ = ["Configured", "read_quantization_config"]
