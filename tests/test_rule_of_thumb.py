"""The rule of thumb, reproduced exactly under both of its conventions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vrameter
from vrameter.cli import main
from vrameter.memory.rule_of_thumb import BYTES_PER_VALUE, rule_of_thumb
from vrameter.render.text import above, rounded

GB = 10**9
KNOWN = [
    # dtype  weights  x 1.3   x 1.5   training, as printed for 8.8B parameters in GB
    ("fp16", "17.6", "22.9", "26.4", "53"),
    ("bf16", "17.6", "22.9", "26.4", "53"),
    ("fp32", "35.2", "45.8", "52.8", "106"),
    ("tf32", "35.2", "45.8", "52.8", "106"),
    ("fp8", "8.8", "11.4", "13.2", "26"),
    ("int8", "8.8", "11.4", "13.2", "26"),
    ("int4", "4.4", "5.7", "6.6", "13"),
]


@pytest.mark.parametrize(("dtype", "weights", "low", "high", "training"), KNOWN)
def test_the_worked_example(dtype: str, weights: str, low: str, high: str, training: str) -> None:
    rule = rule_of_thumb(8_800_000_000, dtype)
    assert rounded(rule.weights, GB, 1) == weights
    assert rounded(rule.inference_low, GB, 1) == low
    assert rounded(rule.inference_high, GB, 1) == high
    assert above(rule.training, GB) == training


def test_the_binary_convention() -> None:
    assert rounded(rule_of_thumb(8_800_000_000, "fp16").weights, 1024**3, 3) == "16.391"


def test_both_conventions_are_in_the_response() -> None:
    answer = vrameter.estimate({"model": "8.8B", "dtype": "fp16"})["rule_of_thumb"]
    assert answer["gb"]["weights"] == 17.6
    assert answer["gib"]["weights"] == pytest.approx(16.391, abs=1e-3)
    assert answer["bytes"] == {
        "weights": 17_600_000_000,
        "inference_low": 22_880_000_000,
        "inference_high": 26_400_000_000,
        "training": 52_800_000_000,
    }


@pytest.mark.parametrize("language", ["en", "ko"])
def test_what_is_printed(capsys: pytest.CaptureFixture[str], language: str) -> None:
    assert main(["8.8B", "--lang", language]) == 0
    shown = capsys.readouterr()
    for figure in ("17.6 GB", "22.9 ~ 26.4", "53", "35.2 GB", "45.8 ~ 52.8", "106", "16.391 GiB"):
        assert figure in shown.out
    assert "8" in shown.err  # the warning that no Adam recipe is content with 6 bytes per parameter


@given(st.integers(1, 10**15), st.sampled_from(sorted(BYTES_PER_VALUE)))
def test_factors_hold_without_rounding(num_params: int, dtype: str) -> None:
    rule = rule_of_thumb(num_params, dtype)
    exact = num_params * BYTES_PER_VALUE[dtype]
    assert rule.weights == int(exact)
    assert rule.inference_low == int(exact * 13 / 10)
    assert rule.inference_high == int(exact * 15 / 10)
    assert rule.training == int(exact * 3)


def test_the_fit_of_a_bare_count() -> None:
    answer = vrameter.estimate(
        {"model": "8.8B", "dtype": "fp16", "device": {"name": "mine", "capacity_bytes": 24 * 2**30}}
    )
    assert answer["devices"][0]["fits"] is False
    assert answer["devices"][0]["headroom_bytes"] == 24 * 2**30 - 26_400_000_000
    assert answer["devices"][0]["confidence"] == "hardly"
