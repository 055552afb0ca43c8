"""Inference with transformers: load, prefill, decode.

transformers keeps weights, a cache and the activations of one layer; it reserves nothing ahead. The largest
moment is the prefill of a long prompt or the last step of a long answer.

References
----------
.. [1] transformers 5.23, ``cache_utils.py``: a dynamic cache grows by concatenation; a layer with a window keeps
       ``window - 1`` tokens as a view, so that after a prefill the storage of the whole prompt stays alive until
       the next step; latent attention caches its compressed vector.
.. [2] transformers 5.23, ``generation/utils.py``: logits of the last position, copied to fp32.
.. [3] PyTorch 2.13, ``CUDABlas``: workspace of 8,519,680 bytes, 33,554,432 from compute capability 9.0 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vrameter.engines import Answer, Ask
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory import activations as act
from vrameter.memory import kv_cache as kv
from vrameter.memory import runtime
from vrameter.memory.cache_formats import cache_format, check_rows
from vrameter.memory.cache_words import cache_in_words
from vrameter.memory.state_cache import state_bytes_per_sequence, state_cache_bytes
from vrameter.memory.weights import WeightPlan, weights_bytes
from vrameter.model.architecture import Architecture, Attention, Component, LatentAttention
from vrameter.parallel import layer_split, tensor_share
from vrameter.settings.transformers import TransformersSettings
from vrameter.spec import check

GENERATION = ("load", "prefill", "decode")
ENCODING = ("load", "forward")
DEFAULT_CONTEXT = 8192
DEFAULT_ANSWER = 256
_CACHE = "transformers 5.23, cache_utils.py"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sequences and tokens of the request. `prompt` is what the first pass reads, `total` what the cache ends with."""

    num_seqs: int
    prompt: int
    total: int
    encoder: int
    answers: bool


def estimate(ask: Ask) -> Answer:
    """Return the ledger of the fullest device."""
    settings: TransformersSettings = check(TransformersSettings, ask.request.settings, path="settings.")
    architecture = ask.architecture
    warnings: list[str] = []
    shape, resolved = _shape(architecture, settings, warnings)
    plan = ask.weight_plan()
    parallelism = ask.request.parallelism
    _check_parallelism(ask)
    whole = tensor_share(architecture, parallelism.tensor)
    stages = ask.num_devices // (parallelism.tensor * parallelism.data)
    shares = layer_split(whole, stages, plan.piece_bytes)
    per_replica = -(-shape.num_seqs // parallelism.data)
    kv_dtype = _kv_dtype(settings, plan.compute_dtype)
    cache_name = (
        kv_dtype if settings.cache_implementation != "quantized" or settings.kv_cache_dtype != "auto" else "quanto-int4"
    )
    _check_cache(architecture, cache_name)
    ledgers = [
        _device(ask, share, settings, shape, plan, cache_name, per_replica, last=index == len(shares) - 1)
        for index, share in enumerate(shares)
    ]
    ledgers.sort(key=lambda ledger: ledger.peak().used, reverse=True)
    cache = kv.cache_shape(whole, kv_dtype=cache_name, own_dtype=plan.compute_dtype)
    fullest = ledgers[0]
    peak = fullest.peak()
    settings_out = (
        {name: getattr(settings, name) for name in settings.__struct_fields__}
        | resolved
        | {"kv_cache_dtype": cache_name}
    )
    report = {
        "weights_bytes": sum(each.bytes for each in fullest.items if each.term == "weights"),
        "activation_bytes": max((each.bytes for each in fullest.items if each.term == "activations"), default=0),
        "peak_allocated_bytes": peak.allocated,
        "peak_reserved_bytes": peak.reserved,
        "peak_used_bytes": peak.used,
    }
    kv_cache = None
    if shape.answers and cache.layers:
        size = cache.sequence_bytes(shape.total, encoder_tokens=shape.encoder) * per_replica
        kv_cache = {
            "bytes_per_token": cache.bytes_per_token,
            "window_bytes_per_token": cache.window_bytes_per_token,
            "bytes_per_sequence": cache.sequence_bytes(shape.total, encoder_tokens=shape.encoder),
            "pool_bytes": size,
            "tokens": shape.total * per_replica,
            "max_concurrency": float(per_replica),
            "dtype": cache_name,
        }
        report["kv_cache_bytes"] = size
        report["kv_bytes_per_token"] = cache.bytes_per_token
    state = state_bytes_per_sequence(whole, element_bytes=plan.compute_bytes, spare_column=True)
    if state and shape.answers:
        report["state_bytes"] = state * per_replica
    return Answer(
        ledgers=((fullest, ask.num_devices),) if ask.num_devices == 1 else tuple((ledger, 1) for ledger in ledgers[:1]),
        settings=settings_out,
        resolved={"dtype": plan.dtype, "quantization": plan.quantization},
        kv_cache=kv_cache,
        report=report,
        warnings=(*plan.warnings, *warnings),
    )


def _check_parallelism(ask: Ask) -> None:
    """Refuse degrees that make no sense for transformers or do not multiply to the number of devices."""
    degrees = ask.request.parallelism
    for name in ("context", "expert"):
        if getattr(degrees, name) > 1:
            raise RequestError(
                tr("parallelism.%(name)s: transformers does not split inference this way.", name=name),
                field=f"parallelism.{name}",
                hint=tr("Use parallelism.tensor, or give num_devices alone for a split by layers."),
            )
    if ask.num_devices % (degrees.tensor * degrees.data * degrees.pipeline):
        raise RequestError(
            tr(
                "parallelism: %(degrees)s devices do not divide num_devices %(count)s.",
                degrees=degrees.tensor * degrees.data * degrees.pipeline, count=ask.num_devices,
            ),
            field="parallelism",
            hint=tr("Give num_devices as a multiple of tensor x pipeline x data."),
        )  # fmt: skip


def _shape(
    architecture: Architecture, settings: TransformersSettings, warnings: list[str]
) -> tuple[Shape, dict[str, Any]]:
    """Return sequences and tokens, every default filled in."""
    decoder = architecture.decoder
    main = architecture.main
    limit = main.max_positions
    length = settings.context_length
    if length is None:
        length = min(DEFAULT_CONTEXT, limit) if limit else DEFAULT_CONTEXT
    elif limit and length > limit:
        warnings.append(
            tr(
                "context_length %(value)s is beyond the %(limit)s positions that the model's config states.",
                value=length,
                limit=limit,
            )
        )
    beams = settings.num_beams
    if decoder is None:
        return Shape(settings.batch_size, length, length, 0, answers=False), {
            "context_length": length,
            "max_new_tokens": 0,
        }
    encoder = architecture.component("encoder") or _listening(architecture)
    if encoder is not None:
        fixed = _cross_tokens(decoder)
        answer = settings.max_new_tokens
        if answer is None:
            answer = min(DEFAULT_ANSWER, limit or DEFAULT_ANSWER)
        resolved = {"context_length": fixed or length, "max_new_tokens": answer}
        return Shape(settings.batch_size * beams, 1, max(1, answer), fixed or length, answers=True), resolved
    new = settings.max_new_tokens or 0
    if new >= length:
        raise RequestError(
            tr(
                "settings.max_new_tokens: %(value)s leaves no prompt within context_length %(length)s.",
                value=new,
                length=length,
            ),
            field="settings.max_new_tokens",
            hint=tr("context_length counts prompt and answer together: raise it above %(value)s.", value=new),
        )
    return Shape(settings.batch_size * beams, length - new, length, 0, answers=True), {
        "context_length": length,
        "max_new_tokens": new,
    }


def _listening(architecture: Architecture) -> Component | None:
    """Return the audio encoder of a model whose decoder attends to it."""
    decoder = architecture.decoder
    return architecture.component("audio") if decoder is not None and _has_cross(decoder) else None


def _has_cross(component: Component) -> bool:
    return any(
        isinstance(part, Attention) and part.scope == "cross"
        for layer, _ in component.layer_groups
        for part in layer.parts
    )


def _cross_tokens(decoder: Component) -> int:
    for layer, _ in decoder.layer_groups:
        for part in layer.parts:
            if isinstance(part, Attention) and part.cross_tokens:
                return part.cross_tokens
    return 0


def _kv_dtype(settings: TransformersSettings, compute_dtype: str) -> str:
    if settings.kv_cache_dtype == "auto":
        return compute_dtype
    return cache_format(settings.kv_cache_dtype).name


def _check_cache(architecture: Architecture, name: str) -> None:
    decoder = architecture.decoder
    if decoder is None:
        return
    for layer, _ in decoder.layer_groups:
        for part in layer.parts:
            if isinstance(part, Attention):
                check_rows(cache_format(name), (part.head_dim, part.value_dim))


def _device(
    ask: Ask,
    share: Architecture,
    settings: TransformersSettings,
    shape: Shape,
    plan: WeightPlan,
    cache_name: str,
    num_seqs: int,
    *,
    last: bool,
) -> Ledger:
    """Return the ledger of one device's share."""
    phases = GENERATION if shape.answers else ENCODING
    first = phases[1]
    element = plan.compute_bytes
    items: list[Item] = [plan.item(share, phases)]
    items += _load_items(plan, share)
    decoder = share.decoder
    if shape.answers and decoder is not None:
        items += _cache_items(share, settings, shape, plan, cache_name, num_seqs)
    items += _activation_items(share, settings, shape, num_seqs, element, phases)
    head = next((component for component in share.components if component.kind == "head"), None)
    vocab = share.main.vocab_size
    if shape.answers and last and vocab and (head is not None or share.tied):
        keep = settings.logits_to_keep
        prompt_rows = num_seqs * (min(keep, shape.prompt) if keep else shape.prompt)
        rows = {"prefill": prompt_rows, "decode": num_seqs}
        for phase, count in rows.items():
            items.append(
                item(
                    "logits", act.logits_bytes, phases=(phase,), basis="exact",
                    source="transformers 5.23, generation/utils.py: logits of the kept positions, and their fp32 copy",
                    num_rows=count, vocab_size=vocab, element_bytes=element,
                )
            )  # fmt: skip
    items += runtime.items(ask.device, phases=phases, first=first, alive=items)
    return Ledger(phases, tuple(items))


def _load_items(plan: WeightPlan, share: Architecture) -> list[Item]:
    transient = plan.load_transient(share)
    if not transient:
        return []
    return [
        item(
            "temporary", weights_bytes, phases=("load",), basis="modelled",
            source="transformers quantises each matrix as it arrives, so one stands beside its quantised copy",
            quantized=0, scales=0, unquantized=transient, buffers=0,
        )
    ]  # fmt: skip


def _cache_items(
    share: Architecture,
    settings: TransformersSettings,
    shape: Shape,
    plan: WeightPlan,
    cache_name: str,
    num_seqs: int,
) -> list[Item]:
    cache = kv.cache_shape(share, kv_dtype=cache_name, own_dtype=plan.compute_dtype)
    items: list[Item] = []
    static = settings.cache_implementation in ("static", "offloaded_static", "hybrid", "sliding_window")
    offloaded = settings.cache_implementation.startswith("offloaded")
    if cache.layers:
        spans = {"decode": shape.total, "prefill": shape.total if static else shape.prompt}
        merged = spans["decode"] == spans["prefill"]
        for phase, length in spans.items():
            if merged and phase == "prefill":
                continue
            items.append(
                _cache_item(
                    cache, ("prefill", "decode") if merged else (phase,), num_seqs, length, shape.encoder,
                    offloaded=offloaded, layers=sum(group.count for group in cache.layers),
                    note=cache_in_words(share, cache_name),
                )
            )  # fmt: skip
        if not static:
            held = cache.unwindowed_bytes(shape.prompt) - sum(
                group.count * group.entry_bytes * -(-group.tokens_kept(shape.prompt) // group.tokens_per_entry)
                for group in cache.self_layers
            )
            if held > 0:
                items.append(
                    item(
                        "temporary", state_cache_bytes, phases=("prefill",), basis="modelled",
                        source=f"{_CACHE}: layers with a window hold the whole prompt until the next step",
                        num_seqs=num_seqs, bytes_per_sequence=held,
                    )
                )  # fmt: skip
            growing = max(
                (group.tokens_kept(shape.total) * group.entry_bytes for group in cache.self_layers), default=0
            )
            if growing:
                items.append(
                    item(
                        "temporary", act.cache_growth_bytes, phases=("decode",), basis="modelled",
                        source=f"{_CACHE}: a dynamic cache grows by copying one layer's keys, then its values",
                        num_seqs=num_seqs, num_tokens=1, entry_bytes=growing,
                    )
                )  # fmt: skip
    state = state_bytes_per_sequence(share, element_bytes=plan.compute_bytes, spare_column=True)
    if state:
        items.append(
            item(
                "state_cache", state_cache_bytes, phases=("prefill", "decode"), basis="modelled",
                source=f"{_CACHE}: convolution columns and recurrent state of each sequence",
                num_seqs=num_seqs, bytes_per_sequence=state,
            )
        )  # fmt: skip
    return items


def _cache_item(
    cache: kv.CacheShape,
    phases: tuple[str, ...],
    num_seqs: int,
    length: int,
    encoder: int,
    *,
    offloaded: bool,
    layers: int,
    note: str,
) -> Item:
    """Return the cache of sequences of `length` tokens; of an offloaded cache two layers are on the device at once."""
    windowed = [group for group in cache.self_layers if group.limit is not None]
    growing = [group for group in cache.self_layers if group.limit is None]
    total = cache.sequence_bytes(length, encoder_tokens=encoder)
    limits = {group.tokens_kept(length) for group in windowed}
    window_tokens = limits.pop() if len(limits) == 1 else 0
    per_token = sum(group.count * group.entry_bytes for group in growing if group.tokens_per_entry == 1)
    per_window_token = sum(group.count * group.entry_bytes for group in windowed) if window_tokens else 0
    fixed = total - length * per_token - window_tokens * per_window_token
    if offloaded:
        share = -(-total * min(2, layers) // max(1, layers))
        length, per_token, window_tokens, per_window_token, fixed = 0, 0, 0, 0, share
    return item(
        "kv_cache", kv.kv_cache_bytes, phases=phases, basis="exact",
        source=_CACHE, note=note,
        num_seqs=num_seqs, num_tokens=length, bytes_per_token=per_token,
        num_window_tokens=window_tokens, window_bytes_per_token=per_window_token, fixed_bytes=fixed,
    )  # fmt: skip


def _kernel(settings: TransformersSettings) -> str:
    """Return how attention runs: padded batches pass a mask, for which keys and values are copied to every head."""
    if settings.attn_implementation == "eager":
        return "eager"
    return "repeated" if settings.attn_implementation == "sdpa" and settings.batch_size > 1 else "fused"


def _activation_items(
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
    encoder = share.component("encoder") or _listening(share)
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
