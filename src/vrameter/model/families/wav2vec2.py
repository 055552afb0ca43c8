"""wav2vec 2.0 [1]_ and the encoders that keep its shape: convolutions over a waveform, then a transformer.

References
----------
.. [1] A. Baevski et al., "wav2vec 2.0", 2020, arXiv:2006.11477.
.. [2] W.-N. Hsu et al., "HuBERT", 2021, arXiv:2106.07447.
.. [3] S. Chen et al., "WavLM", 2021, arXiv:2110.13900.
.. [4] C. Wang et al., "UniSpeech", 2021, arXiv:2101.07597; S. Chen et al., "UniSpeech-SAT", 2021, arXiv:2110.05752.
.. [5] A. Baevski et al., "data2vec", 2022, arXiv:2202.03555.
.. [6] F. Wu et al., "Performance-Efficiency Trade-offs in Unsupervised Pre-training for Speech Recognition", 2021,
       arXiv:2109.06870 (SEW and SEW-D).
"""

from __future__ import annotations

from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Layer, Tensor, Tensors, joined
from vrameter.model.audio_input import AudioInput, Convolution
from vrameter.model.config import Config
from vrameter.model.families.bert import even_heads
from vrameter.model.families.encoder_heads import linear
from vrameter.model.families.listeners import SAMPLE_RATE
from vrameter.model.families.lists import filled, several
from vrameter.model.families.registry import tower
from vrameter.model.families.speech_heads import contrastive, output_size, quantizer, speech_heads


def waveform_convolutions(
    cfg: Config, *, norms: str | None = None, name: str = "feature_extractor"
) -> tuple[Tensors, tuple[Convolution, ...]]:
    """Return the convolutions over a waveform: their tensors, and what each makes of a number of samples.

    `norms` says which have one, ``group`` the first and ``layer`` all; the config does where it is None.
    """
    widths, kernels, strides = several(cfg, "conv_dim", "conv_kernel", "conv_stride")
    kind = norms or cfg.text("feat_extract_norm")
    tensors: Tensors = ()
    for index, (width, kernel) in enumerate(zip(widths, kernels, strict=True)):
        inputs, layer = widths[index - 1] if index else 1, f"{name}.conv_layers.{index}"
        tensors += parts.conv(f"{layer}.conv", width, inputs, kernel, bias=cfg.flag("conv_bias"))
        if kind == "layer" or index == 0:
            tensors += parts.norm(f"{layer}.layer_norm", width, bias=True)
    return tensors, tuple(map(Convolution, widths, kernels, strides))


def weight_normed(name: str, *shape: int, dim: int = 0, bias: bool = True, outputs: int = 0) -> Tensors:
    """Return a convolution whose kernel is stored as a length and a direction; `outputs` of a transposed one."""
    lengths = tuple(size if axis == dim else 1 for axis, size in enumerate(shape))
    return (
        *(parts.parameter(f"{name}.bias", outputs or shape[0], role="convolution") if bias else ()),
        *parts.parameter(f"{name}.parametrizations.weight.original0", *lengths, role="convolution"),
        *parts.parameter(f"{name}.parametrizations.weight.original1", *shape, role="convolution"),
    )


def position_convolution(cfg: Config, name: str = "encoder.pos_conv_embed") -> Tensors:
    """Return the one wide convolution that tells where a frame stands."""
    hidden, groups = cfg.hidden_size, cfg.integer("num_conv_pos_embedding_groups")
    kernel = cfg.integer("num_conv_pos_embeddings")
    if cfg.flag("conv_pos_batch_norm"):
        return (
            *parts.conv(f"{name}.conv", hidden, hidden // groups, kernel),
            *parts.batch_norm(f"{name}.batch_norm", hidden),
        )
    return weight_normed(f"{name}.conv", hidden, hidden // groups, kernel, dim=2)


def mask_vector(cfg: Config) -> Tensors:
    """Return the vector that stands for masked frames, where the config masks any."""
    masks = cfg.number("mask_time_prob", 0.05) > 0 or cfg.number("mask_feature_prob", 0.0) > 0
    return parts.parameter("masked_spec_embed", cfg.hidden_size) if masks else ()


def speech_attention(cfg: Config, *, extra: Tensors = ()) -> Attention:
    """Return the attention of a speech encoder, under the names that the line shares."""
    heads, dim = even_heads(cfg)
    return parts.attention(
        hidden_size=cfg.hidden_size, num_heads=heads, head_dim=dim, name="attention", o="out_proj", bias=True, extra=extra,
        scope="encoder",
    )  # fmt: skip


def speech_layer(cfg: Config, *, attention: Attention | None = None) -> Layer:
    """Return one layer: attention, norm, perceptron, norm; and a small adapter in checkpoints of many languages."""
    hidden, adapter = cfg.hidden_size, cfg.integer("adapter_attn_dim", None)
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True, name="feed_forward",
        up="intermediate_dense", down="output_dense",
    )  # fmt: skip
    tensors = (*parts.norm("layer_norm", hidden, bias=True), *parts.norm("final_layer_norm", hidden, bias=True))
    if adapter and cfg.flag("do_stable_layer_norm"):
        tensors += (
            *parts.norm("adapter_layer.norm", hidden, bias=True),
            *parts.linear("adapter_layer.linear_1", adapter, hidden, bias=True),
            *parts.linear("adapter_layer.linear_2", hidden, adapter, bias=True),
        )
    return Layer((attention or speech_attention(cfg), feed), tensors)


def length_adapter(cfg: Config) -> tuple[Tensors, tuple[Convolution, ...]]:
    """Return the strided convolutions that shorten the output, and a projection before them."""
    if not cfg.flag("add_adapter"):
        return (), ()
    hidden, width = cfg.hidden_size, output_size(cfg)
    kernel, stride = cfg.integer("adapter_kernel_size"), cfg.integer("adapter_stride")
    tensors: Tensors = ()
    if width != hidden:
        tensors += parts.linear("adapter.proj", width, hidden, bias=True, role="projector")
        tensors += parts.norm("adapter.proj_layer_norm", width, bias=True)
    count = cfg.layers("num_adapter_layers")
    for index in range(count):
        tensors += parts.conv(f"adapter.layers.{index}.conv", 2 * width, width, kernel)
    return tensors, (Convolution(width, kernel, stride, 2),) * count


def speech_model(
    cfg: Config, prefix: str, *, norms: str | None = None, positions: Tensors | None = None, projection: Tensors | None = None,
    layers: tuple[Layer, ...] | None = None, layers_name: str = "encoder.layers", final_norm: str = "encoder.layer_norm",
    extra: Tensors = (), stride: int = 1,
) -> Component:  # fmt: skip
    """Return an encoder of wav2vec 2.0's shape.

    Parameters
    ----------
    norms
        Which convolutions have a norm, where the config does not say.
    positions, projection
        What tells positions, and what brings the convolutions' width to the hidden one, where they are not the line's.
    stride
        Frames that are pooled into one before the layers.
    """
    hidden, width = cfg.hidden_size, filled(cfg, "conv_dim")[-1]
    front, convolutions = waveform_convolutions(cfg, norms=norms)
    if projection is None:
        projection = (
            *(parts.norm("feature_projection.layer_norm", width, bias=True) if cfg.flag("feat_proj_layer_norm", True) else ()),
            *parts.linear("feature_projection.projection", hidden, width, bias=True, role="projector"),
        )  # fmt: skip
    adapter, _ = length_adapter(cfg)
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=layers or (speech_layer(cfg),) * cfg.num_layers,
        tensors=(
            *mask_vector(cfg),
            *front,
            *projection,
            *(position_convolution(cfg) if positions is None else positions),
            *(parts.norm(final_norm, hidden, bias=True) if final_norm else ()),
            *extra,
            *adapter,
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, layers_name),
        audio=AudioInput(SAMPLE_RATE, 1, convolutions, stride=stride),
    )


@tower("wav2vec2", base="wav2vec2", heads=speech_heads(contrastive))
def wav2vec2(cfg: Config, prefix: str) -> Component:
    """wav2vec 2.0 [1]_."""
    return speech_model(cfg, prefix)


@tower("hubert", base="hubert", heads=speech_heads())
def hubert(cfg: Config, prefix: str) -> Component:
    """HuBERT [2]_."""
    return speech_model(cfg, prefix)


def _unispeech_head(cfg: Config) -> Tensors:
    width = cfg.integer("proj_codevector_dim")
    return (
        *quantizer(cfg, filled(cfg, "conv_dim")[-1]),
        *linear("project_q", width, cfg.integer("codevector_dim")),
        *linear("project_hid", cfg.hidden_size, width),
        *linear("ctc_proj", cfg.integer("num_ctc_classes", 80), cfg.hidden_size),
    )


@tower("unispeech", base="unispeech", heads=speech_heads(_unispeech_head))
def unispeech(cfg: Config, prefix: str) -> Component:
    """UniSpeech [4]_."""
    return speech_model(cfg, prefix)


def _speaker_aware_head(cfg: Config) -> Tensors:
    hidden, width = cfg.hidden_size, cfg.integer("codevector_dim")
    return (
        *parts.parameter("label_embeddings_concat", cfg.integer("num_clusters"), width, role="head"),
        *quantizer(cfg, hidden),
        *linear("project_q", cfg.integer("proj_codevector_dim"), width),
        *linear("project_hid", cfg.integer("proj_codevector_dim"), hidden),
        *linear("speaker_proj", width, hidden),
        *parts.norm("layer_norm_for_extract", hidden, bias=True),
    )


@tower("unispeech-sat", base="unispeech_sat", heads=speech_heads(_speaker_aware_head))
def unispeech_sat(cfg: Config, prefix: str) -> Component:
    """UniSpeech-SAT [4]_."""
    return speech_model(cfg, prefix)


@tower("wavlm", base="wavlm", heads=speech_heads())
def wavlm(cfg: Config, prefix: str) -> Component:
    """WavLM [3]_: relative positions by a gated bias; the first layer holds the table."""
    heads, dim = even_heads(cfg)

    def layer(first: bool) -> Layer:
        gate = (
            *parts.parameter("attention.gru_rel_pos_const", 1, heads, 1, 1, role="attention"),
            *parts.linear("attention.gru_rel_pos_linear", 8, dim, bias=True, role="attention"),
        )
        if first:
            gate += (
                Tensor("attention.rel_attn_embed.weight", (cfg.integer("num_buckets"), heads), "attention", "position"),
            )  # fmt: skip
        return speech_layer(cfg, attention=speech_attention(cfg, extra=gate))

    return speech_model(cfg, prefix, layers=(layer(True), *(layer(False),) * (cfg.num_layers - 1)))


@tower("data2vec-audio", base="data2vec_audio", heads=speech_heads())
def data2vec_audio(cfg: Config, prefix: str) -> Component:
    """data2vec for sound [5]_: norms after every convolution, a stack of narrow ones for positions."""
    hidden, groups = cfg.hidden_size, cfg.integer("num_conv_pos_embedding_groups")
    kernel = cfg.integer("conv_pos_kernel_size")
    positions = [
        tensor
        for index in range(cfg.layers("num_conv_pos_embeddings"))
        for tensor in parts.conv(f"encoder.pos_conv_embed.layers.{index}.conv", hidden, hidden // groups, kernel)
    ]
    return speech_model(cfg, prefix, norms="layer", positions=tuple(positions))


def _squeezed(cfg: Config) -> dict[str, Any]:
    hidden, width, squeeze = cfg.hidden_size, filled(cfg, "conv_dim")[-1], cfg.integer("squeeze_factor", 2)
    projection = parts.norm("layer_norm", width, bias=True)
    if width != hidden:
        projection += parts.linear("feature_projection", hidden, width, bias=True, role="projector")
    upsample = parts.linear("encoder.upsample.projection", hidden * squeeze, hidden, bias=True, role="projector")
    return {"projection": projection, "extra": upsample, "stride": squeeze}


@tower("sew", base="sew", heads=speech_heads())
def sew(cfg: Config, prefix: str) -> Component:
    """SEW [6]_: more convolutions, frames pooled before the layers and spread out after them."""
    return speech_model(cfg, prefix, **_squeezed(cfg))


@tower("sew-d", base="sew_d", heads=speech_heads())
def sew_d(cfg: Config, prefix: str) -> Component:
    """SEW-D [6]_: the same with DeBERTa's layers."""
    hidden, (heads, dim) = cfg.hidden_size, even_heads(cfg)
    relative, name = cfg.flag("relative_attention"), "attention.self"
    kinds = cfg.sequence("pos_att_type", [])
    positions: Tensors = ()
    if relative and not cfg.flag("share_att_key"):
        for kind, module in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
            if kind in kinds:
                positions += parts.linear(f"{name}.{module}", hidden, hidden, bias=True, role="attention")
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, head_dim=dim, name="attention", q="self.query_proj", k="self.key_proj",
        v="self.value_proj", o="output.dense", bias=True, extra=positions, scope="encoder",
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True, name="",
        up="intermediate.dense", down="output.dense",
    )  # fmt: skip
    norms = (
        *parts.norm("attention.output.LayerNorm", hidden, bias=True),
        *parts.norm("output.LayerNorm", hidden, bias=True),
    )
    given = _squeezed(cfg)
    if relative:
        buckets = cfg.integer("position_buckets", -1, least=-1)
        reach = cfg.integer("max_relative_positions", -1, least=-1)
        rows = 2 * (buckets if buckets > 0 else reach if reach > 0 else cfg.integer("max_position_embeddings"))
        given["extra"] += parts.embedding("encoder.encoder.rel_embeddings", rows, hidden, slot="position")
        if "layer_norm" in cfg.text("norm_rel_ebd", "none"):
            given["extra"] += parts.norm("encoder.encoder.LayerNorm", hidden, bias=True)
    return speech_model(
        cfg, prefix, layers=(Layer((attention, feed), norms),) * cfg.num_layers, layers_name="encoder.encoder.layer",
        final_norm="", **given,
    )  # fmt: skip


__all__ = [
    "length_adapter",
    "mask_vector",
    "position_convolution",
    "speech_model",
    "waveform_convolutions",
    "weight_normed",
]
