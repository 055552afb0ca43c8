"""Inference with transformers: load, prefill, decode.

transformers keeps weights, a cache and the activations of one layer; it reserves nothing ahead. The largest
moment is the prefill of a long prompt or the last step of a long answer.

References
----------
.. [1] transformers 5.23, ``generation/utils.py``: logits of the last position, copied to fp32.
.. [2] PyTorch 2.13, ``CUDABlas``: workspace of 8,519,680 bytes, 33,554,432 from compute capability 9.0 on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vrameter.engines import Answer, Ask, grouped
from vrameter.engines.transformers.caches import cache_of, check_cache
from vrameter.engines.transformers.deployment import Deployment
from vrameter.engines.transformers.passes import usual_attention
from vrameter.engines.transformers.shape import Shape, check_parallelism, shape_of
from vrameter.i18n import tr
from vrameter.ledger import DISK, HOST, Ledger
from vrameter.memory.state_cache import state_bytes_per_sequence
from vrameter.settings.transformers import TransformersSettings
from vrameter.spec import check


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every device, the fullest first, and what fits at most."""
    settings: TransformersSettings = check(TransformersSettings, ask.request.settings, path="settings.")
    if settings.attn_implementation is None:
        settings = msgspec.structs.replace(settings, attn_implementation=usual_attention(ask.architecture))
    warnings: list[str] = []
    shape, resolved = shape_of(ask.architecture, settings, warnings)
    plan = ask.weight_plan()
    if plan.mixture is not None:
        warnings.append(
            tr(
                "transformers unpacks a GGUF file to %(dtype)s while it loads: these are the sizes of the file. "
                "Programs that compute on it are asked with engine llama.cpp or ollama.",
                dtype=plan.compute_dtype,
            )
        )
    check_parallelism(ask)
    run = Deployment(ask, settings, plan)
    check_cache(ask.architecture, settings, run.cache_dtype)
    ledgers = run.ledgers(shape)
    if any(ledger.place in (HOST, DISK) for ledger in ledgers):
        warnings.append(tr("Layers on the CPU or the disk are brought in for every token: that is slow."))
    return Answer(
        ledgers=grouped(ledgers, ask.num_devices // run.stages, devices=run.devices),
        settings={name: getattr(settings, name) for name in settings.__struct_fields__}
        | resolved
        | {"kv_cache_dtype": run.cache_dtype},
        resolved={"dtype": plan.dtype, "quantization": plan.quantization},
        kv_cache=_kv_cache(run, shape),
        report=_report(run, shape, ledgers[0]),
        limits=run.limits(shape),
        warnings=(*plan.warnings, *warnings),
    )


def _kv_cache(run: Deployment, shape: Shape) -> dict[str, Any] | None:
    settings = run.settings
    cache = cache_of(
        run.whole, run.cache_dtype, settings.q_group_size, settings.residual_length, run.plan.compute_dtype
    )
    if not (shape.answers and cache.layers):
        return None
    per_sequence = cache.sequence_bytes(shape.total, encoder_tokens=shape.encoder)
    num_seqs = run.sequences(shape)
    return {
        "bytes_per_token": cache.bytes_per_token,
        "window_bytes_per_token": cache.window_bytes_per_token,
        "bytes_per_sequence": per_sequence,
        "pool_bytes": per_sequence * num_seqs,
        "tokens": shape.total * num_seqs,
        "max_concurrency": float(num_seqs),
        "dtype": run.cache_dtype,
    }


def _report(run: Deployment, shape: Shape, fullest: Ledger) -> dict[str, int]:
    peak = fullest.peak()
    report = {
        "weights_bytes": sum(each.bytes for each in fullest.items if each.term == "weights"),
        "activation_bytes": max((each.bytes for each in fullest.items if each.term == "activations"), default=0),
        "peak_allocated_bytes": peak.allocated,
        "peak_reserved_bytes": peak.reserved,
        "peak_used_bytes": peak.used,
    }
    cache = _kv_cache(run, shape)
    if cache is not None:
        report["kv_cache_bytes"] = cache["pool_bytes"]
        report["kv_bytes_per_token"] = cache["bytes_per_token"]
    state = state_bytes_per_sequence(
        run.whole, element_bytes=run.plan.compute_bytes, spare_column=True, fp32_scans=True
    )
    if state and shape.answers:
        report["state_bytes"] = state * run.sequences(shape)
    return report
