"""Encoders that read a spectrogram as an image: the Audio Spectrogram Transformer [1]_, CLAP [2]_.

References
----------
.. [1] Y. Gong et al., "AST", 2021, arXiv:2104.01778.
.. [2] Y. Wu et al., "Large-scale Contrastive Language-Audio Pretraining", 2022, arXiv:2211.06687.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.audio_input import AudioInput
from vrameter.model.config import Config
from vrameter.model.families.bert import bert_model, even_heads
from vrameter.model.families.encoder_heads import linear, task_of
from vrameter.model.families.listeners import MEL_RATE
from vrameter.model.families.lists import filled, several
from vrameter.model.families.registry import ENTRIES, Built, Components, model, num_labels, tower


def _ast_heads(cfg: Config, class_name: str) -> Built:
    base = task_of(class_name) == "Model"
    body = audio_spectrogram_transformer(cfg, "" if base else ENTRIES[cfg.model_type].base)
    hidden = cfg.hidden_size
    head: Tensors = ()
    if not base:
        head = (
            *parts.norm("classifier.layernorm", hidden, bias=True),
            *linear("classifier.dense", num_labels(cfg), hidden),
        )
    return Built((body, Component(kind="head", name="head", hidden_size=hidden, tensors=head)))


@tower("audio-spectrogram-transformer", base="audio_spectrogram_transformer", heads=_ast_heads)
def audio_spectrogram_transformer(cfg: Config, prefix: str) -> Component:
    """AST [1]_: overlapping patches of ten seconds of mel columns, two tokens before them."""
    hidden, (heads, dim) = cfg.hidden_size, even_heads(cfg)
    patch, columns = cfg.integer("patch_size"), cfg.integer("max_length")
    stride = cfg.integer("time_stride")
    rows = (cfg.integer("num_mel_bins") - patch) // cfg.integer("frequency_stride") + 1
    across = (columns - patch) // stride + 1
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, head_dim=dim, name="attention", bias=cfg.flag("qkv_bias", True), o_bias=True,
        scope="encoder",
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=hidden,
        intermediate_size=cfg.integer("intermediate_size"),
        gated=False,
        bias=True,
        up="fc1",
        down="fc2",
    )
    norms = (*parts.norm("layernorm_before", hidden, bias=True), *parts.norm("layernorm_after", hidden, bias=True))
    count = rows * across + 2
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(Layer((attention, feed), norms),) * cfg.num_layers,
        tensors=(
            *parts.parameter("embeddings.cls_token", 1, 1, hidden, role="embedding"),
            *parts.parameter("embeddings.distillation_token", 1, 1, hidden, role="embedding"),
            *parts.parameter("embeddings.position_embeddings", 1, count, hidden, role="embedding", slot="position"),
            *parts.conv("embeddings.patch_embeddings.projection", hidden, 1, patch, patch),
            *parts.norm("layernorm", hidden, bias=True),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        max_positions=count,
        audio=AudioInput(MEL_RATE, cfg.integer("num_mel_bins"), max_frames=count, padded=True),
    )


# -- CLAP -------------------------------------------------------------------------------------------------------------------


def _fusion(name: str, width: int, inner: int) -> Tensors:
    """Return what weighs two views of a long recording against each other."""
    tensors: Tensors = ()
    for kind, places in (("local_att", (0, 1, 3, 4)), ("global_att", (1, 2, 4, 5))):
        first, first_norm, second, second_norm = places
        tensors += parts.conv(f"{name}.{kind}.{first}", inner, width, 1, 1)
        tensors += parts.batch_norm(f"{name}.{kind}.{first_norm}", inner)
        tensors += parts.conv(f"{name}.{kind}.{second}", width, inner, 1, 1)
        tensors += parts.batch_norm(f"{name}.{kind}.{second_norm}", width)
    return tensors


def _pair(cfg: Config, name: str) -> tuple[int, int]:
    value = filled(cfg, name)
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _window_layer(width: int, heads: int, window: int, ratio: float, bias: bool) -> Layer:
    name = "attention"
    attention = parts.attention(
        hidden_size=width, num_heads=heads, name=name, q="self.query", k="self.key", v="self.value", o="output.dense",
        bias=bias, o_bias=True, scope="encoder",
        extra=(
            *parts.parameter(
                f"{name}.self.relative_position_bias_table", (2 * window - 1) ** 2, heads, role="attention", slot="position"
            ),
            *parts.buffer(f"{name}.self.relative_position_index", window**2, window**2),
        ),
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=width, intermediate_size=int(ratio * width), gated=False, bias=True, name="", up="intermediate.dense",
        down="output.dense",
    )  # fmt: skip
    norms = (*parts.norm("layernorm_before", width, bias=True), *parts.norm("layernorm_after", width, bias=True))
    return Layer((attention, feed), norms)


@tower("clap_audio_model", base="")
def clap_audio_model(cfg: Config, prefix: str) -> Components:
    """CLAP's audio side [2]_: a Swin transformer over the spectrogram; each stage halves both axes and doubles the width."""
    body = joined(prefix, "audio_encoder")
    first, window = cfg.integer("patch_embeds_hidden_size"), cfg.integer("window_size")
    depths, heads = several(cfg, "depths", "num_attention_heads")
    fused = cfg.flag("enable_fusion")
    patch, stride = _pair(cfg, "patch_size"), _pair(cfg, "patch_stride")
    channels = cfg.integer("patch_embed_input_channels")
    by_channel = fused and cfg.text("fusion_type", "") == "channel_map"
    last, bins = first * 2 ** (len(depths) - 1), cfg.integer("num_mel_bins")
    tensors = parts.conv("patch_embed.proj", first, channels * (4 if by_channel else 1), *patch)
    if cfg.flag("enable_patch_layer_norm", True):
        tensors += parts.norm("patch_embed.norm", first, bias=True)
    if fused and not by_channel:
        tensors += _fusion("patch_embed.fusion_model", first, first // cfg.integer("aff_block_r"))
        tensors += parts.conv("patch_embed.mel_conv2d", first, channels, patch[0], patch[1] * 3)
    side = cfg.integer("spec_size") // stride[0]
    stages = []
    for index, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        width = first * 2**index
        layer = _window_layer(width, count, min(window, side), cfg.number("mlp_ratio"), cfg.flag("qkv_bias", True))
        down: Tensors = ()
        if index < len(depths) - 1:
            name = f"layers.{index}.downsample"
            down = (
                *parts.linear(f"{name}.reduction", 2 * width, 4 * width),
                *parts.norm(f"{name}.norm", 4 * width, bias=True),
            )
        stages.append(
            Component(
                kind="audio", name="audio", hidden_size=width, layers=(layer,) * depth, prefix=body,
                tensors=(*(tensors if index == 0 else ()), *down), layers_prefix=joined(body, f"layers.{index}.blocks"),
                audio=AudioInput(MEL_RATE, bins) if index == 0 else None,
            )
        )  # fmt: skip
        side = max(1, side // 2)
    final = (*parts.batch_norm("batch_norm", bins), *parts.norm("norm", last, bias=True))
    return (*stages, Component(kind="audio", name="audio", hidden_size=last, tensors=final, prefix=body))


@tower("clap_text_model", base="")
def clap_text_model(cfg: Config, prefix: str) -> Component:
    """CLAP's text side [2]_: RoBERTa."""
    rows = cfg.integer("max_position_embeddings")
    numbers = (
        *parts.buffer("embeddings.position_ids", 1, rows),
        *parts.buffer("embeddings.token_type_ids", 1, rows),
    )
    return bert_model(cfg, prefix, pooler="pooler.dense", extra=numbers)


def _projection(name: str, width: int, inputs: int) -> Tensors:
    return (*linear(f"{name}.linear1", width, inputs), *linear(f"{name}.linear2", width, width))


@model("clap")
def clap(cfg: Config, class_name: str) -> Built:
    """CLAP [2]_: sound and text projected into one space."""
    heard, text, width = cfg.nested("audio_config"), cfg.nested("text_config"), cfg.integer("projection_dim")
    tensors = (
        *parts.parameter("logit_scale_a"),
        *parts.parameter("logit_scale_t"),
        *_projection("text_projection", width, text.hidden_size),
        *_projection("audio_projection", width, heard.integer("hidden_size")),
    )
    return Built(
        (
            clap_text_model(text, "text_model"),
            *clap_audio_model(heard, "audio_model"),
            Component(kind="projector", name="projector", hidden_size=width, tensors=tensors),
        )
    )
