"""Every module of the catalogue's pipelines against diffusers itself, tensor by tensor, on the meta device.

Not run by default: ``pytest -m oracle tests/test_diffusers.py`` needs torch and diffusers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vrameter.model.config import Config
from vrameter.model.diffusion.registry import MODULES, reader

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

LISTED = json.loads((Path(__file__).parents[1] / "catalog" / "diffusion.json").read_text())
DISTINCT = {
    (module["cls"], json.dumps(module["config"], sort_keys=True))
    for entry in LISTED.values()
    for module in entry["components"].values()
    if module["cls"] in MODULES
}


@pytest.mark.parametrize(("class_name", "config"), sorted(DISTINCT), ids=lambda value: value[:40])
def test_module_is_diffusers_own(class_name: str, config: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    values: dict[str, Any] = json.loads(config)
    with torch.device("meta"):
        module = getattr(diffusers, class_name).from_config(values)
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    read = reader(class_name)
    assert read is not None
    got = {
        name: tensor.shape
        for component in read(Config(values), "")
        for name, _, tensor in component.named_tensors()
        if not tensor.buffer
    }
    assert got == wanted
