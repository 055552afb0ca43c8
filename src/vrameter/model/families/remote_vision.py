"""Models that see whose code lies with their checkpoints: Phi-3-Vision, InternVL's own form.

Names and shapes are those of the published checkpoints.

References
----------
.. [1] M. Abdin et al., "Phi-3 Technical Report", 2024, arXiv:2404.14219 (Phi-3-Vision).
.. [2] Z. Chen et al., "InternVL 2.5", 2024, arXiv:2412.05271.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component
from vrameter.model.config import Config
from vrameter.model.families.clip import clip_vision
from vrameter.model.families.registry import Built, entry, model, tower, within
from vrameter.model.families.vision_parts import encoder_layer, fixed_grid, grid, inverse, patches, tower_of
from vrameter.model.image_input import Tiles

# CLIP ViT-L/14 at 336 pixels, whose sizes Phi-3-Vision's config names and does not repeat. [config.json of
# openai/clip-vit-large-patch14-336]
CLIP_LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14,
}  # fmt: skip


@model("phi3_v")
def phi3_v(cfg: Config, class_name: str) -> Built:
    """Phi-3-Vision [1]_: CLIP's tower, tiles of 336 pixels, four patches to a token, marks between rows and tiles."""
    from vrameter.model.read import build

    found = entry("phi3")
    assert found is not None
    built = build(cfg.as_type("phi3"), found, class_name.replace("Phi3V", "Phi3") or "Phi3ForCausalLM")
    seen = cfg.nested("img_processor") if cfg.has_nested("img_processor") else Config({})
    width, merge = seen.integer("image_dim_out", 1024), 2
    inputs, hidden = width * merge**2, cfg.hidden_size
    name = "model.vision_embed_tokens"
    tower_config = Config(CLIP_LARGE, path="config.img_processor", model_type="clip_vision_model")
    vision = clip_vision(tower_config, f"{name}.img_processor.vision_model")
    image = Tiles(
        patch_size=(14, 14), image_size=(336, 336), merge=merge, extra_patches=1, max_tiles=16, extra_tokens=1,
        mark_tokens=12,
    )  # fmt: skip
    bridge = (
        *parts.parameter("glb_GN", 1, 1, inputs, role="projector"),
        *parts.parameter("sub_GN", 1, 1, 1, inputs, role="projector"),
        *parts.linear("img_projection.0", hidden, inputs, bias=True, role="projector"),
        *parts.linear("img_projection.2", hidden, hidden, bias=True, role="projector"),
    )
    projector = Component(kind="projector", name="projector", hidden_size=hidden, tensors=bridge, prefix=name)
    return Built((*built.components, replace(vision, image=image), projector), tied=built.tied)


@tower("intern_vit_6b")
def intern_vit(cfg: Config, prefix: str) -> Component:
    """InternViT under its own names: queries, keys and values in one matrix, a scale per channel."""
    hidden = cfg.hidden_size
    layer = encoder_layer(
        cfg,
        norms=("norm1", "norm2"),
        norm_bias=cfg.text("norm_type", "rms_norm") == "layer_norm",
        attention={
            "name": "attn", "qkv": "qkv", "o": "proj", "bias": cfg.flag("qkv_bias", False), "o_bias": True,
            "qk_norm": hidden if cfg.flag("qk_normalization", True) else None,
        },
        extra=(*parts.parameter("ls1", hidden), *parts.parameter("ls2", hidden)),
    )  # fmt: skip
    places = (1, grid(cfg) + 1, hidden)
    tensors = (
        *parts.parameter("embeddings.class_embedding", 1, 1, hidden, role="embedding"),
        *parts.parameter("embeddings.position_embedding", *places, role="embedding", slot="position"),
        *patches(cfg, "embeddings.patch_embedding", hidden),
    )
    return tower_of(cfg, prefix, layer, tensors=tensors, image=fixed_grid(cfg, extra_patches=1))


@model("internvl_chat")
def internvl_chat(cfg: Config, class_name: str) -> Built:
    """InternVL [2]_ in its own form: a whole language model under ``language_model``, and a projector ``mlp1``."""
    from vrameter.model.read import build

    text, vision = cfg.nested("llm_config"), cfg.nested("vision_config", "intern_vit_6b")
    found = entry(text.model_type)
    if found is None or found.kind != "decoder":
        raise text.fail(
            "model_type", "'%(value)s' is not a kind of network that can stand here.", value=text.model_type
        )
    classes = text.sequence("architectures") or ["ForCausalLM"]
    language = within("language_model", build(text, found, str(classes[0])))
    merge = inverse(cfg, "downsample_ratio", 0.5)
    seen = intern_vit(vision, "vision_model")
    inputs, hidden = seen.hidden_size * merge**2, text.hidden_size
    bridge = (
        *parts.norm("0", inputs, bias=True),
        *parts.linear("1", hidden, inputs, bias=True, role="projector"),
        *parts.linear("3", hidden, hidden, bias=True, role="projector"),
    )
    assert seen.image is not None
    image = Tiles(
        patch_size=seen.image.patch_size, image_size=seen.image.image_size, extra_patches=1, merge=merge,
        max_tiles=cfg.integer("max_dynamic_patch", 12), extra_tokens=2,
    )  # fmt: skip
    projector = Component(kind="projector", name="projector", hidden_size=hidden, tensors=bridge, prefix="mlp1")
    return Built((*language.components, replace(seen, image=image), projector), tied=language.tied)
