"""GGUF files as models: from a table of tensors and keys to an architecture, and how each tensor is stored."""

from __future__ import annotations

from vrameter.model.from_gguf.read import architecture_of
from vrameter.model.from_gguf.stored import file_mixture, stored_pieces

__all__ = ["architecture_of", "file_mixture", "stored_pieces"]
