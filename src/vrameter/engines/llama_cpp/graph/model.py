"""A whole model's graph for its largest batch, and the compute buffer that it needs on every device.

A model of a hundred layers is planned with a few: where layers repeat, the allocator's moves repeat too, so a run of equal
layers (or of equal groups of layers) is cut to `REPEATS` of them. Not so with indexers, whose blocks grow from layer to layer.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/llama-context.cpp`` (``sched_reserve``, ``graph_reserve``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vrameter.engines.llama_cpp.graph import kernels
from vrameter.engines.llama_cpp.graph import tensors as op
from vrameter.engines.llama_cpp.graph.attention import Attention
from vrameter.engines.llama_cpp.graph.builder import Batch, Builder, LayerNodes
from vrameter.engines.llama_cpp.graph.layers import LayerKind, Layers
from vrameter.engines.llama_cpp.graph.mixers import Mixers
from vrameter.engines.llama_cpp.graph.scheduler import Devices, Scheduler
from vrameter.engines.llama_cpp.graph.tensors import Node

REPEATS, REPEATS_OF_MANY = 8, 4
LONGEST_PERIOD = 12
ROTARY_TABLE = "rope_freqs.weight"
"""One tensor of every device that all its layers read."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One weight or cache as the graph sees it."""

    type: str
    ne: tuple[int, ...]
    home: int

    def node(self, *, weight: bool) -> Node:
        """Return a leaf for it."""
        made = op.leaf(self.type, *self.ne)
        made.home = self.home
        made.weight = weight
        return made


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer: what it is, where it is, and its tensors by name."""

    kind: LayerKind
    device: int
    weights: Mapping[str, TensorSpec]
    caches: Mapping[str, TensorSpec]
    key: Hashable
    """What makes two layers alike for the planner."""


Outputs = Literal["logits", "hidden"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as its graph depends on it.

    Parameters
    ----------
    weights
        Tensors outside the layers.
    widths
        Widths of keys and values of the layers without and with a window; 0 where layers disagree.
    widest_value
        The widest row of values of any layer. [elements]
    layer_norm, position_count, scaled_embedding
        Whether norms subtract the mean; position numbers of a token; whether embeddings are multiplied by a constant.
    chosen_at_end
        Whether rows are chosen after the last layer: before the final norm (``norm``), after it (``head``), or by the
        last layer itself (``layer``).
    keeps_hidden
        Whether the final hidden states of all rows are an output too.
    embedding_width
        Width of the embeddings that the graph takes, more than the model's where a vision tower adds features.
    """

    hidden_size: int
    layers: tuple[LayerSpec, ...]
    weights: Mapping[str, TensorSpec]
    widths: Mapping[bool, tuple[int, int]]
    widest_value: int
    windowed: bool
    outputs: Outputs = "logits"
    layer_norm: bool = False
    position_count: int = 1
    scaled_embedding: bool = False
    chosen_at_end: Literal["layer", "head", "norm"] = "layer"
    keeps_hidden: bool = False
    embedding_width: int = 0
    positions_first: bool = False
    normed_embedding: bool = False


def compute_bytes(
    spec: ModelSpec, batch: Batch, *, num_gpus: int, op_offload: bool, pipeline: bool, repeats: int = REPEATS
) -> tuple[int, ...]:
    """Return the compute buffer of every GPU and, last, of the host. [bytes].

    Parameters
    ----------
    repeats
        How many of a run of equal layers are planned; by default fewer on each of many GPUs.
    """
    if repeats is None:
        repeats = REPEATS if num_gpus <= 2 else REPEATS_OF_MANY
    builder = Builder(batch, host=num_gpus, layer_norm=spec.layer_norm)
    builder.position_count = spec.position_count
    indexed = any(each.kind.latent is not None and each.kind.latent.index_dim for each in spec.layers)
    kept = spec.layers if indexed else tuple(shortened(spec.layers, repeats))
    _build(builder, replace(spec, layers=kept), missing=Counter(each.key for each in spec.layers))
    devices = Devices(num_gpus, kernels.supports, kernels.size_of, op_offload, pipeline)
    return tuple(Scheduler(builder.graph, devices).sizes(kernels.kept))


def shortened(layers: Sequence[LayerSpec], repeats: int = REPEATS) -> list[LayerSpec]:
    """Return a model's layers with long runs of equal layers, or of equal groups of layers, cut short.

    The last layers stay, because the last one is wired in its own way.
    """
    found = list(layers)
    for period in range(1, LONGEST_PERIOD + 1):
        kept: list[LayerSpec] = []
        index = 0
        while index < len(found):
            end = index + period
            while end < len(found) and found[end].key == found[end - period].key:
                end += 1
            times = (end - index) // period
            if times > repeats:
                surplus = (times - repeats) * period
                kept += found[index : end - surplus]
                index = end
            else:
                kept.append(found[index])
                index += 1
        found = kept
    return found


def _build(builder: Builder, spec: ModelSpec, *, missing: Counter[Hashable]) -> None:
    missing = missing - Counter(each.key for each in spec.layers)
    graph, batch = builder.graph, builder.batch
    weights = {name: each.node(weight=True) for name, each in spec.weights.items()}
    attention = Attention(builder, widths=spec.widths, widest_value=spec.widest_value, windowed=spec.windowed)
    layers = Layers(builder, attention, Mixers(builder))
    node = _embedded(builder, spec, weights)
    tables: dict[int, Node] = {}
    for index, each in enumerate(spec.layers):
        own = {name: tensor.node(weight=True) for name, tensor in each.weights.items()}
        if ROTARY_TABLE in own:
            own[ROTARY_TABLE] = tables.setdefault(each.weights[ROTARY_TABLE].home, own[ROTARY_TABLE])
        nodes = LayerNodes(
            own,
            each.device,
            {name: tensor.node(weight=False) for name, tensor in each.caches.items()},
        )
        node = layers.build(node, nodes, each.kind, last=index == len(spec.layers) - 1)
        if attention.zeros is not None:
            # layers left out would have held theirs from the start, too
            graph.alike[id(attention.zeros)] = missing.pop(each.key, 0)
            attention.zeros = None
    if spec.chosen_at_end == "norm":
        node.output = spec.keeps_hidden
        (node,) = builder.chosen(node)
    if "output_norm.weight" in weights or "output_norm.bias" in weights or spec.outputs == "logits":
        node = builder.norm(node, weights, "output_norm")
    if spec.chosen_at_end == "head":
        node.output = spec.keeps_hidden
        (node,) = builder.chosen(node)
    node.output = True
    if spec.outputs == "logits" and not (batch.embeddings and "output.weight" not in weights):
        node = builder.linear(node, weights, "output")
        node.output = True
    graph.expand(node)


def _embedded(builder: Builder, spec: ModelSpec, weights: Mapping[str, Node]) -> Node:
    """Return the embeddings that the first layer reads."""
    graph, tokens = builder.graph, builder.batch.num_tokens
    ids = builder.input("tokens", "i32", tokens)
    node = op.get_rows(weights["token_embd.weight"], ids)
    whole = spec.embedding_width or spec.hidden_size
    if whole != spec.hidden_size:
        node = op.new("pad", "f32", (whole, *node.ne[1:]), node)
    graph.expand(node)
    graph.expand(builder.input("embeddings", "f32", whole, tokens))
    if whole != spec.hidden_size:
        builder.inputs["embedded_whole"] = node
        node = graph.expand(op.view_2d(node, spec.hidden_size, tokens, node.nb[1]))
    if spec.scaled_embedding:
        node = op.same("scale", node)
        if "per_layer_token_embd.weight" not in weights:
            graph.expand(node)
    if "token_types.weight" in weights:
        node = op.same("add", node, op.view_1d(weights["token_types.weight"], spec.hidden_size))
    if "position_embd.weight" in weights:
        places = op.get_rows(weights["position_embd.weight"], builder.positions)
        node = op.same("add", places, node) if spec.positions_first else op.same("add", node, places)
    if "token_embd_norm.weight" in weights:
        node = builder.norm(node, weights, "token_embd_norm", spec.layers[0].device)
    if spec.normed_embedding:
        node = op.same("rms_norm", node)
    if "per_layer_token_embd.weight" in weights:
        _embedded_per_layer(builder, spec, weights, node)
    return node


def _embedded_per_layer(builder: Builder, spec: ModelSpec, weights: Mapping[str, Node], node: Node) -> None:
    """Make the embedding that every layer gets for itself."""
    graph, tokens = builder.graph, builder.batch.num_tokens
    table = weights["per_layer_token_embd.weight"]
    width = weights["per_layer_proj_norm.weight"].ne[0]
    layers = table.ne[0] // width
    own = op.get_rows(table, builder.input("tokens_per_layer", "i32", tokens))
    own = graph.expand(op.same("scale", op.reshape(own, width, layers, tokens)))
    made = op.same("scale", builder.linear(node, weights, "per_layer_model_proj"))
    made = builder.norm(op.reshape(made, width, layers, tokens), weights, "per_layer_proj_norm", rms=True)
    made = op.same("scale", op.same("add", made, own))
    builder.inputs["per_layer"] = op.cont(op.permute(made, 0, 2, 1, 3))


__all__ = ["LayerSpec", "ModelSpec", "TensorSpec", "compute_bytes", "shortened"]
