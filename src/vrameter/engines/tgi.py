"""Serving with Text Generation Inference: what is free after a warm-up is for the KV cache, less a margin.

References
----------
.. [1] text-generation-inference, ``server/text_generation_server/models/flash_causal_lm.py`` (``warmup``): a prefill of
       ``max_batch_prefill_tokens``, then blocks of 16 tokens from the free memory less what lies beyond 0.95 of
       ``cuda_memory_fraction``. No start-up log was found: all of it is marked assumed.
"""

from __future__ import annotations

from vrameter.engines import Answer, Ask
from vrameter.engines.loaded import served_plan
from vrameter.engines.ranks import check_places
from vrameter.engines.rest import Plan, answer, cache_of
from vrameter.settings.tgi import TgiSettings
from vrameter.spec import check

CACHE_NAMES = {"auto": "auto", "fp8_e4m3fn": "fp8", "fp8_e5m2": "fp8", "fp8": "fp8"}
BLOCK = 16
DEFAULT_LENGTH = 4096
DEFAULT_PREFILL = 4096


def share_bytes(*, free: int, capacity: int, fraction_thousandths: int) -> int:
    """Return what of the free memory is for the KV cache. [bytes].

    Formula::

        free - capacity * (100000 - 95 * fraction_thousandths) // 100000

    Parameters
    ----------
    fraction_thousandths
        ``cuda_memory_fraction``. [thousandths]
    """
    return free - capacity * (100000 - 95 * fraction_thousandths) // 100000


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every kind of rank; what a step takes is assumed."""
    check_places(ask.request.settings)
    settings: TgiSettings = check(TgiSettings, ask.request.settings, path="settings.")
    warnings: list[str] = []
    weights = served_plan(ask, warnings)
    limit = ask.architecture.main.max_positions or DEFAULT_LENGTH
    length = settings.max_total_tokens or min(DEFAULT_LENGTH, limit)
    prefill = settings.max_batch_prefill_tokens or max(DEFAULT_PREFILL, settings.max_input_tokens or 0)
    fraction = round(settings.cuda_memory_fraction * 1000)
    plan = Plan(
        name="TGI",
        source="text-generation-inference, models/flash_causal_lm.py (warmup)",
        num_tokens=prefill,
        num_seqs=settings.max_concurrent_requests,
        length=length,
        length_name="max_total_tokens",
        seqs_name="max_concurrent_requests",
        block_tokens=BLOCK,
        most_tokens=settings.max_batch_total_tokens,
        cache=cache_of(settings.kv_cache_dtype, CACHE_NAMES, weights.compute_dtype, "TGI"),
        share=lambda free, capacity: share_bytes(free=free, capacity=capacity, fraction_thousandths=fraction),
        settings={name: getattr(settings, name) for name in settings.__struct_fields__}
        | {"max_total_tokens": length, "max_batch_prefill_tokens": prefill},
    )
    return answer(ask, plan, weights, warnings)


__all__ = ["estimate", "share_bytes"]
