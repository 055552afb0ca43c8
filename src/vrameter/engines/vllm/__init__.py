"""Serving with vLLM: what the log prints at start-up, and whether it starts.

vLLM asks for a share of the device. From that it takes the weights, the peak of a profile run and what libraries hold
outside torch; the rest becomes the KV pool, in whole blocks. The device's context and its communicators come on top, and
so do CUDA graphs before release 0.20.

References
----------
.. [1] vLLM 0.19 and 0.33, ``v1/worker/gpu_worker.py`` (``determine_available_memory``), ``utils/mem_utils.py``.
"""

from __future__ import annotations

from vrameter.engines import Answer, Ask, grouped
from vrameter.engines.loaded import served_plan
from vrameter.engines.ranks import check_places
from vrameter.engines.vllm.answers import kv_cache, limits, refused, report
from vrameter.engines.vllm.resolved import resolve
from vrameter.engines.vllm.server import Server
from vrameter.engines.vllm.versions import NEWEST, rules_of
from vrameter.memory.weights import WeightPlan
from vrameter.settings.vllm import VllmSettings
from vrameter.spec import check


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every kind of rank, the figures of the log, and what fits at most."""
    check_places(ask.request.settings)
    settings: VllmSettings = check(VllmSettings, ask.request.settings, path="settings.")
    rules = rules_of(ask.request.engine_version)
    warnings: list[str] = []
    plan = _plan(ask, warnings)
    made = resolve(ask, settings, rules, plan, warnings)
    server = Server(ask, plan, made)
    ledgers = sorted((server.ledger(rank) for rank in server.ranks), key=lambda each: each.used, reverse=True)
    shown = made.shown()
    if server.pool is not None:
        shown["max_model_len"] = server.pool.max_model_len
    return Answer(
        ledgers=grouped(ledgers, ask.num_devices // len(ledgers)),
        settings=shown,
        resolved={
            "dtype": plan.dtype,
            "quantization": plan.quantization,
            "engine_version": ask.request.engine_version or NEWEST,
            "parallelism": {"tensor": made.degrees.tensor},
        },
        kv_cache=kv_cache(server),
        report=report(server),
        limits=limits(server),
        warnings=(*plan.warnings, *warnings),
        refusal=refused(server),
    )


def _plan(ask: Ask, warnings: list[str]) -> WeightPlan:
    """Return how weights are stored: bitsandbytes on loading also quantises its scales."""
    name = (ask.request.quantization or "").lower()
    twice = name in ("bnb-nf4", "bnb-fp4") and not ask.architecture.quantization_config
    return served_plan(ask, warnings, quantization=f"{name}-dq" if twice else None)


__all__ = ["Server", "estimate", "limits", "refused", "report"]
