"""Gemma 3n and Gemma 4: embeddings for each layer, layers that read others' keys and values, wider heads where all is seen.

The table of embeddings per layer (slot ``per_layer``) is as large as the rest and may stay off the accelerator: a token
needs one row of it. Shapes follow the classes of transformers 5.23.

References
----------
.. [1] Google, "Gemma 3n", 2025 (per-layer embeddings, MatFormer); A. Baykal et al., "Alternating Updates", 2023,
       arXiv:2301.13310; G. Menghani et al., "LAuReL", 2024, arXiv:2411.07501.
.. [2] Google, "Gemma 4", 2026 (heads of their own in layers that see everything, values that are the keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.gemma import SANDWICH
from vrameter.model.families.registry import LayerScope, decoder, layer_scopes, stack, tower


class Kind(NamedTuple):
    """What tells one layer from another."""

    scope: LayerScope
    shares: bool
    head_dim: int
    num_kv_heads: int
    intermediate_size: int


def scopes_of(cfg: Config, period: int, *, ends_whole: bool) -> list[LayerScope]:
    """Return what each layer sees: all but every `period`-th have a window, and the last has none with `ends_whole`."""
    count = cfg.num_layers
    scopes = layer_scopes(cfg, count, pattern=lambda index: (index + 1) % period != 0)
    return [*scopes[:-1], ("full", None)] if ends_whole else scopes


def sharing(cfg: Config) -> list[bool]:
    """Return which layers read the keys and values of an earlier one: the last `num_kv_shared_layers`."""
    count = cfg.num_layers
    shared = cfg.integer("num_kv_shared_layers", 0, least=0, most=count)
    return [index >= count - shared for index in range(count)]


def edge_attention(cfg: Config, kind: Kind, *, keys_are_values: bool = False) -> Attention:
    """Return attention with norms on heads; with `keys_are_values` one matrix makes both."""
    scope: LayerScope = ("encoder", None) if cfg.get("use_bidirectional_attention") == "all" else kind.scope
    made = parts.attention(
        hidden_size=cfg.hidden_size, num_heads=cfg.num_heads, num_kv_heads=kind.num_kv_heads, head_dim=kind.head_dim,
        bias=cfg.flag("attention_bias", False), qk_norm=kind.head_dim, scope=scope[0], window=scope[1],
        shares_cache=kind.shares,
    )  # fmt: skip
    if not keys_are_values:
        return made
    return replace(made, tensors=tuple(tensor for tensor in made.tensors if tensor.slot != "v"))


def per_layer_tables(cfg: Config, width: int) -> Tensors:
    """Return the table that has a short vector for every token and layer, and what is mixed into it [1]_."""
    hidden, count = cfg.hidden_size, cfg.num_layers
    rows = cfg.integer("vocab_size_per_layer_input")
    return (
        *parts.embedding("embed_tokens_per_layer", rows, count * width, slot="per_layer"),
        *parts.linear("per_layer_model_projection", count * width, hidden),
        *parts.norm("per_layer_projection_norm", width),
    )


def per_layer_reading(cfg: Config, width: int) -> Tensors:
    """Return what a layer reads its short vector with."""
    hidden = cfg.hidden_size
    return (
        *parts.linear("per_layer_input_gate", width, hidden, role="mlp"),
        *parts.linear("per_layer_projection", hidden, width, role="mlp"),
        *parts.norm("post_per_layer_input_norm", hidden),
    )


def norms(cfg: Config, names: Sequence[str]) -> Tensors:
    """Return norms of the hidden width."""
    return tuple(tensor for name in names for tensor in parts.norm(name, cfg.hidden_size))


def edge_decoder(cfg: Config, prefix: str, layers: tuple[Layer, ...], tensors: Tensors) -> Component:
    """Return the decoder, or the encoder where every token sees all."""
    is_encoder = cfg.get("use_bidirectional_attention") == "all"
    return Component(
        kind="encoder" if is_encoder else "decoder",
        name="encoder" if is_encoder else "decoder",
        hidden_size=cfg.hidden_size,
        layers=layers,
        tensors=(
            *parts.embedding("embed_tokens", cfg.vocab_size, cfg.hidden_size),
            *parts.norm("norm", cfg.hidden_size),
            *tensors,
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings", 0, least=0),
    )


# -- Gemma 3n ------------------------------------------------------------------------------------------


@decoder("gemma3n_text")
def gemma3n_text(cfg: Config, prefix: str) -> Component:
    """Gemma 3n [1]_: four streams that predict one another, a low-rank bypass, embeddings for each layer."""
    count, hidden = cfg.num_layers, cfg.hidden_size
    streams, rank, width = cfg.integer("altup_num_inputs"), cfg.integer("laurel_rank"), per_layer_width(cfg)
    inner = cfg.integers("intermediate_size", least=1)
    inner = inner * count if len(inner) == 1 else inner
    if len(inner) != count:
        raise cfg.fail(
            "intermediate_size", "has %(length)s entries for %(count)s layers.", length=len(inner), count=count
        )
    kinds = [
        Kind(scope, shares, cfg.head_dim, cfg.num_kv_heads, size)
        for scope, shares, size in zip(scopes_of(cfg, 5, ends_whole=False), sharing(cfg), inner, strict=True)
    ]
    around = (
        *norms(cfg, SANDWICH),
        *parts.parameter("altup.correct_output_scale", hidden),
        *parts.linear("altup.correction_coefs", streams, streams),
        *parts.linear("altup.prediction_coefs", streams**2, streams),
        *parts.linear("altup.modality_router", streams, hidden),
        *parts.norm("altup.router_norm", hidden),
        *parts.linear("laurel.linear_left", rank, hidden, role="mlp"),
        *parts.linear("laurel.linear_right", hidden, rank, role="mlp"),
        *parts.norm("laurel.post_laurel_norm", hidden),
        *per_layer_reading(cfg, width),
    )

    def build(kind: Kind) -> Layer:
        feed = parts.mlp(hidden_size=hidden, intermediate_size=kind.intermediate_size)
        return Layer((edge_attention(cfg, kind), feed), around)

    spread = tuple(
        tensor
        for name in ("altup_projections", "altup_unembed_projections")
        for index in range(streams - 1)
        for tensor in parts.linear(f"{name}.{index}", hidden, hidden)
    )
    return edge_decoder(cfg, prefix, stack(kinds, build), (*per_layer_tables(cfg, width), *spread))


def per_layer_width(cfg: Config) -> int:
    """Return the width of the embeddings for each layer; 0 where there are none."""
    return int(cfg.integer("hidden_size_per_layer_input", 0, least=0))


# -- Gemma 4 -------------------------------------------------------------------------------------------


def overrides(cfg: Config, scopes: Sequence[LayerScope]) -> list[dict[str, Any]]:
    """Return the head width and key-value heads that each layer has for itself, under either of two spellings."""
    count = len(scopes)
    listed = cfg.get("per_layer_config")
    if isinstance(listed, dict):
        return [
            next((item for key, item in listed.items() if str(key).isdigit() and int(key) == index and item), {})
            for index in range(count)
        ]
    wide: dict[str, Any] = {"head_dim": cfg.integer("global_head_dim", 512)}
    heads = cfg.integer("num_global_key_value_heads", None)
    if heads is not None and cfg.flag("attention_k_eq_v", False):
        wide["num_key_value_heads"] = heads
    return [wide if scope[0] == "full" else {} for scope in scopes]


def expert_block(cfg: Config) -> tuple[FeedForward, Tensors]:
    """Return the mixture that stands beside the perceptron, and its norms."""
    hidden = cfg.hidden_size
    number = cfg.integer("num_experts")
    made = parts.experts(
        hidden_size=hidden, intermediate_size=cfg.integer("moe_intermediate_size"), num_experts=number,
        num_experts_per_token=cfg.integer("top_k_experts"), name="", stacked="experts", router="router.proj",
        extra=(
            *parts.parameter("router.scale", hidden, role="router"),
            *parts.parameter("router.per_expert_scale", number, role="router"),
        ),
    )  # fmt: skip
    made = replace(made, tensors=tuple(tensor._replace(name=tensor.name.lstrip(".")) for tensor in made.tensors))
    names = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")
    return made, norms(cfg, names)


@decoder("gemma4_text", "gemma4_unified_text")
def gemma4_text(cfg: Config, prefix: str) -> Component:
    """Gemma 4 [2]_: wider heads in every sixth layer, whose values may be its keys; a mixture beside the perceptron."""
    hidden, width = cfg.hidden_size, per_layer_width(cfg)
    scopes, shares = scopes_of(cfg, 6, ends_whole=True), sharing(cfg)
    doubles, equal = cfg.flag("use_double_wide_mlp", False), cfg.flag("attention_k_eq_v", False)
    inner = cfg.integer("intermediate_size")
    kinds = [
        Kind(
            scope,
            shared,
            own.get("head_dim") or cfg.head_dim,
            own.get("num_key_value_heads") or cfg.num_kv_heads,
            inner * 2 if doubles and shared else inner,
        )
        for scope, shared, own in zip(scopes, shares, overrides(cfg, scopes), strict=True)
    ]
    mixture, more = expert_block(cfg) if cfg.flag("enable_moe_block", False) else (None, ())
    around = (
        *norms(cfg, SANDWICH),
        *more,
        *(per_layer_reading(cfg, width) if width else ()),
        *parts.buffer("layer_scalar", 1),
    )

    def build(kind: Kind) -> Layer:
        attention = edge_attention(cfg, kind, keys_are_values=equal and kind.scope[0] == "full")
        feed = parts.mlp(hidden_size=hidden, intermediate_size=kind.intermediate_size)
        return Layer((attention, feed, *((mixture,) if mixture else ())), around)

    return edge_decoder(cfg, prefix, stack(kinds, build), per_layer_tables(cfg, width) if width else ())


@tower("embedding_gemma2_text")
def embedding_gemma2_text(cfg: Config, prefix: str) -> Component:
    """EmbeddingGemma 2: Gemma 4's layers that see both ways, short vectors without a table, a matrix at the end."""
    hidden, width, count = cfg.hidden_size, per_layer_width(cfg), cfg.num_layers
    scopes = scopes_of(cfg, 6, ends_whole=True)
    wide = cfg.over(attention_k_eq_v=True, num_global_key_value_heads=cfg.integer("num_global_key_value_heads", 1))
    kinds = [
        Kind(
            ("encoder", scope[1]),
            False,
            own.get("head_dim") or cfg.head_dim,
            own.get("num_key_value_heads") or cfg.num_kv_heads,
            cfg.integer("intermediate_size"),
        )
        for scope, own in zip(scopes, overrides(wide, scopes), strict=True)
    ]
    around = (
        *norms(cfg, SANDWICH),
        *parts.below("ple_block", per_layer_reading(cfg, width)),
        *parts.buffer("layer_scalar", 1),
    )

    def build(kind: Kind) -> Layer:
        feed = parts.mlp(hidden_size=hidden, intermediate_size=kind.intermediate_size)
        return Layer((edge_attention(cfg, kind), feed), around)

    tensors = (
        *parts.linear("ple.per_layer_model_projection", count * width, hidden),
        *parts.norm("ple.per_layer_projection_norm", width),
        *parts.linear("embedding_projection", cfg.integer("embedding_dim"), hidden, role="head"),
    )
    return edge_decoder(cfg.over(use_bidirectional_attention="all"), prefix, stack(kinds, build), tensors)
