"""Lists of a config that belong together: not empty, and as long as one another."""

from __future__ import annotations

from vrameter.model.config import Config, shown


def several(cfg: Config, *names: str) -> list[list[int]]:
    """Return lists of whole numbers that go side by side."""
    lists: list[list[int]] = [filled(cfg, name) for name in names]
    for name, values in zip(names, lists, strict=True):
        if len(values) != len(lists[0]):
            raise cfg.fail(
                name, "has %(length)s entries for %(count)s layers.", length=len(values), count=len(lists[0])
            )
    return lists


def filled(cfg: Config, name: str) -> list[int]:
    """Return a list of whole numbers with at least one entry."""
    values: list[int] = cfg.integers(name, least=1)
    if not values:
        raise cfg.fail(name, "is empty.")
    return values


def numbers(cfg: Config, name: str) -> list[float]:
    """Return a list of numbers above zero with at least one entry."""
    values = cfg.sequence(name, ())
    if not values:
        raise cfg.fail(name, "is empty.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise cfg.fail(name, "%(value)s is not a number.", value=shown(value))
    return list(values)


def length(cfg: Config, name: str) -> int:
    """Return how many entries a list has, none where it is missing."""
    return len(cfg.sequence(name, ()))


__all__ = ["filled", "length", "numbers", "several"]
