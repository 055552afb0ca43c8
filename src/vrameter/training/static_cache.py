"""What stands between steps, kept for the next question about the same module: how many samples a step has plays no part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from vrameter.i18n import language
from vrameter.training.holdings import Holding

if TYPE_CHECKING:
    from vrameter.model.architecture import Architecture
    from vrameter.training.answer import Static

MOST = 256
# They hold the module, so that its id stays its own.
_KNOWN: dict[tuple[object, ...], tuple[Architecture, Static]] = {}


def remembered(holding: Holding, make: Callable[[Holding], Static]) -> Static:
    """Return what a device holds between steps of a module, made once for all sizes of a batch and of pictures."""
    asked = holding.setup
    settings = msgspec.structs.replace(
        asked.settings, micro_batch=1, grad_accumulation=min(2, asked.settings.grad_accumulation), image_size=None,
        num_frames=None, text_len=None, seq_len=None, advise=False,
    )  # fmt: skip
    key = (
        id(holding.share), msgspec.json.encode(settings), asked.recipe, asked.rule, asked.degrees, asked.plan.dtype,
        asked.plan.quantization, asked.stack.name, asked.frozen, language(),
    )  # fmt: skip
    known = _KNOWN.get(key)
    if known is None:
        if len(_KNOWN) >= MOST:
            _KNOWN.clear()
        known = _KNOWN[key] = holding.share, make(holding)
    return known[1]


__all__ = ["remembered"]
