"""Transformers that look at the text by cross-attention: PixArt, Sana, Wan, LTX.

References
----------
.. [1] J. Chen et al., "PixArt-alpha", 2023, arXiv:2310.00426; "PixArt-Sigma", 2024, arXiv:2403.04692.
.. [2] Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models", 2025, arXiv:2503.20314.
.. [3] E. Xie et al., "SANA", 2024, arXiv:2410.10629.
.. [4] diffusers 0.42.1, ``models/transformers``.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import FeedForward, Layer, Tensors
from vrameter.model.config import Config
from vrameter.model.diffusion.blocks import attention, embedder, feed_forward, linear, modulation, width
from vrameter.model.diffusion.joint_transformers import TIME_CHANNELS
from vrameter.model.diffusion.registry import Components, reads, stacked


def _time(name: str, size: int, times: int) -> Tensors:
    """Return the embedding of the time step and the matrix that makes modulations from it."""
    return (
        *embedder(f"{name}.emb.timestep_embedder", TIME_CHANNELS, size),
        *modulation(f"{name}.linear", size, times),
    )


@reads("PixArtTransformer2DModel")
def pixart(cfg: Config, prefix: str) -> Components:
    """PixArt [1]_: one modulation for all blocks; images of 1024 pixels tell their size besides in alpha."""
    size, head_dim = width(cfg, heads=16, head_dim=72), cfg.integer("attention_head_dim", 72)
    channels, patch = cfg.integer("in_channels", 4), cfg.integer("patch_size", 2)
    extra = cfg.get("use_additional_conditions")
    sized = cfg.integer("sample_size", 128) == 128 if extra is None else bool(extra)
    own = parts.parameter("scale_shift_table", 2, size) + parts.conv("pos_embed.proj", size, channels, patch, patch)
    own += _time("adaln_single", size, 6)
    if sized:
        own += embedder("adaln_single.emb.resolution_embedder", TIME_CHANNELS, size // 3)
        own += embedder("adaln_single.emb.aspect_ratio_embedder", TIME_CHANNELS, size // 3)
    own += embedder("caption_projection", cfg.integer("caption_channels", 4096), size)
    own += linear("proj_out", patch * patch * cfg.integer("out_channels", 8), size)
    bias = cfg.flag("attention_bias", True)
    cross = cfg.integer("cross_attention_dim", 1152)
    block = Layer(
        (
            attention("attn1", size, head_dim=head_dim, bias=bias),
            attention("attn2", size, head_dim=head_dim, bias=bias, kv_inputs=cross),
            feed_forward("ff", size, 4 * size),
        ),
        parts.parameter("scale_shift_table", 6, size),
    )
    return stacked(prefix, size, own, ("transformer_blocks", (block,) * cfg.layers("num_layers", 28)))


@reads("SanaTransformer2DModel")
def sana(cfg: Config, prefix: str) -> Components:
    """Sana [3]_: linear attention, and perceptrons that convolve."""
    size, head_dim = width(cfg, heads=70, head_dim=32), cfg.integer("attention_head_dim", 32)
    channels, patch = cfg.integer("in_channels", 32), cfg.integer("patch_size", 1)
    inner = int(size * cfg.number("mlp_ratio", 2.5))
    own = parts.parameter("scale_shift_table", 2, size) + parts.conv("patch_embed.proj", size, channels, patch, patch)
    own += _time("time_embed", size, 6)
    if cfg.flag("guidance_embeds", False):
        own += embedder("time_embed.guidance_embedder", TIME_CHANNELS, size)
    own += embedder("caption_projection", cfg.integer("caption_channels", 2304), size)
    own += parts.norm("caption_norm", size)
    own += linear("proj_out", patch * patch * cfg.integer("out_channels", channels), size)
    crossed = cfg.integer("num_cross_attention_heads", 20) * cfg.integer("cross_attention_head_dim", 112)
    convolved = FeedForward(
        (
            *parts.conv("ff.conv_inverted", 2 * inner, size, 1, 1),
            *parts.conv("ff.conv_depth", 2 * inner, 1, 3, 3),
            *parts.conv("ff.conv_point", size, inner, 1, 1, bias=False),
        ),
        inner,
    )
    block = Layer(
        (
            attention("attn1", size, head_dim=head_dim, bias=cfg.flag("attention_bias", False)),
            attention(
                "attn2", crossed, head_dim=cfg.integer("cross_attention_head_dim", 112), inputs=size,
                kv_inputs=cfg.integer("cross_attention_dim", 2240),
            ),
            convolved,
        ),
        parts.parameter("scale_shift_table", 6, size),
    )  # fmt: skip
    return stacked(prefix, size, own, ("transformer_blocks", (block,) * cfg.layers("num_layers", 20)))


@reads("WanTransformer3DModel")
def wan(cfg: Config, prefix: str) -> Components:
    """Wan [2]_: norms over all heads; models that start from an image have keys and values for it."""
    size, head_dim = width(cfg, heads=40, head_dim=128), cfg.integer("attention_head_dim", 128)
    patch = cfg.integers("patch_size", [1, 2, 2], least=1)
    volume = patch[0] * patch[1] * patch[2]
    own = parts.parameter("scale_shift_table", 1, 2, size)
    own += parts.conv("patch_embedding", size, cfg.integer("in_channels", 16), *patch)
    own += embedder("condition_embedder.time_embedder", cfg.integer("freq_dim", TIME_CHANNELS), size)
    own += modulation("condition_embedder.time_proj", size, 6)
    own += embedder("condition_embedder.text_embedder", cfg.integer("text_dim", 4096), size)
    image = cfg.integer("image_dim", None)
    if image:
        own += parts.norm("condition_embedder.image_embedder.norm1", image, bias=True)
        own += feed_forward("condition_embedder.image_embedder.ff", image, image).tensors[:2]
        own += linear("condition_embedder.image_embedder.ff.net.2", size, image)
        own += parts.norm("condition_embedder.image_embedder.norm2", size, bias=True)
    own += linear("proj_out", volume * cfg.integer("out_channels", 16), size)
    qk_norm = size if cfg.get("qk_norm", "rms_norm_across_heads") else 0
    added: Tensors = ()
    if cfg.integer("added_kv_proj_dim", None):
        for which in ("k", "v"):
            added += linear(f"attn2.add_{which}_proj", size, cfg.integer("added_kv_proj_dim"), role="cross_attention")
        added += parts.norm("attn2.norm_added_k", size)
    block = Layer(
        (
            attention("attn1", size, head_dim=head_dim, qk_norm=qk_norm),
            attention("attn2", size, head_dim=head_dim, qk_norm=qk_norm, kv_inputs=size),
            feed_forward("ffn", size, cfg.integer("ffn_dim", 13824)),
        ),
        (
            *parts.parameter("scale_shift_table", 1, 6, size),
            *(parts.norm("norm2", size, bias=True) if cfg.flag("cross_attn_norm", True) else ()),
            *added,
        ),
    )
    return stacked(prefix, size, own, ("blocks", (block,) * cfg.layers("num_layers", 40)))


@reads("LTXVideoTransformer3DModel")
def ltx(cfg: Config, prefix: str) -> Components:
    """LTX-Video."""
    size, head_dim = width(cfg, heads=32, head_dim=64), cfg.integer("attention_head_dim", 64)
    own = parts.parameter("scale_shift_table", 2, size) + linear("proj_in", size, cfg.integer("in_channels", 128))
    own += _time("time_embed", size, 6)
    own += embedder("caption_projection", cfg.integer("caption_channels", 4096), size)
    own += linear("proj_out", cfg.integer("out_channels", 128), size)
    block = Layer(
        (
            attention("attn1", size, head_dim=head_dim, qk_norm=size),
            attention(
                "attn2", size, head_dim=head_dim, qk_norm=size, kv_inputs=cfg.integer("cross_attention_dim", 2048)
            ),
            feed_forward("ff", size, 4 * size),
        ),
        parts.parameter("scale_shift_table", 6, size),
    )
    return stacked(prefix, size, own, ("transformer_blocks", (block,) * cfg.layers("num_layers", 28)))


@reads("LTX2VideoTransformer3DModel")
def ltx2(cfg: Config, prefix: str) -> Components:
    """LTX-2: a stream of video and one of sound that look at each other."""
    size, head_dim = width(cfg, heads=32, head_dim=128), cfg.integer("attention_head_dim", 128)
    audio_head = cfg.integer("audio_attention_head_dim", 64)
    audio = cfg.integer("audio_num_attention_heads", 32) * audio_head
    captions = cfg.integer("caption_channels", 3840)
    own: Tensors = ()
    for stream, wide, inputs, outputs in (
        ("", size, cfg.integer("in_channels", 128), cfg.integer("out_channels", 128)),
        ("audio_", audio, cfg.integer("audio_in_channels", 128), cfg.integer("audio_out_channels", 128)),
    ):
        own += parts.parameter(f"{stream}scale_shift_table", 2, wide) + linear(f"{stream}proj_in", wide, inputs)
        own += embedder(f"{stream}caption_projection", captions, wide) + _time(f"{stream}time_embed", wide, 6)
        own += linear(f"{stream}proj_out", outputs, wide)
        kind, other = ("audio", "v2a") if stream else ("video", "a2v")
        own += _time(f"av_cross_attn_{kind}_scale_shift", wide, 4) + _time(
            f"av_cross_attn_{kind}_{other}_gate", wide, 1
        )
    block = Layer(
        (
            attention("attn1", size, head_dim=head_dim, qk_norm=size),
            attention("audio_attn1", audio, head_dim=audio_head, qk_norm=audio),
            attention("attn2", size, head_dim=head_dim, qk_norm=size, kv_inputs=cfg.integer("cross_attention_dim", 4096)),
            attention(
                "audio_attn2", audio, head_dim=audio_head, qk_norm=audio,
                kv_inputs=cfg.integer("audio_cross_attention_dim", 2048),
            ),
            attention("audio_to_video_attn", audio, head_dim=audio_head, qk_norm=audio, inputs=size, kv_inputs=audio),
            attention("video_to_audio_attn", audio, head_dim=audio_head, qk_norm=audio, kv_inputs=size),
            feed_forward("ff", size, 4 * size),
            feed_forward("audio_ff", audio, 4 * audio),
        ),
        (
            *parts.parameter("scale_shift_table", 6, size),
            *parts.parameter("audio_scale_shift_table", 6, audio),
            *parts.parameter("video_a2v_cross_attn_scale_shift_table", 5, size),
            *parts.parameter("audio_a2v_cross_attn_scale_shift_table", 5, audio),
        ),
    )  # fmt: skip
    return stacked(prefix, size, own, ("transformer_blocks", (block,) * cfg.layers("num_layers", 48)))
