"""Mixtures with shared experts in DeepSeek's manner and Llama's attention.

Every token passes the shared experts, as one perceptron, and those that the router chooses; the first layers are often
dense. Shapes follow the classes of transformers 5.23.

References
----------
.. [1] D. Dai et al., "DeepSeekMoE", 2024, arXiv:2401.06066.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward
from vrameter.model.config import Config
from vrameter.model.families.llama import rounded_heads
from vrameter.model.families.mixture import (
    balanced,
    biased_head,
    block,
    first_dense,
    grouped_attention,
    mixture,
    moe_decoder,
    next_token_layers,
    own_head,
    perceptron,
    shared_experts_width,
    sparse_layers,
    with_next_token,
)
from vrameter.model.families.registry import Built, decoder, layer_scopes


def separate_head(cfg: Config, class_name: str) -> Built | None:
    """Return heads that are the token table only if the file says so."""
    if not class_name.endswith("ForCausalLM"):
        return None
    return own_head(cfg.over(tie_word_embeddings=cfg.flag("tie_word_embeddings", False)), class_name)


@decoder("deepseek", heads=separate_head)
def deepseek(cfg: Config, prefix: str) -> Component:
    """DeepSeekMoE [1]_, the first generation: Llama's attention, shared and routed experts."""
    sparse = sparse_layers(cfg) if cfg.integer("n_routed_experts", None) else [False] * cfg.num_layers
    return moe_decoder(cfg, prefix, sparse=sparse, experts=lambda: balanced(cfg, balance_bias=None))


@decoder("glm4_moe")
def glm4_moe(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """GLM-4.5: biases on queries, keys and values, optional norms on heads, layers for multi-token prediction."""
    cfg = rounded_heads(cfg)
    body = moe_decoder(
        cfg,
        prefix,
        sparse=first_dense(cfg, 1),
        o_bias=False,
        qk_norm="head" if cfg.flag("use_qk_norm", False) else None,
        experts=lambda: balanced(cfg),
    )
    return with_next_token(cfg, prefix, body)


@decoder("solar_open")
def solar_open(cfg: Config, prefix: str) -> Component:
    """Solar Open: GLM-4.5's layers, all sparse."""
    return moe_decoder(cfg, prefix, o_bias=False, experts=lambda: balanced(cfg))


@decoder("dots1")
def dots1(cfg: Config, prefix: str) -> Component:
    """dots.llm1: norms on heads; a window from layer `max_window_layers` on."""
    first = cfg.integer("max_window_layers", 62, least=0)
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg, cfg.num_layers, pattern=lambda index: index >= first),
        sparse=first_dense(cfg),
        qk_norm="head",
        experts=lambda: balanced(cfg),
    )


@decoder("exaone_moe")
def exaone_moe(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """K-EXAONE: norms on heads; one layer in `sliding_window_pattern` sees everything; dense layers look ahead."""
    every = cfg.integer("sliding_window_pattern", 4, least=0)
    body = moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg, cfg.num_layers, pattern=lambda index: bool(every) and (index + 1) % every != 0),
        sparse=sparse_layers(cfg, 1),
        bias=False,
        qk_norm="head",
        experts=lambda: balanced(
            cfg, count="num_experts", shared_width=shared_experts_width(cfg, "num_shared_experts")
        ),
    )
    ahead = block(cfg, grouped_attention(cfg, bias=False, qk_norm="head"), perceptron(cfg))
    extra = next_token_layers(cfg, prefix, ahead, tables=())
    return (body,) if extra is None else (body, replace(extra, layers_prefix="mtp.layers", first_layer=0))


@decoder("hy_v3")
def hy_v3(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Hunyuan 3: norms on heads, the first layer dense."""
    bias = cfg.flag("mlp_bias", False)
    body = moe_decoder(
        cfg,
        prefix,
        sparse=sparse_layers(cfg.over(first_k_dense_replace=None), 1),
        qk_norm="head",
        dense=lambda: perceptron(cfg, bias=bias),
        experts=lambda: balanced(
            cfg,
            count="num_experts",
            shared_width=shared_experts_width(cfg, "num_shared_experts"),
            shared_bias=bias,
            balance_bias="e_score_correction_bias",
        ),
    )
    return with_next_token(cfg, prefix, body, tables=())


@decoder("hunyuan_v1_moe")
def hunyuan_v1_moe(cfg: Config, prefix: str) -> Component:
    """Hunyuan-A13B: a shared perceptron as wide as one expert; fields may be lists with an entry per layer."""
    experts = _first(cfg, "num_experts")
    own = cfg.over(num_experts=experts, moe_topk=_first(cfg, "moe_topk"))
    width = own.integer("intermediate_size")
    return moe_decoder(
        own,
        prefix,
        qk_norm="head",
        q_norm="query_layernorm",
        k_norm="key_layernorm",
        experts=lambda: mixture(
            own,
            width="intermediate_size",
            chosen="moe_topk",
            shared_width=width,
            shared_name="shared_mlp",
            router="gate.wg",
        ),
    )


def _first(cfg: Config, name: str) -> Any:
    """Return a field, or its first entry where it is a list per layer."""
    value = cfg.get(name)
    return value[0] if isinstance(value, (list, tuple)) and value else value


@decoder("ernie4_5_moe", heads=biased_head("use_bias"))
def ernie4_5_moe(cfg: Config, prefix: str) -> Component:
    """ERNIE 4.5: sparse layers between two numbers at an interval, one switch for all biases but the experts'."""
    count = cfg.num_layers
    bias = cfg.flag("use_bias", False)
    first, last = (
        cfg.integer(f"moe_layer_{end}_index", default, least=-1) for end, default in (("start", 1), ("end", -1))
    )
    every = cfg.integer("moe_layer_interval", 1)
    final = count - 1 if last == -1 else last
    return moe_decoder(
        cfg,
        prefix,
        sparse=[(index + 1) % every == 0 and first <= index <= final for index in range(count)],
        bias=bias,
        dense=lambda: perceptron(cfg, bias=bias),
        experts=lambda: ernie_experts(cfg, bias),
    )


def ernie_experts(cfg: Config, bias: bool) -> FeedForward:
    """Return ERNIE's experts, whose balancing bias is a parameter of one row."""
    number = cfg.integer("moe_num_experts")
    return mixture(
        cfg,
        count="moe_num_experts",
        chosen="moe_k",
        shared_width=shared_experts_width(cfg, "moe_num_shared_experts"),
        shared_bias=bias,
        extra=parts.parameter("mlp.gate.moe_statics.e_score_correction_bias", 1, number, role="router"),
    )


@decoder("afmoe")
def afmoe(cfg: Config, prefix: str) -> Component:
    """Arcee's mixtures: an output gate on attention, four norms a layer, one layer in four sees everything."""
    hidden = cfg.hidden_size
    every = cfg.integer("global_attn_every_n_layers", 4)
    gate = parts.linear("self_attn.gate_proj", cfg.num_heads * cfg.head_dim, hidden, role="attention", slot="gate")
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg, cfg.num_layers, pattern=lambda index: (index + 1) % every != 0),
        sparse=first_dense(cfg, 1, field="num_dense_layers"),
        qk_norm="head",
        extra=gate,
        norms=("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"),
        experts=lambda: mixture(
            cfg,
            shared_width=shared_experts_width(cfg, "num_shared_experts"),
            router="router.gate",
            balance_bias="expert_bias",
            balance_is_parameter=True,
        ),
    )


@decoder("cohere2_moe")
def cohere2_moe(cfg: Config, prefix: str) -> Component:
    """Command mixtures: one norm for attention and experts side by side; dense layers first, then a window pattern."""
    count = cfg.num_layers
    dense = cfg.integer("first_k_dense_replace", 0, least=0)
    first, rest = (cfg.integer(f"{name}sliding_window_pattern", 1) for name in ("prefix_dense_", ""))
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(
            cfg, count, pattern=lambda at: bool((at + 1) % first if at < dense else (at - dense + 1) % rest)
        ),
        sparse=sparse_layers(cfg.over(moe_layer_freq=None)),
        norms=("input_layernorm",),
        dense=lambda: perceptron(cfg, cfg.integer("prefix_dense_intermediate_size", None)),
        experts=lambda: mixture(
            cfg,
            width="intermediate_size",
            shared_width=shared_experts_width(cfg, "num_shared_experts", "intermediate_size"),
        ),
    )


@decoder("llama4_text")
def llama4_text(cfg: Config, prefix: str) -> Component:
    """Llama 4: a shared expert beside the chosen; layers with rotary positions see their chunk, others everything."""
    count = cfg.num_layers
    step = cfg.integer("interleave_moe_layer_step", 1)
    listed = cfg.integers("moe_layers", None)
    sparse = set(range(step - 1, count, step) if listed is None else listed)
    every = cfg.integer("no_rope_layer_interval", 4)
    rotary = cfg.integers("no_rope_layers", None) or [(index + 1) % every for index in range(count)]
    kinds = cfg.per_layer("layer_types", count) or [
        "chunked_attention" if index < len(rotary) and rotary[index] else "full_attention" for index in range(count)
    ]
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg.over(layer_types=kinds), count),
        sparse=[index in sparse for index in range(count)],
        dense=lambda: perceptron(cfg, cfg.integer("intermediate_size_mlp"), name="feed_forward"),
        experts=lambda: mixture(
            cfg,
            width="intermediate_size",
            count="num_local_experts",
            shared_width=cfg.integer("intermediate_size"),
            shared_name="shared_expert",
            name="feed_forward",
            router="router",
            inputs_first=True,
        ),
    )
