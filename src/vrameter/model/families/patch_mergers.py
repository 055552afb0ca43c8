"""Models whose projector reads neighbouring patches together: InternVL, Kimi, LFM2-VL, MiniMax, ERNIE, OCR models.

References
----------
.. [1] Z. Chen et al., "InternVL 1.5", 2024, arXiv:2404.16821 (pixel unshuffle before the projector).
.. [2] H. Wei et al., "General OCR Theory", 2024, arXiv:2409.01704.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.llama_relations import ernie4_5, hunyuan_v1_dense
from vrameter.model.families.llava import tiled
from vrameter.model.families.multimodal import (
    head_of,
    is_headless,
    nested_as,
    projector_of,
    text_config,
    tied,
    two_layers,
    vision_language,
)
from vrameter.model.families.registry import Built, decoder, model, read_part
from vrameter.model.families.vision_parts import inverse, listed_sizes, pair, plain_mlp
from vrameter.model.families.vision_towers import hunyuan_vision
from vrameter.model.image_input import EdgeBounded, ImageInput


def normed_pair(cfg: Config, inputs: int, outputs: int, *, norm: str = "layer_norm", inner: int | None = None,
                bias: bool = True) -> Tensors:  # fmt: skip
    """Return a norm and two layers."""
    return (*parts.norm(norm, inputs, bias=True), *two_layers(cfg, inputs, outputs, inner=inner, bias=bias))


@model("internvl", "qianfan_ocr")
def internvl(cfg: Config, class_name: str) -> Built:
    """InternVL 1.5 and later [1]_, and Qianfan-OCR."""
    merge = inverse(cfg, "downsample_ratio", 0.5)

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        return normed_pair(own, vision.hidden_size * merge**2, body.hidden_size)

    return vision_language(cfg, class_name, projector=projector, imaging=tiled(merge, extra_tokens=2))


@model("kimi_k25")
def kimi_k25(cfg: Config, class_name: str) -> Built:
    """Kimi K2.5: K2's decoder, MoonViT, a norm and two layers on four patches."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        kernel = listed_sizes(own.nested("vision_config"), "merge_kernel_size", 1, [2, 2])
        single = own.integer("projection_hidden_size", vision.hidden_size)
        width = single * kernel[0] * kernel[-1]
        return (
            *parts.norm("pre_norm", single, bias=True),
            *two_layers(own, width, body.hidden_size, inner=width, first="in_proj", second="out_proj"),
        )

    return vision_language(cfg, class_name, projector=projector, projector_name="mm_projector")


@model("lfm2_vl")
def lfm2_vl(cfg: Config, class_name: str) -> Built:
    """LFM2-VL: SigLIP 2, a norm on request, two layers."""
    merge = cfg.integer("downsample_factor")

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        inputs, inner = vision.hidden_size * merge**2, own.integer("projector_hidden_size")
        bias = own.flag("projector_bias", True)
        layers = two_layers(own, inputs, body.hidden_size, inner=inner, bias=bias)
        first = parts.norm("layer_norm", inputs, bias=True) if own.flag("projector_use_layernorm", True) else ()
        return (*first, *layers)

    def merged(own: Config, vision: Component) -> ImageInput:
        assert vision.image is not None
        return vision.image.bounded(merge=merge, **tokens_as_area(own, vision.image, merge))

    return vision_language(
        cfg.over(tie_word_embeddings=cfg.get("tie_embedding", cfg.get("tie_word_embeddings"))), class_name,
        projector=projector, imaging=merged,
    )  # fmt: skip


@model("lfm3_vl")
def lfm3_vl(cfg: Config, class_name: str) -> Built:
    """LFM3-VL: a tower of convolutions and attention, a norm on each patch, two layers on four together."""
    merge = cfg.nested("vision_config").integer("spatial_merge_size")

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        inner = own.integer("projector_hidden_size")
        inputs, bias = vision.hidden_size * merge**2, own.flag("projector_bias", True)
        layers = two_layers(own, inputs, body.hidden_size, inner=inner, bias=bias)
        return (*parts.norm("layer_norm", vision.hidden_size, bias=True), *layers)

    return vision_language(cfg, class_name, projector=projector)


def tokens_as_area(cfg: Config, image: ImageInput, merge: int) -> dict[str, int]:
    """Return bounds of an image's area from those of its tokens."""
    area = image.patch_size[0] * image.patch_size[1] * merge**2
    return {
        "min_pixels": area * cfg.integer("min_image_tokens", 64),
        "max_pixels": area * cfg.integer("max_image_tokens", 256),
    }


@model("minimax_m3_vl")
def minimax_m3_vl(cfg: Config, class_name: str) -> Built:
    """MiniMax-M3: two layers on each patch, two on four together."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        hidden = body.hidden_size
        merge = own.nested("vision_config").integer("spatial_merge_size", 2)
        inner = own.integer("projector_hidden_size", hidden)
        merged = own.integer("merged_hidden_size", hidden * merge**2)
        return (
            *two_layers(own, vision.hidden_size, hidden, inner=inner),
            *two_layers(own, merged, hidden, inner=inner, first="merge_linear_1", second="merge_linear_2"),
        )

    return vision_language(cfg, class_name, projector=projector)


@model("ernie4_5_vl_moe")
def ernie4_5_vl_moe(cfg: Config, class_name: str) -> Built:
    """ERNIE 4.5 VL: a resampler over space and over time."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        sizes = own.nested("vision_config")
        width = vision.hidden_size * sizes.integer("spatial_merge_size", 2) ** 2

        def step(name: str, inputs: int) -> Tensors:
            layers = plain_mlp(name, inputs, width, width, up="fc1", down="fc2", role="projector")
            return (*layers, *parts.norm(f"{name}.ln", width, bias=True))

        return (
            *step("spatial_linear", width),
            *step("temporal_linear", width * sizes.integer("temporal_merge_size", 2)),
            *parts.linear("mlp", body.hidden_size, width, bias=True, role="projector"),
            *parts.norm("after_norm", body.hidden_size),
        )

    return vision_language(cfg, class_name, projector=projector, projector_name="resampler_model")


@decoder("paddleocr_vl_text")
def paddleocr_vl_text(cfg: Config, prefix: str) -> Component:
    """PaddleOCR-VL's decoder: ERNIE 4.5."""
    return ernie4_5(cfg, prefix)


@model("paddleocr_vl")
def paddleocr_vl(cfg: Config, class_name: str) -> Built:
    """PaddleOCR-VL: a norm on each patch, two layers on four."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        merged = vision.hidden_size * own.nested("vision_config").integer("spatial_merge_size", 2) ** 2
        first = parts.norm("pre_norm", vision.hidden_size, bias=True)
        return (*first, *two_layers(own, merged, body.hidden_size, inner=merged))

    return vision_language(
        cfg, class_name, tower="visual", projector=projector, projector_name="projector", text_ties=True
    )


@decoder("hunyuan_vl_text")
def hunyuan_vl_text(cfg: Config, prefix: str) -> Component:
    """Hunyuan-VL's decoder: Hunyuan dense."""
    return hunyuan_v1_dense(cfg, prefix)


@model("hunyuan_vl")
def hunyuan_vl(cfg: Config, class_name: str) -> Built:
    """Hunyuan-VL: the tower merges patches itself, to the decoder's width."""
    text = text_config(cfg)
    base = "" if is_headless(class_name) else "model"
    body = hunyuan_vl_text(text, joined(base, "language_model"))
    vision = hunyuan_vision(nested_as(cfg, "vision_config"), joined(base, "vision_tower"), outputs=body.hidden_size)
    if not base:
        return Built((body, vision))
    last = head_of(body, is_tied=tied(cfg, text, text_says=True))
    return Built((body, vision, *last.components), tied=last.tied)


@model("step3p7")
def step3p7(cfg: Config, class_name: str) -> Built:
    """Step-3.7: the tower merges patches itself, one matrix brings them to the decoder's width."""
    text = text_config(cfg)
    base = "" if is_headless(class_name) else "model"
    body, *further = read_part(text, joined(base, "language_model"))
    seen = read_part(nested_as(cfg, "vision_config"), joined(base, "vision_model"))
    inputs, bias = 4 * seen[0].hidden_size, cfg.flag("projector_bias", False)
    matrix = parts.linear("multi_modal_projector", body.hidden_size, inputs, bias=bias, role="projector")
    components = (body, *further, *seen, projector_of(body, matrix, base))
    if not base:
        return Built(components)
    last = head_of(body, is_tied=tied(cfg, text))
    return Built((*components, *last.components), tied=last.tied)


@model("got_ocr2", "pp_chart2table")
def got_ocr2(cfg: Config, class_name: str) -> Built:
    """GOT-OCR 2 [2]_: two convolutions that quarter the grid, one layer."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        channels, hidden = nested_as(own, "vision_config").integer("output_channels"), body.hidden_size
        return (
            *parts.conv("conv_upsampler1", 2 * channels, channels, 3, 3, bias=False, role="projector"),
            *parts.conv("conv_upsampler2", hidden, 2 * channels, 3, 3, bias=False, role="projector"),
            *parts.linear("multimodal_projector", hidden, hidden, bias=True, role="projector"),
        )

    return vision_language(cfg, class_name, projector=projector, imaging=tiled(4, extra_tokens=2))


@model("fuyu")
def fuyu(cfg: Config, class_name: str) -> Built:
    """Fuyu: no tower; one linear layer turns patches into tokens."""
    text = text_config(cfg)
    base = "" if is_headless(class_name) else "model"
    (body, *_) = read_part(text, joined(base, "language_model"))
    down, right = pair(cfg, "patch_size")
    inputs = cfg.integer("num_channels", 3) * down * right
    matrix = parts.linear("vision_embed_tokens", body.hidden_size, inputs, bias=True, role="projector")
    image = EdgeBounded(patch_size=(down, right), longest_edge=1920)
    seen = Component(
        kind="vision", name="patches", hidden_size=body.hidden_size, tensors=matrix, prefix=base, image=image
    )
    if not base:
        return Built((body, seen))
    last = head_of(body, is_tied=tied(cfg, text))
    return Built((body, seen, *last.components), tied=last.tied)
