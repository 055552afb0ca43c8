"""Qwen4's experimental text decoder: delta nets, attention with an indexer, several residual streams, n-gram tables.

Some layers add what a table holds for the last few tokens, hashed by several heads; such tables are far larger than the
layers and have a prime number of rows per head. Shapes follow the class of transformers 5.23.

References
----------
.. [1] Z. Xie et al., "mHC: Manifold-Constrained Hyper-Connections", 2025, arXiv:2512.24880 (residual streams).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import isqrt

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Layer, Part, Recurrent, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.delta_hybrids import gated_shared, qwen_delta_net
from vrameter.model.families.layer_kinds import FULL, LINEAR, every, layer_kinds
from vrameter.model.families.mixture import grouped_attention
from vrameter.model.families.registry import decoder, stack
from vrameter.units import ceil_to

INDEXED = ("indexed_attention", "qwen_sparse_attention")


@lru_cache(maxsize=64)
def primes_from(start: int, count: int) -> tuple[int, ...]:
    """Return the first `count` primes of at least `start`.

    >>> primes_from(20, 3)
    (23, 29, 31)
    """
    found: list[int] = []
    number = max(start, 2)
    while len(found) < count:
        if all(number % divisor for divisor in range(2, isqrt(number) + 1)):
            found.append(number)
        number += 1
    return tuple(found)


def mixing(cfg: Config, name: str, *, inject: bool = True) -> Tensors:
    """Return the tensors that read from the residual streams [1]_ before a part, and those that write back after it."""
    streams, rank = cfg.integer("hc_count"), cfg.integer("hc_lowrank")
    wide = streams * cfg.hidden_size
    return (
        *parts.norm(f"{name}.hc_norm", wide),
        *parts.linear(f"{name}.input_mix_weight_down", rank, wide),
        *parts.linear(f"{name}.input_mix_weight_up", wide, rank),
        *(parts.linear(f"{name}.block_inject_weight", streams, wide) if inject else ()),
    )


def indexed_attention(cfg: Config) -> Attention:
    """Return gated attention with an indexer, which keeps its keys of every token."""
    hidden, dim = cfg.hidden_size, cfg.integer("indexer_head_dim")
    heads, kv_heads = cfg.integer("indexer_n_heads"), cfg.integer("indexer_kv_heads")
    name = "self_attn.indexer"
    extra = (
        *parts.linear(f"{name}.index_qk_proj", (heads + kv_heads) * dim, hidden, role="attention", slot="index"),
        *parts.norm(f"{name}.q_layernorm", dim),
        *parts.norm(f"{name}.k_layernorm", dim),
    )
    return replace(grouped_attention(cfg, qk_norm="head", gated=True, extra=extra), index_dim=kv_heads * dim)


def ngram_layer(cfg: Config, order: int) -> Recurrent:
    """Return what the `order`-th of the layers with an n-gram table adds, and the columns that its convolution keeps."""
    hidden, wide = cfg.hidden_size, cfg.integer("hc_count") * cfg.hidden_size
    width = cfg.integer("ple_embed_dim", None) or hidden
    grams, kernel = cfg.integer("ngram_size", least=2, most=16), cfg.integer("ple_conv_kernel_size")
    heads = (grams - 1) * cfg.integer("heads_per_ngram", most=64)
    sizes = primes_from(cfg.integer("ngram_vocab_size_base", most=2**31), (order + 1) * heads)[order * heads :]
    rows = ceil_to(sum(sizes), cfg.integer("make_ngram_vocab_size_divisible_by"))
    name = "ple"
    table = f"{name}.ple_embedding"
    return Recurrent(
        tensors=(
            *parts.buffer(f"{table}.layer_multipliers", grams),
            *parts.buffer(f"{table}.ngram_heads_vocab_sizes", heads),
            *parts.buffer(f"{table}.ngram_heads_offsets", heads),
            *parts.embedding(f"{table}.ngram_embedding", rows, width // heads, slot="ngram"),
            *parts.linear(f"{name}.key_proj", wide, width),
            *parts.linear(f"{name}.value_proj", hidden, width),
            *(tensor for which in ("key", "query", "conv") for tensor in parts.norm(f"{name}.norm_{which}", wide)),
            *parts.conv(f"{name}.conv1d", wide, 1, kernel, bias=False, role="mixer", slot="conv"),
        ),
        kind="short_conv",
        conv_channels=wide,
        conv_kernel=(kernel - 1) * grams + 1,
        inner_size=wide,
    )


@decoder("qwen4_exp_text")
def qwen4_exp_text(cfg: Config, prefix: str) -> Component:
    """Qwen4-Exp: Qwen3.5's layers without norms of their own between several residual streams."""
    count = cfg.num_layers
    kinds = layer_kinds(cfg, count, every(cfg.integer("full_attention_interval", 4)), known=(LINEAR, FULL, *INDEXED))
    tables = sorted(set(cfg.integers("ple_layer_ids", [], least=1)))
    orders = [tables.index(index + 1) if index + 1 in tables else None for index in range(count)]

    def build(kind: tuple[str, int | None]) -> Layer:
        mixer: Part = qwen_delta_net(cfg, fused=False) if kind[0] == LINEAR else indexed_attention(cfg)
        added = () if kind[1] is None else (ngram_layer(cfg, kind[1]),)
        streams = (*mixing(cfg, "attn_hyper_connection"), *mixing(cfg, "mlp_hyper_connection"))
        return Layer((mixer, *added, gated_shared(cfg)), streams)

    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=cfg.hidden_size,
        layers=stack(list(zip(kinds, orders, strict=True)), build),
        tensors=(
            *parts.embedding("embed_tokens", cfg.vocab_size, cfg.hidden_size),
            *mixing(cfg, "hyper_connection_mixer", inject=False),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings", 0, least=0),
    )
