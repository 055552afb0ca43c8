"""Dense decoders in Llama's order: norm, attention, norm, gated perceptron; and their near relations.

They differ in a few traits, so each is a call of `dense_decoder` with those that differ. Shapes follow the
classes of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Part, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.registry import LayerScope, decoder, layer_scopes, stack


def dense_decoder(
    cfg: Config,
    prefix: str,
    *,
    qkv_bias: bool | None = None,
    o_bias: bool | None = None,
    mlp_bias: bool | None = None,
    qk_norm: str | None = None,
    gated: bool = True,
    norms: Sequence[str] = ("input_layernorm", "post_attention_layernorm"),
    norm_bias: bool = False,
    norm_weight: bool = True,
    final_norm: str = "norm",
    embed: str = "embed_tokens",
    layers_name: str = "layers",
    scopes: Sequence[LayerScope] | None = None,
    embeddings: Tensors = (),
    make_attention: object = None,
    make_mlp: object = None,
    attention_traits: Mapping[str, Any] | None = None,
    mlp_traits: Mapping[str, Any] | None = None,
    extra_parts: tuple[Part, ...] = (),
    layer_tensors: Tensors = (),
    final_tensors: Tensors = (),
    max_positions: int | None = None,
) -> Component:
    """Return a decoder of equal layers.

    Parameters
    ----------
    qkv_bias, o_bias, mlp_bias
        Biases; by default what ``attention_bias`` and ``mlp_bias`` say.
    qk_norm
        ``"head"``: one norm of a head's width for all; ``"full"``: a norm over all heads together.
    norms
        Names of the norms of one layer, all of the hidden width.
    make_attention, make_mlp
        Functions ``(cfg, scope) -> Attention`` and ``(cfg) -> FeedForward`` where the part itself differs.
    attention_traits, mlp_traits
        Arguments of `parts.attention` and `parts.mlp` that overrule those above: names, a fused matrix, extra tensors.
    extra_parts
        Parts of every layer besides: cross-attention.
    """
    hidden = cfg.hidden_size
    count = cfg.num_layers

    def attention(scope: LayerScope) -> Attention:
        heads, kv_heads, dim = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
        widths: int | tuple[int, int] | None = None
        if qk_norm:
            widths = dim if qk_norm == "head" else (heads * dim, kv_heads * dim)
        bias = cfg.flag("attention_bias", False)
        traits: dict[str, Any] = {
            "hidden_size": hidden,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": dim,
            "bias": bias if qkv_bias is None else qkv_bias,
            "o_bias": bias if o_bias is None else o_bias,
            "qk_norm": widths,
            "scope": scope[0],
            "window": scope[1],
        }
        return parts.attention(**{**traits, **(attention_traits or {})})

    def feed_forward() -> FeedForward:
        traits: dict[str, Any] = {
            "hidden_size": hidden,
            "gated": gated,
            "bias": cfg.flag("mlp_bias", False) if mlp_bias is None else mlp_bias,
            **(mlp_traits or {}),
        }
        if "intermediate_size" not in traits:
            traits["intermediate_size"] = cfg.integer("intermediate_size")
        return parts.mlp(**traits)

    def layer(scope: LayerScope) -> Layer:
        own_attention = make_attention(cfg, scope) if callable(make_attention) else attention(scope)
        own_mlp = make_mlp(cfg) if callable(make_mlp) else feed_forward()
        own_norms = [
            tensor for name in norms for tensor in parts.norm(name, hidden, bias=norm_bias, weight=norm_weight)
        ]
        return Layer((own_attention, *extra_parts, own_mlp), (*own_norms, *layer_tensors))

    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=stack(scopes or layer_scopes(cfg, count), layer),
        tensors=(
            *parts.embedding(embed, cfg.vocab_size, hidden),
            *embeddings,
            *(parts.norm(final_norm, hidden, bias=norm_bias, weight=norm_weight) if final_norm else ()),
            *final_tensors,
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, layers_name),
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings", 0, least=0) if max_positions is None else max_positions,
    )


def full_scopes(cfg: Config) -> list[LayerScope]:
    """Return full attention for every layer, whatever the config says of a window."""
    return [("full", None)] * cfg.num_layers


def rounded_heads(cfg: Config) -> Config:
    """Return the config with a head's width rounded down where the hidden width is no multiple of the heads.

    Classes with separate projections run so; the heads together are then a little narrower than the model.
    """
    if cfg.integer("head_dim", None) is not None or cfg.num_heads > cfg.hidden_size:
        return cfg
    width = cfg.hidden_size // cfg.num_heads
    if cfg.hidden_size % cfg.num_heads:
        cfg.warn(
            "hidden_size is no multiple of the %(heads)s attention heads; each is %(width)s wide.",
            heads=cfg.num_heads,
            width=width,
        )
    return cfg.over(head_dim=width)


@decoder("llama", "iquestcoder", "internlm3")
def llama(cfg: Config, prefix: str) -> Component:
    """Llama: no window, biases as the config says."""
    return dense_decoder(cfg, prefix, scopes=full_scopes(cfg))


@decoder("mistral", "ministral", "ministral3")
def mistral(cfg: Config, prefix: str) -> Component:
    """Mistral: Llama with an optional window on every layer and no biases."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, qkv_bias=False, o_bias=False, mlp_bias=False)


def qwen2_scopes(cfg: Config) -> list[LayerScope]:
    """Windows of the Qwen line: off unless `use_sliding_window`, and then from layer `max_window_layers` on."""
    count = cfg.num_layers
    cfg.per_layer("layer_types", count)  # contradictory even where windows are off
    if not cfg.flag("use_sliding_window", False):
        return [("full", None)] * count
    first = cfg.integer("max_window_layers", 28, least=0)
    return layer_scopes(cfg, count, pattern=lambda index: index >= first)


@decoder("qwen2")
def qwen2(cfg: Config, prefix: str) -> Component:
    """Qwen2: biases on queries, keys and values only."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, qkv_bias=True, o_bias=False, mlp_bias=False, scopes=qwen2_scopes(cfg))


@decoder("qwen3")
def qwen3(cfg: Config, prefix: str) -> Component:
    """Qwen3: norms on the heads of queries and keys."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, qk_norm="head", mlp_bias=False, scopes=qwen2_scopes(cfg))
