"""Which device holds which layers: ``device_map`` as transformers plans it, whole layers in turn.

A plan walks through the modules in order and fills one device after the other, host memory and the disk last. Device 0
and the CPU keep room for the largest layer still to come, so that one which lies further out can be brought in to run. A balanced plan
first bounds every GPU but the last by an equal part of the model and a quarter more than its largest module. Layers that
lie on the CPU or the disk run on the first GPU, where their caches are, and bring in one module at a time.

References
----------
.. [1] transformers 5.23, ``integrations/accelerate.py``: `get_balanced_memory`, `infer_auto_device_map`.
.. [2] accelerate 1.15, ``big_modeling.py``: `dispatch_model`, hooks on every module that has parameters of its own.
.. [3] transformers 5.23, ``quantizers``: quantising while loading leaves another tenth free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vrameter.devices import Device
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import DISK, HOST
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import Architecture, Component
from vrameter.parallel import layer_split, pieces, placed
from vrameter.settings.transformers import TransformersSettings
from vrameter.units import parse_bytes

UNBOUNDED = 2**62
_LOSES_A_TENTH = ("bnb", "quanto", "torchao", "bitnet")


@dataclass(frozen=True, slots=True)
class Share:
    """What one device has.

    Parameters
    ----------
    place
        Which device of one copy of the model, `HOST` or `DISK`.
    holds
        What its memory holds.
    runs
        What it computes: what it holds, and on the first GPU what lies on the CPU and the disk.
    visiting
        The most that is brought in for a moment. [bytes]
    last
        Whether it runs the last layers, and makes the logits.
    """

    place: int
    holds: Architecture
    runs: Architecture
    visiting: int = 0
    last: bool = True


def balanced_rooms(sizes: Sequence[int], rooms: Sequence[int], *, low_zero: bool = False) -> list[int]:
    """Return the room of each GPU under a balanced plan [1]_. [bytes].

    >>> balanced_rooms([10] * 8, [100, 100])
    [52, 100]
    """
    found = list(rooms)
    count = len(rooms)
    if count == 1:
        return found
    each = sum(sizes) // (count - 1 if low_zero else count) + int(1.25 * max(sizes, default=0))
    for index in range(count - 1):
        if not (low_zero and index == 0):
            found[index] = min(each, found[index])
    if low_zero:
        found[0] = min(max(0, sum(sizes) - sum(found[1:])), found[0])
    return found


def planned(sizes: Sequence[int], rooms: Sequence[int], host: int) -> tuple[int, ...]:
    """Return the place of each piece: devices are filled in turn, then the host, then the disk [1]_.

    >>> planned([4, 4, 4, 4], [9, 9], 100), planned([4, 4, 4, 4], [9], 4), planned([4, 4], [9], 100)
    ((0, 1, 1, -1), (0, -2, -2, -2), (0, 0))
    """
    order = [*range(len(rooms)), HOST, DISK]
    capacity = {**dict(enumerate(rooms)), HOST: host, DISK: UNBOUNDED}
    largest = [0] * len(sizes)  # of the pieces that follow
    for index in range(len(sizes) - 2, -1, -1):
        largest[index] = max(sizes[index + 1], largest[index + 1])
    found: list[int] = []
    at = used = 0
    for index, size in enumerate(sizes):
        while order[at] != DISK:
            kept = largest[index] if order[at] in (0, HOST) else 0
            if used + size <= capacity[order[at]] - kept:
                break
            at, used = at + 1, 0
        used += size
        found.append(order[at])
    return tuple(found)


def rooms_of(
    settings: TransformersSettings, devices: Sequence[Device], count: int, plan: WeightPlan
) -> tuple[list[int], int]:
    """Return what weights may take of each GPU and of host memory before a plan is balanced. [bytes].

    Raises
    ------
    RequestError
        For a device that is not there, or a size that is none.
    """
    free = [device.capacity_bytes - device.runtime_overhead[1] for device in devices] or [UNBOUNDED] * count
    given = settings.max_memory
    host = UNBOUNDED
    if given is not None:
        known = {str(index) for index in range(count)} | {"cpu", "disk"}
        for name in given:
            if name not in known:
                raise RequestError(
                    tr("settings.max_memory: there is no device '%(value)s' among %(count)s.", value=name, count=count),
                    field="settings.max_memory",
                    hint=tr('Give sizes by number, such as {"0": "20GiB", "cpu": "64GiB"}.'),
                )
        free = [min(room, _size(given, str(index))) for index, room in enumerate(free)]
        host = _size(given, "cpu")
    elif count == 1 and settings.device_map != "sequential":
        free = [room * 9 // 10 for room in free]
    if (plan.quantization or "").startswith(_LOSES_A_TENTH):
        free = [room * 9 // 10 for room in free]
    return free, host


def _size(given: Mapping[str, int | str], name: str) -> int:
    """Return the room that a request gives a device; none where it gives others only. [bytes]."""
    value = given.get(name, 0)
    size = parse_bytes(value) if isinstance(value, str) else value
    if size is None or size < 0:
        raise RequestError(
            tr("settings.max_memory: '%(value)s' is not a size.", value=value),
            field="settings.max_memory",
            hint=tr("Give bytes or a text such as 20GiB."),
        )
    return size


def shares_of(
    whole: Architecture,
    plan: WeightPlan,
    settings: TransformersSettings,
    devices: Sequence[Device],
    count: int,
    *,
    staged: bool,
) -> tuple[Share, ...]:
    """Return what every device of one copy of a model has, in order; host and disk last.

    Parameters
    ----------
    devices
        Every GPU of the copy, none where none is named.
    staged
        Whether the stages of a pipeline were asked for: they are as equal as whole layers allow.
    """
    if settings.device_map is None and settings.max_memory is None:
        if count == 1:
            return (Share(0, whole, whole),)
        if staged:
            parts = layer_split(whole, count, plan.piece_bytes)
            return tuple(Share(place, part, part, last=place == len(parts) - 1) for place, part in enumerate(parts))
    rooms, host = rooms_of(settings, devices, count, plan)
    moving = settings.device_map is not None or settings.max_memory is not None
    return _planned_shares(whole, plan, settings.device_map or "auto", tuple(rooms), host if moving else -1)


def _planned_shares(
    whole: Architecture, plan: WeightPlan, kind: str, rooms: tuple[int, ...], host: int
) -> tuple[Share, ...]:
    key = ("shares", id(plan), kind, rooms, host)
    known = whole.__dict__.setdefault("_planned", {})
    if key not in known:
        known[key] = (plan, _shared_out(whole, plan, kind, rooms, host))
    found: tuple[Share, ...] = known[key][1]
    return found


def _shared_out(
    whole: Architecture, plan: WeightPlan, kind: str, rooms: tuple[int, ...], host: int
) -> tuple[Share, ...]:
    """Return the shares of a plan; a negative `host` says that nothing leaves the GPUs: the last takes what is over."""
    order = list(pieces(whole))
    sizes = [plan.piece_bytes(component, index) for component, index in order]
    bounds = list(rooms) if kind == "sequential" else balanced_rooms(sizes, rooms, low_zero=kind == "balanced_low_0")
    places = planned(sizes, bounds, max(host, 0))
    if host < 0:
        places = tuple(len(rooms) - 1 if place in (HOST, DISK) else place for place in places)
    held = placed(whole, places)
    away = [index for index, place in enumerate(places) if place in (HOST, DISK)]
    last = _place_of_head(order, places)
    shares = []
    for place, holds in held.items():
        if place == 0 and away:
            runs = placed(whole, tuple(0 if each in (HOST, DISK) else each for each in places))[0]
            shares.append(Share(0, holds, runs, _visiting(plan, order, away), last == 0))
        elif place not in (HOST, DISK):
            shares.append(Share(place, holds, holds, last=place == last))
    if away and 0 not in held:
        runs = placed(whole, tuple(0 if each in (HOST, DISK) else each for each in places))[0]
        shares.insert(0, Share(0, _nothing(whole), runs, _visiting(plan, order, away), last == 0))
    shares += [Share(place, held[place], _nothing(whole), last=False) for place in (HOST, DISK) if place in held]
    return tuple(shares)


def _place_of_head(order: Sequence[tuple[Component, int | None]], places: Sequence[int]) -> int:
    """Return the GPU that makes logits: where the head is, which a table that it is tied to takes along."""
    found = places[-1]
    for slot in ("token", "head"):
        for (component, index), place in zip(order, places, strict=True):
            if index is None and any(tensor.slot == slot for tensor in component.tensors):
                found = place
    return 0 if found in (HOST, DISK) else found


def _nothing(whole: Architecture) -> Architecture:
    """Return a share of a model without anything."""
    return replace(whole, components=())


def _visiting(plan: WeightPlan, order: Sequence[tuple[Component, int | None]], away: Sequence[int]) -> int:
    """Return the largest matrix among pieces that are not on a GPU: modules are brought in one by one. [bytes]."""
    most = 0
    for number in away:
        component, index = order[number]
        tensors = component.tensors if index is None else component.layers[index].all_tensors
        for tensor in tensors:
            stored = plan.stored(component, index, tensor)
            most = max(most, sum(form.bytes_of(shape).total for form, shape in stored))
    return most
