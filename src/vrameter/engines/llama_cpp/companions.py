"""What is loaded beside the model: a tower for images or sound, and a model that drafts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Item

if TYPE_CHECKING:
    from vrameter.engines import Ask
    from vrameter.engines.llama_cpp.buffers import Context
    from vrameter.engines.llama_cpp.options import Backend
    from vrameter.settings.llama_cpp import LlamaCppSettings

Placed = tuple[Item, int | None]


def companion_items(ask: Ask, settings: LlamaCppSettings, context: Context, backend: Backend) -> tuple[Placed, ...]:
    """Return the items of further models, each with the GPU that it is on, None for host memory."""
    found: list[Placed] = []
    if settings.mmproj:
        from vrameter.engines.llama_cpp.tower import tower_items

        found += tower_items(ask, settings, backend)
    if settings.model_draft is not None:
        found += _draft_items(ask, settings, context)
    return tuple(found)


def _draft_items(ask: Ask, settings: LlamaCppSettings, context: Context) -> list[Placed]:
    """Return the buffers of the model that drafts: a context as long as the main one."""
    from vrameter.engines.llama_cpp import deployment
    from vrameter.sources import resolve

    model = resolve(settings.model_draft)
    if model.architecture is None:
        raise RequestError(
            tr("settings.model_draft: needs a model's shape, and %(model)s is only a number of parameters.", model=model.name),
            field="settings.model_draft",
            hint=tr("Name a model (vrameter models) or give its config.json."),
        )  # fmt: skip
    own = msgspec.structs.replace(
        settings, model_draft=None, mmproj=False, n_ctx=context.n_ctx, n_parallel=context.n_parallel,
        kv_unified=context.kv_unified, n_outputs_max=context.n_parallel, n_gpu_layers=settings.n_gpu_layers_draft,
        cache_type_k=settings.cache_type_k_draft, cache_type_v=settings.cache_type_v_draft, n_cpu_moe=0, cpu_moe=False,
        override_tensor=[], n_rs_seq=0, embeddings=False,
    )  # fmt: skip
    quantization = settings.draft_quantization or (None if model.table is not None else ask.request.quantization)
    request = msgspec.structs.replace(ask.request, quantization=quantization)
    run = deployment(replace(ask, request=request, architecture=model.architecture, table=model.table), own)
    found: list[Placed] = []
    for ledger in run.ledgers():
        for each in ledger.items:
            if each.buffer:
                place = ledger.place if ledger.place >= 0 else None
                found.append((replace(each, note=tr("draft model")), place))
    return found


__all__ = ["Placed", "companion_items"]
