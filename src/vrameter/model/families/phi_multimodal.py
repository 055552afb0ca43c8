"""Phi-4-multimodal [1]_: one decoder, SigLIP's tower for images, a conformer for sound.

References
----------
.. [1] Microsoft, "Phi-4-Mini Technical Report", 2025, arXiv:2503.01743.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensor, Tensors, joined
from vrameter.model.audio_input import AudioInput, Convolution
from vrameter.model.config import Config
from vrameter.model.families.encoder_decoder import language_head
from vrameter.model.families.encoder_heads import is_bare
from vrameter.model.families.listeners import MEL_RATE
from vrameter.model.families.llama_relations import phi3
from vrameter.model.families.registry import Built, model, read_part, tower


def _layer(cfg: Config) -> Layer:
    """Return one conformer layer: gated halves, and a convolution whose gate has biases of its own."""
    hidden, inner, outer = cfg.hidden_size, cfg.integer("intermediate_size"), cfg.integer("ext_pw_out_channel")
    middle, narrow = hidden * cfg.integer("depthwise_multiplier"), cfg.integer("depthwise_separable_out_channel")
    halves = [
        parts.mlp(hidden_size=hidden, intermediate_size=inner, bias=True, name=name, gate_up="gate_up_proj")
        for name in ("feed_forward_in", "feed_forward_out")
    ]
    attention = parts.attention(hidden_size=hidden, num_heads=cfg.num_heads, bias=True, scope="encoder")
    tensors = (
        *parts.conv("conv.glu.ext_pw_conv_1d", 2 * outer, hidden, 1),
        *parts.parameter("conv.glu.b1", 1, outer, 1, role="convolution"),
        *parts.parameter("conv.glu.b2", 1, outer, 1, role="convolution"),
        *parts.conv("conv.dw_sep_conv_1d.dw_conv", middle, 1, cfg.integer("kernel_size")),
        *parts.conv("conv.dw_sep_conv_1d.pw_conv", narrow, middle, 1),
        *parts.conv("conv.ext_pw_conv_1d", outer, hidden, 1),
    )
    names = (
        "feed_forward_in.layer_norm",
        "conv.layer_norm",
        "feed_forward_out.layer_norm",
        "layer_norm_att",
        "layer_norm",
    )
    norms = tuple(tensor for name in names for tensor in parts.norm(name, hidden, bias=True))
    return Layer((halves[0], attention, halves[1]), (*tensors, *norms))


@tower("phi4_multimodal_audio", base="")
def phi4_multimodal_audio(cfg: Config, prefix: str) -> Component:
    """Phi-4's conformer: eight columns become one frame, biases for distances up to a bound."""
    hidden, channels, bins = cfg.hidden_size, cfg.integer("nemo_conv_channels"), cfg.integer("input_size")
    halvings = cfg.integer("time_reduction").bit_length() - 1
    left = bins
    tensors = parts.conv("embed.conv.0", channels, 1, 3, 3)
    for index in range(halvings):
        left = (left + 1) // 2
        if index:
            tensors += parts.conv(f"embed.conv.{3 * index - 1}", channels, 1, 3, 3)
            tensors += parts.conv(f"embed.conv.{3 * index}", channels, channels, 1, 1)
    distances = cfg.integer("bias_max_distance") * (1 if cfg.flag("bias_symmetric") else 2)
    name = "relative_attention_bias_layer.bias_values.weight"
    tensors += (
        *parts.linear("embed.out", hidden, channels * left, bias=True, role="convolution"),
        Tensor(name, (distances, cfg.num_heads), "attention", "position"),
        *parts.buffer("encoder_embedding.global_mean", bins),
        *parts.buffer("encoder_embedding.global_invstd", bins),
    )
    return Component(
        kind="audio",
        name="audio",
        hidden_size=hidden,
        layers=(_layer(cfg),) * cfg.layers("num_blocks"),
        tensors=tensors,
        prefix=prefix,
        layers_prefix=joined(prefix, "encoders"),
        audio=AudioInput(MEL_RATE, bins, (Convolution(channels, 3, 2, 2),) * halvings),
    )


def _projector(prefix: str, hidden: int, tensors: Tensors) -> Component:
    return Component(kind="projector", name="projector", hidden_size=hidden, tensors=tensors, prefix=prefix)


@model("phi4_multimodal")
def phi4_multimodal(cfg: Config, class_name: str) -> Built:
    """Return the decoder with both towers; sound has a projector for itself and one for sound beside images."""
    base = "" if is_bare(class_name) else "model"
    body, hidden = phi3(cfg, base), cfg.hidden_size
    sight, sound = joined(base, "embed_tokens_extend.image_embed"), joined(base, "embed_tokens_extend.audio_embed")
    seen, heard = cfg.nested("vision_config"), cfg.nested("audio_config")
    (vision,) = read_part(seen.as_type("siglip_vision_model"), joined(sight, "img_processor"))
    audio, *further = read_part(heard, joined(sound, "encoder"))
    width, inputs = seen.hidden_size, heard.hidden_size * heard.integer("downsample_rate")
    if audio.audio is not None:
        audio = replace(audio, audio=replace(audio.audio, frames_per_token=heard.integer("downsample_rate")))
    images = (
        *parts.parameter("global_img_feature_extensor", 1, 1, width, role="projector"),
        *parts.parameter("sub_img_feature_extensor", 1, 1, 1, width, role="projector"),
        *parts.linear("img_projection_up", hidden, width, bias=True, role="projector"),
        *parts.linear("img_projection_down", hidden, hidden, bias=True, role="projector"),
    )
    sounds: Tensors = ()
    for kind in ("speech", "vision_speech"):
        sounds += parts.linear(f"up_proj_for_{kind}", hidden, inputs, bias=True, role="projector")
        sounds += parts.linear(f"down_proj_for_{kind}", hidden, hidden, bias=True, role="projector")
    components = (body, vision, audio, *further, _projector(sight, hidden, images), _projector(sound, hidden, sounds))
    if not base:
        return Built(components)
    head = language_head(cfg.over(tie_word_embeddings=cfg.flag("tie_word_embeddings", False)), hidden)
    return Built((*components, *head.components), tied=head.tied)
