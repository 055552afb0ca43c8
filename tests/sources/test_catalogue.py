"""The embedded catalogue: every name resolves, the build is what is committed, and look-ups stay light."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrameter.data import path
from vrameter.errors import ConfigError, UnknownNameError
from vrameter.sources import catalogue

ROOT = Path(__file__).parents[2]
FILES = (
    "models.jsonl",
    "model_configs.jsonl",
    "models_index.json",
    "devices.json",
    "device_rules.json",
    "config_defaults.json",
)
ENTRIES = list(catalogue.entries())
IDS = [entry.id for entry in ENTRIES]


def test_every_listed_model_resolves_to_itself() -> None:
    listed = [json.loads(line)["id"] for line in (ROOT / "catalog" / "models.jsonl").read_text().splitlines()]
    pipelines = list(json.loads((ROOT / "catalog" / "diffusion.json").read_text()))
    assert sorted([*listed, *pipelines]) == sorted(IDS)
    assert (len(listed), len(pipelines)) == (2236, 33)
    for name in IDS:
        assert catalogue.find(name).id == name


def test_every_entry_has_a_config_with_a_kind_of_network() -> None:
    for entry in ENTRIES:
        assert any(entry.config.get(name) for name in ("model_type", "architectures", "_class_name")), entry.id
        assert entry.trust in {
            "full", "mlc", "full-reconstructed", "full-reconstructed-verified", "litgpt-verified", "class-default-verified", "same-shape"
        }, entry.id  # fmt: skip
        assert entry.config_is_own == (entry.trust != "same-shape")
        for note, code in zip(entry.notes, entry.note_codes, strict=True):
            assert note != code, f"{entry.id}: the note '{code}' has no sentence"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_case_and_punctuation_do_not_matter(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(IDS))
    organisation, _, bare = name.partition("/")
    changed = "".join(
        data.draw(st.sampled_from(["", "-", "_", " ", "."] if sign in "-_. " else [sign.lower(), sign.upper()]))
        for sign in bare
    )  # fmt: skip
    found = catalogue.find(f"{organisation.upper()}/{changed}").id
    assert catalogue.normalised(found) == catalogue.normalised(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama 3.1 8B", "meta-llama/Llama-3.1-8B"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("llama3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B"),
        ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
        ("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("qwen2.5:7b", "Qwen/Qwen2.5-7B"),
        ("gpt-oss-20b", "openai/gpt-oss-20b"),
        ("llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("bert-base-uncased", "google-bert/bert-base-uncased"),
    ],
)
def test_forgiving_names(name: str, expected: str) -> None:
    assert catalogue.find(name).id == expected


def test_a_short_name_says_what_it_was_taken_for() -> None:
    entry = catalogue.find("mistral-7b")
    assert "mistralai/Mistral-7B-Instruct-v0.3" in entry.notes[0]
    assert catalogue.find("meta-llama/Llama-3.1-8B").notes == ()


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        catalogue.find("llama-3.1-8bb")
    assert caught.value.field == "model"
    assert caught.value.hint is not None
    assert "Llama-3.1-8B" in caught.value.hint


@pytest.mark.parametrize("name", ["", " ", "/", "a" * 5000, "no/such/model", "¿"])
def test_no_model_of_that_name(name: str) -> None:
    with pytest.raises(UnknownNameError):
        catalogue.find(name)


def test_names_are_listed_by_pattern() -> None:
    assert "Qwen/Qwen3-8B" in catalogue.names("qwen3 8b")
    assert catalogue.names("Qwen/Qwen3-8B*")[0] == "Qwen/Qwen3-8B"
    assert len(catalogue.names()) == 2269


WINDOWS = [
    # Mistral-7B-v0.1 keeps 4096 tokens, later ones all; the rest by the lines' real configurations
    ("mistralai/Mistral-7B-v0.1", 4096),
    ("mistralai/Mistral-7B-Instruct-v0.1", 4096),
    ("mistralai/Mistral-7B-Instruct-v0.2", None),
    ("mistralai/Mistral-7B-Instruct-v0.3", None),
    ("mistralai/Mistral-Nemo-Instruct-2407", None),
    ("mistralai/Mistral-Large-Instruct-2407", None),
    ("mistralai/Mixtral-8x7B-v0.1", None),
    ("bigcode/starcoder2-7b", 4096),
    ("microsoft/Phi-3-mini-4k-instruct", 2047),
    ("microsoft/phi-4", None),
    ("google/gemma-2-9b", 4096),
    ("openai/gpt-oss-20b", 128),
    ("Qwen/Qwen2.5-7B-Instruct", None),
    ("Qwen/Qwen3-8B", None),
    ("allenai/Olmo-3-1025-7B", 4096),
    ("CohereLabs/c4ai-command-r7b-12-2024", 4096),
    ("LGAI-EXAONE/EXAONE-4.0-1.2B", None),
    ("LGAI-EXAONE/EXAONE-4.0-32B", 4096),
]


@pytest.mark.parametrize(("name", "window"), WINDOWS)
def test_known_windows(name: str, window: int | None) -> None:
    architecture = catalogue.find(name).architecture()
    windows = {getattr(part, "window", None) for layer in architecture.main.layers for part in layer.parts} - {None}
    assert windows == ({window} if window else set())


def test_a_window_that_nobody_recorded_warns() -> None:
    assert any("sliding window" in note for note in catalogue.find("BioMistral/BioMistral-7B").notes)


def test_granite_chooses_eight_experts() -> None:
    assert catalogue.find("ibm-granite/granite-3.0-3b-a800m-base").config["num_experts_per_tok"] == 8


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("Qwen/Qwen3-8B-AWQ", "awq"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "gptq"),
        ("deepseek-ai/DeepSeek-V3.1-Base", "fp8"),
        ("openai/gpt-oss-safeguard-20b", "mxfp4"),
        ("PrimeIntellect/MiniMax-M2.5-bf16", None),
        ("google/gemma-4-31B-it", None),
        ("unsloth/DeepSeek-R1-GGUF", None),
        ("nvidia/Qwen3-14B-FP8", "modelopt"),
    ],
)
def test_quantisation_is_the_repositorys_own(name: str, method: str | None) -> None:
    stated = catalogue.find(name).config.get("quantization_config")
    assert (stated or {}).get("quant_method") == method


def test_shapes_count_what_is_listed() -> None:
    """Wherever the reader reads an entry, it counts the parameters that the list computed with transformers."""
    wrong, counted, seen = [], 0, set()
    for entry in ENTRIES:
        key = (entry.row.config, entry.computed_params)
        if entry.computed_params is None or key in seen:
            continue
        seen.add(key)
        try:
            architecture = entry.architecture()
        except ConfigError:
            continue
        if architecture.model_type == entry.model_type:
            counted += 1
            if architecture.num_params != entry.computed_params:
                wrong.append(f"{entry.id}: {architecture.num_params:,} where {entry.computed_params:,} are listed")
    assert counted > 100
    assert not wrong


def test_embedded_data_is_small() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.write(path(name), name)
    assert len(buffer.getvalue()) < 400_000


def test_embedded_data_is_what_the_build_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "build_catalogue.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_look_up_imports_little() -> None:
    """Neither difflib nor any reader is imported to find a name."""
    code = (
        "import sys; from vrameter.sources import catalogue; e = catalogue.find('llama-3.1-8b'); e.config; "
        "print(*[m for m in ('difflib', 'vrameter.model.read', 'vrameter.model.config', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_corrections_name_their_source() -> None:
    for rule in json.loads((ROOT / "catalog" / "corrections.json").read_text())["rules"]:
        assert rule["source"]
        assert rule["date"]
        assert rule["why"]
