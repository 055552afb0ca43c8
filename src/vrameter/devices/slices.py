"""A slice of a card as a device of its own: NVIDIA's multi-instance GPU.

Memory comes in eighths of the card; a profile is named after its share of the compute and the memory it is sold with:
``1g.10gb`` of an 80 GB card is one eighth of its memory [1]_.

References
----------
.. [1] NVIDIA Multi-Instance GPU User Guide, "Supported MIG Profiles".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vrameter.devices.device import Device
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.units import GIB, MIB, format_bytes

PROFILE = re.compile(
    r"(?P<card>.+?)[\s\-_:,]*(?:mig)?[\s\-_:,]*(?P<compute>[1-7])g\.(?P<gb>\d+)gb(?:\+\w+)?\s*\Z", re.IGNORECASE
)
EIGHTHS = (1, 2, 4, 8)


def split(name: str) -> tuple[str, str, int] | None:
    """Return a card's name, its profile and the profile's memory [GB], None for a name that is no slice.

    >>> split("H100 MIG 1g.10gb")
    ('H100', '1g.10gb', 10)
    """
    match = PROFILE.fullmatch(name.strip())
    if match is None or not match["card"].strip():
        return None
    return match["card"].strip(" -_:,"), f"{match['compute']}g.{match['gb']}gb", int(match["gb"])


def fits(nominal_gb: int, gb: int) -> bool:
    """Say whether a profile's memory is about one, two, four or eight eighths of a card's.

    >>> fits(80, 10), fits(80, 5), fits(141, 18)
    (True, False, True)
    """
    return any(abs(8 * gb - count * nominal_gb) <= nominal_gb // 4 for count in EIGHTHS)


def slice_of(card: Device, profile: str, gb: int, rules: Mapping[str, Any]) -> Device:
    """Return a slice of a card.

    Parameters
    ----------
    gb
        Memory in the profile's name. [GB]
    rules
        What a slice lacks of its share, ``overhead_mib`` low, typical, high, and ``id``, a pattern of the cards that have
        slices.

    Raises
    ------
    RequestError
        For a card without slices, or a profile that it does not have.
    """
    nominal = (card.nominal_bytes or 0) // GIB
    if not nominal or not re.search(rules["id"], card.id):
        raise RequestError(
            tr("device: %(name)s cannot be sliced.", name=card.name),
            field="device",
            hint=tr("Slices are known of: %(names)s.", names=", ".join(rules["cards"])),
        )
    eighths = min(EIGHTHS, key=lambda count: abs(8 * gb - count * nominal))
    if not fits(nominal, gb):
        sizes = ", ".join(f"{count * nominal / 8:g} GB" for count in EIGHTHS)
        raise RequestError(
            tr("device: %(name)s has no slice of %(size)s GB.", name=card.name, size=gb),
            field="device",
            hint=tr("Its slices have about %(sizes)s.", sizes=sizes),
        )
    low, typical, high = (mib * MIB for mib in rules["overhead_mib"])
    share = card.capacity_bytes * eighths // 8
    capacity = share - typical
    return replace(
        card,
        id=f"{card.id}-mig-{profile}",
        name=f"{card.name} MIG {profile}",
        capacity_bytes=capacity,
        capacity_interval=(share - high, share - low),
        basis="assumed",
        capacity_source=str(rules["source"]),
        nominal_bytes=gb * GIB,
        nvidia_smi_bytes=None,
        torch_total_bytes=None,
        bandwidth_gb_s=card.bandwidth_gb_s * eighths / 8 if card.bandwidth_gb_s else None,
        notes=(
            *card.notes,
            tr(
                "%(name)s: %(eighths)s of the card's eight memory slices, of which a process sees about %(size)s (assumed).",
                name=f"{card.name} MIG {profile}", eighths=eighths, size=format_bytes(capacity),
            ),
        ),
    )  # fmt: skip


__all__ = ["fits", "slice_of", "split"]
