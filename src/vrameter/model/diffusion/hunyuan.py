"""Hunyuan's transformers: Flux's blocks over video or image tokens, and a small one that refines the text.

References
----------
.. [1] W. Kong et al., "HunyuanVideo: A Systematic Framework For Large Video Generative Models", 2024, arXiv:2412.03603.
.. [2] diffusers 0.42.1, ``models/transformers``.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Layer, Tensors
from vrameter.model.config import Config
from vrameter.model.diffusion.blocks import attention, embedder, feed_forward, linear, modulation, width
from vrameter.model.diffusion.joint_transformers import TIME_CHANNELS, joint_block, single_block
from vrameter.model.diffusion.registry import Components, reads, stacked


def _refiner(cfg: Config, size: int, head_dim: int) -> tuple[Tensors, tuple[Layer, ...]]:
    text, inner = cfg.integer("text_embed_dim", 4096), int(size * cfg.number("mlp_ratio", 4.0))
    own = embedder("context_embedder.time_text_embed.timestep_embedder", TIME_CHANNELS, size)
    own += embedder("context_embedder.time_text_embed.text_embedder", text, size)
    own += linear("context_embedder.proj_in", size, text)
    block = Layer(
        (attention("attn", size, head_dim=head_dim), feed_forward("ff", size, inner)),
        (
            *parts.norm("norm1", size, bias=True),
            *parts.norm("norm2", size, bias=True),
            *modulation("norm_out.linear", size, 2),
        ),
    )
    return own, (block,) * cfg.layers("num_refiner_layers", 2)


@reads("HunyuanVideoTransformer3DModel", "HunyuanImageTransformer2DModel", "HunyuanVideo15Transformer3DModel")
def hunyuan(cfg: Config, prefix: str) -> Components:
    """HunyuanVideo [1]_ and 1.5, HunyuanImage."""
    newer = cfg.has("image_embed_dim")
    size, head_dim = width(cfg, heads=16 if newer else 24, head_dim=128), cfg.integer("attention_head_dim", 128)
    patch = cfg.get("patch_size", 2)
    kernel = tuple(patch) if isinstance(patch, (list, tuple)) else (cfg.integer("patch_size_t", 1), patch, patch)
    channels, inner = cfg.integer("in_channels", 16), int(size * cfg.number("mlp_ratio", 4.0))
    own = parts.conv("x_embedder.proj", size, channels, *kernel)
    refined, refiner = _refiner(cfg, size, head_dim)
    own += refined
    if newer:
        image, second = cfg.integer("image_embed_dim"), cfg.integer("text_embed_2_dim", 1472)
        own += parts.norm("image_embedder.norm_in", image, bias=True)
        own += embedder("image_embedder", image, image, size)
        own += parts.norm("image_embedder.norm_out", size, bias=True)
        own += parts.norm("context_embedder_2.norm", second, bias=True)
        own += embedder("context_embedder_2", second, size) + linear("context_embedder_2.linear_3", size, size)
        own += embedder("time_embed.timestep_embedder", TIME_CHANNELS, size)
        own += parts.embedding("cond_type_embed", 3, size, slot="type")
    else:
        name = "time_text_embed" if cfg.has("pooled_projection_dim") else "time_guidance_embed"
        own += embedder(f"{name}.timestep_embedder", TIME_CHANNELS, size)
        if cfg.has("pooled_projection_dim"):
            own += embedder(f"{name}.text_embedder", cfg.integer("pooled_projection_dim"), size)
        if cfg.flag("guidance_embeds", False):
            own += embedder(f"{name}.guidance_embedder", TIME_CHANNELS, size)
        if cfg.has("text_embed_2_dim"):
            second = cfg.integer("text_embed_2_dim")
            own += parts.norm("context_embedder_2.norm", second, bias=True)
            own += embedder("context_embedder_2", second, size) + linear("context_embedder_2.linear_3", size, size)
    own += modulation("norm_out.linear", size, 2)
    volume = 1
    for edge in kernel:
        volume *= edge
    own += linear("proj_out", volume * cfg.integer("out_channels", channels), size)
    joint = joint_block(size, head_dim, qk_norm=head_dim)
    single = single_block(size, head_dim, inner=inner)
    return stacked(
        prefix, size, own, ("transformer_blocks", (joint,) * cfg.layers("num_layers", 20)),
        ("single_transformer_blocks", (single,) * (0 if newer else cfg.layers("num_single_layers", 40))),
        ("context_embedder.token_refiner.refiner_blocks", refiner),
    )  # fmt: skip
