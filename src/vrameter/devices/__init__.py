"""Devices as data: a name -> what a process sees of the device.

The table and the rules lie in ``data/``, written by ``tools/build_catalogue.py`` from ``catalog/``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec

from vrameter.data import read_bytes
from vrameter.devices import slices
from vrameter.devices.capacity import overhead, seen
from vrameter.devices.device import Device
from vrameter.errors import RequestError, UnknownNameError, closest
from vrameter.i18n import tr
from vrameter.units import GIB, MIB, format_bytes, parse_bytes

TABLE, RULES = "devices.json", "device_rules.json"
MAX_COUNT = 1_000_000
MAX_NAME = 200
MAX_CAPACITY = 2**50
BRANDS = (
    "nvidia", "amd", "intel", "apple", "google", "aws", "geforce", "radeon", "instinct", "tesla",
    "macbookpro", "macbookair", "macstudio", "macmini", "imac",
)  # fmt: skip
ENDINGS = ("gpus", "gpu", "graphics")
_COUNTED = re.compile(r"\s*(?P<count>\d+)\s*[x×*]\s*(?P<name>\S.*)", re.IGNORECASE | re.DOTALL)
_COUNTED_AFTER = re.compile(r"\s*(?P<name>\S.*?)\s+[x×*]\s*(?P<count>\d+)\s*", re.IGNORECASE | re.DOTALL)
_MARKS = re.compile(r"\((?:r|tm|c)\)|[®™©]", re.IGNORECASE)
_NUMBER_OF_A_CARD = re.compile(r"\d{3,}")
_SIZE = re.compile(r"\s*[+-]?[\d.,]*\d(e[+-]?\d+)?\s*(?:[kmgtp]i?b?|[kmgtp]?i?b)?\s*\Z", re.IGNORECASE)


class _Table(msgspec.Struct):
    names: dict[str, str | list[str]]
    devices: dict[str, msgspec.Raw]


def find(name: str) -> Device:
    """Return the device that a name means.

    Parameters
    ----------
    name
        An id, a vendor's or a driver's name, or a family's name, whatever its case and punctuation; or a size such as
        ``24GiB``, which stands for a card of that capacity.

    Raises
    ------
    UnknownNameError
        With the names that look most like it.

    Examples
    --------
    >>> find("NVIDIA H100 80GB HBM3").id, find("4090").id
    ('h100-sxm-80gb', 'rtx-4090')
    """
    if len(name) > MAX_NAME:
        raise _unknown(name[:77] + "...")
    found = _table().names.get(canonical(name))
    if found is None:
        if _SIZE.match(name) and not _NUMBER_OF_A_CARD.fullmatch(name.strip()):
            return from_spec(name.strip(), _size(name))
        part = slices.split(name)
        if part is not None:
            return slices.slice_of(_card_of(*part), part[1], part[2], _rules()["slices"])
        raise _unknown(name)
    if isinstance(found, str):
        return _device(found)
    others = ", ".join(found[1:4])
    note = tr("'%(name)s' is taken for %(id)s (also: %(others)s).", name=name.strip(), id=found[0], others=others)
    return _noted(_device(found[0]), note)


def _size(text: str) -> int:
    """Return the bytes of a size that stands for a card, at least one and no more than a card can have."""
    size = parse_bytes(text)
    if size and size <= MAX_CAPACITY and text.strip()[-1].isalpha():
        return size
    shown = text.strip()
    raise RequestError(
        tr(
            "device: '%(value)s' is not a size of memory between 1 B and %(most)s.",
            value=shown,
            most=format_bytes(MAX_CAPACITY),
        ),
        field="device",
        hint=tr("Did you mean %(names)s?", names=f"'{shown}GiB'")
        if re.fullmatch(r"\d+(\.\d+)?", shown) and float(shown)
        else tr("Give one such as 24GiB."),
    )


def _card_of(name: str, profile: str, gb: int) -> Device:
    """Return the card of a family that has a slice of this size: the 40 GB one for ``a100 1g.5gb``."""
    card = find(name)
    found = _table().names.get(canonical(name), [])
    for other in [found] if isinstance(found, str) else found:
        device = _device(other)
        if device.nominal_bytes and slices.fits(device.nominal_bytes // GIB, gb):
            return device
    return card


def parse_devices(text: str) -> tuple[int, Device]:
    """Return how many of which device a text such as ``2xl40s``, ``8 x H100`` or ``H100 x8`` names; one where it gives no number.

    Raises
    ------
    RequestError
        For a number that is not at least one.
    UnknownNameError
        For a device that is not known.

    Examples
    --------
    >>> count, device = parse_devices("4xh100-sxm-80gb")
    >>> count, device.id
    (4, 'h100-sxm-80gb')
    """
    shown = text[: 2 * MAX_NAME]
    match = _COUNTED.fullmatch(shown) or _COUNTED_AFTER.fullmatch(shown)
    if match is None or canonical(text) in _table().names:
        return 1, find(text)
    count = int(match["count"]) if len(match["count"]) <= len(str(MAX_COUNT)) else MAX_COUNT + 1
    if not 1 <= count <= MAX_COUNT:
        raise RequestError(
            tr(
                "device: %(count)s is not a number of devices between 1 and %(most)s.",
                count=match["count"][:20],
                most=MAX_COUNT,
            ),
            field="device",
            hint=tr("Give one such as 2xl40s."),
        )
    return count, find(match["name"])


def parse_mixed(text: str) -> list[tuple[int, Device]]:
    """Return how many of which devices a text names, in order: ``rtx-4090+rtx-3090``, ``2xl40s``.

    Raises
    ------
    RequestError, UnknownNameError
        As of `parse_devices`, for each part.

    Examples
    --------
    >>> [(count, device.id) for count, device in parse_mixed("2xrtx-4090+rtx-3090")]
    [(2, 'rtx-4090'), (1, 'rtx-3090')]
    """
    whole = "+" not in text or canonical(text) in _table().names
    return [parse_devices(part) for part in ([text] if whole else text.split("+"))]


def from_spec(name: str, capacity_bytes: int | None) -> Device:
    """Return a device of a given capacity under any name, or the one that the name means where there is no capacity.

    Parameters
    ----------
    capacity_bytes
        What a process sees. [bytes]
    """
    if capacity_bytes is None:
        return find(name)
    if not 0 < capacity_bytes <= MAX_CAPACITY:
        raise RequestError(
            tr(
                "device.capacity_bytes: %(value)s is not between 1 and %(most)s.",
                value=capacity_bytes,
                most=MAX_CAPACITY,
            ),
            field="device.capacity_bytes",
            hint=tr('Give bytes, for example {"name": "mine", "capacity_bytes": 25769803776}.'),
        )
    found = _table().names.get(canonical(name)) if name else None
    if found is not None:
        known = _device(found if isinstance(found, str) else found[0])
        return replace(
            known, capacity_bytes=capacity_bytes, capacity_interval=(capacity_bytes, capacity_bytes), basis="given",
            capacity_source="the request", notes=(),
        )  # fmt: skip
    low, typical, high = (mib * MIB for mib in _rules()["custom_overhead_mib"])
    return Device(
        id=name or "custom", name=name or "custom", vendor="", capacity_bytes=capacity_bytes,
        capacity_interval=(capacity_bytes, capacity_bytes), basis="given", capacity_source="the request",
        runtime_overhead=(low, typical, high), runtime_source="assumed: a device of an unknown kind",
    )  # fmt: skip


def names(pattern: str = "") -> list[str]:
    """Return the ids of the devices, or of those with a name that holds `pattern`; ``*`` and ``?`` are understood."""
    ids = list(_table().devices)
    if not pattern:
        return ids
    if any(sign in pattern for sign in "*?["):
        from fnmatch import fnmatchcase

        return [device for device in ids if fnmatchcase(device, pattern.lower())]
    wanted = canonical(pattern) or pattern
    found = [found for key, found in _table().names.items() if wanted in key]
    hits = {item for each in found for item in ([each] if isinstance(each, str) else each)}
    return [device for device in ids if device in hits]


def canonical(text: str) -> str:
    """Return a name without case, punctuation, brands and their marks, such as ``(TM)``; GiB and GB are one.

    >>> canonical("NVIDIA GeForce RTX 4090 24 GiB")
    'rtx409024gb'
    """
    plain = "".join(sign for sign in _MARKS.sub("", text).lower() if sign.isalnum()).replace("gib", "gb")
    stripped = True
    while stripped:
        stripped = False
        for brand in BRANDS:
            if plain.startswith(brand) and len(plain) > len(brand):
                plain, stripped = plain[len(brand) :], True
    for ending in ENDINGS:
        if plain.endswith(ending) and len(plain) > len(ending):
            return plain[: -len(ending)]
    return plain


@lru_cache(maxsize=1)
def _table() -> _Table:
    return msgspec.json.decode(read_bytes(TABLE), type=_Table)


@lru_cache(maxsize=1)
def _rules() -> dict[str, Any]:
    rules: dict[str, Any] = msgspec.json.decode(read_bytes(RULES))
    return rules


def _device(device: str) -> Device:
    row: dict[str, Any] = msgspec.json.decode(_table().devices[device])
    rules = _rules()
    (low, typical, high), source = seen(rules, device, row)
    taken, taken_source = overhead(rules, device, row)
    measured = bool(row.get("torch_total_memory_mib"))
    return Device(
        id=device,
        name=row["name"],
        vendor=row["vendor"],
        capacity_bytes=typical,
        capacity_interval=(low, high),
        basis="measured" if measured else "assumed",
        capacity_source=source,
        runtime_overhead=taken,
        runtime_source=taken_source,
        nominal_bytes=int(row.get("gb_per_visible_device", row["memory_gb"]) * GIB),
        nvidia_smi_bytes=int(row["nvidia_smi_mib"] * MIB) if row.get("nvidia_smi_mib") else None,
        torch_total_bytes=typical if measured else None,
        architecture=row.get("architecture", ""),
        compute_capability=row.get("compute_capability"),
        bandwidth_gb_s=row.get("bandwidth_gbps"),
        tflops=row.get("tflops_dense", {}),
        tflops_source=row.get("tflops_source", ""),
        supports=row.get("supports", {}),
        form_factor=row.get("form_factor", ""),
        unified_memory=bool(row.get("unified_memory")),
        notes=() if measured else (_capacity_note(row, low, typical, high), *_device_notes(row)),
    )


def _capacity_note(row: dict[str, Any], low: int, typical: int, high: int) -> str:
    sizes = {"low": low, "typical": typical, "high": high}
    figures = {"name": row["name"], **{name: format_bytes(size) for name, size in sizes.items()}}
    if row["vendor"] == "apple":
        return tr(
            "%(name)s: %(typical)s of its memory are taken to be the GPU's (macOS' default, %(low)s to %(high)s by its "
            "version); sysctl iogpu.wired_limit_mb changes it.",
            **figures,
        )
    if row.get("unified_memory"):
        return tr(
            "%(name)s shares its memory with the system: %(typical)s are taken to be free (%(low)s to %(high)s).",
            **figures,
        )
    return tr("%(name)s: that a process sees %(typical)s is assumed from like cards (%(low)s to %(high)s).", **figures)


def _device_notes(row: dict[str, Any]) -> tuple[str, ...]:
    if row.get("gb_per_visible_device"):
        size = row["gb_per_visible_device"]
        return (
            tr("%(name)s is two devices of %(size)s GB each: the figures are of one.", name=row["name"], size=size),
        )
    return ()


def _noted(device: Device, note: str) -> Device:
    return replace(device, notes=(note, *device.notes))


def _unknown(name: str) -> UnknownNameError:
    near = _alike(name)
    return UnknownNameError(
        tr("device: there is no '%(name)s' in the list of devices.", name=name),
        name,
        _table().devices,
        field="device",
        otherwise=tr("Did you mean %(names)s?", names=", ".join(f"'{device}'" for device in near))
        if near
        else tr("List the names with: vrameter devices. Or give its capacity, such as 24GiB."),
    )


def _alike(name: str) -> list[str]:
    """Return up to three devices one of whose other names looks like `name`: what a person writes is seldom an id."""
    found = [_table().names[key] for key in closest(canonical(name[:MAX_NAME]), _table().names)]
    return list(dict.fromkeys(each if isinstance(each, str) else each[0] for each in found))


__all__ = ["Device", "canonical", "find", "from_spec", "names", "parse_devices", "parse_mixed"]
