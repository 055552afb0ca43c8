"""Tensors of files found again in an architecture: names as published, packed matrices, leftovers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import LLAMA, MIXTRAL, Tensors, llama, mixtral
from vrameter.memory.weights import weight_plan
from vrameter.model.from_tensors import role_of
from vrameter.model.packing import Packing, packing_of, parameters
from vrameter.model.placement import Placement, place
from vrameter.model.read import read_config
from vrameter.model.tensor_table import StoredTensor, TensorTable
from vrameter.sources import catalogue
from vrameter.sources.safetensors import BITS


def table(tensors: Tensors) -> TensorTable:
    stored = (
        StoredTensor(name, shape, dtype.lower(), prod(shape) * BITS[dtype] // 8)
        for name, (dtype, shape) in tensors.items()
    )
    return TensorTable("safetensors", tuple(stored))


def placed(config: dict[str, Any], tensors: Tensors) -> Placement:
    return place(read_config(config), table(tensors))


def renamed(*pairs: tuple[str, str]) -> Tensors:
    found = {}
    for name, value in llama().items():
        for old, new in pairs:
            name = name.replace(old, new)
        found[name] = value
    return found


SPELLINGS: dict[str, Tensors] = {
    "as the library": llama(),
    "inside a model of text and images": renamed(
        ("model.", "language_model.model."), ("lm_head", "language_model.lm_head")
    ),
    "inside a model of transformers 5": renamed(("model.", "model.language_model.")),
    "with one word more": renamed(("model.", "wrapped.model."), ("lm_head", "wrapped.lm_head")),
    "bare": renamed(("model.", "")),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_published_spellings(name: str) -> None:
    architecture = read_config(LLAMA)
    found = place(architecture, table(SPELLINGS[name]))
    assert found.architecture is architecture, "files and config agree, so nothing is changed"
    assert found.warnings == ()
    assert all(each.loaded for each in found.placed)


def test_experts_stored_one_by_one_are_one_stack() -> None:
    architecture = read_config(MIXTRAL)
    found = place(architecture, table(mixtral()))
    assert found.architecture is architecture
    stacks = [each for each in found.placed if each.role == "experts"]
    assert sorted(len(each.parameters) for each in stacks) == [4, 4, 8, 8]


def test_matrices_fused_otherwise_are_found_by_their_size() -> None:
    tensors = dict(llama())
    for layer in range(2):
        head = f"model.layers.{layer}."
        for part in ("q", "k", "v"):
            del tensors[f"{head}self_attn.{part}_proj.weight"]
        tensors[f"{head}self_attn.query_key_value.weight"] = ("BF16", (128, 64))
    found = placed(LLAMA, tensors)
    assert found.warnings == ()
    assert found.architecture.num_params == read_config(LLAMA).num_params
    assert sum(each.num_bytes for each in found.held.values()) == table(tensors).num_bytes


def test_equal_layers_stay_one_object() -> None:
    tensors = dict(llama(layers=range(2)))
    for layer in range(2):
        tensors[f"model.layers.{layer}.self_attn.gate.weight"] = ("BF16", (4, 4))
    layers = placed(LLAMA, tensors).architecture.main.layers
    assert layers[0] is layers[1]
    assert any(tensor.name == "self_attn.gate.weight" for tensor in layers[0].all_tensors)


def test_a_second_question_is_not_worked_out_again() -> None:
    architecture = read_config(LLAMA)
    files = table({**llama(), "model.extra.weight": ("BF16", (3, 3))})
    first = place(architecture, files)
    assert place(architecture, files) is first
    assert place(first.architecture, files) is first
    plan = weight_plan(first.architecture, table=files)
    assert plan.of().total == files.num_bytes


@pytest.mark.parametrize(
    ("tensors", "config", "method", "num_params"),
    [
        ({"a.qweight": ("I32", (8, 32)), "a.qzeros": ("I32", (2, 4)), "a.scales": ("F16", (2, 32))}, None, "gptq", 64 * 32),
        ({"a.qweight": ("I32", (6, 32)), "a.qzeros": ("I32", (1, 3)), "a.scales": ("F16", (1, 32))}, None, "gptq", 64 * 32),
        ({"a.qweight": ("I32", (16, 32)), "a.scales": ("F16", (2, 32))}, {"bits": 8}, "gptq", 64 * 32),
        ({"a.qweight": ("I32", (64, 4)), "a.qzeros": ("I32", (2, 4)), "a.scales": ("F16", (2, 32))}, None, "awq", 64 * 32),
        ({"a.weight_packed": ("I32", (32, 16)), "a.weight_scale": ("BF16", (32, 1))}, {"config_groups": {"g": {"weights": {"num_bits": 8}}}}, "compressed-tensors", 64 * 32),
        ({"a.weight_packed": ("U8", (32, 32)), "a.weight_scale": ("F8_E4M3", (32, 4))}, None, "nvfp4", 64 * 32),
        ({"a.weight": ("U8", (1024, 1)), "a.weight.absmax": ("F32", (32,))}, None, "bnb-4bit", 64 * 32),
        ({"a.weight": ("BF16", (512, 1)), "a.weight.absmax": ("F32", (32,))}, None, "bnb-4bit", 64 * 32),
        ({"a.weight": ("I8", (32, 64)), "a.SCB": ("F32", (32,)), "a.weight_format": ("U8", ())}, None, "bnb-int8", 64 * 32),
        ({"a.weight": ("F8_E4M3", (32, 64)), "a.weight_scale": ("F32", ())}, None, "fp8", 64 * 32),
        ({"a.weight": ("F8_E4M3", (32, 64)), "a.weight_scale_inv": ("F32", (1, 1)), "a.input_scale": ("F32", ())}, None, "fp8", 64 * 32),
        ({"a.weight": ("I8", (32, 64)), "a.weight_scale": ("F32", (32, 1))}, None, "int8", 64 * 32),
        ({"e.down_proj_blocks": ("U8", (4, 32, 2, 16)), "e.down_proj_scales": ("U8", (4, 32, 2))}, None, "mxfp4", 4 * 64 * 32),
        ({"a.weight": ("U32", (32, 8)), "a.scales": ("BF16", (32, 1)), "a.biases": ("BF16", (32, 1))}, None, "mlx", 64 * 32),
        ({"a.weight": ("U32", (32, 16)), "a.scales": ("BF16", (32, 1)), "a.biases": ("BF16", (32, 1))}, None, "mlx", 64 * 32),
        ({"a.weight": ("U32", (32, 8)), "a.scales": ("U8", (32, 2))}, None, "mlx-fp", 64 * 32),
        ({"a.weight": ("U8", (8, 64)), "a.weight_scale": ("BF16", (1,))}, None, "bitnet", 64 * 32),
    ],
)  # fmt: skip
def test_packed_matrices(tensors: Tensors, config: dict[str, Any] | None, method: str, num_params: int) -> None:
    found = parameters(table(tensors).tensors, packing_of(config))
    assert [(each.method, each.num_params) for each in found] == [(method, num_params)]
    assert found[0].num_bytes == table(tensors).num_bytes


@pytest.mark.parametrize(
    "tensors",
    [
        {"norm.weight": ("F32", (8,)), "norm.scale": ("F32", (8,))},
        {"a.weight": ("BF16", (8, 8)), "a.scales": ("BF16", (8,)), "a.biases": ("BF16", (8,))},
        {"scales": ("F32", (4,)), "weight": ("F32", (4,))},
        {"x_scales": ("F32", (4,))},
        {"a.bias": ("F32", (4,)), "a.weight": ("F32", (4, 4))},
    ],
)
def test_plain_tensors_stay_apart(tensors: Tensors) -> None:
    assert [each.name for each in parameters(table(tensors).tensors)] == list(tensors)


def test_modules_may_be_packed_each_in_its_own_way() -> None:
    packing = packing_of({"bits": 4, "group_size": 64, "lm_head": {"bits": 8, "group_size": 32}})
    assert (packing.of("lm_head").bits, packing.of("lm_head").group) == (8, 32)
    assert packing.of("model.embed_tokens").bits == 4
    assert packing_of({"bits": "four"}) == Packing()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.mlp.experts.3.w1.weight", "experts"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", "shared_experts"),
        ("model.layers.0.mlp.gate.weight", "router"),
        ("model.layers.0.mlp.gate_proj.weight", "mlp"),
        ("model.layers.0.input_layernorm.weight", "norm"),
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("backbone.layers.0.mixer.A_log", "mixer"),
        ("transformer_blocks.0.attn2.to_q.weight", "cross_attention"),
    ],
)
def test_roles_by_name(name: str, role: str) -> None:
    assert role_of(name) == role


# -- names as published ---------------------------------------------------------------------------------

PUBLISHED = [json.loads(line) for line in (Path(__file__).parent / "published_names.jsonl").read_text().splitlines()]
# What a file holds that no class of the library has: the head of a reward model trained outside it.
OWN = {"gpt_neox": {"out_proj.weight", "out_proj.bias"}}


def numbers_of(text: str) -> Sequence[int]:
    """Return the numbers that ``0-27`` or ``0,2`` stands for."""
    first, dash, last = text.partition("-")
    return range(int(first), int(last) + 1) if dash else [int(number) for number in text.split(",")]


def spelled_out(patterns: dict[str, list[str]]) -> list[str]:
    """Return the names that patterns stand for: each ``#`` takes the numbers listed for it."""
    names = []
    for pattern, axes in patterns.items():
        for chosen in product(*map(numbers_of, axes)):
            name = pattern
            for number in chosen:
                name = name.replace("#", str(number), 1)
            names.append(name)
    return names


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case["config"]["model_type"])
def test_published_names_are_found(case: dict[str, Any]) -> None:
    """Each name of a published index is a tensor of the architecture that its config describes, and none is left over."""
    names = spelled_out(case["names"])
    assert len(names) == case["count"]
    architecture = read_config(case["config"])
    files = TensorTable("safetensors", tuple(StoredTensor(name, (1,), "bf16", 2) for name in names))
    found = place(architecture, files)
    own = OWN.get(architecture.model_type, set())
    described = {each.parameters[0].name for each in found.placed if each.component == "other" and each.loaded}
    assert described == own
    assert not any("files lack" in warning for warning in found.warnings)


@pytest.mark.parametrize("kind", ["falcon", "qwen2_vl", "gemma3", "qwen", "mixtral", "phi3"])
def test_published_totals_are_those_of_the_shapes(kind: str) -> None:
    case = next(case for case in PUBLISHED if case["config"]["model_type"] == kind)
    architecture = read_config(case["config"])
    stored_again = 65024 * 14848 if kind == "falcon" else 0  # its tied head
    assert 2 * (architecture.num_stored_params + stored_again) == case["total_size"]


@pytest.mark.parametrize("number", range(12))
def test_every_architecture_finds_its_own_tensors(number: int) -> None:
    entries = [entry for entry in catalogue.entries() if entry.config_is_own][number::160]
    for entry in entries:
        architecture = entry.architecture()
        names = [name for component in architecture.components for name, _, _ in component.named_tensors()]
        if len(names) > 2000:
            continue
        tensors = (
            StoredTensor(name, tensor.shape, "bf16", 2 * tensor.size)
            for component in architecture.components
            for name, _, tensor in component.named_tensors()
        )
        found = place(architecture, TensorTable("safetensors", tuple(tensors)))
        assert found.architecture is architecture, entry.id
        assert found.warnings == (), entry.id
