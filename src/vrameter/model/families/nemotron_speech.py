"""Nemotron's diarizer and its language model that transcribes with the speakers [1]_.

Both hear with the same plain encoder: stacked mel columns, norms before each part, one bias on attention's output.

References
----------
.. [1] T. Park et al., "Sortformer", 2024, arXiv:2409.06656.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.audio_input import AudioInput
from vrameter.model.config import Config
from vrameter.model.families.encoder_decoder import language_head
from vrameter.model.families.encoder_heads import is_bare, linear
from vrameter.model.families.listeners import MEL_RATE
from vrameter.model.families.registry import Built, Components, model, read_part, tower

STACKED = 8  # mel columns in a frame, where a config does not say


def _layers(cfg: Config, *, head_norms: bool) -> tuple[Layer, ...]:
    hidden, heads = cfg.hidden_size, cfg.num_heads
    dim, count = cfg.integer("head_dim", hidden // heads), cfg.layers()
    norms: dict[str, Any] = {"qk_norm": dim, "qk_norm_bias": True} if head_norms else {}
    attention = parts.attention(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=cfg.num_kv_heads,
        head_dim=dim,
        o_bias=True,
        scope="encoder",
        **norms,
    )
    # keys are shared among heads where the config says so, values never
    whole = (
        tensor._replace(shape=(heads * dim, hidden)) if tensor.slot == "v" else tensor for tensor in attention.tensors
    )
    attention = replace(attention, tensors=tuple(whole))
    feed = parts.mlp(
        hidden_size=hidden,
        intermediate_size=cfg.integer("intermediate_size"),
        gated=False,
        bias=True,
        up="fc1",
        down="fc2",
    )
    own = (*parts.norm("layer_norm1", hidden, bias=True), *parts.norm("layer_norm2", hidden, bias=True))
    return (Layer((attention, feed), own),) * int(count)


def _ends(cfg: Config) -> Tensors:
    return (
        *parts.norm("input_layer_norm", cfg.hidden_size, bias=True),
        *parts.norm("layer_norm", cfg.hidden_size, bias=True),
    )


def stacked_encoder(cfg: Config, prefix: str, *, head_norms: bool = False) -> Component:
    """Return the encoder, with norms on the heads of queries and keys or without."""
    hidden, bins = cfg.hidden_size, cfg.integer("num_mel_bins")
    stacked = cfg.integer("subsampling_factor", STACKED)
    return Component(
        kind="audio",
        name="audio",
        hidden_size=hidden,
        layers=_layers(cfg, head_norms=head_norms),
        tensors=(*linear("embedder.projection", hidden, bins * stacked, bias=False), *_ends(cfg)),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        audio=AudioInput(MEL_RATE, bins, stride=stacked),
    )


@tower("nemotron3_diarization_audio", base="")
def nemotron3_diarization_audio(cfg: Config, prefix: str) -> Component:
    """Encode the sound for the diarizer."""
    return stacked_encoder(cfg, prefix)


def _diarizer(cfg: Config, prefix: str, *, bare: bool) -> tuple[Components, int]:
    """Return the diarizer and how many speakers it tells apart."""
    base = prefix if bare else joined(prefix, "model")
    heard = cfg.nested("audio_config")
    head = cfg.nested("head_config", "nemotron3_diarization_head")
    width, speakers = head.integer("hidden_size", 192), head.integer("num_speakers", 8)
    factor = head.integer("subsampling_factor", STACKED)
    spread = (
        *linear("proj", width, head.integer("audio_hidden_size", heard.hidden_size)),
        *parts.conv("upsampler.conv", factor * width, width, 3),
    )
    components: Components = (
        stacked_encoder(heard, joined(base, "audio_tower")),
        Component(kind="projector", name="upsampler", hidden_size=width, tensors=spread, prefix=base),
    )
    if not bare:
        classes = (
            *parts.parameter("silence_embeds", heard.hidden_size),
            *linear("classifier.dense", width, width),
            *linear("classifier.out_proj", speakers, width),
        )
        components += (Component(kind="head", name="speakers", hidden_size=width, tensors=classes, prefix=prefix),)
    return components, speakers


@model("nemotron3_diarization")
def nemotron3_diarization(cfg: Config, class_name: str) -> Built:
    """Return the diarizer [1]_: who speaks in each frame."""
    return Built(_diarizer(cfg, "", bare=is_bare(class_name))[0])


@model("nemo_speechlm")
def nemo_speechlm(cfg: Config, class_name: str) -> Built:
    """Return the transcriber: an encoder, the diarizer beside it, a decoder, and an encoder that times words."""
    bare = is_bare(class_name)
    base = "" if bare else "model"
    text, sound, words = (cfg.nested(f"{name}_config") for name in ("text", "audio", "word_timestamp"))
    heard, tower_prefix = sound.nested("asr_config"), joined(base, "audio_tower")
    body = read_part(text, joined(base, "language_model"))
    told, speakers = _diarizer(
        sound.nested("diarization_config"), joined(tower_prefix, "diarization_model"), bare=False
    )
    hidden, wide, timed = body[0].hidden_size, heard.hidden_size, words.hidden_size
    norms = (
        *parts.norm("audio_tower.asr_norm", wide, bias=True),
        *parts.norm("audio_tower.speaker_norm", speakers, bias=True),
        *linear("multi_modal_projector", hidden, wide),
    )
    upsampler = (
        *parts.parameter("upsampler.weight", timed, timed, 2, role="convolution"),
        *parts.parameter("upsampler.bias", timed, role="convolution"),
    )
    timing = joined(base, "word_timestamp_encoder")
    components: Components = (
        *body,
        stacked_encoder(heard, joined(tower_prefix, "asr_encoder"), head_norms=True),
        *told,
        Component(kind="projector", name="projector", hidden_size=hidden, tensors=norms, prefix=base),
        Component(
            kind="other", name="word timing", hidden_size=timed, layers=_layers(words, head_norms=True),
            tensors=(*upsampler, *_ends(words)), prefix=timing, layers_prefix=joined(timing, "layers"),
        ),
    )  # fmt: skip
    if bare:
        return Built(components)
    head = language_head(text.over(tie_word_embeddings=cfg.flag("tie_word_embeddings", False)), hidden)
    times = parts.with_role("head", parts.conv("word_timestamp_head", words.vocab_size, timed, 1))
    last = Component(kind="head", name="word timing head", hidden_size=timed, tensors=times)
    return Built((*components, *head.components, last), tied=head.tied)
