"""Blocks whose picture and text meet in one attention, as programs.

References
----------
.. [1] diffusers 0.42.1: ``transformer_flux.py``, ``transformer_flux2.py``, ``transformer_qwenimage.py``,
       ``transformer_hunyuan_video.py``, ``auraflow_transformer_2d.py``, ``transformer_mochi.py``, ``cogvideox_transformer_3d.py``, ``attention.py`` (``JointTransformerBlock``).
"""

from __future__ import annotations

from vrameter.training.diffusion.bench import Bench
from vrameter.training.graph import Value

Streams = tuple[Value, Value | None]


def _projected(bench: Bench, x: Value, names: tuple[str, str, str]) -> list[Value]:
    return [bench.linear(x, f"attn.{name}") for name in names]


IMAGE, TEXT = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")


def _flux_attention(bench: Bench, x: Value, text: Value, *, copies: bool) -> tuple[Value, Value]:
    heads = bench.heads
    q, k, v = _projected(bench, x, IMAGE)
    tq, tk, tv = _projected(bench, text, TEXT)
    q, k = bench.rms(q, "attn.norm_q", heads=heads), bench.rms(k, "attn.norm_k", heads=heads)
    tq, tk = bench.rms(tq, "attn.norm_added_q", heads=heads), bench.rms(tk, "attn.norm_added_k", heads=heads)
    q, k, v = bench.stacked(tq, q), bench.stacked(tk, k), bench.stacked(tv, v)
    q = bench.turned(q)
    k = bench.turned(k)
    out = bench.attend(q, k, v)
    del q, k, v, tq, tk, tv
    told, seen = bench.parted(out, [text.rows, x.rows])
    del out
    if copies:
        seen = bench.linear(bench.dense(seen), "attn.to_out.0")
        return seen, bench.linear(bench.dense(told), "attn.to_add_out")
    told = bench.linear(bench.dense(told), "attn.to_add_out")
    return bench.linear(bench.dense(seen), "attn.to_out.0"), told


def flux_double(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Flux's block of two streams; Chroma's takes its modulations from one small network."""
    assert text is not None
    add = bench.graph.add
    own, other = _pair(bench, "norm1.linear", "norm1_context.linear")
    shift, scale, gate, shift2, scale2, gate2 = own
    tshift, tscale, tgate, tshift2, tscale2, tgate2 = other
    normal = bench.modulated(bench.layer_norm(x), scale, shift)
    told = bench.modulated(bench.layer_norm(text), tscale, tshift)
    out, tout = _flux_attention(bench, normal, told, copies=True)
    out = bench.times(out, gate)
    x = add(x, out)
    normal = bench.modulated(bench.layer_norm(x), scale2, shift2)
    out = bench.times(bench.perceptron(normal, "ff"), gate2)
    x = add(x, out)
    tout = bench.times(tout, tgate)
    text = add(text, tout)
    told = bench.modulated(bench.layer_norm(text), tscale2, tshift2)
    tout = bench.perceptron(told, "ff_context")
    return x, add(text, bench.times(tout, tgate2))


def _pair(bench: Bench, first: str, second: str) -> tuple[list[Value], list[Value]]:
    """Return the six modulations of each stream."""
    if bench.has(first):
        return bench.modulation(first, 6), bench.modulation(second, 6)
    return bench.rows_given(6), bench.rows_given(6)


def flux_single(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Flux's block of one stream, whose perceptron runs beside its attention."""
    graph, rows = bench.graph, (text.rows if text is not None else 0, x.rows)
    if text is not None:
        x = bench.stacked(text, x)
        del text
    shift, scale, gate = bench.modulation("norm.linear", 3) if bench.has("norm.linear") else bench.rows_given(3)
    normal = bench.modulated(bench.layer_norm(x), scale, shift)
    inner = graph.pointwise(bench.linear(normal, "proj_mlp"))
    q, k, v = _projected(bench, normal, IMAGE)
    q, k = bench.rms(q, "attn.norm_q", heads=bench.heads), bench.rms(k, "attn.norm_k", heads=bench.heads)
    q = bench.turned(q)
    k = bench.turned(k)
    out = bench.attend(q, k, v)
    del q, k, v
    out = bench.times(bench.linear(graph.join([out, inner]), "proj_out"), gate)
    x = graph.add(x, out)
    if not rows[0]:
        return x, None
    told, seen = bench.parted(x, rows)
    return seen, told


def flux2_double(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Flux 2's block of two streams: modulations are shared by all blocks, perceptrons are gated."""
    assert text is not None
    add = bench.graph.add
    shift, scale, gate, shift2, scale2, gate2 = bench.rows_given(6)
    tshift, tscale, tgate, tshift2, tscale2, tgate2 = bench.rows_given(6)
    normal = bench.modulated(bench.layer_norm(x), scale, shift)
    told = bench.modulated(bench.layer_norm(text), tscale, tshift)
    out, tout = _flux_attention(bench, normal, told, copies=False)
    out = bench.times(out, gate)
    x = add(x, out)
    normal = bench.modulated(bench.layer_norm(x), scale2, shift2)
    out = bench.linear(bench.split_gate(bench.linear(normal, "ff.linear_in")), "ff.linear_out")
    x = add(x, bench.times(out, gate2))
    tout = bench.times(tout, tgate)
    text = add(text, tout)
    told = bench.modulated(bench.layer_norm(text), tscale2, tshift2)
    tout = bench.linear(bench.split_gate(bench.linear(told, "ff_context.linear_in")), "ff_context.linear_out")
    return x, add(text, bench.times(tout, tgate2))


def flux2_single(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Flux 2's block of one stream: one matrix in, one out."""
    graph = bench.graph
    shift, scale, gate = bench.rows_given(3)
    normal = bench.modulated(bench.layer_norm(x), scale, shift)
    wide = bench.linear(normal, "attn.to_qkv_mlp_proj")
    del normal
    width = x.width
    q, k, v, inner = graph.halves(wide, [width, width, width, wide.width - 3 * width])
    del wide
    q, k = bench.rms(q, "attn.norm_q", heads=bench.heads), bench.rms(k, "attn.norm_k", heads=bench.heads)
    q = bench.turned(q)
    k = bench.turned(k)
    out = bench.attend(q, k, v)
    del q, k, v
    inner = bench.split_gate(inner)
    out = bench.linear(graph.join([out, inner]), "attn.to_out")
    return graph.add(x, bench.times(out, gate)), text


def sd3(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Stable Diffusion 3's block; the last one drops the text, some of 3.5 attend twice."""
    assert text is not None
    add = bench.graph.add
    last, twice = not bench.has("attn.to_add_out"), bench.has("attn2.to_q")
    own = bench.modulation("norm1.linear", 9 if twice else 6)
    shift, scale, gate, shift2, scale2, gate2 = own[:6]
    normal = bench.layer_norm(x)
    again = bench.modulated(normal, own[7], own[6]) if twice else None
    normal = bench.modulated(normal, scale, shift)
    other = bench.modulation("norm1_context.linear", 2 if last else 6)
    told = bench.modulated(bench.layer_norm(text), other[0] if last else other[1], other[1] if last else other[0])
    out, tout = _joint_attention(bench, normal, told, last=last)
    out = bench.times(out, gate)
    x = add(x, out)
    if twice and again is not None:
        out = bench.times(_alone(bench, again), own[8])
        x = add(x, out)
    normal = bench.modulated(bench.layer_norm(x), scale2, shift2)
    out = bench.times(bench.perceptron(normal, "ff"), gate2)
    x = add(x, out)
    if last or tout is None:
        return x, None
    tout = bench.times(tout, other[2])
    text = add(text, tout)
    told = bench.modulated(bench.layer_norm(text), other[4], other[3])
    tout = bench.perceptron(told, "ff_context")
    return x, add(text, bench.times(tout, other[5]))


def _normed(bench: Bench, x: Value, name: str) -> Value:
    return bench.plain_rms(x, name, heads=bench.heads) if bench.has(name) else x


def _joint_attention(bench: Bench, x: Value, text: Value, *, last: bool) -> tuple[Value, Value | None]:
    q, k, v = _projected(bench, x, IMAGE)
    q, k = _normed(bench, q, "attn.norm_q"), _normed(bench, k, "attn.norm_k")
    tq, tk, tv = _projected(bench, text, TEXT)
    tq, tk = _normed(bench, tq, "attn.norm_added_q"), _normed(bench, tk, "attn.norm_added_k")
    q, k, v = bench.stacked(q, tq), bench.stacked(k, tk), bench.stacked(v, tv)
    out = bench.attend(q, k, v, heads_first=True)
    del q, k, v, tq, tk, tv
    seen, told = bench.parted(out, [x.rows, text.rows])
    del out
    made = None if last else bench.linear(bench.dense(told), "attn.to_add_out")
    return bench.linear(bench.dense(seen), "attn.to_out.0"), made


def _alone(bench: Bench, x: Value) -> Value:
    q, k, v = (bench.linear(x, f"attn2.{name}") for name in IMAGE)
    q, k = _normed(bench, q, "attn2.norm_q"), _normed(bench, k, "attn2.norm_k")
    return bench.linear(bench.attend(q, k, v), "attn2.to_out.0")


def qwen_image(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Qwen-Image's block: positions turn each stream on its own."""
    assert text is not None
    add = bench.graph.add
    shift, scale, gate, shift2, scale2, gate2 = bench.modulation("img_mod.1", 6)
    tshift, tscale, tgate, tshift2, tscale2, tgate2 = bench.modulation("txt_mod.1", 6)
    normal = bench.modulated(bench.layer_norm(x), scale, shift)
    told = bench.modulated(bench.layer_norm(text), tscale, tshift)
    q, k, v = _projected(bench, normal, IMAGE)
    tq, tk, tv = _projected(bench, told, TEXT)
    q, k = _normed(bench, q, "attn.norm_q"), _normed(bench, k, "attn.norm_k")
    tq, tk = _normed(bench, tq, "attn.norm_added_q"), _normed(bench, tk, "attn.norm_added_k")
    q = bench.turned_complex(q)
    k = bench.turned_complex(k)
    tq = bench.turned_complex(tq)
    tk = bench.turned_complex(tk)
    out = bench.attend(bench.stacked(tq, q), bench.stacked(tk, k), bench.stacked(tv, v))
    del q, k, v, tq, tk, tv
    tout, seen = bench.parted(out, [text.rows, x.rows])
    del out
    seen = bench.linear(bench.dense(seen), "attn.to_out.0")
    tout = bench.linear(bench.dense(tout), "attn.to_add_out")
    x = add(x, bench.times(seen, gate))
    text = add(text, bench.times(tout, tgate))
    del seen, tout
    normal = bench.modulated(bench.layer_norm(x), scale2, shift2)
    x = add(x, bench.times(bench.perceptron(normal, "img_mlp"), gate2))
    told = bench.modulated(bench.layer_norm(text), tscale2, tshift2)
    return x, add(text, bench.times(bench.perceptron(told, "txt_mlp"), tgate2))


def hunyuan_double(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run HunyuanVideo's block of two streams: positions turn the video's tokens only."""
    assert text is not None
    add = bench.graph.add
    shift, scale, gate, shift2, scale2, gate2 = bench.modulation("norm1.linear", 6)
    normal = bench.modulated(bench.layer_norm(x), scale, shift)
    tshift, tscale, tgate, tshift2, tscale2, tgate2 = bench.modulation("norm1_context.linear", 6)
    told = bench.modulated(bench.layer_norm(text), tscale, tshift)
    q, k, v = _projected(bench, normal, IMAGE)
    q, k = _normed(bench, q, "attn.norm_q"), _normed(bench, k, "attn.norm_k")
    q = bench.turned(q)
    k = bench.turned(k)
    tq, tk, tv = _projected(bench, told, TEXT)
    tq, tk = _normed(bench, tq, "attn.norm_added_q"), _normed(bench, tk, "attn.norm_added_k")
    q, k, v = bench.stacked(q, tq), bench.stacked(k, tk), bench.stacked(v, tv)
    out = bench.attend(q, k, v, masks=1)
    del q, k, v, tq, tk, tv
    seen, tout = bench.parted(out, [x.rows, text.rows])
    del out
    seen = bench.linear(bench.dense(seen), "attn.to_out.0")
    tout = bench.linear(bench.dense(tout), "attn.to_add_out")
    x = add(x, bench.times(seen, gate))
    text = add(text, bench.times(tout, tgate))
    normal, told = bench.layer_norm(x), bench.layer_norm(text)
    normal = bench.modulated(normal, scale2, shift2)
    told = bench.modulated(told, tscale2, tshift2)
    seen = bench.perceptron(normal, "ff")
    tout = bench.perceptron(told, "ff_context")
    x = add(x, bench.times(seen, gate2))
    return x, add(text, bench.times(tout, tgate2))


def hunyuan_single(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run HunyuanVideo's block of one stream, which cuts its tokens apart and puts them together again."""
    assert text is not None
    graph, parts = bench.graph, [x.rows, text.rows]
    x = bench.stacked(x, text)
    del text
    shift, scale, gate = bench.modulation("norm.linear", 3)
    normal = bench.modulated(bench.layer_norm(x), scale, shift)
    inner = graph.pointwise(bench.linear(normal, "proj_mlp"))
    normal = bench.stacked(*bench.parted(normal, parts))
    q, k, v = _projected(bench, normal, IMAGE)
    q, k = _normed(bench, q, "attn.norm_q"), _normed(bench, k, "attn.norm_k")
    turned = []
    for each in (q, k):
        seen, told = bench.parted(each, parts)
        turned.append(bench.stacked(bench.turned(seen), told))
    q, k = turned
    del turned, each, seen, told
    out = bench.attend(q, k, v, masks=1)
    del q, k, v
    out = bench.stacked(*bench.parted(out, parts))
    out = bench.times(bench.linear(graph.join([out, inner]), "proj_out"), gate)
    x = graph.add(out, x)
    seen, told = bench.parted(x, parts)
    return seen, told


def hunyuan_refiner(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run the block that refines HunyuanVideo's text."""
    graph = bench.graph
    normal = bench.layer_norm(x, "norm1")
    q, k, v = _projected(bench, normal, IMAGE)
    out = bench.linear(bench.attend(q, k, v), "attn.to_out.0")
    del q, k, v, normal
    gate, gate2 = bench.modulation("norm_out.linear", 2)
    x = graph.add(x, bench.times(out, gate))
    del out
    out = bench.perceptron(bench.layer_norm(x, "norm2"), "ff")
    return graph.add(x, bench.times(out, gate2)), text


def cogvideox(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run CogVideoX's block: one set of matrices for both streams."""
    assert text is not None
    graph, add, parts = bench.graph, bench.graph.add, [text.rows, x.rows]
    shift, scale, gate, tshift, tscale, tgate = bench.modulation("norm1.linear", 6)
    normal = bench.modulated(bench.layer_norm(x, "norm1.norm"), scale, shift)
    told = bench.modulated(bench.layer_norm(text, "norm1.norm"), tscale, tshift)
    both = bench.stacked(told, normal)
    q, k, v = (bench.linear(both, f"attn1.{name}") for name in IMAGE)
    del both
    q = bench.layer_norm(q, "attn1.norm_q", heads=bench.heads)
    k = bench.layer_norm(k, "attn1.norm_k", heads=bench.heads)
    if "rotary" in bench.traits:
        for each in (q, k):
            bench.turned(each.view(x.rows, each.width))
    out = bench.linear(bench.attend(q, k, v, heads_first=bench.has("attn1.norm_q")), "attn1.to_out.0")
    del q, k, v
    tout, seen = bench.parted(out, parts)
    del out
    x = add(x, bench.times(seen, gate))
    text = add(text, bench.times(tout, tgate))
    shift, scale, gate, tshift, tscale, tgate = bench.modulation("norm2.linear", 6)
    normal = bench.modulated(bench.layer_norm(x, "norm2.norm"), scale, shift)
    told = bench.modulated(bench.layer_norm(text, "norm2.norm"), tscale, tshift)
    normal = bench.stacked(told, normal)
    out = bench.perceptron(normal, "ff")
    tout, seen = bench.parted(out, parts)
    x = graph.add(x, bench.times(seen, gate))
    return x, add(text, bench.times(tout, tgate))


def _wide_normed(bench: Bench, x: Value) -> Value:
    """Normalise heads by a LayerNorm without scale, in fp32."""
    heads = bench.heads
    return bench.wide_norm(x.view(x.rows * heads, x.width // heads)).view(x.rows, x.width)


def aura_flow(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run AuraFlow's block, of two streams or of one: what comes in is added once, after the perceptron."""
    shift, scale, gate, shift2, scale2, gate2 = bench.modulation("norm1.linear", 6)
    normal = bench.modulated(bench.wide_norm(x), scale, shift)
    if text is None:
        q, k, v = _projected(bench, normal, IMAGE)
        q, k = _wide_normed(bench, q), _wide_normed(bench, k)
        seen = bench.linear(bench.attend(q, k, v), "attn.to_out.0")
        del q, k, v
        return _aura_fed(bench, x, seen, "ff", (gate, shift2, scale2, gate2)), None
    tshift, tscale, tgate, tshift2, tscale2, tgate2 = bench.modulation("norm1_context.linear", 6)
    told = bench.modulated(bench.wide_norm(text), tscale, tshift)
    q, k, v = _projected(bench, normal, IMAGE)
    tq, tk, tv = _projected(bench, told, TEXT)
    q, k = _wide_normed(bench, q), _wide_normed(bench, k)
    tq, tk = _wide_normed(bench, tq), _wide_normed(bench, tk)
    q, k, v = bench.stacked(tq, q), bench.stacked(tk, k), bench.stacked(tv, v)
    out = bench.attend(q, k, v)
    del q, k, v, tq, tk, tv
    tout, seen = bench.parted(out, [text.rows, x.rows])
    del out
    seen = bench.linear(bench.dense(seen), "attn.to_out.0")
    tout = bench.linear(bench.dense(tout), "attn.to_add_out")
    x = _aura_fed(bench, x, seen, "ff", (gate, shift2, scale2, gate2))
    return x, _aura_fed(bench, text, tout, "ff_context", (tgate, tshift2, tscale2, tgate2))


def _aura_fed(bench: Bench, x: Value, out: Value, name: str, steps: tuple[Value, Value, Value, Value]) -> Value:
    """Run a stream's perceptron on the sum with what attention made, and add what came in."""
    graph = bench.graph
    gate, shift, scale, last = steps
    inner = bench.modulated(bench.wide_norm(graph.add(x, bench.times(out, gate))), scale, shift)
    first = graph.pointwise(bench.linear(inner, f"{name}.linear_1"))
    inner = graph.mul(first, bench.linear(inner, f"{name}.linear_2"))
    del first
    return graph.add(x, bench.times(bench.linear(inner, f"{name}.out_projection"), last))


def mochi(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Mochi's block: norms in fp32 around both parts, a narrower stream of text."""
    assert text is not None
    graph, last = bench.graph, not bench.has("attn1.to_add_out")
    scale, gate, scale2, gate2 = bench.modulation("norm1.linear", 4)
    normal = _mochi_normed(bench, x, bench.plus_one(scale))
    if last:
        tscale = bench.modulation("norm1_context.linear_1", 1)[0]
        others: list[Value] = []
    else:
        tscale, *others = bench.modulation("norm1_context.linear", 4)
    told = _mochi_normed(bench, text, bench.plus_one(tscale))
    q, k, v = (bench.linear(normal, f"attn1.{name}") for name in IMAGE)
    tq, tk, tv = (bench.linear(told, f"attn1.{name}") for name in TEXT)
    q, k = _mochi_heads(bench, q, "attn1.norm_q"), _mochi_heads(bench, k, "attn1.norm_k")
    tq, tk = _mochi_heads(bench, tq, "attn1.norm_added_q"), _mochi_heads(bench, tk, "attn1.norm_added_k")
    q = bench.turned(q)
    k = bench.turned(k)
    q, k, v = bench.stacked(q, tq), bench.stacked(k, tk), bench.stacked(v, tv)
    out = bench.attend(q, k, v, heads_first=True)
    del q, k, v, tq, tk, tv
    seen, tout = bench.parted(out, [x.rows, text.rows])
    del out
    seen = bench.linear(bench.dense(seen), "attn1.to_out.0")
    x = graph.add(x, _mochi_normed(bench, seen, graph.pointwise(gate, keeps="output")))
    out = bench.gated(_mochi_normed(bench, x, bench.plus_one(scale2)), "ff")
    x = graph.add(x, _mochi_normed(bench, out, graph.pointwise(gate2, keeps="output")))
    if last:
        return x, text
    tout = bench.linear(bench.dense(tout), "attn1.to_add_out")
    text = graph.add(text, _mochi_normed(bench, tout, graph.pointwise(others[0], keeps="output")))
    out = bench.gated(_mochi_normed(bench, text, bench.plus_one(others[1])), "ff_context")
    return x, graph.add(text, _mochi_normed(bench, out, graph.pointwise(others[2], keeps="output")))


def _mochi_normed(bench: Bench, x: Value, scale: Value) -> Value:
    """Normalise a stream in fp32 and scale it."""
    graph = bench.graph
    return graph.cast(bench.times(bench.plain_rms(graph.cast(x, 4)), scale), x.element)


def _mochi_heads(bench: Bench, x: Value, name: str) -> Value:
    """Normalise heads in fp32."""
    return bench.graph.cast(bench.plain_rms(bench.graph.cast(x, 4), name, heads=bench.heads), x.element)


__all__ = [
    "Streams",
    "aura_flow",
    "cogvideox",
    "flux2_double",
    "flux2_single",
    "flux_double",
    "flux_single",
    "hunyuan_double",
    "hunyuan_refiner",
    "hunyuan_single",
    "mochi",
    "qwen_image",
    "sd3",
]  # fmt: skip
