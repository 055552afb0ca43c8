"""What a forward pass without gradients needs beside weights and caches.

PyTorch frees every activation as soon as nothing uses it, so the peak is one layer's: either its feed-forward
(two residual streams, gate, up and their product) or its attention. The widths were counted at the allocator on
transformers 5.23 (bf16, SDPA) and are exact for Llama-style blocks, gated and plain, with separate or fused gate and up:
15,112 bytes a token for hidden size 512, intermediate size 1792, 8 heads, 2 KV heads. Mixtures of experts are within
1 %. Recurrent mixers depend on whether their fused kernels are installed: an interval.
"""

from __future__ import annotations

from dataclasses import dataclass

from vrameter.model.architecture import Attention, Component, FeedForward, LatentAttention, Layer, Recurrent, remembered


@dataclass(frozen=True, slots=True)
class Widths:
    """Elements per token alive at once in the widest layer.

    Parameters
    ----------
    feed_forward
        While the feed-forward runs. [elements]
    attention
        While the attention or the recurrent mixer runs. [elements]
    rotary
        Width of one rotary head: cosines and sines are kept for every token. [elements]
    certain
        Whether every layer is of a kind that was counted at the allocator.
    recurrent
        Whether there are recurrent mixers, whose fallback without fused kernels takes about four times as much.
    """

    feed_forward: int
    attention: int
    rotary: int
    certain: bool
    recurrent: bool = False

    @property
    def block(self) -> int:
        """The larger of the two. [elements]."""
        return max(self.feed_forward, self.attention)


def feed_forward_width(part: FeedForward, hidden_size: int) -> int:
    """Return the elements per token alive while a feed-forward runs. [elements].

    Gate and up in one matrix keep both halves until the product is made. Routed copies hold their input beside
    that, then their outputs while these are weighted and put back in order.
    """
    fused = any(tensor.slot == "gate_up" for tensor in part.tensors)
    used = (4 if fused else 3) if part.gated else 2
    if not part.num_experts:
        return 4 * hidden_size + used * part.intermediate_size
    inside = max(hidden_size + used * part.intermediate_size, 4 * hidden_size)
    return 4 * hidden_size + max(part.num_experts_per_token * inside, 3 * part.shared_size)


def attention_width(part: Attention | LatentAttention, hidden_size: int, *, kernel: str) -> int:
    """Return the elements per token alive while attention runs. [elements].

    Parameters
    ----------
    kernel
        ``fused``; ``repeated`` where keys and values are copied to every query head first; ``eager``, besides its scores.
    """
    if isinstance(part, LatentAttention):
        key_dim = part.nope_dim + part.rope_dim
        return 3 * hidden_size + part.num_heads * (3 * key_dim + part.nope_dim + 2 * part.value_dim)
    queries, keys = part.num_heads * part.head_dim, part.num_kv_heads * part.head_dim
    if kernel == "eager":
        return 2 * hidden_size + 4 * queries
    copies = part.num_heads * (part.head_dim + part.value_dim) if kernel == "repeated" and keys < queries else 0
    return 3 * hidden_size + 4 * queries + 2 * keys + copies


def layer_widths(layer: Layer, hidden_size: int, *, kernel: str = "fused") -> Widths:
    """Return what one layer keeps alive per token at its widest moments."""
    feed_forward = attention = rotary = 0
    certain, recurrent = True, False
    for part in layer.parts:
        if isinstance(part, FeedForward):
            feed_forward = max(feed_forward, feed_forward_width(part, hidden_size))
        elif isinstance(part, Recurrent):
            attention = max(attention, 3 * hidden_size + 7 * part.inner_size)
            certain, recurrent = False, True
        else:
            attention = max(attention, attention_width(part, hidden_size, kernel=kernel))
            latent = isinstance(part, LatentAttention)
            rotary = max(rotary, part.rope_dim if isinstance(part, LatentAttention) else part.head_dim)
            certain = certain and not latent
    return Widths(feed_forward, attention, rotary, certain, recurrent)


@remembered
def widest(component: Component, *, kernel: str = "fused") -> Widths:
    """Return the widest moments over all layers of a component."""
    found = [layer_widths(layer, component.hidden_size, kernel=kernel) for layer, _ in component.layer_groups]
    return Widths(
        feed_forward=max((widths.feed_forward for widths in found), default=0),
        attention=max((widths.attention for widths in found), default=0),
        rotary=max((widths.rotary for widths in found), default=0),
        certain=all(widths.certain for widths in found),
        recurrent=any(widths.recurrent for widths in found),
    )


def activation_bytes(*, num_tokens: int, block_width: int, rotary_width: int, element_bytes: int) -> int:
    """Return the activations of one forward pass without gradients.

    Formula::

        num_tokens * (block_width * element_bytes + 2 * rotary_width * element_bytes + 8)

    Parameters
    ----------
    num_tokens
        Tokens in the pass, over all sequences. [tokens]
    block_width
        Elements alive per token in the widest layer: for a Llama block the larger of
        ``4 * hidden_size + 3 * intermediate_size`` and ``3 * hidden_size + 4 * queries + 2 * keys``. [elements]
    rotary_width
        Width of a rotary head. [elements]

    Examples
    --------
    >>> activation_bytes(num_tokens=1, block_width=4 * 512 + 3 * 1792, rotary_width=64, element_bytes=2)
    15112
    """
    return num_tokens * (block_width * element_bytes + 2 * rotary_width * element_bytes + 8)


def attention_score_bytes(*, num_seqs: int, num_heads: int, num_queries: int, num_keys: int, element_bytes: int) -> int:
    """Return the score matrices of one layer of eager attention.

    Scores in the model's dtype, their softmax computed in fp32 (input and output), and the mask.

    Formula::

        num_seqs * num_queries * num_keys * (num_heads * (element_bytes + 8) + element_bytes)

    Examples
    --------
    82 bytes for each pair of tokens with 8 heads in bf16:

    >>> attention_score_bytes(num_seqs=1, num_heads=8, num_queries=1, num_keys=1, element_bytes=2)
    82
    """
    return num_seqs * num_queries * num_keys * (num_heads * (element_bytes + 8) + element_bytes)


def repeated_kv_bytes(
    *, num_seqs: int, num_tokens: int, num_heads: int, head_dim: int, value_dim: int, element_bytes: int
) -> int:
    """Return the keys and values of one layer copied out to every query head.

    transformers does so for grouped-query attention whenever an attention mask is passed, that is, when
    sequences of a batch are padded, and in eager attention always.

    Formula::

        num_seqs * num_tokens * num_heads * (head_dim + value_dim) * element_bytes
    """
    return num_seqs * num_tokens * num_heads * (head_dim + value_dim) * element_bytes


def logits_bytes(*, num_rows: int, vocab_size: int, element_bytes: int) -> int:
    """Return the logits, and their fp32 copy from which the next token is chosen.

    Formula::

        num_rows * vocab_size * (element_bytes + 4)

    Parameters
    ----------
    num_rows
        Positions whose logits are computed: one per sequence in generation. [rows]
    """
    return num_rows * vocab_size * (element_bytes + 4)


def cache_growth_bytes(*, num_seqs: int, num_tokens: int, entry_bytes: int) -> int:
    """Return the copy that a dynamic cache makes of one layer's keys or values when a token is appended.

    Formula::

        num_seqs * num_tokens * entry_bytes // 2
    """
    return num_seqs * num_tokens * entry_bytes // 2
