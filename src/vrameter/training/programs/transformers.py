"""Layers of transformers as programs, for training: what their own code makes autograd keep.

How a family's layer is laid out follows from its norms and from `vrameter.training.families`.

References
----------
.. [1] transformers 5.23: ``modeling_*.py``.
"""

from __future__ import annotations

from vrameter.model.architecture import Attention, FeedForward, LatentAttention, Layer, Part, Recurrent, Tensor
from vrameter.training.graph import Value
from vrameter.training.programs.experts import mixture
from vrameter.training.programs.latent import latent_attention
from vrameter.training.programs.recurrent import recurrent
from vrameter.training.programs.scene import Scene, by_slot, norms_of

Norms = list[tuple[Tensor, ...]]


def layer(scene: Scene, block: Layer, x: Value) -> Value:
    """Run one layer on the residual stream."""
    norms = norms_of(block)
    layout = scene.traits.layout
    if layout == "parallel" and len(block.parts) == 2:
        return _parallel(scene, block, x, norms)
    if layout == "post":
        return _post(scene, block, x, norms)
    if layout == "after":
        return _after(scene, block, x, norms)
    if layout == "sandwich" or len(norms) >= 2 * len(block.parts):
        return _sandwich(scene, block, x, norms)
    return _pre(scene, block, x, norms)


def _pre(scene: Scene, block: Layer, x: Value, norms: Norms) -> Value:
    graph = scene.graph
    for number, part in enumerate(block.parts):
        residual = x
        x = scene.norm(x, norms[min(number, len(norms) - 1)]) if norms else x
        x = run(scene, part, x)
        x = _dropped(scene, x)
        x = graph.add(residual, x)
    return x


def _sandwich(scene: Scene, block: Layer, x: Value, norms: Norms) -> Value:
    graph = scene.graph
    for number, part in enumerate(block.parts):
        residual = x
        x = scene.norm(x, norms[2 * number])
        x = run(scene, part, x)
        x = scene.norm(x, norms[2 * number + 1])
        x = graph.add(residual, x)
    return x


def _after(scene: Scene, block: Layer, x: Value, norms: Norms) -> Value:
    graph = scene.graph
    for number, part in enumerate(block.parts):
        residual = x
        x = run(scene, part, x)
        x = scene.norm(x, norms[number])
        x = graph.add(residual, x)
    return x


def _post(scene: Scene, block: Layer, x: Value, norms: Norms) -> Value:
    graph = scene.graph
    for number, part in enumerate(block.parts):
        y = _dropped(scene, run(scene, part, x))
        x = scene.norm(graph.add(y, x), norms[min(number, len(norms) - 1)])
        del y
    return x


def _parallel(scene: Scene, block: Layer, x: Value, norms: Norms) -> Value:
    graph = scene.graph
    first, second = block.parts
    residual = x
    x = scene.norm(x, norms[0])
    attended = _dropped(scene, run(scene, first, x))
    if len(norms) > 1:
        x = scene.norm(residual, norms[1])
    x = _dropped(scene, run(scene, second, x))
    x = graph.add(x, attended)
    return graph.add(x, residual)


def _dropped(scene: Scene, x: Value) -> Value:
    return scene.dropout(x) if scene.traits.hidden_dropout else x


def run(scene: Scene, part: Part, x: Value) -> Value:
    """Run one part of a layer; under sequence parallelism all tokens meet in it, and each device keeps its share of the sum."""
    if scene.ranks == 1:
        return _run(scene, part, x)
    rows = x.rows
    return scene.graph.op([_run(scene, part, scene.graph.op([x], rows=rows * scene.ranks))], rows=rows)


def _run(scene: Scene, part: Part, x: Value) -> Value:
    if isinstance(part, Attention):
        return attention(scene, part, x)
    if isinstance(part, LatentAttention):
        return latent_attention(scene, part, x)
    if isinstance(part, Recurrent):
        return recurrent(scene, part, x)
    return feed_forward(scene, part, x)


def feed_forward(scene: Scene, part: FeedForward, x: Value) -> Value:
    """Run a perceptron or a mixture of them."""
    return mixture(scene, part, x) if part.num_experts else scene.perceptron(x, part)


def attention(scene: Scene, part: Attention, x: Value) -> Value:
    """Run projections, rotations and the attention kernel."""
    slots = by_slot(part.tensors)
    q_width, k_width = part.num_heads * part.head_dim, part.num_kv_heads * part.head_dim
    v_width = part.num_kv_heads * part.value_dim
    gate: Value | None = None
    if "qkv" in slots:
        qkv = scene.linear(x, slots["qkv"], outputs=q_width + k_width + v_width)
        q, k, v = scene.graph.halves(qkv, [q_width, k_width, v_width])
        del qkv
    else:
        q = scene.linear(x, slots["q"])
        if q.width > q_width:
            q, gate = scene.graph.halves(q, [q_width, q.width - q_width])
        k = scene.linear(x, slots["k"]) if "k" in slots else q
        v = scene.linear(x, slots["v"]) if "v" in slots else k
    q_norm, k_norm = qk_norms(part)
    if q_norm:
        q = scene.norm(q, q_norm, heads=_heads(q_norm, q_width))
    if k_norm:
        k = scene.norm(k, k_norm, heads=_heads(k_norm, k_width))
    if part.scope not in ("cross", "encoder") or scene.traits.rotary == "encoder":
        q, k = scene.rotated(q, part.head_dim), scene.rotated(k, part.head_dim)
    out = scene.attend(part, q, k, v)
    if gate is not None:
        out = scene.graph.mul(out, scene.graph.pointwise(gate, keeps="output"))
    del q, k, v
    out = scene.linear(out, slots["o"], outputs=x.width)
    if scene.beside_tokens and "q" in slots:
        return scene.beside(part, x, slots["q"], slots["o"], out)
    return out


def _heads(norm: tuple[Tensor, ...], width: int) -> int:
    """Return how many heads share a norm; 0 where it spans them all."""
    return width // norm[0].size if norm[0].size and width > norm[0].size else 0


def qk_norms(part: Attention) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    groups = norms_of(part)
    q = next((group for group in groups if ".q_" in group[0].name or "query" in group[0].name), ())
    k = next((group for group in groups if ".k_" in group[0].name or "key" in group[0].name), ())
    return q, k


__all__ = ["attention", "feed_forward", "layer", "run"]
