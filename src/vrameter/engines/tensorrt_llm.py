"""Serving with TensorRT-LLM: a share of what is free after loading is for the KV cache.

References
----------
.. [1] TensorRT-LLM, "Memory Usage of TensorRT-LLM" (reference/memory): weights, activations, decoder buffers, and
       ``free_gpu_memory_fraction`` (0.9) of the rest for the KV cache, in blocks of 32 tokens. Two start-up logs agree:
       16.05 of 17.83 GiB, and 19.72 of 21.89.
"""

from __future__ import annotations

from vrameter.engines import Answer, Ask
from vrameter.engines.loaded import served_plan
from vrameter.engines.ranks import check_places
from vrameter.engines.rest import Plan, answer, cache_of
from vrameter.settings.tensorrt_llm import TensorrtLlmSettings
from vrameter.spec import check

CACHE_NAMES = {"auto": "auto", "fp8": "fp8", "int8": "int8", "nvfp4": "nvfp4", "float16": "fp16", "bfloat16": "bf16"}
DEFAULT_LENGTH = 8192


def share_bytes(*, free: int, fraction_thousandths: int) -> int:
    """Return what of the free memory is for the KV cache. [bytes].

    Formula::

        free * fraction_thousandths // 1000

    >>> round(share_bytes(free=19144816722, fraction_thousandths=900) / 2**30, 2)
    16.05
    """
    return free * fraction_thousandths // 1000


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every kind of rank; what a step takes is assumed."""
    check_places(ask.request.settings)
    settings: TensorrtLlmSettings = check(TensorrtLlmSettings, ask.request.settings, path="settings.")
    warnings: list[str] = []
    weights = served_plan(ask, warnings)
    length = settings.max_seq_len or ask.architecture.main.max_positions or DEFAULT_LENGTH
    fraction = round(settings.free_gpu_memory_fraction * 1000)
    plan = Plan(
        name="TensorRT-LLM",
        source="TensorRT-LLM, reference/memory: free_gpu_memory_fraction of what is free after loading",
        num_tokens=settings.max_num_tokens,
        num_seqs=min(settings.max_batch_size, settings.max_num_tokens) * settings.max_beam_width,
        length=length,
        length_name="max_seq_len",
        seqs_name="max_batch_size",
        block_tokens=settings.tokens_per_block,
        most_tokens=settings.max_tokens,
        cache=cache_of(settings.kv_cache_dtype, CACHE_NAMES, weights.compute_dtype, "TensorRT-LLM"),
        share=lambda free, _: share_bytes(free=free, fraction_thousandths=fraction),
        settings={name: getattr(settings, name) for name in settings.__struct_fields__} | {"max_seq_len": length},
    )
    return answer(ask, plan, weights, warnings)


__all__ = ["estimate", "share_bytes"]
