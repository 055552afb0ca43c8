"""DeepSeek-V4: attention over a window and pooled older tokens, several residual streams, routing by token.

Every layer keeps the last tokens whole, one vector each that serves as key and value. Most layers also pool older
tokens: a lightly pooled layer chooses among its entries by an indexer with pooled keys of its own, a heavily pooled one
looks at all. What waits to be pooled is kept with its gates. Shapes follow the class of transformers 5.23.

References
----------
.. [1] DeepSeek-AI, "DeepSeek-V4", 2026 (compressed sparse and heavily compressed attention).
.. [2] Z. Xie et al., "mHC: Manifold-Constrained Hyper-Connections", 2025, arXiv:2512.24880.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, LatentAttention, Layer, Tensor, Tensors
from vrameter.model.config import Config
from vrameter.model.families.latent import hyper_connection, hyper_head
from vrameter.model.families.mixture import balanced, block, decoder_of, head_as, listed
from vrameter.model.families.registry import decoder, stack

WINDOW, LIGHT, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
_RATES = {LIGHT: 4, HEAVY: 128}
_OF_RATIO = {0: WINDOW, 4: LIGHT, 128: HEAVY}


def layer_kinds(cfg: Config, count: int) -> list[str]:
    """Return how each layer pools: as listed, else by the ratios of the published files, else in turn."""
    kinds = listed(cfg, "layer_types", count)
    ratios = cfg.integers("compress_ratios", None)
    if kinds is None and ratios is not None:
        unknown = [ratio for ratio in ratios if ratio not in _OF_RATIO]
        if unknown or len(ratios) < count:
            raise cfg.fail(
                "compress_ratios",
                "%(value)s does not say how %(count)s layers pool.",
                value=ratios,
                count=count,
            )
        kinds = [_OF_RATIO[ratio] for ratio in ratios[:count]]
    if kinds is None:
        kinds = [LIGHT if index >= 2 and index % 2 else HEAVY for index in range(count)]
    for kind in kinds:
        if kind not in (WINDOW, LIGHT, HEAVY):
            raise cfg.fail("layer_types", "'%(value)s' is not a kind of layer known here.", value=kind)
    return kinds


def pooling_rate(cfg: Config, kind: str) -> int:
    """Return how many tokens share an entry of a kind of layer."""
    if kind == WINDOW:
        return 1
    rates = cfg.nested("compress_rates") if cfg.get("compress_rates") is not None else Config({})
    short = "compress_rate_csa" if kind == LIGHT else "compress_rate_hca"
    return int(cfg.integer(short, None) or rates.integer(kind, _RATES[kind]))


def pool(name: str, hidden: int, width: int, rate: int, *, overlapping: bool) -> tuple[Tensors, int]:
    """Return the tensors that pool tokens into entries of `width`, and the elements that wait to be pooled.

    Overlapping windows need each token twice: for its own window and for the next.
    """
    rows = 2 * width if overlapping else width
    tensors = (
        *parts.linear(f"{name}.kv_proj", rows, hidden, role="attention", slot="pool"),
        *parts.linear(f"{name}.gate_proj", rows, hidden, role="attention", slot="pool"),
        *parts.parameter(f"{name}.position_bias", rate, rows, role="attention"),
        *parts.norm(f"{name}.kv_norm", width),
    )
    return tensors, 2 * rate * rows + (2 * width if overlapping else 0)


def pooled_attention(cfg: Config, kind: str) -> LatentAttention:
    """Return the attention of one kind of layer."""
    hidden, heads, dim = cfg.hidden_size, cfg.num_heads, cfg.integer("head_dim")
    rank, groups, o_rank = cfg.integer("q_lora_rank"), cfg.integer("o_groups"), cfg.integer("o_lora_rank")
    if heads * dim % groups:
        raise cfg.fail("o_groups", "%(value)s does not divide the %(width)s outputs.", value=groups, width=heads * dim)
    rotary = cfg.integer("qk_rope_head_dim", None)
    factor = rotary / dim if rotary else cfg.number("partial_rotary_factor", 64 / 512)
    rope = rotary or int(dim * factor)
    rate = pooling_rate(cfg, kind)
    name = "self_attn"
    tensors: Tensors = (
        *parts.linear(f"{name}.q_a_proj", rank, hidden, role="attention", slot="q_a"),
        *parts.norm(f"{name}.q_a_norm", rank),
        *parts.linear(f"{name}.q_b_proj", heads * dim, rank, role="attention", slot="q_b"),
        *parts.linear(f"{name}.kv_proj", dim, hidden, role="attention", slot="kv_a"),
        *parts.norm(f"{name}.kv_norm", dim),
        *parts.linear(f"{name}.o_a_proj", groups * o_rank, heads * dim // groups, role="attention", slot="o_a"),
        *parts.linear(f"{name}.o_b_proj", hidden, groups * o_rank, role="attention", slot="o"),
        *parts.parameter(f"{name}.sinks", heads, role="attention", slot="sinks"),
    )
    waiting = index_heads = index_dim = 0
    if kind != WINDOW:
        added, waiting = pool(f"{name}.compressor", hidden, dim, rate, overlapping=kind == LIGHT)
        tensors += added
    if kind == LIGHT:
        index_heads, index_dim = cfg.integer("index_n_heads"), cfg.integer("index_head_dim")
        indexer = f"{name}.compressor.indexer"
        added, more = pool(indexer, hidden, index_dim, rate, overlapping=True)
        waiting += more
        tensors += (
            *added,
            *parts.linear(f"{indexer}.q_b_proj", index_heads * index_dim, rank, role="attention", slot="index"),
            *parts.linear(f"{indexer}.scorer.weights_proj", index_heads, hidden, role="attention", slot="index"),
        )
    return LatentAttention(
        tensors=tensors,
        num_heads=heads,
        q_lora_rank=rank,
        kv_lora_rank=dim - rope,
        nope_dim=dim - rope,
        rope_dim=rope,
        value_dim=dim,
        index_heads=index_heads,
        index_dim=index_dim,
        scope="sliding" if kind == WINDOW else "full",
        window=cfg.integer("sliding_window"),
        compression=rate,
        state_elements=waiting,
    )


def routed_mlp(cfg: Config, *, by_token: bool) -> FeedForward:
    """Return the mixture of a layer, whose router may be a table from token to experts."""
    bias = cfg.flag("mlp_bias", False)
    table = parts.buffer("mlp.gate.tid2eid", cfg.vocab_size, cfg.integer("num_experts_per_tok"), role="router")
    return balanced(
        cfg,
        shared_width=cfg.integer("moe_intermediate_size"),
        shared_bias=bias,
        **({"balance_bias": None, "extra": table} if by_token else {}),
    )


@decoder("deepseek_v4")
def deepseek_v4(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """DeepSeek-V4 [1]_ with its hyper-connections [2]_."""
    hidden, count, streams = cfg.hidden_size, cfg.num_layers, cfg.integer("hc_mult")
    mixing = tuple(
        tensor
        for name in ("attn_hc", "ffn_hc")
        for tensor in hyper_connection(name, (2 + streams) * streams, streams, hidden, 3)
    )

    def build(kind: tuple[str, bool]) -> Layer:
        return block(cfg, pooled_attention(cfg, kind[0]), routed_mlp(cfg, by_token=kind[1]), extra=mixing)

    routers = listed(cfg, "mlp_layer_types", count)
    first = cfg.integer("num_hash_layers", 3, least=0)
    by_token = [kind == "hash_moe" for kind in routers] if routers else [index < first for index in range(count)]
    layers = stack(list(zip(layer_kinds(cfg, count), by_token, strict=True)), build)
    body = decoder_of(cfg, prefix, layers, extra=hyper_head(streams, hidden))
    number = cfg.integer("num_nextn_predict_layers", 0, least=0) if cfg.given("num_nextn_predict_layers") else 0
    if not number:
        return (body,)
    plain = build((WINDOW, False))
    own: tuple[Tensor, ...] = (
        *parts.linear("e_proj", hidden, hidden),
        *parts.linear("h_proj", hidden, hidden),
        *(tensor for name in ("enorm", "hnorm", "norm") for tensor in parts.norm(name, hidden)),
        *hyper_head(streams, hidden),
    )
    extra = Component(
        kind="mtp",
        name="mtp",
        hidden_size=hidden,
        layers=(Layer(plain.parts, (*plain.tensors, *own)),) * number,
        layers_prefix="mtp",
        loaded=False,
    )
    return body, extra


@decoder("deepseek_ref", heads=head_as("deepseek_v4"))
def deepseek_ref(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """DeepSeek-V4 in the name that its reference implementation gives it."""
    return deepseek_v4(cfg.as_type("deepseek_v4"), prefix)
