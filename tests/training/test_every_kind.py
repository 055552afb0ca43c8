"""Every kind of model in the catalogue is trained or refused with a reason; layers that lend their weights."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter import estimate
from vrameter.errors import RequestError, VrameterError
from vrameter.model.architecture import FeedForward
from vrameter.sources import catalogue, resolve


def kinds() -> list[str]:
    """Return one model of each kind."""
    found: dict[str, str] = {}
    for entry in catalogue.entries():
        if entry.model_type:
            found.setdefault(entry.model_type, entry.id)
    return sorted(found.values())


ASKED: list[dict[str, Any]] = [
    {"engine": "transformers"},
    {"engine": "transformers", "settings": {"finetuning": "lora", "recompute": "full"}},
    {"engine": "megatron-swift", "num_devices": 2, "parallelism": {"tensor": 2, "sequence": True}},
    {"engine": "deepspeed", "num_devices": 2, "parallelism": {"data": 2, "zero_stage": 3}},
]


@pytest.mark.parametrize("asked", ASKED, ids=["full", "lora", "tensor", "zero3"])
def test_every_kind_is_trained_or_refused(asked: dict[str, Any]) -> None:
    trained = 0
    for name in kinds():
        try:
            answer = estimate({"task": "training", "model": name, **asked})
        except VrameterError:
            continue
        peak = answer["devices"][0]["peak"]
        assert 0 < peak["allocated_bytes"] <= peak["reserved_bytes"] <= peak["used_bytes"], name
        trained += 1
    assert trained > len(kinds()) // 2


def test_a_shared_layer_keeps_activations_each_time_and_its_gradient_once() -> None:
    config = {**ALBERT_CONFIG, "num_hidden_layers": 24}
    once, twice = (
        estimate({"task": "training", "model": {"config": each, "name": "shared"},
                  "settings": {"precision": "fp32", "micro_batch": 8, "seq_len": 512}})
        for each in (ALBERT_CONFIG, config)
    )  # fmt: skip
    assert once["model"]["num_params"] == twice["model"]["num_params"]
    assert once["report"]["steady_bytes"] == twice["report"]["steady_bytes"]
    short, long = (each["devices"][0]["peak"]["allocated_bytes"] for each in (once, twice))
    assert long - once["report"]["steady_bytes"] > 1.7 * (short - once["report"]["steady_bytes"])


ALBERT_CONFIG = {
    "model_type": "albert", "architectures": ["AlbertForMaskedLM"], "hidden_size": 768, "embedding_size": 128, "intermediate_size": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 30000, "max_position_embeddings": 512, "hidden_act": "gelu_new",
}  # fmt: skip


def test_the_activation_is_the_one_of_the_config() -> None:
    # GELU as transformers writes it out keeps more than PyTorch's own.
    written, native = (
        estimate({"task": "training", "model": {"config": {**ALBERT_CONFIG, "hidden_act": act}, "name": "shared"},
                  "settings": {"precision": "fp32", "micro_batch": 8, "seq_len": 512}})
        for act in ("gelu_new", "gelu")
    )  # fmt: skip
    assert written["devices"][0]["peak"]["allocated_bytes"] > native["devices"][0]["peak"]["allocated_bytes"]


def test_speech_synthesis_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        estimate({"task": "training", "model": "facebook/mms-tts-eng"})
    assert caught.value.field == "model"


@pytest.mark.parametrize("name", ["databricks/dbrx-instruct", "mistralai/Mixtral-8x7B-v0.1", "Qwen/Qwen3-30B-A3B"])
def test_experts_are_counted_by_their_matrices(name: str) -> None:
    architecture = resolve(name).architecture
    assert architecture is not None
    layer = next(each for each in architecture.main.layers if any(isinstance(part, FeedForward) for part in each.parts))
    mixture = next(part for part in layer.parts if isinstance(part, FeedForward))
    experts = [tensor for tensor in mixture.tensors if tensor.role == "experts"]
    assert mixture.num_experts
    assert {layer.experts_in(tensor) for tensor in experts} == {mixture.num_experts}
