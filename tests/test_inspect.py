"""``vrameter inspect``, and repositories at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints import LLAMA, document, llama, num_bytes, packed, safetensors, sharded, write
from tests.conftest import NOBODY
from tests.hub_server import Repository, running
from vrameter.cli import main
from vrameter.sources import http


@pytest.fixture
def model(tmp_path: Path) -> Path:
    settings, tensors = packed("awq")
    return write(tmp_path / "small-awq", {"config.json": document(settings), "model.safetensors": safetensors(tensors)})


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main([*arguments, "--lang", "en"]) == status
    return capsys.readouterr().out


def test_as_text(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    text = answer(capsys, "inspect", str(model))
    assert text.startswith("small-awq")
    assert "attention" in text
    assert "67,840" in text


def test_as_markdown(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    lines = answer(capsys, "inspect", str(model), "--format", "md").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_as_json_under_the_names_of_the_seam(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    seen = json.loads(answer(capsys, "inspect", str(model), "--format", "json"))
    assert {"components", "num_params", "bytes", "loaded_bytes", "warnings"} <= set(seen)
    first = seen["components"][0]
    assert {"name", "num_params", "bytes", "dtypes", "roles"} <= set(first)
    assert set(first["dtypes"]["awq"]) == {"tensors", "num_params", "bytes"}


def test_quiet(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    assert answer(capsys, "inspect", str(model), "--format", "quiet") == "67840\n"


def test_a_number_of_parameters_holds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "8.8B", "--lang", "en"]) == 2
    assert "only a number of parameters" in capsys.readouterr().err


def test_a_repository_at_the_command_line(
    capsys: pytest.CaptureFixture[str], fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "sleep", lambda seconds: None)
    files = {**sharded(llama(), 2), "config.json": document(LLAMA)}
    with running({"org/small": Repository(files), "org/shut": Repository(files, gated=True)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert answer(capsys, "inspect", "org/small", "-f", "quiet") == f"{num_bytes(llama())}\n"
        assert "org/small" in answer(capsys, "org/small")
        assert "Fits" in answer(capsys, "org/small@main", "--device", "rtx-4090")
        assert json.loads(answer(capsys, "estimate", "org/small", "-f", "json"))["model"]["source"] == "hub"
        answer(capsys, "org/shut", status=3)
        answer(capsys, "org/none", status=2)
        answer(capsys, "org/small@none", status=2)
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    answer(capsys, "org/other", status=3)
    assert "\r" not in capsys.readouterr().err
