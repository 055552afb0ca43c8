"""Transformers whose image and text tokens meet in one attention: Flux, Stable Diffusion 3 and their relations.

References
----------
.. [1] P. Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024, arXiv:2403.03206.
.. [2] diffusers 0.42.1, ``models/transformers``.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import FeedForward, Layer
from vrameter.model.config import Config
from vrameter.model.diffusion.blocks import (
    attention,
    embedder,
    feed_forward,
    gated_triple,
    linear,
    modulation,
    width,
)
from vrameter.model.diffusion.registry import Components, reads, stacked
from vrameter.model.families.registry import stack

TIME_CHANNELS = 256


def joint_block(size: int, head_dim: int, *, qk_norm: int, modulated: bool = True) -> Layer:
    """Return a block of two streams with equal widths."""
    norms = (*modulation("norm1.linear", size, 6), *modulation("norm1_context.linear", size, 6)) if modulated else ()
    return Layer(
        (
            attention("attn", size, head_dim=head_dim, qk_norm=qk_norm, added=size),
            feed_forward("ff", size, 4 * size),
            feed_forward("ff_context", size, 4 * size),
        ),
        norms,
    )


def single_block(size: int, head_dim: int, *, inner: int, modulated: bool = True) -> Layer:
    """Return a block of one stream whose perceptron runs beside its attention."""
    return Layer(
        (
            attention("attn", size, head_dim=head_dim, out=None, qk_norm=head_dim),
            FeedForward(
                (
                    *linear("proj_mlp", inner, size, role="mlp"),
                    *linear("proj_out", size, size + inner, role="mlp"),
                ),
                inner,
                gated=False,
            ),
        ),
        modulation("norm.linear", size, 3) if modulated else (),
    )


@reads("FluxTransformer2DModel", "ChromaTransformer2DModel")
def flux(cfg: Config, prefix: str) -> Components:
    """Flux, and Chroma, which takes every modulation from one small network."""
    size, head_dim = width(cfg, heads=24, head_dim=128), cfg.integer("attention_head_dim", 128)
    channels = cfg.integer("in_channels", 64)
    chroma = cfg.get("approximator_layers") is not None
    if chroma:
        hidden = cfg.integer("approximator_hidden_dim", 5120)
        own = linear("distilled_guidance_layer.in_proj", hidden, cfg.integer("approximator_num_channels", 64))
        for index in range(cfg.layers("approximator_layers")):
            own += embedder(f"distilled_guidance_layer.layers.{index}", hidden, hidden)
            own += parts.norm(f"distilled_guidance_layer.norms.{index}", hidden)
        own += linear("distilled_guidance_layer.out_proj", size, hidden)
    else:
        own = embedder("time_text_embed.timestep_embedder", TIME_CHANNELS, size)
        if cfg.flag("guidance_embeds", False):
            own += embedder("time_text_embed.guidance_embedder", TIME_CHANNELS, size)
        own += embedder("time_text_embed.text_embedder", cfg.integer("pooled_projection_dim", 768), size)
        own += modulation("norm_out.linear", size, 2)
    own += linear("context_embedder", size, cfg.integer("joint_attention_dim", 4096))
    own += linear("x_embedder", size, channels)
    patch = cfg.integer("patch_size", 1)
    own += linear("proj_out", patch * patch * cfg.integer("out_channels", channels), size)
    joint = joint_block(size, head_dim, qk_norm=head_dim, modulated=not chroma)
    single = single_block(size, head_dim, inner=4 * size, modulated=not chroma)
    return stacked(
        prefix, size, own, ("transformer_blocks", (joint,) * cfg.layers("num_layers", 19)),
        ("single_transformer_blocks", (single,) * cfg.layers("num_single_layers", 38)),
    )  # fmt: skip


@reads("Flux2Transformer2DModel")
def flux2(cfg: Config, prefix: str) -> Components:
    """Flux 2: no biases, one modulation for all blocks of a kind, matrices of attention and perceptron fused."""
    size, head_dim = width(cfg, heads=48, head_dim=128), cfg.integer("attention_head_dim", 128)
    channels, inner = cfg.integer("in_channels", 128), int(size * cfg.number("mlp_ratio", 3.0))
    steps = cfg.integer("timestep_guidance_channels", TIME_CHANNELS)
    own = embedder("time_guidance_embed.timestep_embedder", steps, size, bias=False)
    if cfg.flag("guidance_embeds", True):
        own += embedder("time_guidance_embed.guidance_embedder", steps, size, bias=False)
    for name, times in (
        ("double_stream_modulation_img", 6),
        ("double_stream_modulation_txt", 6),
        ("single_stream_modulation", 3),
        ("norm_out", 2),
    ):
        own += modulation(f"{name}.linear", size, times, bias=False)
    own += linear("x_embedder", size, channels, bias=False)
    own += linear("context_embedder", size, cfg.integer("joint_attention_dim", 15360), bias=False)
    patch = cfg.integer("patch_size", 1)
    own += linear("proj_out", patch * patch * cfg.integer("out_channels", channels), size, bias=False)

    def perceptron(name: str) -> FeedForward:
        return FeedForward(
            (
                *linear(f"{name}.linear_in", 2 * inner, size, bias=False, role="mlp"),
                *linear(f"{name}.linear_out", size, inner, bias=False, role="mlp"),
            ),
            inner,
        )

    joint = Layer(
        (
            attention(
                "attn", size, head_dim=head_dim, bias=False, out_bias=False, qk_norm=head_dim, added=size,
                added_bias=False,
            ),
            perceptron("ff"),
            perceptron("ff_context"),
        )
    )  # fmt: skip
    fused = (
        *linear("attn.to_qkv_mlp_proj", 3 * size + 2 * inner, size, bias=False, role="attention"),
        *linear("attn.to_out", size, size + inner, bias=False, role="attention"),
        *parts.norm("attn.norm_q", head_dim),
        *parts.norm("attn.norm_k", head_dim),
    )
    single = Layer((FeedForward(fused, inner),))
    return stacked(
        prefix, size, own, ("transformer_blocks", (joint,) * cfg.layers("num_layers", 8)),
        ("single_transformer_blocks", (single,) * cfg.layers("num_single_layers", 48)),
    )  # fmt: skip


@reads("SD3Transformer2DModel")
def sd3(cfg: Config, prefix: str) -> Components:
    """Stable Diffusion 3 and 3.5 [1]_: the last block drops the text; some blocks of 3.5 have a second attention."""
    size, head_dim = width(cfg, heads=18, head_dim=64), cfg.integer("attention_head_dim", 64)
    channels, patch, rows = (
        cfg.integer("in_channels", 16), cfg.integer("patch_size", 2), cfg.integer("pos_embed_max_size", 96),
    )  # fmt: skip
    own = parts.conv("pos_embed.proj", size, channels, patch, patch)
    own += parts.buffer("pos_embed.pos_embed", 1, rows * rows, size)
    own += embedder("time_text_embed.timestep_embedder", TIME_CHANNELS, size)
    own += embedder("time_text_embed.text_embedder", cfg.integer("pooled_projection_dim", 2048), size)
    own += linear(
        "context_embedder", cfg.integer("caption_projection_dim", 1152), cfg.integer("joint_attention_dim", 4096)
    )
    own += modulation("norm_out.linear", size, 2)
    own += linear("proj_out", patch * patch * cfg.integer("out_channels", 16), size)
    qk_norm = head_dim if cfg.get("qk_norm") else 0
    dual = set(cfg.integers("dual_attention_layers", []))
    count = cfg.layers("num_layers", 18)

    def block(kind: tuple[bool, bool]) -> Layer:
        twice, last = kind
        inside = [attention("attn", size, head_dim=head_dim, qk_norm=qk_norm, added=size, added_out=not last)]
        if twice:
            inside.append(attention("attn2", size, head_dim=head_dim, qk_norm=qk_norm))
        perceptrons = [feed_forward("ff", size, 4 * size)]
        if not last:
            perceptrons.append(feed_forward("ff_context", size, 4 * size))
        return Layer(
            (*inside, *perceptrons),
            (
                *modulation("norm1.linear", size, 9 if twice else 6),
                *modulation("norm1_context.linear", size, 2 if last else 6),
            ),
        )

    layers = stack([(index in dual, index == count - 1) for index in range(count)], block)
    return stacked(prefix, size, own, ("transformer_blocks", layers))


@reads("QwenImageTransformer2DModel")
def qwen_image(cfg: Config, prefix: str) -> Components:
    """Qwen-Image: Flux's double blocks throughout."""
    size, head_dim = width(cfg, heads=24, head_dim=128), cfg.integer("attention_head_dim", 128)
    text, patch = cfg.integer("joint_attention_dim", 3584), cfg.integer("patch_size", 2)
    own = embedder("time_text_embed.timestep_embedder", TIME_CHANNELS, size)
    own += parts.norm("txt_norm", text)
    own += linear("img_in", size, cfg.integer("in_channels", 64)) + linear("txt_in", size, text)
    own += modulation("norm_out.linear", size, 2)
    own += linear("proj_out", patch * patch * cfg.integer("out_channels", 16), size)
    block = Layer(
        (
            attention("attn", size, head_dim=head_dim, qk_norm=head_dim, added=size),
            feed_forward("img_mlp", size, 4 * size),
            feed_forward("txt_mlp", size, 4 * size),
        ),
        (*modulation("img_mod.1", size, 6), *modulation("txt_mod.1", size, 6)),
    )
    return stacked(prefix, size, own, ("transformer_blocks", (block,) * cfg.layers("num_layers", 60)))


@reads("AuraFlowTransformer2DModel")
def aura_flow(cfg: Config, prefix: str) -> Components:
    """AuraFlow: a few double blocks, then single ones; no biases."""
    size, head_dim = width(cfg, heads=12, head_dim=256), cfg.integer("attention_head_dim", 256)
    patch, channels = cfg.integer("patch_size", 2), cfg.integer("in_channels", 4)
    inner = -(-(4 * size * 2 // 3) // 256) * 256
    own = parts.parameter("register_tokens", 1, 8, size)
    own += parts.parameter("pos_embed.pos_embed", 1, cfg.integer("pos_embed_max_size", 1024), size)
    own += linear("pos_embed.proj", size, patch * patch * channels)
    own += linear("context_embedder", size, cfg.integer("joint_attention_dim", 2048), bias=False)
    own += embedder("time_step_proj", TIME_CHANNELS, size)
    own += modulation("norm_out.linear", size, 2, bias=False)
    own += linear("proj_out", patch * patch * cfg.integer("out_channels", channels), size, bias=False)
    names = ("linear_1", "linear_2", "out_projection")

    def block(joint: bool) -> Layer:
        inside = attention(
            "attn", size, head_dim=head_dim, bias=False, out_bias=False, added=size if joint else 0, added_bias=False
        )
        streams = ("", "_context") if joint else ("",)
        return Layer(
            (inside, *(gated_triple(f"ff{stream}", size, inner, names) for stream in streams)),
            tuple(tensor for stream in streams for tensor in modulation(f"norm1{stream}.linear", size, 6, bias=False)),
        )

    return stacked(
        prefix, size, own, ("joint_transformer_blocks", (block(True),) * cfg.layers("num_mmdit_layers", 4)),
        ("single_transformer_blocks", (block(False),) * cfg.layers("num_single_dit_layers", 32)),
    )  # fmt: skip


@reads("MochiTransformer3DModel")
def mochi(cfg: Config, prefix: str) -> Components:
    """Mochi: a narrower stream of text beside the video's."""
    size, head_dim = width(cfg, heads=24, head_dim=128), cfg.integer("attention_head_dim", 128)
    patch, channels = cfg.integer("patch_size", 2), cfg.integer("in_channels", 12)
    pooled, text = cfg.integer("pooled_projection_dim", 1536), cfg.integer("text_embed_dim", 4096)
    count = cfg.layers("num_layers", 48)
    own = parts.parameter("pos_frequencies", 3, size // head_dim, head_dim // 2)
    own += parts.conv("patch_embed.proj", size, channels, patch, patch)
    own += embedder("time_embed.timestep_embedder", cfg.integer("time_embed_dim", TIME_CHANNELS), size)
    own += linear("time_embed.pooler.to_kv", 2 * text, text) + linear("time_embed.pooler.to_q", text, text)
    own += linear("time_embed.pooler.to_out", size, text) + linear("time_embed.caption_proj", pooled, text)
    own += modulation("norm_out.linear", size, 2)
    own += linear("proj_out", patch * patch * cfg.integer("out_channels", channels), size)

    def block(last: bool) -> Layer:
        inside = attention(
            "attn1", size, head_dim=head_dim, bias=False, qk_norm=head_dim, added=pooled, added_bias=False,
            added_out=not last,
        )  # fmt: skip
        perceptrons = [feed_forward("ff", size, 4 * size * 2 // 3, gated=True, bias=False)]
        norms = modulation("norm1.linear", size, 4)
        if last:
            norms += linear("norm1_context.linear_1", pooled, size)
        else:
            perceptrons.append(feed_forward("ff_context", pooled, 4 * pooled * 2 // 3, gated=True, bias=False))
            norms += modulation("norm1_context.linear", pooled, 4, inputs=size)
        return Layer((inside, *perceptrons), norms)

    layers = stack([index == count - 1 for index in range(count)], block)
    return stacked(prefix, size, own, ("transformer_blocks", layers))
