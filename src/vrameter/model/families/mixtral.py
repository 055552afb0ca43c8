"""Mixtures in which a token passes its chosen experts: Mixtral and near relations.

They differ in norms, biases, windows and in which layers are sparse; Qwen2-MoE and Granite add a shared perceptron.
Shapes follow the classes of transformers 5.23.

References
----------
.. [1] A. Q. Jiang et al., "Mixtral of Experts", 2024, arXiv:2401.04088.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward
from vrameter.model.config import Config
from vrameter.model.families.mixture import (
    biased_head,
    mixture,
    moe_decoder,
)
from vrameter.model.families.registry import LayerScope, decoder, layer_scopes


@decoder("mixtral")
def mixtral(cfg: Config, prefix: str) -> Component:
    """Mixtral [1]_: every layer sparse, an optional window on all."""
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg, cfg.num_layers),
        bias=False,
        experts=lambda: mixture(cfg, width="intermediate_size", count="num_local_experts"),
    )


@decoder("phimoe", heads=biased_head("lm_head_bias"))
def phimoe(cfg: Config, prefix: str) -> Component:
    """Phi-3.5-MoE: Mixtral with LayerNorms and optional biases."""
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg, cfg.num_layers),
        norm_bias=True,
        experts=lambda: mixture(cfg, width="intermediate_size", count="num_local_experts", router="router"),
    )


@decoder("minimax_m2")
def minimax_m2(cfg: Config, prefix: str) -> Component:
    """MiniMax-M2: norms over all heads together, a balancing bias."""
    return moe_decoder(
        cfg,
        prefix,
        bias=False,
        qk_norm="full",
        experts=lambda: mixture(
            cfg, width="intermediate_size", count="num_local_experts", balance_bias="e_score_correction_bias"
        ),
    )


def qwen_sparse(cfg: Config) -> list[bool]:
    """Return which layers of a Qwen mixture are sparse: every `decoder_sparse_step`-th that is not listed as dense."""
    listed = set(cfg.integers("mlp_only_layers", []))
    step = cfg.integer("decoder_sparse_step", 1)
    any_experts = cfg.integer("num_experts", least=0) > 0
    return [any_experts and index not in listed and (index + 1) % step == 0 for index in range(cfg.num_layers)]


@decoder("qwen2_moe")
def qwen2_moe(cfg: Config, prefix: str) -> Component:
    """Qwen1.5-MoE and Qwen2-MoE: a shared expert with a gate; windows on every other layer where they are on."""
    first_full = cfg.integer("max_window_layers", 28, least=0)
    windowed = cfg.flag("use_sliding_window", False)
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg, cfg.num_layers, pattern=lambda index: index % 2 == 0 and index < first_full)
        if windowed
        else None,
        sparse=qwen_sparse(cfg),
        bias=cfg.flag("qkv_bias", True),
        o_bias=False,
        experts=lambda: mixture(
            cfg,
            shared_width=cfg.integer("shared_expert_intermediate_size", least=0),
            shared_name="shared_expert",
            shared_gate="shared_expert_gate",
        ),
    )


@decoder("qwen3_moe")
def qwen3_moe(cfg: Config, prefix: str) -> Component:
    """Qwen3-MoE: norms on heads, no shared expert."""
    windowed = cfg.flag("use_sliding_window", False)
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg, cfg.num_layers) if windowed else None,
        sparse=qwen_sparse(cfg),
        qk_norm="head",
        experts=lambda: mixture(cfg),
    )


@decoder("olmoe")
def olmoe(cfg: Config, prefix: str) -> Component:
    """OLMoE: norms over all heads together."""
    return moe_decoder(
        cfg, prefix, qk_norm="full", experts=lambda: mixture(cfg, width="intermediate_size", count="num_experts")
    )


@decoder("flex_olmo")
def flex_olmo(cfg: Config, prefix: str) -> Component:
    """FlexOlmo: OLMoE with norms after attention and experts instead of before."""
    return moe_decoder(
        cfg,
        prefix,
        qk_norm="full",
        norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        experts=lambda: mixture(cfg, width="intermediate_size", count="num_experts"),
    )


def granite_experts(cfg: Config) -> FeedForward:
    """Return Granite's experts with the shared perceptron beside them, or either alone where the config has one."""
    shared = cfg.integer("shared_intermediate_size", 0, least=0)
    beside = parts.mlp(
        hidden_size=cfg.hidden_size,
        intermediate_size=shared,
        name="shared_mlp",
        gate_up="input_linear",
        down="output_linear",
    )
    if not cfg.integer("num_local_experts", least=0):
        return beside
    made = mixture(cfg, width="intermediate_size", count="num_local_experts", name="block_sparse_moe", router="router")
    if not shared:
        return made
    return replace(
        made, tensors=(*made.tensors, *parts.with_role("shared_experts", beside.tensors)), shared_size=shared
    )


def granite(cfg: Config, prefix: str, *, scopes: Sequence[LayerScope] | None = None, **traits: Any) -> Component:
    """Return a Granite mixture, with the shared perceptron beside the experts where the config has one."""
    return moe_decoder(cfg, prefix, scopes=scopes, experts=lambda: granite_experts(cfg), **traits)


@decoder("granitemoe", "granitemoeshared")
def granitemoe(cfg: Config, prefix: str) -> Component:
    """Granite 3 mixtures."""
    return granite(cfg, prefix)


@decoder("granitemoe_swa")
def granitemoe_swa(cfg: Config, prefix: str) -> Component:
    """Granite mixtures with a window on three layers of four and attention sinks."""
    scopes = layer_scopes(cfg, cfg.num_layers, pattern=lambda index: index % 4 != 0)
    return granite(cfg, prefix, scopes=scopes, sinks="sinks")


@decoder("gpt_oss")
def gpt_oss(cfg: Config, prefix: str) -> Component:
    """gpt-oss: biases everywhere, attention sinks, a window on every other layer."""
    return moe_decoder(
        cfg,
        prefix,
        scopes=layer_scopes(cfg, cfg.num_layers, pattern=lambda index: index % 2 == 0),
        bias=cfg.flag("attention_bias", True),
        sinks="sinks",
        experts=lambda: mixture(
            cfg,
            width="intermediate_size",
            count="num_local_experts",
            router="router",
            router_bias=True,
            bias=True,
            inputs_first=True,
        ),
    )
