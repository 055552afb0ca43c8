"""The answer to a source: the public function and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vrameter
from vrameter.cli import main

EXAMPLES = Path(__file__).parent / "examples"
SOURCE = str(EXAMPLES / "llama3_lora_sft.yaml")


def test_the_response_answers_the_request() -> None:
    answer = vrameter.read(SOURCE, device="rtx-4090")
    assert set(answer) == {"format", "request", "understood", "assumed", "ignored", "notes", "response"}
    assert answer["response"] == vrameter.estimate(answer["request"])
    assert answer["response"]["request"]["settings"]["adapter"]["rank"] == 8


@pytest.mark.parametrize(
    "name", sorted(path.name for path in EXAMPLES.iterdir() if path.name not in ("Modelfile",) and "_sft.sh" not in path.name)
)  # fmt: skip
def test_every_training_example_is_answered(name: str) -> None:
    given = {} if "model" in _request(name) else {"model": "llama-3.1-8b"}
    answer = vrameter.read(EXAMPLES / name, **given)
    assert answer["response"]["devices"][0]["peak"]["used_bytes"] > 0
    assert answer["response"]["request"]["task"] == "training"


def _request(name: str) -> dict[str, object]:
    from vrameter.reading import read_text

    return read_text((EXAMPLES / name).read_text(), name=name).request


def test_what_is_given_stands_above_what_was_read() -> None:
    answer = vrameter.read(SOURCE, model="qwen3-8b", num_devices=4, settings={"seq_len": 512})
    assert answer["request"]["model"] == "qwen3-8b"
    assert answer["request"]["settings"]["seq_len"] == 512
    assert answer["request"]["settings"]["grad_accumulation"] == 8
    assert "num_devices" not in answer["assumed"]


def test_a_device_with_a_number_decides_how_many() -> None:
    answer = vrameter.read(EXAMPLES / "llama3_full_sft.yaml", device="8xh100-sxm-80gb")
    assert answer["response"]["request"]["num_devices"] == 8
    assert "num_devices" not in answer["assumed"]
    assert not any("--num-devices" in note for note in answer["notes"])


def test_more_devices_never_need_more_each() -> None:
    used = [
        vrameter.read(EXAMPLES / "llama3_full_sft.yaml", num_devices=count)["response"]["devices"][0]["peak"][
            "used_bytes"
        ]
        for count in (2, 4, 8, 16)
    ]
    assert used == sorted(used, reverse=True)


def test_a_configuration_without_a_model_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", str(EXAMPLES / "accelerate_fsdp.yaml"), "--lang", "en"]) == 2
    assert "--model" in capsys.readouterr().err
    assert main(["read", str(EXAMPLES / "accelerate_fsdp.yaml"), "--model", "llama-3.1-8b"]) == 0


def test_a_missing_file_is_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "nowhere.yaml"]) == 3
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("format_", ["human", "json", "md", "quiet"])
def test_every_form(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", SOURCE, "--device", "rtx-4090", "--format", format_, "--lang", "en"]) == 0
    out = capsys.readouterr().out
    if format_ == "json":
        shown = json.loads(out)
        assert shown["request"]["model"] == "meta-llama/Meta-Llama-3-8B-Instruct"
        assert shown["assumed"]["num_devices"]["value"] == 1
    elif format_ == "quiet":
        assert int(out) > 16_000_000_000
    else:
        assert "llama-factory" in out
        assert "cutoff_len" in out


def test_a_command_may_stand_after_two_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["vllm", "serve", "qwen3-8b", "--max-model-len", "8192"]
    assert main(["read", "--format", "json", "--", *words]) == 0
    assert json.loads(capsys.readouterr().out)["request"]["settings"] == {"max_model_len": 8192}


def test_yaml_is_imported_for_yaml_alone() -> None:
    script = "import sys, vrameter; vrameter.read('vllm serve qwen3-8b'); raise SystemExit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
