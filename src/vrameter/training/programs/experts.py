"""Mixtures of experts as programs.

transformers 5 sorts the routed copies of tokens by expert and multiplies them group by group; before, a loop over
experts made the same tensors piece by piece.

References
----------
.. [1] transformers 5.23, ``integrations/moe.py``: ``grouped_mm_experts_forward``.
"""

from __future__ import annotations

from vrameter.model.architecture import FeedForward, Tensor
from vrameter.training.graph import FIXED, Storage, Value
from vrameter.training.programs.scene import Scene, by_slot


def mixture(scene: Scene, part: FeedForward, x: Value) -> Value:
    """Run router, experts and what every token passes besides."""
    slots = {
        tensor.slot: tensor for tensor in part.tensors if tensor.role in ("experts", "router") and len(tensor.shape) > 1
    }
    chosen = route(scene, part, x, slots["router"])
    routed = experts(scene, part, x, chosen, slots)
    shared = shared_slots(part)
    if not shared:
        return routed
    graph = scene.graph
    inner = scene.perceptron(x, shared_part(part), shared)
    if "shared_gate" in slots:
        gate = graph.pointwise(scene.linear(x, slots["shared_gate"], outputs=1), keeps="output")
        inner = graph.mul(gate, inner)
    return graph.add(routed, inner)


def route(scene: Scene, part: FeedForward, x: Value, router: Tensor) -> Value:
    """Return the weights of each token's chosen experts."""
    graph, chosen = scene.graph, part.num_experts_per_token
    wide = scene.traits.router in ("sigmoid-fp32",)
    if wide:
        x = graph.cast(x, 4)
    logits = graph.linear(x, scene.weight(router), part.num_experts, compute=0 if wide else scene.numbers.autocast)
    probabilities = graph.op([logits], element=4, saves_output=True)
    places = graph.new(x.rows, chosen, 8)
    top = graph.op([probabilities], chosen, saves=[places])
    sums = graph.op([top], 1)
    top = graph.op([top, sums], chosen, saves=[top, sums])
    return top if scene.traits.router == "wide" else graph.cast(top, logits.element)


def experts(scene: Scene, part: FeedForward, x: Value, chosen: Value, slots: dict[str, Tensor]) -> Value:
    """Run the chosen experts on copies of the tokens, sorted by expert."""
    graph, fan = scene.graph, part.num_experts_per_token
    rows, inner = x.rows * fan, part.intermediate_size
    order, source = graph.new(rows, 1, 8), graph.new(rows, 1, 8)
    copies = graph.op([x], rows=rows, saves=[source])
    weights = graph.op([chosen], 1, rows=rows, saves=[order])
    del source
    first = slots.get("gate_up") or slots["up"]
    width = 2 * inner if part.gated else inner
    ends = Storage(graph, 4 * part.num_experts, FIXED)
    hidden = scene.grouped(copies, first, width)
    if hidden.slot is not None:
        graph.nodes[-1].saved.append(ends)
    del ends
    del copies
    if part.gated:
        hidden = scene.gated(*graph.halves(hidden, [inner, inner]))
    else:
        hidden = scene.activation(hidden)
    hidden = scene.grouped(hidden, slots["down"], x.width)
    hidden = graph.mul(hidden, weights)
    del weights
    back = graph.new(rows, 1, 8)
    hidden = graph.op([hidden], saves=[back])
    out = graph.op([hidden], rows=x.rows)
    return graph.cast(out, x.element)


def shared_part(part: FeedForward) -> FeedForward:
    """Return the perceptron that every token passes."""
    tensors = tuple(tensor for tensor in part.tensors if tensor.role == "shared_experts")
    return FeedForward(tensors=tensors, intermediate_size=part.shared_size, gated=part.gated)


def shared_slots(part: FeedForward) -> dict[str, Tensor]:
    """Return its matrices; none where there is no such perceptron."""
    return by_slot([tensor for tensor in part.tensors if tensor.role == "shared_experts"]) if part.shared_size else {}


__all__ = ["experts", "mixture", "route", "shared_part", "shared_slots"]
