"""Plans of layers on devices against transformers' own, for models on the meta device.

Not run by default: ``pytest -m oracle tests/engines/test_device_map_oracle.py`` needs torch, transformers and accelerate.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from vrameter.engines.transformers.placement import balanced_rooms, planned
from vrameter.ledger import DISK, HOST
from vrameter.memory.weights import weight_plan
from vrameter.model.read import read_config
from vrameter.parallel import pieces

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

BASE: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 2,
    "num_hidden_layers": 12, "vocab_size": 4000, "pad_token_id": 0,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "llama": {**BASE, "tie_word_embeddings": False},
    "qwen2": {**BASE, "tie_word_embeddings": True},
    "phi3": BASE,
    "gemma": {**BASE, "head_dim": 32},
    "mixtral": {**BASE, "num_local_experts": 4},
    "qwen3_moe": {**BASE, "head_dim": 32, "num_experts": 8, "moe_intermediate_size": 192},
}
KINDS = ("auto", "balanced_low_0", "sequential")


def theirs(model: Any, kind: str, rooms: dict[int | str, int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the place of every layer."""
    from transformers.integrations import accelerate

    monkeypatch.setattr(accelerate, "get_max_memory", dict)
    bounds = dict(rooms)
    if kind != "sequential":
        bounds = accelerate.get_balanced_memory(
            model,
            max_memory=dict(rooms),
            no_split_module_classes=model._no_split_modules,
            low_zero=kind == "balanced_low_0",
        )
    found = accelerate.infer_auto_device_map(
        model, max_memory=bounds, no_split_module_classes=model._no_split_modules, clean_result=False
    )
    places = []
    for number in range(12):
        name = f"model.layers.{number}"
        while name not in found and name:
            name = name.rpartition(".")[0]
        places.append({"cpu": HOST, "disk": DISK}.get(found[name], found[name]))
    return places


def ours(config: Any, kind: str, rooms: dict[int | str, int]) -> list[int]:
    architecture = read_config({**json.loads(config.to_json_string(use_diff=False)), "dtype": "bfloat16"})
    plan = weight_plan(architecture)
    order = list(pieces(architecture))
    sizes = [plan.piece_bytes(component, index) for component, index in order]
    given = [room for place, room in rooms.items() if place != "cpu"]
    bounds = given if kind == "sequential" else balanced_rooms(sizes, given, low_zero=kind == "balanced_low_0")
    places = planned(sizes, bounds, rooms["cpu"])
    return [place for (_, index), place in zip(order, places, strict=True) if index is not None]


@pytest.mark.parametrize("name", CASES)
def test_layers_go_where_transformers_puts_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(name, **CASES[name])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    size = sum(tensor.numel() * 2 for tensor in model.parameters())
    chance = random.Random(name)
    for _ in range(40):
        count, kind = chance.randint(1, 4), chance.choice(KINDS)
        rooms: dict[int | str, int] = {place: int(size * chance.uniform(0.2, 1.2)) for place in range(count)}
        rooms["cpu"] = int(size * chance.choice([0.2, 0.5, 2]))
        assert ours(config, kind, rooms) == theirs(model, kind, rooms, monkeypatch), (kind, rooms)
