"""BLOOM, Falcon and MPT: GPT's layers with one matrix for queries, keys and values and no learned positions.

References
----------
.. [1] BigScience, "BLOOM", 2022, arXiv:2211.05100.
.. [2] E. Almazrouei et al., "The Falcon Series of Open Language Models", 2023, arXiv:2311.16867.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component
from vrameter.model.config import Config
from vrameter.model.families.gpt import FOURFOLD, FUSED, equal_heads, head_named, inner_width
from vrameter.model.families.llama import dense_decoder, full_scopes
from vrameter.model.families.registry import decoder


@decoder("bloom", base="transformer", heads=head_named())
def bloom(cfg: Config, prefix: str) -> Component:
    """BLOOM: distances as slopes instead of positions, a norm on the embeddings, biases everywhere."""
    cfg = equal_heads(cfg)
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        norm_bias=True,
        final_norm="ln_f",
        embed="word_embeddings",
        embeddings=parts.norm("word_embeddings_layernorm", cfg.hidden_size, bias=True),
        layers_name="h",
        scopes=full_scopes(cfg),
        attention_traits={**FUSED, "name": "self_attention", "bias": True, "o_bias": True},
        mlp_traits={**FOURFOLD, "bias": True, "intermediate_size": 4 * cfg.hidden_size},
    )


@decoder("falcon", "RefinedWeb", "RefinedWebModel", base="transformer", heads=head_named())
def falcon(cfg: Config, prefix: str) -> Component:
    """Falcon: one shared key head, or groups in its newer layout, which has two norms side by side."""
    kv_heads = cfg.integer("num_kv_heads", cfg.integer("n_head_kv", cfg.num_heads))
    new, parallel = cfg.flag("new_decoder_architecture") or cfg.given("n_head_kv"), cfg.flag("parallel_attn", True)
    if not new:
        kv_heads = 1 if cfg.flag("multi_query", True) else cfg.num_heads
    single = cfg.integer("num_ln_in_parallel_attn", 2 if new else 1) != 2
    if not parallel:
        norms: tuple[str, ...] = ("post_attention_layernorm", "input_layernorm")
    else:
        norms = ("input_layernorm",) if single else ("ln_attn", "ln_mlp")
    cfg = equal_heads(cfg).over(num_kv_heads=None)
    bias = cfg.flag("bias")
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        norms=norms,
        norm_bias=True,
        final_norm="ln_f",
        embed="word_embeddings",
        layers_name="h",
        scopes=full_scopes(cfg),
        attention_traits={**FUSED, "name": "self_attention", "bias": bias, "o_bias": bias, "num_kv_heads": kv_heads},
        mlp_traits={**FOURFOLD, "bias": bias, "intermediate_size": inner_width(cfg, "ffn_hidden_size")},
    )


@decoder("mpt", base="transformer", heads=head_named())
def mpt(cfg: Config, prefix: str) -> Component:
    """MPT: distances as slopes, no biases, not even in its layer norms."""
    cfg = equal_heads(cfg)
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        norms=("norm_1", "norm_2"),
        final_norm="norm_f",
        embed="wte",
        layers_name="blocks",
        scopes=full_scopes(cfg),
        attention_traits={"name": "attn", "qkv": "Wqkv", "o": "out_proj", "bias": False, "o_bias": False},
        mlp_traits={"name": "ffn", "bias": False, "intermediate_size": 4 * cfg.hidden_size},
    )
