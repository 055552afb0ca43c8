"""What people read of a training step: in text, Markdown and notebooks, on narrow terminals, in both languages."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

import vrameter
from vrameter.i18n import set_language
from vrameter.render.html import response_table
from vrameter.render.markdown import response_markdown
from vrameter.render.text import folded, plain_columns, response_text
from vrameter.units import format_bytes

NO_FIT = {
    "task": "training",
    "model": "llama-3.1-8b",
    "device": "rtx-4090",
    "settings": {"advise": True, "micro_batch": 2},
}
STAGES = {
    "task": "training", "model": "qwen3-30b-a3b", "engine": "megatron", "device": "16xh100", "parallelism": {"pipeline": 4, "tensor": 2},
    "settings": {"advise": True},
}  # fmt: skip


@pytest.mark.parametrize("asked", [NO_FIT, STAGES], ids=["one device", "stages"])
@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit_a_terminal(
    asked: dict[str, object], language: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    set_language(language)
    try:
        answer = vrameter.estimate(asked)
        lines = response_text(answer).splitlines()
    finally:
        set_language("en")
    assert all(cell_len(line) <= width for line in lines), [line for line in lines if cell_len(line) > width]


def test_sizes_end_in_one_column() -> None:
    """Wide characters take two cells."""
    rows = [("  옵티마이저 상태", "59.83 GiB", 0.5, "정확"), ("  weights", "9.00 MiB", 0.1, "")]
    for width in (None, 60, 30):
        lines = [line for line in plain_columns(rows, width) if "iB" in line]
        assert len({cell_len(line[: line.index("iB")]) for line in lines}) == 1, lines


@pytest.mark.parametrize("width", [20, 33, 60])
def test_folding_loses_no_word(width: int) -> None:
    line = "  적재 30.35 GiB · the forward pass 120.42 GiB · the loss 123.91 GiB"
    parts = folded(line, width)
    assert " ".join(parts).split() == line.split()
    assert all(cell_len(part) <= width for part in parts)
    assert all(part.startswith("  ") for part in parts)


@pytest.mark.parametrize("render", [response_text, response_markdown, response_table], ids=["text", "markdown", "html"])
def test_every_form_tells_peak_phase_steady_state_and_advice(render: object) -> None:
    assert callable(render)
    answer = vrameter.estimate(NO_FIT)
    shown = render(answer)
    for text in (
        "peak, the backward pass", format_bytes(answer["devices"][0]["peak"]["used_bytes"]), "the forward pass", "Between steps its tensors take",
        "Nothing fits", "What would need less:", "None of these fits alone; together:", "(QLoRA)",
    ):  # fmt: skip
        assert text in shown, text


@pytest.mark.parametrize("render", [response_text, response_markdown, response_table], ids=["text", "markdown", "html"])
def test_every_form_tells_which_stage_is_fullest(render: object) -> None:
    assert callable(render)
    answer = vrameter.estimate(STAGES)
    shown = render(answer)
    assert "The fullest device: stage 4 of 4 (decoder 36-47, head)." in shown
    assert "stage 2-3 of 4" in shown
    assert sum(entry["count"] for entry in answer["devices"]) == 16


def test_an_inference_without_room_is_told_by_its_number() -> None:
    answer = vrameter.estimate({"model": "FLUX.1-dev", "device": "rtx-4090"})
    assert "Fits at most: batch_size 0" in response_text(answer)
