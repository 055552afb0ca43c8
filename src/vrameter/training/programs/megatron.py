"""Layers of Megatron Core as programs, with Transformer Engine or its own modules.

Transformer Engine's fused norm and projection keep the norm's input and output; attention keeps the fused projection
it views; residual branches keep one byte of dropout mask. Without sequence parallelism what stands between the split
matrices is whole on every device [1]_.

References
----------
.. [1] V. Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, arXiv:2205.05198.
.. [2] NVIDIA/TransformerEngine, ``pytorch/module/layernorm_linear.py``, ``attention``; Megatron-LM, ``core/transformer``,
       ``core/fusions``, ``core/transformer/moe``.
.. [3] Megatron-LM, ``core/transformer/transformer_config.py``, ``recompute_modules``: ``layernorm``, ``mla_up_proj`` and ``moe_act``
       free their outputs, which the next matrix or kernel keeps, until its gradient arrives; ``core_attn``, ``mlp``, ``moe`` and
       ``shared_experts`` keep their inputs alone.
"""

from __future__ import annotations

from vrameter.model.architecture import Attention, FeedForward, LatentAttention, Layer, Recurrent, Tensor
from vrameter.training.graph import PAIRS, Value
from vrameter.training.programs.experts import shared_part, shared_slots
from vrameter.training.programs.recurrent import recurrent
from vrameter.training.programs.scene import Scene, by_slot, norms_of


def layer(scene: Scene, block: Layer, x: Value) -> Value:
    """Run one layer: each part between a norm and an addition."""
    graph = scene.graph
    norms = norms_of(block)
    for number, part in enumerate(block.parts):
        norm = norms[min(number, len(norms) - 1)] if norms else ()
        y = run(scene, part, x, norm)
        if scene.traits.hidden_dropout:
            y = scene.dropout(y)
        x = graph.add(y, x)
        del y
    return x


def run(scene: Scene, part: object, x: Value, norm: tuple[Tensor, ...]) -> Value:
    """Run one part on the normed residual stream."""
    if isinstance(part, LatentAttention):
        return latent(scene, part, x, norm)
    if isinstance(part, Attention):
        return attention(scene, part, x, norm)
    if isinstance(part, Recurrent):
        return recurrent(scene, part, normed(scene, x, norm), norm_apart=True)
    assert isinstance(part, FeedForward)
    if part.num_experts:
        with scene.part("mlp_norm"):
            region, [y] = scene.checkpoint("layernorm", lambda x: [normed(scene, x, norm)], x)
        _, [y] = scene.checkpoint("moe", lambda y: [mixture(scene, part, y)], y)
        scene.graph.discard(region)
        return y
    # The norm of a dense perceptron is part of its first matrix.
    return scene.checkpoint("mlp", lambda x: [perceptron(scene, part, normed(scene, x, norm))], x)[1][0]


def normed(scene: Scene, x: Value, norm: tuple[Tensor, ...]) -> Value:
    """Run a fused norm: its input is kept, with two numbers a token; its output is kept by what follows."""
    graph = scene.graph
    stats = graph.new(x.rows, 2 if len(norm) > 1 else 1, 4)
    return graph.op([x], saves=[x, stats], weights=[scene.weight(tensor) for tensor in norm])


def column(scene: Scene, x: Value, tensor: Tensor, width: int) -> Value:
    """Run a matrix split by outputs: under sequence parallelism its input is gathered, and gathered again backwards."""
    graph = scene.graph
    gathered = (scene.ranks - 1) * x.bytes
    if gathered:
        graph.touch(gathered)
    out = graph.linear(x, scene.weight(tensor), width)
    if out.slot is not None:
        graph.nodes[-1].work += gathered
    use = scene.use(tensor)
    return scene.gathered(out if use.adapter is None else scene.adapted(x, out, tensor, use.adapter))


def row(scene: Scene, x: Value, tensor: Tensor, width: int) -> Value:
    """Run a matrix split by inputs; under sequence parallelism each device keeps its share of the sum."""
    graph = scene.graph
    out = graph.linear(x, scene.weight(tensor), width)
    use = scene.use(tensor)
    if use.adapter is not None:
        out = scene.adapted(x, out, tensor, use.adapter)
    if scene.ranks == 1:
        return out
    return graph.op([out], rows=x.rows // scene.ranks)


def attention(scene: Scene, part: Attention, x: Value, norm: tuple[Tensor, ...]) -> Value:
    """Run self- or cross-attention."""
    graph, slots = scene.graph, by_slot(part.tensors)
    q_width, k_width = part.num_heads * part.head_dim, part.num_kv_heads * part.head_dim
    v_width = part.num_kv_heads * part.value_dim
    with scene.part("attn_norm"):
        y = normed(scene, x, norm)
    if part.scope != "cross" or "qkv" in slots:
        with scene.part("qkv_linear"):
            mixed = column(scene, y, fused(slots, "qkv", ("q", "k", "v")), q_width + k_width + v_width)
        q, k, v = graph.halves(mixed, [q_width, k_width, v_width])
        if part.num_heads != part.num_kv_heads:
            q = graph.copy(q)
        del mixed
    else:
        q = column(scene, y, slots["q"], q_width)
        memory = scene.memory(x.width)
        k = graph.linear(memory, scene.weight(slots["k"]), k_width)
        v = graph.linear(memory, scene.weight(slots["v"]), v_width)
    del y
    for name, value in (("q", q_width), ("k", k_width)):
        group = next((found for found in norms_of(part) if f".{name}_" in found[0].name), ())
        if group:
            target = q if name == "q" else k
            # A norm over all heads is one norm of what a device has of them.
            heads = max(1, value // group[0].size)
            wide = target.view(target.rows * heads, target.width // heads)
            stats = graph.new(wide.rows, 1, 4)
            made = graph.op([wide], saves=[wide, stats], weights=[scene.weight(tensor) for tensor in group])
            made = made.view(target.rows, target.width)
            q, k = (made, k) if name == "q" else (q, made)
    if scene.traits.rotary != "none":
        q, k = graph.op([q]), graph.op([k])
    if not scene.kernels.local and q.storage is not v.storage:
        # Views of one projection are taken as they are, a part of them is copied.
        k, v = (graph.copy(each) if each.storage.bytes > each.bytes else each for each in (k, v))
    out = core(scene, part, q, k, v)
    with scene.part("attn_proj"):
        return row(scene, out, slots["o"], x.width)


def fused(slots: dict[str, Tensor], whole: str, pieces: tuple[str, ...]) -> Tensor:
    """Return one matrix that stands for several that share their input, as Megatron stores them."""
    if whole in slots:
        return slots[whole]
    found = [slots[name] for name in pieces if name in slots]
    rows = sum(tensor.shape[0] for tensor in found)
    return found[0]._replace(shape=(rows, *found[0].shape[1:]))


def core(scene: Scene, part: Attention, q: Value, k: Value, v: Value) -> Value:
    """Run the attention kernel, again in the backward pass where it is a checkpoint."""
    with scene.part("core_attn"):
        return scene.checkpoint("core_attn", lambda q, k, v: [kernel(scene, part, q, k, v)], q, k, v)[1][0]


def kernel(scene: Scene, part: Attention, q: Value, k: Value, v: Value) -> Value:
    """Run the attention kernel: fused, or scores, softmax and dropout one after another.

    Where tokens are padded (encoders, and attention to them), Transformer Engine clears the rows of padding by a mask that
    each layer makes and keeps.
    """
    graph = scene.graph
    width = part.num_heads * part.value_dim
    if scene.kernels.attention != "eager":
        sums = graph.new(q.rows, part.num_heads, 4)
        out = graph.op([q, k, v], width, saves=[q, k, v, sums], saves_output=True, work=q.bytes * 2)
        # FlashAttention puts sequences before tokens, cuDNN leaves them as they are.
        return out if scene.kernels.attention == "cudnn" else graph.copy(out)
    rows = scene.seqs * part.num_heads * scene.length
    keys = k.rows // scene.seqs if part.scope == "cross" else scene.keys or scene.length
    element = q.element
    if part.num_kv_heads < part.num_heads:
        k = graph.copy(k, width=part.num_heads * part.head_dim)
        v = graph.copy(v, width=width)
    scores = graph.op([q, k], keys, rows=rows, saves=[q, k], kind=PAIRS)
    if _fuses_softmax(scene, part, keys):
        weights = graph.pointwise(scores, keeps="output")
    else:
        scores = graph.within(graph.cast(scores, 4))
        weights = graph.pointwise(scores, keeps="output")
        weights = graph.cast(weights, element)
    del scores
    if scene.kernels.masks and part.scope in ("encoder", "cross"):
        mask = graph.new(scene.seqs * scene.length, keys, 1, kind=PAIRS)
        weights = graph.op([weights], saves=[mask])
    if scene.traits.attention_dropout:
        weights = scene.dropout(weights)
    out = graph.op([weights, v], width, rows=q.rows, element=element, saves=[weights, v], kind=0)
    del weights
    return graph.copy(out)


def _fuses_softmax(scene: Scene, part: Attention, keys: int) -> bool:
    """Say whether one kernel scales, masks and normalises; otherwise scores are turned to fp32 and back."""
    if scene.kernels.local:
        step, most = 4, 4096
    else:
        step, most = 8, 16383
    return 16 < keys <= most and keys % step == 0 and scene.length % 4 == 0 and scene.seqs * part.num_heads % 4 == 0


def latent(scene: Scene, part: LatentAttention, x: Value, norm: tuple[Tensor, ...]) -> Value:
    """Run multi-head latent attention: keys and values are put together for all heads before the kernel."""
    graph, slots, heads = scene.graph, by_slot(part.tensors), part.num_heads
    with scene.part("attn_norm"):
        norms, [y] = scene.checkpoint("layernorm", lambda x: [normed(scene, x, norm)], x)
    with scene.part("qkv_linear"):
        inner = graph.linear(y, scene.weight(slots["q_a"]), part.q_lora_rank) if part.q_lora_rank else y
        compressed = graph.linear(y, scene.weight(slots["kv_a"]), part.kv_lora_rank + part.rope_dim)
        del y
        latent_kv, turned = graph.halves(compressed, [part.kv_lora_rank, part.rope_dim])
        del compressed
        if part.q_lora_rank:
            inner = graph.op([inner], saves=[inner, graph.new(inner.rows, 1, 4)])
        latent_kv = graph.op([latent_kv], saves=[latent_kv, graph.new(latent_kv.rows, 1, 4)])
        ups, [q, k, v] = scene.checkpoint(
            "mla_up_proj", lambda *given: expanded(scene, part, slots, *given), inner, latent_kv, turned
        )
    del inner, latent_kv, turned
    dense = Attention((), heads, heads, part.nope_dim + part.rope_dim, part.value_dim)
    out = core(scene, dense, q, k, v)
    del q, k, v
    graph.discard(ups)
    with scene.part("attn_proj"):
        out = row(scene, out, slots["o"], x.width)
    graph.discard(norms)
    return out


def expanded(
    scene: Scene, part: LatentAttention, slots: dict[str, Tensor], inner: Value, latent_kv: Value, turned: Value
) -> list[Value]:
    """Expand compressed queries, keys and values to heads, and turn them by their positions."""
    graph, heads = scene.graph, part.num_heads
    q = column(scene, inner, slots["q_b"] if part.q_lora_rank else slots["q"], heads * (part.nope_dim + part.rope_dim))
    del inner
    width = heads * (part.nope_dim + part.value_dim)
    kv = column(scene, latent_kv, slots["kv_b"], width) if "kv_b" in slots else graph.op([latent_kv], width)
    del latent_kv
    q = graph.op([q])
    still, v = graph.halves(kv, [heads * part.nope_dim, heads * part.value_dim])
    del kv
    turned = graph.op([turned], heads * part.rope_dim, rows=q.rows)
    return [q, graph.join([still, turned]), graph.copy(v)]


def perceptron(scene: Scene, part: FeedForward, x: Value) -> Value:
    """Run the perceptron: the fused activation keeps its input, the second matrix the product."""
    slots, graph, width = by_slot(part.tensors), scene.graph, part.intermediate_size
    if part.gated:
        inner = column(scene, x, fused(slots, "gate_up", ("gate", "up")), 2 * width)
        inner = graph.op([inner], width, saves=[inner])
    else:
        inner = column(scene, x, slots["up"], width)
        inner = graph.pointwise(inner)
    return row(scene, inner, slots["down"], x.width)


def mixture(scene: Scene, part: FeedForward, x: Value) -> Value:
    """Run router, permutation, grouped experts and their way back.

    Each copy's probability is multiplied in before the second matrix: by the fused activation where it is gated, else by
    a product of its own in the router's numbers.
    """
    graph, fan, width = scene.graph, part.num_experts_per_token, part.intermediate_size
    slots = {
        tensor.slot: tensor for tensor in part.tensors if tensor.role in ("experts", "router") and len(tensor.shape) > 1
    }
    probabilities = route(scene, part, x, slots["router"])
    rows = x.rows * fan * (scene.expert_ranks if scene.ranks > 1 else 1) * scene.routing // 1000
    copies = graph.op([x], rows=rows, saves=[graph.new(rows, 1, 8)])
    if scene.exchanges:
        copies = graph.op([copies])
    gate = graph.op([probabilities], 1, rows=rows)
    with scene.part("expert_fc1"):
        inner = graph.linear(
            copies, scene.weight(slots.get("gate_up") or slots["up"]), (2 if part.gated else 1) * width
        )
    del copies, probabilities
    with scene.part("moe_act"):
        region, [inner] = scene.checkpoint("moe_act", lambda *given: [activated(scene, part, *given)], inner, gate)
    del gate
    made = graph.linear(inner, scene.weight(slots["down"]), x.width)
    del inner
    graph.discard(region)
    if scene.exchanges:
        made = graph.op([made])
    out = graph.op([made], rows=x.rows, saves=[graph.new(rows, 1, 8)])
    del made
    if shared_slots(part):
        shared = shared_part(part)
        out = graph.add(out, scene.checkpoint("shared_experts", lambda x: [perceptron(scene, shared, x)], x)[1][0])
    return out


def route(scene: Scene, part: FeedForward, x: Value, router: Tensor) -> Value:
    """Return each token's probability for each expert; scores for the auxiliary loss are kept beside them."""
    graph, fan = scene.graph, part.num_experts_per_token
    weight = scene.weight(router)
    logits = graph.op([x], part.num_experts, element=4 if scene.traits.router == "fp32" else x.element,
                      saves=[x] if weight.slot else (), weights=[weight])  # fmt: skip
    scores = graph.op([logits], element=4, saves_output=True)
    chosen = graph.op([scores], fan, saves=[graph.new(x.rows, fan, 8)], saves_output=True)
    del scores
    return graph.op([chosen], part.num_experts, element=logits.element, saves=[graph.new(x.rows, part.num_experts, 1)])


def activated(scene: Scene, part: FeedForward, inner: Value, gate: Value) -> Value:
    """Run the experts' activation, and multiply each copy with its probability."""
    graph, element = scene.graph, inner.element
    if part.gated:
        return graph.op([inner, gate], part.intermediate_size, saves=[inner, gate], element=element)
    return graph.cast(graph.mul(graph.pointwise(inner), gate), element)


__all__ = ["attention", "layer", "normed", "perceptron", "run"]
