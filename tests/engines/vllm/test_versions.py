"""Which rules hold in which release."""

from __future__ import annotations

import pytest

from vrameter.engines.vllm.graphs import capture_sizes
from vrameter.engines.vllm.profile import buffer_rows, draw_bytes, logit_bytes
from vrameter.engines.vllm.versions import CHANGES, NEWEST, parse_version, rules_of


def test_changes_are_in_order() -> None:
    versions = [parse_version(version) for version, _ in CHANGES]
    assert versions == sorted(versions)
    assert versions[-1] <= parse_version(NEWEST)


@pytest.mark.parametrize(
    ("version", "utilization", "graphs_counted", "sampler", "engine"),
    [
        ("0.6.6", 900, False, "sort", "v0"),
        ("0.11.0", 900, False, "sort", "v1"),
        ("0.19.1", 900, False, "triton", "v1"),
        ("0.20.0", 920, True, "triton", "v1"),
        ("0.21.0rc2", 920, True, "flashinfer", "v1"),
        (None, 920, True, "flashinfer", "v1"),
    ],
)
def test_what_a_release_does(
    version: str | None, utilization: int, graphs_counted: bool, sampler: str, engine: str
) -> None:
    rules = rules_of(version)
    found = (rules.utilization, rules.graphs_counted, rules.sampler, rules.engine)
    assert found == (utilization, graphs_counted, sampler, engine)


def test_drawing_in_three_generations() -> None:
    """Llama 3 with 1024 rows: 1.78 GiB with a buffer for each multiprocessor, 1.71 without, 4.65 sorted."""
    sizes = []
    for version in ("0.19.0", "0.21.0", "0.15.0"):
        rules = rules_of(version)
        sizes.append(
            draw_bytes(
                num_rows=1024,
                vocab_size=128256,
                bytes_per_logit=logit_bytes(rules, 1024, 2, 0),
                buffer_rows=buffer_rows(rules, 1024, 132),
            )
        )
    assert [round(size / 2**30, 2) for size in sizes] == [1.78, 1.71, 4.65]


def test_captured_sizes() -> None:
    """51 sizes up to 512 since 0.12, 67 before; 35 up to 256 in the first generation."""
    ask = {"max_num_seqs": 1024, "num_tokens": 8192}
    assert [len(capture_sizes(rules_of(version), **ask)) for version in ("0.19.0", "0.11.0", "0.6.6")] == [51, 67, 35]
    few = capture_sizes(rules_of("0.19.0"), max_num_seqs=4, num_tokens=8192)
    assert few == [1, 2, 4, 8]
