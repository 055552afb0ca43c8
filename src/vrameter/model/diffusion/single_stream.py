"""Transformers with one stream of text and image tokens: CogVideoX, Z-Image, Lumina 2.

References
----------
.. [1] Z. Yang et al., "CogVideoX", 2024, arXiv:2408.06072.
.. [2] diffusers 0.42.1, ``models/transformers``.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Layer, Tensors
from vrameter.model.config import Config
from vrameter.model.diffusion.blocks import attention, embedder, feed_forward, gated_triple, linear, modulation, width
from vrameter.model.diffusion.joint_transformers import TIME_CHANNELS
from vrameter.model.diffusion.registry import Components, reads, stacked


@reads("CogVideoXTransformer3DModel")
def cogvideox(cfg: Config, prefix: str) -> Components:
    """CogVideoX [1]_; 1.5 takes patches of two frames by a linear layer."""
    size, head_dim = width(cfg, heads=30, head_dim=64), cfg.integer("attention_head_dim", 64)
    channels, patch = cfg.integer("in_channels", 16), cfg.integer("patch_size", 2)
    frames = cfg.integer("patch_size_t", None)
    time, text = cfg.integer("time_embed_dim", 512), cfg.integer("text_embed_dim", 4096)
    biased = cfg.flag("patch_bias", True)
    if frames:
        own = linear("patch_embed.proj", size, channels * patch * patch * frames, bias=biased)
    else:
        own = parts.conv("patch_embed.proj", size, channels, patch, patch, bias=biased)
    own += linear("patch_embed.text_proj", size, text)
    if cfg.flag("use_learned_positional_embeddings", False):
        rows = (cfg.integer("sample_frames", 49) - 1) // cfg.integer("temporal_compression_ratio", 4) + 1
        rows *= (cfg.integer("sample_height", 60) // patch) * (cfg.integer("sample_width", 90) // patch)
        own += parts.buffer("patch_embed.pos_embedding", 1, rows + cfg.integer("max_text_seq_length", 226), size)
    own += embedder("time_embedding", size, time)
    ofs = cfg.integer("ofs_embed_dim", None)
    if ofs:
        own += embedder("ofs_embedding", ofs, ofs)
    affine = cfg.flag("norm_elementwise_affine", True)

    def norm(name: str) -> Tensors:
        return parts.norm(name, size, bias=True) if affine else ()

    own += norm("norm_final") + norm("norm_out.norm") + modulation("norm_out.linear", size, 2, inputs=time)
    own += linear("proj_out", patch * patch * (frames or 1) * cfg.integer("out_channels", 16), size)
    block = Layer(
        (
            attention("attn1", size, head_dim=head_dim, bias=cfg.flag("attention_bias", True), qk_norm=head_dim, qk_norm_bias=True),
            feed_forward("ff", size, 4 * size),
        ),
        (
            *modulation("norm1.linear", size, 6, inputs=time),
            *modulation("norm2.linear", size, 6, inputs=time),
            *norm("norm1.norm"),
            *norm("norm2.norm"),
        ),
    )  # fmt: skip
    return stacked(prefix, size, own, ("transformer_blocks", (block,) * cfg.layers("num_layers", 30)))


@reads("ZImageTransformer2DModel")
def z_image(cfg: Config, prefix: str) -> Components:
    """Z-Image: small refiners of image and text, then one stream."""
    size, heads, text = cfg.integer("dim", 3840), cfg.integer("n_heads", 30), cfg.integer("cap_feat_dim", 2560)
    head_dim, channels, small = size // heads, cfg.integer("in_channels", 16), min(size, 256)
    own = parts.parameter("x_pad_token", 1, size) + parts.parameter("cap_pad_token", 1, size)
    for patch, frames in zip(cfg.integers("all_patch_size", [2]), cfg.integers("all_f_patch_size", [1]), strict=False):
        values = frames * patch * patch * channels
        own += linear(f"all_x_embedder.{patch}-{frames}", size, values)
        own += linear(f"all_final_layer.{patch}-{frames}.linear", values, size)
        own += linear(f"all_final_layer.{patch}-{frames}.adaLN_modulation.1", size, small)
    own += linear("t_embedder.mlp.0", 1024, TIME_CHANNELS) + linear("t_embedder.mlp.2", small, 1024)
    own += parts.norm("cap_embedder.0", text) + linear("cap_embedder.1", size, text)

    def block(modulated: bool) -> Layer:
        norms = [*parts.norm("attention_norm1", size), *parts.norm("attention_norm2", size)]
        norms += [*parts.norm("ffn_norm1", size), *parts.norm("ffn_norm2", size)]
        if modulated:
            norms += modulation("adaLN_modulation.0", size, 4, inputs=small)
        return Layer(
            (
                attention(
                    "attention", size, head_dim=head_dim, bias=False, out_bias=False,
                    qk_norm=head_dim if cfg.flag("qk_norm", True) else 0, kv_heads=cfg.integer("n_kv_heads", heads),
                ),
                gated_triple("feed_forward", size, int(size / 3 * 8), ("w1", "w3", "w2")),
            ),
            tuple(norms),
        )  # fmt: skip

    refiners = cfg.layers("n_refiner_layers", 2)
    wide = block(True)
    return stacked(
        prefix, size, own, ("layers", (wide,) * cfg.layers("n_layers", 30)), ("noise_refiner", (wide,) * refiners),
        ("context_refiner", (block(False),) * refiners),
    )  # fmt: skip


@reads("Lumina2Transformer2DModel")
def lumina2(cfg: Config, prefix: str) -> Components:
    """Lumina-Image 2: small refiners of image and text, then one stream."""
    size, heads = cfg.integer("hidden_size", 2304), cfg.integer("num_attention_heads", 24)
    head_dim, channels, patch = size // heads, cfg.integer("in_channels", 16), cfg.integer("patch_size", 2)
    text, time = cfg.integer("cap_feat_dim", 1024), min(size, 1024)
    multiple, factor = cfg.integer("multiple_of", 256), cfg.get("ffn_dim_multiplier")
    inner = int(4 * size * factor) if factor else 4 * size
    inner = -(-inner // multiple) * multiple
    values = patch * patch * cfg.integer("out_channels", channels)
    own = linear("x_embedder", size, patch * patch * channels)
    own += embedder("time_caption_embed.timestep_embedder", TIME_CHANNELS, time)
    own += parts.norm("time_caption_embed.caption_embedder.0", text)
    own += linear("time_caption_embed.caption_embedder.1", size, text)
    own += linear("norm_out.linear_1", size, time) + linear("norm_out.linear_2", values, size)

    def block(modulated: bool) -> Layer:
        norms = [*parts.norm("ffn_norm1", size), *parts.norm("norm2", size), *parts.norm("ffn_norm2", size)]
        norms += parts.norm("norm1.norm" if modulated else "norm1", size)
        if modulated:
            norms += modulation("norm1.linear", size, 4, inputs=time)
        return Layer(
            (
                attention(
                    "attn", size, head_dim=head_dim, bias=False, out_bias=False, qk_norm=head_dim,
                    kv_heads=cfg.integer("num_kv_heads", 8),
                ),
                gated_triple("feed_forward", size, inner, ("linear_1", "linear_3", "linear_2")),
            ),
            tuple(norms),
        )  # fmt: skip

    refiners = cfg.layers("num_refiner_layers", 2)
    wide = block(True)
    return stacked(
        prefix, size, own, ("layers", (wide,) * cfg.layers("num_layers", 26)), ("noise_refiner", (wide,) * refiners),
        ("context_refiner", (block(False),) * refiners),
    )  # fmt: skip
