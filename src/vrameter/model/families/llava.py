"""Models that put a tower of another family before a decoder of another: LLaVA [1]_ and its kind.

They differ in the projector, in how an image is cut, and in how many patches become one token.

References
----------
.. [1] H. Liu et al., "Visual Instruction Tuning", 2023, arXiv:2304.08485; "LLaVA-NeXT", 2024; B. Li et al.,
       "LLaVA-OneVision", 2024, arXiv:2408.03326; B. Lin et al., "Video-LLaVA", 2023, arXiv:2311.10122.
.. [2] L. Beyer et al., "PaliGemma", 2024, arXiv:2407.07726; Gemma Team, "Gemma 3", 2025, arXiv:2503.19786.
.. [3] S. Dash et al., "Aya Vision", 2025, arXiv:2505.08751 (four patches to a token, a gated perceptron).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.multimodal import Imaging, nested_as, two_layers, vision_language
from vrameter.model.families.registry import Built, model, read_part, within
from vrameter.model.image_input import Canvases, ImageInput, Tiles

# Canvases in tiles that the classes assume. [transformers 5.23, LlavaNextConfig and LlavaOnevisionConfig]
ANY_FIVE = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
ANY_SIX = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7))


def num_feature_layers(cfg: Config) -> int:
    """Return the layers of the tower whose outputs the projector reads side by side."""
    layers = cfg.get("vision_feature_layer")
    return len(layers) if isinstance(layers, (list, tuple)) else 1


def seen_through(cfg: Config, vision: Component, body: Component) -> Tensors:
    """Return LLaVA's projector [1]_."""
    inputs = vision.hidden_size * num_feature_layers(cfg)
    return two_layers(cfg, inputs, body.hidden_size, bias=cfg.flag("multimodal_projector_bias", True))


def row_end(cfg: Config, prefix: str, body: Component) -> tuple[Component, ...]:
    """Return the learned vector that ends each row of patches."""
    mark = parts.parameter("image_newline", body.hidden_size, role="projector")
    return (Component(kind="projector", name="row end", hidden_size=body.hidden_size, tensors=mark, prefix=prefix),)


def one_grid(cfg: Config, vision: Component) -> ImageInput:
    """Return LLaVA's rule: the tower's grid, its class token kept only on request."""
    own = vision.image
    assert own is not None
    keeps = cfg.get("vision_feature_select_strategy") == "full"
    return own.bounded(extra_tokens=own.extra_patches if keeps else 0) if type(own) is ImageInput else own


def is_size(item: object) -> bool:
    """Say whether an entry is a height and a width."""
    return (
        isinstance(item, (list, tuple)) and len(item) == 2 and all(isinstance(edge, int) and edge > 0 for edge in item)
    )


def canvases(cfg: Config, vision: Component) -> ImageInput:
    """Return LLaVA-NeXT's rule: tiles on the best of a list of canvases, and an overview."""
    own = one_grid(cfg, vision)
    if type(own) is not ImageInput:
        return own
    listed = cfg.sequence("image_grid_pinpoints")
    if listed is None:
        edge = own.image_size[0]
        shapes = ANY_SIX if cfg.model_type == "llava_onevision" else ANY_FIVE
        listed = [(rows * edge, columns * edge) for rows, columns in shapes]
    sizes = tuple((item[0], item[1]) for item in listed if is_size(item))
    if not sizes:
        return own
    limit = cfg.get("vision_aspect_ratio", "anyres_max_9" if cfg.model_type == "llava_onevision" else None)
    budget = int(limit.rpartition("_")[2]) if isinstance(limit, str) and limit.rpartition("_")[2].isdigit() else 0
    return Canvases(
        patch_size=own.patch_size, image_size=own.image_size, extra_patches=own.extra_patches,
        extra_tokens=own.extra_tokens, canvases=sizes, token_budget=budget,
    )  # fmt: skip


@model("llava")
def llava(cfg: Config, class_name: str) -> Built:
    """LLaVA 1.5, and Pixtral under its class."""
    return vision_language(cfg, class_name, projector=seen_through, imaging=one_grid)


@model("llava_next", "llava_onevision", "llava_next_video")
def llava_next(cfg: Config, class_name: str) -> Built:
    """LLaVA-NeXT and LLaVA-OneVision: tiles, and a vector that ends each row."""
    return vision_language(cfg, class_name, projector=seen_through, imaging=canvases, others=row_end)


@model("video_llava")
def video_llava(cfg: Config, class_name: str) -> Built:
    """Video-LLaVA: a second tower for videos."""

    def videos(own: Config, prefix: str, body: Component) -> Sequence[Component]:
        return read_part(nested_as(own, "vision_config"), joined(prefix, "video_tower"))

    return vision_language(
        cfg, class_name, tower="image_tower", projector=seen_through, imaging=one_grid, others=videos
    )


@model("vipllava")
def vipllava(cfg: Config, class_name: str) -> Built:
    """ViP-LLaVA: five layers of the tower side by side, after a norm."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        inputs = vision.hidden_size * num_feature_layers(own)
        return (*parts.norm("projector_layernorm", inputs, bias=True), *two_layers(own, inputs, body.hidden_size))

    return vision_language(cfg, class_name, projector=projector, imaging=one_grid)


@model("fast_vlm")
def fast_vlm(cfg: Config, class_name: str) -> Built:
    """FastVLM: LLaVA's projector on a convolutional tower."""
    return vision_language(cfg, class_name, projector=seen_through)


# -- one linear layer, pooling -------------------------------------------------------------------------


@model("paligemma")
def paligemma(cfg: Config, class_name: str) -> Built:
    """PaliGemma [2]_: one linear layer."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        width = own.nested("vision_config").integer("projection_dim", body.hidden_size)
        return parts.linear("linear", width, vision.hidden_size, bias=True, role="projector")

    return vision_language(cfg, class_name, projector=projector)


@model("gemma3")
def gemma3(cfg: Config, class_name: str) -> Built:
    """Gemma 3 [2]_: pooled to a fixed number of tokens, a norm, one matrix."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        matrix = parts.parameter("mm_input_projection_weight", vision.hidden_size, body.hidden_size, role="projector")
        return (*matrix, *parts.norm("mm_soft_emb_norm", vision.hidden_size))

    def pooled(own: Config, vision: Component) -> ImageInput:
        assert vision.image is not None
        return vision.image.bounded(num_tokens=own.integer("mm_tokens_per_image"))

    return vision_language(cfg, class_name, projector=projector, imaging=pooled)


@model("shieldgemma2")
def shieldgemma2(cfg: Config, class_name: str) -> Built:
    """ShieldGemma 2: Gemma 3 as a module, its answers read as classes."""
    if not class_name.endswith("ForImageClassification"):
        return gemma3(cfg, class_name)
    return within("model", gemma3(cfg, "Gemma3ForConditionalGeneration"))


# -- patches merged before the projector ---------------------------------------------------------------


def tiled(merge: int, **traits: Any) -> Imaging:
    """Return the rule of tiles of the tower's size, `merge` patches along an edge to a token."""

    def rule(cfg: Config, vision: Component) -> ImageInput:
        own = vision.image
        assert own is not None
        if type(own) is not ImageInput:
            return own
        return Tiles(
            patch_size=own.patch_size, image_size=own.image_size, extra_patches=own.extra_patches, merge=merge, **traits
        )  # fmt: skip

    return rule


def gated_pair(cfg: Config, inputs: int, body: Component, inner: int) -> Tensors:
    """Return a gated perceptron whose first layer makes both halves [3]_."""
    return (
        *parts.linear("linear_1", inner, inputs, bias=True, role="projector"),
        *parts.linear("linear_2", body.hidden_size, inner // 2, bias=True, role="projector"),
    )


@model("aya_vision", "cohere2_vision")
def aya_vision(cfg: Config, class_name: str) -> Built:
    """Aya Vision and Command A Vision; Aya's projector starts with a norm."""
    factor = cfg.integer("downsample_factor")

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        inputs = vision.hidden_size * factor**2
        first = parts.norm("layernorm", inputs, bias=True) if own.model_type == "aya_vision" else ()
        return (
            *first,
            *gated_pair(own, inputs, body, own.integer("alignment_intermediate_size", body.hidden_size)),
        )

    return vision_language(cfg, class_name, projector=projector, imaging=tiled(factor, extra_tokens=2, mark_tokens=1))


@model("mistral3", "mistral_large4")
def mistral3(
    cfg: Config, class_name: str, *, tower: str = "vision_tower", projector_name: str = "multi_modal_projector"
) -> Built:
    """Mistral Small 3.1 and later: Pixtral's tower, a norm, four patches merged to one, two layers."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        hidden, merge = vision.hidden_size, own.integer("spatial_merge_size")
        layers = two_layers(
            own, hidden * num_feature_layers(own), body.hidden_size,
            bias=own.flag("multimodal_projector_bias", False),
        )  # fmt: skip
        merging = parts.linear("patch_merger.merging_layer", hidden, hidden * merge**2, role="projector")
        return (*parts.norm("norm", hidden), *merging, *layers)

    def merged(own: Config, vision: Component) -> ImageInput:
        assert vision.image is not None
        return vision.image.bounded(merge=own.integer("spatial_merge_size"))

    return vision_language(
        cfg, class_name, tower=tower, projector=projector, projector_name=projector_name, imaging=merged
    )


__all__ = ["gated_pair", "num_feature_layers", "one_grid", "row_end", "seen_through", "tiled"]
