"""Liquid's LFM: most layers a convolution over a few tokens between two gates, the others attention.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] Liquid AI, "LFM2 Technical Report", 2025, arXiv:2511.23404.
"""

from __future__ import annotations

from vrameter.model import mixers, parts
from vrameter.model.architecture import Component, FeedForward, Layer, Part, Recurrent
from vrameter.model.config import Config
from vrameter.model.families.layer_kinds import CONV, FULL, SLIDING, layer_kinds
from vrameter.model.families.mixture import block, decoder_of, grouped_attention, mixture
from vrameter.model.families.qwen_vl import merged_grid
from vrameter.model.families.registry import LayerScope, decoder, stack, tower
from vrameter.model.families.vision_parts import encoder_attention, first, flat_patches, tower_of
from vrameter.units import ceil_to


def gated(cfg: Config, width: int) -> FeedForward:
    """Return the perceptron under Liquid's names."""
    return parts.mlp(
        hidden_size=cfg.hidden_size, intermediate_size=width, name="feed_forward", gate="w1", up="w3", down="w2"
    )


def convolution(cfg: Config) -> Recurrent:
    """Return the convolution of one layer."""
    return mixers.short_conv(
        hidden_size=cfg.hidden_size, conv_kernel=cfg.integer("conv_L_cache"), bias=cfg.flag("conv_bias", False)
    )


def lfm2_decoder(cfg: Config, prefix: str, kinds: list[str], sparse: list[bool], width: int) -> Component:
    """Return a decoder of LFM2's layers."""

    def build(kind: tuple[str, bool]) -> Layer:
        mixer: Part = convolution(cfg)
        if kind[0] == FULL:
            mixer = grouped_attention(
                cfg, bias=False, o="out_proj", qk_norm="head", q_norm="q_layernorm", k_norm="k_layernorm"
            )
        biased = sparse[-1] and cfg.flag("use_expert_bias", True)
        mlp = (
            mixture(cfg, name="feed_forward", balance_bias="expert_bias" if biased else None)
            if kind[1]
            else gated(cfg, width)
        )
        return block(cfg, mixer, mlp, norms=("operator_norm", "ffn_norm"))

    return decoder_of(cfg, prefix, stack(list(zip(kinds, sparse, strict=True)), build), norm="embedding_norm")


@decoder("lfm2")
def lfm2(cfg: Config, prefix: str) -> Component:
    """LFM2 [1]_: the perceptron two thirds as wide as the config says, rounded up, unless told otherwise."""
    count = cfg.num_layers
    numbers = cfg.integers("full_attn_idxs", list(range(count)))
    kinds = layer_kinds(cfg, count, lambda index: FULL if index in numbers else CONV, known=(FULL, CONV))
    width = cfg.integer("block_ff_dim", None) or cfg.integer("intermediate_size")
    if cfg.flag("block_auto_adjust_ff_dim", True):
        width = int(2 * width / 3)
        if cfg.get("block_ffn_dim_multiplier") is not None:
            width = ceil_to(int(cfg.number("block_ffn_dim_multiplier") * width), cfg.integer("block_multiple_of"))
    return lfm2_decoder(cfg, prefix, kinds, [False] * count, width)


@decoder("lfm2_moe")
def lfm2_moe(cfg: Config, prefix: str) -> Component:
    """LFM2 with experts after the first few layers."""
    count = cfg.num_layers
    if cfg.sequence("layer_types") is None:
        raise cfg.fail("layer_types", "is missing; a %(kind)s config needs it.", kind=cfg.model_type)
    kinds = layer_kinds(cfg, count, lambda index: CONV, known=(FULL, CONV))
    dense = cfg.integer("num_dense_layers", least=0)
    sparse = [index >= dense for index in range(count)]
    return lfm2_decoder(cfg, prefix, kinds, sparse, cfg.integer("intermediate_size"))


@decoder("lfm3")
def lfm3(cfg: Config, prefix: str) -> Component:
    """LFM3: longer convolutions, windows in every other layer with attention, a gate per head, norms on both sides."""
    hidden, heads = cfg.hidden_size, cfg.num_heads
    window = cfg.integer("sliding_window", None)
    kinds = layer_kinds(
        cfg,
        cfg.num_layers,
        lambda index: FULL if index % 4 == 2 else SLIDING if index and index % 4 == 0 else CONV,
        known=(FULL, SLIDING, CONV),
    )
    gate = (
        parts.linear("self_attn.g_proj", heads, hidden, role="attention", slot="gate")
        if cfg.flag("use_attention_gate", True)
        else ()
    )
    norms = ["operator_norm", "ffn_norm"]
    if cfg.flag("use_sandwich_norm", True):
        norms += ["post_operator_norm", "post_ffn_norm"]

    def build(kind: str) -> Layer:
        scope: LayerScope = ("sliding", window) if kind == SLIDING and window else ("full", None)
        mixer = convolution(cfg) if kind == CONV else grouped_attention(cfg, scope, qk_norm="head", extra=gate)
        return block(cfg, mixer, gated(cfg, cfg.integer("intermediate_size")), norms=norms)

    return decoder_of(cfg, prefix, stack(kinds, build), norm="embedding_norm")


@tower("lfm3_vl_vision")
def lfm3_vl_vision(cfg: Config, prefix: str) -> Component:
    """LFM3-VL's tower: most layers a convolution over neighbouring patches between two gates, the others attention."""
    hidden, kernel = cfg.hidden_size, cfg.integer("conv_kernel_size")
    spatial = Recurrent(
        tensors=(
            *parts.linear("conv.in_proj", 3 * hidden, hidden, role="mixer", slot="ssm_in"),
            *parts.conv("conv.spatial_conv", hidden, 1, kernel, kernel, bias=False, role="mixer", slot="conv"),
            *parts.linear("conv.out_proj", hidden, hidden, role="mixer", slot="ssm_out"),
        ),
        kind="short_conv",
        inner_size=hidden,
    )

    def build(kind: str) -> Layer:
        mixer: Part = spatial
        if kind == FULL:
            mixer = encoder_attention(
                cfg, bias=False, num_kv_heads=cfg.num_kv_heads, o="out_proj", qk_norm=hidden // cfg.num_heads
            )
        return block(cfg, mixer, gated(cfg, cfg.integer("intermediate_size")), norms=("operator_norm", "ffn_norm"))

    kinds = layer_kinds(cfg, cfg.num_layers, lambda index: CONV if index < 2 or index % 2 else FULL, known=(FULL, CONV))
    frames = first(cfg, "temporal_patch_size", 1)
    tensors = (
        *flat_patches(cfg, "patch_embed", hidden, bias=False, frames=frames),
        *parts.norm("embedding_norm", hidden),
    )
    return tower_of(cfg, prefix, stack(kinds, build), tensors=tensors, layers_name="layers", image=merged_grid(cfg))
