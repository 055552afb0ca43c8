"""MiniCPM-V 4.6 and later: SigLIP with a merger between its layers, and one behind it.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] Y. Yao et al., "MiniCPM-V", 2024, arXiv:2408.01800.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.config import Config
from vrameter.model.families.clip import siglip_vision_model
from vrameter.model.families.multimodal import two_layers, vision_language
from vrameter.model.families.registry import Built, model, tower
from vrameter.model.families.vision_parts import encoder_attention, listed_sizes, pair, plain_mlp
from vrameter.model.image_input import ImageInput, Tiles

# Edge of a slice and most slices of an image by the processor's class. [transformers 5.23 image_processing_minicpmv4_6]
SLICE, MAX_SLICES = 448, 9


@tower("minicpmv4_6_vision", "minicpmv4_7_vision", "minicpm_ocr_vision")
def minicpm_vision(cfg: Config, prefix: str) -> Component:
    """SigLIP's tower whose patches are merged by windows after the first few layers."""
    hidden = cfg.hidden_size
    body = siglip_vision_model(cfg.over(vision_use_head=False), prefix)
    down, right = pair(cfg, "window_kernel_size", 2)
    wide, inner = hidden * down * right, cfg.integer("intermediate_size") * down * right
    name = "vit_merger"
    merger = (
        *encoder_attention(cfg, name=f"{name}.self_attn", o="out_proj", role="projector").tensors,
        *parts.norm(f"{name}.layer_norm1", hidden, bias=True),
        *parts.norm(f"{name}.pre_norm", wide, bias=True),
        *plain_mlp(name, wide, inner, hidden, up="linear_1", down="linear_2", role="projector"),
    )
    return replace(body, tensors=(*body.tensors, *merger))


@model("minicpmv4_6", "minicpmv4_7", "minicpm_ocr")
def minicpm_v(cfg: Config, class_name: str) -> Built:
    """MiniCPM-V 4.6, 4.7 and MiniCPM-OCR [1]_: Qwen3.5's decoder, and mergers of four patches each."""
    times = cfg.layers("merger_times", 1)
    skips = cfg.text("downsample_mode", "16x") == "4x"

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        hidden = vision.hidden_size
        widths = [*[hidden] * (times - 1), body.hidden_size]
        return tuple(
            tensor
            for index, width in enumerate(widths)
            for tensor in parts.below(
                f"mlp.{index}",
                (
                    *parts.norm("pre_norm", 4 * hidden, bias=True),
                    *two_layers(own, 4 * hidden, width, inner=4 * hidden),
                ),
            )
        )

    def sliced(own: Config, vision: Component) -> ImageInput:
        assert vision.image is not None
        kernel = listed_sizes(own, "merge_kernel_size", 1, [2, 2])
        merge = kernel[0] ** times * (1 if skips else 2)
        return Tiles(
            patch_size=vision.image.patch_size, image_size=(SLICE, SLICE), merge=merge, max_tiles=MAX_SLICES, extra_tokens=2,
            mark_tokens=2,
        )  # fmt: skip

    return vision_language(cfg, class_name, projector=projector, projector_name="merger", imaging=sliced)
