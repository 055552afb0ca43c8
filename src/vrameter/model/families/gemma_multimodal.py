"""Gemma 3n and Gemma 4 whole: towers for images and sound beside the decoder of `gemma_edge`.

References
----------
.. [1] Google, "Gemma 3n", 2025; "Gemma 4", 2026; A. Gulati et al., "Conformer", 2020, arXiv:2005.08100 (the audio layers).
.. [2] Y. Zhang et al., "Universal Speech Model", 2023, arXiv:2303.01037 (relative positions within chunks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Layer, Tensors, joined
from vrameter.model.audio_input import AudioInput, Convolution
from vrameter.model.config import Config
from vrameter.model.families.gemma import SANDWICH
from vrameter.model.families.gemma_edge import sharing
from vrameter.model.families.multimodal import (
    head_of,
    is_headless,
    nested_as,
    projector_of,
    text_alone,
    text_config,
    tied,
)
from vrameter.model.families.registry import Built, Components, model, read_part, tower
from vrameter.model.families.vision_parts import encoder_layer, flat_patches, listed_sizes, pair, tower_of
from vrameter.model.image_input import PatchBudget

CLIPS = ("input_min", "input_max", "output_min", "output_max")
MEL_RATE, MEL_BINS = 100, 128  # columns a second, bins of a column [processors of both]


def clipped(cfg: Config, tensors: Tensors) -> Tensors:
    """Return linear layers as Gemma 4 wraps them: one level deeper, with four stored bounds on request."""
    bounds = cfg.flag("use_clipped_linears", False)
    wrapped: Tensors = ()
    for tensor in tensors:
        if not tensor.linear:
            wrapped += (tensor,)
            continue
        name = tensor.name.removesuffix(".weight")
        wrapped += (tensor._replace(name=f"{name}.linear.weight"),)
        if bounds:
            wrapped += tuple(each for clip in CLIPS for each in parts.buffer(f"{name}.{clip}"))
    return wrapped


def clipped_layer(cfg: Config, layer: Layer) -> Layer:
    """Return a layer whose parts are wrapped so."""
    return Layer(tuple(replace(part, tensors=clipped(cfg, part.tensors)) for part in layer.parts), layer.tensors)


@tower("gemma4_vision")
def gemma4_vision(cfg: Config, prefix: str) -> Component:
    """Gemma 4's tower: Gemma's layers on patches laid out as vectors; patches are pooled to tokens."""
    hidden = cfg.hidden_size
    layer = encoder_layer(
        cfg, norms=SANDWICH, norm_bias=False,
        attention={"o": "o_proj", "bias": False, "qk_norm": cfg.head_dim, "num_kv_heads": cfg.num_kv_heads,
                   "head_dim": cfg.head_dim},
        mlp={"gated": True, "up": "up_proj", "down": "down_proj", "bias": False},
    )  # fmt: skip
    scale = (*parts.buffer("std_bias", hidden), *parts.buffer("std_scale", hidden))
    places = (2, cfg.integer("position_embedding_size"), hidden)
    tensors = (
        *flat_patches(cfg, "patch_embedder.input_proj", hidden, bias=False),
        *parts.parameter("patch_embedder.position_embedding_table", *places, role="embedding", slot="position"),
        *(scale if cfg.flag("standardize", False) else ()),
    )
    merge = cfg.integer("pooling_kernel_size")
    tokens = cfg.integer("default_output_length", 280)
    image = PatchBudget(patch_size=pair(cfg, "patch_size"), merge=merge, budget=tokens * merge**2)
    return tower_of(cfg, prefix, clipped_layer(cfg, layer), tensors=tensors, image=image)


def conformer_feed(name: str, hidden: int) -> Tensors:
    """Return one of a conformer's two half perceptrons."""
    return (
        *parts.linear(f"{name}.ffw_layer_1", 4 * hidden, hidden, role="mlp", slot="up"),
        *parts.linear(f"{name}.ffw_layer_2", hidden, 4 * hidden, role="mlp", slot="down"),
        *parts.norm(f"{name}.pre_layer_norm", hidden),
        *parts.norm(f"{name}.post_layer_norm", hidden),
    )


def conformer_layer(
    cfg: Config, heads: int, kernel: int, *, feeds: tuple[str, str], attention: str, out: str, positions: str,
    norms: tuple[str, ...], wrap: Callable[[Tensors], Tensors],
) -> Layer:  # fmt: skip
    """Return a conformer layer: half a perceptron, attention in chunks, a short convolution, half a perceptron [2]_."""
    hidden = cfg.hidden_size
    dim = hidden // heads
    attending = Attention(
        tensors=(
            *parts.parameter(f"{attention}.per_dim_scale", dim, role="attention"),
            *parts.linear(positions, hidden, hidden, role="attention", slot="position"),
            *wrap(
                (
                    *parts.linear(f"{attention}.q_proj", hidden, hidden, role="attention", slot="q"),
                    *parts.linear(f"{attention}.k_proj", hidden, hidden, role="attention", slot="k"),
                    *parts.linear(f"{attention}.v_proj", hidden, hidden, role="attention", slot="v"),
                    *parts.linear(out, hidden, hidden, role="attention", slot="o"),
                )
            ),
        ),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=dim,
        value_dim=dim,
        scope="encoder",
    )
    feed = parts.mlp(hidden_size=hidden, intermediate_size=4 * hidden, gated=False)
    feed = replace(feed, tensors=wrap(tuple(tensor for name in feeds for tensor in conformer_feed(name, hidden))))
    convolution = wrap(
        (
            *parts.linear("lconv1d.linear_start", 2 * hidden, hidden, role="convolution"),
            *parts.linear("lconv1d.linear_end", hidden, hidden, role="convolution"),
            *parts.conv("lconv1d.depthwise_conv1d", hidden, 1, kernel, bias=False),
            *parts.norm("lconv1d.pre_layer_norm", hidden),
            *parts.norm("lconv1d.conv_norm", hidden),
        )
    )
    own = tuple(tensor for name in norms for tensor in parts.norm(name, hidden))
    return Layer((attending, feed), (*convolution, *own))


def audio_tower(
    cfg: Config,
    prefix: str,
    layer: Layer,
    count: int,
    tensors: Tensors,
    *,
    layers_name: str,
    channels: Sequence[int],
    frames_per_token: int = 1,
) -> Component:
    """Return an audio tower of equal layers behind two convolutions that quarter the rate."""
    halvings = tuple(Convolution(width, 3, 2, 1) for width in channels)
    audio = AudioInput(MEL_RATE, MEL_BINS, halvings, frames_per_token=frames_per_token)
    return Component(
        kind="audio",
        name="audio tower",
        hidden_size=cfg.hidden_size,
        layers=(layer,) * count,
        tensors=tensors,
        prefix=prefix,
        layers_prefix=joined(prefix, layers_name),
        audio=audio,
    )


@tower("gemma4_audio")
def gemma4_audio(cfg: Config, prefix: str) -> Component:
    """Gemma 4's audio tower [1]_."""
    hidden, (first, second) = cfg.hidden_size, listed_sizes(cfg, "subsampling_conv_channels", 2, [128, 32])[:2]
    layer = conformer_layer(
        cfg, cfg.num_heads, cfg.integer("conv_kernel_size"), feeds=("feed_forward1", "feed_forward2"),
        attention="self_attn", out="self_attn.post", positions="self_attn.relative_k_proj",
        norms=("norm_pre_attn", "norm_post_attn", "norm_out"), wrap=lambda tensors: clipped(cfg, tensors),
    )  # fmt: skip
    name, outputs = "subsample_conv_projection", cfg.integer("output_proj_dims", 1536)
    tensors = (
        *parts.conv(f"{name}.layer0.conv", first, 1, 3, 3, bias=False),
        *parts.norm(f"{name}.layer0.norm", first),
        *parts.conv(f"{name}.layer1.conv", second, first, 3, 3, bias=False),
        *parts.norm(f"{name}.layer1.norm", second),
        *parts.linear(f"{name}.input_proj_linear", hidden, first // 4 * second),
        *parts.linear("output_proj", outputs, hidden, bias=True, role="projector"),
    )
    return audio_tower(cfg, prefix, layer, cfg.num_layers, tensors, layers_name="layers", channels=(first, second))


def pairs(cfg: Config, name: str, default: int) -> list[tuple[int, int]]:
    """Return two pairs of sizes, over time and over bins."""
    value = cfg.sequence(name, [[default, default]] * 2)
    sizes = [tuple(item) for item in value if isinstance(item, (list, tuple)) and len(item) == 2]
    if len(sizes) != 2 or not all(isinstance(size, int) and 0 < size < 1024 for item in sizes for size in item):
        raise cfg.fail(name, "%(value)s is not a list of whole numbers.", value=value)
    return [(first, second) for first, second in sizes]


@tower("gemma3n_audio")
def gemma3n_audio(cfg: Config, prefix: str) -> Component:
    """Gemma 3n's audio tower [1]_."""
    hidden = cfg.hidden_size
    layer = conformer_layer(
        cfg, cfg.integer("conf_num_attention_heads"), cfg.integer("conf_conv_kernel_size"),
        feeds=("ffw_layer_start", "ffw_layer_end"), attention="attention.attn", out="attention.post",
        positions="attention.attn.relative_position_embedding.pos_proj",
        norms=("attention.pre_attn_norm", "attention.post_norm", "norm"), wrap=lambda tensors: tensors,
    )  # fmt: skip
    tensors: Tensors = ()
    inputs, bins = 1, cfg.integer("input_feat_size")
    widths = listed_sizes(cfg, "sscp_conv_channel_size", 2, [128, 32])[:2]
    kernels, strides = pairs(cfg, "sscp_conv_kernel_size", 3), pairs(cfg, "sscp_conv_stride_size", 2)
    for index, (width, kernel, stride) in enumerate(zip(widths, kernels, strides, strict=True)):
        name = f"subsample_conv_projection.conv_{index}"
        tensors += parts.conv(f"{name}.conv", width, inputs, *kernel, bias=False)
        tensors += parts.norm(f"{name}.norm", width)
        inputs, bins = width, max((bins + 2 - kernel[1]) // stride[1] + 1, 1)
    tensors += parts.linear("subsample_conv_projection.input_proj_linear", hidden, inputs * bins)
    reduction = cfg.integer("conf_reduction_factor", 4)
    return audio_tower(
        cfg, prefix, layer, cfg.layers("conf_num_hidden_layers"), tensors, layers_name="conformer", channels=widths,
        frames_per_token=reduction,
    )  # fmt: skip


def whole(
    cfg: Config, class_name: str, bridge: Callable[[Config, Component | None, Component, str], Component]
) -> Built:
    """Return a decoder and the towers that the config has; `bridge` gives what brings one's output to its width."""
    text = text_config(cfg)
    alone = text_alone(text, class_name)
    if alone is not None:
        return alone
    base = "" if is_headless(class_name) else "model"
    body, *_ = read_part(text, joined(base, "language_model"))
    components: Components = (body,)
    for sense in ("vision", "audio"):
        if not cfg.has_nested(f"{sense}_config"):
            continue
        own = nested_as(cfg, f"{sense}_config", f"{cfg.model_type}_{sense}")
        seen = read_part(own, joined(base, f"{sense}_tower")) if own.model_type not in ENCODER_FREE else ()
        components += seen
        components += (bridge(own, seen[0] if seen else None, body, joined(base, f"embed_{sense}")),)
    if not base:
        return Built(components)
    last = head_of(body, is_tied=tied(cfg, text))
    return Built((*components, *last.components), tied=last.tied)


ENCODER_FREE = ("gemma4_unified_vision", "gemma4_unified_audio")


@model("gemma4", "gemma4_unified", "embedding_gemma2")
def gemma4(cfg: Config, class_name: str) -> Built:
    """Gemma 4 or EmbeddingGemma 2 with the towers that its config has; the unified ones have a projection of raw patches instead."""

    def bridge(own: Config, seen: Component | None, body: Component, prefix: str) -> Component:
        if seen is None:
            return raw_bridge(own, body, prefix)
        width = own.integer("output_proj_dims", 1536) if seen.kind == "audio" else seen.hidden_size
        matrix = parts.linear("embedding_projection", body.hidden_size, width, role="projector")
        return projector_of(body, matrix, prefix)

    return whole(cfg, class_name, bridge)


def raw_bridge(cfg: Config, body: Component, prefix: str) -> Component:
    """Return what turns pixels or samples into tokens without a tower."""
    if cfg.model_type == "gemma4_unified_audio":
        width = cfg.integer("output_proj_dims", cfg.integer("audio_embed_dim", 640))
        matrix = parts.linear("embedding_projection", body.hidden_size, width, role="projector")
        return projector_of(body, matrix, prefix)
    width, merge = cfg.integer("mm_embed_dim"), cfg.integer("pooling_kernel_size", 3)
    down, right = pair(cfg, "patch_size")
    pixels = 3 * down * right * merge**2
    outputs = cfg.integer("output_proj_dims", width)
    places = (cfg.integer("mm_posemb_size"), 2, width)
    tensors = (
        *parts.norm("patch_ln1", pixels, bias=True),
        *parts.linear("patch_dense", width, pixels, bias=True, role="projector"),
        *parts.norm("patch_ln2", width, bias=True),
        *parts.parameter("pos_embedding", *places, role="embedding", slot="position"),
        *parts.norm("pos_norm", width, bias=True),
        *parts.linear("multimodal_embedder.embedding_projection", body.hidden_size, outputs, role="projector"),
    )
    image = PatchBudget(patch_size=(down, right), merge=merge, budget=280 * merge**2)
    return Component(kind="vision", name="patches", hidden_size=width, tensors=tensors, prefix=prefix, image=image)


@model("gemma3n")
def gemma3n(cfg: Config, class_name: str) -> Built:
    """Gemma 3n: soft tokens of both senses, and a table of hard ones."""

    def bridge(own: Config, seen: Component | None, body: Component, prefix: str) -> Component:
        width = own.integer("hidden_size")
        tensors = (
            *parts.embedding("embedding", own.integer("vocab_size"), width),
            *parts.norm("hard_embedding_norm", width),
            *parts.norm("soft_embedding_norm", width),
            *parts.linear("embedding_projection", body.hidden_size, width, role="projector"),
        )
        return projector_of(body, tensors, prefix)

    return replace(whole(cfg, class_name, bridge), stored_extra=unread_keys(text_config(cfg)))


def unread_keys(cfg: Config) -> Tensors:
    """Return the keys and values that Gemma 3n's files hold for layers that read those of others."""
    width, dim, hidden = cfg.num_kv_heads * cfg.head_dim, cfg.head_dim, cfg.hidden_size
    return tuple(
        tensor._replace(name=f"language_model.layers.{index}.self_attn.{tensor.name}")
        for index, shares in enumerate(sharing(cfg))
        if shares
        for tensor in (
            *parts.linear("k_proj", width, hidden, role="attention", slot="k"),
            *parts.linear("v_proj", width, hidden, role="attention", slot="v"),
            *parts.norm("k_norm", dim),
        )
    )
