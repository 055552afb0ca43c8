"""Inference with llama.cpp: model, context and compute buffers of every device, as the program plans them.

References
----------
.. [1] llama.cpp at 0c1e57098. Its own plans of buffer sizes are this engine's cases (`benchmarks/cases`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from vrameter.engines import Answer, Ask
from vrameter.engines.llama_cpp.buffers import Planned, planned
from vrameter.engines.llama_cpp.companions import companion_items
from vrameter.engines.llama_cpp.deployment import Deployment
from vrameter.engines.llama_cpp.options import backend_of, context_of, placement_of
from vrameter.engines.llama_cpp.refusals import check_context
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import Attention
from vrameter.model.gguf_types import BLOCKS
from vrameter.settings.llama_cpp import LlamaCppSettings
from vrameter.spec import check
from vrameter.units import MIB, format_bytes

# What the converter writes for a model in one of these number formats.
FILE_TYPES = {"bf16": "bf16", "fp16": "f16", "fp32": "f32"}
MOST_DEVICES = 16
CONTEXT_STEP = 256
TABLE = "token_embd.weight"


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every GPU and of the host, and what fits at most."""
    settings: LlamaCppSettings = check(LlamaCppSettings, ask.request.settings, path="settings.")
    run, notes = fitted(ask, settings, deployment(ask, settings))
    found = answer(ask, run, {name: getattr(settings, name) for name in settings.__struct_fields__})
    return replace(found, warnings=(*notes, *found.warnings))


def fitted(ask: Ask, settings: LlamaCppSettings, run: Deployment) -> tuple[Deployment, tuple[str, ...]]:
    """Return the deployment after the program's ``--fit``: a context that nobody gave shrinks until a margin stays free.

    Only the context is fitted. Moving layers to the host, which the program would try next, is left to the limits.
    """
    if settings.n_ctx or not settings.fit or ask.device is None:
        return run, ()
    margin = settings.fit_target * MIB
    most = deployment(ask, settings, reserved=run.reserved + margin).limits().get("n_ctx")
    if most is None or most >= run.context.n_ctx:
        return run, ()
    tokens = min(run.context.n_ctx, max(settings.fit_ctx, most // CONTEXT_STEP * CONTEXT_STEP))
    note = tr(
        "n_ctx is not given: the program's --fit shrinks it from %(whole)s to %(tokens)s tokens, so that %(margin)s stay free.",
        whole=f"{run.context.n_ctx:,}", tokens=f"{tokens:,}", margin=format_bytes(margin),
    )  # fmt: skip
    return deployment(ask, msgspec.structs.replace(settings, n_ctx=tokens)), (note,)


def deployment(ask: Ask, settings: LlamaCppSettings, *, reserved: int = 0) -> Deployment:
    """Return the model laid out over the request's devices.

    Raises
    ------
    RequestError
        For what the program refuses.
    """
    _check_devices(ask)
    model = planned_model(ask, settings)
    placement = placement_of(model, settings, ask.devices, ask.num_devices)
    context = context_of(model, settings)
    check_context(model, context, flash_asked=settings.flash_attn)
    return Deployment(
        model, context, placement, backend_of(ask.device), ask.devices,
        main_gpu=settings.main_gpu if settings.split_mode == "none" else 0,
        mapped=not settings.no_mmap, reserved=reserved,
        extra=companion_items(ask, settings, context, backend_of(ask.device)),
    )  # fmt: skip


def planned_model(ask: Ask, settings: LlamaCppSettings) -> Planned:
    """Return the planner of the request's model as a GGUF file.

    Raises
    ------
    RequestError
        For a quantisation that is none of GGUF's, and for models that the program has no graph for.
    """
    main = ask.architecture.main
    scopes = {part.scope for layer, _ in main.layer_groups for part in layer.parts if isinstance(part, Attention)}
    if main.layers and main.kind in ("decoder", "encoder") and "cross" not in scopes:
        model = planned(file_plan(ask, imatrix=settings.imatrix))
        if TABLE in model.file.outside:
            return model
    raise RequestError(
        tr(
            "model: llama.cpp has no graph for %(model)s here.",
            model=ask.architecture.class_name or ask.architecture.model_type,
        ),
        field="model",
        hint=tr("Ask with engine transformers."),
    )


def file_plan(ask: Ask, *, imatrix: bool = False) -> WeightPlan:
    """Return how a GGUF file stores the model: as named, else unquantised in the model's own number format."""
    plan = ask.weight_plan(imatrix=imatrix)
    if plan.mixture is not None:
        return plan
    if ask.request.quantization is not None and plan.scheme is not None:
        raise RequestError(
            tr("quantization: llama.cpp runs GGUF files, and '%(value)s' is no type of theirs.", value=ask.request.quantization),
            field="quantization",
            hint=tr("Give one such as q4_k_m, q8_0, mxfp4_moe or f16."),
        )  # fmt: skip
    name = FILE_TYPES.get(plan.compute_dtype, "bf16")
    request = msgspec.structs.replace(ask.request, quantization=name, dtype=None)
    return replace(ask, request=request).weight_plan()


def _check_devices(ask: Ask) -> None:
    if ask.num_devices > MOST_DEVICES:
        raise RequestError(
            tr("num_devices: llama.cpp uses at most %(most)s GPUs, not %(value)s.", most=MOST_DEVICES, value=ask.num_devices),
            field="num_devices",
            hint=tr("Give a number from 1 to %(most)s.", most=MOST_DEVICES),
        )  # fmt: skip
    degrees = ask.request.parallelism
    for name in ("tensor", "data", "expert", "context"):
        if getattr(degrees, name) > 1:
            raise RequestError(
                tr("parallelism.%(name)s: llama.cpp splits a model over GPUs by its layers alone.", name=name),
                field=f"parallelism.{name}",
                hint=tr('Give "num_devices": %(count)s; "tensor_split" says how much each GPU gets.', count=ask.num_devices),
            )  # fmt: skip


def answer(ask: Ask, run: Deployment, settings: dict[str, Any], *, own_names: dict[str, str] | None = None) -> Answer:
    """Return the answer of a deployment.

    Parameters
    ----------
    own_names
        What a program on top calls the settings that limits speak of.
    """
    ledgers = run.ledgers()
    context = run.context
    filled = {
        name: getattr(context, name)
        for name in ("n_ctx", "n_batch", "n_parallel", "n_outputs_max", "kv_unified", "flash_attn", "embeddings")
    }
    filled["n_gpu_layers"] = sum(home != run.host for home in run.placement.devices)
    limits = run.limits()
    if own_names is not None:
        limits = {own_names[name]: value for name, value in limits.items() if name in own_names}
        filled = {}
    return Answer(
        ledgers=tuple((ledger, 1) for ledger in ledgers),
        settings=settings | filled,
        resolved={"dtype": None, "quantization": _file_type(run.planned)},
        kv_cache=run.kv_cache(),
        report=run.report(ledgers[0]),
        limits=limits,
        warnings=_warnings(ask, run),
    )


def _file_type(model: Planned) -> str | None:
    return model.plan.quantization


def _warnings(ask: Ask, run: Deployment) -> tuple[str, ...]:
    found = list(run.planned.plan.warnings)
    context, architecture = run.context, ask.architecture
    known = architecture.main.max_positions
    each = context.n_ctx if context.kv_unified else context.n_ctx // context.n_parallel
    if known and each > known and not run.planned.encoder:
        found.append(
            tr("n_ctx: %(tokens)s tokens per sequence are more than the %(known)s that the model knows.", tokens=each, known=known)
        )  # fmt: skip
    if not run.planned.graphed:
        found.append(
            tr(
                "The compute buffer is a rough interval: there is no graph of %(model)s' layers here.",
                model=architecture.class_name or architecture.model_type,
            )
        )
    if BLOCKS[context.cache_type_k][0] > 1 and not context.flash_attn:
        found.append(tr("cache_type_k: without flash attention quantised keys are slow."))
    if ask.device is not None and ask.device.vendor not in ("nvidia", "amd", ""):
        found.append(
            tr("Compute buffers are planned with the rules of CUDA; %(name)s' backend may need others.", name=ask.device.name)
        )  # fmt: skip
    if context.no_kv_offload or (len(set(run.placement.devices)) > 1 and run.host > 1):
        found.append(
            tr(
                "Compute buffers are those that the program plans before it loads (llama-fit-params); where layers are split "
                "or caches are in host memory, what it then allocates can be less: the lower bound."
            )
        )
    return tuple(found)


__all__ = ["answer", "deployment", "estimate", "file_plan", "planned_model"]
