"""SeamlessM4T [1]_: speech or text in, text or speech out.

Two encoders, a decoder of text, a model that turns text into units of speech, and a vocoder; a class for one task holds
those that it needs.

References
----------
.. [1] Seamless Communication, "SeamlessM4T", 2023, arXiv:2308.11596; "Seamless", 2023, arXiv:2312.05187 (version 2).
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, Layer, Tensors, joined
from vrameter.model.audio_input import AudioInput
from vrameter.model.config import Config
from vrameter.model.families.conformer import (
    W2V_NAMES,
    conformer_layer,
    relative_positions,
    strided_adapter_layer,
)
from vrameter.model.families.encoder_decoder import Style, language_head, projections, side
from vrameter.model.families.listeners import MEL_RATE
from vrameter.model.families.registry import Built, Components, model
from vrameter.model.families.vocoders import hifi_gan

STYLE = Style(
    table=False, final_norm="layer_norm", cross="cross_attention", cross_norm="cross_attention_layer_norm",
    mlp_norm="ffn_layer_norm", up="ffn.fc1", down="ffn.fc2",
)  # fmt: skip


def _speech_encoder(cfg: Config, *, second: bool) -> Component:
    hidden, heads = cfg.hidden_size, cfg.integer("speech_encoder_attention_heads")
    inner, features = cfg.integer("speech_encoder_intermediate_size"), cfg.integer("feature_projection_input_dim")
    reach = 0
    names = W2V_NAMES
    if second:
        reach = cfg.integer("left_max_position_embeddings") + cfg.integer("right_max_position_embeddings") + 1
        names = replace(names, inner_norm="conv_module.depthwise_layer_norm")
    known = "relative_key" if second else "relative"
    kind = cfg.text("position_embeddings_type", None)
    positions = relative_positions(kind if kind == known else None, hidden_size=hidden, num_heads=heads, reach=reach)
    layer = conformer_layer(
        names, hidden_size=hidden, intermediate_size=inner, num_heads=heads, extra=positions,
        kernel=cfg.integer("conv_depthwise_kernel_size"), conv_norm="layer" if second else "batch",
    )  # fmt: skip
    tensors = (
        *parts.norm("feature_projection.layer_norm", features, bias=True),
        *parts.linear("feature_projection.projection", hidden, features, bias=True, role="projector"),
        *parts.norm("encoder.layer_norm", hidden, bias=True),
        *parts.mlp(
            hidden_size=hidden, intermediate_size=inner, gated=False, bias=True, name="intermediate_ffn",
            up="intermediate_dense", down="output_dense",
        ).tensors,
        *parts.norm("inner_layer_norm", hidden, bias=True),
    )  # fmt: skip
    if kind == "rotary" and not second:
        tensors += parts.buffer("encoder.embed_positions.inv_freq", hidden // heads // 2)
    kernel, stride, count = cfg.integer("adaptor_kernel_size"), cfg.integer("adaptor_stride"), 0
    if cfg.flag("add_adapter", True):
        count = cfg.layers("num_adapter_layers")
        for index in range(count):
            tensors += strided_adapter_layer(index, width=hidden, inner=inner, kernel=kernel)
    return Component(
        kind="encoder",
        name="speech encoder",
        hidden_size=hidden,
        layers=(layer,) * cfg.layers("speech_encoder_layers"),
        tensors=tensors,
        prefix="speech_encoder",
        layers_prefix="speech_encoder.encoder.layers",
        audio=AudioInput(
            MEL_RATE, features // 2, stride=2, frames_per_token=stride if count else 1,
        ),
    )  # fmt: skip


def _units_config(cfg: Config) -> Config:
    """Return the config of the model of units: its fields stand in the whole's under a prefix."""
    names = (
        "encoder_layers",
        "encoder_ffn_dim",
        "encoder_attention_heads",
        "decoder_layers",
        "decoder_ffn_dim",
        "decoder_attention_heads",
    )
    sizes = {name: cfg.integer(f"t2u_{name}") for name in names}
    return cfg.over(**sizes, vocab_size=cfg.integer("t2u_vocab_size"))


def _duration_predictor(name: str, width: int, inner: int, kernel: int) -> Tensors:
    return (
        *parts.conv(f"{name}.conv1", inner, width, kernel),
        *parts.norm(f"{name}.ln1", inner, bias=True),
        *parts.conv(f"{name}.conv2", inner, inner, kernel),
        *parts.norm(f"{name}.ln2", inner, bias=True),
        *parts.linear(f"{name}.proj", 1, inner, bias=True),
    )


def _unit_decoder(cfg: Config, own: Config, prefix: str) -> Component:
    """Return the second version's decoder of units, which writes all of them at once."""
    hidden, heads = cfg.hidden_size, own.integer("decoder_attention_heads")
    attention = projections(own, STYLE, name="self_attn", heads=heads, scope="encoder")
    convolutions = (*parts.conv("conv1", hidden, hidden, 7), *parts.conv("conv2", hidden, hidden, 7))
    layer = Layer(
        (attention, FeedForward(parts.with_role("mlp", convolutions), hidden, gated=False)),
        (*parts.norm("self_attn_layer_norm", hidden, bias=True), *parts.norm("conv_layer_norm", hidden, bias=True)),
    )
    width, inner = cfg.integer("t2u_variance_predictor_embed_dim"), cfg.integer("t2u_variance_predictor_hidden_dim")
    return Component(
        kind="encoder",
        name="unit decoder",
        hidden_size=hidden,
        layers=(layer,) * own.layers("decoder_layers"),
        tensors=(
            *parts.parameter("pos_emb_alpha_char", 1),
            *parts.parameter("pos_emb_alpha", 1),
            *parts.embedding("embed_tokens", own.vocab_size, hidden),
            *parts.embedding("embed_char", cfg.integer("char_vocab_size"), hidden),
            *_duration_predictor("duration_predictor", width, inner, cfg.integer("t2u_variance_predictor_kernel_size")),
            *parts.norm("layer_norm", hidden, bias=True),
        ),
        prefix=joined(prefix, "decoder"),
        layers_prefix=joined(prefix, "decoder.layers"),
        vocab_size=own.vocab_size,
    )


def _speaking(cfg: Config, *, second: bool) -> Built:
    """Return what turns text into a waveform: units, then the vocoder."""
    own, prefix = _units_config(cfg), "t2u_model.model"
    rows = cfg.integer("t2u_max_position_embeddings")
    encoder = replace(side(own, prefix, STYLE, decoder=False, positions=rows), name="unit encoder")
    if second:
        written = _unit_decoder(cfg, own, prefix)
    else:
        written = replace(side(own, prefix, STYLE, decoder=True, own_tokens=True, positions=rows), name="unit decoder")
    head = language_head(own, cfg.hidden_size, name="t2u_model.lm_head")
    unit, voice, language = (cfg.integer(name) for name in ("unit_embed_dim", "spkr_embed_dim", "lang_embed_dim"))
    tensors = (
        *_duration_predictor("dur_predictor", unit, unit, cfg.integer("variance_predictor_kernel_size")),
        *parts.embedding("unit_embedding", cfg.integer("unit_hifi_gan_vocab_size"), unit, slot="other"),
        *parts.embedding("speaker_embedding", cfg.integer("vocoder_num_spkrs"), voice, slot="other"),
        *parts.embedding("language_embedding", cfg.integer("vocoder_num_langs"), language, slot="other"),
        *parts.below("hifi_gan", hifi_gan(cfg, unit + voice + language)),
    )
    vocoder = Component(kind="other", name="vocoder", hidden_size=unit, tensors=tensors, prefix="vocoder")
    return Built((encoder, written, *head.components, vocoder), tied=head.tied)


@model("seamless_m4t", "seamless_m4t_v2")
def seamless(cfg: Config, class_name: str) -> Built:
    """Return the parts that a class needs: what it hears or reads, the decoder of text, and what speaks."""
    second = cfg.model_type == "seamless_m4t_v2"
    hidden, vocab = cfg.hidden_size, cfg.vocab_size
    _, _, task = class_name.rpartition("For")
    whole = not task or task.endswith("Model")
    reads, hears = whole or task.startswith("TextTo"), whole or task.startswith("SpeechTo")
    rows = cfg.integer("max_position_embeddings")
    components: Components = ()
    shared = parts.embedding("shared", vocab, hidden)
    tied = cfg.tied
    if reads:
        components += (
            side(cfg, "", STYLE, decoder=False, stack_name="text_encoder", positions=rows, own_tokens=not tied),
        )
    if hears:
        components += (_speech_encoder(cfg, second=second),)
    components += (
        side(cfg, "", STYLE, decoder=True, embeddings=shared, stack_name="text_decoder", positions=rows, own_tokens=not tied),
    )  # fmt: skip
    head = language_head(cfg, hidden)
    built = Built((*components, *head.components), tied=head.tied)
    if whole or task.endswith("ToSpeech"):
        speaking = _speaking(cfg, second=second)
        built = Built((*built.components, *speaking.components), tied=(*built.tied, *speaking.tied))
    return built
