"""Inference with ExLlama: known answers, then laws."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.errors import RequestError


def ask(model: str = "llama-3.1-8b", **fields: Any) -> vrameter.Response:
    fields.setdefault("quantization", "exl2-4.0bpw")
    return vrameter.estimate({"model": model, "engine": "exllama", **fields})


def term(response: vrameter.Response, name: str, device: int = 0) -> int:
    return sum(item["bytes"] for item in response["devices"][device]["items"] if item["term"] == name)


def test_the_token_table_stays_on_the_host() -> None:
    answer = ask(device="rtx-4090", settings={"max_seq_len": 8192})
    assert [entry["name"] for entry in answer["devices"]] == ["rtx-4090", "host"]
    assert term(answer, "weights", 1) == 128256 * 4096 * 2


def test_a_tied_head_is_there_besides() -> None:
    answer = ask("llama-3.2-1b", settings={"max_seq_len": 8192})
    items = [item for item in answer["devices"][0]["items"] if item["term"] == "weights"]
    assert 128256 * 2048 * 6 // 8 in {item["bytes"] for item in items}


@pytest.mark.parametrize(
    ("mode", "bits"), [("fp16", 16), ("fp8", 8), ("q8", 8.5), ("q6", 6.5), ("q4", 4.5), ("6,4", 5.5), ("3", 3.5)]
)
def test_cache_modes(mode: str, bits: float) -> None:
    """A token of Llama 3.1 8B has 65,536 cached numbers; a scale of 16 bits for every 32 of a quantised one."""
    answer = ask(settings={"max_seq_len": 8192, "cache_mode": mode})
    assert answer["kv_cache"]["bytes_per_token"] == 65_536 * bits / 8
    assert answer["kv_cache"]["pool_bytes"] == answer["kv_cache"]["bytes_per_token"] * 8192


def test_windows_are_not_used() -> None:
    answer = ask("gemma-2-9b", settings={"max_seq_len": 8192})
    assert answer["kv_cache"]["bytes_per_token"] == 42 * 2 * 8 * 256 * 2


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(RequestError, match="cache mode"):
        ask(settings={"cache_mode": "q9"})


def test_unequal_gpus_are_filled_in_turn() -> None:
    answer = ask("llama-3.1-70b", device="rtx-4090+rtx-3090", settings={"max_seq_len": 8192})
    names = [entry["name"] for entry in answer["devices"]]
    assert sorted(names) == ["host", "rtx-3090", "rtx-4090"]
    whole = ask("llama-3.1-70b", device="h200", settings={"max_seq_len": 8192})
    assert sum(term(answer, "kv_cache", number) for number in range(2)) == term(whole, "kv_cache")
    assert sum(term(answer, "weights", number) for number in range(3)) == sum(
        term(whole, "weights", n) for n in range(2)
    )


def test_a_given_split() -> None:
    answer = ask("llama-3.1-70b", device="2xrtx-4090", settings={"max_seq_len": 8192, "gpu_split": [12, 24]})
    held = {entry["holds"].split(",")[0]: entry for entry in answer["devices"] if entry["name"] != "host"}
    first = next(entry for name, entry in held.items() if " 0-" in name)
    assert sum(item["bytes"] for item in first["items"] if item["term"] == "weights") <= 12 * 2**30


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["llama-3.1-8b", "gemma-2-9b", "qwen3-30b-a3b"]), st.integers(300, 20000), st.integers(1, 4),
    st.sampled_from(["fp16", "q4", "6,4"]),
)  # fmt: skip
def test_more_never_needs_less(model: str, tokens: int, batch: int, mode: str) -> None:
    def used(**changed: int) -> int:
        asked = {"max_seq_len": tokens, "max_batch_size": batch, "cache_mode": mode} | changed
        return int(ask(model, settings=asked)["devices"][0]["peak"]["used_bytes"])

    base = used()
    assert used(max_seq_len=tokens + 256) >= base
    assert used(max_batch_size=batch + 1) >= base


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(["rtx-4090", "8GiB", "12GiB+6GiB"]), st.integers(1, 3))
def test_what_fits_at_most_fits_and_one_more_does_not(device: str, batch: int) -> None:
    asked = {"max_seq_len": 4096, "max_batch_size": batch}
    answer = ask(device=device, settings=asked)
    for name, most in answer["limits"].items():
        for value, fits in ((most, True), (most + 1, False)):
            if value < 1 or (name == "max_seq_len" and value > 131072):
                continue
            assert ask(device=device, settings={**asked, name: value})["devices"][0]["fits"] is fits, (name, value)
