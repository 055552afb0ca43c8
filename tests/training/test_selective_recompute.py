"""Selective recompute of named parts of Megatron's layers: what each part no longer keeps, and that gradients still flow."""

from __future__ import annotations

from typing import Any

import pytest

import vrameter
from tests.training.scenes import LENGTH, SEQS, architecture
from vrameter.errors import VrameterError
from vrameter.model.architecture import Architecture
from vrameter.training.families import traits_of
from vrameter.training.graph import Graph, Weight
from vrameter.training.programs import megatron
from vrameter.training.programs.scene import Kernels, Numbers, Scene, Use
from vrameter.training.simulate import Cost, cost

TOKENS, WIDTH = SEQS * LENGTH, 256
LATENT: dict[str, Any] = {
    "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8,
    "num_experts_per_tok": 2, "moe_intermediate_size": 128, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1,
}  # fmt: skip
HEADS, KEY, VALUE = 8, 48, 32


def layer_cost(model: Architecture, number: int, *checkpoints: str, kernel: str = "cudnn") -> Cost:
    """Return what a layer costs with parts of it recomputed."""
    layer = model.main.layers[number]

    def make(graph: Graph) -> Scene:
        numbers, kernels = Numbers(2, 2), Kernels(attention=kernel)
        return Scene(graph, SEQS, LENGTH, numbers, kernels, traits_of(model), lambda tensor: Use(2, True),
                     checkpoints=frozenset(checkpoints))  # fmt: skip

    return cost(
        lambda scene, x: megatron.layer(scene, layer, x), make, width=WIDTH, element=2, rows=TOKENS, accumulates=True
    )


@pytest.fixture(scope="module")
def deepseek() -> Architecture:
    """Return a dense layer and one of experts, both with latent attention."""
    return architecture("deepseek_v3", **LATENT)


EXPERTS, ACTED, SHARED = 2 * TOKENS, 2 * TOKENS * 128 * 2, TOKENS * 128 * 2
NORM = TOKENS * WIDTH * 2
DROPPED = [
    # The activation between the two matrices of the experts.
    (1, ("moe_act",), ACTED),
    # The outputs of two norms and their statistics; their inputs stay.
    (1, ("layernorm",), 2 * (NORM + TOKENS * 4)),
    # Queries, keys and values of all heads; what they are made of stays.
    (1, ("mla_up_proj",), TOKENS * HEADS * (2 * KEY + VALUE) * 2),
    # Inputs of the gate's product and of the second matrix; the input is kept by the router as well.
    (1, ("shared_experts",), 2 * SHARED + SHARED),
    # A fused kernel's sums alone: its inputs and output are kept by others.
    (1, ("core_attn",), TOKENS * HEADS * 4),
    # The dense perceptron's norm output and statistics, both halves before the gate, and the product.
    (0, ("mlp",), NORM + TOKENS * 4 + TOKENS * 704 * 2 * 3),
    # A dense perceptron has no experts, and one of experts no dense matrices.
    (0, ("moe", "moe_act", "shared_experts"), 0),
    (1, ("mlp",), 0),
    # Two parts that do not overlap add up.
    (1, ("moe_act", "mla_up_proj"), ACTED + TOKENS * HEADS * (2 * KEY + VALUE) * 2),
]  # fmt: skip


@pytest.mark.parametrize(("number", "parts", "dropped"), DROPPED, ids=lambda value: str(value))
def test_each_part_drops_what_it_makes(
    deepseek: Architecture, number: int, parts: tuple[str, ...], dropped: int
) -> None:
    plain, again = layer_cost(deepseek, number), layer_cost(deepseek, number, *parts)
    assert plain.saved - again.saved == dropped
    assert plain.lean_forward == again.lean_forward


def test_a_layer_of_experts_keeps_no_more_than_its_norm(deepseek: Architecture) -> None:
    """`moe` runs router, dispatch, experts and shared experts again: beside attention the norm's input and output are left."""
    dense, whole = layer_cost(deepseek, 0, "mlp"), layer_cost(deepseek, 1, "moe")
    assert whole.saved == dense.saved + NORM + TOKENS * 4
    assert layer_cost(deepseek, 1, "moe", "layernorm").saved == whole.saved - 2 * (NORM + TOKENS * 4)


def test_unfused_attention_drops_its_scores(deepseek: Architecture) -> None:
    plain = layer_cost(deepseek, 0, kernel="eager")
    assert plain.per_pair
    assert layer_cost(deepseek, 0, "core_attn", kernel="eager").per_pair == 0


@pytest.mark.parametrize("number", [0, 1])
def test_recomputing_costs_no_more_at_the_worst_moment(deepseek: Architecture, number: int) -> None:
    """What is made again stands beside what is left of the layer, never above what the layer would have kept."""
    plain = layer_cost(deepseek, number)
    for part in ("core_attn", "layernorm", "mla_up_proj", "mlp", "moe", "moe_act", "shared_experts"):
        again = layer_cost(deepseek, number, part)
        assert again.saved <= plain.saved
        assert again.backward <= plain.backward + NORM


def test_gradients_pass_through_a_region() -> None:
    """Inputs of a region get their gradients; nothing stays behind."""
    graph = Graph()
    x = graph.new(8, 4, 2, grad=True)
    weight = Weight(16, 2, trained=True)
    region, [y] = graph.checkpoint(lambda x: [graph.pointwise(graph.linear(x, weight, 4))], x, discards=True)
    z = graph.linear(y, weight, 4)
    del y
    graph.discard(region)
    kept = graph.live
    assert kept == x.bytes + z.bytes
    graph.seed(z)
    slot = x.slot
    del z, x
    graph.backward()
    assert slot is not None
    assert slot.grad is not None
    assert graph.live == slot.bytes


# -- whole steps -----------------------------------------------------------------------------------------

MODEL: dict[str, Any] = {
    "config": {"model_type": "deepseek_v3", "hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16,
               "num_key_value_heads": 16, "vocab_size": 32000, "num_hidden_layers": 12, **LATENT, "moe_intermediate_size": 512},
    "name": "toy",
}  # fmt: skip


def kept(engine: str = "megatron", model: Any = MODEL, **settings: Any) -> int:
    """Return the activations of the forward pass."""
    answer = vrameter.estimate(
        {
            "task": "training",
            "model": model,
            "engine": engine,
            "settings": {"seq_len": 4096, "loss": "fused", **settings},
        }
    )
    return sum(
        item["bytes"] for item in answer["devices"][0]["items"]
        if item["term"] == "activations" and "forward" in item["phases"]
    )  # fmt: skip


def test_modules_of_a_request() -> None:
    """Eleven layers of experts of twelve: each drops its activation."""
    plain, again = kept(), kept(recompute="selective", recompute_modules=["moe_act"])
    assert plain - again == pytest.approx(11 * 2 * 4096 * 512 * 2, rel=1e-6)


def test_blocks_of_layers() -> None:
    """`block` recomputes the first layers; `uniform` over groups keeps one input for each."""
    inputs = 4096 * 4096 * 2
    assert kept(recompute="full") < kept(recompute="full", recompute_method="block", recompute_num_layers=3) < kept()
    each, fours = (
        kept(model="llama-3.1-8b", recompute="full", recompute_method="uniform", recompute_num_layers=n) for n in (1, 4)
    )
    assert each - fours == 24 * inputs


def test_every_second_layer() -> None:
    whole, half, none = (
        kept("torchtitan", recompute=kind, **more)
        for kind, more in (
            ("full", {}),
            ("selective", {"recompute_policy": "layer", "recompute_num_layers": 2}),
            ("none", {}),
        )
    )
    assert half == pytest.approx((whole + none) / 2, rel=0.1)


def test_all_but_attention() -> None:
    """Beside the input of each of 32 layers stand attention's output, 4096 wide, and a sum for each of 32 heads."""
    policy = {"recompute": "selective", "recompute_policy": "attention", "precision": "bf16"}
    whole = kept("transformers", "llama-3.1-8b", recompute="full", precision="bf16")
    assert kept("transformers", "llama-3.1-8b", **policy) - whole == 32 * 4096 * (4096 * 2 + 32 * 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"recompute": "selective", "recompute_modules": ["moe_actt"]}, "moe_act"),
        ({"recompute": "selective", "recompute_modules": ["experts"]}, "shared_experts"),
    ],
)
def test_unknown_parts_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(VrameterError) as caught:
        kept(**settings)
    assert caught.value.field == "settings.recompute_modules"
    assert said in str(caught.value.hint)


def test_parts_without_effect_are_told() -> None:
    answer = vrameter.estimate(
        {
            "task": "training",
            "model": MODEL,
            "engine": "megatron",
            "settings": {"recompute_modules": ["mlp"], "recompute": "full"},
        }
    )
    assert any("recompute_modules" in warning for warning in answer["warnings"])
    with pytest.raises(VrameterError, match="latent attention"):
        vrameter.estimate(
            {"task": "training", "model": "llama-3.1-8b", "engine": "megatron",
             "settings": {"recompute": "selective", "recompute_modules": ["mla_up_proj"]}}
        )  # fmt: skip
