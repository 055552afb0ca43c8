"""Activations of a pass through a model: the widest layer, and what its attention kernel adds.

With a mask SDPA has no grouped kernel on CUDA: while a prompt is read, keys and values are copied to every query head, and
the mask, kept as one byte a pair, becomes a sum in the model's dtype while attention runs. There is a mask where sequences of
a batch are padded, and for layers whose window is shorter than the prompt. One token more packs its queries instead, except
where a static cache has the step compiled.

References
----------
.. [1] transformers 5.23, ``integrations/sdpa_attention.py``: `use_gqa_in_sdpa`; ``masking_utils.py``.
"""

from __future__ import annotations

from vrameter.engines.transformers.caches import is_static
from vrameter.engines.transformers.inputs import Input
from vrameter.engines.transformers.shape import Shape, listening
from vrameter.ledger import Item, item
from vrameter.memory import activations as act
from vrameter.model.architecture import Architecture, Attention, Component, LatentAttention, remembered
from vrameter.settings.transformers import AttentionImplementation, TransformersSettings

COUNTED = "one layer's tensors alive at once, counted at PyTorch's allocator on transformers 5.23"
FLASH = ("flash_attention_2", "flash_attention_3")
MOST_HEAD_DIM = 256  # of a grouped kernel


@remembered
def _attentions(component: Component) -> tuple[Attention, ...]:
    return tuple(part for layer, _ in component.layer_groups for part in layer.parts if isinstance(part, Attention))


@remembered
def _latent(component: Component) -> LatentAttention | None:
    """Return the widest latent attention over all tokens, None where there is none."""
    parts = (part for layer, _ in component.layer_groups for part in layer.parts)
    found = [part for part in parts if isinstance(part, LatentAttention) and part.compression == 1]
    return max(found, key=lambda part: part.num_heads * (2 * part.nope_dim + part.value_dim), default=None)


@remembered
def _is_biased(component: Component) -> bool:
    return any("relative_attention_bias" in tensor.name for tensor, _ in component.counted_tensors())


@remembered
def _most_heads(component: Component) -> int:
    parts = (part for layer, _ in component.layer_groups for part in layer.parts)
    return max((part.num_heads for part in parts if isinstance(part, (Attention, LatentAttention))), default=0)


@remembered
def _usual_attention(component: Component) -> AttentionImplementation:
    sinks = any(tensor.slot == "sinks" for tensor, _ in component.counted_tensors())
    return "eager" if sinks else "sdpa"


def usual_attention(architecture: Architecture) -> AttentionImplementation:
    """Return the kernel that transformers takes where none is named: SDPA knows no sinks."""
    return _usual_attention(architecture.main)


def _num_masks(component: Component, settings: TransformersSettings, prompt: int) -> int:
    """Return how many masks a pass has: one for all tokens, one for windows."""
    if settings.attn_implementation in FLASH:
        return 0
    scopes = _attentions(component)
    windows = [part for part in scopes if part.window and part.scope in ("sliding", "chunked")]
    cut = any(part.window < prompt for part in windows if part.window)
    everything = settings.batch_size > 1 or settings.attn_implementation == "eager"
    whole = len(windows) < len(scopes) or not scopes
    return (1 if windows and (cut or everything) else 0) + (1 if whole and everything else 0)


def _kernel(component: Component, settings: TransformersSettings, num_masks: int) -> str:
    """Return how attention runs."""
    if settings.attn_implementation == "eager":
        return "eager"
    if settings.attn_implementation in FLASH:
        return "fused"
    wide = any(not part.head_dim == part.value_dim <= MOST_HEAD_DIM for part in _attentions(component))
    return "repeated" if num_masks or wide else "fused"


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
    first = phases[1]
    masks = _num_masks(main, settings, shape.prompt)
    kernel = _kernel(main, settings, masks)
    keys = shape.total if is_static(settings) and masks else shape.prompt
    items = _pass_items(main, first, num_seqs, shape.prompt, keys, element, kernel, masks)
    items += _handed_over(share, shape, num_seqs, element, first)
    encoder = share.component("encoder") or listening(share)
    if encoder is not None and encoder.layers and shape.encoder:
        padded = 1 if settings.batch_size > 1 and settings.attn_implementation not in FLASH else 0
        reading = _pass_items(
            encoder, first, num_seqs, shape.encoder, shape.encoder, element, _kernel(encoder, settings, padded), padded
        )
        items = _larger(items, reading)
    for each in shape.inputs:
        tower = next((held for held in share.components if held.name == each.tower.name and held.layers), None)
        if tower is not None and tower is not main and tower is not encoder:
            looks = num_seqs * each.pieces
            seen = _pass_items(
                tower, first, looks, each.positions, each.positions, element, _kernel(tower, settings, 0), 0
            )
            items = _larger(items, seen)
    items += _given(shape.inputs, phases, num_seqs)
    if not shape.answers:
        return items
    items += _pass_items(main, "decode", num_seqs, 1, shape.total, element, "fused", 0)
    latent = _latent(main)
    if latent is not None:
        items.append(
            item(
                "temporary", act.expanded_latent_bytes, phases=("decode",), basis="modelled",
                source="transformers 5.23: the cache is compressed, and one layer's keys and values are made of it at every step",
                num_seqs=num_seqs, num_tokens=min(shape.total, latent.window or shape.total), num_heads=latent.num_heads,
                nope_dim=latent.nope_dim, rope_dim=latent.rope_dim, value_dim=latent.value_dim, element_bytes=element,
            )
        )  # fmt: skip
    grouped = [part for part in _attentions(main) if part.num_kv_heads < part.num_heads and part.scope != "cross"]
    if grouped and (kernel == "eager" or (kernel == "repeated" and is_static(settings))):
        part = max(grouped, key=lambda each: each.num_heads * (each.head_dim + each.value_dim))
        items.append(
            item(
                "temporary", act.repeated_kv_bytes, phases=("decode",), basis="modelled", low=0 if kernel == "repeated" else None,
                source="keys and values copied to every query head: in eager attention, and in the compiled step of a static cache",
                num_seqs=num_seqs, num_tokens=shape.total, num_heads=part.num_heads, head_dim=part.head_dim,
                value_dim=part.value_dim, element_bytes=element,
            )
        )  # fmt: skip
    return items


def _larger(items: list[Item], others: list[Item]) -> list[Item]:
    """Return the larger of two passes that follow each other."""
    return max(items, others, key=lambda each: sum(entry.bytes for entry in each))


def _handed_over(share: Architecture, shape: Shape, num_seqs: int, element: int, phase: str) -> list[Item]:
    """Return what towers made, which waits while the decoder reads it."""
    if not shape.input_tokens or not share.main.layers:
        return []
    return [
        item(
            "temporary", act.feature_bytes, phases=(phase,), basis="modelled",
            source="transformers 5.23: embeddings of images and sound stay until the first pass ends",
            num_seqs=num_seqs, num_tokens=shape.input_tokens, width=share.main.hidden_size, element_bytes=element,
        )
    ]  # fmt: skip


def _given(inputs: tuple[Input, ...], phases: tuple[str, ...], num_seqs: int) -> list[Item]:
    """Return pixels and sounds: processors give them in fp32."""
    values = sum(each.values for each in inputs)
    if not values:
        return []
    return [
        item(
            "temporary", act.input_bytes, phases=phases[1:], basis="modelled", low=0,
            source="a processor's pixels and sounds in fp32, which the caller keeps",
            num_seqs=num_seqs, num_values=values, element_bytes=4,
        )
    ]  # fmt: skip


def _pass_items(
    component: Component, phase: str, num_seqs: int, num_tokens: int, num_keys: int, element: int, kernel: str, num_masks: int
) -> list[Item]:  # fmt: skip
    """Return the activations of one pass through a component: of its feed-forward or its attention, whichever is more."""
    widths = act.widest(component, kernel=kernel)
    tokens = num_seqs * num_tokens
    block = widths.block
    during: list[Item] = []
    if kernel == "eager" and _most_heads(component):
        during = [
            item(
                "temporary", act.sink_score_bytes if _usual_attention(component) == "eager" else act.attention_score_bytes, phases=(phase,), basis="modelled",
                source="eager attention of transformers 5.23: scores, softmax in fp32, mask; one layer at a time",
                num_seqs=num_seqs, num_heads=_most_heads(component), num_queries=num_tokens, num_keys=num_keys,
                element_bytes=element,
            )
        ]  # fmt: skip
    elif num_masks and num_tokens > 1:
        during = [_mask(phase, 1, num_seqs, num_tokens, num_keys, element, low=0)]
    if during:
        if during[0].bytes + tokens * widths.attention * element > tokens * widths.feed_forward * element:
            block = widths.attention
        else:
            block, during = widths.feed_forward, []
    lasting = []
    if num_masks and kernel != "eager" and num_tokens > 1:
        lasting = [_mask(phase, num_masks, num_seqs, num_tokens, num_keys, 1, low=0 if num_seqs > 1 else None)]
    if num_tokens > 1 and _is_biased(component):
        lasting.append(
            item(
                "temporary", act.position_bias_bytes, phases=(phase,), basis="modelled",
                source="transformers 5.23: biases of relative positions, kept from the first layer to the last",
                num_queries=num_tokens, num_keys=num_keys, num_heads=_most_heads(component), element_bytes=element,
            )
        )  # fmt: skip
    size = act.activation_bytes(num_tokens=tokens, block_width=block, rotary_width=widths.rotary, element_bytes=element)
    most = act.activation_bytes(
        num_tokens=tokens, block_width=max(block, widths.widest), rotary_width=widths.rotary, element_bytes=element
    )
    return [
        item(
            "activations", act.activation_bytes, phases=(phase,), basis="modelled", source=COUNTED,
            low=size if widths.certain else size * 9 // 10,
            high=max(most, size if widths.certain else size * 11 // 10) if num_tokens > 1 else size * 3 // 2,
            num_tokens=tokens, block_width=block, rotary_width=widths.rotary, element_bytes=element,
        ),
        *during,
        *lasting,
    ]  # fmt: skip


def _mask(
    phase: str, num_masks: int, num_seqs: int, num_queries: int, num_keys: int, element_bytes: int, *, low: int | None
) -> Item:
    return item(
        "temporary", act.attention_mask_bytes, phases=(phase,), basis="modelled", low=low,
        source="attention mask of padded sequences, windows or a static cache: one byte a pair, and in the model's dtype for a kernel",
        num_masks=num_masks, num_seqs=num_seqs, num_queries=num_queries, num_keys=num_keys, element_bytes=element_bytes,
    )  # fmt: skip
