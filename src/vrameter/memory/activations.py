"""What a forward pass without gradients needs beside weights and caches.

PyTorch frees every activation as soon as nothing uses it, so the peak is one layer's: either its feed-forward
(residual streams, gate, up and their product) or its attention. The widths were counted at the allocator on
transformers 5.23 (bf16, SDPA): Llama-style blocks, gated and plain, with separate or fused gate and up, towers of vision
and sound, and mixtures of experts are exact to a few bytes a token: 15,112 bytes for hidden size 512, intermediate size
1792, 8 heads, 2 KV heads. Recurrent mixers depend on whether their fused kernels are installed, and plain perceptrons on
whether their activation is one operation: intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

from vrameter.model.architecture import Attention, Component, FeedForward, LatentAttention, Layer, Recurrent, remembered

# Indices, order and weight of a token's copy that goes to an expert, in elements of 16 bits.
ROUTING = 20
# Copies of the intermediate that activations of several operations keep; those of one operation keep two.
SEVERAL_OPERATIONS = {
    "gelu_new": 4,
    "gelu_fast": 4,
    "gelu_accurate": 4,
    "quick_gelu": 3,
    "relu2": 3,
    "laplace": 4,
    "gated-gelu": 4,
}
UNKNOWN = 4  # at most, where no activation is named


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
        Width of one rotary head: cosines and sines are kept for every token; 0 where positions are learned. [elements]
    certain
        Whether every layer is of a kind that was counted at the allocator.
    widest
        What the same takes at most: activations of several operations, mixers without their fused kernels. [elements]
    """

    feed_forward: int
    attention: int
    rotary: int
    certain: bool
    widest: int = 0

    @property
    def block(self) -> int:
        """The larger of the two. [elements]."""
        return max(self.feed_forward, self.attention)


def feed_forward_width(
    part: FeedForward, hidden_size: int, *, weighs_in_fp32: bool = False, activation: str = ""
) -> int:
    """Return the elements per token alive while a feed-forward runs. [elements].

    Gate and up in one matrix keep both halves until the product is made. Routed copies hold their input beside
    that, then their outputs while these are weighted and put back in order.

    Parameters
    ----------
    weighs_in_fp32
        Whether experts' outputs are multiplied by weights in fp32, which makes them twice as wide.
    activation
        Name of the function, which may be several operations.
    """
    fused = any(tensor.slot == "gate_up" for tensor in part.tensors)
    used = (4 if fused else 3) if part.gated else 2
    if not part.num_experts:
        used = max(used, SEVERAL_OPERATIONS.get(activation, 0))
        return 4 * hidden_size + used * part.intermediate_size
    inside = max(hidden_size + used * part.intermediate_size, (6 if weighs_in_fp32 else 4) * hidden_size)
    waiting = hidden_size if any(tensor.slot == "shared_gate" for tensor in part.tensors) else 0
    routed = part.num_experts_per_token * (inside + ROUTING) + part.num_experts + waiting
    return 4 * hidden_size + max(routed, 3 * part.shared_size)


def post_norm_width(part: FeedForward, hidden_size: int) -> int:
    """Return the same for an encoder that norms after its sums, as BERT does. [elements]."""
    return max(3 * hidden_size + 2 * part.intermediate_size, 6 * hidden_size + part.intermediate_size)


def attention_width(part: Attention | LatentAttention, hidden_size: int, *, kernel: str, rotary: bool = True) -> int:
    """Return the elements per token alive while attention runs. [elements].

    Parameters
    ----------
    kernel
        ``fused``; ``repeated`` where keys and values are copied to every query head first; ``eager``, besides its scores.
    rotary
        Whether queries and keys are rotated, which makes copies of them.
    """
    if isinstance(part, LatentAttention):
        key_dim = part.nope_dim + part.rope_dim
        return 3 * hidden_size + part.num_heads * (3 * key_dim + part.nope_dim + 2 * part.value_dim)
    queries, keys = part.num_heads * part.head_dim, part.num_kv_heads * part.head_dim
    if kernel == "eager":
        return 2 * hidden_size + 4 * queries
    copies = part.num_heads * (part.head_dim + part.value_dim) if kernel == "repeated" and keys < queries else 0
    return 3 * hidden_size + (4 if rotary else 3) * queries + 2 * keys + copies


def _weighs_in_fp32(layer: Layer) -> bool:
    """Say whether a router's weights stay in fp32: sigmoids with a balancing bias, and DeepSeek's."""
    return any(isinstance(part, LatentAttention) for part in layer.parts) or any(
        tensor.role == "router" and tensor.name.endswith("e_score_correction_bias") and "moe_statics" not in tensor.name
        for part in layer.parts
        for tensor in part.tensors
    )


def _without_kernels(part: Recurrent, hidden_size: int) -> int:
    """Return the width of a mixer whose fused kernels are not installed. [elements].

    Mamba's plain scan holds three arrays of its states at every position in fp32; other mixers take about four times
    as much as with their kernels.
    """
    if part.kind == "mamba":
        return 3 * hidden_size + 6 * part.state_elements + 13 * part.inner_size
    return 4 * (3 * hidden_size + 7 * part.inner_size)


def layer_widths(
    layer: Layer,
    hidden_size: int,
    *,
    kernel: str = "fused",
    rotary: bool = True,
    post_norm: bool = False,
    activation: str = "",
) -> Widths:
    """Return what one layer keeps alive per token at its widest moments."""
    feed_forward = attention = angles = most = 0
    certain = True
    for part in layer.parts:
        if isinstance(part, FeedForward):
            if post_norm and not part.gated and not part.num_experts:
                width = post_norm_width(part, hidden_size)
            else:
                width = feed_forward_width(
                    part, hidden_size, weighs_in_fp32=_weighs_in_fp32(layer), activation=activation
                )
            feed_forward = max(feed_forward, width)
            if not part.gated and not part.num_experts and (not activation or activation in SEVERAL_OPERATIONS):
                most = max(most, 6 * hidden_size + UNKNOWN * part.intermediate_size)
        elif isinstance(part, Recurrent):
            attention = max(attention, 3 * hidden_size + 7 * part.inner_size)
            most = max(most, _without_kernels(part, hidden_size))
            certain = False
        else:
            attention = max(attention, attention_width(part, hidden_size, kernel=kernel, rotary=rotary))
            if rotary:
                angles = max(angles, part.rope_dim if isinstance(part, LatentAttention) else part.head_dim)
    return Widths(feed_forward, attention, angles, certain, max(most, feed_forward, attention))


@remembered
def widest(component: Component, *, kernel: str = "fused") -> Widths:
    """Return the widest moments over all layers of a component.

    Positions that are learned, as a table of them shows, are not rotated. An encoder without a norm after its last layer
    norms after every sum.
    """
    rotary = not any(tensor.slot == "position" for tensor, _ in component.counted_tensors())
    norms = [tensor.name for tensor in component.tensors if tensor.role == "norm"]
    post_norm = component.kind == "encoder" and all(name.startswith("embeddings.") for name in norms) and bool(norms)
    found = [
        layer_widths(
            layer,
            component.hidden_size,
            kernel=kernel,
            rotary=rotary,
            post_norm=post_norm,
            activation=component.activation,
        )
        for layer, _ in component.layer_groups
    ]
    return Widths(
        feed_forward=max((widths.feed_forward for widths in found), default=0),
        attention=max((widths.attention for widths in found), default=0),
        rotary=max((widths.rotary for widths in found), default=0),
        certain=all(widths.certain for widths in found),
        widest=max((widths.widest for widths in found), default=0),
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


def sink_score_bytes(*, num_seqs: int, num_heads: int, num_queries: int, num_keys: int, element_bytes: int) -> int:
    """Return the same for heads with a sink, whose softmax is computed in the model's dtype: joined, shifted, and its result.

    Formula::

        num_seqs * num_queries * num_keys * element_bytes * (3 * num_heads + 1)
    """
    return num_seqs * num_queries * num_keys * element_bytes * (3 * num_heads + 1)


def attention_mask_bytes(*, num_masks: int, num_seqs: int, num_queries: int, num_keys: int, element_bytes: int) -> int:
    """Return attention masks: of truth values, one byte each, or in the model's dtype.

    Formula::

        num_masks * num_seqs * num_queries * num_keys * element_bytes

    Parameters
    ----------
    num_masks
        Masks that a model has at once: one for windows and one for all tokens where it has both kinds of layers.
    """
    return num_masks * num_seqs * num_queries * num_keys * element_bytes


def position_bias_bytes(*, num_queries: int, num_keys: int, num_heads: int, element_bytes: int) -> int:
    """Return the biases of relative positions, one for every head and pair, with the mask that they are added to.

    Formula::

        num_queries * num_keys * max(51, 2 * num_heads * element_bytes)

    Notes
    -----
    Before that the buckets of all pairs are worked out in five arrays of int64 and smaller ones: 51 bytes a pair, counted
    at the allocator for T5.
    """
    return num_queries * num_keys * max(51, 2 * num_heads * element_bytes)


def feature_bytes(*, num_seqs: int, num_tokens: int, width: int, element_bytes: int) -> int:
    """Return what a tower hands over, which stays while the decoder reads it.

    Formula::

        num_seqs * num_tokens * width * element_bytes
    """
    return num_seqs * num_tokens * width * element_bytes


def input_bytes(*, num_seqs: int, num_values: int, element_bytes: int) -> int:
    """Return the pixels or sounds of a request, which the caller keeps.

    Formula::

        num_seqs * num_values * element_bytes
    """
    return num_seqs * num_values * element_bytes


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


def expanded_latent_bytes(
    *, num_seqs: int, num_tokens: int, num_heads: int, nope_dim: int, rope_dim: int, value_dim: int, element_bytes: int
) -> int:
    """Return keys and values of one layer made from the latent vectors of every cached token.

    transformers does so for every token that it generates: the product of the expanding matrix, and keys joined from it.

    Formula::

        num_seqs * num_tokens * num_heads * (2 * nope_dim + rope_dim + value_dim) * element_bytes
    """
    return num_seqs * num_tokens * num_heads * (2 * nope_dim + rope_dim + value_dim) * element_bytes


def generated_logits_bytes(*, num_rows: int, num_seqs: int, vocab_size: int, element_bytes: int, copies: int) -> int:
    """Return the logits that `generate` computes, and fp32 copies of each sequence's last.

    Formula::

        num_rows * vocab_size * element_bytes + num_seqs * vocab_size * 4 * copies

    Parameters
    ----------
    num_rows
        Positions whose logits are computed: one per sequence unless more are asked for. [rows]
    copies
        One to choose from; with beams their logarithms and sums besides.
    """
    return num_rows * vocab_size * element_bytes + num_seqs * vocab_size * 4 * copies


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
