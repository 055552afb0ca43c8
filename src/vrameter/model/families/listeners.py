"""Encoder-decoders that listen: Whisper [1]_, Speech2Text [2]_, Moonshine [3]_.

Convolutions thin the sound out, an encoder reads it, and a decoder writes what was said. Whisper pads every
recording to thirty seconds, so that its cross-attention always keeps the same number of positions.

References
----------
.. [1] A. Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, arXiv:2212.04356.
.. [2] C. Wang et al., "fairseq S2T", 2020, arXiv:2010.05171.
.. [3] N. Jeffries et al., "Moonshine", 2024, arXiv:2410.15608.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Layer, Scope, Tensors, joined
from vrameter.model.audio_input import AudioInput, Convolution
from vrameter.model.config import Config
from vrameter.model.families.encoder_decoder import Style, WholeHeads, language_head, sequence_heads, side
from vrameter.model.families.encoder_heads import linear, task_of
from vrameter.model.families.registry import ENTRIES, Built, num_labels, tower

MEL_RATE = 100  # spectrogram columns per second of every model here: a hop of 10 ms
SAMPLE_RATE = 16_000  # of every waveform that speech models hear

WHISPER = Style(key_bias=False, final_norm="layer_norm")


def mel_convolutions(channels: int) -> tuple[Convolution, ...]:
    """Return Whisper's two convolutions, which halve the number of columns."""
    return (Convolution(channels, 3, 1, 2), Convolution(channels, 3, 2, 2))


def mel_input(cfg: Config, hidden: int, *, max_frames: int, pieces: bool = True) -> AudioInput:
    """Return what Whisper's encoder hears: mel columns, halved, in pieces of thirty seconds."""
    return AudioInput(
        MEL_RATE,
        cfg.integer("num_mel_bins"),
        mel_convolutions(hidden),
        max_frames=max_frames,
        padded=True,
        pieces=pieces,
    )


def mel_front(cfg: Config, hidden: int, *, name: str = "") -> Tensors:
    """Return the tensors of Whisper's two convolutions."""
    prefix = f"{name}." if name else ""
    return (
        *parts.conv(f"{prefix}conv1", hidden, cfg.integer("num_mel_bins"), 3),
        *parts.conv(f"{prefix}conv2", hidden, hidden, 3),
    )


def whisper_encoder(cfg: Config, prefix: str, *, audio_tower: bool = True, name: str = "") -> Component:
    """Return Whisper's encoder: half of an encoder-decoder, or a tower before a language model."""
    rows, front = cfg.integer("max_source_positions"), mel_front(cfg, cfg.hidden_size)
    body = side(cfg, prefix, WHISPER, decoder=False, positions=rows, stack_name=name, tensors=front)
    audio = mel_input(cfg, cfg.hidden_size, max_frames=rows, pieces=audio_tower)
    return replace(body, kind="audio" if audio_tower else "encoder", audio=audio, vocab_size=0)


def _whisper(cfg: Config, prefix: str, *, decoder: bool, **given: Any) -> Component:
    if not decoder:
        return whisper_encoder(cfg, prefix, audio_tower=False, name="encoder")
    return side(
        cfg, prefix, WHISPER, decoder=True, positions=cfg.integer("max_target_positions"),
        cross_tokens=cfg.integer("max_source_positions"), **given,
    )  # fmt: skip


def listening_heads(make: Any, *, head: str = "lm_head") -> WholeHeads:
    """Return the function that builds the classes of an encoder-decoder that listens, one that classifies among them."""
    written = sequence_heads(make, logits_bias=False, head=head, shared=False)

    def heads(cfg: Config, class_name: str) -> Built:
        if task_of(class_name) != "AudioClassification":
            return written(cfg, class_name)
        encoder = make(cfg, "", decoder=False)
        hidden, width = cfg.hidden_size, cfg.integer("classifier_proj_size")
        tensors = (*linear("projector", width, hidden), *linear("classifier", num_labels(cfg), width))
        if cfg.flag("use_weighted_layer_sum"):
            tensors += parts.parameter("layer_weights", len(encoder.layers) + 1, role="head")
        return Built((encoder, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)))

    return heads


@tower("whisper", heads=listening_heads(_whisper, head="proj_out"), task="ForConditionalGeneration")
def whisper(cfg: Config, prefix: str) -> Component:
    """Whisper's encoder [1]_."""
    return whisper_encoder(cfg, prefix)


def _speech_to_text(cfg: Config, prefix: str, *, decoder: bool, **given: Any) -> Component:
    style = Style(table=False, final_norm="layer_norm")
    if decoder:
        return side(cfg, prefix, style, decoder=True, positions=cfg.integer("max_target_positions"), **given)
    hidden, count, middle = cfg.hidden_size, cfg.layers("num_conv_layers"), cfg.integer("conv_channels")
    features = cfg.integer("input_feat_per_channel") * cfg.integer("input_channels")
    kernels = cfg.integers("conv_kernel_sizes")
    if len(kernels) != count:
        raise cfg.fail(
            "conv_kernel_sizes", "has %(length)s entries for %(count)s layers.", length=len(kernels), count=count
        )
    tensors: Tensors = ()
    convolutions = []
    for index, kernel in enumerate(kernels):
        inputs = features if index == 0 else middle // 2
        outputs = middle if index < count - 1 else 2 * hidden
        tensors += parts.conv(f"conv.conv_layers.{index}", outputs, inputs, kernel)
        convolutions.append(Convolution(outputs // 2, kernel, 2, 2 * (kernel // 2)))
    rows = cfg.integer("max_source_positions")
    body = side(cfg, prefix, style, decoder=False, positions=rows, tensors=tensors)
    return replace(body, audio=AudioInput(MEL_RATE, features, tuple(convolutions), max_frames=rows))


@tower("speech_to_text", heads=listening_heads(_speech_to_text), task="ForConditionalGeneration")
def speech_to_text(cfg: Config, prefix: str) -> Component:
    """Speech2Text's encoder [2]_: gated convolutions, each halving the columns."""
    return _speech_to_text(cfg, prefix, decoder=False)


# -- Moonshine -------------------------------------------------------------------------------------------------


def small_attention(
    cfg: Config, *, heads: int, kv_heads: int, scope: Scope, name: str = "self_attn", bias: bool | None = None,
    o_bias: bool = False, kv_size: int | None = None, window: int | None = None,
) -> Attention:  # fmt: skip
    """Return grouped-query attention as Moonshine and the decoders after it write it."""
    hidden = cfg.hidden_size
    dim = cfg.integer("head_dim", hidden // heads)
    return parts.attention(
        hidden_size=hidden, num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, name=name, scope=scope, kv_size=kv_size,
        bias=cfg.flag("attention_bias") if bias is None else bias, o_bias=o_bias, window=window,
        role="cross_attention" if scope == "cross" else "attention",
    )  # fmt: skip


def small_decoder(
    cfg: Config, prefix: str, *, heads: int, kv_heads: int, count: int, bias: bool | None = None, o_bias: bool = False,
    gated: bool = True, norm_bias: bool = False, tensors: Tensors = (), max_positions: int = 0,
) -> Component:  # fmt: skip
    """Return a decoder of Moonshine's kind: attention to itself and to what was heard, then a perceptron."""
    hidden, inner = cfg.hidden_size, cfg.integer("intermediate_size")
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=inner, gated=gated, gate_up="fc1" if gated else None, bias=True, up="fc1",
        down="fc2",
    )  # fmt: skip
    given: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "bias": bias, "o_bias": o_bias}
    layer = Layer(
        (
            small_attention(cfg, scope="full", **given),
            small_attention(cfg, scope="cross", name="encoder_attn", **given),
            feed,
        ),
        tuple(
            tensor
            for name in ("input_layernorm", "post_attention_layernorm", "final_layernorm")
            for tensor in parts.norm(name, hidden, bias=norm_bias)
        ),
    )
    own = (
        *parts.embedding("embed_tokens", cfg.vocab_size, hidden),
        *parts.norm("norm", hidden, bias=norm_bias),
        *tensors,
    )
    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=(layer,) * count,
        tensors=own,
        prefix=joined(prefix, "decoder"),
        layers_prefix=joined(prefix, "decoder.layers"),
        vocab_size=cfg.vocab_size,
        max_positions=max_positions or cfg.integer("max_position_embeddings", 0, least=0),
    )


def _moonshine_layer(cfg: Config, attention: Attention, norms: Tensors) -> Layer:
    feed = parts.mlp(
        hidden_size=cfg.hidden_size, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True, up="fc1",
        down="fc2",
    )  # fmt: skip
    return Layer((attention, feed), norms)


def _moonshine(cfg: Config, prefix: str, *, decoder: bool, **_: Any) -> Component:
    kind = "decoder" if decoder else "encoder"
    heads = cfg.integer(f"{kind}_num_attention_heads")
    kv_heads = cfg.integer(f"{kind}_num_key_value_heads", heads)
    count = cfg.layers(f"{kind}_num_hidden_layers")
    if decoder:
        return small_decoder(cfg, prefix, heads=heads, kv_heads=kv_heads, count=count)
    hidden = cfg.hidden_size
    attention = small_attention(cfg, heads=heads, kv_heads=kv_heads, scope="encoder")
    norms = (*parts.norm("input_layernorm", hidden), *parts.norm("post_attention_layernorm", hidden))
    tensors = (
        *parts.conv("conv1", hidden, 1, 127, bias=False),
        *parts.conv("conv2", 2 * hidden, hidden, 7),
        *parts.conv("conv3", hidden, 2 * hidden, 3),
        *parts.norm("groupnorm", hidden, bias=True),
        *parts.norm("layer_norm", hidden),
    )
    convolutions = (Convolution(hidden, 127, 64), Convolution(2 * hidden, 7, 3), Convolution(hidden, 3, 2))
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(_moonshine_layer(cfg, attention, norms),) * count,
        tensors=tensors,
        prefix=joined(prefix, "encoder"),
        layers_prefix=joined(prefix, "encoder.layers"),
        audio=AudioInput(SAMPLE_RATE, 1, convolutions),
    )


def small_heads(make: Any, *, head: str = "proj_out", bias: bool = False) -> WholeHeads:
    """Return the function that builds the two classes of such a model: the bare one, and the one that writes."""

    def heads(cfg: Config, class_name: str) -> Built:
        base = task_of(class_name) == "Model"
        prefix = "" if base else ENTRIES[cfg.model_type].base
        sides = (make(cfg, prefix, decoder=False), make(cfg, prefix, decoder=True))
        if base:
            return Built(sides)
        written = language_head(cfg, sides[1].hidden_size, name=head, bias=bias)
        return Built((*sides, *written.components), tied=written.tied)

    return heads


@tower("moonshine", heads=small_heads(_moonshine), task="ForConditionalGeneration")
def moonshine(cfg: Config, prefix: str) -> Component:
    """Moonshine's encoder [3]_: three convolutions over the waveform, rotary positions."""
    return _moonshine(cfg, prefix, decoder=False)


def _moonshine_streaming(cfg: Config, prefix: str, *, decoder: bool, **_: Any) -> Component:
    heard = cfg.nested("encoder_config")
    inner = heard.hidden_size
    if decoder:
        extra = parts.embedding("pos_emb", cfg.integer("max_position_embeddings"), inner, slot="position")
        if inner != cfg.hidden_size:
            extra += parts.linear("proj", cfg.hidden_size, inner, role="projector")
        return small_decoder(
            cfg, prefix, heads=cfg.num_heads, kv_heads=cfg.num_kv_heads, count=cfg.num_layers, tensors=extra
        )
    attention = small_attention(
        heard,
        heads=heard.num_heads,
        kv_heads=heard.num_kv_heads,
        scope="encoder",
        o_bias=heard.flag("attention_bias"),
    )
    samples = max(1, round(heard.integer("sample_rate") * heard.number("frame_ms") / 1000))
    tensors = (
        *parts.parameter("embedder.comp.log_k"),
        *parts.conv("embedder.conv1", 2 * inner, inner, 5),
        *parts.conv("embedder.conv2", inner, 2 * inner, 5),
        *parts.linear("embedder.linear", inner, samples, role="convolution"),
        *parts.parameter("final_norm.gamma", inner, role="norm"),
    )
    norms = (
        *parts.parameter("input_layernorm.gamma", inner, role="norm"),
        *parts.parameter("post_attention_layernorm.gamma", inner, role="norm"),
    )
    rate = heard.integer("sample_rate") / samples
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=inner,
        layers=(_moonshine_layer(heard, attention, norms),) * heard.num_layers,
        tensors=tensors,
        prefix=joined(prefix, "encoder"),
        layers_prefix=joined(prefix, "encoder.layers"),
        audio=AudioInput(rate, samples, (Convolution(2 * inner, 5, 2, 4), Convolution(inner, 5, 2, 4))),
    )


@tower("moonshine_streaming", heads=small_heads(_moonshine_streaming), task="ForConditionalGeneration")
def moonshine_streaming(cfg: Config, prefix: str) -> Component:
    """Moonshine's encoder for streams: frames of a few milliseconds, windows that see little of what comes."""
    return _moonshine_streaming(cfg, prefix, decoder=False)
