"""How much GPU memory a model needs, whether it fits, and why.

>>> import vrameter
>>> vrameter.estimate({"model": "8.8B", "dtype": "fp32"})["rule_of_thumb"]["gb"]["weights"]
35.2
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vrameter.errors import VrameterError
    from vrameter.inspection import inspect
    from vrameter.jsonlines import batch
    from vrameter.memory.rule_of_thumb import rule_of_thumb
    from vrameter.model.architecture import Architecture
    from vrameter.model.read import read_config
    from vrameter.reading import read
    from vrameter.response import Response, estimate
    from vrameter.spec import DeviceSpec, Parallelism, Request

__version__ = "0.1.0"

# public name -> the module that holds it, imported on first use
_PUBLIC = {
    "Architecture": "vrameter.model.architecture",
    "DeviceSpec": "vrameter.spec",
    "Parallelism": "vrameter.spec",
    "Request": "vrameter.spec",
    "Response": "vrameter.response",
    "VrameterError": "vrameter.errors",
    "batch": "vrameter.jsonlines",
    "estimate": "vrameter.response",
    "read": "vrameter.reading",
    "inspect": "vrameter.inspection",
    "read_config": "vrameter.model.read",
    "rule_of_thumb": "vrameter.memory.rule_of_thumb",
}

__all__ = [
    "Architecture", "DeviceSpec", "Parallelism", "Request", "Response", "VrameterError", "__version__", "batch", "estimate", "inspect",
    "read", "read_config", "rule_of_thumb",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from importlib import import_module

        value = getattr(import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'vrameter' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
