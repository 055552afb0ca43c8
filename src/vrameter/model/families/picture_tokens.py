"""Models that turn images into tokens of a codebook and back: Chameleon, Emu3, Janus, GLM-Image.

A convolutional encoder [1]_ shrinks the image, each position is replaced by the nearest entry of a codebook, and where a
model also draws, a decoder of the same kind goes back. Shapes follow the classes of transformers 5.23.

References
----------
.. [1] P. Esser et al., "Taming Transformers for High-Resolution Image Synthesis", 2020, arXiv:2012.09841 (VQGAN).
.. [2] Chameleon Team, "Chameleon", 2024, arXiv:2405.09818.
.. [3] X. Wang et al., "Emu3: Next-Token Prediction is All You Need", 2024, arXiv:2409.18869.
.. [4] C. Wu et al., "Janus", 2024, arXiv:2410.13848.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.glm_vl import fused_glm
from vrameter.model.families.llama import dense_decoder, full_scopes, rounded_heads
from vrameter.model.families.multimodal import head_of, is_headless, text_alone, tied, vision_language
from vrameter.model.families.registry import Built, decoder, model, read_part, tower
from vrameter.model.families.vision_parts import (
    channels,
    encoder_layer,
    fixed_grid,
    grid,
    listed_sizes,
    patches,
    plain_mlp,
    tower_of,
)
from vrameter.model.image_input import AreaBounded, ImageInput

Norm = Callable[[str, int], Tensors]
Place = Callable[[str, int, Norm], Tensors]


def group_norm(name: str, width: int) -> Tensors:
    """Return a norm over groups of channels."""
    return parts.norm(name, width, bias=True)


def conv_attention(name: str, width: int, norm: Norm) -> Tensors:
    """Return attention between positions whose matrices are convolutions of one position, with its norm inside."""
    matrices = (
        tensor for which in ("q", "k", "v", "proj_out") for tensor in parts.conv(f"{name}.{which}", width, width, 1, 1)
    )
    return (*norm(f"{name}.norm", width), *matrices)


@dataclass(frozen=True, slots=True)
class Style:
    """How a family names the parts of its encoder and decoder.

    `attends` says at which level, counted from the full resolution, attention stands; `inside` and `middle` write it
    after a block of a level and between the two blocks in the middle.
    """

    attends: Callable[[int], bool]
    down: str = "down"
    mid: str = "mid"
    up: str = "up"
    inside: Callable[[str, int, int, Norm], Tensors] = lambda place, index, width, norm: conv_attention(
        f"{place}.attn.{index}", width, norm
    )
    middle: Place = lambda mid, width, norm: conv_attention(f"{mid}.attn_1", width, norm)
    up_reversed: bool = False


def residual(name: str, inputs: int, outputs: int, norm: Norm) -> Tensors:
    """Return two convolutions with norms, and a third where the width changes."""
    return (
        *norm(f"{name}.norm1", inputs),
        *parts.conv(f"{name}.conv1", outputs, inputs, 3, 3),
        *norm(f"{name}.norm2", outputs),
        *parts.conv(f"{name}.conv2", outputs, outputs, 3, 3),
        *(parts.conv(f"{name}.nin_shortcut", outputs, inputs, 1, 1) if inputs != outputs else ()),
    )


def middle(style: Style, width: int, norm: Norm) -> Tensors:
    """Return the blocks at the lowest resolution."""
    return (
        *residual(f"{style.mid}.block_1", width, width, norm),
        *style.middle(style.mid, width, norm),
        *residual(f"{style.mid}.block_2", width, width, norm),
    )


def widths_of(cfg: Config) -> list[int]:
    """Return the channels at each level."""
    return [cfg.integer("base_channels") * factor for factor in listed_sizes(cfg, "channel_multiplier", 1)]


def latent_channels(cfg: Config) -> int:
    """Return what the encoder makes of a position."""
    return int(cfg.integer("latent_channels") * (2 if cfg.flag("double_latent", False) else 1))


def image_encoder(cfg: Config, style: Style) -> Tensors:
    """Return the encoder [1]_, names below it."""
    widths, count = widths_of(cfg), cfg.layers("num_res_blocks")
    tensors = parts.conv("conv_in", cfg.integer("base_channels"), channels(cfg), 3, 3)
    width = cfg.integer("base_channels")
    for level, wide in enumerate(widths):
        place = f"{style.down}.{level}"
        for index in range(count):
            tensors += residual(f"{place}.block.{index}", width, wide, group_norm)
            width = wide
            if style.attends(level):
                tensors += style.inside(place, index, width, group_norm)
        if level < len(widths) - 1:
            tensors += parts.conv(f"{place}.downsample.conv", width, width, 3, 3)
    return (
        *tensors,
        *middle(style, width, group_norm),
        *group_norm("norm_out", width),
        *parts.conv("conv_out", latent_channels(cfg), width, 3, 3),
    )


def image_decoder(cfg: Config, style: Style, norm: Norm = group_norm) -> Tensors:
    """Return the decoder, names below it."""
    widths, count = widths_of(cfg), cfg.layers("num_res_blocks")
    width = widths[-1]
    tensors = (*parts.conv("conv_in", width, cfg.integer("latent_channels"), 3, 3), *middle(style, width, norm))
    for level in reversed(range(len(widths))):
        place = f"{style.up}.{len(widths) - 1 - level if style.up_reversed else level}"
        for index in range(count + 1):
            tensors += residual(f"{place}.block.{index}", width, widths[level], norm)
            width = widths[level]
            if style.attends(level):
                tensors += style.inside(place, index, width, norm)
        if level:
            tensors += parts.conv(f"{place}.upsample.conv", width, width, 3, 3)
    return (*tensors, *norm("norm_out", width), *parts.conv("conv_out", cfg.integer("out_channels"), width, 3, 3))


def codebook(
    cfg: Config, entries: str = "num_embeddings", kernel: tuple[int, ...] = (1, 1), *, deep: str = ""
) -> Tensors:
    """Return the codebook and the convolutions before and after it; `deep` is their module below the name."""
    width, wide = cfg.integer("embed_dim"), cfg.integer("latent_channels")
    return (
        *parts.embedding("quantize.embedding", cfg.integer(entries), width, slot="codebook"),
        *parts.conv(joined("quant_conv", deep), width, wide, *kernel),
        *parts.conv(joined("post_quant_conv", deep), wide, width, *kernel),
    )


def tokenizer(cfg: Config, prefix: str, tensors: Tensors, image: ImageInput | None = None) -> Component:
    """Return what turns images into tokens as a component."""
    return Component(
        kind="vision", name="image tokenizer", hidden_size=cfg.integer("embed_dim"), tensors=tensors, prefix=prefix,
        image=image,
    )  # fmt: skip


def shrinkage(cfg: Config) -> int:
    """Return the edge of the square of pixels that becomes one token."""
    return int(2 ** min(len(listed_sizes(cfg, "channel_multiplier", 1)) - 1, 16))


# -- Chameleon -----------------------------------------------------------------------------------------


@tower("chameleon_vqgan")
def chameleon_vqgan(cfg: Config, prefix: str) -> Component:
    """Chameleon's tokenizer, which only reads."""
    plain = cfg.text("attn_type", "vanilla") == "vanilla"
    resolutions = cfg.integers("attn_resolutions", []) if plain else []
    size, edge = cfg.integer("resolution"), shrinkage(cfg)
    style = Style(
        attends=lambda level: size // 2**level in resolutions,
        middle=(lambda mid, width, norm: conv_attention(f"{mid}.attn_1", width, norm))
        if plain
        else (lambda mid, width, norm: ()),
    )
    tensors = (*parts.below("encoder", image_encoder(cfg, style)), *codebook(cfg))
    image = ImageInput(patch_size=(edge, edge), image_size=(size, size), extra_tokens=2)
    return tokenizer(cfg, prefix, tensors, image)


@model("chameleon")
def chameleon(cfg: Config, class_name: str) -> Built:
    """Chameleon [2]_: Llama with a norm of its own for every head, and images as tokens."""
    base = "" if is_headless(class_name) else "model"
    cfg = rounded_heads(cfg)
    norms = tuple(
        tensor._replace(shape=(heads, cfg.head_dim))
        for name, heads in (("q_norm", cfg.num_heads), ("k_norm", cfg.num_kv_heads))
        for tensor in parts.norm(f"self_attn.{name}", heads * cfg.head_dim, bias=True)
    )
    body = dense_decoder(cfg, base, scopes=full_scopes(cfg), attention_traits={"extra": norms})
    components = (body, chameleon_vqgan(cfg.nested("vq_config"), joined(base, "vqmodel")))
    if not base:
        return Built(components)
    last = head_of(body, is_tied=tied(cfg, cfg))
    return Built((*components, *last.components), tied=last.tied)


# -- Emu3 ----------------------------------------------------------------------------------------------


def _time_block(name: str, inputs: int, outputs: int) -> Tensors:
    """Return Emu3's block over frames."""
    return (
        *parts.batch_norm(f"{name}.norm1", inputs),
        *parts.conv(f"{name}.conv1.conv", outputs, inputs, 3, 3, 3),
        *parts.batch_norm(f"{name}.norm2", outputs),
        *parts.conv(f"{name}.conv2.conv", outputs, outputs, 3, 3, 3),
    )


@tower("emu3_vqgan")
def emu3_vqgan(cfg: Config, prefix: str) -> Component:
    """Emu3's tokenizer of images and of frames, and its decoder, whose norms look at the codes again."""
    levels, hidden = cfg.integers("attn_resolutions", []), cfg.hidden_size
    codes, wide, narrow = cfg.integer("embed_dim"), latent_channels(cfg), cfg.integer("latent_channels")
    count, times = cfg.layers("num_res_blocks"), cfg.integer("temporal_downsample_factor", 4).bit_length() - 1

    def attention(name: str) -> Tensors:
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        return tuple(tensor for which in names for tensor in parts.linear(f"{name}.{which}", hidden, hidden, bias=True))

    def norm_of_codes(name: str, width: int) -> Tensors:
        return (
            *group_norm(f"{name}.norm_layer", width),
            *parts.conv(f"{name}.conv_y", width, codes, 1, 1),
            *parts.conv(f"{name}.conv_b", width, codes, 1, 1),
        )

    style = Style(
        attends=lambda level: level in levels,
        down="down_block.down",
        mid="middle_block",
        up="up_block.up",
        inside=lambda place, index, width, norm: (
            *attention(f"{place}.attn.{index}"),
            *norm(f"{place}.attn_norms.{index}", width),
        ),
        middle=lambda mid, width, norm: (*attention(f"{mid}.attn_1"), *norm(f"{mid}.attn_norm", width)),
    )

    def over_time(width: int, frames: int) -> Tensors:
        return (
            *(
                tensor
                for index in range(times)
                for tensor in parts.conv(f"time_conv.{index}.conv.conv", width, width, frames, 3, 3)
            ),
            *(tensor for index in range(count) for tensor in _time_block(f"time_res_stack.{index}", width, width)),
        )

    tensors = (
        *parts.below("encoder", (*image_encoder(cfg, style), *over_time(wide, 4))),
        *parts.below("decoder", (*image_decoder(cfg, style, norm_of_codes), *over_time(narrow, 3))),
        *codebook(cfg, "codebook_size", (3, 1, 1), deep="conv"),
    )
    edge = shrinkage(cfg)
    # Bounds of an image's area by the processor's class. [transformers 5.23 image_processing_emu3]
    image = AreaBounded(patch_size=(edge, edge), min_pixels=512 * 512, max_pixels=1024 * 1024)
    return tokenizer(cfg, prefix, tensors, image)


@decoder("emu3_text_model")
def emu3_text(cfg: Config, prefix: str) -> Component:
    """Emu3's decoder: Llama."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, scopes=full_scopes(cfg))


@model("emu3")
def emu3(cfg: Config, class_name: str) -> Built:
    """Emu3 [3]_: a decoder whose vocabulary holds the codes of images."""
    return vision_language(cfg, class_name, tower="vqmodel", vision="vq_config", text="text_model")


# -- Janus ---------------------------------------------------------------------------------------------


@tower("janus_vision_model")
def janus_vision(cfg: Config, prefix: str) -> Component:
    """Janus' tower: SigLIP's."""
    hidden = cfg.hidden_size
    layer = encoder_layer(
        cfg,
        attention={
            "o": "projection_layer", "bias": cfg.flag("attention_bias", True), "o_bias": True,
            "qk_norm": hidden if cfg.flag("use_qk_norm", False) else None, "qk_norm_bias": True,
        },
        mlp={"intermediate_size": int(hidden * cfg.number("mlp_ratio", 4))},
    )  # fmt: skip
    tensors = (
        *patches(cfg, "embeddings.patch_embedding", hidden),
        *parts.embedding("embeddings.position_embedding", grid(cfg), hidden, slot="position"),
        *parts.norm("post_layernorm", hidden, bias=True),
    )
    return tower_of(cfg, prefix, layer, tensors=tensors, image=fixed_grid(cfg, extra_tokens=2))


@tower("janus_vqgan")
def janus_vqgan(cfg: Config, prefix: str) -> Component:
    """Janus' codebook for drawing, with its encoder and decoder."""
    last = len(listed_sizes(cfg, "channel_multiplier", 1)) - 1
    style = Style(attends=lambda level: level == last, up_reversed=True)
    tensors = (
        *parts.below("encoder", image_encoder(cfg, style)),
        *parts.below("decoder", image_decoder(cfg, style)),
        *codebook(cfg),
    )
    return tokenizer(cfg, prefix, tensors)


def _aligner(inputs: int, width: int, depth: int) -> Tensors:
    """Return Janus' projector."""
    return (
        *parts.linear("fc1", width, inputs, bias=True, role="projector"),
        *(
            tensor
            for index in range(depth - 1)
            for tensor in parts.linear(f"hidden_layers.{index}", width, width, bias=True, role="projector")
        ),
    )


@model("janus")
def janus(cfg: Config, class_name: str) -> Built:
    """Janus [4]_: one tower to see with, one codebook to draw with."""
    seen, drawn = cfg.nested("vision_config"), cfg.nested("vq_config")

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        return _aligner(vision.hidden_size, seen.integer("projection_dim"), seen.layers("depth"))

    def drawing(own: Config, base: str, body: Component) -> tuple[Component, ...]:
        width, codes, entries = (drawn.integer(name) for name in ("projection_dim", "embed_dim", "num_embeddings"))
        tensors = (
            *parts.embedding("generation_embeddings", entries, codes, slot="codebook"),
            *parts.below("generation_aligner", _aligner(codes, width, drawn.layers())),
            *plain_mlp(
                "generation_head", drawn.integer("image_token_embed_dim"), width, entries, up="proj_out",
                down="vision_head", role="head",
            ),
        )  # fmt: skip
        own_part = Component(kind="other", name="image head", hidden_size=width, tensors=tensors, prefix=base)
        return (janus_vqgan(drawn, joined(base, "vqmodel")), own_part)

    return vision_language(
        cfg, class_name, tower="vision_model", projector=projector, projector_name="aligner", others=drawing
    )


# -- GLM-Image -----------------------------------------------------------------------------------------


@tower("glm_image_vision")
def glm_image_vision(cfg: Config, prefix: str) -> Component:
    """GLM-Image's tower: SigLIP's layers without a last norm."""
    hidden, bias = cfg.hidden_size, cfg.flag("attention_bias", True)
    layer = encoder_layer(
        cfg, norms=("norm1", "norm2"), attention={"name": "attn", "qkv": "qkv", "o": "proj", "bias": bias}
    )
    tensors = (
        *parts.embedding("embeddings.position_embedding", grid(cfg), hidden, slot="position"),
        *patches(cfg, "patch_embed.proj", hidden),
    )
    image = fixed_grid(cfg, merge=cfg.integer("spatial_merge_size", 1))
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="blocks", image=image)


@tower("glm_image_vqmodel")
def glm_image_vqmodel(cfg: Config, prefix: str) -> Component:
    """GLM-Image's codebook."""
    return tokenizer(cfg, prefix, codebook(cfg))


@decoder("glm_image_text")
def glm_image_text(cfg: Config, prefix: str) -> Component:
    """GLM-Image's decoder: GLM-4.1V's, its biases on request."""
    return fused_glm(cfg, prefix)


@model("glm_image")
def glm_image(cfg: Config, class_name: str) -> Built:
    """GLM-Image: a decoder that writes the codes of an image."""
    text = cfg.nested("text_config")
    alone = text_alone(text, class_name)
    if alone is not None:
        return alone
    base = "" if is_headless(class_name) else "model"
    body, *rest = read_part(text, joined(base, "language_model"))
    seen = glm_image_vision(cfg.nested("vision_config"), joined(base, "visual"))
    codes = glm_image_vqmodel(cfg.nested("vq_config"), joined(base, "vqmodel"))
    components = (body, *rest, seen, codes)
    if not base:
        return Built(components)
    last = head_of(body, is_tied=False, vocab_size=text.integer("vision_vocab_size"))
    return Built((*components, *last.components))
