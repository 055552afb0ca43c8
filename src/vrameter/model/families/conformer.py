"""Conformers [1]_: attention between two half perceptrons, and a convolution over time in each layer.

One layer is written here under the names of whoever asks for it. Spectrograms are thinned out before the layers by
convolutions over both axes (Parakeet) or by stacking columns.

References
----------
.. [1] A. Gulati et al., "Conformer", 2020, arXiv:2005.08100.
.. [2] D. Rekesh et al., "Fast Conformer", 2023, arXiv:2305.05084 (Parakeet, Canary).
.. [3] G. Saon et al., "Granite-speech", 2025, arXiv:2505.08699.
.. [4] Seamless Communication, "SeamlessM4T", 2023, arXiv:2308.11596 (W2v-BERT 2.0).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensor, Tensors, joined
from vrameter.model.audio_input import AudioInput, Convolution
from vrameter.model.config import Config
from vrameter.model.families.bert import even_heads
from vrameter.model.families.listeners import MEL_RATE
from vrameter.model.families.registry import tower
from vrameter.model.families.speech_heads import contrastive, output_size, speech_heads
from vrameter.model.families.wav2vec2 import mask_vector, speech_model

ConvolutionNorm = Literal["batch", "layer"]


@dataclass(frozen=True, slots=True)
class Names:
    """What a conformer layer calls its modules.

    Parameters
    ----------
    first, second, up, down
        The two half perceptrons and their matrices.
    attention, q, k, v, o
        Attention and its projections.
    norms
        Norms of the layer, in order.
    expand, depthwise, contract, inner_norm
        The convolution module: widened and gated, convolved, normed, narrowed.
    """

    first: str = "feed_forward1"
    second: str = "feed_forward2"
    up: str = "linear1"
    down: str = "linear2"
    attention: str = "self_attn"
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    o: str = "o_proj"
    norms: tuple[str, ...] = (
        "norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out",
    )  # fmt: skip
    expand: str = "conv.pointwise_conv1"
    depthwise: str = "conv.depthwise_conv"
    contract: str = "conv.pointwise_conv2"
    inner_norm: str = "conv.norm"


W2V_NAMES = Names(
    first="ffn1", second="ffn2", up="intermediate_dense", down="output_dense", q="linear_q", k="linear_k", v="linear_v",
    o="linear_out",
    norms=("ffn1_layer_norm", "self_attn_layer_norm", "conv_module.layer_norm", "ffn2_layer_norm", "final_layer_norm"),
    expand="conv_module.pointwise_conv1", depthwise="conv_module.depthwise_conv",
    contract="conv_module.pointwise_conv2", inner_norm="conv_module.batch_norm",
)  # fmt: skip


def conformer_layer(
    names: Names, *, hidden_size: int, intermediate_size: int, num_heads: int, kernel: int, head_dim: int | None = None,
    num_kv_heads: int | None = None, bias: bool = True, o_bias: bool | None = None, mlp_bias: bool = True,
    conv_bias: bool = False, depthwise_bias: bool | None = None, conv_size: int | None = None,
    conv_norm: ConvolutionNorm = "batch", conv_linear: bool = False, norm_bias: bool = True, extra: Tensors = (),
    kv_fused: str = "",
) -> Layer:  # fmt: skip
    """Return one conformer layer.

    Parameters
    ----------
    kernel
        Frames that the convolution over time sees.
    conv_size
        Width inside the convolution module, the hidden one where it is None.
    conv_linear
        Whether its matrices are linear layers rather than convolutions one frame wide.
    extra
        Further tensors of attention: relative positions.
    kv_fused
        Path of one matrix for keys and values.
    """
    inner, dim = conv_size or hidden_size, head_dim or hidden_size // num_heads
    attention = parts.attention(
        hidden_size=hidden_size, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=dim, name=names.attention,
        q=names.q, k=names.k, v=names.v, o=names.o, bias=bias, o_bias=o_bias, extra=extra, scope="encoder",
    )  # fmt: skip
    if kv_fused:
        both = parts.linear(kv_fused, 2 * num_heads * dim, hidden_size, role="attention", slot="kv")
        others = tuple(tensor for tensor in attention.tensors if tensor.slot not in ("k", "v"))
        attention = replace(attention, tensors=(*others, *both))
    halves = [
        parts.mlp(
            hidden_size=hidden_size, intermediate_size=intermediate_size, gated=False, bias=mlp_bias, name=name,
            up=names.up, down=names.down,
        )
        for name in (names.first, names.second)
    ]  # fmt: skip
    if conv_linear:
        wide = parts.linear(names.expand, 2 * inner, hidden_size, bias=conv_bias, role="convolution")
        narrow = parts.linear(names.contract, hidden_size, inner, bias=conv_bias, role="convolution")
    else:
        wide = parts.conv(names.expand, 2 * inner, hidden_size, 1, bias=conv_bias)
        narrow = parts.conv(names.contract, hidden_size, inner, 1, bias=conv_bias)
    normed = (
        parts.batch_norm(names.inner_norm, inner)
        if conv_norm == "batch"
        else parts.norm(names.inner_norm, inner, bias=True)
    )
    return Layer(
        (halves[0], attention, halves[1]),
        (
            *wide,
            *parts.conv(
                names.depthwise, inner, 1, kernel, bias=conv_bias if depthwise_bias is None else depthwise_bias
            ),
            *normed,
            *narrow,
            *(tensor for name in names.norms for tensor in parts.norm(name, hidden_size, bias=norm_bias)),
        ),
    )


# -- wav2vec 2.0 with conformer layers ---------------------------------------------------------------------------


def relative_positions(
    kind: str | None, *, hidden_size: int, num_heads: int, reach: int = 0, name: str = "self_attn"
) -> Tensors:
    """Return what attention holds for relative positions: biases and a projection, a table of distances, or nothing."""
    dim = hidden_size // num_heads
    if kind == "relative":
        return (
            *parts.parameter(f"{name}.pos_bias_u", num_heads, dim, role="attention"),
            *parts.parameter(f"{name}.pos_bias_v", num_heads, dim, role="attention"),
            *parts.linear(f"{name}.linear_pos", hidden_size, hidden_size, role="attention"),
        )
    if kind == "relative_key":
        return (Tensor(f"{name}.distance_embedding.weight", (reach, dim), "attention", "position"),)
    return ()


def _w2v_layer(cfg: Config, *, conv_norm: ConvolutionNorm, reach: int = 0) -> Layer:
    heads, dim = even_heads(cfg)
    kind = cfg.text("position_embeddings_type", None)
    if kind == "relative_key" and not reach:
        kind = None  # no table in the class that has no bounds for it
    names = W2V_NAMES
    if conv_norm == "layer":
        names = replace(names, inner_norm="conv_module.depthwise_layer_norm")
    return conformer_layer(
        names, hidden_size=cfg.hidden_size, intermediate_size=cfg.integer("intermediate_size"), num_heads=heads,
        head_dim=dim, kernel=cfg.integer("conv_depthwise_kernel_size"), conv_norm=conv_norm,
        extra=relative_positions(kind, hidden_size=cfg.hidden_size, num_heads=heads, reach=reach),
    )  # fmt: skip


@tower("wav2vec2-conformer", base="wav2vec2_conformer", heads=speech_heads(contrastive))
def wav2vec2_conformer(cfg: Config, prefix: str) -> Component:
    """wav2vec 2.0 whose layers are conformers."""
    layer = _w2v_layer(cfg, conv_norm="batch")
    rotary: Tensors = ()
    if cfg.text("position_embeddings_type", None) == "rotary":
        rotary = parts.buffer("encoder.embed_positions.inv_freq", even_heads(cfg)[1] // 2)
    return speech_model(cfg, prefix, layers=(layer,) * cfg.num_layers, extra=rotary)


def strided_adapter_layer(index: int, *, width: int, inner: int, kernel: int, name: str = "adapter.layers") -> Tensors:
    """Return one layer that shortens W2v-BERT's output: convolutions, attention, perceptron."""
    layer = f"{name}.{index}"
    attention = [
        tensor
        for slot in ("q", "k", "v", "out")
        for tensor in parts.linear(
            f"{layer}.self_attn.linear_{slot}", width, width, bias=True, role="attention", slot=slot[0]
        )
    ]
    feed = parts.mlp(
        hidden_size=width, intermediate_size=inner, gated=False, bias=True, name=f"{layer}.ffn", up="intermediate_dense",
        down="output_dense",
    )  # fmt: skip
    return (
        *parts.norm(f"{layer}.residual_layer_norm", width, bias=True),
        *parts.conv(f"{layer}.residual_conv", 2 * width, width, kernel),
        *parts.norm(f"{layer}.self_attn_layer_norm", width, bias=True),
        *parts.conv(f"{layer}.self_attn_conv", 2 * width, width, kernel),
        *attention,
        *parts.norm(f"{layer}.ffn_layer_norm", width, bias=True),
        *feed.tensors,
    )


@tower("wav2vec2-bert", base="wav2vec2_bert", heads=speech_heads())
def wav2vec2_bert(cfg: Config, prefix: str) -> Component:
    """W2v-BERT 2.0 [4]_: two mel columns stacked into a frame, conformer layers with a table of distances."""
    hidden, inner = cfg.hidden_size, cfg.integer("intermediate_size")
    width, features = output_size(cfg), cfg.integer("feature_projection_input_dim")
    reach = cfg.integer("left_max_position_embeddings") + cfg.integer("right_max_position_embeddings") + 1
    tensors = (
        *mask_vector(cfg),
        *parts.norm("feature_projection.layer_norm", features, bias=True),
        *parts.linear("feature_projection.projection", hidden, features, bias=True, role="projector"),
    )
    if cfg.flag("use_intermediate_ffn_before_adapter"):
        tensors += parts.mlp(
            hidden_size=hidden, intermediate_size=inner, gated=False, bias=True, name="intermediate_ffn",
            up="intermediate_dense", down="output_dense",
        ).tensors  # fmt: skip
    if cfg.flag("add_adapter"):
        if width != hidden:
            tensors += parts.linear("adapter.proj", width, hidden, bias=True, role="projector")
            tensors += parts.norm("adapter.proj_layer_norm", width, bias=True)
        for index in range(cfg.layers("num_adapter_layers")):
            tensors += strided_adapter_layer(index, width=width, inner=inner, kernel=cfg.integer("adapter_kernel_size"))
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(_w2v_layer(cfg, conv_norm="layer", reach=reach),) * cfg.num_layers,
        tensors=tensors,
        prefix=prefix,
        layers_prefix=joined(prefix, "encoder.layers"),
        audio=AudioInput(MEL_RATE, features // 2, stride=2),
    )


# -- Parakeet and what was built on it ----------------------------------------------------------------------------


def plane_convolutions(cfg: Config) -> tuple[Tensors, tuple[Convolution, ...]]:
    """Return Fast Conformer's convolutions over time and frequency [2]_; each halves both."""
    channels, kernel = cfg.integer("subsampling_conv_channels"), cfg.integer("subsampling_conv_kernel_size")
    stride, count = cfg.integer("subsampling_conv_stride"), _halvings(cfg)
    tensors = parts.conv("subsampling.layers.0", channels, 1, kernel, kernel)
    for index in range(count - 1):
        tensors += parts.conv(f"subsampling.layers.{3 * index + 2}", channels, 1, kernel, kernel)
        tensors += parts.conv(f"subsampling.layers.{3 * index + 3}", channels, channels, 1, 1)
    bins = cfg.integer("num_mel_bins") // stride**count
    tensors += parts.linear("subsampling.linear", cfg.hidden_size, channels * bins, bias=True, role="convolution")
    return tensors, (Convolution(channels, kernel, stride, 2 * ((kernel - 1) // 2)),) * count


def _halvings(cfg: Config) -> int:
    """Return how often the columns are halved."""
    factor = int(cfg.integer("subsampling_factor", 8))
    return factor.bit_length() - 1


def _parakeet_layer(
    cfg: Config, *, relative: bool = True, conv_norm: ConvolutionNorm = "batch", norm_bias: bool = True
) -> Layer:
    heads = cfg.num_heads
    dim = cfg.integer("head_dim", cfg.hidden_size // heads)
    bias = cfg.flag("attention_bias")
    positions: Tensors = ()
    if relative:
        positions = (
            *parts.parameter("self_attn.bias_u", heads, dim, role="attention"),
            *parts.parameter("self_attn.bias_v", heads, dim, role="attention"),
            *parts.linear("self_attn.relative_k_proj", heads * dim, cfg.hidden_size, role="attention"),
        )
    return conformer_layer(
        Names(), hidden_size=cfg.hidden_size, intermediate_size=cfg.integer("intermediate_size"), num_heads=heads,
        num_kv_heads=cfg.num_kv_heads, head_dim=dim, kernel=cfg.integer("conv_kernel_size"), bias=bias, mlp_bias=bias,
        conv_bias=cfg.flag("convolution_bias"), conv_norm=conv_norm, norm_bias=norm_bias, extra=positions,
    )  # fmt: skip


def _spectral(cfg: Config, prefix: str, layer: Layer, front: tuple[Tensors, tuple[Convolution, ...]]) -> Component:
    tensors, convolutions = front
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=cfg.hidden_size,
        layers=(layer,) * cfg.num_layers,
        tensors=tensors,
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        audio=AudioInput(MEL_RATE, cfg.integer("num_mel_bins"), convolutions),
    )


@tower("parakeet_encoder", base="")
def parakeet_encoder(cfg: Config, prefix: str) -> Component:
    """Fast Conformer [2]_: eight columns become one frame."""
    return _spectral(cfg, prefix, _parakeet_layer(cfg), plane_convolutions(cfg))


@tower("nemotron_asr_streaming_encoder", base="")
def nemotron_asr_streaming_encoder(cfg: Config, prefix: str) -> Component:
    """Fast Conformer for streams: causal convolutions padded on the left, norms that need no statistics."""
    channels, kernel = cfg.integer("subsampling_conv_channels"), cfg.integer("subsampling_conv_kernel_size")
    stride, count = cfg.integer("subsampling_conv_stride"), _halvings(cfg)
    tensors = parts.conv("subsampling.conv_in", channels, 1, kernel, kernel)
    bins = cfg.integer("num_mel_bins")
    for _ in range(count):
        bins = (bins + kernel - 1 + stride - 1 - kernel) // stride + 1
    for index in range(count - 1):
        tensors += parts.conv(f"subsampling.layers.{index}.depthwise_conv", channels, 1, kernel, kernel)
        tensors += parts.conv(f"subsampling.layers.{index}.pointwise_conv", channels, channels, 1, 1)
    tensors += parts.linear("subsampling.linear", cfg.hidden_size, channels * bins, bias=True, role="convolution")
    convolutions = (Convolution(channels, kernel, stride, kernel + stride - 2),) * count
    return _spectral(cfg, prefix, _parakeet_layer(cfg, conv_norm="layer"), (tensors, convolutions))


@tower("lasr_encoder", base="")
def lasr_encoder(cfg: Config, prefix: str) -> Component:
    """LASR's conformer: rotary positions, two strided convolutions over time."""
    hidden, channels = cfg.hidden_size, cfg.integer("subsampling_conv_channels")
    kernel, stride = cfg.integer("subsampling_conv_kernel_size"), cfg.integer("subsampling_conv_stride")
    tensors = (
        *parts.linear("subsampler.dense_0", hidden, cfg.integer("num_mel_bins"), bias=True, role="convolution"),
        *parts.conv("subsampler.conv_0", hidden, hidden, kernel),
        *parts.conv("subsampler.conv_1", channels, hidden, kernel),
        *parts.linear("subsampler.dense_1", hidden, channels, bias=True, role="convolution"),
        *parts.norm("out_norm", hidden),
    )
    layer = _parakeet_layer(cfg, relative=False, norm_bias=False)
    return _spectral(
        cfg, prefix, layer, (tensors, (Convolution(hidden, kernel, stride), Convolution(channels, kernel, stride)))
    )


# -- Granite -------------------------------------------------------------------------------------------------------

GRANITE_NAMES = Names(
    first="ff1", second="ff2", up="up_proj", down="down_proj", attention="attn", q="to_q", o="to_out",
    norms=("ff1.pre_norm", "attn.pre_norm", "conv.norm", "ff2.pre_norm", "post_norm"), expand="conv.up_conv",
    depthwise="conv.depth_conv.conv", contract="conv.down_conv", inner_norm="conv.batch_norm",
)  # fmt: skip


@tower("granite_speech_encoder", "granite_speech_plus_encoder", base="")
def granite_speech_encoder(cfg: Config, prefix: str) -> Component:
    """Granite Speech's conformer [3]_: stacked columns, attention in blocks, a CTC head fed back half way."""
    hidden, labels = cfg.integer("hidden_dim"), cfg.integer("output_dim")
    heads = cfg.integer("num_heads")
    dim = cfg.integer("dim_head", hidden // heads)
    table = Tensor("attn.rel_pos_emb.weight", (2 * cfg.integer("max_pos_emb") + 1, dim), "attention", "position")
    layer = conformer_layer(
        GRANITE_NAMES, hidden_size=hidden, intermediate_size=hidden * cfg.integer("feedforward_mult"), num_heads=heads,
        head_dim=dim, kernel=cfg.integer("conv_kernel_size"), bias=False, o_bias=True, conv_bias=True,
        depthwise_bias=False, conv_size=hidden * cfg.integer("conv_expansion_factor"), extra=(table,), kv_fused="attn.to_kv",
    )  # fmt: skip
    tensors = (
        *parts.linear("input_linear", hidden, cfg.integer("input_dim"), bias=True, role="projector"),
        *parts.linear("out", labels, hidden, bias=True, role="head"),
        *parts.linear("out_mid", hidden, labels, bias=True, role="head"),
    )
    return Component(
        kind="audio",
        name="encoder",
        hidden_size=hidden,
        layers=(layer,) * cfg.layers("num_layers"),
        tensors=tensors,
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        audio=AudioInput(MEL_RATE, cfg.integer("input_dim") // 2, stride=2),
    )


@tower("granite_speech5_encoder", base="")
def granite_speech5_encoder(cfg: Config, prefix: str) -> Component:
    """Conformer of the fifth Granite Speech: linear layers where others have convolutions one frame wide."""
    hidden, labels, heads = cfg.hidden_size, cfg.vocab_size, cfg.num_heads
    dim = cfg.integer("head_dim", hidden // heads)
    rows = 2 * cfg.integer("max_position_embeddings") + 1
    table = Tensor("self_attn.rel_pos_emb.weight", (rows, dim), "attention", "position")
    bias = cfg.flag("attention_bias")
    layer = conformer_layer(
        Names(expand="conv.pointwise_lin1", contract="conv.pointwise_lin2"), hidden_size=hidden, num_heads=heads, head_dim=dim,
        intermediate_size=cfg.integer("intermediate_size"), kernel=cfg.integer("conv_kernel_size"),
        bias=False, o_bias=True, mlp_bias=bias, conv_bias=True, depthwise_bias=False, conv_linear=True,
        conv_size=hidden * cfg.integer("conv_expansion_factor"), extra=(table,),
    )  # fmt: skip
    features = 4 * cfg.integer("num_mel_bins")
    tensors = (
        *parts.linear("input_linear", hidden, features, bias=True, role="projector"),
        *parts.linear("out", labels, hidden, bias=True, role="head"),
        *parts.linear("out_mid", hidden, labels, bias=True, role="head"),
    )
    return _spectral(cfg, prefix, layer, (tensors, ()))


__all__ = ["conformer_layer", "plane_convolutions", "relative_positions", "strided_adapter_layer"]
