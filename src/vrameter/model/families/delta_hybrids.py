"""Decoders that mix a gated delta net with attention: Qwen3-Next, Qwen3.5, OLMo Hybrid.

Three layers of four keep a state, the fourth keys and values; Qwen's queries carry an output gate. Qwen's checkpoints
may store a layer for multi-token prediction, which transformers does not build. Shapes follow the classes of
transformers 5.23.

References
----------
.. [1] Qwen Team, "Qwen3-Next", 2025, https://qwen.ai/blog?id=qwen3-next.
.. [2] S. Yang et al., "Gated Delta Networks", 2024, arXiv:2412.06464.
"""

from __future__ import annotations

from collections.abc import Callable

from vrameter.model import mixers, parts
from vrameter.model.architecture import Component, FeedForward, Layer, Part, Recurrent
from vrameter.model.config import Config
from vrameter.model.families.layer_kinds import FULL, LINEAR, every, layer_kinds, state_in_fp32
from vrameter.model.families.mixtral import qwen_sparse
from vrameter.model.families.mixture import block, decoder_of, grouped_attention, mixture, perceptron
from vrameter.model.families.registry import decoder, stack


def qwen_delta_net(cfg: Config, *, fused: bool) -> Recurrent:
    """Return the gated delta net of Qwen's fields."""
    return mixers.gated_delta_net(
        hidden_size=cfg.hidden_size,
        num_key_heads=cfg.integer("linear_num_key_heads"),
        num_value_heads=cfg.integer("linear_num_value_heads"),
        key_dim=cfg.integer("linear_key_head_dim"),
        value_dim=cfg.integer("linear_value_head_dim"),
        conv_kernel=cfg.integer("linear_conv_kernel_dim"),
        fused=fused,
        state_fp32=state_in_fp32(cfg, True),
    )


def qwen_layer(cfg: Config, kind: str, mlp: FeedForward, *, fused: bool) -> Layer:
    """Return a layer of Qwen3-Next or Qwen3.5."""
    mixer: Part = qwen_delta_net(cfg, fused=fused)
    if kind == FULL:
        mixer = grouped_attention(cfg, qk_norm="head", gated=True)
    return block(cfg, mixer, mlp)


def qwen_decoder(
    cfg: Config, prefix: str, sparse: list[bool], experts: Callable[[], FeedForward], *, fused: bool
) -> tuple[Component, ...]:
    """Return a decoder of both kinds of layers with the prediction layers that its file says it has."""

    def build(kind: tuple[str, bool]) -> Layer:
        return qwen_layer(cfg, kind[0], experts() if kind[1] else perceptron(cfg), fused=fused)

    kinds = layer_kinds(cfg, cfg.num_layers, every(cfg.integer("full_attention_interval", 4)))
    body = decoder_of(cfg, prefix, stack(list(zip(kinds, sparse, strict=True)), build))
    number = next((cfg.layers(name, least=0) for name in PREDICTION if cfg.given(name)), 0)
    if not number:
        return (body,)
    hidden = cfg.hidden_size
    own = (
        *parts.linear("fc", hidden, 2 * hidden),
        *(
            tensor
            for name in ("pre_fc_norm_hidden", "pre_fc_norm_embedding", "norm")
            for tensor in parts.norm(name, hidden)
        ),
    )
    return body, Component(
        kind="mtp",
        name="mtp",
        hidden_size=hidden,
        layers=(build((FULL, sparse[-1])),) * number,
        tensors=own,
        prefix="mtp",
        layers_prefix="mtp.layers",
        loaded=False,
    )


PREDICTION = ("mtp_num_hidden_layers", "num_nextn_predict_layers")


def gated_shared(cfg: Config) -> FeedForward:
    """Return Qwen's mixture with a shared expert behind a gate."""
    return mixture(
        cfg,
        shared_width=cfg.integer("shared_expert_intermediate_size", least=0),
        shared_name="shared_expert",
        shared_gate="shared_expert_gate",
    )


@decoder("qwen3_next")
def qwen3_next(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Qwen3-Next [1]_: a mixture in every layer, the delta net's projections packed by key head."""
    return qwen_decoder(cfg, prefix, qwen_sparse(cfg), lambda: gated_shared(cfg), fused=True)


@decoder("qwen3_5_text")
def qwen3_5_text(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Qwen3.5's dense text decoder."""
    return qwen_decoder(cfg, prefix, [False] * cfg.num_layers, lambda: gated_shared(cfg), fused=False)


@decoder("qwen3_5_moe_text")
def qwen3_5_moe_text(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Qwen3.5's text decoder with a mixture in every layer."""
    return qwen_decoder(cfg, prefix, [True] * cfg.num_layers, lambda: gated_shared(cfg), fused=False)


@decoder("olmo_hybrid")
def olmo_hybrid(cfg: Config, prefix: str) -> Component:
    """OLMo Hybrid: OLMo 2's layers, norms after their parts, between layers with a delta net [2]_ and norms before."""
    hidden, count = cfg.hidden_size, cfg.num_layers
    kinds = layer_kinds(cfg, count, every(4))
    if not cfg.given("layer_types") and FULL not in kinds:
        kinds[-1] = FULL
    keys = cfg.integer("linear_num_key_heads", None) or cfg.num_heads
    values = cfg.integer("linear_num_value_heads", None) or cfg.num_heads
    key_dim = cfg.integer("linear_key_head_dim", None) or int(0.75 * hidden / keys)
    value_dim = cfg.integer("linear_value_head_dim", None) or 2 * key_dim
    kernel = cfg.integer("linear_conv_kernel_dim")
    name = "linear_attn"
    widths = {"q": keys * key_dim, "k": keys * key_dim, "v": values * value_dim, "a": values, "b": values}
    tensors = (
        *(
            tensor
            for which, width in widths.items()
            for tensor in parts.linear(f"{name}.{which}_proj", width, hidden, role="mixer", slot=which)
        ),
        *parts.linear(f"{name}.g_proj", values * value_dim, hidden, role="mixer", slot="z"),
        *parts.linear(f"{name}.o_proj", hidden, values * value_dim, role="mixer", slot="ssm_out"),
        *parts.conv(
            f"{name}.conv1d",
            2 * keys * key_dim + values * value_dim,
            1,
            kernel,
            bias=False,
            role="mixer",
            slot="conv",
        ),
        *parts.parameter(f"{name}.A_log", values, role="mixer", slot="a"),
        *parts.parameter(f"{name}.dt_bias", values, role="mixer", slot="a"),
        *parts.norm(f"{name}.o_norm", value_dim),
    )
    mixer = mixers.delta_net(
        tensors,
        num_key_heads=keys,
        num_value_heads=values,
        key_dim=key_dim,
        value_dim=value_dim,
        conv_kernel=kernel,
    )

    def build(kind: str) -> Layer:
        if kind == LINEAR:
            return block(cfg, mixer, perceptron(cfg))
        norms = ("post_attention_layernorm", "post_feedforward_layernorm")
        return block(cfg, grouped_attention(cfg, qk_norm="full"), perceptron(cfg), norms=norms)

    return decoder_of(cfg, prefix, stack(kinds, build))
