"""Sequences that are read and answered on one device: what engines without a server have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from vrameter.engines import Ask
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Ledger
from vrameter.search import MOST_SEQUENCES, MOST_TOKENS, largest_fitting


@dataclass(frozen=True, slots=True)
class Generation:
    """Sequences, and the tokens of each: of its prompt, and at its end."""

    num_seqs: int
    prompt: int
    total: int


def check_one_device(ask: Ask, engine: str) -> None:
    """Refuse several devices."""
    if ask.num_devices > 1:
        raise RequestError(
            tr("num_devices: %(engine)s is modelled on one device.", engine=engine),
            field="num_devices",
            hint=tr("Give one device, or another engine."),
        )


def limits(ask: Ask, shape: Generation, ledger: Callable[[Generation], Ledger]) -> dict[str, int]:
    """Return the longest context, within the model's positions, and the most sequences that fit, each with the other as asked."""
    device = ask.device
    if device is None:
        return {}
    answer = shape.total - shape.prompt

    def longer(tokens: int) -> int:
        prompt = max(1, tokens - answer)
        return device.capacity_bytes - ledger(replace(shape, prompt=prompt, total=tokens)).used

    def more(count: int) -> int:
        return device.capacity_bytes - ledger(replace(shape, num_seqs=count)).used

    most = max(ask.architecture.main.max_positions or MOST_TOKENS, answer + 1)
    longest = largest_fitting(longer, most=most, start=shape.total)
    return {
        "context_length": longest if longest > answer else 0,
        "batch_size": largest_fitting(more, most=MOST_SEQUENCES, start=shape.num_seqs),
    }


__all__ = ["Generation", "check_one_device", "limits"]
