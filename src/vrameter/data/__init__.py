"""The embedded facts, built from ``catalog/`` by ``tools/build_catalogue.py``."""

from __future__ import annotations

from pathlib import Path


def path(name: str) -> Path:
    """Return where a data file lies."""
    return Path(__file__).parent / name


def read_bytes(name: str) -> bytes:
    """Return a data file whole."""
    return path(name).read_bytes()
