"""Caches of keys, values and states, by kind of cache.

A dynamic cache grows by copying; a static one has its full length at once; an offloaded one has two layers on the device;
a quantised one keeps its last tokens whole and is unpacked layer by layer. ``hybrid`` and ``sliding_window`` are other names
of the static cache, whose layers with a window keep only that.

References
----------
.. [1] transformers 5.23, ``cache_utils.py``.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.engines.transformers.shape import Shape
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Item, item
from vrameter.memory import activations as act
from vrameter.memory import kv_cache as kv
from vrameter.memory.cache_formats import FORMATS, CacheFormat, cache_format, check_rows, grouped_format
from vrameter.memory.state_cache import state_bytes_per_sequence, state_cache_bytes
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import Architecture, Attention, Recurrent, remembered
from vrameter.settings.transformers import TransformersSettings

SOURCE = "transformers 5.23, cache_utils.py"
STATIC = ("static", "offloaded_static", "hybrid", "sliding_window")
GROUPED_BITS = {"quanto-int4": 4, "quanto-int2": 2, "quanto-int8": 8}


def unpacking_bytes(*, num_seqs: int, num_tokens: int, entry_bytes: int, copies: int) -> int:
    """Return keys and values of one layer of a quantised cache while they are used.

    Formula::

        num_seqs * num_tokens * entry_bytes * copies

    Parameters
    ----------
    copies
        Two: unpacked, and joined with the last tokens. An 8-bit float cache goes through fp32 instead: 3 in all.
    """
    return num_seqs * num_tokens * entry_bytes * copies


def is_static(settings: TransformersSettings) -> bool:
    """Say whether the cache has its full length from the start."""
    return settings.cache_implementation in STATIC


def cache_dtype(settings: TransformersSettings, compute_dtype: str) -> str:
    """Return the storage of cached keys and values; a quantised cache is 4-bit unless it says otherwise."""
    if settings.kv_cache_dtype != "auto":
        return cache_format(settings.kv_cache_dtype).name
    return "quanto-int4" if settings.cache_implementation == "quantized" else compute_dtype


def stored_as(settings: TransformersSettings, name: str) -> CacheFormat:
    """Return the format of a cache, with the group and the residual that the settings name."""
    bits = GROUPED_BITS.get(name)
    if bits is None:
        return FORMATS[name]
    return grouped_format(
        name, bits, bits, group=settings.q_group_size, extra=4, residual_tokens=settings.residual_length
    )


@remembered
def cache_of(architecture: Architecture, name: str, group: int, residual: int, own_dtype: str) -> kv.CacheShape:
    """Return the cache of a model or a share of it."""
    decoder = architecture.decoder
    if decoder is None:
        return kv.CacheShape(())
    form = FORMATS[name]
    if name in GROUPED_BITS:
        bits = GROUPED_BITS[name]
        form = grouped_format(name, bits, bits, group=group, extra=4, residual_tokens=residual)
    return kv.CacheShape(kv.cached_layers(decoder, form, FORMATS[own_dtype]))


def check_cache(architecture: Architecture, settings: TransformersSettings, name: str) -> None:
    """Refuse a storage whose blocks do not divide the vectors of the model, and a kind that the model cannot have."""
    decoder = architecture.decoder
    if decoder is None:
        return
    parts = [part for layer, _ in decoder.layer_groups for part in layer.parts]
    for part in parts:
        if isinstance(part, Attention):
            check_rows(cache_format(name), (part.head_dim, part.value_dim))
    if settings.cache_implementation != "quantized":
        return
    limited = any(isinstance(part, Attention) and part.scope != "full" for part in parts)
    if limited or any(isinstance(part, Recurrent) for part in parts):
        raise RequestError(
            tr(
                "settings.cache_implementation: transformers quantises only caches of models whose layers all attend to all tokens."
            ),
            field="settings.cache_implementation",
            hint=tr("Use dynamic, static or offloaded for this model."),
        )


def cache_items(
    share: Architecture,
    settings: TransformersSettings,
    shape: Shape,
    plan: WeightPlan,
    cache_name: str,
    num_seqs: int,
    note: str,
) -> list[Item]:
    """Return what caches and states take in each phase on one device."""
    cache = cache_of(share, cache_name, settings.q_group_size, settings.residual_length, plan.compute_dtype)
    items: list[Item] = []
    if cache.layers:
        items += _kept(cache, settings, shape, num_seqs, note)
        items += _moving(cache, settings, shape, num_seqs, plan)
    state = state_bytes_per_sequence(share, element_bytes=plan.compute_bytes, spare_column=True, fp32_scans=True)
    if state:
        items.append(
            item(
                "state_cache", state_cache_bytes, phases=("prefill", "decode"), basis="modelled",
                source=f"{SOURCE}: convolution columns and recurrent state of each sequence",
                num_seqs=num_seqs, bytes_per_sequence=state,
            )
        )  # fmt: skip
    return items


def _kept(cache: kv.CacheShape, settings: TransformersSettings, shape: Shape, num_seqs: int, note: str) -> list[Item]:
    """Return the cache itself in each phase."""
    spans = {"decode": shape.total, "prefill": shape.total if is_static(settings) else shape.prompt}
    if spans["decode"] == spans["prefill"]:
        return [_cache_item(cache, ("prefill", "decode"), num_seqs, shape, settings, spans["decode"], note)]
    return [_cache_item(cache, (phase,), num_seqs, shape, settings, span, note) for phase, span in spans.items()]


def _cache_item(
    cache: kv.CacheShape, phases: tuple[str, ...], num_seqs: int, shape: Shape, settings: TransformersSettings, length: int, note: str
) -> Item:  # fmt: skip
    """Return the cache of sequences of `length` tokens; of an offloaded cache two layers are on the device at once."""
    windowed = [group for group in cache.self_layers if group.limit is not None]
    growing = [group for group in cache.self_layers if group.limit is None]
    whole = min(length - shape.prompt, settings.residual_length - 1) if cache_is_quantised(settings) else None
    total = sum(_group_bytes(group, length, whole) for group in cache.self_layers) + cache.cross_bytes(shape.encoder)
    limits = {group.tokens_kept(length) for group in windowed}
    window_tokens = limits.pop() if len(limits) == 1 else 0
    per_token = sum(group.count * group.entry_bytes for group in growing if group.tokens_per_entry == 1)
    per_window_token = sum(group.count * group.entry_bytes for group in windowed) if window_tokens else 0
    fixed = total - length * per_token - window_tokens * per_window_token
    if settings.cache_implementation.startswith("offloaded"):
        stays = windowed if settings.cache_implementation == "offloaded_static" else []
        leaving = [group for group in cache.self_layers if group not in stays]
        fixed = sum(_group_bytes(group, length, None) for group in stays) + _two_layers(leaving, length)
        fixed += cache.cross_bytes(shape.encoder)
        length, per_token, window_tokens, per_window_token = 0, 0, 0, 0
    return item(
        "kv_cache", kv.kv_cache_bytes, phases=phases, basis="exact", source=SOURCE, note=note,
        num_seqs=num_seqs, num_tokens=length, bytes_per_token=per_token, num_window_tokens=window_tokens,
        window_bytes_per_token=per_window_token, fixed_bytes=fixed,
    )  # fmt: skip


def cache_is_quantised(settings: TransformersSettings) -> bool:
    """Say whether the cache is transformers' quantised one."""
    return settings.cache_implementation == "quantized"


def _group_bytes(group: kv.CachedLayers, length: int, whole: int | None) -> int:
    """Return what layers keep of a sequence, `whole` of its tokens in the model's own dtype where that is given."""
    if whole is None:
        return group.sequence_bytes(length)
    kept = min(whole, length) if group.residual_tokens else 0
    return group.count * ((length - kept) * group.entry_bytes + kept * group.whole_entry_bytes)


def _two_layers(groups: list[kv.CachedLayers], length: int) -> int:
    """Return the two largest layers, of which one is in use and the next is on its way. [bytes]."""
    each = sorted(
        (replace(group, count=1).sequence_bytes(length) for group in groups for _ in range(min(2, group.count))),
        reverse=True,
    )
    return sum(each[:2])


def _moving(
    cache: kv.CacheShape, settings: TransformersSettings, shape: Shape, num_seqs: int, plan: WeightPlan
) -> list[Item]:
    """Return the copies that a cache makes: to grow, to reorder beams, to be unpacked."""
    items: list[Item] = []
    if cache_is_quantised(settings):
        whole = max((group.whole_entry_bytes for group in cache.self_layers), default=0)
        fp8 = not any(group.residual_tokens for group in cache.self_layers)
        copies = 3 if fp8 else 2
        size = unpacking_bytes(num_seqs=num_seqs, num_tokens=shape.total, entry_bytes=whole, copies=copies)
        items.append(
            item(
                "temporary", unpacking_bytes, phases=("decode",), basis="modelled", high=2 * size,
                source=f"{SOURCE}: one layer unpacked and joined with what is new; its quantiser's own arrays besides",
                num_seqs=num_seqs, num_tokens=shape.total, entry_bytes=whole, copies=copies,
            )
        )  # fmt: skip
        return items
    if not is_static(settings):
        held = cache.unwindowed_bytes(shape.prompt) - sum(
            group.count * group.entry_bytes * -(-group.tokens_kept(shape.prompt) // group.tokens_per_entry)
            for group in cache.self_layers
        )
        if held > 0:
            items.append(
                item(
                    "temporary", state_cache_bytes, phases=("prefill",), basis="modelled",
                    source=f"{SOURCE}: layers with a window hold the whole prompt until the next step",
                    num_seqs=num_seqs, bytes_per_sequence=held,
                )
            )  # fmt: skip
    elif settings.num_beams == 1:
        return items
    growing = max(
        (group.tokens_kept(shape.total) * group.entry_bytes * (2 if group.limit else 1) for group in cache.self_layers),
        default=0,
    )
    if growing:
        items.append(
            item(
                "temporary", act.cache_growth_bytes, phases=("decode",), basis="modelled",
                source=f"{SOURCE}: a dynamic cache grows, and beams are reordered, by copying one layer's keys, then its values; those of a window at once",
                num_seqs=num_seqs, num_tokens=1, entry_bytes=growing,
            )
        )  # fmt: skip
    return items
