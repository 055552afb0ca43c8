"""Recurrent decoders of other kinds than Mamba and RWKV: xLSTM, Griffin.

xLSTM keeps a matrix and a vector per head, Griffin one number per channel beside windows of attention. Shapes follow
the classes of transformers 5.23.

References
----------
.. [1] M. Beck et al., "xLSTM 7B", 2025, arXiv:2503.13427.
.. [2] A. Botev et al., "RecurrentGemma", 2024, arXiv:2404.07839.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Part, Recurrent, Tensors
from vrameter.model.config import Config
from vrameter.model.families.layer_kinds import LINEAR, SLIDING, layer_kinds
from vrameter.model.families.mixture import block, decoder_of, grouped_attention, untied_head
from vrameter.model.families.registry import LayerScope, decoder, stack
from vrameter.units import ceil_to

# -- xLSTM ------------------------------------------------------------------------------------------


@decoder("xlstm", base="backbone", heads=untied_head)
def xlstm(cfg: Config, prefix: str) -> Component:
    """Return the decoder of xLSTM [1]_: a matrix memory with gates per head, in fp32 unless the config says otherwise."""
    if not cfg.given("hidden_size") and cfg.given("embedding_dim"):
        cfg = cfg.over(hidden_size=cfg.integer("embedding_dim"))
    count = cfg.layers("num_blocks", cfg.num_layers)
    hidden, heads = cfg.hidden_size, cfg.integer("num_heads")
    if cfg.integer("embedding_dim", hidden) != hidden:
        raise cfg.fail(
            "embedding_dim",
            "%(value)s is not the hidden_size of %(width)s.",
            value=cfg.integer("embedding_dim"),
            width=hidden,
        )
    fused, bias = cfg.text("weight_mode", "single") == "fused", cfg.flag("use_bias", False)
    keys, values = cfg.number("qk_dim_factor", 0.5) * hidden, cfg.number("v_dim_factor", 1.0) * hidden
    key, value = int(keys), int(values)
    multiple = cfg.integer("ffn_round_up_to_multiple_of", 64)
    inner = int((hidden * cfg.number("ffn_proj_factor", 2.667) + multiple - 1) // multiple * multiple)
    name = "mlstm_layer"

    def linear(which: str, outputs: int, slot: str, biased: bool = bias) -> Tensors:
        return parts.linear(f"{name}.{which}", outputs, hidden, bias=biased, role="mixer", slot=slot)

    if fused:
        projections = (
            *linear("qkv_opreact", 2 * key + 2 * value, "qkvz"),
            *linear("ifgate_preact", 2 * heads, "ba", True),
        )
    else:
        projections = (
            *linear("q", key, "q"),
            *linear("k", key, "k"),
            *linear("v", value, "v"),
            *linear("ogate_preact", value, "z"),
            *linear("igate_preact", heads, "b", True),
            *linear("fgate_preact", heads, "a", True),
        )
    key_dim, value_dim = ceil_to(key, 64) // heads, ceil_to(value, 64) // heads
    mixer = Recurrent(
        tensors=(
            *projections,
            *parts.norm(f"{name}.multihead_norm", value // heads * heads, bias=bias),
            *parts.linear(f"{name}.out_proj", hidden, value, bias=bias, role="mixer", slot="ssm_out"),
        ),
        kind="mlstm",
        state_elements=heads * (key_dim * value_dim + key_dim + 1),
        state_fp32=cfg.text("inference_state_dtype", "float32") == "float32",
        inner_size=value,
        num_heads=heads,
        head_dim=value_dim,
        state_size=key_dim,
        num_groups=heads,
    )
    feed = parts.mlp(
        hidden_size=hidden,
        intermediate_size=inner,
        bias=bias,
        name="ffn",
        gate="proj_up_gate",
        up="proj_up",
        down="proj_down",
        gate_up="proj_up_gate_z" if fused else None,
    )
    layer = block(cfg, mixer, feed, norms=("norm_mlstm", "norm_ffn"), norm_bias=bias)
    return decoder_of(cfg, prefix, (layer,) * count, embed="embeddings", norm="out_norm", layers_name="blocks")


# -- Griffin ----------------------------------------------------------------------------------------


@decoder("recurrent_gemma")
def recurrent_gemma(cfg: Config, prefix: str) -> Component:
    """RecurrentGemma [2]_: two gated linear recurrences for one layer with a window; half the listed perceptron width."""
    hidden, count = cfg.hidden_size, cfg.num_layers
    turns = list(cfg.sequence("block_types") or ())
    if not turns:
        raise cfg.fail("block_types", "is missing; a %(kind)s config needs it.", kind=cfg.model_type)
    kinds = layer_kinds(
        cfg,
        count,
        lambda index: LINEAR if turns[index % len(turns)] == "recurrent" else SLIDING,
        known=(LINEAR, SLIDING),
    )
    name = "temporal_block"
    scope: LayerScope = ("sliding", cfg.integer("attention_window_size"))
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size") // 2, bias=True, name="mlp_block"
    )

    def build(kind: str) -> Layer:
        mixer: Part = gated_recurrence(cfg, name)
        if kind == SLIDING:
            mixer = grouped_attention(cfg, scope, o_bias=True, name=name)
        return block(cfg, mixer, feed, norms=("temporal_pre_norm", "channel_pre_norm"))

    return decoder_of(cfg, prefix, stack(kinds, build), norm="final_norm")


def gated_recurrence(cfg: Config, name: str) -> Recurrent:
    """Return Griffin's recurrent block: a short convolution, and a recurrence with gates of one block per head."""
    hidden, heads = cfg.hidden_size, cfg.num_heads
    width, kernel = cfg.integer("lru_width", None) or hidden, cfg.integer("conv1d_width")
    each = width // heads
    gates = tuple(
        tensor
        for which in ("input", "recurrent")
        for tensor in (
            *parts.parameter(f"{name}.rg_lru.{which}_gate_weight", heads, each, each, role="mixer"),
            *parts.parameter(f"{name}.rg_lru.{which}_gate_bias", heads, each, role="mixer"),
        )
    )
    return Recurrent(
        tensors=(
            *parts.linear(f"{name}.linear_y", width, hidden, bias=True, role="mixer", slot="z"),
            *parts.linear(f"{name}.linear_x", width, hidden, bias=True, role="mixer", slot="ssm_in"),
            *parts.linear(f"{name}.linear_out", hidden, width, bias=True, role="mixer", slot="ssm_out"),
            *parts.conv(f"{name}.conv_1d", width, 1, kernel, role="mixer", slot="conv"),
            *parts.parameter(f"{name}.rg_lru.recurrent_param", width, role="mixer", slot="a"),
            *gates,
        ),
        kind="rg_lru",
        conv_channels=width,
        conv_kernel=kernel,
        state_elements=width,
        state_fp32=True,
        inner_size=width,
        num_heads=heads,
        head_dim=each,
        state_size=1,
        num_groups=heads,
    )
