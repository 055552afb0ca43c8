"""The answer back: what fits at most, and which changes would help how much, asked of the same functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from vrameter.engines import Answer, Ask
from vrameter.errors import VrameterError
from vrameter.i18n import tr
from vrameter.search import largest_fitting
from vrameter.training.proposals import HOST, SHARDS_BY_FSDP, TRAINERS, Proposal, proposals
from vrameter.training.setup import Setup

MOST = {"micro_batch": 4096, "seq_len": 2**22}
MORE_DEVICES = (2, 4, 8, 16, 32, 64)
WORTH = 200  # a change counts among several where it saves one part in so many
Estimate = Callable[[Ask], Answer]


def changed(ask: Ask, *, settings: dict[str, Any] | None = None, **fields: Any) -> Ask:
    """Return the same question with other settings and fields."""
    merged = {**ask.request.settings, **(settings or {}), "advise": False}
    return replace(ask, request=msgspec.structs.replace(ask.request, settings=merged, **fields))


def limits(asked: Setup, estimate: Estimate) -> dict[str, int]:
    """Return the largest micro-batch and the longest sequence that fit, each with all else as asked."""
    device = asked.ask.device
    if device is None:
        return {}
    found = {}
    positions = asked.architecture.main.max_positions
    image = asked.architecture.network is not None
    for name, most in MOST.items():
        if image and name == "seq_len":
            continue
        bound = min(most, positions) if name == "seq_len" and positions else most

        def headroom(number: int, name: str = name) -> int:
            answer = estimate(changed(asked.ask, settings={name: number, **_totals(asked, name, number)}))
            return device.capacity_bytes - answer.ledgers[0][0].peak().used

        found[name] = largest_fitting(headroom, most=bound, start=getattr(asked.settings, name) or asked.length)
    return found


def _totals(asked: Setup, name: str, number: int) -> dict[str, Any]:
    """Return the totals of a step with as many passes as asked, where the request states them."""
    settings = asked.settings
    if name != "micro_batch":
        return {}
    totals = {"local_batch": settings.local_batch, "global_batch_size": settings.global_batch_size}
    return {key: value // settings.micro_batch * number for key, value in totals.items() if value}


class Search:
    """What other settings of one request need.

    Parameters
    ----------
    peak
        What the request as asked needs. [bytes]
    """

    def __init__(self, asked: Setup, peak: int, estimate: Estimate) -> None:
        self.asked, self.peak, self.estimate = asked, peak, estimate
        self.capacity = asked.ask.device.capacity_bytes if asked.ask.device else None

    def need(self, chosen: Sequence[Proposal], *, num_devices: int | None = None) -> int | None:
        """Return what changes made together need, None where no run can have them. [bytes]."""
        settings, fields = _merged(chosen)
        try:
            ask = changed(self.asked.ask, settings=settings, **fields)
            answer = self.estimate(replace(ask, num_devices=num_devices) if num_devices else ask)
        except VrameterError:
            return None
        return answer.ledgers[0][0].peak().used

    def fits(self, need: int | None) -> bool:
        """Say whether that fits on the device."""
        return need is not None and self.capacity is not None and need <= self.capacity

    def entry(self, chosen: Sequence[Proposal], need: int, *, num_devices: int | None = None) -> dict[str, Any]:
        """Return changes as the response carries them."""
        settings, fields = _merged(chosen)
        found: dict[str, Any] = {
            "change": " + ".join(each.label for each in chosen), "saves_bytes": self.peak - need, "peak_bytes": need,
        }  # fmt: skip
        if settings:
            found["settings"] = settings
        for name, value in fields.items():
            found[name] = msgspec.to_builtins(value)
        device = self.asked.ask.device
        if num_devices and device is not None:
            found["num_devices"] = num_devices
            if isinstance(self.asked.ask.request.device, str):
                found["device"] = f"{num_devices}x{device.id}"
        if self.capacity is not None:
            found["fits"] = need <= self.capacity
            found["headroom_bytes"] = self.capacity - need
        if len(chosen) > 1:
            found["together"] = [each.label for each in chosen]
        return found

    def together(self, candidates: Sequence[Proposal]) -> tuple[list[Proposal], int]:
        """Return changes that need least together, none of them idle, until they fit; one of each kind at most."""
        chosen: list[Proposal] = []
        used = self.peak
        while not self.fits(used):
            needs = [
                (need, number)
                for number, each in enumerate(candidates)
                if all(each.goes_with(other) for other in chosen) and (need := self.need([*chosen, each])) is not None
            ]
            least, number = min(needs, default=(used, -1))
            if used - least < self.peak // WORTH:
                break
            chosen.append(candidates[number])
            used = least
        chosen.sort(key=candidates.index)
        for each in tuple(chosen):
            rest = [other for other in chosen if other is not each]
            need = self.need(rest)
            if rest and need is not None and self.fits(need):
                chosen, used = rest, need
        return chosen, used


def _merged(chosen: Sequence[Proposal]) -> tuple[dict[str, Any], dict[str, Any]]:
    settings: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for each in chosen:
        settings |= each.settings
        fields |= each.fields
    return settings, fields


def changes(asked: Setup, peak: int, estimate: Estimate) -> list[dict[str, Any]]:
    """Return what would need less: the change that saves most first; where none makes it fit, changes that do together.

    Parameters
    ----------
    peak
        What the request as asked needs. [bytes]
    """
    search = Search(asked, peak, estimate)
    candidates = proposals(asked)
    needs = [(each, search.need([each])) for each in candidates]
    useful = sorted(
        ((need, each) for each, need in needs if need is not None and need < peak), key=lambda pair: pair[0]
    )
    found = [search.entry([each], need) for need, each in useful]
    if search.capacity is None or peak <= search.capacity or any(entry["fits"] for entry in found):
        return found
    return [*found, *_combined(search, candidates)]


# Kinds of changes that are left out, pass by pass, so that what costs least beside memory comes first: nothing but
# computing again, then traffic with the host, then what is trained, then what is read.
COURTEOUS = (("trained", "length", HOST), ("trained", "length"), ("length", HOST), ("length",), ())
SHOWN_TOGETHER = 2


def _combined(search: Search, candidates: Sequence[Proposal]) -> list[dict[str, Any]]:
    """Return changes that fit together: those that leave alone what is trained, and those that do not."""
    found: dict[bool, dict[str, Any]] = {}
    chosen: list[Proposal] = []
    used = search.peak
    for without in COURTEOUS:
        as_trained = "trained" in without
        if as_trained in found or (found and not without):
            continue
        chosen, used = search.together([each for each in candidates if each.kind not in without])
        if search.fits(used) and (as_trained or any(each.kind == "trained" for each in chosen) or not found):
            found[as_trained] = search.entry(chosen, used)
    if found:
        return list(found.values())[:SHOWN_TOGETHER]
    more = _more_devices(search, candidates)
    return more or ([search.entry(chosen, used)] if len(chosen) > 1 else [])


def _more_devices(search: Search, candidates: Sequence[Proposal]) -> list[dict[str, Any]]:
    """Return how many devices would hold the run, every tensor in shards: as it is asked, or with what is only computed again."""
    asked = search.asked
    mild = list({each.kind: each for each in reversed(candidates) if each.kind in ("activations", "loss")}.values())
    if asked.stack.name not in (*TRAINERS, *SHARDS_BY_FSDP, "torchtitan"):
        return []
    given = msgspec.structs.replace(asked.ask.request.parallelism, data=1)
    if asked.stack.name in TRAINERS and not asked.degrees.fsdp:
        parallelism = msgspec.structs.replace(given, zero_stage=3)
    else:
        parallelism = given if asked.degrees.splits_weights else msgspec.structs.replace(given, fsdp="full_shard")
    for count in MORE_DEVICES:
        if count <= asked.ask.num_devices:
            continue
        label = tr("%(count)s devices, every tensor in shards", count=count)
        shared = Proposal(label, "shards", {}, {"parallelism": parallelism})
        for chosen in ([shared], [shared, *mild]):
            need = search.need(chosen, num_devices=count)
            if need is not None and search.fits(need):
                return [search.entry(chosen, need, num_devices=count)]
    return []


__all__ = ["changed", "changes", "limits"]
