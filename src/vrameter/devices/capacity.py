"""How much of a device a process sees, and what a process takes for itself: rules by class of device.

The classes and their figures are facts with a source and a range, in ``data/device_rules.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vrameter.units import GIB, MIB

PARTS = 10_000
Interval = tuple[int, int, int]


def nvidia_smi_total(nominal_bytes: int, per_10000: int) -> int:
    """Return what nvidia-smi prints for a card that is sold with `nominal_bytes`, in whole MiB. [bytes].

    >>> nvidia_smi_total(24 * GIB, 9373) // MIB
    23035
    """
    return nominal_bytes * per_10000 // PARTS // MIB * MIB


def visible_total(total_bytes: int, below_per_10000: int) -> int:
    """Return what a process sees of a driver's total. [bytes].

    >>> visible_total(81559 * MIB, 57) // MIB
    81094
    """
    return total_bytes * (PARTS - below_per_10000) // PARTS


def apple_working_set(memory_bytes: int, per_10000: int, left_bytes: int) -> int:
    """Return Metal's recommendedMaxWorkingSetSize of a machine. [bytes].

    Formula::

        min(memory_bytes * per_10000 // 10000, memory_bytes - left_bytes)

    >>> round(apple_working_set(16 * GIB, 7400, 2 * GIB) / GIB, 2)
    11.84
    """
    return min(memory_bytes * per_10000 // PARTS, memory_bytes - left_bytes)


def fits(conditions: Mapping[str, Any], device: str, row: Mapping[str, Any]) -> bool:
    """Say whether a class's conditions hold for a device."""
    if "vendor" in conditions and conditions["vendor"] != row["vendor"]:
        return False
    if "unified" in conditions and conditions["unified"] != bool(row.get("unified_memory")):
        return False
    return "id" not in conditions or re.search(conditions["id"], device) is not None


def class_of(classes: Sequence[Mapping[str, Any]], device: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first class whose conditions hold."""
    return next(each for each in classes if fits(each["match"], device, row))


def overhead(rules: Mapping[str, Any], device: str, row: Mapping[str, Any]) -> tuple[Interval, str]:
    """Return what a process takes beside its tensors, and the source. [bytes]."""
    found = class_of(rules["overhead_classes"], device, row)
    low, typical, high = (mib * MIB for mib in found["overhead_mib"])
    return (low, typical, high), found["source"]


def seen(rules: Mapping[str, Any], device: str, row: Mapping[str, Any]) -> tuple[Interval, str]:
    """Return low, typical and high of what a process sees of a device, and the source. [bytes].

    torch's own total stands where it was printed; else nvidia-smi's less the share of the card's class; else what is
    sold, by the rule of the class.
    """
    if row.get("torch_total_memory_mib"):
        total = int(row["torch_total_memory_mib"] * MIB)
        return (total, total, total), str(row.get("torch_source", ""))
    nominal = int(row.get("gb_per_visible_device", row["memory_gb"]) * GIB)
    if row.get("allocatable_gib"):
        return (row["allocatable_gib"] * GIB, row["allocatable_gib"] * GIB, nominal), row["allocatable_source"]
    if row.get("unified_memory"):
        return _unified(rules["unified"], nominal, row["vendor"])
    found = class_of(rules["capacity_classes"], device, row)
    low_below, below, high_below = found["visible_below_per_10000"]
    if row.get("nvidia_smi_mib"):
        totals = [int(row["nvidia_smi_mib"] * MIB)] * 3
    else:
        totals = [
            nvidia_smi_total(nominal, share) for share in found.get("nvidia_smi_per_10000") or (PARTS, PARTS, PARTS)
        ]
    low, typical, high = totals
    return (visible_total(low, high_below), visible_total(typical, below), visible_total(high, low_below)), found[
        "source"
    ]


def _unified(rules: Mapping[str, Any], nominal: int, vendor: str) -> tuple[Interval, str]:
    if vendor == "apple":
        rule = next(each for each in rules["apple"] if each["up_to_gib"] is None or nominal <= each["up_to_gib"] * GIB)
        left = rules["apple_left_gib"] * GIB
        low, typical, high = (apple_working_set(nominal, share, left) for share in rule["per_10000"])
        return (low, typical, high), rule["source"]
    rule = rules[vendor]
    low, typical, high = (
        nominal * share // PARTS - _reserve(nominal, reserve)
        for share, reserve in zip(rule["visible_per_10000"], rule["reserve_gib"], strict=True)
    )
    return (low, typical, high), rule["source"]


def _reserve(nominal: int, reserve_gib: int) -> int:
    """Return what the system keeps: a small board has less to keep, a quarter at most. [bytes]."""
    return min(reserve_gib * GIB, nominal // 4)
