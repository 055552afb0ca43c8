"""Decoders with multi-head latent attention, dense or with a mixture of experts.

Keys and values are made from one compressed vector a token, which is all that a serving cache keeps. Sparse variants
add an indexer, a small attention that chooses the tokens to look at and keeps one key of its own a token; where layers
share the choice, only the one that makes it has an indexer. Shapes follow the classes of transformers 5.23.

References
----------
.. [1] DeepSeek-AI, "DeepSeek-V2", 2024, arXiv:2405.04434.
.. [2] DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, arXiv:2412.19437.
.. [3] DeepSeek-AI, "DeepSeek-V3.2", 2025, arXiv:2512.02556 (sparse attention with an indexer).
.. [4] Meituan, "LongCat-Flash Technical Report", 2025, arXiv:2509.01322.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, LatentAttention, Layer, Part, Tensors
from vrameter.model.config import Config
from vrameter.model.families.mixture import (
    balanced,
    block,
    decoder_of,
    first_dense,
    head_as,
    layer_changes,
    listed,
    next_token_layers,
    perceptron,
    sparse_layers,
)
from vrameter.model.families.registry import LayerScope, decoder, stack

INDEXED = "indexed_attention"


def latent(cfg: Config, *, indexed: bool = False, **traits: Any) -> LatentAttention:
    """Return latent attention of the config's widths, with an indexer where `indexed`."""
    return parts.latent_attention(
        **{
            "hidden_size": cfg.hidden_size,
            "num_heads": cfg.num_heads,
            "q_lora_rank": cfg.integer("q_lora_rank", None),
            "kv_lora_rank": cfg.integer("kv_lora_rank"),
            "nope_dim": cfg.integer("qk_nope_head_dim"),
            "rope_dim": cfg.integer("qk_rope_head_dim", least=0),
            "value_dim": cfg.integer("v_head_dim", None) or cfg.hidden_size // cfg.num_heads,
            "bias": cfg.flag("attention_bias", False),
            "index_heads": cfg.integer("index_n_heads") if indexed else 0,
            "index_dim": cfg.integer("index_head_dim") if indexed else 0,
            **traits,
        }
    )


def latent_decoder(
    cfg: Config,
    prefix: str,
    *,
    sparse: Sequence[bool] | None = None,
    indexed: Sequence[bool] | None = None,
    attention: Callable[[bool], LatentAttention] | None = None,
    mlp_bias: bool = False,
    experts: Callable[[], FeedForward] | None = None,
    layer: Callable[[Part, Part, bool], Layer] | None = None,
    extra: Tensors = (),
) -> Component:
    """Return a decoder of latent attention.

    Parameters
    ----------
    sparse, indexed
        Which layers have experts, and which an indexer; by default none.
    attention, experts, layer
        Makers where they differ: of attention given whether it is indexed, of experts, of a layer from its parts and
        whether it is sparse.
    """
    count = cfg.num_layers
    make_attention = attention or (lambda has_indexer: latent(cfg, indexed=has_indexer))
    make_experts = experts or (lambda: balanced(cfg))

    def build(kind: tuple[bool, bool]) -> Layer:
        is_sparse, has_indexer = kind
        own_attention = make_attention(has_indexer)
        own_mlp = make_experts() if is_sparse else perceptron(cfg, bias=mlp_bias)
        return layer(own_attention, own_mlp, is_sparse) if layer else block(cfg, own_attention, own_mlp)

    kinds = list(zip(sparse or [False] * count, indexed or [False] * count, strict=True))
    return decoder_of(cfg, prefix, stack(kinds, build), extra=extra)


def with_prediction(
    cfg: Config, prefix: str, body: Component, *, indexed: bool = False, tables: bool = True
) -> tuple[Component, ...]:
    """Return a decoder with the multi-token prediction layers [2]_ that its file says it has.

    `tables` says whether each stores its own copies of the token table and the head.
    """
    like = Layer((latent(cfg, indexed=indexed), balanced(cfg)), body.layers[-1].tensors)
    extra = next_token_layers(cfg, prefix, like, tables=("token", "head") if tables else ())
    return (body,) if extra is None else (body, extra)


@decoder("deepseek_v2")
def deepseek_v2(cfg: Config, prefix: str) -> Component:
    """DeepSeek-V2 [1]_: no balancing bias."""
    bias = cfg.flag("mlp_bias", False)
    any_experts = cfg.integer("n_routed_experts", None) is not None
    return latent_decoder(
        cfg,
        prefix,
        sparse=first_dense(cfg) if any_experts else None,
        mlp_bias=bias,
        experts=lambda: balanced(cfg, balance_bias=None, shared_bias=bias),
    )


@decoder("deepseek_v3")
def deepseek_v3(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """DeepSeek-V3 and R1 [2]_."""
    return with_prediction(cfg, prefix, latent_decoder(cfg, prefix, sparse=first_dense(cfg, 3)))


@decoder("mistral4")
def mistral4(cfg: Config, prefix: str) -> Component:
    """Mistral Small 4: DeepSeek-V3 without a balancing bias."""
    return latent_decoder(cfg, prefix, sparse=first_dense(cfg), experts=lambda: balanced(cfg, balance_bias=None))


@decoder("kimi_k2", heads=head_as("deepseek_v3"))
def kimi_k2(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Kimi K2: DeepSeek-V3 with other sizes, under a name of its own."""
    return deepseek_v3(cfg.as_type("deepseek_v3"), prefix)


@decoder("deepseek_v32")
def deepseek_v32(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """DeepSeek-V3.2 [3]_: an indexer in every layer."""
    body = latent_decoder(
        cfg, prefix, sparse=sparse_layers(cfg.over(moe_layer_freq=None), 3), indexed=[True] * cfg.num_layers
    )
    return with_prediction(cfg, prefix, body, indexed=True)


@decoder("glm_moe_dsa")
def glm_moe_dsa(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """GLM-5: DeepSeek-V3.2 whose layers may share an indexer's choice."""
    body = latent_decoder(
        cfg, prefix, sparse=sparse_layers(cfg.over(moe_layer_freq=None), 3), indexed=choosing_layers(cfg)
    )
    return with_prediction(cfg, prefix, body, indexed=True, tables=False)


def choosing_layers(cfg: Config) -> list[bool]:
    """Return which layers have an indexer: by list, by a text of F and S, or one in so many after an offset."""
    count = cfg.num_layers
    kinds = listed(cfg, "indexer_types", count)
    if kinds is None:
        pattern = cfg.get("index_topk_pattern")
        if pattern is not None:
            letters = list(pattern) if isinstance(pattern, str) else pattern
            kinds = listed(cfg.over(index_topk_pattern=letters), "index_topk_pattern", count)
    if kinds is not None:
        return [kind in ("full", "F") for kind in kinds]
    every = max(cfg.integer("index_topk_freq", 1, least=0), 1)
    offset = cfg.integer("index_skip_topk_offset", 2, least=0)
    return [max(index - offset + 1, 0) % every == 0 for index in range(count)]


@decoder("glm4_moe_lite")
def glm4_moe_lite(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """GLM-4.7-Flash: DeepSeek-V3 with the first layer dense."""
    own = cfg.over(moe_layer_freq=None, first_k_dense_replace=None)
    return with_prediction(cfg, prefix, latent_decoder(cfg, prefix, sparse=sparse_layers(own, 1)))


@decoder("youtu")
def youtu(cfg: Config, prefix: str) -> Component:
    """Youtu-LLM: latent attention in a dense model."""
    return latent_decoder(cfg, prefix)


@decoder("minicpm3")
def minicpm3(cfg: Config, prefix: str) -> Component:
    """MiniCPM3: latent attention in a dense model, value heads as wide as hidden size by heads."""
    return latent_decoder(cfg, prefix, mlp_bias=cfg.flag("mlp_bias", False))


@decoder("axk1")
def axk1(cfg: Config, prefix: str) -> Component:
    """A.X K1: DeepSeek-V3 with a norm after the experts."""
    hidden = cfg.hidden_size
    return latent_decoder(
        cfg,
        prefix,
        sparse=sparse_layers(cfg, 1),
        experts=lambda: balanced(cfg, extra=parts.norm("mlp.post_mlp_layernorm", hidden)),
    )


@decoder("axk2")
def axk2(cfg: Config, prefix: str) -> Component:
    """A.X K2: indexers, an output gate made with the queries, and norms with a gate of low rank."""
    hidden, rank = cfg.hidden_size, cfg.integer("gated_norm_rank")

    def attention(indexed: bool) -> LatentAttention:
        plain = latent(cfg, indexed=indexed)
        width = plain.num_heads * (plain.nope_dim + plain.rope_dim + plain.value_dim)
        gate = parts.linear(
            "self_attn.q_gate_proj", width, 2 * cfg.integer("q_lora_rank"), role="attention", slot="q_b"
        )
        return replace(plain, tensors=tuple(tensor for tensor in plain.tensors if tensor.slot != "q_b") + gate)

    def gated_norm(name: str) -> Tensors:
        return (
            *parts.norm(f"{name}.norm", hidden),
            *parts.linear(f"{name}.mlp.fc1", rank, hidden),
            *parts.linear(f"{name}.mlp.fc2", hidden, rank),
        )

    def layer(own_attention: Part, own_mlp: Part, is_sparse: bool) -> Layer:
        second = "post_attention_layernorm"
        norms = (
            *gated_norm("input_layernorm"),
            *(gated_norm(second) if is_sparse else parts.norm(second, hidden)),
        )
        return Layer((own_attention, own_mlp), norms)

    return latent_decoder(
        cfg,
        prefix,
        sparse=sparse_layers(cfg, 1),
        indexed=[True] * cfg.num_layers,
        attention=attention,
        layer=layer,
    )


@decoder("longcat_flash")
def longcat_flash(cfg: Config, prefix: str) -> Component:
    """LongCat-Flash [4]_: a layer is two attentions, two perceptrons and one mixture with experts that do nothing."""
    hidden = cfg.hidden_size
    routed, idle = cfg.integer("n_routed_experts"), cfg.integer("zero_expert_num", 0, least=0)
    width = cfg.integer("expert_ffn_hidden_size")
    total = routed + idle

    experts = parts.experts(
        hidden_size=hidden,
        intermediate_size=width,
        num_experts=total,
        num_experts_per_token=cfg.integer("moe_topk"),
        router="router.classifier",
        router_bias=cfg.flag("router_bias", False),
        balance_bias="router.e_score_correction_bias",
    )
    used = tuple(
        tensor._replace(shape=(routed, *tensor.shape[1:])) if tensor.slot == "down" else tensor
        for tensor in experts.tensors
    )
    attentions = [_with_query_width(cfg, latent(cfg, name=f"self_attn.{index}")) for index in (0, 1)]
    dense = [perceptron(cfg, cfg.integer("ffn_hidden_size"), name=f"mlps.{index}") for index in (0, 1)]
    layer = block(
        cfg,
        attentions[0],
        dense[0],
        replace(experts, tensors=used),
        attentions[1],
        dense[1],
        norms=[f"{name}.{index}" for name in ("input_layernorm", "post_attention_layernorm") for index in (0, 1)],
    )
    return decoder_of(cfg, prefix, (layer,) * cfg.num_layers)


def _with_query_width(cfg: Config, attention: LatentAttention) -> LatentAttention:
    """Return attention whose query heads are as wide as ``qk_head_dim`` says, where the config has it apart."""
    width = attention.num_heads * cfg.integer("qk_head_dim", attention.nope_dim + attention.rope_dim)
    tensors = tuple(
        tensor._replace(shape=(width, *tensor.shape[1:])) if tensor.slot == "q_b" else tensor
        for tensor in attention.tensors
    )
    return replace(attention, tensors=tensors)


# -- with windows or several streams ----------------------------------------------------------------


def hyper_connection(name: str, rows: int, streams: int, hidden: int, scales: int) -> Tensors:
    """Return the tensors that mix several residual streams before and after a part."""
    return (
        *parts.parameter(f"{name}.fn", rows, streams * hidden),
        *parts.parameter(f"{name}.base", rows),
        *parts.parameter(f"{name}.scale", scales),
    )


def hyper_head(streams: int, hidden: int) -> Tensors:
    """Return the tensors that join the residual streams after the last layer."""
    return (
        *parts.parameter("hc_head.hc_fn", streams, streams * hidden),
        *parts.parameter("hc_head.hc_base", streams),
        *parts.parameter("hc_head.hc_scale", 1),
    )


@decoder("hy_v4")
def hy_v4(cfg: Config, prefix: str) -> Component:
    """Hunyuan 4: shared indexers, gated attention with sinks, several residual streams."""
    hidden, streams, count = cfg.hidden_size, cfg.integer("hc_mult"), cfg.num_layers
    heads = cfg.num_heads
    kinds = listed(cfg, "indexer_types", count)
    chooses = [kind == "full" for kind in kinds] if kinds else [at == 0 or (at - 1) % 4 == 0 for at in range(count)]
    gate = (
        *parts.linear("self_attn.gate_proj", heads * cfg.integer("v_head_dim"), hidden, role="attention", slot="gate"),
        *parts.parameter("self_attn.sinks", heads, role="attention", slot="sinks"),
    )
    mixing = tuple(
        tensor for name in ("attn_hc", "ffn_hc") for tensor in hyper_connection(name, 2 * streams, streams, hidden, 2)
    )
    return latent_decoder(
        cfg,
        prefix,
        sparse=sparse_layers(cfg.over(moe_layer_freq=None, first_k_dense_replace=None), 1),
        indexed=chooses,
        attention=lambda indexed: latent(cfg, indexed=indexed, extra=gate),
        layer=lambda attention, mlp, _: block(cfg, attention, mlp, extra=mixing),
        extra=hyper_head(streams, hidden),
    )


_WINDOWED = {
    "num_attention_heads": 64, "q_lora_rank": 1024, "kv_lora_rank": 1024, "head_dim": 256,
    "qk_nope_head_dim": 192, "v_head_dim": 128,
}  # fmt: skip


@decoder("dots3_note_text")
def dots3_note_text(cfg: Config, prefix: str) -> Component:
    """dots.note: an indexer in some layers and, with widths of their own, a window in the others."""
    count, hidden = cfg.num_layers, cfg.hidden_size
    whole = "full_attention" if cfg.get("use_dsa") is False else INDEXED
    windowed = cfg.flag("use_sliding_window", True)
    kinds = cfg.per_layer("layer_types", count) or [
        whole if not windowed or index < 2 or index % 4 == 1 else "sliding_attention" for index in range(count)
    ]
    window = cfg.integer("sliding_window", None) or cfg.integer("sliding_window_size", 512)
    narrow = {name: cfg.integer(f"swa_{name}", default) for name, default in _WINDOWED.items()}
    narrow["qk_rope_head_dim"] = cfg.integer(
        "swa_qk_rope_head_dim", max(narrow["head_dim"] - narrow["qk_nope_head_dim"], 1)
    )
    changes = layer_changes(cfg, count) or [narrow if kind == "sliding_attention" else {} for kind in kinds]
    width = cfg.integer("moe_shared_expert_intermediate_size", None) or cfg.integer("shared_experts_intermediate_size")
    shared = int(width * cfg.integer("n_shared_experts", 0, least=0))

    def attention(kind: str, own: Config, scope: LayerScope) -> LatentAttention:
        extra = (
            *parts.norm("self_attn.k_rope_only_layernorm", own.integer("qk_rope_head_dim")),
            *parts.linear("self_attn.g_proj", own.num_heads, hidden, role="attention", slot="gate"),
        )
        return latent(own, indexed=kind == INDEXED, extra=extra, scope=scope[0], window=scope[1])

    def build(kind: tuple[tuple[tuple[str, Any], ...], str, bool]) -> Layer:
        changed, name, is_sparse = kind
        scope: LayerScope = ("sliding", window) if name == "sliding_attention" else ("full", None)
        mlp = balanced(cfg, shared_width=shared) if is_sparse else perceptron(cfg)
        return block(cfg, attention(name, cfg.over(**dict(changed)), scope), mlp)

    frozen = [tuple(change.items()) for change in changes]
    layers = stack(list(zip(frozen, kinds, sparse_layers(cfg, 1), strict=True)), build)
    return decoder_of(cfg, prefix, layers)
