"""Decoders whose layers differ in widths: found by architecture search, or scaled with depth.

References
----------
.. [1] A. Bercovich et al., "Puzzle: Distillation-Based NAS for Inference-Optimized LLMs", 2024, arXiv:2411.19146.
.. [2] S. Mehta et al., "OpenELM", 2024, arXiv:2404.14619.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Part, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.registry import Built, decoder, stack
from vrameter.model.read import with_head

Block = tuple[Any, ...]


def layered(
    cfg: Config, prefix: str, layers: tuple[Layer, ...], *, embed: str = "embed_tokens", layers_name: str = "layers"
) -> Component:
    """Return a decoder of given layers: token table, layers, final norm."""
    hidden = cfg.hidden_size
    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=layers,
        tensors=(*parts.embedding(embed, cfg.vocab_size, hidden), *parts.norm("norm", hidden)),
        prefix=prefix,
        layers_prefix=joined(prefix, layers_name),
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings", 0, least=0),
    )


# -- DeciLM and Llama-Nemotron -------------------------------------------------------------------------


def rounded_up(size: int, multiple: int) -> int:
    """Return the least multiple that is not below `size`."""
    return -(-size // multiple) * multiple


def width_of(block: Config, hidden: int) -> int:
    """Return a perceptron's width: as given, else two thirds of `ffn_mult` hidden widths, up to a multiple of 256."""
    given = block.integer("intermediate_size", None)
    if given is not None:
        return int(given)
    return rounded_up(int(2 * block.number("ffn_mult") * hidden / 3), 256)


def deci_blocks(cfg: Config) -> list[Block]:
    """Return per layer what stands for attention and for the perceptron: a size, ``linear`` or nothing."""
    blocks = []
    for index, item in enumerate(cfg.per_layer("block_configs", cfg.num_layers)):
        if not isinstance(item, Mapping):
            raise cfg.fail("block_configs", "is not a list of objects.")
        block = Config(item, path=f"{cfg.path}.block_configs.{index}", notes=cfg.notes)
        own, feed = block.nested("attention"), block.nested("ffn")
        attention: Any = None
        if own.flag("replace_with_linear"):
            attention = "linear"
        elif not own.flag("no_op"):
            kv_heads = cfg.num_heads // own.integer("n_heads_in_group", 1)
            attention = (
                max(1, kv_heads),
                own.integer("window_length", None),
                own.integer("num_sink_tokens", 0, least=0),
            )
        width: Any = None
        if feed.flag("replace_with_linear"):
            width = "linear"
        elif not feed.flag("no_op"):
            width = width_of(feed, cfg.hidden_size)
        blocks.append((attention, width))
    return blocks


@decoder("nemotron-nas", "deci")
def deci(cfg: Config, prefix: str) -> Component:
    """DeciLM and Llama-Nemotron: each layer has its own number of key heads and width, or lacks a part."""
    hidden, bias, mlp_bias = cfg.hidden_size, cfg.flag("attention_bias"), cfg.flag("mlp_bias")
    if cfg.sequence("block_configs") is None:
        groups = cfg.per_layer("num_key_value_heads_per_layer", cfg.num_layers) or [cfg.num_kv_heads] * cfg.num_layers
        blocks: list[Block] = [((heads, None, 0), cfg.integer("intermediate_size")) for heads in groups]
    else:
        blocks = deci_blocks(cfg)

    def layer(block: Block) -> Layer:
        attention, width = block
        members: list[Part] = []
        tensors: Tensors = ()
        if attention == "linear":
            tensors += parts.linear("self_attn.linear_attn", hidden, hidden, bias=bias, role="attention")
        elif attention:
            kv_heads, window, sinks = attention
            made = parts.attention(
                hidden_size=hidden,
                num_heads=cfg.num_heads,
                num_kv_heads=kv_heads,
                head_dim=cfg.head_dim,
                bias=bias,
                scope="sliding" if window else "full",
                window=window,
            )
            members.append(replace(made, num_sink_tokens=sinks) if sinks else made)
        if width == "linear":
            tensors += parts.linear("mlp.linear_mlp", hidden, hidden, bias=mlp_bias, role="mlp")
        elif width:
            members.append(parts.mlp(hidden_size=hidden, intermediate_size=width, bias=mlp_bias))
        tensors += parts.norm("input_layernorm", hidden) if attention else ()
        tensors += parts.norm("post_attention_layernorm", hidden) if width else ()
        return Layer(tuple(members), tensors)

    return layered(cfg, prefix, stack(blocks, layer))


# -- OpenELM -------------------------------------------------------------------------------------------


def nearest_multiple(size: float, multiple: int) -> int:
    """Return the multiple nearest to `size`, at least nine tenths of it."""
    near = max(multiple, int(size + multiple / 2) // multiple * multiple)
    return near if near >= 0.9 * size else near + multiple


def _openelm_heads(cfg: Config, class_name: str) -> Built | None:
    if class_name.endswith("Model"):
        return None
    shared = cfg.flag("share_input_output_layers", True)
    return with_head(cfg.over(tie_word_embeddings=shared), (openelm(cfg, "transformer"),), class_name)


@decoder("openelm", base="transformer", heads=_openelm_heads)
def openelm(cfg: Config, prefix: str) -> Component:
    """OpenELM: heads and widths grow with depth."""
    cfg = cfg.over(hidden_size=cfg.integer("model_dim"), num_hidden_layers=cfg.layers("num_transformer_layers"))
    hidden, count, dim = cfg.hidden_size, cfg.num_layers, cfg.integer("head_dim")
    queries, keys = (cfg.integers(name) for name in ("num_query_heads", "num_kv_heads"))
    scales = cfg.per_layer("ffn_multipliers", count)
    if len(queries) != count or len(keys) != count or scales is None:
        raise cfg.fail("num_query_heads", "needs an entry for each of the %(count)s layers.", count=count)
    gated, normed = cfg.flag("ffn_with_glu", True), cfg.flag("normalize_qk_projections", True)

    def layer(block: Block) -> Layer:
        heads, kv_heads, scale = block
        width = nearest_multiple(scale * hidden, cfg.integer("ffn_dim_divisor", 256))
        attention = parts.attention(
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=dim,
            name="attn",
            qkv="qkv_proj",
            o="out_proj",
            qk_norm=dim if normed else None,
        )
        feed = parts.mlp(
            hidden_size=hidden,
            intermediate_size=width,
            gated=gated,
            name="ffn",
            up="proj_1",
            down="proj_2",
            gate_up="proj_1" if gated else None,
        )
        return Layer((attention, feed), (*parts.norm("attn_norm", hidden), *parts.norm("ffn_norm", hidden)))

    layers = stack(list(zip(queries, keys, scales, strict=True)), layer)
    max_positions = cfg.integer("max_context_length", 0, least=0)
    return layered(cfg.over(max_position_embeddings=max_positions), prefix, layers, embed="token_embeddings")
