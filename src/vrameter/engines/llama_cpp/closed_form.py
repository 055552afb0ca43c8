"""Compute buffers by a short formula, for layers that the planner has no graph for.

The formula names the moments that can be the largest; fitted to none, it is within 5 % for three quarters of the plans of plain
decoders on one GPU. Where it stands in for a graph it is an interval: half to twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vrameter.engines.llama_cpp.graph.mixers import KINDS
from vrameter.model.architecture import Attention, FeedForward, LatentAttention, Layer, Recurrent

if TYPE_CHECKING:
    from vrameter.engines.llama_cpp.buffers import Context, Planned
    from vrameter.engines.llama_cpp.placement import Placement


def closed_form_bytes(
    *, cells: int, tokens: int, rows: int, vocab_size: int, hidden_size: int, head_values: int, forward_values: int,
    scores: int, mask_bytes: int,
) -> int:  # fmt: skip
    """Return about what the compute buffer of a GPU is. [bytes].

    Formula::

        max(4 * rows * (vocab_size + hidden_size), tokens * (cells * (mask_bytes + 4 * scores) + 4 * (2 * hidden_size + head_values + max(forward_values, head_values))))

    Parameters
    ----------
    cells
        Cells of a cache's stream. [tokens]
    tokens, rows
        Tokens of a physical batch, and those whose logits are computed. [tokens]
    head_values
        Values of all query heads of a token.
    forward_values
        Values of a token inside the perceptron, the experts or the mixer that live at once.
    scores
        Heads whose scores are kept; 0 with flash attention.
    mask_bytes
        One cell of the mask: 2 with flash attention, else 4. [bytes]
    """  # fmt: skip
    return max(
        4 * rows * (vocab_size + hidden_size),
        tokens
        * (cells * (mask_bytes + 4 * scores) + 4 * (2 * hidden_size + head_values + max(forward_values, head_values))),
    )


def has_graph(planned: Planned) -> bool:
    """Say whether every layer is of a kind that the planner knows, with the tensors that this takes."""
    layers = {
        (id(layer), id(tensors)): (layer, tensors)
        for layer, tensors in zip(planned.layers, planned.file.layers, strict=True)
    }
    return all(_known(layer, frozenset(tensors)) for layer, tensors in layers.values())


def _known(layer: Layer, names: frozenset[str]) -> bool:
    for part in layer.parts:
        if isinstance(part, LatentAttention):
            found = {"attn_k_b.weight", "attn_v_b.weight", "attn_output.weight"} <= names
        elif isinstance(part, Attention):
            found = "attn_output.weight" in names and bool({"attn_q.weight", "attn_qkv.weight"} & names)
        elif isinstance(part, Recurrent):
            needs = {"gated_delta_net": "attn_qkv.weight", "short_conv": "shortconv.in_proj.weight"}.get(
                part.kind, "ssm_in.weight"
            )
            found = part.kind in KINDS and (needs in names or "attn_qkv.weight" in names)
        elif isinstance(part, FeedForward) and part.num_experts:
            found = "ffn_down_exps.weight" in names
        elif isinstance(part, FeedForward):
            found = {"ffn_up.weight", "ffn_down.weight"} <= names
        else:
            found = False
        if not found:
            return False
    return True


def closed_form_values(planned: Planned, context: Context, placement: Placement) -> dict[str, Any]:
    """Return the arguments of `closed_form_bytes` for a context."""
    batch, main = planned.batch(context, placement), planned.architecture.main
    heads, scores, forward = 0, 0, 0
    for layer in {id(layer): layer for layer in planned.layers}.values():
        for part in layer.parts:
            if isinstance(part, LatentAttention):
                heads, scores = max(heads, part.num_heads * part.kv_lora_rank), max(scores, part.num_heads)
            elif isinstance(part, Attention):
                heads, scores = max(heads, part.num_heads * part.head_dim), max(scores, part.num_heads)
            elif isinstance(part, Recurrent):
                forward = max(forward, 6 * part.conv_channels)
            elif isinstance(part, FeedForward) and part.num_experts:
                used = part.num_experts_per_token
                forward = max(forward, 3 * used * part.intermediate_size, 2 * used * main.hidden_size)
            elif isinstance(part, FeedForward):
                forward = max(forward, part.intermediate_size * (3 if part.gated else 1))
    return {
        "cells": batch.cells + (batch.window_cells if planned.window else 0), "tokens": batch.num_tokens,
        "rows": batch.num_outputs, "vocab_size": main.vocab_size, "hidden_size": main.hidden_size, "head_values": heads,
        "forward_values": forward, "scores": 0 if context.flash_attn else scores,
        "mask_bytes": 2 if context.flash_attn else 4,
    }  # fmt: skip


def host_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for the host: the mask and the embeddings alone."""
    return values | {"rows": 0, "head_values": 0, "forward_values": 0, "scores": 0}


__all__ = ["closed_form_bytes", "closed_form_values", "has_graph", "host_values"]
