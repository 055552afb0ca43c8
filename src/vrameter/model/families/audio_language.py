"""Language models that hear: an encoder of sound, a projector, a decoder.

Most hear through Whisper's encoder [1]_ and pool its frames before the projector.

References
----------
.. [1] A. Radford et al., 2022, arXiv:2212.04356.
.. [2] Y. Chu et al., "Qwen2-Audio", 2024, arXiv:2407.10759.
.. [3] A. Liu et al., "Voxtral", 2025, arXiv:2507.13264.
.. [4] A. Goel et al., "Audio Flamingo 3", 2025, arXiv:2507.08128.
.. [5] G. Saon et al., "Granite-speech", 2025, arXiv:2505.08699.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.audio_input import AudioInput, Convolution
from vrameter.model.config import Config
from vrameter.model.families.encoder_decoder import Style, language_head, side
from vrameter.model.families.encoder_heads import is_bare, linear, task_of
from vrameter.model.families.listeners import MEL_RATE, mel_convolutions, mel_front, mel_input, whisper_encoder
from vrameter.model.families.llama import dense_decoder
from vrameter.model.families.registry import Built, decoder, model, num_labels, read_part, tower

Projector = Callable[[Config, Config, Config], Tensors]


def audio_language(
    cfg: Config, class_name: str, projector: Projector, *, frames_per_token: int = 1, audio: str = "audio_config",
    tower_name: str = "audio_tower", projector_name: str = "multi_modal_projector", tied: bool | None = None,
) -> Built:  # fmt: skip
    """Return an audio tower, a projector and a decoder with the head of its class.

    Parameters
    ----------
    projector
        Function ``(cfg, heard, text) -> tensors`` of the nested configs.
    frames_per_token
        Frames of the tower that become one token.
    tied
        Whether the head is tied, where the config is not asked.
    """
    task, bare = task_of(class_name), is_bare(class_name)
    prefix = "" if bare else "model"
    heard, text = cfg.nested(audio), cfg.nested("text_config")
    body, *rest = read_part(text, joined(prefix, "language_model"))
    listening, *others = read_part(heard, joined(prefix, tower_name))
    if listening.audio is not None:
        listening = replace(listening, kind="audio", audio=replace(listening.audio, frames_per_token=frames_per_token))
    between = Component(
        kind="projector", name="projector", hidden_size=body.hidden_size, tensors=projector(cfg, heard, text),
        prefix=joined(prefix, projector_name),
    )  # fmt: skip
    components = (body, *rest, listening, *others, between)
    if bare:
        return Built(components)
    if task == "TokenClassification":
        bias = cfg.flag("token_classification_bias", True)
        tensors = linear("score", num_labels(cfg), body.hidden_size, bias=bias)
        return Built((*components, Component(kind="head", name="head", hidden_size=body.hidden_size, tensors=tensors)))
    is_tied = cfg.flag("tie_word_embeddings", False) if tied is None else tied
    head = language_head(text.over(tie_word_embeddings=is_tied), body.hidden_size)
    return Built((*components, *head.components), tied=head.tied)


def two_layers(inputs: int, inner: int, outputs: int, *, bias: bool) -> Tensors:
    """Return a projector of two linear layers."""
    return (
        *parts.linear("linear_1", inner, inputs, bias=bias, role="projector"),
        *parts.linear("linear_2", outputs, inner, bias=bias, role="projector"),
    )


@tower("voxtral_encoder", "qwen2_audio_encoder", "audioflamingo3_encoder", "moss_transcribe_diarize_audio", base="")
def whisper_tower(cfg: Config, prefix: str) -> Component:
    """Whisper's encoder under the name of the model that hears with it."""
    return whisper_encoder(cfg, prefix)


@model("voxtral")
def voxtral(cfg: Config, class_name: str) -> Built:
    """Voxtral [3]_: four frames side by side become one token."""

    def project(whole: Config, heard: Config, text: Config) -> Tensors:
        hidden = text.hidden_size
        return two_layers(heard.integer("intermediate_size"), hidden, hidden, bias=False)

    heard = cfg.nested("audio_config")
    stacked = max(1, heard.integer("intermediate_size") // heard.hidden_size)
    return audio_language(cfg, class_name, project, frames_per_token=stacked)


@model("qwen2_audio")
def qwen2_audio(cfg: Config, class_name: str) -> Built:
    """Qwen2-Audio [2]_: pairs of frames are averaged, then one linear layer."""

    def project(whole: Config, heard: Config, text: Config) -> Tensors:
        return parts.linear("linear", text.hidden_size, heard.hidden_size, bias=True, role="projector")

    return audio_language(cfg, class_name, project, frames_per_token=2)


@model("audioflamingo3", "musicflamingo")
def audioflamingo3(cfg: Config, class_name: str) -> Built:
    """Audio Flamingo 3 [4]_: pairs of frames are averaged, then two linear layers."""

    def project(whole: Config, heard: Config, text: Config) -> Tensors:
        hidden = text.hidden_size
        return two_layers(heard.hidden_size, hidden, hidden, bias=whole.flag("projector_bias", True))

    return audio_language(cfg, class_name, project, frames_per_token=2)


@model("moss_transcribe_diarize")
def moss_transcribe_diarize(cfg: Config, class_name: str) -> Built:
    """MOSS' transcriber: frames packed side by side, two linear layers and a norm."""
    packed = cfg.integer("audio_merge_size")

    def project(whole: Config, heard: Config, text: Config) -> Tensors:
        hidden = text.hidden_size
        layers = two_layers(heard.hidden_size * packed, hidden, hidden, bias=whole.flag("projector_bias", True))
        return (*layers, *parts.norm("norm", hidden, bias=True))

    return audio_language(cfg, class_name, project, frames_per_token=packed)


@tower("glmasr_encoder", base="")
def glmasr_encoder(cfg: Config, prefix: str) -> Component:
    """GLM-ASR's encoder: Whisper's with rotary positions, under Llama's names."""
    hidden, heads = cfg.hidden_size, cfg.num_heads
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, num_kv_heads=cfg.num_kv_heads, head_dim=cfg.integer("head_dim", hidden // heads),
        bias=True, k_bias=False, scope="encoder",
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True, up="fc1", down="fc2"
    )  # fmt: skip
    norms = (
        *parts.norm("input_layernorm", hidden, bias=True),
        *parts.norm("post_attention_layernorm", hidden, bias=True),
    )
    rows = cfg.integer("max_position_embeddings")
    return Component(
        kind="audio",
        name="audio",
        hidden_size=hidden,
        layers=(Layer((attention, feed), norms),) * cfg.num_layers,
        tensors=(*mel_front(cfg, hidden), *parts.norm("norm", hidden, bias=True)),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        max_positions=rows,
        audio=mel_input(cfg, hidden, max_frames=rows),
    )


@model("glmasr")
def glmasr(cfg: Config, class_name: str) -> Built:
    """GLM-ASR: four frames side by side become one token."""

    def project(whole: Config, heard: Config, text: Config) -> Tensors:
        hidden = text.hidden_size
        return two_layers(heard.integer("intermediate_size"), 2 * hidden, hidden, bias=True)

    heard = cfg.nested("audio_config")
    stacked = max(1, heard.integer("intermediate_size") // heard.hidden_size)
    return audio_language(cfg, class_name, project, frames_per_token=stacked)


# -- Qwen3's listener ----------------------------------------------------------------------------------------------


def plane_encoder(cfg: Config, prefix: str, *, tensors: Tensors = (), key_bias: bool = True) -> Component:
    """Return Qwen3's audio encoder: three convolutions over time and frequency, then Whisper's layers."""
    hidden, channels = cfg.integer("d_model"), cfg.integer("downsample_hidden_size")
    bins = cfg.integer("num_mel_bins")
    for _ in range(3):
        bins = (bins + 1) // 2
    own = (
        *parts.conv("conv2d1", channels, 1, 3, 3),
        *parts.conv("conv2d2", channels, channels, 3, 3),
        *parts.conv("conv2d3", channels, channels, 3, 3),
        *parts.linear("conv_out", hidden, channels * bins, role="convolution"),
        *tensors,
    )
    style = Style(table=False, final_norm="ln_post", key_bias=key_bias)
    body = side(cfg, prefix, style, decoder=False, positions=0, stack_name="", tensors=own)
    audio = AudioInput(MEL_RATE, cfg.integer("num_mel_bins"), (Convolution(channels, 3, 2, 2),) * 3)
    return replace(body, kind="audio", audio=audio, vocab_size=0)


@tower("qwen3_asr_encoder", base="")
def qwen3_asr_encoder(cfg: Config, prefix: str) -> Component:
    """Qwen3-ASR's encoder: eight columns become one frame, in windows of a second."""
    return plane_encoder(cfg, prefix)


@model("qwen3_asr")
def qwen3_asr(cfg: Config, class_name: str) -> Built:
    """Qwen3-ASR: every frame is a token."""

    def project(whole: Config, heard: Config, text: Config) -> Tensors:
        hidden = heard.integer("d_model")
        return two_layers(hidden, hidden, heard.integer("output_dim"), bias=True)

    return audio_language(cfg, class_name, project)


# -- Voxtral for streams ---------------------------------------------------------------------------------------------


@tower("voxtral_realtime_encoder", base="")
def voxtral_realtime_encoder(cfg: Config, prefix: str) -> Component:
    """Voxtral's causal encoder: Whisper's convolutions, Llama's layers with a window."""
    hidden, heads = cfg.hidden_size, cfg.num_heads
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, num_kv_heads=cfg.num_kv_heads, head_dim=cfg.integer("head_dim", hidden // heads),
        bias=True, k_bias=False, scope="encoder", window=cfg.integer("sliding_window", None),
    )  # fmt: skip
    feed = parts.mlp(hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), down_bias=True)
    norms = (*parts.norm("self_attn_layer_norm", hidden), *parts.norm("final_layer_norm", hidden))
    return Component(
        kind="audio",
        name="audio",
        hidden_size=hidden,
        layers=(Layer((attention, feed), norms),) * cfg.num_layers,
        tensors=(*mel_front(cfg, hidden, name="embedder"), *parts.norm("norm", hidden)),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        audio=AudioInput(MEL_RATE, cfg.integer("num_mel_bins"), mel_convolutions(hidden)),
    )


@decoder("voxtral_realtime_text")
def voxtral_realtime_text(cfg: Config, prefix: str) -> Component:
    """Voxtral's streaming decoder: Mistral with a scale in each layer that depends on the delay."""
    width = 32  # of the scale's inner layer, fixed in the class
    scale = (
        *parts.linear("ada_rms_norm.linear1", width, cfg.hidden_size),
        *parts.linear("ada_rms_norm.linear2", cfg.hidden_size, width),
    )
    return dense_decoder(cfg, prefix, qkv_bias=False, o_bias=False, mlp_bias=False, layer_tensors=scale)


@model("voxtral_realtime")
def voxtral_realtime(cfg: Config, class_name: str) -> Built:
    """Voxtral for streams: frames side by side are added to the tokens' own embeddings."""
    packed = cfg.integer("downsample_factor")

    def project(whole: Config, heard: Config, text: Config) -> Tensors:
        hidden = text.hidden_size
        return two_layers(heard.hidden_size * packed, hidden, hidden, bias=False)

    return audio_language(cfg, class_name, project, frames_per_token=packed)


# -- Fun-ASR ---------------------------------------------------------------------------------------------------------


def _memory_layer(cfg: Config, *, inputs: int | None = None, kernel: int = 0, last: bool = False) -> Layer:
    hidden = cfg.hidden_size
    width = inputs or hidden
    attention = parts.attention(
        hidden_size=width, num_heads=cfg.num_heads, head_dim=hidden // cfg.num_heads, out_size=hidden, bias=True,
        scope="encoder", extra=parts.conv("self_attn.fsmn.conv", hidden, 1, kernel, bias=False) if kernel else (),
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True, up="fc1", down="fc2"
    )  # fmt: skip
    norms = (
        *parts.norm("input_layernorm", width, bias=True),
        *parts.norm("post_attention_layernorm", hidden, bias=True),
    )
    return Layer((attention, feed), (*norms, *(parts.norm("final_layernorm", hidden, bias=True) if last else ())))


@tower("fun_asr_nano_encoder", base="")
def fun_asr_nano_encoder(cfg: Config, prefix: str) -> Component:
    """Fun-ASR's encoder: stacked columns, attention with a convolution over its values."""
    count, stacked = cfg.num_layers, cfg.integer("num_stacked_frames")
    last = {count - cfg.integer("num_timestamp_prediction_layers", least=0) - 1, count - 1}
    features, kernel = cfg.integer("num_mel_bins"), cfg.integer("fsmn_kernel_size")
    plain = _memory_layer(cfg, kernel=kernel)
    normed = _memory_layer(cfg, kernel=kernel, last=True)
    first = _memory_layer(cfg, inputs=features * stacked, kernel=kernel, last=0 in last)
    layers = (first, *(normed if index in last else plain for index in range(1, count)))
    return Component(
        kind="audio",
        name="audio",
        hidden_size=cfg.hidden_size,
        layers=layers,
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        audio=AudioInput(MEL_RATE, features, stride=6),
    )


@model("fun_asr_nano")
def fun_asr_nano(cfg: Config, class_name: str) -> Built:
    """Fun-ASR-Nano: two linear layers and a short encoder between the tower and the decoder."""

    def project(whole: Config, heard: Config, text: Config) -> Tensors:
        own = whole.nested("adaptor_config")
        hidden, count = own.integer("hidden_size", text.hidden_size), own.layers("num_hidden_layers", 2)
        own = own.over(
            hidden_size=hidden, num_attention_heads=own.integer("num_attention_heads", 8),
            intermediate_size=own.integer("intermediate_size", hidden // 4),
        )  # fmt: skip
        layer = _memory_layer(own).all_tensors
        return (
            *two_layers(heard.hidden_size, own.integer("projector_hidden_size", 2048), hidden, bias=True),
            *(tensor for index in range(count) for tensor in parts.below(f"layers.{index}", layer)),
        )

    return audio_language(cfg, class_name, project)


# -- Granite Speech ----------------------------------------------------------------------------------------------------


def query_former(cfg: Config, name: str) -> Tensors:
    """Return BLIP-2's query transformer without text: attention, cross-attention in some layers, a perceptron."""
    hidden, seen, inner = cfg.hidden_size, cfg.integer("encoder_hidden_size"), cfg.integer("intermediate_size")
    tensors = parts.norm(f"{name}.layernorm", hidden, bias=True)
    for index in range(cfg.num_layers):
        layer = f"{name}.encoder.layer.{index}"
        kinds = [("attention", hidden)]
        if index % cfg.integer("cross_attention_frequency") == 0:
            kinds.append(("crossattention", seen))
        for kind, width in kinds:
            tensors += parts.attention(
                hidden_size=hidden, num_heads=cfg.num_heads, name=f"{layer}.{kind}", q="attention.query", k="attention.key",
                v="attention.value", o="output.dense", kv_size=width, bias=True,
            ).tensors  # fmt: skip
            tensors += parts.norm(f"{layer}.{kind}.output.LayerNorm", hidden, bias=True)
        for up, down in (("intermediate", "output"), ("intermediate_query", "output_query")):
            if up == "intermediate" and not cfg.flag("use_qformer_text_input"):
                continue
            tensors += parts.mlp(
                hidden_size=hidden, intermediate_size=inner, gated=False, bias=True, name="", up=f"{layer}.{up}.dense",
                down=f"{layer}.{down}.dense",
            ).tensors  # fmt: skip
            tensors += parts.norm(f"{layer}.{down}.LayerNorm", hidden, bias=True)
    return tensors


@model("granite_speech", "granite_speech_plus")
def granite_speech(cfg: Config, class_name: str) -> Built:
    """Granite Speech [5]_: queries read windows of frames; each window becomes a few tokens."""
    window, rate = cfg.integer("window_size"), cfg.integer("downsample_rate")

    def project(whole: Config, heard: Config, text: Config) -> Tensors:
        own = whole.nested("projector_config")
        return (
            *parts.parameter("query", 1, window // rate, own.hidden_size, role="projector"),
            *parts.with_role("projector", query_former(own, "qformer")),
            *parts.linear("linear", text.hidden_size, own.hidden_size, bias=True, role="projector"),
        )

    return audio_language(
        cfg, class_name, project, audio="encoder_config", tower_name="encoder", projector_name="projector",
        frames_per_token=rate,
    )  # fmt: skip


__all__ = ["audio_language", "plane_encoder", "query_former", "two_layers", "whisper_tower"]
