"""Mixtures whose experts are laid out in other ways: flat, in attention too, or twice for text and images.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] Databricks, "Introducing DBRX", 2024.
.. [2] Y. Shen et al., "JetMoE: Reaching Llama2 Performance with 0.1M Dollars", 2024, arXiv:2404.07413.
.. [3] D. Li et al., "Aria: An Open Multimodal Native Mixture-of-Experts Model", 2024, arXiv:2410.05993.
.. [4] Baidu, "ERNIE 4.5 Technical Report", 2025 (experts of their own for images).
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Tensor, Tensors
from vrameter.model.config import Config
from vrameter.model.families.mixture import (
    biased_head,
    block,
    decoder_of,
    grouped_attention,
    mixture,
    moe_decoder,
    perceptron,
    sparse_layers,
)
from vrameter.model.families.registry import decoder, stack


def _nested(cfg: Config, name: str) -> Config:
    return cfg.nested(name) if cfg.has_nested(name) else Config({}, path=f"{cfg.path}.{name}", notes=cfg.notes)


@decoder("dbrx", base="transformer")
def dbrx(cfg: Config, prefix: str) -> Component:
    """DBRX [1]_: queries, keys and values in one matrix; the experts' rows one under another."""
    hidden = cfg.hidden_size
    own = _nested(cfg, "ffn_config")
    kv_heads = _nested(cfg, "attn_config").integer("kv_n_heads", 1)
    number, width = own.integer("moe_num_experts", 4), own.integer("ffn_hidden_size", 3584)
    attention = parts.attention(
        hidden_size=hidden,
        num_heads=cfg.num_heads,
        num_kv_heads=kv_heads,
        head_dim=cfg.head_dim,
        name="norm_attn_norm.attn",
        qkv="Wqkv",
        o="out_proj",
    )
    experts = tuple(
        Tensor(f"ffn.experts.mlp.{name}", (number * width, hidden), "experts", slot, linear=True)
        for name, slot in (("w1", "gate"), ("v1", "up"), ("w2", "down"))
    )
    router = Tensor("ffn.router.layer.weight", (number, hidden), "router", "router")
    mlp = FeedForward(
        tensors=(*experts, router),
        intermediate_size=width,
        num_experts=number,
        num_experts_per_token=min(own.integer("moe_top_k", 1), number),
    )
    layer = block(cfg, attention, mlp, norms=("norm_attn_norm.norm_1", "norm_attn_norm.norm_2"))
    return decoder_of(cfg, prefix, (layer,) * cfg.num_layers, embed="wte", norm="norm_f", layers_name="blocks")


def _parallel_experts(name: str, hidden: int, inputs: int, width: int, number: int, chosen: int) -> FeedForward:
    """Return JetMoE's experts: one matrix in, one out, and a bias on the sum."""
    tensors: Tensors = (
        Tensor(f"{name}.input_linear.weight", (number, inputs, hidden), "experts", "up", linear=True),
        Tensor(f"{name}.output_linear.weight", (number, hidden, width), "experts", "down", linear=True),
        *parts.parameter(f"{name}.bias", hidden, role="mlp"),
        Tensor(f"{name}.router.layer.weight", (number, hidden), "router", "router"),
    )
    return FeedForward(
        tensors=tensors,
        intermediate_size=width,
        gated=inputs != width,
        num_experts=number,
        num_experts_per_token=min(chosen, number),
    )


@decoder("jetmoe")
def jetmoe(cfg: Config, prefix: str) -> Component:
    """JetMoE [2]_: queries and outputs of attention come from experts too; keys and values are common to all."""
    hidden, kv_heads, dim = cfg.hidden_size, cfg.integer("num_key_value_heads"), cfg.integer("kv_channels")
    number, chosen = cfg.integer("num_local_experts"), cfg.integer("num_experts_per_tok")
    width, inner = kv_heads * dim, cfg.integer("intermediate_size")
    attention = Attention(
        tensors=parts.linear("self_attention.kv_proj", 2 * width, hidden, role="attention", slot="kv"),
        num_heads=kv_heads * chosen,
        num_kv_heads=kv_heads,
        head_dim=dim,
        value_dim=dim,
    )
    layer = block(
        cfg,
        attention,
        _parallel_experts("self_attention.experts", hidden, width, width, number, chosen),
        _parallel_experts("mlp", hidden, 2 * inner, inner, number, chosen),
    )
    return decoder_of(cfg, prefix, (layer,) * cfg.num_layers)


@decoder("aria_text")
def aria_text(cfg: Config, prefix: str) -> Component:
    """Aria's decoder [3]_: experts stored inputs first, shared experts as wide as several routed ones."""
    shared = cfg.integer("moe_num_shared_experts", 0, least=0) * cfg.integer("intermediate_size")
    return moe_decoder(
        cfg,
        prefix,
        experts=lambda: mixture(
            cfg,
            width="intermediate_size",
            count="moe_num_experts",
            chosen="moe_topk",
            shared_width=shared,
            shared_bias=cfg.flag("mlp_bias", False),
            router="router",
            inputs_first=True,
        ),
    )


@decoder("ernie4_5_vl_moe_text", heads=biased_head("use_bias"))
def ernie4_5_vl_moe_text(cfg: Config, prefix: str) -> Component:
    """ERNIE 4.5 VL's decoder [4]_: one mixture for text, one for images that text tokens skip, shared experts."""
    hidden, bias = cfg.hidden_size, cfg.flag("use_bias", False)
    widths = cfg.integers("moe_intermediate_size", [1536, 512], least=1)
    if len(widths) != 2:
        raise cfg.fail(
            "moe_intermediate_size", "has %(length)s entries for %(count)s mixtures.", length=len(widths), count=2
        )
    number, chosen = cfg.integer("moe_num_experts"), cfg.integer("moe_k")
    shared = cfg.integer("moe_num_shared_experts", 0, least=0) * widths[0]

    def one(name: str, width: int, per_token: int) -> FeedForward:
        return parts.experts(
            hidden_size=hidden,
            intermediate_size=width,
            num_experts=number,
            num_experts_per_token=per_token,
            name=f"mlp.{name}",
            extra=parts.parameter(f"mlp.{name}.gate.moe_statics.e_score_correction_bias", 1, number, role="router"),
        )

    def build(is_sparse: bool) -> Layer:
        attention = grouped_attention(cfg, bias=bias)
        if not is_sparse:
            return block(cfg, attention, perceptron(cfg, bias=bias))
        text, images = one("text_moe", widths[0], chosen), one("vision_moe", widths[-1], 0)
        beside = perceptron(cfg, shared, name="mlp.shared_experts", bias=bias).tensors if shared else ()
        text = replace(text, tensors=(*text.tensors, *parts.with_role("shared_experts", beside)), shared_size=shared)
        return block(cfg, attention, text, images)

    sparse = sparse_layers(cfg.over(first_k_dense_replace=None, moe_layer_freq=None), 1)
    return decoder_of(cfg, prefix, stack(sparse, build))
