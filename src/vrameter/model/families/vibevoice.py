"""VibeVoice [1]_: a tokenizer of convolutions that keeps a few frames a second, a decoder, a diffusion head that speaks.

References
----------
.. [1] Z. Peng et al., "VibeVoice", 2025, arXiv:2508.19205.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.audio_input import AudioInput, Convolution
from vrameter.model.config import Config
from vrameter.model.families.codecs import CODEC_RATE
from vrameter.model.families.encoder_decoder import language_head
from vrameter.model.families.encoder_heads import is_bare
from vrameter.model.families.registry import Built, Components, model, read_part, tower
from vrameter.model.families.vocoders import transposed


def _blocks(cfg: Config, name: str, width: int, count: int) -> Tensors:
    inner, kernel = width * cfg.integer("ffn_expansion"), cfg.integer("kernel_size")
    return tuple(
        tensor
        for index in range(count)
        for tensor in parts.below(
            f"{name}.{index}",
            (
                *parts.parameter("gamma", width),
                *parts.parameter("ffn_gamma", width),
                *parts.norm("norm", width),
                *parts.norm("ffn_norm", width),
                *parts.linear("ffn.linear1", inner, width, bias=True, role="mlp", slot="up"),
                *parts.linear("ffn.linear2", width, inner, bias=True, role="mlp", slot="down"),
                *parts.conv("mixer.conv", width, 1, kernel),
            ),
        )
    )


def _shape(cfg: Config) -> tuple[list[int], list[int], list[int]]:
    """Return the encoder's ratios and, one longer, its depths and widths."""
    ratios, depths = cfg.integers("downsampling_ratios", least=1), cfg.integers("depths", least=0)
    if len(depths) != len(ratios) + 1:
        raise cfg.fail(
            "depths", "has %(length)s entries for %(count)s layers.", length=len(depths), count=len(ratios) + 1
        )
    return ratios, depths, [cfg.integer("num_filters") * 2**index for index in range(len(depths))]


def _encoder(cfg: Config, prefix: str) -> Component:
    ratios, depths, widths = _shape(cfg)
    kernel, hidden, channels = cfg.integer("kernel_size"), cfg.hidden_size, cfg.integer("channels")
    tensors = (
        *parts.conv("stem.conv.conv", widths[0], channels, kernel),
        *_blocks(cfg, "stem.stage", widths[0], depths[0]),
    )
    for index, ratio in enumerate(ratios):
        tensors += parts.conv(f"conv_layers.{index}.conv.conv", widths[index + 1], widths[index], 2 * ratio)
        tensors += _blocks(cfg, f"conv_layers.{index}.stage", widths[index + 1], depths[index + 1])
    tensors += parts.conv("head.conv", hidden, widths[-1], kernel)
    convolutions = tuple(
        Convolution(width, 2 * ratio, ratio, fills=True) for ratio, width in zip(ratios, widths[1:], strict=True)
    )
    return Component(
        kind="audio", name="encoder", hidden_size=hidden, tensors=tensors, prefix=prefix,
        audio=AudioInput(CODEC_RATE, channels, convolutions),
    )  # fmt: skip


def _decoder(cfg: Config, prefix: str, *, own_depths: bool = False) -> Component:
    """Return the way back; a decoder's own config lists its depths in its own order, the whole's in the encoder's."""
    ratios, depths, widths = (values[::-1] for values in _shape(cfg))
    depths = depths[::-1] if own_depths else depths
    kernel, hidden = cfg.integer("kernel_size"), cfg.hidden_size
    tensors = (
        *parts.conv("stem.conv.conv", widths[0], hidden, kernel),
        *_blocks(cfg, "stem.stage", widths[0], depths[0]),
    )
    for index, ratio in enumerate(ratios):
        tensors += transposed(f"conv_layers.{index}.convtr.convtr", widths[index], widths[index + 1], 2 * ratio)
        tensors += _blocks(cfg, f"conv_layers.{index}.stage", widths[index + 1], depths[index + 1])
    tensors += parts.conv("head.conv", cfg.integer("channels"), widths[-1], kernel)
    return Component(kind="audio", name="decoder", hidden_size=hidden, tensors=tensors, prefix=prefix)


@tower("vibevoice_acoustic_tokenizer_encoder", base="")
def tokenizer_encoder(cfg: Config, prefix: str) -> Component:
    """Turn a waveform into a few frames a second."""
    return _encoder(cfg, prefix)


@tower("vibevoice_acoustic_tokenizer_decoder", base="")
def tokenizer_decoder(cfg: Config, prefix: str) -> Component:
    """Turn frames back into a waveform."""
    return _decoder(cfg, prefix, own_depths=True)


@tower("vibevoice_acoustic_tokenizer", base="")
def tokenizer(cfg: Config, prefix: str) -> Components:
    """Read both ways of the tokenizer."""
    return (_encoder(cfg, joined(prefix, "encoder")), _decoder(cfg, joined(prefix, "decoder")))


def _connector(prefix: str, inputs: int, hidden: int, *, first: str, norm: str, second: str) -> Component:
    tensors = (
        *parts.linear(first, hidden, inputs, bias=True, role="projector"),
        *parts.norm(norm, hidden),
        *parts.linear(second, hidden, hidden, bias=True, role="projector"),
    )
    return Component(kind="projector", name="projector", hidden_size=hidden, tensors=tensors, prefix=prefix)


def _written(cfg: Config, prefix: str) -> tuple[Components, Built]:
    """Return the decoder of text and, apart, its head."""
    text = cfg.nested("text_config")
    body = read_part(text, joined(prefix, "language_model"))
    tied = cfg.flag("tie_word_embeddings", False)
    return body, language_head(text.over(tie_word_embeddings=tied), body[0].hidden_size)


@model("vibevoice_asr")
def vibevoice_asr(cfg: Config, class_name: str) -> Built:
    """VibeVoice's transcriber: what is said and how it sounds, heard apart and added."""
    prefix = "" if is_bare(class_name) else "model"
    body, head = _written(cfg, prefix)
    components: Components = body
    for kind in ("acoustic", "semantic"):
        own = cfg.nested(f"{kind}_tokenizer_encoder_config")
        components += (
            _encoder(own, joined(prefix, f"{kind}_tokenizer_encoder")),
            _connector(
                joined(prefix, "multi_modal_projector"), own.hidden_size, body[0].hidden_size, first=f"{kind}_linear_1",
                norm=f"{kind}_norm", second=f"{kind}_linear_2",
            ),
        )  # fmt: skip
    return Built(components) if not prefix else Built((*components, *head.components), tied=head.tied)


def _diffusion_head(cfg: Config, wanted: int, prefix: str) -> Component:
    hidden, latent = cfg.hidden_size, cfg.integer("latent_size")
    layer = Layer(
        (
            parts.mlp(
                hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), name="ffn", bias=cfg.flag("mlp_bias")
            ),
        ),
        (*parts.norm("norm", hidden), *parts.linear("linear", 3 * hidden, hidden)),
    )  # fmt: skip
    tensors = (
        *parts.linear("noisy_images_proj", hidden, latent),
        *parts.linear("cond_proj", hidden, wanted),
        *parts.linear("timestep_proj.fc1", hidden, cfg.integer("frequency_embedding_size")),
        *parts.linear("timestep_proj.fc2", hidden, hidden),
        *parts.linear("final_layer.linear_1", 2 * hidden, hidden),
        *parts.linear("final_layer.linear_2", latent, hidden, role="head"),
    )
    return Component(
        kind="other", name="diffusion head", hidden_size=hidden, layers=(layer,) * cfg.num_layers, tensors=tensors,
        prefix=prefix, layers_prefix=joined(prefix, "layers"),
    )  # fmt: skip


@model("vibevoice")
def vibevoice(cfg: Config, class_name: str) -> Built:
    """VibeVoice [1]_: each step of the decoder is a frame that the diffusion head draws and the tokenizer sounds."""
    body, head = _written(cfg, "model")
    hidden = body[0].hidden_size
    sound, meaning = cfg.nested("audio_config"), cfg.nested("semantic_model_config")
    names = {"first": "linear_1", "norm": "act", "second": "linear_2"}
    scales = (*parts.parameter("latent_scaling_factor"), *parts.parameter("latent_bias_factor"))
    return Built(
        (
            *body,
            _encoder(sound, "model.audio_tower.encoder"),
            _decoder(sound, "model.audio_tower.decoder"),
            _encoder(meaning, "model.semantic_tokenizer_encoder"),
            _connector("model.multi_modal_projector", sound.hidden_size, hidden, **names),
            _connector("model.semantic_connector", meaning.hidden_size, hidden, **names),
            _diffusion_head(cfg.nested("diffusion_head_config"), hidden, "model.diffusion_head"),
            Component(kind="other", name="scales", hidden_size=hidden, tensors=scales, prefix="model"),
            *head.components,
        ),
        tied=head.tied,
    )
