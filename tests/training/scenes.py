"""Toy layers for training tests: one Llama block and its relatives, without a model around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model.architecture import Architecture
from vrameter.model.read import read_config
from vrameter.training.families import traits_of
from vrameter.training.graph import Graph
from vrameter.training.lending import lender, lent
from vrameter.training.programs import transformers
from vrameter.training.programs.scene import AdapterUse, Kernels, Numbers, Scene, Use
from vrameter.training.simulate import Cost, cost

TOY: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
    "vocab_size": 128, "num_hidden_layers": 2,
}  # fmt: skip
SEQS, LENGTH = 2, 64


def architecture(model_type: str = "llama", **values: Any) -> Architecture:
    """Return a toy model."""
    return read_config({"model_type": model_type, **TOY, **values})


def block_cost(
    model: Architecture,
    *,
    element: int = 2,
    autocast: int = 0,
    kernel: str = "sdpa",
    trained: bool = True,
    adapter: AdapterUse | None = None,
    adapted: tuple[str, ...] = (),
    fused: bool = False,
    dropout: bool = True,
    seqs: int = SEQS,
    length: int = LENGTH,
) -> Cost:
    """Return what the last layer of a model costs."""

    def use(tensor: Any) -> Use:
        return Use(element, trained, adapter=adapter if tensor.slot in adapted else None)

    traits = traits_of(model)
    if not dropout:
        traits = replace(traits, attention_dropout=0.0, hidden_dropout=0.0)

    def make(graph: Graph) -> Scene:
        kernels = Kernels(attention=kernel, norm=fused, rope=fused, activation=fused)
        return Scene(graph, seqs, length, Numbers(element, element, autocast), kernels, traits, use)

    layer = model.main.layers[-1]
    owner = lender(layer, model.main.layers)
    layer = layer if owner is None else lent(layer, owner)
    return cost(
        lambda scene, x: transformers.layer(scene, layer, x), make, width=model.main.hidden_size, element=element,
        rows=seqs * length, accumulates=True,
    )  # fmt: skip


__all__ = ["LENGTH", "SEQS", "TOY", "architecture", "block_cost"]
