"""What SGLang makes of a request before it starts: every default filled in, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vrameter.engines import Ask
from vrameter.engines.ranks import Degrees
from vrameter.engines.sglang import pools
from vrameter.engines.vllm.versions import parse_version
from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.memory.cache_formats import FORMATS, CacheFormat
from vrameter.memory.weight_plan import WeightPlan
from vrameter.model.architecture import Architecture, LatentAttention
from vrameter.settings.sglang import SglangSettings
from vrameter.units import MIB

# Names of --kv-cache-dtype that are stored as another format.
CACHE_NAMES = {
    "auto": "auto", "bf16": "bf16", "bfloat16": "bf16", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp8": "fp8", "fp4_e2m1": "nvfp4",
}  # fmt: skip
DEFAULT_CONTEXT = 8192
UNKNOWN_CHUNK, UNKNOWN_BATCH = 4096, 160
GRAPH_STRETCHES = ((16, 256, 8), (272, 511, 16), (512, 1 << 20, 32))


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request with SGLang's defaults filled in.

    Parameters
    ----------
    fraction
        The static share. [thousandths]
    chunk
        Tokens of a prompt read at once. [tokens]
    graphs
        Captured batch sizes.
    windows
        Whether layers with a window have a pool of their own.
    """

    settings: SglangSettings
    degrees: Degrees
    context: int
    requests: int | None
    fraction: int
    chunk: int
    largest_batch: int
    graphs: int
    cache: CacheFormat
    windows: bool

    def shown(self) -> dict[str, Any]:
        """Return the settings with the defaults that matter for memory."""
        known = {name: getattr(self.settings, name) for name in self.settings.__struct_fields__}
        known.pop("max_model_len")
        known.pop("max_num_seqs")
        return known | {
            "mem_fraction_static": self.fraction / 1000,
            "context_length": self.context,
            "chunked_prefill_size": self.chunk,
            "max_running_requests": self.requests,
            "cuda_graph_max_bs": self.largest_batch if self.graphs else 0,
            "kv_cache_dtype": self.cache.name,
        }


def resolve(ask: Ask, settings: SglangSettings, degrees: Degrees, plan: WeightPlan) -> Resolved:
    """Return the request with defaults filled in.

    Raises
    ------
    RequestError, UnknownNameError
        For what SGLang refuses whatever the memory.
    """
    device = ask.device
    memory = (device.nvidia_smi_bytes or device.capacity_bytes) // MIB if device is not None else None
    chunk, batch = pools.defaults(memory, degrees.tensor) if memory else (UNKNOWN_CHUNK, UNKNOWN_BATCH)
    requests = settings.max_running_requests or settings.max_num_seqs
    if settings.chunked_prefill_size is not None:
        chunk = settings.chunked_prefill_size if settings.chunked_prefill_size > 0 else settings.max_prefill_tokens
    if settings.cuda_graph_max_bs is not None:
        batch = settings.cuda_graph_max_bs
    elif requests is not None:
        batch = min(batch, requests)
    limit = ask.architecture.main.max_positions
    context = settings.context_length or settings.max_model_len or limit or DEFAULT_CONTEXT
    if limit and context > limit:
        raise RequestError(
            tr(
                "settings.context_length: %(value)s is beyond the %(limit)s positions that the model's config derives.",
                value=context, limit=limit,
            ),
            field="settings.context_length",
            hint=tr("Use %(limit)s or less.", limit=limit),
        )  # fmt: skip
    return Resolved(
        settings=settings, degrees=degrees, context=context, requests=requests,
        fraction=_fraction(ask, settings, memory, chunk, batch, degrees), chunk=chunk, largest_batch=batch,
        graphs=0 if settings.disable_cuda_graph else _captured(batch), cache=_cache(settings, plan.compute_dtype),
        windows=not settings.disable_hybrid_swa_memory,
    )  # fmt: skip


def _captured(most: int) -> int:
    """Return how many batch sizes are captured up to the largest."""
    small = len([size for size in (1, 2, 4, 8, 12) if size <= most])
    return small + sum(len(range(first, min(last, most) + 1, step)) for first, last, step in GRAPH_STRETCHES)


def _fraction(ask: Ask, settings: SglangSettings, memory: int | None, chunk: int, batch: int, degrees: Degrees) -> int:
    """Return the static share: as asked, or by the device. [thousandths]."""
    asked = settings.mem_fraction_static
    if asked is not None:
        if asked >= 1:
            raise RequestError(
                tr("settings.mem_fraction_static: %(value)s is not below 1.", value=asked),
                field="settings.mem_fraction_static",
                hint=tr("Use a share such as %(value)s.", value=0.85),
            )
        return round(asked * 1000)
    if memory is None:
        return 850
    version = ask.request.engine_version
    if version is not None and parse_version(version) < (0, 5):
        return pools.early_fraction(memory, degrees.tensor)
    graphs = 0
    if not (settings.disable_cuda_graph or settings.disable_piecewise_cuda_graph) and (
        version is None or parse_version(version) >= (0, 5, 10)
    ):
        graphs = pools.prefill_sizes(chunk)
    found = pools.default_fraction(
        memory_mib=memory, chunk=chunk, ranks=degrees.tensor * degrees.pipeline,
        largest_batch=0 if settings.disable_cuda_graph else batch, prefill_graphs=graphs, latent=_latent(ask.architecture),
        data_attention=ask.request.parallelism.data if settings.enable_dp_attention else 0,
    )  # fmt: skip
    tower = ask.architecture.component("vision")
    if tower is not None and tower.layers:
        found = int(found * pools.image_factor(len(tower.layers), tower.hidden_size))
    return found


def _latent(architecture: Architecture) -> bool:
    return any(isinstance(part, LatentAttention) for layer, _ in architecture.main.layer_groups for part in layer.parts)


def _cache(settings: SglangSettings, own_dtype: str) -> CacheFormat:
    name = settings.kv_cache_dtype.strip().lower()
    if name not in CACHE_NAMES:
        raise UnknownNameError(
            tr(
                "settings.kv_cache_dtype: '%(value)s' is not a cache data type of SGLang.",
                value=settings.kv_cache_dtype,
            ),
            name,
            CACHE_NAMES,
            field="settings.kv_cache_dtype",
            otherwise=tr("Use one of: %(names)s.", names=", ".join(CACHE_NAMES)),
        )
    return FORMATS[own_dtype if name == "auto" else CACHE_NAMES[name]]


__all__ = ["CACHE_NAMES", "Resolved", "resolve"]
