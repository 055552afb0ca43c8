"""Text to speech: VITS [1]_, SpeechT5 [2]_, FastSpeech 2 with conformers [3]_.

References
----------
.. [1] J. Kim et al., "Conditional Variational Autoencoder with Adversarial Learning for End-to-End Text-to-Speech", 2021,
       arXiv:2106.06103; V. Pratap et al., "Scaling Speech Technology to 1,000+ Languages", 2023, arXiv:2305.13516 (MMS).
.. [2] J. Ao et al., "SpeechT5", 2021, arXiv:2110.07205.
.. [3] Y. Ren et al., "FastSpeech 2", 2020, arXiv:2006.04558; P. Guo et al., arXiv:2010.13956 (ESPnet).
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Tensor, Tensors, joined
from vrameter.model.audio_input import AudioInput
from vrameter.model.config import Config
from vrameter.model.families.bert import even_heads
from vrameter.model.families.conformer import relative_positions
from vrameter.model.families.encoder_decoder import Style, language_head, side
from vrameter.model.families.encoder_heads import linear, task_of
from vrameter.model.families.listeners import SAMPLE_RATE
from vrameter.model.families.lists import filled
from vrameter.model.families.registry import Built, Components, model, tower
from vrameter.model.families.vocoders import hifi_gan
from vrameter.model.families.wav2vec2 import (
    mask_vector,
    position_convolution,
    speech_layer,
    waveform_convolutions,
    weight_normed,
)


def _bag(name: str, hidden: int, tensors: Tensors, prefix: str = "") -> Component:
    return Component(kind="other", name=name, hidden_size=hidden, tensors=tensors, prefix=prefix)


# -- VITS --------------------------------------------------------------------------------------------------------------


def _wavenet(cfg: Config, name: str, count: int) -> Tensors:
    hidden, speaker = cfg.hidden_size, cfg.integer("speaker_embedding_size", least=0)
    tensors: Tensors = ()
    if speaker:
        tensors += weight_normed(f"{name}.cond_layer", 2 * hidden * count, speaker, 1)
    for index in range(count):
        tensors += weight_normed(f"{name}.in_layers.{index}", 2 * hidden, hidden, cfg.integer("wavenet_kernel_size"))
        width = hidden if index == count - 1 else 2 * hidden
        tensors += weight_normed(f"{name}.res_skip_layers.{index}", width, hidden, 1)
    return tensors


def _separable(cfg: Config, name: str) -> Tensors:
    hidden, kernel = cfg.hidden_size, cfg.integer("duration_predictor_kernel_size")
    return tuple(
        tensor
        for index in range(cfg.layers("depth_separable_num_layers"))
        for tensor in (
            *parts.conv(f"{name}.convs_dilated.{index}", hidden, 1, kernel),
            *parts.conv(f"{name}.convs_pointwise.{index}", hidden, hidden, 1),
            *parts.norm(f"{name}.norms_1.{index}", hidden, bias=True),
            *parts.norm(f"{name}.norms_2.{index}", hidden, bias=True),
        )
    )


def _durations(cfg: Config) -> Tensors:
    hidden, speaker = cfg.hidden_size, cfg.integer("speaker_embedding_size", least=0)
    if not cfg.flag("use_stochastic_duration_prediction", True):
        width, kernel = cfg.integer("duration_predictor_filter_channels"), cfg.integer("duration_predictor_kernel_size")
        return (
            *parts.conv("conv_1", width, hidden, kernel),
            *parts.norm("norm_1", width, bias=True),
            *parts.conv("conv_2", width, width, kernel),
            *parts.norm("norm_2", width, bias=True),
            *parts.conv("proj", 1, width, 1),
            *(parts.conv("cond", hidden, speaker, 1) if speaker else ()),
        )
    channels = cfg.integer("depth_separable_channels")
    half, bins = channels // 2, cfg.integer("duration_predictor_flow_bins")
    tensors: Tensors = parts.conv("cond", hidden, speaker, 1) if speaker else ()
    for side_name, inputs in (("", hidden), ("post_", 1)):
        tensors += parts.conv(f"{side_name}conv_pre", hidden, inputs, 1)
        tensors += parts.conv(f"{side_name}conv_proj", hidden, hidden, 1)
        tensors += _separable(cfg, f"{side_name}conv_dds")
        flows = f"{side_name}flows"
        tensors += parts.parameter(f"{flows}.0.translate", channels, 1)
        tensors += parts.parameter(f"{flows}.0.log_scale", channels, 1)
        for index in range(1, cfg.layers("duration_predictor_num_flows") + 1):
            tensors += parts.conv(f"{flows}.{index}.conv_pre", hidden, half, 1)
            tensors += _separable(cfg, f"{flows}.{index}.conv_dds")
            tensors += parts.conv(f"{flows}.{index}.conv_proj", half * (3 * bins - 1), hidden, 1)
    return tensors


def _vits_layer(cfg: Config) -> Layer:
    hidden, (heads, dim) = cfg.hidden_size, even_heads(cfg)
    reach = cfg.integer("window_size", 0, least=0)
    positions: Tensors = ()
    if reach:
        for slot in ("k", "v"):
            positions += parts.parameter(f"attention.emb_rel_{slot}", 1, 2 * reach + 1, dim, role="attention")
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, head_dim=dim, name="attention", o="out_proj", bias=cfg.flag("use_bias", True),
        extra=positions, scope="encoder",
    )  # fmt: skip
    inner, kernel = cfg.integer("ffn_dim"), cfg.integer("ffn_kernel_size")
    feed = FeedForward(
        parts.with_role(
            "mlp",
            (
                *parts.conv("feed_forward.conv_1", inner, hidden, kernel),
                *parts.conv("feed_forward.conv_2", hidden, inner, kernel),
            ),
        ),
        inner,
        gated=False,
    )
    norms = (*parts.norm("layer_norm", hidden, bias=True), *parts.norm("final_layer_norm", hidden, bias=True))
    return Layer((attention, feed), norms)


@tower("vits", base="")
def vits(cfg: Config, prefix: str) -> Components:
    """VITS [1]_: a text encoder, flows, a predictor of durations, a vocoder; and an encoder of spectra for training."""
    hidden, flow, speaker = cfg.hidden_size, cfg.integer("flow_size"), cfg.integer("speaker_embedding_size", least=0)
    encoder = Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(_vits_layer(cfg),) * cfg.num_layers,
        tensors=(*parts.embedding("embed_tokens", cfg.vocab_size, hidden), *parts.conv("project", 2 * flow, hidden, 1)),
        prefix=joined(prefix, "text_encoder"),
        layers_prefix=joined(prefix, "text_encoder.encoder.layers"),
        vocab_size=cfg.vocab_size,
    )
    flows = [
        tensor
        for index in range(cfg.layers("prior_encoder_num_flows"))
        for tensor in (
            *parts.conv(f"flows.{index}.conv_pre", hidden, flow // 2, 1),
            *_wavenet(cfg, f"flows.{index}.wavenet", cfg.layers("prior_encoder_num_wavenet_layers")),
            *parts.conv(f"flows.{index}.conv_post", flow // 2, hidden, 1),
        )
    ]
    spectra = (
        *parts.conv("conv_pre", hidden, cfg.integer("spectrogram_bins"), 1),
        *_wavenet(cfg, "wavenet", cfg.layers("posterior_encoder_num_wavenet_layers")),
        *parts.conv("conv_proj", 2 * flow, hidden, 1),
    )
    voice = hifi_gan(cfg, flow, post_bias=False)
    if speaker:
        voice += parts.conv("cond", cfg.integer("upsample_initial_channel"), speaker, 1)
    speakers = cfg.integer("num_speakers")
    components: Components = (
        encoder,
        _bag("flow", hidden, tuple(flows), joined(prefix, "flow")),
        _bag("vocoder", hidden, voice, joined(prefix, "decoder")),
        _bag("durations", hidden, _durations(cfg), joined(prefix, "duration_predictor")),
        _bag("posterior", hidden, spectra, joined(prefix, "posterior_encoder")),
    )
    if speakers > 1:
        components += (
            _bag("speakers", hidden, parts.embedding("embed_speaker", speakers, speaker, slot="other"), prefix),
        )
    return components


# -- SpeechT5 ----------------------------------------------------------------------------------------------------------


def _speech_encoder(cfg: Config, prefix: str, *, hears: bool, reads: bool) -> Component:
    hidden, (heads, dim) = cfg.hidden_size, even_heads(cfg)
    tensors = (
        *parts.norm("wrapped_encoder.layer_norm", hidden, bias=True),
        Tensor(
            "wrapped_encoder.embed_positions.pe_k.weight", (2 * cfg.integer("encoder_max_relative_position"), dim),
            "embedding", "position",
        ),
    )  # fmt: skip
    audio = None
    if hears:
        front, convolutions = waveform_convolutions(cfg, name="feature_encoder")
        width = filled(cfg, "conv_dim")[-1]
        tensors += parts.below(
            "prenet",
            (
                *mask_vector(cfg),
                *front,
                *parts.norm("feature_projection.layer_norm", width, bias=True),
                *parts.linear("feature_projection.projection", hidden, width, bias=True, role="projector"),
                *position_convolution(cfg, "pos_conv_embed"),
            ),
        )
        audio = AudioInput(SAMPLE_RATE, 1, convolutions)
    if reads:
        tensors += parts.embedding("prenet.embed_tokens", cfg.vocab_size, hidden)
        tensors += parts.parameter("prenet.encode_positions.alpha")
    own = cfg.over(num_attention_heads=heads, intermediate_size=cfg.integer("encoder_ffn_dim"))
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(speech_layer(own),) * cfg.layers("encoder_layers"),
        tensors=tensors,
        prefix=joined(prefix, "encoder"),
        layers_prefix=joined(prefix, "encoder.wrapped_encoder.layers"),
        vocab_size=cfg.vocab_size if reads else 0,
        audio=audio,
    )


def _speech_decoder(cfg: Config, prefix: str, *, writes: bool, speaks: bool) -> Component:
    style = Style(table=False, up="feed_forward.intermediate_dense", down="feed_forward.output_dense")
    hidden, before = cfg.hidden_size, "decoder.prenet"
    tensors: Tensors = ()
    if writes:
        tensors += parts.embedding(f"{before}.embed_tokens", cfg.vocab_size, hidden)
    if speaks:
        width = cfg.integer("speech_decoder_prenet_units")
        for index in range(cfg.layers("speech_decoder_prenet_layers")):
            tensors += linear(f"{before}.layers.{index}", width, width if index else cfg.integer("num_mel_bins"))
        tensors += linear(f"{before}.final_layer", hidden, width)
        tensors += parts.parameter(f"{before}.encode_positions.alpha")
        tensors += linear(f"{before}.speaker_embeds_layer", hidden, hidden + cfg.integer("speaker_embedding_dim"))
    return side(
        cfg, prefix, style, decoder=True, embeddings=tensors, stack_name="decoder.wrapped_decoder",
        positions=cfg.integer("max_speech_positions" if speaks else "max_text_positions"),
    )  # fmt: skip


def spectrum_postnet(cfg: Config, name: str) -> Tensors:
    """Return the convolutions that refine a spectrum, each with a batch norm."""
    bins, width, count = (
        cfg.integer("num_mel_bins"),
        cfg.integer("speech_decoder_postnet_units"),
        cfg.layers("speech_decoder_postnet_layers"),
    )
    tensors = linear(
        f"{name}.feat_out",
        bins * cfg.integer("reduction_factor", 2 if cfg.model_type == "speecht5" else 1),
        cfg.hidden_size,
    )
    for index in range(count):
        inputs, outputs = (bins if index == 0 else width), (bins if index == count - 1 else width)
        kernel = cfg.integer("speech_decoder_postnet_kernel")
        tensors += parts.conv(f"{name}.layers.{index}.conv", outputs, inputs, kernel, bias=False)
        tensors += parts.batch_norm(f"{name}.layers.{index}.batch_norm", outputs)
    return tensors


def _speecht5(cfg: Config, class_name: str) -> Built:
    task, hidden = task_of(class_name), cfg.hidden_size
    prefix = "" if task == "Model" else "speecht5"
    hears, reads = task.startswith("SpeechTo"), task.startswith("TextTo")
    writes, speaks = task.endswith("ToText"), task.endswith("ToSpeech")
    sides = (
        _speech_encoder(cfg, prefix, hears=hears, reads=reads),
        _speech_decoder(cfg, prefix, writes=writes, speaks=speaks),
    )
    if writes:
        head = language_head(cfg, hidden, name="text_decoder_postnet.lm_head")
        return Built((*sides, *head.components), tied=head.tied)
    tensors: Tensors = ()
    if speaks:
        tensors = (
            *spectrum_postnet(cfg, "speech_decoder_postnet"),
            *linear("speech_decoder_postnet.prob_out", cfg.integer("reduction_factor", 2), hidden),
        )
    return Built((*sides, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)))


@tower("speecht5", base="speecht5", heads=_speecht5)
def speecht5(cfg: Config, prefix: str) -> Component:
    """SpeechT5's encoder [2]_, without what turns sound or text into frames."""
    return _speech_encoder(cfg, prefix, hears=False, reads=False)


# -- FastSpeech 2 --------------------------------------------------------------------------------------------------------


def _conformer_side(cfg: Config, prefix: str, kind: str) -> Component:
    # a saved config repeats the fields of each side in an object of their own, which then hold
    stated = cfg.nested(f"{kind}_config") if cfg.has_nested(f"{kind}_config") else Config({})

    def size(name: str) -> int:
        return int(stated.integer(name, cfg.integer(f"{kind}_{name}")))

    hidden, heads, count = cfg.hidden_size, size("num_attention_heads"), size("layers")
    inner, kernel = size("linear_units"), cfg.integer("positionwise_conv_kernel_size")
    bias = cfg.flag("convolution_bias", True)
    macaron, convolves = cfg.flag("use_macaron_style_in_conformer", True), cfg.flag("use_cnn_in_conformer", True)
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, q="linear_q", k="linear_k", v="linear_v", o="linear_out", bias=True,
        scope="encoder", extra=relative_positions("relative", hidden_size=hidden, num_heads=heads),
    )  # fmt: skip
    chain: list[Attention | FeedForward] = [attention]
    norms = ["self_attn_layer_norm", "ff_layer_norm"]
    for name in ("feed_forward_macaron", "feed_forward") if macaron else ("feed_forward",):
        convolutions = (
            *parts.conv(f"{name}.conv1", inner, hidden, kernel),
            *parts.conv(f"{name}.conv2", hidden, inner, kernel),
        )
        chain.append(FeedForward(parts.with_role("mlp", convolutions), inner, gated=False))
    tensors: Tensors = ()
    if macaron:
        norms.append("ff_macaron_layer_norm")
    if convolves:
        norms += ["conv_layer_norm", "final_layer_norm"]
        tensors = (
            *parts.conv("conv_module.pointwise_conv1", 2 * hidden, hidden, 1, bias=bias),
            *parts.conv("conv_module.depthwise_conv", hidden, 1, size("kernel_size"), bias=bias),
            *parts.batch_norm("conv_module.norm", hidden),
            *parts.conv("conv_module.pointwise_conv2", hidden, hidden, 1, bias=bias),
        )
    if stated.flag("concat_after", cfg.flag(f"{kind}_concat_after")):
        tensors += linear("concat_linear", hidden, 2 * hidden)
    layer = Layer(tuple(chain), (*tensors, *(t for name in norms for t in parts.norm(name, hidden, bias=True))))
    reads = kind == "encoder"
    return Component(
        kind="encoder",
        name=kind,
        hidden_size=hidden,
        layers=(layer,) * count,
        tensors=parts.embedding("embed", cfg.vocab_size, hidden) if reads else (),
        prefix=joined(prefix, kind),
        layers_prefix=joined(prefix, f"{kind}.conformer_layers"),
        vocab_size=cfg.vocab_size if reads else 0,
    )


def _predictor(cfg: Config, kind: str) -> Tensors:
    hidden, width = cfg.hidden_size, cfg.integer(f"{kind}_predictor_channels")
    name, kernel = f"{kind}_predictor", cfg.integer(f"{kind}_predictor_kernel_size")
    tensors: Tensors = ()
    for index in range(cfg.layers(f"{kind}_predictor_layers")):
        tensors += parts.conv(f"{name}.conv_layers.{index}.conv", width, width if index else hidden, kernel)
        tensors += parts.norm(f"{name}.conv_layers.{index}.layer_norm", width, bias=True)
    tensors += linear(f"{name}.linear", 1, width)
    if kind != "duration":
        tensors += parts.conv(f"{kind}_embed.conv", hidden, 1, cfg.integer(f"{kind}_embed_kernel_size"))
    return tensors


def _fastspeech2(cfg: Config, prefix: str) -> Components:
    hidden = cfg.hidden_size
    languages, speakers = (cfg.integer(name, 0, least=0) for name in ("num_languages", "num_speakers"))
    speaker = cfg.integer("speaker_embed_dim", 0, least=0)
    tensors: Tensors = ()
    if languages > 1:
        tensors += parts.embedding("language_id_embedding", languages, hidden, slot="other")
    if speakers > 1:
        tensors += parts.embedding("speaker_id_embedding", speakers, hidden, slot="other")
    if speaker:
        tensors += linear("projection", hidden, hidden + speaker)
    for kind in ("duration", "pitch", "energy"):
        tensors += _predictor(cfg, kind)
    tensors += spectrum_postnet(cfg, "speech_decoder_postnet")
    return (
        _conformer_side(cfg, prefix, "encoder"),
        _conformer_side(cfg, prefix, "decoder"),
        _bag("predictors", hidden, tensors, prefix),
    )


@tower("fastspeech2_conformer", base="")
def fastspeech2_conformer(cfg: Config, prefix: str) -> Components:
    """FastSpeech 2 with conformers [3]_: durations, pitch and energy are predicted, then the spectrum at once."""
    return _fastspeech2(cfg, prefix)


@model("fastspeech2_conformer_with_hifigan")
def fastspeech2_conformer_with_hifigan(cfg: Config, class_name: str) -> Built:
    """Return FastSpeech 2 and the vocoder behind it."""
    spoken, voice = cfg.nested("model_config", "fastspeech2_conformer"), cfg.nested("vocoder_config", "hifigan")
    bins = voice.integer("model_in_dim")
    tensors = (*hifi_gan(voice, bins), *parts.buffer("mean", bins), *parts.buffer("scale", bins))
    return Built((*_fastspeech2(spoken, "model"), _bag("vocoder", bins, tensors, "vocoder")))


__all__ = ["spectrum_postnet", "vits"]
