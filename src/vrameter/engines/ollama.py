"""Inference with Ollama, which starts llama.cpp's server with settings of its own.

References
----------
.. [1] Ollama at fb307609, ``llm/llama_server.go`` (the flags it passes), ``server/routes.go`` (context by memory) and
       ``server/sched.go`` (batch by context, one GPU where the model fits on it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vrameter.engines import Answer, Ask
from vrameter.engines import llama_cpp as below
from vrameter.model.architecture import Recurrent
from vrameter.settings.llama_cpp import LlamaCppSettings
from vrameter.settings.ollama import OllamaSettings
from vrameter.spec import check
from vrameter.units import GIB, MIB

if TYPE_CHECKING:
    from vrameter.engines.llama_cpp.deployment import Deployment

# memory of all GPUs from which on -> tokens of a context
CONTEXTS = ((47 * GIB, 262_144), (23 * GIB, 32_768), (0, 4_096))
# tokens of all sequences above which -> tokens of a batch, what it is taken to need, share of memory to stay under
BATCHES = ((32_768, 2048, 2 * GIB, 60), (4_096, 1024, 768 * MIB, 75), (0, 512, 0, 100))
TOWER_CONTEXT = 2048
LIMITS = {"n_ctx": "num_ctx", "n_parallel": "OLLAMA_NUM_PARALLEL", "n_gpu_layers": "num_gpu"}


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every GPU and of the host, and what fits at most."""
    asked: OllamaSettings = check(OllamaSettings, ask.request.settings, path="settings.")
    context = context_length(ask, asked)
    parallel = _parallel(ask, asked)
    batch = asked.num_batch or 512
    run = _run(ask, asked, context=context, parallel=parallel, batch=batch)
    if asked.num_batch is None:
        batch = batch_size(run, tokens=context * parallel)
        run = _run(ask, asked, context=context, parallel=parallel, batch=batch)
    settings = {name: getattr(asked, name) for name in asked.__struct_fields__}
    settings |= {
        "num_ctx": context,
        "num_batch": batch,
        "num_gpu": sum(home != run.host for home in run.placement.devices),
    }
    found = below.answer(ask, run, settings, own_names=LIMITS)
    found.limits.update({name: value // parallel for name, value in found.limits.items() if name == "num_ctx"})
    return found


def context_length(ask: Ask, asked: OllamaSettings) -> int:
    """Return the tokens of one sequence: as asked, else by the memory of all GPUs, never more than the model knows."""
    wanted = asked.num_ctx or asked.OLLAMA_CONTEXT_LENGTH
    if not wanted:
        memory = sum(device.capacity_bytes - asked.OLLAMA_GPU_OVERHEAD for device in ask.devices)
        wanted = next(tokens for least, tokens in CONTEXTS if memory >= least or not least)
    if asked.mmproj:
        wanted = max(wanted, TOWER_CONTEXT)
    known = ask.architecture.main.max_positions
    return min(wanted, known) if known else wanted


def batch_size(run: Deployment, *, tokens: int) -> int:
    """Return the tokens of a batch: more for longer contexts, where there is room for it. [tokens].

    Parameters
    ----------
    tokens
        Tokens of all sequences. [tokens]
    """
    available = sum(device.capacity_bytes for device in run.devices)
    need = sum(run.buffers.model) + sum(each.num_bytes for device in run.buffers.caches for each in device)
    for above, batch, surcharge, percent in BATCHES:
        if tokens <= above:
            continue
        limit = min(80, percent) * available // 100
        if not available or not surcharge or (need <= limit and need + surcharge <= 80 * available // 100):
            return batch
    return BATCHES[-1][1]


def _parallel(ask: Ask, asked: OllamaSettings) -> int:
    """Return the sequences at once: one for encoders and for models with recurrent layers."""
    layers = {id(layer): layer for layer in ask.architecture.main.layers}.values()
    recurrent = any(isinstance(part, Recurrent) for layer in layers for part in layer.parts)
    return 1 if recurrent or ask.architecture.decoder is None else asked.OLLAMA_NUM_PARALLEL


def _run(ask: Ask, asked: OllamaSettings, *, context: int, parallel: int, batch: int) -> Deployment:
    def with_split(mode: str, main_gpu: int) -> Deployment:
        settings = LlamaCppSettings(
            n_ctx=context * parallel, n_parallel=parallel, n_batch=batch, n_ubatch=batch, n_gpu_layers=asked.num_gpu,
            flash_attn=asked.OLLAMA_FLASH_ATTENTION, cache_type_k=asked.OLLAMA_KV_CACHE_TYPE,
            cache_type_v=asked.OLLAMA_KV_CACHE_TYPE, no_mmap=not asked.use_mmap, embeddings=asked.embeddings,
            mmproj=asked.mmproj, split_mode=mode, main_gpu=main_gpu,  # type: ignore[arg-type]
        )  # fmt: skip
        return below.deployment(ask, settings, reserved=asked.OLLAMA_GPU_OVERHEAD)

    if asked.main_gpu is not None:
        return with_split("none", asked.main_gpu)
    if ask.num_devices > 1 and ask.devices and not asked.OLLAMA_SCHED_SPREAD:
        roomiest = max(range(ask.num_devices), key=lambda place: ask.devices[place].capacity_bytes)
        alone = with_split("none", roomiest)
        if alone.headroom() >= 0:
            return alone
    return with_split("layer", 0)


__all__ = ["batch_size", "context_length", "estimate"]
