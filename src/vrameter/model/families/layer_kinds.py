"""What decoders that mix recurrent layers with attention share: how a config tells the kinds of its layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from vrameter.model.config import Config
from vrameter.model.families.mixture import listed

LINEAR, FULL, SLIDING, CONV = "linear_attention", "full_attention", "sliding_attention", "conv"
HYBRID = "hybrid"
# What files of earlier versions call them.
_NAMES = {"mamba": LINEAR, "mamba2": LINEAR, "recurrent": LINEAR, "attention": FULL}


def layer_kinds(
    cfg: Config, count: int, default: Callable[[int], str], *, known: Collection[str] = (LINEAR, FULL)
) -> list[str]:
    """Return the kind of each layer: as `layer_types` lists them, else by `default` from the layer's number."""
    given = listed(cfg, "layer_types", count)
    kinds = [default(index) for index in range(count)] if given is None else renamed(given)
    return checked_kinds(cfg, kinds, known)


def renamed(kinds: Iterable[Any]) -> list[Any]:
    """Return kinds of layers under their present names; what is no text stays for the check to refuse."""
    return [_NAMES.get(kind, kind) if isinstance(kind, str) else kind for kind in kinds]


def checked_kinds(cfg: Config, kinds: list[str], known: Collection[str]) -> list[str]:
    """Return kinds of layers after a look whether all are known."""
    for kind in kinds:
        if kind not in known:
            raise cfg.fail("layer_types", "'%(value)s' is not a kind of layer known here.", value=kind)
    return kinds


def every(period: int) -> Callable[[int], str]:
    """Return a rule by which every `period`-th layer is full attention, the others linear."""
    return lambda index: LINEAR if (index + 1) % period else FULL


def size_or_auto(cfg: Config, name: str, otherwise: int) -> int:
    """Return a size that a config may leave to be worked out, as null or ``auto``."""
    return otherwise if cfg.get(name) in (None, "auto") else int(cfg.integer(name))


def state_in_fp32(cfg: Config, default: bool = False) -> bool:
    """Say whether a config asks for recurrent states in fp32; serving engines follow it."""
    stated = cfg.text("mamba_ssm_cache_dtype", None) or cfg.text("mamba_ssm_dtype", None)
    return default if stated in (None, "auto") else stated in ("float32", "fp32", "float")


__all__ = [
    "CONV",
    "FULL",
    "HYBRID",
    "LINEAR",
    "SLIDING",
    "checked_kinds",
    "every",
    "layer_kinds",
    "renamed",
    "size_or_auto",
    "state_in_fp32",
]
