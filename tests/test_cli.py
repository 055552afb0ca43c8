"""The command line: forms, languages, exit status, and documentation that says what the tool says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vrameter
from vrameter.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]


def test_the_verdict_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llama-3.1-8b", "--device", "rtx-4090", "--lang", "en"]) == 0
    shown = capsys.readouterr()
    first = shown.out.splitlines()[0]
    assert first.startswith("Fits: meta-llama/Llama-3.1-8B needs 17.37 GiB of the 23.64 GiB on rtx-4090")
    assert "███" in shown.out


def test_a_pipe_gets_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    main(["llama-3.1-8b", "--device", "rtx-4090"])
    assert "\x1b[" not in capsys.readouterr().out


def test_json_is_the_response(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "estimate",
        "llama-3.1-70b",
        "--quantization",
        "awq",
        "--device",
        "2xl40s",
        "--context-length",
        "32768",
    ]
    assert main([*arguments, "--format", "json", "--lang", "en"]) == 0
    shown = json.loads(capsys.readouterr().out)
    asked = {"model": "llama-3.1-70b", "quantization": "awq", "device": "2xl40s", "settings": {"context_length": 32768}}
    assert shown == json.loads(json.dumps(vrameter.estimate(asked)))
    assert shown["schema_version"] == 1
    assert shown["request"]["num_devices"] == 2


@pytest.mark.parametrize("format_", ["human", "json", "md", "quiet"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["llama-3.1-8b"], ["llama-3.1-8b", "--device", "h100"], ["8.8B"], ["explain", "llama-3.1-8b"], ["models", "qwen3-8b"],
        ["devices", "4090"], ["dtypes"], ["dtypes", "bf16"], ["models", "--types"], ["deepseek-v3"], ["bert-base-uncased"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_form_of_every_command(arguments: list[str], format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--format", format_]) == 0
    out = capsys.readouterr().out
    assert out.strip()
    if format_ == "json":
        json.loads(out)
    if format_ == "md":
        assert "|" in out or "###" in out


def test_quiet_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llama-3.1-8b", "--device", "rtx-4090", "--format", "quiet"]) == 0
    assert int(capsys.readouterr().out) > 16_000_000_000


def test_check_sets_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llama-3.1-8b", "--device", "rtx-4090", "--check"]) == 0
    assert main(["llama-3.1-70b", "--device", "rtx-4090", "--check"]) == 1
    assert main(["llama-3.1-70b", "--device", "rtx-4090"]) == 0
    capsys.readouterr()


def test_flags_may_stand_before_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "rtx-4090", "llama-3.1-8b", "--format", "quiet"]) == 0
    first = capsys.readouterr().out
    assert main(["llama-3.1-8b", "--device", "rtx-4090", "--format", "quiet"]) == 0
    assert capsys.readouterr().out == first


def test_32k_is_32768(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llama-3.1-8b", "--context-length", "32k", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["request"]["settings"]["context_length"] == 32768


def test_explain_finds_what_only_the_host_holds(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["explain", "llama-3.1-8b", "--engine", "llama.cpp", "-q", "q4_k_m", "--device", "rtx-4090"]
    assert main([*asked, "--term", "logits", "--lang", "en"]) == 0
    shown = capsys.readouterr().out
    assert "(logits)" in shown
    assert "host" in shown


def test_explain_puts_the_numbers_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "llama-3.1-8b", "--term", "kv_cache", "--lang", "en"]) == 0
    out = capsys.readouterr().out
    assert "8,192 * 131,072" in out
    assert "32 layers x 8 KV heads" in out
    assert "source: " in out


def test_flags_of_an_unknown_kind_name_their_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llama-3.1-8b", "--batch-sizes", "3", "--lang", "en"]) == 2
    assert "Did you mean --batch-size?" in capsys.readouterr().err


@pytest.mark.parametrize("command", [None, *COMMANDS])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_help(command: str | None, language: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*([command] if command else []), "--help", "--lang", language]) == 0
    out = capsys.readouterr().out
    assert "--lang" in out or command is None
    korean = any("가" <= sign <= "힣" for sign in out)
    assert korean == (language == "ko")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vrameter {vrameter.__version__}\n"


@pytest.mark.parametrize(
    ("locale", "korean"), [("ko_KR.UTF-8", True), ("en_US.UTF-8", False), ("C", False), ("ja_JP.UTF-8", False)]
)
def test_the_locale_chooses_the_language(locale: str, korean: bool) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    }
    run = subprocess.run(
        [sys.executable, "-m", "vrameter", "llama-3.1-8b", "--device", "rtx-4090"],
        capture_output=True, check=True, env={**environment, "LANG": locale, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert ("가중치" in run.stdout.decode()) == korean


def test_a_terminal_without_unicode_is_no_reason_to_fail() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vrameter", "llama-3.1-8b", "--device", "rtx-4090", "--lang", "ko"],
        capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert run.stdout


def test_a_closed_pipe_is_quiet() -> None:
    run = subprocess.run(
        f"{sys.executable} -m vrameter models --all | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert "Traceback" not in run.stderr


def test_the_documentation_shows_what_the_tool_says() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "shown.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_readme_names_its_commands() -> None:
    for name in ("README.md", "README.ko.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "pip install . && vrameter llama-3.1-8b --device rtx-4090" in text
        assert "pip install '.[test]' && pytest" in text
        assert "vrameter 8.8B" in text


@pytest.mark.parametrize(
    ("arguments", "engine"),
    [
        (["llama-3.1-8b", "-q", "q4_k_m", "--n-ctx", "8192"], "llama.cpp"),
        (["llama-3.1-8b", "-q", "q4_k_m"], "llama.cpp"),
        (["llama-3.1-8b", "-q", "q4_k_m", "--context-length", "8192"], "transformers"),
        (["llama-3.1-8b", "-q", "mlx-4bit", "--max-kv-size", "4096"], "mlx"),
        (["llama-3.1-8b"], "transformers"),
        (["llama-3.1-8b", "--engine", "vllm", "--max-model-len", "8192"], "vllm"),
    ],
)
def test_the_format_points_to_the_engine_and_its_flags(
    arguments: list[str], engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["estimate", *arguments, "--device", "rtx-4090" if engine != "mlx" else "m3-max", "--format", "json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["request"]["engine"] == engine


def test_flags_of_another_engine_get_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llama-3.1-8b", "--n-ctx", "8192", "--lang", "en"]) == 2
    assert "add --engine llama.cpp" in capsys.readouterr().err
