"""Mixtures of experts with windows on most layers, as a few recent decoders combine them, and Doge's tables of experts.

References
----------
.. [1] J. Shi et al., "Wonderful Matrices", 2024, arXiv:2412.11834 (Doge).
.. [2] X. O. He, "Mixture of A Million Experts", 2024, arXiv:2407.04153.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, Layer, Tensor, Tensors
from vrameter.model.config import Config
from vrameter.model.families.gemma import SANDWICH
from vrameter.model.families.llama import dense_decoder, rounded_heads
from vrameter.model.families.mixture import block, decoder_of, grouped_attention, mixture, moe_decoder, perceptron
from vrameter.model.families.registry import LayerScope, decoder, layer_scopes, stack

FOUR_NORMS = ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")


def sparse_by_type(cfg: Config, name: str, default: list[bool]) -> list[bool]:
    """Return which layers are sparse, by a list of ``dense`` and ``sparse``."""
    kinds = cfg.per_layer(name, len(default))
    if kinds is None:
        return default
    for kind in kinds:
        if kind not in ("dense", "sparse"):
            raise cfg.fail(name, "'%(value)s' is not a kind of layer known here.", value=kind)
    return [kind == "sparse" for kind in kinds]


def windows(cfg: Config) -> list[LayerScope]:
    """Return full attention for every layer unless `layer_types` says otherwise."""
    return layer_scopes(cfg, cfg.num_layers, pattern=lambda index: False)


@decoder("beam")
def beam(cfg: Config, prefix: str) -> Component:
    """Beam: a gate with a bias per head on attention, norms before and after each part, dense layers first."""
    count, heads, hidden = cfg.num_layers, cfg.num_heads, cfg.hidden_size
    scopes = layer_scopes(cfg, count, pattern=lambda index: (index + 1) % 6 != 0 and index != count - 1)
    gate = (
        *parts.linear("self_attn.gate_proj", heads * cfg.head_dim, hidden, role="attention", slot="gate"),
        *parts.parameter("self_attn.gate_bias", heads, role="attention", slot="gate"),
    )
    return moe_decoder(
        cfg,
        prefix,
        sparse=sparse_by_type(cfg, "mlp_layer_types", [index >= 3 for index in range(count)]),
        scopes=scopes,
        experts=lambda: mixture(cfg, balance_bias="gate.e_score_correction_bias"),
        norms=SANDWICH,
        qk_norm="head",
        extra=gate,
    )


@decoder("mellum")
def mellum(cfg: Config, prefix: str) -> Component | tuple[Component, ...]:
    """Mellum 2: experts in every layer and norms on heads; one layer more may predict a further token."""
    body = moe_decoder(
        cfg,
        prefix,
        sparse=sparse_by_type(cfg, "mlp_layer_types", [True] * cfg.num_layers),
        scopes=windows(cfg),
        experts=lambda: mixture(cfg),
        qk_norm="head",
    )
    if not cfg.integer("num_nextn_predict_layers", 0, least=0):
        return body
    hidden = cfg.hidden_size
    types = cfg.sequence("mtp_layer_types") or ["sliding_attention"]
    window = cfg.integer("sliding_window", None) if types[0] == "sliding_attention" else None
    scope: LayerScope = ("sliding", window) if window else ("full", None)
    sparse = (cfg.sequence("mtp_mlp_layer_types") or ["sparse"])[0] == "sparse"
    feed = mixture(cfg) if sparse else perceptron(cfg)
    prediction = Component(
        kind="mtp",
        name="mtp",
        hidden_size=hidden,
        layers=(block(cfg, grouped_attention(cfg, scope, qk_norm="head"), feed),),
        tensors=(
            *parts.linear("fc", hidden, 2 * hidden),
            *(
                tensor
                for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
                for tensor in parts.norm(name, hidden)
            ),
        ),
        prefix="mtp",
        layers_prefix="mtp.layers",
        loaded=False,
    )
    return body, prediction


@decoder("flint")
def flint(cfg: Config, prefix: str) -> Component:
    """Flint: learned sinks and norms on heads; the first two, every fourth and the last layer see everything."""
    count = cfg.num_layers
    dense = set(cfg.integers("mlp_only_layers", (0, 1)))
    step, number = cfg.integer("decoder_sparse_step", 1), cfg.integer("num_experts", 0, least=0)
    return moe_decoder(
        cfg,
        prefix,
        sparse=[bool(number) and index not in dense and (index + 1) % step == 0 for index in range(count)],
        scopes=layer_scopes(cfg, count, pattern=lambda index: index >= 2 and index % 4 != 1 and index != count - 1),
        experts=lambda: mixture(
            cfg, shared_width=cfg.integer("shared_expert_intermediate_size", 0, least=0), shared_name="shared_expert"
        ),
        qk_norm="head",
        sinks="sinks",
    )


@decoder("kolibri1")
def kolibri1(cfg: Config, prefix: str) -> Component:
    """Kolibri: four norms a layer, a balancing bias, a window on four of five layers."""
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg, cfg.num_layers, pattern=lambda index: (index + 1) % 5 != 0),
        experts=lambda: mixture(
            cfg,
            shared_width=cfg.integer("shared_expert_intermediate_size"),
            balance_bias="gate.e_score_correction_bias",
        ),
        norms=FOUR_NORMS,
        bias=False,
        qk_norm="head",
    )


@decoder("laguna")
def laguna(cfg: Config, prefix: str) -> Component:
    """Laguna: each layer has its own number of heads, whose outputs pass a gate of one or all their elements."""
    count, dim = cfg.num_layers, cfg.head_dim
    heads = cfg.per_layer("num_attention_heads_per_layer", count) or [cfg.num_heads] * count
    sparse = sparse_by_type(cfg, "mlp_layer_types", [index > 0 for index in range(count)])
    by_head = cfg.get("gating") in (True, "per-head")

    def layer(kind: tuple[int, LayerScope, bool]) -> Layer:
        number, scope, is_sparse = kind
        gate = number if by_head else number * dim
        attention = grouped_attention(
            cfg.over(num_attention_heads=number),
            scope,
            qk_norm="head",
            extra=parts.linear("self_attn.g_proj", gate, cfg.hidden_size, role="attention", slot="gate"),
        )
        if not is_sparse:
            return block(cfg, attention, perceptron(cfg))
        experts = mixture(
            cfg,
            shared_width=cfg.integer("shared_expert_intermediate_size", 0, least=0),
            balance_bias="gate.e_score_correction_bias",
            balance_is_parameter=True,
        )
        return block(cfg, attention, experts)

    return decoder_of(cfg, prefix, stack(list(zip(heads, windows(cfg), sparse, strict=True)), layer))


@decoder("doge")
def doge(cfg: Config, prefix: str) -> Component:
    """Doge: a learned mask on the values, scaled residuals, and optionally a table of experts of one row each."""
    cfg = rounded_heads(cfg)
    hidden, kv_heads, width = cfg.hidden_size, cfg.num_kv_heads, cfg.integer("intermediate_size")
    mask: Tensors = (
        *parts.parameter("self_attn.A", kv_heads, role="attention"),
        *parts.linear(
            "self_attn.dt_proj", kv_heads, kv_heads * cfg.head_dim, bias=cfg.flag("attention_bias"), role="attention"
        ),
    )

    def tables(cfg: Config) -> FeedForward:
        number = cfg.integer("num_experts")
        every = parts.mlp(hidden_size=hidden, intermediate_size=width, bias=cfg.flag("mlp_bias"))
        return replace(
            every,
            tensors=(
                *parts.with_role("shared_experts", every.tensors),
                Tensor("mlp.router_gate.weight", (2 * isqrt(number), hidden), "router", "router"),
                Tensor("mlp.down_embed.weight", (number, hidden), "experts", "down"),
                Tensor("mlp.up_embed.weight", (number, hidden), "experts", "up"),
            ),
            intermediate_size=1,
            num_experts=number,
            num_experts_per_token=min(number, cfg.integer("num_experts_per_tok", 64)),
            shared_size=width,
        )

    return dense_decoder(
        cfg,
        prefix,
        qk_norm="head",
        attention_traits={"extra": mask},
        make_mlp=tables if cfg.flag("is_moe") else None,
        layer_tensors=(
            *parts.parameter("input_residual", hidden),
            *parts.parameter("post_attention_residual", hidden),
        ),
    )
