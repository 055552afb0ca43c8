"""llama.cpp's ``--fit``: a context that nobody gave shrinks until a margin stays free on every GPU."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter

GIB = 2**30


def ask(device: str, **settings: Any) -> vrameter.Response:
    return vrameter.estimate(
        {
            "model": "llama-3.1-8b",
            "quantization": "q4_k_m",
            "engine": "llama.cpp",
            "device": device,
            "settings": settings,
        }
    )


def test_a_context_that_was_not_given_shrinks() -> None:
    answer = ask("rtx-3060")
    tokens = answer["request"]["settings"]["n_ctx"]
    assert 4096 < tokens < 131_072
    assert tokens % 256 == 0
    assert GIB <= answer["devices"][0]["headroom_bytes"] < GIB + 256 * 131_072 * 2
    assert any("--fit" in note for note in answer["warnings"])
    assert ask("rtx-3060", n_ctx=tokens)["devices"] == answer["devices"]
    more = ask("rtx-3060", n_ctx=tokens + 256)
    assert more["devices"][0]["headroom_bytes"] < GIB


@pytest.mark.parametrize(("device", "settings"), [("h100", {}), ("rtx-3060", {"fit": False})])
def test_it_stays_where_it_fits_or_where_nobody_fits_it(device: str, settings: dict[str, Any]) -> None:
    answer = ask(device, **settings)
    assert answer["request"]["settings"]["n_ctx"] == 131_072
    assert not any("--fit" in note for note in answer["warnings"])


def test_never_below_the_least_context() -> None:
    assert ask("4GiB")["request"]["settings"]["n_ctx"] == 4096
    assert ask("4GiB", fit_ctx=1024)["request"]["settings"]["n_ctx"] >= 1024


def test_a_wider_margin_leaves_more() -> None:
    assert ask("rtx-3060", fit_target=3072)["devices"][0]["headroom_bytes"] >= 3 * GIB
