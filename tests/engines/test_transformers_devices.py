"""transformers over several devices: plans as accelerate makes them, the host, the disk, unequal GPUs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.engines.transformers.placement import balanced_rooms, planned
from vrameter.errors import RequestError
from vrameter.ledger import DISK, HOST

GIB = 2**30
LAYER, TABLE = 1_711_308_800, 128256 * 8192 * 2  # of Llama 3.1 70B in bf16


def ask(device: str | None, model: str = "llama-3.1-70b", **fields: Any) -> vrameter.Response:
    return vrameter.estimate({"model": model, "device": device, "engine": "transformers", **fields})


def weights(response: vrameter.Response) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in response["devices"]:
        own = sum(item["bytes"] for item in entry["items"] if item["term"] == "weights")
        found[entry["name"]] = found.get(entry["name"], 0) + own * entry.get("count", 1)
    return found


def test_a_balanced_plan_bounds_all_but_the_last() -> None:
    assert balanced_rooms([10] * 8, [100, 100, 100]) == [38, 38, 100]
    assert balanced_rooms([10] * 8, [20, 100], low_zero=False) == [20, 100]
    assert balanced_rooms([10] * 8, [100, 100, 100], low_zero=True) == [0, 52, 100]


def test_the_first_device_keeps_room_for_the_largest_layer() -> None:
    assert planned([4, 4, 4, 4], [9, 9], 100) == (0, 1, 1, HOST)
    assert planned([4, 4, 4, 4], [9, 9], 9) == (0, 1, 1, HOST)
    assert planned([4, 4, 4, 4], [9, 9], 3) == (0, 1, 1, DISK)


def test_what_does_not_fit_goes_to_the_host() -> None:
    """A 24 GB card: 90 % of what is free less the largest module, which is the token table."""
    answer = ask("rtx-4090", settings={"device_map": "auto"})
    device = weights(answer)["rtx-4090"]
    room = (answer["devices"][0]["capacity_bytes"] - 450 * 2**20) * 9 // 10
    assert room - TABLE - LAYER < device <= room - TABLE
    assert device == TABLE + 8192 * 2 + (device - TABLE) // LAYER * LAYER
    assert sum(weights(answer).values()) == 141_107_412_992
    assert [entry["name"] for entry in answer["devices"]] == ["rtx-4090", "host"]


def test_layers_elsewhere_cache_on_the_first_gpu() -> None:
    answer = ask("rtx-4090", settings={"device_map": "auto", "context_length": 1024})
    caches = [item["bytes"] for item in answer["devices"][0]["items"] if item["term"] == "kv_cache"]
    assert caches == [1024 * 327_680]


def test_the_disk_takes_the_rest() -> None:
    room = {"0": "20GiB", "1": "20GiB", "2": "20GiB", "cpu": "40GiB"}
    answer = ask("rtx-4090+2xrtx-3090", settings={"device_map": "auto", "max_memory": room})
    held = weights(answer)
    assert set(held) == {"rtx-4090", "rtx-3090", "host", "disk"}
    assert held["host"] <= 40 * GIB - LAYER
    assert sum(held.values()) == 141_107_412_992


def test_unequal_gpus_without_a_plan_keep_all_layers() -> None:
    answer = ask("rtx-4090+rtx-3090", quantization="bnb-nf4")
    assert {entry["name"] for entry in answer["devices"]} == {"rtx-4090", "rtx-3090"}
    rooms = [entry["headroom_bytes"] for entry in answer["devices"]]
    assert rooms == sorted(rooms)
    assert answer["request"]["device"] == "rtx-4090+rtx-3090"


def test_kinds_of_plan() -> None:
    even = ask("4xh100", settings={"device_map": "balanced"})
    turn = ask("4xh100", settings={"device_map": "sequential"})
    assert len(even["devices"]) >= 3
    assert len(turn["devices"]) == 2, "the first device is filled before the next is used"
    assert len(ask("4xh200", settings={"device_map": "sequential"})["devices"]) == 1, "one holds all of it"


@pytest.mark.parametrize("given_", [{"7": "1GiB"}, {"0": "much"}, {"gpu": 3}])
def test_bad_rooms_are_refused(given_: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        ask("2xh100", settings={"max_memory": given_})
    assert caught.value.field == "settings.max_memory"


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=30),
    st.lists(st.integers(0, 200), min_size=1, max_size=4),
    st.integers(0, 300),
)
def test_no_device_is_overfull(sizes: list[int], rooms: list[int], host: int) -> None:
    places = planned(sizes, rooms, host)
    for place, room in [*enumerate(rooms), (HOST, host)]:
        held = [size for size, where in zip(sizes, places, strict=True) if where == place]
        assert sum(held) <= room
    order = [place if place >= 0 else len(rooms) - place for place in places]
    assert order == sorted(order)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["llama-3.1-8b", "gemma-2-9b", "qwen3-30b-a3b", "t5-base"]),
    st.sampled_from(["rtx-3060-12gb", "rtx-4090+rtx-3060-12gb", "8GiB", "3xt4"]),
    st.sampled_from([None, "auto", "balanced_low_0", "sequential"]),
)
def test_shares_sum_to_the_model(model: str, device: str, plan: str | None) -> None:
    whole = ask(None, model)["report"]["weights_bytes"]
    answer = ask(device, model, settings={"device_map": plan} if plan else {})
    assert sum(weights(answer).values()) == whole
