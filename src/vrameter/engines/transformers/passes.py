"""Activations of a pass through a model: the widest layer, and what its attention kernel adds."""

from __future__ import annotations

from vrameter.engines.transformers.shape import Shape, listening
from vrameter.ledger import Item, item
from vrameter.memory import activations as act
from vrameter.model.architecture import Architecture, Attention, Component, LatentAttention
from vrameter.settings.transformers import TransformersSettings


def _kernel(settings: TransformersSettings) -> str:
    """Return how attention runs: padded batches pass a mask, for which keys and values are copied to every head."""
    if settings.attn_implementation == "eager":
        return "eager"
    return "repeated" if settings.attn_implementation == "sdpa" and settings.batch_size > 1 else "fused"


def activation_items(
    share: Architecture,
    settings: TransformersSettings,
    shape: Shape,
    num_seqs: int,
    element: int,
    phases: tuple[str, ...],
) -> list[Item]:
    """Return activations of the first pass and of one step, and what the attention kernel adds."""
    main = share.main
    kernel = _kernel(settings)
    encoder = share.component("encoder") or listening(share)
    first = phases[1]
    items = _pass_items(main, first, num_seqs, shape.prompt, element, kernel)
    if encoder is not None and encoder.layers and shape.encoder:
        reading = _pass_items(encoder, first, num_seqs, shape.encoder, element, kernel)
        items = max(items, reading, key=lambda each: sum(entry.bytes for entry in each))
    if not shape.answers:
        return items
    items += _pass_items(main, "decode", num_seqs, 1, element, "fused")
    grouped = [
        part
        for layer, _ in main.layer_groups
        for part in layer.parts
        if isinstance(part, Attention) and part.num_kv_heads < part.num_heads
    ]
    if grouped and kernel != "fused":
        part = max(grouped, key=lambda each: each.num_heads * (each.head_dim + each.value_dim))
        items.append(
            item(
                "temporary", act.repeated_kv_bytes, phases=("decode",), basis="modelled", low=0 if kernel == "repeated" else None,
                source="keys and values copied to every query head when a mask is passed (padded batches, eager)",
                num_seqs=num_seqs, num_tokens=shape.total, num_heads=part.num_heads, head_dim=part.head_dim,
                value_dim=part.value_dim, element_bytes=element,
            )
        )  # fmt: skip
    return items


def _pass_items(
    component: Component, phase: str, num_seqs: int, num_tokens: int, element: int, kernel: str
) -> list[Item]:
    """Return the activations of one pass through a component: of its feed-forward or its attention, whichever is more."""
    widths = act.widest(component, kernel=kernel)
    tokens = num_seqs * num_tokens
    block = widths.block
    scores: list[Item] = []
    heads = [
        part.num_heads
        for layer, _ in component.layer_groups
        for part in layer.parts
        if isinstance(part, (Attention, LatentAttention))
    ]
    if kernel == "eager" and heads:
        entry = item(
            "temporary", act.attention_score_bytes, phases=(phase,), basis="modelled",
            source="eager attention of transformers 5.23: scores, softmax in fp32, mask; one layer at a time",
            num_seqs=num_seqs, num_heads=max(heads), num_queries=num_tokens, num_keys=num_tokens, element_bytes=element,
        )  # fmt: skip
        if entry.bytes + tokens * widths.attention * element > tokens * widths.feed_forward * element:
            block, scores = widths.attention, [entry]
        else:
            block = widths.feed_forward
    size = act.activation_bytes(num_tokens=tokens, block_width=block, rotary_width=widths.rotary, element_bytes=element)
    return [
        item(
            "activations", act.activation_bytes, phases=(phase,), basis="modelled",
            source="one layer's tensors alive at once, counted at PyTorch's allocator on transformers 5.23",
            low=size if widths.certain else size * 9 // 10,
            high=size * 4 if widths.recurrent and num_tokens > 1 else size if widths.certain else size * 3 // 2,
            num_tokens=tokens, block_width=block, rotary_width=widths.rotary, element_bytes=element,
        ),
        *scores,
    ]  # fmt: skip
