"""Which references mean a place on disk."""

from __future__ import annotations

import os

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pth", ".pt")


def is_path(text: str) -> bool:
    """Say whether a reference means a place on disk rather than a name; one that no system could have is none."""
    return (
        text.startswith((".", "/", "~"))
        or text.endswith((".json", ".gguf", ".safetensors"))
        or (text.endswith(WEIGHTS) and os.path.exists(text))  # noqa: PTH110
        or os.path.isdir(text)  # noqa: PTH112
    )
