"""No test reaches the network, the caches or the language of whoever runs it, or of the test before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vrameter.i18n import set_language

collect_ignore = ["live_bytes.py", "training/denoisers.py"]  # need torch, and hold no tests


NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the Hub at nobody and its folders at an empty place."""
    home = tmp_path_factory.getbasetemp() / "huggingface"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def in_english() -> None:
    """Begin each test in English, whatever language the last one chose."""
    set_language("en")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a test a cache of its own, and let the process forget what it has read."""
    from vrameter.sources import folder, hub_model

    home = tmp_path / "hf-home"
    monkeypatch.setenv("HF_HOME", str(home))

    def forget() -> None:
        hub_model.forget()
        folder.forget()

    forget()
    yield home
    forget()
