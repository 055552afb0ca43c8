"""Neural codecs: sound to codes and back.

EnCodec [1]_ and Mimi [2]_ share one stack of residual convolutions, DAC [3]_ and those after it another. Mimi puts a
small transformer on both sides of its codebooks.

References
----------
.. [1] A. Défossez et al., "High Fidelity Neural Audio Compression", 2022, arXiv:2210.13438.
.. [2] A. Défossez et al., "Moshi", 2024, arXiv:2410.00037.
.. [3] R. Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN", 2023, arXiv:2306.06546.
.. [4] Z. Ye et al., "Codec Does Matter" (X-Codec), 2024, arXiv:2408.17175; "Llasa" (X-Codec 2), 2025, arXiv:2502.04128.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.audio_input import AudioInput, Convolution
from vrameter.model.config import Config
from vrameter.model.families.lists import filled, length, numbers
from vrameter.model.families.registry import Components, read_part, tower
from vrameter.model.families.transducers import lstm
from vrameter.model.families.wav2vec2 import weight_normed

CODEC_RATE = 24_000  # samples per second of EnCodec and Mimi where a config does not say
MIMI_RATIOS = (8, 6, 5, 4)  # where a config has none
# What X-Codec assumes of its DAC where the nested config is silent: both sides take the ratios in the same order.
XCODEC_SOUND: dict[str, Any] = {
    "encoder_hidden_size": 64, "decoder_hidden_size": 1024, "hidden_size": 256, "downsampling_ratios": [8, 5, 4, 2],
    "upsampling_ratios": [8, 5, 4, 2],
}  # fmt: skip

Make = Callable[..., Tensors]


def _part(name: str, hidden: int, tensors: Tensors, prefix: str, audio: AudioInput | None = None) -> Component:
    return Component(kind="audio", name=name, hidden_size=hidden, tensors=tensors, prefix=prefix, audio=audio)


def _strided(ratios: list[int], widths: list[int], *, fills: bool = False) -> tuple[Convolution, ...]:
    return tuple(
        Convolution(width, 2 * ratio, ratio, 2 * ((ratio + 1) // 2), fills)
        for ratio, width in zip(ratios, widths, strict=True)
    )


# -- EnCodec and Mimi ------------------------------------------------------------------------------------------------


def residual_stack(cfg: Config, ratios: list[int], make: Make, *, decoder: bool, memory: int = 0) -> Tensors:
    """Return one side of EnCodec's convolutions [1]_.

    Parameters
    ----------
    ratios
        By how much each stage of the decoder raises the rate; the encoder goes the other way.
    make
        ``make(name, outputs, inputs, kernel, transposed=...)`` returns one convolution.
    memory
        Layers of an LSTM between the convolutions.
    """
    filters, hidden, channels = cfg.integer("num_filters"), cfg.hidden_size, cfg.integer("audio_channels")
    first, last = cfg.integer("kernel_size"), cfg.integer("last_kernel_size")
    widest = filters * 2 ** len(ratios)
    index = 0
    tensors: Tensors = ()

    def block(width: int) -> Tensors:
        inner = width // cfg.integer("compress")
        name = f"layers.{index}"
        own = (
            *make(f"{name}.block.1", inner, width, cfg.integer("residual_kernel_size")),
            *make(f"{name}.block.3", width, inner, 1),
        )
        return (*own, *(make(f"{name}.shortcut", width, width, 1) if cfg.flag("use_conv_shortcut") else ()))

    def recurrent() -> Tensors:
        return lstm(f"layers.{index}.lstm", inputs=widest, hidden_size=widest, num_layers=memory)

    blocks = cfg.layers("num_residual_layers", least=0)
    if decoder:
        tensors += make("layers.0", widest, hidden, first)
        index = 1
        if memory:
            tensors += recurrent()
            index += 1
        width = widest
        for ratio in ratios:
            index += 1
            tensors += make(f"layers.{index}", width // 2, width, 2 * ratio, transposed=True)
            width //= 2
            index += 1
            for _ in range(blocks):
                tensors += block(width)
                index += 1
        return (*tensors, *make(f"layers.{index + 1}", channels, filters, last))
    tensors += make("layers.0", filters, channels, first)
    index, width = 1, filters
    for ratio in reversed(ratios):
        for _ in range(blocks):
            tensors += block(width)
            index += 1
        index += 1
        tensors += make(f"layers.{index}", 2 * width, width, 2 * ratio)
        width *= 2
        index += 1
    if memory:
        tensors += recurrent()
        index += 1
    return (*tensors, *make(f"layers.{index + 1}", hidden, widest, last))


def codebook(name: str, entries: int, width: int) -> Tensors:
    """Return a codebook that was learned by moving averages: buffers, not parameters."""
    return (
        *parts.buffer(f"{name}.inited", 1),
        *parts.buffer(f"{name}.cluster_size", entries),
        *parts.buffer(f"{name}.embed", entries, width),
        *parts.buffer(f"{name}.embed_avg", entries, width),
    )


def num_codebooks(cfg: Config, hop: int, rate: int) -> int:
    """Return how many codebooks the widest bandwidth takes: bits a second over bits a frame."""
    widest = numbers(cfg, "target_bandwidths")[-1]
    bits = (cfg.integer("codebook_size", least=2) - 1).bit_length()
    return int(1000 * widest // (ceil(rate / hop) * bits))


@tower("encodec", base="")
def encodec(cfg: Config, prefix: str) -> Components:
    """EnCodec [1]_."""
    normed = cfg.text("norm_type") == "weight_norm"

    def make(name: str, outputs: int, inputs: int, kernel: int, *, transposed: bool = False) -> Tensors:
        shape = (inputs, outputs, kernel) if transposed else (outputs, inputs, kernel)
        if normed:
            return weight_normed(f"{name}.conv", *shape, outputs=outputs)
        return (
            *parts.parameter(f"{name}.conv.weight", *shape, role="convolution"),
            *parts.parameter(f"{name}.conv.bias", outputs, role="convolution"),
            *parts.norm(f"{name}.norm", outputs, bias=True),
        )

    ratios = cfg.integers("upsampling_ratios", least=1)
    hidden, memory = cfg.hidden_size, cfg.layers("num_lstm_layers", least=0)
    rate, entries = cfg.integer("sampling_rate", CODEC_RATE), cfg.integer("codebook_size")
    width = cfg.integer("codebook_dim", hidden)
    books = [
        tensor
        for index in range(num_codebooks(cfg, prod(ratios), rate))
        for tensor in codebook(f"quantizer.layers.{index}.codebook", entries, width)
    ]
    filters = cfg.integer("num_filters")
    audio = AudioInput(
        rate,
        cfg.integer("audio_channels"),
        _strided(ratios[::-1], [filters * 2 ** (i + 1) for i in range(len(ratios))], fills=True),
    )
    return (
        _part("encoder", hidden, residual_stack(cfg, ratios, make, decoder=False, memory=memory), joined(prefix, "encoder"), audio),
        _part("decoder", hidden, residual_stack(cfg, ratios, make, decoder=True, memory=memory), joined(prefix, "decoder")),
        _part("codebooks", hidden, tuple(books), prefix),
    )  # fmt: skip


def _mimi_convolution(name: str, outputs: int, inputs: int, kernel: int, *, transposed: bool = False) -> Tensors:
    shape = (inputs, outputs, kernel) if transposed else (outputs, inputs, kernel)
    return (
        *parts.parameter(f"{name}.conv.weight", *shape, role="convolution"),
        *parts.parameter(f"{name}.conv.bias", outputs, role="convolution"),
    )


def _mimi_layer(cfg: Config) -> Layer:
    hidden = cfg.hidden_size
    attention = parts.attention(
        hidden_size=hidden, num_heads=cfg.num_heads, num_kv_heads=cfg.num_kv_heads, head_dim=cfg.head_dim,
        bias=cfg.flag("attention_bias"), scope="encoder", window=cfg.integer("sliding_window", None),
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, up="fc1", down="fc2"
    )
    return Layer(
        (attention, feed),
        (
            *parts.norm("input_layernorm", hidden, bias=True),
            *parts.norm("post_attention_layernorm", hidden, bias=True),
            *parts.parameter("self_attn_layer_scale.scale", hidden),
            *parts.parameter("mlp_layer_scale.scale", hidden),
        ),
    )


def _mimi_rates(cfg: Config) -> tuple[list[int], int]:
    """Return the ratios of the convolutions, and by how much the frames are thinned out once more."""
    ratios = cfg.integers("upsampling_ratios", MIMI_RATIOS, least=1) or list(MIMI_RATIOS)
    before = ceil(cfg.integer("sampling_rate", CODEC_RATE) / prod(ratios))
    after = cfg.number("frame_rate", before / 2)
    return list(ratios), int(before / after)


def mimi_encoder_part(cfg: Config, prefix: str) -> Component:
    """Return Mimi's encoder [2]_: convolutions, a transformer, a halving of the rate."""
    hidden, (ratios, stride) = cfg.hidden_size, _mimi_rates(cfg)
    tensors = parts.below("encoder_seanet", residual_stack(cfg, ratios, _mimi_convolution, decoder=False))
    convolutions = _strided(
        ratios[::-1], [cfg.integer("num_filters") * 2 ** (i + 1) for i in range(len(ratios))], fills=True
    )
    if stride > 1:
        tensors += parts.conv("downsample.conv", hidden, hidden, 2 * stride, bias=False)
        convolutions += (Convolution(hidden, 2 * stride, stride, fills=True),)
    return Component(
        kind="audio", name="encoder", hidden_size=hidden, layers=(_mimi_layer(cfg),) * cfg.num_layers, tensors=tensors,
        prefix=prefix, layers_prefix=joined(prefix, "encoder_transformer.layers"),
        audio=AudioInput(cfg.integer("sampling_rate", CODEC_RATE), cfg.integer("audio_channels"), convolutions),
    )  # fmt: skip


def mimi_decoder_part(cfg: Config, prefix: str) -> Component:
    """Return Mimi's decoder [2]_: the encoder's parts the other way round."""
    hidden, (ratios, stride) = cfg.hidden_size, _mimi_rates(cfg)
    tensors = parts.below("decoder_seanet", residual_stack(cfg, ratios, _mimi_convolution, decoder=True))
    if stride > 1:
        tensors += parts.conv("upsample.conv", hidden, hidden // cfg.integer("upsample_groups"), 2 * stride, bias=False)
    return Component(
        kind="audio", name="decoder", hidden_size=hidden, layers=(_mimi_layer(cfg),) * cfg.num_layers, tensors=tensors,
        prefix=prefix, layers_prefix=joined(prefix, "decoder_transformer.layers"),
    )  # fmt: skip


@tower("mimi_encoder", base="")
def mimi_encoder(cfg: Config, prefix: str) -> Component:
    """Mimi's encoder alone."""
    return mimi_encoder_part(cfg, prefix)


@tower("mimi_decoder", base="")
def mimi_decoder(cfg: Config, prefix: str) -> Component:
    """Mimi's decoder alone."""
    return mimi_decoder_part(cfg, prefix)


@tower("mimi", base="")
def mimi(cfg: Config, prefix: str) -> Components:
    """Mimi [2]_: codes of meaning and of sound in codebooks of their own."""
    hidden, width = cfg.hidden_size, cfg.integer("vector_quantization_hidden_dimension")
    entries, size = cfg.integer("codebook_size"), cfg.integer("codebook_dim", hidden)
    meaning = cfg.layers("num_semantic_quantizers")
    tensors: Tensors = ()
    for kind, count in (("semantic", meaning), ("acoustic", cfg.layers("num_quantizers") - meaning)):
        name = f"quantizer.{kind}_residual_vector_quantizer"
        if width != hidden:
            tensors += parts.conv(f"{name}.input_proj", width, hidden, 1, bias=False)
            tensors += parts.conv(f"{name}.output_proj", hidden, width, 1, bias=False)
        for index in range(count):
            book = f"{name}.layers.{index}.codebook"
            tensors += parts.buffer(f"{book}.initialized", 1)
            tensors += parts.buffer(f"{book}.cluster_usage", entries)
            tensors += parts.buffer(f"{book}.embed_sum", entries, size)
    return (
        mimi_encoder_part(cfg, joined(prefix, "encoder")),
        mimi_decoder_part(cfg, joined(prefix, "decoder")),
        _part("codebooks", hidden, tensors, prefix),
    )


# -- DAC and what was built on it ------------------------------------------------------------------------------------

Activation = Callable[[str, int], Tensors]


def snake(name: str, width: int) -> Tensors:
    """Return the frequencies of DAC's periodic activation."""
    return parts.parameter(f"{name}.alpha", 1, width, 1)


def scaled_snake(name: str, width: int) -> Tensors:
    """Return the frequencies and the scales of the activation that filters what it folds back."""
    return (*parts.parameter(f"{name}.act.alpha", width), *parts.parameter(f"{name}.act.beta", width))


def _unit(name: str, width: int, activation: Activation) -> Tensors:
    return (
        *activation(f"{name}.snake1", width),
        *parts.conv(f"{name}.conv1", width, width, 7),
        *activation(f"{name}.snake2", width),
        *parts.conv(f"{name}.conv2", width, width, 1),
    )


def dac_encoder(first: int, ratios: list[int], hidden: int, *, activation: Activation = snake) -> Tensors:
    """Return DAC's encoder [3]_: three residual units and a strided convolution for each ratio."""
    tensors = parts.conv("conv1", first, 1, 7)
    width = first
    for index, ratio in enumerate(ratios):
        name = f"block.{index}"
        for unit in (1, 2, 3):
            tensors += _unit(f"{name}.res_unit{unit}", width, activation)
        tensors += activation(f"{name}.snake1", width)
        tensors += parts.conv(f"{name}.conv1", 2 * width, width, 2 * ratio)
        width *= 2
    return (*tensors, *activation("snake1", width), *parts.conv("conv2", hidden, width, 3))


def dac_decoder(first: int, ratios: list[int], hidden: int) -> Tensors:
    """Return DAC's decoder [3]_."""
    tensors = parts.conv("conv1", first, hidden, 7)
    width = first
    for index, ratio in enumerate(ratios):
        name, narrow = f"block.{index}", first // 2 ** (index + 1)
        tensors += snake(f"{name}.snake1", width)
        tensors += parts.parameter(f"{name}.conv_t1.weight", width, narrow, 2 * ratio, role="convolution")
        tensors += parts.parameter(f"{name}.conv_t1.bias", narrow, role="convolution")
        for unit in (1, 2, 3):
            tensors += _unit(f"{name}.res_unit{unit}", narrow, snake)
        width = narrow
    return (*tensors, *snake("snake1", width), *parts.conv("conv2", 1, width, 7))


def _dac_sides(cfg: Config, encoder: str, decoder: str) -> tuple[Component, Component, int]:
    first, ratios = cfg.integer("encoder_hidden_size"), cfg.integers("downsampling_ratios", least=1)
    hidden = first * 2 ** len(ratios)
    audio = AudioInput(
        cfg.integer("sampling_rate", 16_000), 1, _strided(ratios, [first * 2 ** (i + 1) for i in range(len(ratios))])
    )
    inner = cfg.integer("hidden_size", hidden)
    down = dac_encoder(first, ratios, inner)
    up = dac_decoder(
        cfg.integer("decoder_hidden_size"), cfg.integers("upsampling_ratios", ratios[::-1], least=1), inner
    )
    return _part("encoder", inner, down, encoder, audio), _part("decoder", inner, up, decoder), inner


@tower("dac", base="")
def dac(cfg: Config, prefix: str) -> Components:
    """DAC [3]_: codebooks so narrow that frames are projected down to them."""
    encoder, decoder, hidden = _dac_sides(cfg, joined(prefix, "encoder"), joined(prefix, "decoder"))
    width, entries = cfg.integer("codebook_dim"), cfg.integer("codebook_size")
    tensors: Tensors = ()
    for index in range(cfg.layers("n_codebooks")):
        name = f"quantizer.quantizers.{index}"
        tensors += parts.conv(f"{name}.in_proj", width, hidden, 1)
        tensors += parts.conv(f"{name}.out_proj", hidden, width, 1)
        tensors += parts.embedding(f"{name}.codebook", entries, width)
    return (encoder, decoder, _part("codebooks", hidden, tensors, prefix))


@tower("xcodec", base="")
def xcodec(cfg: Config, prefix: str) -> Components:
    """X-Codec [4]_: DAC's convolutions beside what HuBERT hears, quantised together."""
    heard, sound = cfg.nested("semantic_model_config"), cfg.nested("acoustic_model_config", "dac")
    sound = sound.over(**{name: value for name, value in XCODEC_SOUND.items() if not sound.given(name)})
    encoder, decoder, acoustic = _dac_sides(
        sound, joined(prefix, "acoustic_encoder"), joined(prefix, "acoustic_decoder")
    )
    meaning = heard.hidden_size
    hidden = acoustic + meaning
    kernel, unit = cfg.integer("kernel_size"), cfg.integer("unit_kernel_size")
    ratios, strides = numbers(cfg, "channel_ratios"), filled(cfg, "strides")
    if len(ratios) != len(strides):
        raise cfg.fail(
            "strides", "has %(length)s entries for %(count)s layers.", length=len(strides), count=len(ratios)
        )
    widths = [int(meaning * ratio) for ratio in ratios]

    def units(name: str, width: int) -> Tensors:
        return tuple(
            tensor
            for index in range(length(cfg, "block_dilations"))
            for tensor in (
                *parts.conv(f"{name}.res_units.{index}.conv1", width, width, unit, bias=False),
                *parts.conv(f"{name}.res_units.{index}.conv2", width, width, 1, bias=False),
            )
        )

    tensors = parts.conv("encoder_semantic.conv", meaning, meaning, kernel, bias=False)
    inputs = meaning
    for index, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        name = f"encoder_semantic.conv_blocks.{index}"
        tensors += units(name, inputs)
        tensors += parts.conv(f"{name}.conv", width, inputs, 3 if stride == 1 else 2 * stride)
        inputs = width
    tensors += parts.conv("decoder_semantic.conv1", widths[0], meaning, kernel, bias=False)
    for index, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        name = f"decoder_semantic.conv_blocks.{index}"
        outputs = widths[index + 1] if index + 1 < len(widths) else meaning
        if stride == 1:
            tensors += parts.conv(f"{name}.conv", outputs, width, 3)
        else:
            tensors += parts.parameter(f"{name}.conv.weight", width, outputs, 2 * stride, role="convolution")
        tensors += units(name, outputs)
    tensors += parts.conv("decoder_semantic.conv2", meaning, meaning, kernel, bias=False)
    tensors += parts.linear("fc", hidden, hidden, bias=True)
    tensors += parts.linear("fc1", meaning, hidden, bias=True)
    tensors += parts.linear("fc2", acoustic, hidden, bias=True)
    hop = prod(sound.integers("downsampling_ratios", least=1))
    entries, size = cfg.integer("codebook_size"), cfg.integer("codebook_dim", hidden)
    for index in range(num_codebooks(cfg, hop, cfg.integer("sample_rate"))):
        tensors += codebook(f"quantizer.quantizers.{index}.codebook", entries, size)
    listening = read_part(heard, joined(prefix, "semantic_model"))
    return (encoder, decoder, *listening, _part("codebooks", hidden, tensors, prefix))


@tower("xcodec2", "neucodec", base="")
def xcodec2(cfg: Config, prefix: str) -> Components:
    """X-Codec 2 [4]_: one codebook without a table, a transformer that draws spectra; NeuCodec at a higher rate."""
    heard, hidden = cfg.nested("semantic_model_config"), cfg.hidden_size
    first, ratios = cfg.integer("encoder_hidden_size"), cfg.integers("downsampling_ratios", least=1)
    meaning, wide = heard.hidden_size, cfg.integer("quantization_dim")
    levels = length(cfg, "quantization_levels")
    audio = AudioInput(
        cfg.integer("sampling_rate", 16_000), 1, _strided(ratios, [first * 2 ** (i + 1) for i in range(len(ratios))])
    )
    encoder = _part(
        "encoder",
        hidden,
        dac_encoder(first, ratios, hidden, activation=scaled_snake),
        joined(prefix, "acoustic_encoder"),
        audio,
    )
    attention = parts.attention(
        hidden_size=hidden, num_heads=cfg.num_heads, num_kv_heads=cfg.num_kv_heads, head_dim=cfg.head_dim,
        bias=cfg.flag("attention_bias"), scope="encoder",
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, up="fc1", down="fc2"
    )
    norms = (*parts.norm("input_layernorm", hidden), *parts.norm("post_attention_layernorm", hidden))
    nets = [
        tensor
        for net in ("prior_net", "post_net")
        for index in range(2)
        for step in (1, 2)
        for tensor in (
            *parts.norm(f"{net}.{index}.norm{step}", hidden, bias=True),
            *parts.conv(f"{net}.{index}.conv{step}", hidden, hidden, 3),
        )
    ]
    decoder = Component(
        kind="audio", name="decoder", hidden_size=hidden, layers=(Layer((attention, feed), norms),) * cfg.num_layers,
        tensors=(
            *parts.linear("fc", hidden, hidden + meaning, bias=True),
            *parts.conv("embed", hidden, hidden, 7),
            *nets,
            *parts.norm("norm", hidden, bias=True),
            *parts.linear("head.linear", _spectrum(cfg, prod(ratios)), hidden, bias=True, role="head"),
        ),
        prefix=joined(prefix, "acoustic_decoder"), layers_prefix=joined(prefix, "acoustic_decoder.layers"),
    )  # fmt: skip
    between = (
        *parts.conv("semantic_adapter.conv1", meaning, meaning, 3, bias=False),
        *parts.conv("semantic_adapter.conv2", meaning, meaning, 3),
        *parts.conv("semantic_adapter.conv3", meaning, meaning, 3),
        *parts.conv("semantic_adapter.conv4", meaning, meaning, 3, bias=False),
        *parts.linear("fc_encoder", hidden + meaning, hidden + meaning, bias=True),
        *parts.linear("quantizer.project_in", levels, wide, bias=True),
        *parts.linear("quantizer.project_out", wide, levels, bias=True),
    )
    listening = read_part(heard, joined(prefix, "semantic_encoder"))
    return (encoder, decoder, *listening, _part("codebooks", hidden, between, prefix))


def _spectrum(cfg: Config, hop: int) -> int:
    """Return the numbers that describe one frame of a spectrum four hops long."""
    if cfg.model_type == "neucodec":
        hop = hop * cfg.integer("output_sampling_rate", 24_000) // cfg.integer("input_sampling_rate", 16_000)
    return 4 * hop + 2


__all__ = ["codebook", "dac_decoder", "dac_encoder", "residual_stack", "scaled_snake", "snake"]
