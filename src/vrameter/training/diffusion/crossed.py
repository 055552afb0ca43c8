"""Blocks that look at the text by cross-attention, and blocks of one stream, as programs.

References
----------
.. [1] diffusers 0.42.1: ``transformer_wan.py``, ``transformer_ltx.py``, ``sana_transformer.py``, ``transformer_z_image.py``, ``transformer_lumina2.py``,
       ``attention.py`` (``BasicTransformerBlock``).
"""

from __future__ import annotations

from vrameter.training.diffusion.bench import Bench
from vrameter.training.diffusion.joint import Streams
from vrameter.training.graph import Value


def _qkv(bench: Bench, name: str, x: Value, source: Value) -> list[Value]:
    return [
        bench.linear(x, f"{name}.to_q"), bench.linear(source, f"{name}.to_k"), bench.linear(source, f"{name}.to_v"),
    ]  # fmt: skip


def _plain(bench: Bench, name: str, x: Value, source: Value | None = None) -> Value:
    q, k, v = _qkv(bench, name, x, x if source is None else source)
    return bench.linear(bench.attend(q, k, v), f"{name}.to_out.0")


def basic(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run ``BasicTransformerBlock`` as UNets have it: self-attention, cross-attention, a gated perceptron."""
    graph = bench.graph
    x = graph.add(_plain(bench, "attn1", bench.layer_norm(x, "norm1")), x)
    if bench.has("attn2.to_q"):
        source = bench.read() if bench.read_rows else None
        x = graph.add(_plain(bench, "attn2", bench.layer_norm(x, "norm2"), source), x)
    return graph.add(bench.gated(bench.layer_norm(x, "norm3"), "ff"), x), text


def pixart(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run ``BasicTransformerBlock`` as PixArt has it: one modulation for all blocks, a table of each block's own."""
    graph = bench.graph
    shift, scale, gate, shift2, scale2, gate2 = bench.table("scale_shift_table", 6, x.width)
    normal = bench.modulated(bench.layer_norm(x), scale, shift)
    x = graph.add(bench.times(_plain(bench, "attn1", normal), gate), x)
    x = graph.add(_plain(bench, "attn2", x, bench.read()), x)
    normal = bench.modulated(bench.layer_norm(x), scale2, shift2)
    return graph.add(bench.times(bench.perceptron(normal, "ff"), gate2), x), text


def wan(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Wan's block: norms, modulations and residual sums in fp32."""
    graph, cast = bench.graph, bench.graph.cast
    element = x.element
    shift, scale, gate, shift2, scale2, gate2 = bench.table("scale_shift_table", 6, x.width)
    normal = cast(bench.modulated(bench.wide_norm(cast(x, 4)), scale, shift), element)
    q, k, v = _qkv(bench, "attn1", normal, normal)
    q, k = bench.rms(q, "attn1.norm_q"), bench.rms(k, "attn1.norm_k")
    q = _wan_turned(bench, q)
    k = _wan_turned(bench, k)
    out = bench.linear(bench.attend(q, k, v), "attn1.to_out.0")
    del q, k, v
    x = cast(graph.add(cast(x, 4), bench.times(out, gate)), element)
    normal = cast(bench.wide_norm(cast(x, 4), "norm2"), element) if bench.has("norm2") else x
    q, k, v = _qkv(bench, "attn2", normal, bench.read())
    q, k = bench.rms(q, "attn2.norm_q"), bench.rms(k, "attn2.norm_k")
    out = bench.linear(bench.attend(q, k, v), "attn2.to_out.0")
    del q, k, v
    x = graph.add(x, out)
    normal = cast(bench.modulated(bench.wide_norm(cast(x, 4)), scale2, shift2), element)
    out = bench.perceptron(normal, "ffn")
    return cast(graph.add(cast(x, 4), bench.times(cast(out, 4), gate2)), element), text


def _wan_turned(bench: Bench, x: Value) -> Value:
    """Turn heads by their positions: four products of half the width, written into one tensor."""
    graph = bench.graph
    if "rotary" not in bench.traits:
        return x
    half = x.view(x.rows, x.width // 2)
    out = graph.op([x])
    for _ in range(2):
        graph.add(graph.op([half], element=4), graph.op([half], element=4))
    return out


def ltx(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run LTX-Video's block: norms without scales, positions turn the video's tokens."""
    graph = bench.graph
    normal = bench.plain_rms(x, "norm1")
    shift, scale, gate, shift2, scale2, gate2 = bench.table("scale_shift_table", 6, x.width)
    normal = bench.modulated(normal, scale, shift)
    q, k, v = _qkv(bench, "attn1", normal, normal)
    q, k = bench.rms(q, "attn1.norm_q"), bench.rms(k, "attn1.norm_k")
    q = bench.turned(q)
    k = bench.turned(k)
    out = bench.linear(bench.attend(q, k, v), "attn1.to_out.0")
    del q, k, v
    x = graph.add(x, bench.times(out, gate))
    q, k, v = _qkv(bench, "attn2", x, bench.read())
    q, k = bench.rms(q, "attn2.norm_q"), bench.rms(k, "attn2.norm_k")
    out = bench.linear(bench.attend(q, k, v, masks=bench.heads), "attn2.to_out.0")
    del q, k, v
    x = graph.add(x, out)
    normal = bench.modulated(bench.plain_rms(x, "norm2"), scale2, shift2)
    out = bench.perceptron(normal, "ff")
    return graph.add(x, bench.times(out, gate2)), text


def sana(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Sana's block: linear attention in fp32, and a perceptron that convolves."""
    graph = bench.graph
    shift, scale, gate, shift2, scale2, gate2 = bench.table("scale_shift_table", 6, x.width)
    normal = bench.modulated(bench.layer_norm(x), scale, shift)
    x = graph.add(x, bench.times(_linear_attention(bench, normal), gate))
    del normal
    crossed = bench.crossed_head
    bench.head_dim, own = crossed, bench.head_dim
    x = graph.add(_plain(bench, "attn2", x, bench.read()), x)
    bench.head_dim = own
    normal = bench.modulated(bench.layer_norm(x), scale2, shift2)
    inner = graph.pointwise(bench.convolve(normal, "ff.conv_inverted"))
    inner = bench.split_gate(bench.convolve(inner, "ff.conv_depth"))
    out = bench.convolve(inner, "ff.conv_point")
    return graph.add(x, bench.times(out, gate2)), text


def _linear_attention(bench: Bench, x: Value) -> Value:
    graph, element = bench.graph, x.element
    q, k, v = _qkv(bench, "attn1", x, x)
    q, k = graph.pointwise(q, keeps="output"), graph.pointwise(k, keeps="output")
    # The product of stacked matrices takes its factors in rows: a copy, be it of the other numbers or of the same.
    compute = bench.auto or 4
    q, k = (graph.cast(each, compute) if each.element != compute else graph.copy(each) for each in (q, k))
    v = graph.cast(v, compute)
    dim = bench.head_dim
    heads = x.width // dim
    v = graph.op([v], heads * (dim + 1))
    scores = graph.matmul(v, k, bench.samples * heads * (dim + 1), dim)
    out = graph.matmul(scores, q, x.rows, heads * (dim + 1))
    del q, k, v, scores
    top, sums = graph.halves(out, [heads * dim, heads])
    del out
    sums = graph.op([sums])
    out = graph.op([top, sums], x.width, saves=[top, sums])
    return bench.linear(graph.cast(out, element), "attn1.to_out.0")


def z_image(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Z-Image's block: gates squeezed by tanh, norms before and after both parts."""
    graph = bench.graph
    steered = bench.has("adaLN_modulation.0")
    normal = bench.plain_rms(x, "attention_norm1")
    scale = gate = scale2 = gate2 = None
    if steered:
        made = bench.linear(bench.time(), "adaLN_modulation.0")
        scale, gate, scale2, gate2 = graph.halves(made, [x.width] * 4)
        gate, gate2 = graph.pointwise(gate, keeps="output"), graph.pointwise(gate2, keeps="output")
        scale, scale2 = bench.plus_one(scale), bench.plus_one(scale2)
        del made
        normal = bench.times(normal, scale)
    q, k, v = _qkv(bench, "attention", normal, normal)
    heads = bench.heads
    q, k = bench.plain_rms(q, "attention.norm_q", heads=heads), bench.plain_rms(k, "attention.norm_k", heads=heads)
    q = bench.turned_complex(q)
    k = bench.turned_complex(k)
    out = bench.linear(bench.attend(q, k, v), "attention.to_out.0")
    del q, k, v
    out = bench.plain_rms(out, "attention_norm2")
    x = graph.add(x, bench.times(out, gate) if gate is not None else out)
    normal = bench.plain_rms(x, "ffn_norm1")
    if scale2 is not None:
        normal = bench.times(normal, scale2)
    first, second = bench.linear(normal, "feed_forward.w1"), bench.linear(normal, "feed_forward.w3")
    del normal, out
    out = bench.linear(graph.mul(graph.pointwise(first), second), "feed_forward.w2")
    out = bench.plain_rms(out, "ffn_norm2")
    return graph.add(x, bench.times(out, gate2) if gate2 is not None else out), text


def lumina2(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run Lumina 2's block: gates squeezed by tanh, keys and values copied to every query head, SiLU in fp32."""
    graph = bench.graph
    scale = gate = scale2 = gate2 = None
    if bench.has("norm1.linear"):
        scale, gate, scale2, gate2 = bench.modulation("norm1.linear", 4)
        normal = bench.times(bench.plain_rms(x, "norm1.norm"), bench.plus_one(scale))
    else:
        normal = bench.plain_rms(x, "norm1")
    q, k, v = _qkv(bench, "attn", normal, normal)
    q = bench.plain_rms(q, "attn.norm_q", heads=bench.heads)
    k = bench.plain_rms(k, "attn.norm_k", heads=k.width // bench.head_dim)
    q = bench.turned_complex(q)
    k = bench.turned_complex(k)
    k, v = graph.copy(k, width=q.width), graph.copy(v, width=q.width)
    out = bench.linear(bench.attend(q, k, v, masks=1 if "masked" in bench.traits else 0), "attn.to_out.0")
    del q, k, v
    out = bench.plain_rms(out, "norm2")
    x = graph.add(x, bench.times(out, graph.pointwise(gate, keeps="output")) if gate is not None else out)
    normal = bench.plain_rms(x, "ffn_norm1")
    if scale2 is not None:
        normal = bench.times(normal, bench.plus_one(scale2))
    first, second = bench.linear(normal, "feed_forward.linear_1"), bench.linear(normal, "feed_forward.linear_3")
    del normal, out
    first = graph.cast(graph.pointwise(graph.cast(first, 4)), first.element)
    out = bench.linear(graph.mul(first, second), "feed_forward.linear_2")
    out = bench.plain_rms(out, "ffn_norm2")
    return graph.add(x, bench.times(out, graph.pointwise(gate2, keeps="output")) if gate2 is not None else out), text


def ltx2(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run LTX-2's block: a stream of video and one of sound, each over its own text, then each over the other."""
    assert text is not None
    sound = text
    del text
    graph = bench.graph
    x_steps = bench.table("scale_shift_table", 6, x.width)
    x = _ltx2_alone(bench, "attn1", x, x_steps)
    sound_steps = bench.table("audio_scale_shift_table", 6, sound.width)
    sound = _ltx2_alone(bench, "audio_attn1", sound, sound_steps)
    x = graph.add(x, _ltx2_attended(bench, "attn2", bench.plain_rms(x), None))
    sound = graph.add(sound, _ltx2_attended(bench, "audio_attn2", bench.plain_rms(sound), None))
    normal, heard = bench.plain_rms(x), bench.plain_rms(sound)
    own, other = (
        [*bench.table(name, 4, width), *bench.table(name, 1, width)]
        for name, width in (
            ("video_a2v_cross_attn_scale_shift_table", x.width),
            ("audio_a2v_cross_attn_scale_shift_table", sound.width),
        )
    )
    out = _ltx2_attended(
        bench, "audio_to_video_attn", bench.modulated(normal, own[0], own[1]), bench.modulated(heard, other[0], other[1])
    )  # fmt: skip
    x = graph.add(x, bench.times(out, own[4]))
    out = _ltx2_attended(
        bench, "video_to_audio_attn", bench.modulated(heard, other[2], other[3]), bench.modulated(normal, own[2], own[3])
    )  # fmt: skip
    sound = graph.add(sound, bench.times(out, other[4]))
    del out, normal, heard
    out = bench.perceptron(bench.modulated(bench.plain_rms(x), x_steps[4], x_steps[3]), "ff")
    x = graph.add(x, bench.times(out, x_steps[5]))
    out = bench.perceptron(bench.modulated(bench.plain_rms(sound), sound_steps[4], sound_steps[3]), "audio_ff")
    return x, graph.add(sound, bench.times(out, sound_steps[5]))


def _ltx2_alone(bench: Bench, name: str, x: Value, steps: list[Value]) -> Value:
    """Run a stream's attention over itself."""
    normal = bench.modulated(bench.plain_rms(x), steps[1], steps[0])
    return bench.graph.add(x, bench.times(_ltx2_attended(bench, name, normal, normal), steps[2]))


def _ltx2_attended(bench: Bench, name: str, x: Value, source: Value | None) -> Value:
    """Run an attention over itself, over the other stream, or over the text, whose mask it makes for itself."""
    masks = 0
    if source is None:
        tensor = bench.tensor(f"{name}.to_k")
        assert tensor is not None
        source = bench.shared(bench.read_rows, tensor.shape[-1], grad=bench.read_grad)
        masks = bench.heads
    q, k, v = _qkv(bench, name, x, source)
    q, k = bench.rms(q, f"{name}.norm_q"), bench.rms(k, f"{name}.norm_k")
    if not masks:
        q = bench.turned(q)
        k = bench.turned(k)
    own = bench.head_dim
    bench.head_dim = q.width // bench.heads
    out = bench.attend(q, k, v, masks=masks)
    bench.head_dim = own
    return bench.linear(out, f"{name}.to_out.0")


__all__ = ["basic", "ltx", "ltx2", "lumina2", "pixart", "sana", "wan", "z_image"]
