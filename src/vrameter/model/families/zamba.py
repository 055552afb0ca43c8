"""Zamba: Mamba in every layer, and before some of them one or two blocks of attention that they share.

A shared block's weights exist once; each place where it stands keeps keys and values of its own, and feeds what it makes
through a matrix of its own. Zamba2 adds low-rank adapters for each place, which live in the block. Names and shapes
follow the classes of transformers 5.23, where a block is stored under the first layer that uses it.

References
----------
.. [1] P. Glorioso et al., "Zamba: A Compact 7B SSM Hybrid Model", 2024, arXiv:2405.16712.
.. [2] P. Glorioso et al., "The Zamba2 Suite", 2024, arXiv:2411.15242.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import mixers, parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Part, Recurrent, Tensors
from vrameter.model.config import Config
from vrameter.model.families.layer_kinds import HYBRID, LINEAR, layer_kinds, size_or_auto, state_in_fp32
from vrameter.model.families.mixture import decoder_of
from vrameter.model.families.registry import decoder, stack
from vrameter.units import ceil_div


def shared_attention(cfg: Config, name: str, extra: Tensors = ()) -> Attention:
    """Return the attention of a shared block, which sees the embeddings beside the hidden state: twice the width."""
    return parts.attention(
        hidden_size=attention_width(cfg),
        num_heads=cfg.num_heads,
        num_kv_heads=cfg.num_kv_heads,
        head_dim=cfg.integer("attention_head_dim", None) or 2 * cfg.hidden_size // cfg.num_heads,
        out_size=cfg.hidden_size,
        name=f"{name}.self_attn",
        extra=extra,
    )


def attention_width(cfg: Config) -> int:
    """Return the width of what a shared block's attention sees."""
    return int(cfg.integer("attention_hidden_size", None) or 2 * cfg.hidden_size)


def block_norms(cfg: Config, name: str) -> Tensors:
    """Return the norms of a shared block."""
    return (
        *parts.norm(f"{name}.input_layernorm", attention_width(cfg)),
        *parts.norm(f"{name}.pre_ff_layernorm", cfg.hidden_size),
    )


def hybrid_decoder(
    cfg: Config,
    prefix: str,
    kinds: list[str],
    *,
    mixer: Recurrent,
    blocks: list[Layer],
) -> Component:
    """Return a decoder whose hybrid layers take the shared `blocks` in turn; a block's tensors stand where it is first.

    transformers shares the blocks only where it ties the head; else every place holds a copy.
    """
    hidden = cfg.hidden_size
    norm = parts.norm("input_layernorm", hidden)
    plain = Layer((mixer,), norm)
    inner = replace(mixer, tensors=parts.below("mamba_decoder", mixer.tensors))
    around = (*parts.linear("linear", hidden, hidden, role="mlp"), *parts.below("mamba_decoder", norm))
    seen = 0
    numbered: list[tuple[str, int, bool]] = []
    for kind in kinds:
        hybrid = kind == HYBRID
        is_own = hybrid and (seen < len(blocks) or not cfg.tied)
        numbered.append((kind, seen % len(blocks) if hybrid else 0, is_own))
        seen += hybrid

    def build(kind: tuple[str, int, bool]) -> Layer:
        if kind[0] == LINEAR:
            return plain
        block = blocks[kind[1]]
        shared: tuple[Part, ...] = block.parts if kind[2] else tuple(replace(part, tensors=()) for part in block.parts)
        return Layer((*shared, inner), (*(block.tensors if kind[2] else ()), *around))

    return decoder_of(cfg, prefix, stack(numbered, build), norm="final_layernorm")


@decoder("zamba")
def zamba(cfg: Config, prefix: str) -> Component:
    """Zamba [1]_: Mamba-1 of several heads, one shared block."""
    hidden = cfg.hidden_size
    given = cfg.sequence("layer_types")
    period, offset = cfg.integer("attn_layer_period"), cfg.integer("attn_layer_offset", least=0)
    kinds = layer_kinds(
        cfg,
        len(given) if given is not None else cfg.num_layers,
        lambda index: HYBRID if index == 2 or (index > 2 and (index - 3) % period == offset) else LINEAR,
        known=(LINEAR, HYBRID),
    )
    name = "shared_transf"
    mlp = parts.mlp(hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), name=f"{name}.feed_forward")
    block = Layer((shared_attention(cfg, name), mlp), block_norms(cfg, name))
    return hybrid_decoder(cfg, prefix, kinds, mixer=headed_mamba(cfg), blocks=[block])


def headed_mamba(cfg: Config) -> Recurrent:
    """Return Zamba's Mamba-1, whose inner projections are one matrix per head."""
    hidden, heads, name = cfg.hidden_size, cfg.integer("n_mamba_heads"), "mamba"
    inner, state = cfg.integer("mamba_expand") * hidden, cfg.integer("mamba_d_state")
    rank, width = size_or_auto(cfg, "mamba_dt_rank", ceil_div(hidden, 16)), inner // heads
    bias = cfg.flag("mamba_proj_bias", False)
    kernel = cfg.integer("mamba_d_conv")
    tensors: Tensors = (
        *parts.parameter(f"{name}.x_proj_weight", heads, rank + 2 * state, width, role="mixer", slot="ssm_x"),
        *parts.parameter(f"{name}.dt_proj_weight", heads, width, rank, role="mixer", slot="ssm_dt"),
        *parts.parameter(f"{name}.dt_proj_bias", heads, width, role="mixer"),
        *parts.parameter(f"{name}.A_log", heads, width, state, role="mixer", slot="a"),
        *parts.parameter(f"{name}.D", heads, width, role="mixer", slot="d"),
        *parts.conv(
            f"{name}.conv1d", inner, 1, kernel, bias=cfg.flag("mamba_conv_bias", True), role="mixer", slot="conv"
        ),
        *parts.linear(f"{name}.in_proj", 2 * inner, hidden, bias=bias, role="mixer", slot="ssm_in"),
        *parts.linear(f"{name}.out_proj", hidden, inner, bias=bias, role="mixer", slot="ssm_out"),
    )
    return Recurrent(
        tensors=tensors,
        kind="mamba",
        conv_channels=inner,
        conv_kernel=kernel,
        state_elements=inner * state,
        state_fp32=state_in_fp32(cfg),
        inner_size=inner,
        num_heads=inner,
        head_dim=1,
        state_size=state,
        num_groups=heads,
    )


@decoder("zamba2")
def zamba2(cfg: Config, prefix: str) -> Component:
    """Zamba2 [2]_: Mamba-2, one or more shared blocks, adapters for each place of theirs."""
    hidden = cfg.hidden_size
    given = cfg.sequence("layer_types")
    own = {*range(6, 43, 6), 47, 51}
    kinds = layer_kinds(
        cfg,
        len(given) if given is not None else 54,
        lambda index: HYBRID if index in own else LINEAR,
        known=(LINEAR, HYBRID),
    )
    heads = cfg.integer("n_mamba_heads")
    mixer = mixers.mamba2(
        hidden_size=hidden,
        inner_size=int(cfg.number("mamba_expand", 2) * hidden),
        state_size=cfg.integer("mamba_d_state"),
        num_heads=heads,
        num_groups=cfg.integer("mamba_ngroups"),
        conv_kernel=cfg.integer("mamba_d_conv"),
        name="mamba",
        bias=cfg.flag("add_bias_linear", False),
        state_fp32=state_in_fp32(cfg),
    )
    places, number = kinds.count(HYBRID), cfg.layers("num_mem_blocks")
    blocks = [adapted_block(cfg, [place for place in range(places) if place % number == at]) for at in range(number)]
    return hybrid_decoder(cfg, prefix, kinds, mixer=mixer, blocks=blocks)


def adapted_block(cfg: Config, places: list[int]) -> Layer:
    """Return a shared block with the adapters of the places that it has among all hybrid layers."""
    hidden, rank, name = cfg.hidden_size, cfg.integer("adapter_rank"), "shared_transformer"
    width, inner = attention_width(cfg), cfg.integer("intermediate_size", None) or 4 * hidden
    bias = cfg.flag("add_bias_linear", False)

    def adapters(where: str, inputs: int, outputs: int) -> Tensors:
        return tuple(
            tensor
            for place in places
            for tensor in (
                *parts.linear(f"{name}.{where}.{place}.0", rank, inputs, role="other", slot="adapter"),
                *parts.linear(f"{name}.{where}.{place}.1", outputs, rank, role="other", slot="adapter"),
            )
        )

    extra: Tensors = ()
    if cfg.flag("use_shared_attention_adapter", False):
        extra = tuple(
            tensor
            for which in ("q", "k", "v")
            for tensor in adapters(f"self_attn.linear_{which}_adapter_list", width, width)
        )
    mlp: FeedForward = parts.mlp(
        hidden_size=hidden,
        intermediate_size=inner,
        bias=bias,
        gate_up="gate_up_proj",
        name=f"{name}.feed_forward",
        extra=adapters("feed_forward.gate_up_proj_adapter_list", hidden, 2 * inner),
    )
    return Layer((shared_attention(cfg, name, extra), mlp), block_norms(cfg, name))
