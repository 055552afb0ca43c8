"""The words that people read for the identifiers that programs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrameter.i18n import tr
from vrameter.units import format_bytes


def term_label(term: str) -> str:
    """Return the name of a memory term."""
    labels = {
        "weights": tr("weights"),
        "kv_cache": tr("KV cache"),
        "state_cache": tr("recurrent states"),
        "activations": tr("activations"),
        "compute": tr("compute buffer"),
        "logits": tr("logits"),
        "temporary": tr("temporary copies"),
        "workspace": tr("library workspace"),
        "fragmentation": tr("allocator slack"),
        "runtime": tr("driver and context"),
        "non_torch": tr("libraries"),
        "cuda_graphs": tr("CUDA graphs"),
        "draft": tr("draft model"),
        "reserved": tr("left alone"),
        "master_weights": tr("the optimizer's copy of the weights"),
        "adapters": tr("adapters"),
        "other_models": tr("reference and reward models"),
        "rollout_engine": tr("rollout engine"),
        "ema": tr("averaged copy of the weights"),
        "gradients": tr("gradients"),
        "communication": tr("communication buffers"),
        "communicators": tr("NCCL's own memory"),
        "cache": tr("encoded samples"),
        "optimizer_state": tr("optimizer state"),
    }
    return labels.get(term, term)


def phase_label(phase: str) -> str:
    """Return the name of a phase."""
    labels = {
        "load": tr("loading"),
        "prefill": tr("reading the prompt"),
        "decode": tr("generating"),
        "text_encode": tr("encoding the prompt"),
        "denoise": tr("denoising"),
        "vae_decode": tr("decoding the picture"),
        "vae_encode": tr("encoding the picture"),
        "forward": tr("the forward pass"),
        "inference": tr("inference"),
        "profile": tr("the profile run"),
        "serve": tr("serving"),
        "loss": tr("the loss"),
        "backward": tr("the backward pass"),
        "step": tr("the optimizer's step"),
        "save": tr("saving"),
    }
    return labels.get(phase, phase)


def basis_label(basis: str) -> str:
    """Return how a number came about."""
    labels = {
        "exact": tr("exact"),
        "modelled": tr("modelled"),
        "calibrated": tr("calibrated"),
        "assumed": tr("assumed"),
    }
    return labels.get(basis, basis)


def trust_label(trust: str) -> str:
    """Return what a model's shape stands on."""
    labels = {
        "full": tr("its own config.json"),
        "mlc": tr("its own config.json"),
        "same-shape": tr("a model of the same shape"),
    }
    return labels.get(trust, tr("published sizes, count verified"))


def interval(low: int, high: int) -> str:
    """Return an interval, or nothing where both ends read alike."""
    first, last = format_bytes(low), format_bytes(high)
    return "" if first == last else tr("%(low)s to %(high)s", low=first, high=last)


def verdict(response: Mapping[str, Any]) -> str:
    """Return the first line: whether it fits, what it needs, what there is; or why an engine would not start."""
    if response.get("refused"):
        return str(response["refused"])
    entry = response["devices"][0]
    peak = entry["peak"]
    name = response["model"]["name"]
    needed = format_bytes(peak["used_bytes"])
    if "fits" not in entry:
        return tr("%(model)s needs %(peak)s.", model=name, peak=needed)
    count = response["request"].get("num_devices", 1)
    mixed = "+" in str(response["request"].get("device"))
    device = entry["name"] if count == 1 or mixed else f"{count} x {entry['name']}"
    values = {
        "model": name,
        "device": device,
        "peak": needed,
        "budget": format_bytes(entry["budget_bytes"]),
        "headroom": format_bytes(abs(entry["headroom_bytes"])),
    }
    sentences = {
        "surely": tr(
            "Fits: %(model)s needs %(peak)s of the %(budget)s on %(device)s, %(headroom)s to spare.", **values
        ),
        "probably": tr(
            "Probably fits: %(model)s needs %(peak)s of the %(budget)s on %(device)s, only %(headroom)s to spare.",
            **values,
        ),
        "hardly": tr(
            "Hardly fits: %(model)s needs %(peak)s, and %(device)s has %(budget)s: %(headroom)s too little.", **values
        ),
        "no": tr(
            "Does not fit: %(model)s needs %(peak)s, and %(device)s has %(budget)s: %(headroom)s too little.", **values
        ),
    }
    return sentences[entry["confidence"]]


def pool_line(response: Mapping[str, Any]) -> str:
    """Return what an engine's KV pool holds; nothing where an engine reserves none."""
    cache, report = response.get("kv_cache"), response.get("report") or {}
    if not cache or report.get("kv_pool_bytes", 0) <= 0 or not cache.get("tokens"):
        return ""
    length = report["max_concurrency_len"]
    return tr(
        "KV pool %(size)s: %(tokens)s tokens, %(count)s sequences of %(length)s.",
        size=format_bytes(report["kv_pool_bytes"]), tokens=f"{cache['tokens']:,}", count=f"{cache['max_concurrency']:,.1f}",
        length=f"{length:,}",
    )  # fmt: skip


def device_line(entry: Mapping[str, Any]) -> str:
    """Return one further device: how many like it, what it holds, what it needs of what there is."""
    name = (
        f"{entry.get('count', 1)} x {entry['name'] or tr('device')}" if entry["name"] != "host" else tr("host memory")
    )
    parts = [name, entry.get("holds", "")]
    need = format_bytes(entry["peak"]["used_bytes"])
    if "budget_bytes" in entry:
        parts.append(tr("%(peak)s of %(budget)s", peak=need, budget=format_bytes(entry["budget_bytes"])))
    else:
        parts.append(need)
    return " · ".join(part for part in parts if part)


LENGTHS = ("context_length", "max_model_len", "n_ctx", "num_ctx", "max_seq_len", "seq_len")


def limits(response: Mapping[str, Any]) -> str:
    """Return the largest settings that fit, each with the others as asked; nothing where they are not known."""
    found, settings = response.get("limits"), response["request"].get("settings") or {}
    if not found:
        return ""
    length = next((settings[name] for name in LENGTHS if settings.get(name)), None)
    if "micro_batch" in found and not any(found.values()):
        return tr("Nothing fits: not one sequence, however short.")
    parts = []
    for name, most in found.items():
        if name in LENGTHS:
            parts.append(tr("%(name)s %(most)s", name=name, most=f"{most:,}"))
        elif length and most:
            parts.append(
                tr("%(name)s %(most)s at %(tokens)s tokens", name=name, most=f"{most:,}", tokens=f"{length:,}")
            )
        elif length and name == "micro_batch":
            parts.append(tr("no sequence of %(tokens)s tokens", tokens=f"{length:,}"))
        else:
            parts.append(tr("%(name)s %(most)s", name=name, most=f"{most:,}"))
    return tr("Fits at most: %(limits)s.", limits="; ".join(parts))


def fullest(response: Mapping[str, Any]) -> str:
    """Return which device the figures are of, and what its tensors take between steps; nothing outside training."""
    if not phases(response):
        return ""
    entry, steady = response["devices"][0], (response.get("report") or {}).get("steady_bytes")
    parts = []
    if entry.get("holds"):
        parts.append(tr("The fullest device: %(holds)s.", holds=entry["holds"]))
    elif entry.get("count", 1) > 1:
        parts.append(tr("All %(count)s devices are alike.", count=entry["count"]))
    if steady:
        parts.append(tr("Between steps its tensors take %(size)s.", size=format_bytes(steady)))
    return " ".join(parts)


def phases(response: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the phases of a training step with what each needs, all of the device's items counted. [bytes]."""
    if response["request"].get("task") != "training" or "rule_of_thumb" in response:
        return []
    items = response["devices"][0]["items"]
    names = dict.fromkeys(phase for item in items for phase in item["phases"])
    order = [
        name
        for name in ("load", "text_encode", "vae_encode", "forward", "loss", "backward", "step", "save")
        if name in names
    ]
    return [(phase_label(name), sum(item["bytes"] for item in items if name in item["phases"])) for name in order]


def changes(response: Mapping[str, Any], most: int = 6) -> list[str]:
    """Return the changes that would save most, one line each."""
    return [
        tr("%(change)s: saves %(bytes)s", change=entry["change"], bytes=format_bytes(entry["saves_bytes"]))
        + (" " + tr("(fits)") if entry.get("fits") else "")
        for entry in response.get("changes", [])
        if not _joint(entry)
    ][:most]


def joint_changes(response: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return changes that are made together, with what they need, under a heading that says whether that fits."""
    joint = [entry for entry in response.get("changes", []) if _joint(entry)]
    if not joint:
        return "", []
    if any(entry.get("fits") for entry in joint):
        return tr("None of these fits alone; together:"), [
            tr(
                "%(change)s: fits with %(headroom)s left",
                change=entry["change"],
                headroom=format_bytes(entry["headroom_bytes"]),
            )
            for entry in joint
            if entry.get("fits")
        ]
    return tr("Not even these fit together:"), [
        tr(
            "%(change)s: %(size)s, %(missing)s too much",
            change=entry["change"],
            size=format_bytes(entry["peak_bytes"]),
            missing=format_bytes(-entry["headroom_bytes"]),
        )
        for entry in joint
    ]


def advice(response: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return what could be done otherwise: headings with their lines, those alone where there are any."""
    found = [(tr("What would need less:"), changes(response)), joint_changes(response)]
    return [(heading, lines) for heading, lines in found if lines]


def _joint(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("together") or entry.get("num_devices"))


def setup(response: Mapping[str, Any]) -> str:
    """Return what was asked, in one line: model, format, tokens, engine."""
    model, request = response["model"], response["request"]
    settings = request.get("settings") or {}
    parts: list[str] = []
    if model.get("architecture"):
        parts.append(tr("%(params)s parameters", params=f"{model['num_params']:,}"))
        if model["num_active_params"] != model["num_params"]:
            parts.append(tr("%(params)s active per token", params=f"{model['num_active_params']:,}"))
    training = request.get("task") == "training"
    parts.append(str(request.get("quantization") or (not training and request.get("dtype")) or ""))
    if training:
        parts.append(str(settings.get("precision") or request.get("dtype") or ""))
    length = next((settings[name] for name in LENGTHS if settings.get(name)), None)
    if length:
        parts.append(tr("%(tokens)s tokens", tokens=f"{length:,}"))
    if settings.get("micro_batch"):
        parts.append(tr("%(count)s at once", count=settings["micro_batch"]))
        parts.append(f"{settings['finetuning']}, {settings['optimizer']}")
    if settings.get("batch_size"):
        parts.append(tr("%(count)s at once", count=settings["batch_size"]))
    if request.get("method") == "architecture":
        parts.append(str(request["engine"]))
    return " · ".join(part for part in parts if part)


def merged_items(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the items alive at the peak, those of one term added up, the largest first."""
    phase = entry["peak"]["phase"]
    merged: dict[str, dict[str, Any]] = {}
    for item in entry["items"]:
        if phase not in item["phases"]:
            continue
        found = merged.setdefault(
            item["term"], {"term": item["term"], "bytes": 0, "low_bytes": 0, "high_bytes": 0, "basis": item["basis"]}
        )
        for key in ("bytes", "low_bytes", "high_bytes"):
            found[key] += item[key]
        order = ("exact", "modelled", "calibrated", "assumed")
        found["basis"] = max(found["basis"], item["basis"], key=order.index)
    return sorted(merged.values(), key=lambda item: -item["bytes"])


def substituted(formula: str, values: Mapping[str, int]) -> str:
    """Return a formula with its numbers put in."""
    import re

    return re.sub(r"[A-Za-z_]\w*", lambda match: f"{values[match[0]]:,}" if match[0] in values else match[0], formula)
