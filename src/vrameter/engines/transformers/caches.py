"""The caches of transformers: what each kind keeps in each phase.

References
----------
.. [1] transformers 5.23, ``cache_utils.py``: a dynamic cache grows by concatenation; a layer with a window keeps
       ``window - 1`` tokens as a view, so that after a prefill the storage of the whole prompt stays alive until
       the next step; latent attention caches its compressed vector.
"""

from __future__ import annotations

from vrameter.engines.transformers.shape import Shape
from vrameter.i18n import language
from vrameter.ledger import Item, item
from vrameter.memory import activations as act
from vrameter.memory import kv_cache as kv
from vrameter.memory.cache_formats import cache_format, check_rows
from vrameter.memory.cache_words import cache_in_words
from vrameter.memory.state_cache import state_bytes_per_sequence, state_cache_bytes
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import Architecture, Attention
from vrameter.settings.transformers import TransformersSettings

SOURCE = "transformers 5.23, cache_utils.py"


def cache_dtype(settings: TransformersSettings, compute_dtype: str) -> str:
    """Return the storage of cached keys and values; a quantised cache is 4-bit unless it says otherwise."""
    if settings.kv_cache_dtype != "auto":
        return cache_format(settings.kv_cache_dtype).name
    return "quanto-int4" if settings.cache_implementation == "quantized" else compute_dtype


def check_cache(architecture: Architecture, name: str) -> None:
    """Refuse a storage whose blocks do not divide the vectors of the model."""
    decoder = architecture.decoder
    if decoder is None:
        return
    for layer, _ in decoder.layer_groups:
        for part in layer.parts:
            if isinstance(part, Attention):
                check_rows(cache_format(name), (part.head_dim, part.value_dim))


def cache_items(
    share: Architecture,
    settings: TransformersSettings,
    shape: Shape,
    plan: WeightPlan,
    cache_name: str,
    num_seqs: int,
) -> list[Item]:
    """Return what caches and states take in each phase on one device."""
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
                    note=cache_in_words(share, cache_name, language()),
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
                        source=f"{SOURCE}: layers with a window hold the whole prompt until the next step",
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
                        source=f"{SOURCE}: a dynamic cache grows by copying one layer's keys, then its values",
                        num_seqs=num_seqs, num_tokens=1, entry_bytes=growing,
                    )
                )  # fmt: skip
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
        source=SOURCE, note=note,
        num_seqs=num_seqs, num_tokens=length, bytes_per_token=per_token,
        num_window_tokens=window_tokens, window_bytes_per_token=per_window_token, fixed_bytes=fixed,
    )  # fmt: skip
