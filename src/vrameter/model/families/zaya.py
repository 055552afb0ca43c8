"""ZAYA: attention in a compressed space behind short convolutions, and a router that is a network of its own.

Queries and keys pass two convolutions over time and half of each value is the token's before, so a layer keeps a small
state beside keys and values. Shapes follow the class of transformers 5.23.

References
----------
.. [1] Zyphra, "ZAYA1", 2025, arXiv:2511.17127 (compressed convolutional attention).
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Recurrent, Tensors
from vrameter.model.config import Config
from vrameter.model.families.layer_kinds import HYBRID, layer_kinds
from vrameter.model.families.mixture import biased_head, block, decoder_of, mixture
from vrameter.model.families.registry import LayerScope, decoder, stack

HYBRID_SLIDING = "hybrid_sliding"


def compressed_attention(cfg: Config, scope: LayerScope) -> tuple[Attention, Recurrent]:
    """Return attention, and what it keeps beside its cache: columns of queries and keys, and half a value."""
    hidden, heads, kv_heads, dim = cfg.hidden_size, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
    bias, name = cfg.flag("attention_bias", False), "self_attn.qkv_proj"
    first, second = cfg.integer("cca_time0"), cfg.integer("cca_time1")
    channels, half = (heads + kv_heads) * dim, kv_heads * dim // 2

    def linear(which: str, outputs: int, slot: str) -> Tensors:
        return parts.linear(f"{name}.{which}", outputs, hidden, bias=bias, role="attention", slot=slot)

    attention = Attention(
        tensors=(
            *parts.linear("self_attn.o_proj", hidden, heads * dim, bias=bias, role="attention", slot="o"),
            *linear("q_proj", heads * dim, "q"),
            *linear("k_proj", kv_heads * dim, "k"),
            *linear("v_proj_current", half, "v"),
            *linear("v_proj_delayed", half, "v"),
            *parts.parameter("self_attn.qk_norm.temp", kv_heads, role="attention"),
        ),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        value_dim=dim,
        scope=scope[0],
        window=scope[1],
    )
    state = Recurrent(
        tensors=(
            *parts.conv(f"{name}.conv_qk_depthwise", channels, 1, first, role="mixer", slot="conv"),
            *parts.conv(f"{name}.conv_qk_grouped", channels, dim, second, role="mixer", slot="conv"),
        ),
        kind="short_conv",
        conv_channels=channels,
        conv_kernel=first + second - 1,
        state_elements=half,
        inner_size=channels,
    )
    return attention, state


def routed_experts(cfg: Config, *, is_first: bool) -> FeedForward:
    """Return the experts with a router that remembers its state of the layer before, and may choose to do nothing."""
    hidden, width = cfg.hidden_size, cfg.integer("router_hidden_size")
    choices, name = cfg.integer("num_experts") + 1, "mlp.gate"
    router: Tensors = (
        *parts.linear(f"{name}.down_proj", width, hidden, bias=True, role="router"),
        *(() if is_first else parts.parameter(f"{name}.router_states_scale", width, role="router")),
        *parts.norm(f"{name}.router_mlp.norm", width),
        *parts.linear(f"{name}.router_mlp.fc1", width, width, bias=True, role="router"),
        *parts.linear(f"{name}.router_mlp.fc2", width, width, bias=True, role="router"),
        *parts.linear(f"{name}.router_mlp.out_proj", choices, width, role="router", slot="router"),
        *parts.buffer(f"{name}.balancing_biases", choices, role="router"),
    )
    plain = mixture(cfg)
    experts = tuple(tensor for tensor in plain.tensors if tensor.role == "experts")
    return FeedForward(
        tensors=(*experts, *router),
        intermediate_size=plain.intermediate_size,
        num_experts=plain.num_experts,
        num_experts_per_token=plain.num_experts_per_token,
    )


@decoder("zaya", heads=biased_head("lm_head_bias"))
def zaya(cfg: Config, prefix: str) -> Component:
    """ZAYA1 [1]_, with learned scales and shifts of the residual stream."""
    hidden = cfg.hidden_size
    window = cfg.integer("sliding_window", None)
    kinds = layer_kinds(cfg, cfg.num_layers, lambda index: HYBRID, known=(HYBRID, HYBRID_SLIDING))

    def scaled(name: str) -> Tensors:
        which = ("hidden_states_scale", "hidden_states_bias", "residual_scale", "residual_bias")
        return tuple(tensor for each in which for tensor in parts.parameter(f"{name}.{each}", hidden, role="norm"))

    def build(kind: tuple[str, bool]) -> Layer:
        scope: LayerScope = ("sliding", window) if kind[0] == HYBRID_SLIDING and window else ("full", None)
        attention, state = compressed_attention(cfg, scope)
        extra = (*scaled("post_attention_residual_scale"), *scaled("post_mlp_residual_scale"))
        return block(cfg, attention, state, routed_experts(cfg, is_first=kind[1]), extra=extra)

    layers = stack([(kind, index == 0) for index, kind in enumerate(kinds)], build)
    own = (
        *parts.parameter("input_hidden_states_scale", hidden, role="norm"),
        *parts.parameter("input_hidden_states_bias", hidden, role="norm"),
    )
    return decoder_of(cfg, prefix, layers, extra=own)
