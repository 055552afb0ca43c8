"""Devices: names, capacities, rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrameter import devices
from vrameter.devices import Device
from vrameter.errors import RequestError, UnknownNameError, VrameterError
from vrameter.units import GIB, MIB

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "catalog" / "devices.json").read_text())
ALL = devices.names()


def test_every_listed_device_resolves_by_every_name() -> None:
    assert len(ROWS) == 201
    for row in ROWS:
        for name in (row["name"], *row["aliases"]):
            found = devices.find(name)
            assert found.name == row["name"] or (row["vendor"] == "apple" and found.name.startswith(row["name"])), (
                name,
                found.id,
            )


def test_every_id_resolves_to_itself() -> None:
    for device in ALL:
        assert devices.find(device).id == device


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_case_and_punctuation_do_not_matter(data: st.DataObject) -> None:
    device = data.draw(st.sampled_from(ALL))
    changed = "".join(
        data.draw(st.sampled_from(["", "-", "_", " "]))
        if sign == "-"
        else data.draw(st.sampled_from([sign, sign.upper()]))
        for sign in device
    )
    assert devices.find(changed).id == device


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h100", "h100-sxm-80gb"),
        ("h100-80gb", "h100-sxm-80gb"),
        ("h100-sxm-80gb", "h100-sxm-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("RTX 4090 24GB", "rtx-4090"),
        ("m3 max 64gb", "apple-m3-max-64gb"),
        ("mi300x", "mi300x"),
        ("a100", "a100-sxm-80gb"),
        ("a100-40gb", "a100-sxm-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("l40s-48gb", "l40s"),
        ("a10g-24gb", "a10g"),
        ("t4-16gb", "t4"),
        ("v100-sxm2-16gb", "v100-sxm-16gb"),
        ("h100-96gb", "h100-sxm-96gb"),
        ("a800-80gb", "a800-sxm-80gb"),
        ("7900 xtx", "rx-7900-xtx"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090-laptop"),
        ("DGX Spark", "gb10"),
        ("A6000", "rtx-a6000"),
        ("rtx 4090 24 GiB", "rtx-4090"),
        ("Tesla T4", "t4"),
    ],
)
def test_forgiving_names(name: str, expected: str) -> None:
    assert devices.find(name).id == expected


def test_a_familys_name_says_which_card_it_was_taken_for() -> None:
    assert "a100-sxm-80gb" in devices.find("a100").notes[0]
    assert devices.find("a100-sxm-80gb").notes == ()


@pytest.mark.parametrize(
    ("text", "count", "device"),
    [
        ("2xl40s", 2, "l40s"),
        ("8 x H100", 8, "h100-sxm-80gb"),
        ("H100 x8", 8, "h100-sxm-80gb"),
        ("Intel(R) Arc(TM) B580 Graphics", 1, "arc-b580"),
        ("4xh100-sxm-80gb", 4, "h100-sxm-80gb"),
        ("l40s", 1, "l40s"),
        ("2×4090", 2, "rtx-4090"),
        ("2 * 24GiB", 2, "24GiB"),
        ("7900 XTX", 1, "rx-7900-xtx"),
        ("4090", 1, "rtx-4090"),
    ],
)
def test_counted_devices(text: str, count: int, device: str) -> None:
    found, each = devices.parse_devices(text)
    assert (found, each.id) == (count, device)


@pytest.mark.parametrize("text", ["0xh100", "h100 x0", "99999999999999999999xh100"])
def test_a_number_of_devices_is_checked(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        devices.parse_devices(text)
    assert caught.value.field == "device"


@pytest.mark.parametrize(
    ("text", "device"), [("Jetson Orin", "jetson"), ("a100-80", "a100"), ("h1000", "h100"), ("4900", "4090")]
)
def test_a_name_that_is_no_id_is_compared_with_the_other_names(text: str, device: str) -> None:
    with pytest.raises(VrameterError) as caught:
        devices.find(text)
    assert device in (caught.value.hint or "")


@given(st.text(max_size=30))
def test_any_text_is_a_device_or_an_error_with_a_field(text: str) -> None:
    count, capacity, field = 1, 1, "device"
    try:
        count, device = devices.parse_devices(text)
        capacity = device.capacity_bytes
    except VrameterError as error:
        field = error.field or ""
    assert count >= 1
    assert capacity > 0
    assert field


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        devices.find("h100-sxm-81gb")
    assert "h100-sxm-80gb" in (caught.value.hint or "")


def test_a_size_alone_is_a_card_of_that_capacity() -> None:
    assert devices.find("24GiB").capacity_bytes == 24 * GIB
    assert devices.find("24GB").capacity_bytes == 24 * 10**9
    assert devices.find("24GB").basis == "given"


def test_a_given_capacity_stands_under_any_name() -> None:
    mine = devices.from_spec("mine", 10 * GIB)
    assert (mine.name, mine.capacity_bytes, mine.basis) == ("mine", 10 * GIB, "given")
    known = devices.from_spec("h100-sxm-80gb", 85_029_615_043)
    assert (known.id, known.vendor, known.capacity_bytes) == ("h100-sxm-80gb", "nvidia", 85_029_615_043)
    with pytest.raises(RequestError):
        devices.from_spec("mine", 0)


def each() -> list[Device]:
    return [devices.find(device) for device in ALL]


def test_capacities_are_sane() -> None:
    for device in each():
        low, high = device.capacity_interval
        assert 0 < low <= device.capacity_bytes <= high, device.id
        assert device.nominal_bytes is not None
        assert device.capacity_bytes <= device.nominal_bytes, device.id
        if device.nvidia_smi_bytes is not None:
            assert device.capacity_bytes <= device.nvidia_smi_bytes <= device.nominal_bytes * 1.03, device.id
        assert device.capacity_bytes >= 0.65 * device.nominal_bytes, device.id
        assert device.capacity_source
        assert device.runtime_source
        assert list(device.runtime_overhead) == sorted(device.runtime_overhead)
        assert (device.basis == "measured") == (device.torch_total_bytes is not None)
        assert (device.basis == "measured") or device.notes, device.id


@pytest.mark.parametrize(
    ("name", "mib", "gb"),
    [
        ("h100-sxm-80gb", 81559, 85.52),
        ("a100-sxm-80gb", 81920, 85.90),
        ("a100-sxm-40gb", 40960, 42.95),
        ("a10g", 23028, 24.15),
        ("l40s", 46068, 48.31),
        ("l4", 23034, 24.15),
        ("t4", 15360, 16.11),
    ],
)
def test_nvidia_smi_totals(name: str, mib: int, gb: float) -> None:
    """modal-labs/modal-client PR 2797."""
    device = devices.find(name)
    assert device.nvidia_smi_bytes == mib * MIB
    assert device.nvidia_smi_bytes / 10**9 == pytest.approx(gb, abs=0.02)


@pytest.mark.parametrize(("name", "gib"), [("m1 16gb", 11.84), ("m2 24gb", 17.76), ("m4 max 128gb", 107.52)])
def test_apple_working_sets(name: str, gib: float) -> None:
    """Seen in llmfit 754, sglang 29949, ds4 893."""
    assert devices.find(name).capacity_bytes / GIB == pytest.approx(gib, rel=0.01)


def test_measured_cards_agree_with_the_rule_of_their_class() -> None:
    """The rule that stands in for unmeasured cards includes every measured one of its class."""
    from vrameter.devices.capacity import seen

    rules = json.loads((ROOT / "catalog" / "device_rules.json").read_text())
    checked = 0
    for row in ROWS:
        if row["torch_total_memory_mib"] and row["nvidia_smi_mib"]:
            device = devices.find(row["name"]).id
            (low, _, high), _ = seen(rules, device, {**row, "torch_total_memory_mib": None})
            assert low <= row["torch_total_memory_mib"] * MIB <= high, row["name"]
            checked += 1
    assert checked >= 10


def test_every_rule_names_its_source() -> None:
    rules = json.loads((ROOT / "catalog" / "device_rules.json").read_text())
    for rule in (*rules["capacity_classes"], *rules["overhead_classes"], *rules["unified"]["apple"]):
        assert rule["source"]
        assert rule["date"]


def test_names_by_pattern() -> None:
    assert "h100-sxm-80gb" in devices.names("H100")
    assert devices.names("rtx-409*") == ["rtx-4090", "rtx-4090-d", "rtx-4090-laptop"]


@pytest.mark.parametrize(
    ("name", "expected", "gib"),
    [
        ("a100 1g.10gb", "a100-sxm-80gb-mig-1g.10gb", 10),
        ("A100 MIG 1g.5gb", "a100-sxm-40gb-mig-1g.5gb", 5),
        ("H100 MIG 3g.40gb", "h100-sxm-80gb-mig-3g.40gb", 40),
        ("h200-1g.18gb", "h200-sxm-141gb-mig-1g.18gb", 18),
        ("a30 1g.6gb", "a30-mig-1g.6gb", 6),
        ("h100 7g.80gb", "h100-sxm-80gb-mig-7g.80gb", 80),
    ],
)
def test_slices_of_a_card(name: str, expected: str, gib: int) -> None:
    """Memory of a multi-instance GPU comes in eighths of the card."""
    device = devices.find(name)
    assert device.id == expected
    assert 0.9 * gib * GIB < device.capacity_bytes < gib * GIB
    assert device.capacity_interval[0] < device.capacity_bytes < device.capacity_interval[1]
    assert devices.find(device.id) == device


@pytest.mark.parametrize("name", ["rtx-4090 1g.3gb", "a100 1g.33gb", "nothing 1g.10gb", "1g.10gb"])
def test_slices_that_are_none(name: str) -> None:
    with pytest.raises(VrameterError) as caught:
        devices.find(name)
    assert caught.value.field == "device"
    assert caught.value.hint


def test_devices_of_several_kinds() -> None:
    found = devices.parse_mixed("2xrtx-4090+rtx-3090")
    assert [(count, device.id) for count, device in found] == [(2, "rtx-4090"), (1, "rtx-3090")]
    with pytest.raises(UnknownNameError):
        devices.parse_mixed("rtx-4090+nothing-of-the-kind")
