"""MiniMax-Text-01 and M1: linear attention in seven layers of eight, and a mixture in all.

Shapes follow the class of transformers 5.23; the published files of remote code list the kinds of layers as ones (full
attention) and zeros.

References
----------
.. [1] MiniMax, "MiniMax-01: Scaling Foundation Models with Lightning Attention", 2025, arXiv:2501.08313.
"""

from __future__ import annotations

from vrameter.model import mixers, parts
from vrameter.model.architecture import Component, Layer, Part, Recurrent
from vrameter.model.config import Config
from vrameter.model.families.layer_kinds import FULL, LINEAR, layer_kinds
from vrameter.model.families.mixture import block, decoder_of, grouped_attention, head_as, listed, mixture
from vrameter.model.families.registry import decoder, stack


def lightning_attention(cfg: Config) -> Recurrent:
    """Return linear attention [1]_ with an output gate; its decays are stored."""
    hidden, heads, dim = cfg.hidden_size, cfg.num_heads, cfg.head_dim
    rows, name = cfg.integer("block_size", 256), "self_attn"
    width = heads * dim
    tensors = (
        *parts.linear(f"{name}.qkv_proj", 3 * width, hidden, role="mixer", slot="qkv"),
        *parts.linear(f"{name}.output_gate", width, hidden, role="mixer", slot="z"),
        *parts.linear(f"{name}.out_proj", hidden, width, role="mixer", slot="ssm_out"),
        *parts.norm(f"{name}.norm", width),
        *parts.buffer(f"{name}.slope_rate", heads, 1, 1, role="mixer"),
        *parts.buffer(f"{name}.query_decay", heads, rows, 1, role="mixer"),
        *parts.buffer(f"{name}.key_decay", heads, rows, 1, role="mixer"),
        *parts.buffer(f"{name}.diagonal_decay", 1, heads, rows, rows, role="mixer"),
    )
    return mixers.linear_attention(tensors, num_heads=heads, head_dim=dim, inner_size=width)


@decoder("minimax")
def minimax(cfg: Config, prefix: str) -> Component:
    """MiniMax-Text-01 and M1 [1]_."""
    ones = listed(cfg, "attn_type_list", cfg.num_layers)
    kinds = layer_kinds(
        cfg,
        cfg.num_layers,
        lambda index: FULL if (ones[index] if ones is not None else index % 2 == 0) else LINEAR,
    )

    def build(kind: str) -> Layer:
        mixer: Part = grouped_attention(cfg, bias=False) if kind == FULL else lightning_attention(cfg)
        return block(cfg, mixer, mixture(cfg, width="intermediate_size", count="num_local_experts"))

    return decoder_of(cfg, prefix, stack(kinds, build))


@decoder("minimax_text_01", "minimax_m1", "MiniMaxText01", "MiniMaxM1", heads=head_as("minimax"))
def minimax_remote(cfg: Config, prefix: str) -> Component:
    """MiniMax-Text-01 and M1 under the names of their own files."""
    return minimax(cfg.as_type("minimax"), prefix)
