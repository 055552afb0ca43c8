"""catalog/devices.json and catalog/device_rules.json -> the embedded table of devices and the names that they go by."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from vrameter.devices import RULES, TABLE, canonical

KEPT = (
    "vendor", "architecture", "compute_capability", "memory_gb", "nvidia_smi_mib", "nvidia_smi_source",
    "torch_total_memory_mib", "torch_source", "bandwidth_gbps", "tflops_dense", "tflops_source", "supports",
    "form_factor", "unified_memory", "note", "gb_per_visible_device", "allocatable_gib", "allocatable_source",
    "spec_source", "nvlink", "tdp_w", "released",
)  # fmt: skip
FORMS = re.compile(r"\b(SXM|PCIe|NVL|OAM)(\d?)\b")
MEMORY = re.compile(r"\b(\d+) ?GB\b")
BRANDS = re.compile(r"^(RTX|GTX|RX|Arc|Quadro|Radeon PRO)\s+")


def slug(name: str) -> str:
    """Return the id of a name: ``H100 SXM5 80GB`` -> ``h100-sxm-80gb``."""
    text = FORMS.sub(lambda found: found[1], re.sub(r"\(.*?\)|\+", "", name))
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def variants(name: str, memory: int) -> set[str]:
    """Return the forms of a card's name with and without its form factor, its memory and its brand."""
    bare = re.sub(r"\(.*?\)", "", name)
    form, size = FORMS.search(bare), f"{memory}GB"
    base = " ".join(MEMORY.sub("", FORMS.sub("", bare)).split())
    forms = ["", *({form[0], form[1]} if form else ())]
    bases = {base, BRANDS.sub("", base), re.sub(r" (Ada|Blackwell)$", "", base), re.sub(r"^Quadro ", "", base)}
    found = set()
    for stem, shape in product(bases, forms):
        found |= {f"{stem} {shape}", f"{stem} {shape} {size}", f"{stem} {size} {shape}"}
    return {text for text in found if not canonical(text).isdigit() or len(canonical(text)) >= 3}


def build_devices(catalog: Path) -> dict[str, bytes]:
    """Return the table of devices and the rules, as files by name."""
    rules = json.loads((catalog / "device_rules.json").read_text())
    order = {device: place for place, device in enumerate(rules["commonest"]["ids"])}
    devices: dict[str, dict[str, Any]] = {}
    exact: dict[str, list[str]] = defaultdict(list)
    loose: dict[str, list[str]] = defaultdict(list)

    def add(name: str, row: dict[str, Any], *, memory: float, aliases: list[str], families: list[str]) -> None:
        device = slug(name)
        if device in devices:
            raise SystemExit(f"two devices are called {device}")
        devices[device] = {
            "name": name,
            **{key: row[key] for key in KEPT if row.get(key) not in (None, {}, "")},
            "memory_gb": memory,
        }
        for text in (name, device, device.replace("-", " "), *aliases):
            exact[canonical(text)].append(device)
        for text in (*variants(name, int(memory)), *families):
            loose[canonical(text)].append(device)

    for row in json.loads((catalog / "devices.json").read_text()):
        if row["vendor"] == "apple":
            for size in row["memory_options_gb"]:
                family = [row["name"], *row["aliases"]]
                add(
                    f"{row['name']} {size}GB",
                    row,
                    memory=size,
                    aliases=[f"{text} {size}GB" for text in family],
                    families=family,
                )
        else:
            add(row["name"], row, memory=row["memory_gb"], aliases=row["aliases"], families=[])
    unknown = sorted(set(order) - set(devices))
    if unknown:
        raise SystemExit(f"the commonest cards name devices that are not listed: {unknown}")
    table: dict[str, str | list[str]] = {}
    for key in sorted({*exact, *loose}):
        found = list(dict.fromkeys([*sorted(exact[key], key=lambda item: order.get(item, 999)), *loose[key]]))
        if not exact[key]:
            found.sort(key=lambda item: order.get(item, 999))
        table[key] = found[0] if len(found) == 1 else found[:5]
    slim = {key: value for key, value in rules.items() if key not in ("about", "commonest")}
    return {
        TABLE: msgspec.json.encode({"names": table, "devices": devices}) + b"\n",
        RULES: msgspec.json.encode(slim) + b"\n",
    }
