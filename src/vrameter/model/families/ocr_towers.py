"""DeepSeek-OCR 2 and its relation: SAM's tower, shrunk sixteenfold, and a second encoder behind it.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] H. Wei et al., "DeepSeek-OCR: Contexts Optical Compression", 2025, arXiv:2510.18234.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.clip import clip_vision
from vrameter.model.families.llama import dense_decoder
from vrameter.model.families.mixture import balanced, moe_decoder, perceptron, sparse_layers
from vrameter.model.families.multimodal import vision_language
from vrameter.model.families.registry import Built, LayerScope, decoder, model, tower
from vrameter.model.families.vision_parts import listed_sizes
from vrameter.model.families.vision_towers import sam_layers, sam_tower
from vrameter.model.image_input import ImageInput, TilesAndOverview

# Learned queries for the two sizes of image that DeepSeek-OCR 2 reads. [transformers 5.23 modeling_deepseek_ocr2]
QUERIES = {768: 144, 1024: 256}
# Size of the overview by the processors' classes. [transformers 5.23 image_processing_deepseek_ocr2, _unlimited_ocr]
OVERVIEW = (1024, 1024)


def shrunk_channels(cfg: Config) -> list[int]:
    """Return the channels after each of the two convolutions behind SAM's neck."""
    last = 896 if cfg.model_type.startswith("deepseek_ocr2") else 1024
    return listed_sizes(cfg, "downsample_channels", 2, [512, last])[:2]


@tower("deepseek_ocr2_sam_vision_model", "unlimited_ocr_sam_vision_model")
def sam_shrunk(cfg: Config, prefix: str) -> Component:
    """SAM's tower with two convolutions behind its neck, each of which halves the edges."""
    own, numbers = sam_layers(cfg)
    body = sam_tower(own, prefix, global_layers=numbers)
    narrow, wide = shrunk_channels(cfg)
    shrinking = (
        *parts.conv("proj.conv1", narrow, cfg.integer("output_channels"), 3, 3, bias=False),
        *parts.conv("proj.conv2", wide, narrow, 3, 3, bias=False),
    )
    assert body.image is not None
    return replace(body, tensors=(*body.tensors, *shrinking), image=body.image.bounded(merge=4))


@tower("deepseek_ocr2_encoder")
def deepseek_ocr2_encoder(cfg: Config, prefix: str) -> Component:
    """DeepSeek-OCR 2's second encoder: Qwen2's layers on patches and learned queries."""
    whole: list[LayerScope] = [("encoder", None)] * cfg.num_layers
    body = dense_decoder(cfg.over(vocab_size=1), prefix, qkv_bias=True, o_bias=False, mlp_bias=False, scopes=whole)
    return replace(
        body, kind="vision", name="second encoder", vocab_size=0, max_positions=0,
        tensors=parts.norm("norm", cfg.hidden_size),
    )  # fmt: skip


@tower("unlimited_ocr_vision_encoder")
def unlimited_ocr_vision_encoder(cfg: Config, prefix: str) -> Component:
    """Unlimited-OCR's second encoder: CLIP without the convolution that makes patches and without a last norm."""
    body = clip_vision(cfg, prefix)
    unused = ("embeddings.patch_embedding.", "post_layernorm.")
    kept = tuple(tensor for tensor in body.tensors if not tensor.name.startswith(unused))
    return replace(body, name="second encoder", tensors=kept, image=None)


@tower("deepseek_ocr2_vision", "unlimited_ocr_vision")
def ocr_vision(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Both encoders."""
    read = deepseek_ocr2_encoder if cfg.model_type == "deepseek_ocr2_vision" else unlimited_ocr_vision_encoder
    first = sam_shrunk(cfg.nested("sam_config"), joined(prefix, "sam_encoder"))
    second = read(cfg.nested("encoder_config"), joined(prefix, "vision_encoder"))
    if cfg.model_type != "deepseek_ocr2_vision":
        return first, second
    tensors = tuple(
        tensor
        for edge, number in QUERIES.items()
        for tensor in parts.embedding(f"query_{edge}_resolution", number, second.hidden_size, slot="query")
    )
    queries = Component(kind="vision", name="queries", hidden_size=second.hidden_size, tensors=tensors, prefix=prefix)
    return first, second, queries


@decoder("deepseek_ocr2_text", "unlimited_ocr_text")
def ocr_text(cfg: Config, prefix: str) -> Component:
    """DeepSeek-OCR's decoder: DeepSeek-V2's mixture with plain attention."""
    bias = cfg.flag("mlp_bias", False)
    return moe_decoder(
        cfg,
        prefix,
        sparse=sparse_layers(cfg.over(moe_layer_freq=None), 1),
        dense=lambda: perceptron(cfg, bias=bias),
        experts=lambda: balanced(cfg, balance_bias=None, shared_bias=bias),
    )


@model("deepseek_ocr2", "unlimited_ocr")
def deepseek_ocr2(cfg: Config, class_name: str) -> Built:
    """DeepSeek-OCR 2 [1]_ and Unlimited-OCR: one matrix behind the encoders, marks between views and rows."""
    vision = cfg.nested("vision_config")
    width = vision.nested("encoder_config").hidden_size
    newer = cfg.model_type == "unlimited_ocr"
    if newer:
        width += shrunk_channels(vision.nested("sam_config"))[1]

    def projector(own: Config, seen: Component, body: Component) -> Tensors:
        return parts.linear("multi_modal_projector", body.hidden_size, width, bias=True, role="projector")

    def marks(own: Config, base: str, body: Component) -> tuple[Component, ...]:
        tensors = parts.parameter("view_separator", body.hidden_size)
        if newer:
            tensors += parts.parameter("image_newline", body.hidden_size)
        return (Component(kind="projector", name="marks", hidden_size=body.hidden_size, tensors=tensors, prefix=base),)

    def tiled(own: Config, seen: Component) -> ImageInput:
        assert seen.image is not None
        tile, most = (640, 32) if newer else (768, 6)
        return TilesAndOverview(
            patch_size=seen.image.patch_size, image_size=(tile, tile), overview_size=OVERVIEW, merge=4, min_tiles=2,
            max_tiles=most, extra_tokens=1, row_marks=1 if newer else 0,
        )  # fmt: skip

    return vision_language(cfg, class_name, projector=projector, projector_name="", imaging=tiled, others=marks)
