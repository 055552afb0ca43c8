"""aMUSEd's denoiser as programs: blocks of convolutions, attention over the text, transformer blocks, and the loss over a codebook.

References
----------
.. [1] diffusers 0.42.1: ``models/unets/uvit_2d.py``, ``models/attention.py`` (``SkipFFTransformerBlock``),
       ``models/normalization.py`` (``GlobalResponseNorm``, ``AdaLayerNormContinuous``); ``examples/amused/train_amused.py``.
.. [2] Checkpointing has no effect on this model: before diffusers 0.33 its switch did nothing, since then a checkpointed block is
       called with arguments that it refuses.
"""

from __future__ import annotations

from vrameter.training.diffusion.bench import Bench
from vrameter.training.diffusion.joint import Streams
from vrameter.training.graph import Value


def _continuous(bench: Bench, x: Value, name: str, *, layer: bool = False) -> Value:
    """Run a norm whose scale and shift a matrix makes of the pooled text."""
    scale, shift = bench.modulation(f"{name}.linear", 2)
    norm = f"{name}.norm"
    return bench.modulated(bench.layer_norm(x, norm) if layer else bench.plain_rms(x, norm), scale, shift)


def _attended(bench: Bench, name: str, x: Value, source: Value) -> Value:
    q = bench.linear(x, f"{name}.to_q")
    k, v = bench.linear(source, f"{name}.to_k"), bench.linear(source, f"{name}.to_v")
    return bench.linear(bench.attend(q, k, v), f"{name}.to_out.0")


def transformer(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run ``BasicTransformerBlock`` with norms that look at the pooled text."""
    graph = bench.graph
    normal = _continuous(bench, x, "norm1")
    x = graph.add(_attended(bench, "attn1", normal, normal), x)
    x = graph.add(_attended(bench, "attn2", _continuous(bench, x, "norm2"), bench.read()), x)
    return graph.add(bench.gated(_continuous(bench, x, "norm3", layer=True), "ff"), x), text


def attended(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run ``SkipFFTransformerBlock``: twice over the text, which a matrix narrows first."""
    graph = bench.graph
    source = bench.read()
    if bench.has("kv_mapper"):
        source = bench.linear(graph.pointwise(source), "kv_mapper")
    x = graph.add(_attended(bench, "attn1", bench.plain_rms(x, "norm1"), source), x)
    return graph.add(_attended(bench, "attn2", bench.plain_rms(x, "norm2"), source), x), text


def convolved(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run ``ConvNextBlock``: a depthwise convolution, a perceptron over channels, and what the pooled text makes of it."""
    graph = bench.graph
    inner = bench.plain_rms(bench.convolve(x, "depthwise"), "norm")
    inner = graph.pointwise(bench.linear(inner, "channelwise_linear_1"))
    inner = bench.linear(_response(bench, inner), "channelwise_linear_2")
    x = graph.add(inner, x)
    del inner
    scale, shift = bench.modulation("cond_embeds_mapper", 2)
    return bench.modulated(x, scale, shift), text


def _response(bench: Bench, x: Value) -> Value:
    """Run ``GlobalResponseNorm``: channels by their share of the whole map; autocast measures them in fp32."""
    graph = bench.graph
    wide = graph.cast(x, 4) if bench.auto else x
    length = graph.op([wide], rows=bench.samples, saves=[wide], saves_output=True)
    del wide
    mean = graph.new(bench.samples, 1, length.element)
    share = graph.op([length], saves=[length, mean])
    out = graph.op([x, share], rows=x.rows, saves=[x, share])
    gamma = bench.weight("channelwise_norm.gamma")
    return graph.add(graph.scale(out, gamma), x)


def embed(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run what stands between embedded tokens and the first block."""
    x = bench.convolve(bench.plain_rms(x, "embed.layer_norm"), "embed.conv")
    if bench.has("down_block.downsample.conv"):
        x = bench.convolve(bench.plain_rms(x, "down_block.downsample.norm"), "down_block.downsample.conv", shrinks=2)
    return x, text


def enter(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run what stands before the transformer's blocks."""
    return bench.linear(bench.plain_rms(x, "project_to_hidden_norm"), "project_to_hidden"), text


def leave(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run what stands after them."""
    return bench.linear(bench.plain_rms(x, "project_from_hidden_norm"), "project_from_hidden"), text


def predict(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run what makes a score of every entry of the codebook for every token, and the cross-entropy, which autocast runs in fp32."""
    graph = bench.graph
    if bench.has("up_block.upsample.conv"):
        x = bench.plain_rms(x, "up_block.upsample.norm")
        weight = bench.weight("up_block.upsample.conv")
        element = bench.auto or x.element
        x = graph.cast(x, element)
        x = graph.op([x], rows=4 * x.rows, element=element, saves=[x], weights=[weight])
    x = bench.plain_rms(bench.convolve(x, "mlm_layer.conv1"), "mlm_layer.layer_norm")
    scores = graph.copy(bench.convolve(x, "mlm_layer.conv2"))
    del x
    scores = graph.cast(scores, 4)
    return graph.op([graph.pointwise(scores, keeps="output")], 1), text


__all__ = ["attended", "convolved", "embed", "enter", "leave", "predict", "transformer"]
