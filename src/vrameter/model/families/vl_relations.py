"""Further models of tower, projector and decoder: Idefics3, SmolVLM, DeepSeek-VL, Ovis, LightOnOCR.

References
----------
.. [1] H. Laurençon et al., "Building and better understanding vision-language models", 2024, arXiv:2408.12637.
.. [2] H. Lu et al., "DeepSeek-VL", 2024, arXiv:2403.05525 (two towers, one for large images).
.. [4] D. Li et al., "Aria", 2024, arXiv:2410.05993; B. Zhang et al., "VideoLLaMA 3", 2025, arXiv:2501.13106.
.. [3] S. Lu et al., "Ovis", 2024, arXiv:2405.20797 (a table of visual embeddings, read by probabilities).
"""

from __future__ import annotations

from collections.abc import Sequence

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.clip import aim_layer
from vrameter.model.families.llava import mistral3, tiled
from vrameter.model.families.multimodal import two_layers, vision_language
from vrameter.model.families.registry import Built, model, read_part, tower
from vrameter.model.families.vision_parts import encoder_layer, fixed_grid, grid, pair, patches, tower_of
from vrameter.model.families.vision_towers import sam_layers, sam_tower
from vrameter.model.image_input import AreaBounded


@model("idefics3", "smolvlm")
def idefics3(cfg: Config, class_name: str) -> Built:
    """Idefics3 [1]_ and SmolVLM: neighbouring patches side by side, one matrix."""
    factor = cfg.integer("scale_factor")

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        return parts.linear(
            "modality_projection.proj", body.hidden_size, vision.hidden_size * factor**2, role="projector"
        )

    return vision_language(
        cfg, class_name, tower="vision_model", text="text_model", projector=projector, projector_name="connector",
        imaging=tiled(factor, max_tiles=16, fit="canvas"),
    )  # fmt: skip


@model("deepseek_vl")
def deepseek_vl(cfg: Config, class_name: str) -> Built:
    """DeepSeek-VL [2]_ with one tower."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        return two_layers(own, vision.hidden_size, body.hidden_size, first="linear1", second="linear2")

    return vision_language(cfg, class_name, tower="vision_model", projector=projector, projector_name="aligner")


@tower("sam_vision_model")
def sam_vision(cfg: Config, prefix: str) -> Component:
    """SAM's tower as a part of another model."""
    own, layers = sam_layers(cfg)
    return sam_tower(own, joined(prefix, "vision_encoder"), global_layers=layers)


@model("deepseek_vl_hybrid")
def deepseek_vl_hybrid(cfg: Config, class_name: str) -> Built:
    """DeepSeek-VL [2]_ with SAM's tower for large images besides."""
    wide = cfg.nested("high_res_vision_config")
    channels = wide.integer("output_channels", 256)

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        half = body.hidden_size // 2
        return (
            *parts.linear("vision_proj", half, vision.hidden_size, bias=True, role="projector"),
            *parts.linear("high_res_vision_proj", half, 4 * channels, bias=True, role="projector"),
            *parts.linear("proj", body.hidden_size, body.hidden_size, bias=True, role="projector"),
        )

    def second(own: Config, prefix: str, body: Component) -> Sequence[Component]:
        name, hidden = "high_res_vision", wide.hidden_size
        neck = (
            *parts.conv(f"{name}_neck.conv1", channels, hidden, 1, 1, bias=False),
            *parts.norm(f"{name}_neck.layer_norm1", channels, bias=True),
            *parts.conv(f"{name}_neck.conv2", channels, channels, 3, 3, bias=False),
            *parts.norm(f"{name}_neck.layer_norm2", channels, bias=True),
            *parts.conv(f"{name}_proj.conv1", 2 * channels, channels, 3, 3, bias=False),
            *parts.conv(f"{name}_proj.conv2", 4 * channels, 2 * channels, 3, 3, bias=False),
            *parts.parameter(f"{name}_alpha", 1),
        )
        beside = Component(kind="projector", name="neck", hidden_size=hidden, tensors=neck, prefix=prefix)
        return (*read_part(wide, joined(prefix, f"{name}_model")), beside)

    return vision_language(
        cfg, class_name, tower="vision_model", projector=projector, projector_name="aligner", others=second
    )


@tower("ovis2_vision")
def ovis2_vision(cfg: Config, prefix: str) -> Component:
    """Ovis2's tower: AIMv2, and a head that gives a probability for every entry of the visual table."""
    hidden, name = cfg.hidden_size, "transformer"
    stride, rows = cfg.integer("hidden_stride", 1), cfg.vocab_size - cfg.integer("num_visual_indicator_tokens", 5)
    tensors = (
        *patches(cfg, f"{name}.embeddings.patch_embedding", hidden),
        *parts.embedding(f"{name}.embeddings.position_embedding", grid(cfg), hidden, slot="position"),
        *parts.norm(f"{name}.embeddings.rms_norm", hidden),
        *parts.norm(f"{name}.rms_norm", hidden),
        *parts.linear("head_linear", rows, hidden * stride**2, role="projector"),
        *parts.norm("head_norm", rows, bias=True),
    )
    layers_name = f"{name}.encoder.layers"
    image = fixed_grid(cfg, merge=stride)
    return tower_of(cfg, prefix, aim_layer(cfg), tensors=tensors, layers_name=layers_name, image=image)


@model("ovis2")
def ovis2(cfg: Config, class_name: str) -> Built:
    """Ovis2 [3]_."""

    def table(own: Config, prefix: str, body: Component) -> Sequence[Component]:
        rows = own.nested("vision_config").vocab_size
        entries = parts.embedding("visual_embeddings_table", rows, own.integer("hidden_size"))
        return (
            Component(kind="projector", name="table", hidden_size=body.hidden_size, tensors=entries, prefix=prefix),
        )

    merge = cfg.nested("vision_config").integer("hidden_stride", 1)
    return vision_language(cfg, class_name, others=table, imaging=tiled(merge, max_tiles=9))


@model("lighton_ocr")
def lighton_ocr(cfg: Config, class_name: str) -> Built:
    """LightOnOCR: Mistral 3's tower and projector before Qwen3."""
    return mistral3(cfg, class_name, tower="vision_encoder", projector_name="vision_projection")


@model("aria")
def aria(cfg: Config, class_name: str) -> Built:
    """Aria [4]_: learned queries that look at the image twice projected, and a perceptron."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        hidden, width, name = vision.hidden_size, body.hidden_size, "cross_attn"
        counts = own.get("projector_patch_to_query_dict")
        queries = max(counts.values()) if isinstance(counts, dict) and counts else 256
        return (
            *parts.parameter("query", queries, hidden, role="projector"),
            *(
                tensor
                for which in "qkv"
                for tensor in parts.linear(f"{name}.{which}_proj", hidden, hidden, role="projector")
            ),
            *parts.parameter(f"{name}.multihead_attn.in_proj_weight", 3 * hidden, hidden, role="projector"),
            *parts.parameter(f"{name}.multihead_attn.in_proj_bias", 3 * hidden, role="projector"),
            *parts.linear(f"{name}.multihead_attn.out_proj", hidden, hidden, bias=True, role="projector"),
            *parts.linear(f"{name}.linear", hidden, hidden, bias=True, role="projector"),
            *parts.norm(f"{name}.layer_norm", hidden, bias=True),
            *parts.norm(f"{name}.layer_norm_kv", hidden, bias=True),
            *parts.norm("layer_norm", hidden, bias=True),
            *parts.linear("feed_forward.linear_in", width, hidden, role="projector"),
            *parts.linear("feed_forward.linear_out", width, width, role="projector"),
        )

    return vision_language(cfg, class_name, projector=projector)


@tower("video_llama_3_vision")
def video_llama_3_vision(cfg: Config, prefix: str) -> Component:
    """VideoLLaMA 3's tower: SigLIP's layers on a grid as large as the image, positions computed."""
    hidden = cfg.hidden_size
    tensors = (*patches(cfg, "embeddings.patch_embedding", hidden), *parts.norm("post_layernorm", hidden, bias=True))
    image = AreaBounded(patch_size=pair(cfg, "patch_size"), min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    return tower_of(cfg, prefix, encoder_layer(cfg), tensors=tensors, image=image)


@model("video_llama_3")
def video_llama_3(cfg: Config, class_name: str) -> Built:
    """VideoLLaMA 3 [4]_: two layers on every patch; neighbouring ones are averaged as a video asks for."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        return two_layers(own, vision.hidden_size, body.hidden_size, first="readout.0", second="readout.2")

    return vision_language(
        cfg, class_name, tower="vision_model", projector=projector, projector_name="projector", text_ties=True
    )


@model("hyperclovax_vision_v2")
def hyperclovax_vision(cfg: Config, class_name: str) -> Built:
    """HyperCLOVA X Vision: Qwen2.5-VL's tower, one more layer."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        inputs = own.nested("vision_config").integer("out_hidden_size", vision.hidden_size)
        return parts.linear("projector", body.hidden_size, inputs, bias=True, role="projector")

    return vision_language(cfg, class_name, tower="vision_model", projector=projector, projector_name="")
