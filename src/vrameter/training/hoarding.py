"""Reserved memory of loops whose allocator keeps blocks of every length of sequence that it has seen.

Each new length asks for logits of a size that no cached block has exactly, so segments pile up until the device is full;
only then does the allocator let cached ones go.
"""

from __future__ import annotations

from collections.abc import Sequence

from vrameter.devices.device import Device
from vrameter.ledger import Item, item
from vrameter.training.constants import constants

# What has a size of its own for each length of sequence.
GROWING = ("activations", "temporary", "logits")


def hoarded(
    alive: Sequence[Item], device: Device | None, outside: int, *, phases: tuple[str, ...], working: tuple[str, ...]
) -> Item:
    """Return what the allocator holds beyond live tensors.

    Parameters
    ----------
    outside
        Context, libraries and their workspaces. [bytes]
    working
        The phases of a step, the optimizer's last: its tensors are of one size, and use the blocks again.
    """
    bounds = constants().slack["hoarded"]
    totals = {phase: sum(each.bytes for each in alive if phase in each.phases) for phase in working}
    growing = {
        phase: sum(each.bytes for each in alive if phase in each.phases and each.term in GROWING)
        for phase in working[:-1]
    }
    peak = max(totals.values())

    def room(phase: str) -> int:
        return max(0, device.capacity_bytes - outside - totals[phase]) if device else growing[phase] * bounds.high

    def kept(thousandths: int) -> int:
        return max(
            hoarded_bytes(alive=totals[phase], growing=size, thousandths=thousandths, room=room(phase), peak=peak)
            for phase, size in growing.items()
        )

    low, typical, high = (kept(each) for each in (bounds.low, bounds.typical, bounds.high))
    return item(
        "fragmentation", hoard_bytes, phases=phases, basis="calibrated", held="allocator", low=low, high=high,
        source=bounds.runs, hoard=typical,
    )  # fmt: skip


def hoarded_bytes(*, alive: int, growing: int, thousandths: int, room: int, peak: int) -> int:
    """Return what cached blocks add to the largest phase.

    Formula::

        max(0, alive + min(room, growing * thousandths // 1000) - peak)

    Parameters
    ----------
    alive, growing
        Bytes of a pass, and those of them whose size follows the length of sequences. [bytes]
    room
        What the device has left beside them: beyond it cached blocks are let go. [bytes]
    peak
        Bytes of the largest phase of the step. [bytes]
    """
    return max(0, alive + min(room, growing * thousandths // 1000) - peak)


def hoard_bytes(*, hoard: int) -> int:
    """Return the most that cached blocks add over the passes of a step.

    Formula::

        hoard
    """
    return hoard


__all__ = ["hoarded", "hoarded_bytes"]
