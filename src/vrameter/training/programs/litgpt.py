"""Layers of LitGPT as programs.

One matrix makes queries, keys and values; LoRA on some of them pads its update with zeros (``index_copy`` keeps the
update); rotations put queries and keys together anew, heads before tokens; norms run in fp32.

References
----------
.. [1] LitGPT 0.4, ``model.py``, ``lora.py``, ``adapter.py``, ``adapter_v2.py``; commit 0cc02afa for the resource tables.
"""

from __future__ import annotations

from math import prod

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Attention, FeedForward, Layer, Tensor
from vrameter.training.graph import Value, Weight
from vrameter.training.programs.scene import Scene, by_slot, norms_of

PROMPT_TOKENS = 10
FIRST_ADAPTED_LAYER = 2


def layer(scene: Scene, block: Layer, x: Value) -> Value:
    """Run one block."""
    graph = scene.graph
    norms = norms_of(block)
    mixer = next(part for part in block.parts if isinstance(part, Attention))
    feed = next(part for part in block.parts if isinstance(part, FeedForward))
    if scene.traits.layout == "parallel":
        normed = norm(scene, x, norms[0])
        attended = attention(scene, mixer, normed)
        second = normed if len(norms) == 1 else norm(scene, x, norms[1])
        return graph.add(graph.add(perceptron(scene, feed, second), attended), x)
    if len(norms) < 2:
        raise RequestError(
            tr("LitGPT's block has a norm before attention and one before the MLP; this layer has fewer.")
        )
    sandwich = len(norms) >= 4
    normed = norm(scene, x, norms[0])
    attended = attention(scene, mixer, normed)
    if sandwich:
        attended = norm(scene, attended, norms[1])
    x = graph.add(attended, x)
    inner = perceptron(scene, feed, norm(scene, x, norms[2 if sandwich else 1]))
    if sandwich:
        inner = norm(scene, inner, norms[3])
    return graph.add(inner, x)


def norm(scene: Scene, x: Value, tensors: tuple[Tensor, ...]) -> Value:
    """Run a norm: torch's LayerNorm, or the RMS norm in fp32."""
    if len(tensors) > 1 or scene.traits.norm == "layer":
        return scene.norm(x, tensors, kind="layer")
    graph, weight = scene.graph, scene.weight(tensors[0])
    element = x.element
    x = graph.cast(x, 4)
    square = graph.op([graph.mul(x, x)], 1)
    normal = graph.mul(x, graph.pointwise(square, keeps="output"))
    return graph.cast(graph.scale(normal, weight, product_element=4), element)


def linear(scene: Scene, x: Value, tensor: Tensor, slot: str, width: int) -> Value:
    """Run a linear layer with what LitGPT puts beside it."""
    graph = scene.graph
    out = graph.linear(x, scene.weight(tensor), width, compute=scene.numbers.autocast)
    use = scene.use(tensor)
    if use.adapter is None:
        return out
    if use.adapter.method == "adapter_v2":
        return scene.scaled(out)
    return graph.add(out, update(scene, x, [width], width, slot))


def update(scene: Scene, x: Value, widths: list[int], total: int, slot: str) -> Value:
    """Return the low-rank update of one or several of a fused matrix's outputs, padded to its full width."""
    graph, auto = scene.graph, scene.numbers.autocast
    adapter = scene.enabled[slot]
    rank = adapter.rank * len(widths)
    inner = scene.dropout(x) if adapter.dropout else x
    first = Weight(rank * x.width, adapter.element, trained=True)
    second = Weight(adapter.rank * sum(widths), adapter.element, trained=True)
    inner = graph.linear(inner, first, rank, compute=auto)
    made = graph.linear(inner, second, sum(widths), compute=auto)
    if sum(widths) < total:
        made = graph.copy(made)
        made = graph.op([made], total, saves=[made])
    return graph.pointwise(made, keeps="nothing")


def attention(scene: Scene, part: Attention, x: Value) -> Value:
    """Run the fused projection, rotations and attention."""
    graph, slots = scene.graph, by_slot(part.tensors)
    dim, value = part.head_dim, part.value_dim
    widths = {"q": part.num_heads * dim, "k": part.num_kv_heads * dim, "v": part.num_kv_heads * value}
    total = sum(widths.values())
    qkv = graph.linear(x, _fused(scene, part, slots), total, compute=scene.numbers.autocast)
    adapted = [name for name in widths if name in scene.enabled]
    if scene.enabled and next(iter(scene.enabled.values())).method == "adapter_v2":
        qkv = scene.scaled(qkv)
    elif adapted:
        qkv = graph.add(qkv, update(scene, x, [widths[name] for name in adapted], total, adapted[0]))
    q, k, v = graph.halves(qkv, list(widths.values()))
    del qkv
    if part.num_heads != part.num_kv_heads:
        q = graph.copy(q)
        k, v = graph.copy(k, width=part.num_heads * dim), graph.copy(v, width=part.num_heads * value)
    q, k = turned(scene, q, dim), turned(scene, k, dim)
    whole = Attention((), part.num_heads, part.num_heads if k.width == q.width else part.num_kv_heads, dim, value)
    out = scene.attend(whole, q, k, v)
    if scene.prompt_element:
        out = _prompted(scene, whole, q, out)
    return linear(scene, out, slots["o"], "o", x.width)


def _prompted(scene: Scene, part: Attention, q: Value, out: Value) -> Value:
    """Attend to a learned prompt as well and add it, weighed by a trained factor."""
    graph, element = scene.graph, scene.prompt_element
    prompt = graph.new(1, PROMPT_TOKENS * part.num_heads * part.head_dim, element, grad=True)
    sums = graph.new(q.rows, part.num_heads, 4)
    seen = graph.op([q, prompt], out.width, saves=[q, prompt, sums], saves_output=True)
    del sums
    return graph.add(out, graph.scale(seen, Weight(part.num_heads, element, trained=True)))


def turned(scene: Scene, x: Value, head_dim: int) -> Value:
    """Rotate a share of each head and put it together with the rest."""
    graph = scene.graph
    width = int(x.width * scene.traits.rotary_share)
    table = graph.constant(scene.tokens, head_dim, 4)
    rotating, *rest = graph.halves(x, [width, x.width - width]) if width < x.width else [x]
    element = rotating.element
    flipped = scene.half_turn(rotating)
    rolled = graph.add(graph.mul(rotating, table), graph.mul(flipped, table))
    del flipped
    return graph.join([graph.cast(rolled, element), *rest])


def _fused(scene: Scene, part: Attention, slots: dict[str, Tensor]) -> Weight:
    """Return the matrix that makes queries, keys and values."""
    if "qkv" in slots:
        return scene.weight(slots["qkv"])
    weights = [scene.weight(slots[name]) for name in ("q", "k", "v") if name in slots]
    first = weights[0]
    return Weight(
        sum(weight.size for weight in weights), first.element, trained=first.slot is not None,
        grad_element=first.grad_element, unpacked=sum(weight.unpacked for weight in weights),
        keeps_input=first.keeps_input,
    )  # fmt: skip


def perceptron(scene: Scene, part: FeedForward, x: Value) -> Value:
    """Run the perceptron."""
    graph, slots, width = scene.graph, by_slot(part.tensors), part.intermediate_size
    if not part.gated:
        inner = linear(scene, x, slots["up"], "up", width)
        return linear(scene, graph.pointwise(inner), slots["down"], "down", x.width)
    gate_tensor = slots.get("gate") or half(slots["gate_up"])
    up_tensor = slots.get("up") or half(slots["gate_up"])
    gate = linear(scene, x, gate_tensor, "gate", width)
    up = linear(scene, x, up_tensor, "up", width)
    product = graph.mul(graph.pointwise(gate), up)
    del gate, up
    return linear(scene, product, slots["down"], "down", x.width)


def half(tensor: Tensor) -> Tensor:
    """Return one of the two matrices that another class keeps as one."""
    return tensor._replace(shape=(tensor.shape[0] // 2, *tensor.shape[1:]))


def elements(tensors: tuple[Tensor, ...]) -> int:
    """Return how many numbers tensors hold."""
    return sum(prod(tensor.shape) for tensor in tensors)


__all__ = ["FIRST_ADAPTED_LAYER", "attention", "layer", "norm", "perceptron"]
