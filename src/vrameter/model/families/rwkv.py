"""RWKV: mixing over time and over channels, each of which also sees the token before.

A layer keeps the last hidden state of both halves and, from version 5 on, a matrix per head; version 4 keeps two sums
and a maximum per channel. Version 4 follows the class of transformers 5.23, version 6 its own published code, version 7
the classes of flash-linear-attention.

References
----------
.. [1] B. Peng et al., "RWKV: Reinventing RNNs for the Transformer Era", 2023, arXiv:2305.13048 (RWKV-4).
.. [2] B. Peng et al., "Eagle and Finch", 2024, arXiv:2404.05892 (RWKV-6).
.. [3] B. Peng et al., "RWKV-7 Goose", 2025, arXiv:2503.14456.
"""

from __future__ import annotations

from collections.abc import Iterable

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, Layer, Recurrent, Tensors
from vrameter.model.config import Config
from vrameter.model.families.gpt import head_named
from vrameter.model.families.mixture import block, decoder_of
from vrameter.model.families.registry import decoder, stack
from vrameter.units import ceil_to


def shifts(prefix: str, which: Iterable[str], *shape: int) -> Tensors:
    """Return the weights by which parts of a layer mix a token with the one before."""
    return tuple(tensor for each in which for tensor in parts.parameter(f"{prefix}{each}", *shape, role="mixer"))


def matrix_state(tensors: Tensors, *, hidden: int, width: int, head_dim: int) -> Recurrent:
    """Return a mixer with a square per head in fp32, and the last hidden state of both halves of its layer."""
    heads = width // head_dim
    return Recurrent(
        tensors=tensors,
        kind="rwkv",
        conv_channels=2 * hidden,
        conv_kernel=2,
        state_elements=width * head_dim,
        state_fp32=True,
        inner_size=width,
        num_heads=heads,
        head_dim=head_dim,
        state_size=head_dim,
        num_groups=heads,
    )


@decoder("rwkv", base="rwkv", heads=head_named(name="head"))
def rwkv(cfg: Config, prefix: str) -> Component:
    """RWKV-4 [1]_: mixing over time and over channels, each of which looks back one token."""
    hidden, count = cfg.hidden_size, cfg.num_layers
    width = cfg.integer("attention_hidden_size", None) or hidden
    inner = cfg.integer("intermediate_size", None) or 4 * hidden

    def mixed(name: str, *which: str) -> Tensors:
        return shifts(f"{name}.time_mix_", which, 1, 1, hidden)

    mixer = Recurrent(
        tensors=(
            *parts.parameter("attention.time_decay", width, role="mixer", slot="a"),
            *parts.parameter("attention.time_first", width, role="mixer", slot="d"),
            *mixed("attention", "key", "value", "receptance"),
            *parts.linear("attention.key", width, hidden, role="mixer", slot="k"),
            *parts.linear("attention.value", width, hidden, role="mixer", slot="v"),
            *parts.linear("attention.receptance", width, hidden, role="mixer", slot="r"),
            *parts.linear("attention.output", hidden, width, role="mixer", slot="ssm_out"),
        ),
        kind="rwkv",
        conv_channels=2 * hidden,
        conv_kernel=2,
        state_elements=3 * width,
        state_fp32=True,
        inner_size=width,
        num_heads=width,
        head_dim=1,
        state_size=3,
        num_groups=width,
    )
    feed = FeedForward(
        tensors=(
            *mixed("feed_forward", "key", "receptance"),
            *parts.linear("feed_forward.key", inner, hidden, role="mlp", slot="up"),
            *parts.linear("feed_forward.receptance", hidden, hidden, role="mlp", slot="r"),
            *parts.linear("feed_forward.value", hidden, inner, role="mlp", slot="down"),
        ),
        intermediate_size=inner,
        gated=False,
    )

    def build(is_first: bool) -> Layer:
        norms = ("pre_ln", "ln1", "ln2") if is_first else ("ln1", "ln2")
        return block(cfg, mixer, feed, norms=norms, norm_bias=True)

    layers = stack([index == 0 for index in range(count)], build)
    return decoder_of(cfg, prefix, layers, embed="embeddings", norm="ln_out", norm_bias=True, layers_name="blocks")


@decoder("rwkv6", base="rwkv", heads=head_named(name="head", untied=True))
def rwkv6(cfg: Config, prefix: str) -> Component:
    """RWKV-6 [2]_: decays and shifts that depend on the token, through projections of low rank."""
    hidden, count = cfg.hidden_size, cfg.num_layers
    width = cfg.integer("attention_hidden_size", None) or hidden
    dim = cfg.integer("head_size", None) or cfg.integer("num_attention_heads", 64)
    inner = cfg.integer("intermediate_size", None) or hidden * 7 // 2 // 32 * 32
    mix, decay = (64, 128) if hidden == 4096 else (32, 64)
    name = "attention"
    mixer = matrix_state(
        (
            *shifts(f"{name}.time_maa_", "xwkvrg", 1, 1, hidden),
            *parts.parameter(f"{name}.time_maa_w1", hidden, 5 * mix, role="mixer"),
            *parts.parameter(f"{name}.time_maa_w2", 5, mix, hidden, role="mixer"),
            *parts.parameter(f"{name}.time_decay", 1, 1, width, role="mixer"),
            *parts.parameter(f"{name}.time_decay_w1", hidden, decay, role="mixer"),
            *parts.parameter(f"{name}.time_decay_w2", decay, width, role="mixer"),
            *parts.parameter(f"{name}.time_faaaa", width // dim, dim, role="mixer", slot="d"),
            *(
                tensor
                for which, slot in (("receptance", "r"), ("key", "k"), ("value", "v"), ("gate", "z"))
                for tensor in parts.linear(f"{name}.{which}", width, hidden, role="mixer", slot=slot)
            ),
            *parts.linear(f"{name}.output", hidden, width, role="mixer", slot="ssm_out"),
            *parts.norm(f"{name}.ln_x", width, bias=True),
        ),
        hidden=hidden,
        width=width,
        head_dim=dim,
    )
    feed = FeedForward(
        tensors=(
            *shifts("feed_forward.time_maa_", "kr", 1, 1, hidden),
            *parts.linear("feed_forward.key", inner, hidden, role="mlp", slot="up"),
            *parts.linear("feed_forward.receptance", hidden, hidden, role="mlp", slot="r"),
            *parts.linear("feed_forward.value", hidden, inner, role="mlp", slot="down"),
        ),
        intermediate_size=inner,
        gated=False,
    )

    def build(is_first: bool) -> Layer:
        norms = ("pre_ln", "ln1", "ln2") if is_first else ("ln1", "ln2")
        return block(cfg, mixer, feed, norms=norms, norm_bias=True)

    layers = stack([index == 0 for index in range(count)], build)
    return decoder_of(cfg, prefix, layers, embed="embeddings", norm="ln_out", norm_bias=True, layers_name="blocks")


@decoder("rwkv7", "rwkv7_fla", heads=head_named(untied=True))
def rwkv7(cfg: Config, prefix: str) -> Component:
    """RWKV-7 [3]_: a delta rule with a decay and a learning rate per channel; all but the first layer mix in its values."""
    hidden, count = cfg.hidden_size, cfg.num_layers
    dim = cfg.integer("head_dim", 64)
    bias = cfg.flag("norm_bias", True)
    inner = cfg.integer("intermediate_size", None) or ceil_to(int(hidden * cfg.number("hidden_ratio", 4)), 32)
    ranks = {
        "w": cfg.integer("decay_low_rank_dim", 64),
        "a": cfg.integer("a_low_rank_dim", 64),
        "v": cfg.integer("v_low_rank_dim", 16),
        "g": cfg.integer("gate_low_rank_dim", 128),
    }
    name = "attn"

    def low_rank(which: str) -> Tensors:
        return (
            *parts.linear(f"{name}.{which}_lora.lora.0", ranks[which], hidden, role="mixer"),
            *parts.linear(f"{name}.{which}_lora.lora.2", hidden, ranks[which], bias=which != "g", role="mixer"),
        )

    def build(is_first: bool) -> Layer:
        mixer = matrix_state(
            (
                *shifts(f"{name}.x_", "rwkvag", 1, 1, hidden),
                *shifts(f"{name}.k_", "ka", hidden),
                *parts.parameter(f"{name}.r_k", hidden // dim, dim, role="mixer"),
                *(
                    tensor
                    for which in "rkv"
                    for tensor in parts.linear(f"{name}.{which}_proj", hidden, hidden, role="mixer", slot=which)
                ),
                *parts.linear(f"{name}.o_proj", hidden, hidden, role="mixer", slot="ssm_out"),
                *(tensor for which in ("wag" if is_first else "wvag") for tensor in low_rank(which)),
                *parts.norm(f"{name}.g_norm", hidden, bias=True),
            ),
            hidden=hidden,
            width=hidden,
            head_dim=dim,
        )
        feed = FeedForward(
            tensors=(
                *shifts("ffn.x_", "k", hidden),
                *parts.linear("ffn.key", inner, hidden, role="mlp", slot="up"),
                *parts.linear("ffn.value", hidden, inner, role="mlp", slot="down"),
            ),
            intermediate_size=inner,
            gated=False,
        )
        first = ("pre_norm",) if is_first and cfg.flag("norm_first", True) else ()
        return block(cfg, mixer, feed, norms=(*first, "attn_norm", "ffn_norm"), norm_bias=bias)

    layers = stack([index == 0 for index in range(count)], build)
    return decoder_of(cfg, prefix, layers, embed="embeddings", norm_bias=bias)
