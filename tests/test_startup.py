"""A catalogue answer imports little: steadier than a stopwatch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch", "numpy", "huggingface_hub", "transformers", "httpx", "httpx2", "requests", "yaml", "gguf", "babel", "hypothesis", "asyncio",
    "http.client", "urllib.request", "sqlite3", "multiprocessing", "ssl",
)  # fmt: skip
SCRIPT = """
import sys
from vrameter.cli import main
status = main({arguments!r})
sys.stderr.write("\\n" + "\\n".join(sorted(sys.modules)))
raise SystemExit(status)
"""


def modules_of(*arguments: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(arguments=list(arguments))], capture_output=True, text=True, check=True
    )
    return set(run.stderr.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("llama-3.1-8b", "--device", "rtx-4090"), ("estimate", "qwen3-8b", "--format", "json"), ("8.8B",), ("llama-3.1-8b",)],
    ids=" ".join,
)  # fmt: skip
def test_nothing_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    loaded = modules_of(*arguments)
    assert "vrameter.cli" in loaded
    assert not [name for name in HEAVY if name in loaded]


def test_one_engine_and_one_family_are_imported() -> None:
    loaded = modules_of("llama-3.1-8b", "--device", "rtx-4090")
    families = {name for name in loaded if name.startswith("vrameter.model.families.")}
    assert families <= {f"vrameter.model.families.{name}" for name in ("index", "registry", "llama")}
    engines = {name for name in loaded if name.startswith("vrameter.engines.")} - {"vrameter.engines.choice"}
    assert all(name.startswith("vrameter.engines.transformers") for name in engines)
    assert not any(name.startswith("vrameter.settings.") and not name.endswith(".transformers") for name in loaded)
    assert not any(name.startswith("vrameter.training") for name in loaded)


def test_a_training_step_imports_its_own_stack() -> None:
    loaded = modules_of("llama-3.1-8b", "--task", "training", "--device", "h100")
    assert not any(name.startswith(("vrameter.training.diffusion", "vrameter.engines.diffusers")) for name in loaded)
    assert "vrameter.training.programs.megatron" not in loaded
    assert not [name for name in HEAVY if name in loaded]


def test_help_knows_no_model() -> None:
    loaded = modules_of("--help")
    assert "vrameter.sources.catalogue" not in loaded
