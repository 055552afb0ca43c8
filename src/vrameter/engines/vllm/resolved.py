"""What vLLM makes of a request before it starts: every default filled in, and what it refuses.

References
----------
.. [1] vLLM 0.6.6, 0.8.5, 0.19, 0.33, ``engine/arg_utils.py`` (defaults by device and release), ``config/model.py``,
       ``config/scheduler.py``, ``config/cache.py`` (what is refused).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vrameter.devices import Device
from vrameter.engines import Ask
from vrameter.engines.ranks import Degrees
from vrameter.engines.vllm.degrees import degrees_of
from vrameter.engines.vllm.graphs import capture_sizes
from vrameter.engines.vllm.profile import largest_image
from vrameter.engines.vllm.versions import Rules
from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.memory.cache_formats import FORMATS, CacheFormat
from vrameter.memory.weight_plan import WeightPlan
from vrameter.model.architecture import Architecture, Attention, LatentAttention, Recurrent
from vrameter.settings.vllm import VllmSettings
from vrameter.units import GIB

DEFAULT_LENGTH = 2048
MANY = 999
MILLION = 1_000_000
BLOCK = 16
LONG_CONTEXT = 32768
SMALL_STEP, MULTIMODAL_STEP = 2048, 5120

# Names of --kv-cache-dtype that are stored as another format; the rest bear their own.
CACHE_NAMES = {
    "auto": "auto", "float16": "fp16", "bfloat16": "bf16", "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8",
    "fp8_inc": "fp8", "fp8_ds_mla": "fp8_ds_mla", "nvfp4": "nvfp4", "int8_per_token_head": "int8_per_token_head",
    "fp8_per_token_head": "fp8_per_token_head", "int4_per_token_head": "int4_per_token_head",
    "turboquant_k8v4": "turboquant_k8v4", "turboquant_4bit_nc": "turboquant_4bit_nc",
    "turboquant_k3v4_nc": "turboquant_k3v4_nc", "turboquant_3bit_nc": "turboquant_3bit_nc",
    "ultraquant_4bit": "ultraquant_4bit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request with vLLM's defaults filled in.

    Parameters
    ----------
    max_model_len
        Longest sequence; `fitted` where it is to be the longest that fits. [tokens]
    utilization
        Share of the device. [millionths]
    sizes
        Batch sizes captured as CUDA graphs; empty for none. [tokens]
    drafts
        Tokens that a draft proposes for each sequence and step.
    state_blocks
        Blocks of states that one request holds; 0 where they grow with the sequence.
    in_flight
        Tokens of steps that are not finished. [tokens]
    latent
        Whether latent attention caches latent vectors.
    """

    settings: VllmSettings
    rules: Rules
    degrees: Degrees
    data: int
    max_model_len: int
    fitted: bool
    max_num_seqs: int
    max_num_batched_tokens: int
    utilization: int
    block_size: int
    cache: CacheFormat
    sizes: tuple[int, ...]
    drafts: int
    state_mode: str
    in_flight: int
    images: int
    latent: bool = True

    @property
    def state_blocks(self) -> int:
        return {"none": 1, "align": 2}.get(self.state_mode, 0) + (self.drafts if self.state_mode != "all" else 0)

    def at(self, architecture: Architecture, *, num_seqs: int, num_tokens: int) -> Resolved:
        """Return the same request for other steps, with all that follows from them."""
        steps = self.in_flight // self.max_num_batched_tokens
        return replace(
            self, max_num_seqs=num_seqs, max_num_batched_tokens=num_tokens, in_flight=steps * num_tokens,
            sizes=_sizes(self.settings, self.rules, num_seqs, num_tokens, self.drafts),
            images=_images(architecture, self.settings, self.rules, num_seqs, num_tokens, self.max_model_len),
        )  # fmt: skip

    def shown(self) -> dict[str, Any]:
        """Return the settings with the defaults that matter for memory."""
        known = {name: getattr(self.settings, name) for name in self.settings.__struct_fields__}
        return known | {
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "gpu_memory_utilization": self.utilization / MILLION,
            "block_size": self.block_size,
            "kv_cache_dtype": self.cache.name,
            "max_cudagraph_capture_size": max(self.sizes, default=0),
            "mamba_cache_mode": self.state_mode,
        }


def resolve(ask: Ask, settings: VllmSettings, rules: Rules, plan: WeightPlan, warnings: list[str]) -> Resolved:
    """Return the request with defaults filled in.

    Raises
    ------
    RequestError, UnknownNameError
        For what vLLM refuses whatever the memory, with the nearest value that it takes.
    """
    architecture = ask.architecture
    degrees, data = degrees_of(ask, settings, warnings, quantized=plan.quantization is not None)
    length, fitted = _length(architecture, settings)
    seqs, tokens = _step(ask, settings, rules, length)
    drafts = _drafts(settings)
    steps = (degrees.pipeline + (settings.async_scheduling is not False)) if rules.steps_in_flight else 1
    return Resolved(
        settings=settings, rules=rules, degrees=degrees, data=data, max_model_len=length, fitted=fitted, max_num_seqs=seqs,
        max_num_batched_tokens=tokens, utilization=_utilization(settings, rules), block_size=_block(ask, settings, rules),
        cache=_cache(architecture, settings, plan.compute_dtype), sizes=_sizes(settings, rules, seqs, tokens, drafts), drafts=drafts,
        state_mode=_state_mode(architecture, settings, rules), in_flight=steps * tokens,
        images=_images(architecture, settings, rules, seqs, tokens, length), latent=_latent(rules, plan),
    )  # fmt: skip


def _latent(rules: Rules, plan: WeightPlan) -> bool:
    """Say whether latent attention caches latent vectors in this release, with this quantisation."""
    narrow = all(form.plain or form.name.startswith("fp8") for form in plan.formats)
    return rules.latent and (narrow or not rules.latent_fp8)


def _sizes(settings: VllmSettings, rules: Rules, seqs: int, tokens: int, drafts: int) -> tuple[int, ...]:
    """Return the batch sizes that are captured as CUDA graphs."""
    if settings.enforce_eager:
        return ()
    return tuple(
        settings.cudagraph_capture_sizes
        or capture_sizes(
            rules, max_num_seqs=seqs, num_tokens=tokens, drafts=drafts, largest=settings.max_cudagraph_capture_size
        )
    )


def _length(architecture: Architecture, settings: VllmSettings) -> tuple[int, bool]:
    limit = architecture.main.max_positions
    own = limit or DEFAULT_LENGTH
    asked = settings.max_model_len
    if asked is None:
        return own, False
    if asked == -1:
        return own, True
    if asked < 1 or (limit and asked > limit):
        raise RequestError(
            tr(
                "settings.max_model_len: %(value)s is not between 1 and the %(limit)s positions that the model's config "
                "derives.",
                value=asked, limit=own,
            ),
            field="settings.max_model_len",
            hint=tr("Use %(limit)s or less, or -1 for the longest that fits.", limit=own),
        )  # fmt: skip
    return asked, False


def _step(ask: Ask, settings: VllmSettings, rules: Rules, length: int) -> tuple[int, int]:
    """Return sequences and tokens of one step."""
    seqs, tokens = tier(ask.device, rules)
    multimodal = ask.architecture.component("vision") is not None
    if rules.engine == "v0":
        chunked = settings.enable_chunked_prefill
        if chunked is None:
            chunked = length > LONG_CONTEXT and not multimodal
        tokens = SMALL_STEP if chunked else max(length, SMALL_STEP)
        tokens = max(tokens, MULTIMODAL_STEP) if multimodal else tokens
    elif settings.enable_chunked_prefill is False:
        tokens = max(tokens, length)
    given = settings.max_num_seqs
    if settings.max_num_batched_tokens is not None:
        tokens = settings.max_num_batched_tokens
    elif rules.engine == "v1":
        tokens = min(tokens, (given or seqs) * length)
    seqs = given if given is not None else min(seqs, tokens)
    if tokens < seqs:
        raise RequestError(
            tr(
                "settings.max_num_batched_tokens: %(tokens)s must be at least max_num_seqs (%(seqs)s).",
                tokens=tokens, seqs=seqs,
            ),
            field="settings.max_num_batched_tokens",
            hint=tr("Use %(value)s or more.", value=seqs),
        )  # fmt: skip
    if settings.enable_chunked_prefill is False and tokens < length:
        raise RequestError(
            tr(
                "settings.max_num_batched_tokens: %(tokens)s is smaller than max_model_len (%(length)s), and prompts are not "
                "read in pieces.",
                tokens=tokens, length=length,
            ),
            field="settings.max_num_batched_tokens",
            hint=tr("Use %(value)s or more, or enable_chunked_prefill.", value=length),
        )  # fmt: skip
    return seqs, tokens


def tier(device: Device | None, rules: Rules) -> tuple[int, int]:
    """Return the sequences and tokens of one step that a server has on a device by default."""
    size = device.capacity_bytes if device is not None else 0
    small = device is not None and (
        (rules.small_a100 and "a100" in device.id)
        or (len(rules.large_from) > 1 and device.compute_capability == "12.1")
    )
    if len(rules.large_from) > 1 and size >= rules.large_from[1] * GIB:
        return 1024, 16384
    if rules.large_from and size >= rules.large_from[0] * GIB and not small:
        return 1024, 8192
    return 256, 2048


def _utilization(settings: VllmSettings, rules: Rules) -> int:
    value = settings.gpu_memory_utilization
    if value is None:
        return rules.utilization * 1000
    if value > 1:
        raise RequestError(
            tr("settings.gpu_memory_utilization: %(value)s is above 1, the whole device.", value=value),
            field="settings.gpu_memory_utilization",
            hint=tr("Use a share such as %(value)s.", value=rules.utilization / 1000),
        )
    return round(value * MILLION)


def _block(ask: Ask, settings: VllmSettings, rules: Rules) -> int:
    """Return the tokens of a block: a whole number of the attention kernel's own blocks."""
    latent = [
        part
        for layer, _ in ask.architecture.main.layer_groups
        for part in layer.parts
        if isinstance(part, LatentAttention)
    ]
    own = BLOCK
    if latent and rules.engine == "v1" and ask.device is not None and ask.device.vendor == "nvidia":
        major = float(ask.device.compute_capability or 0)
        own = 128 if major >= 10 and major < 12 else 64 if major >= 9 else BLOCK
    asked = settings.block_size
    if asked is None:
        return own
    if asked % own:
        near = max(own, asked // own * own)
        raise RequestError(
            tr(
                "settings.block_size: %(value)s is no multiple of the attention kernel's %(own)s.",
                value=asked, own=own,
            ),
            field="settings.block_size",
            hint=tr("Use %(near)s.", near=near),
        )  # fmt: skip
    return asked


def _cache(architecture: Architecture, settings: VllmSettings, own_dtype: str) -> CacheFormat:
    name = settings.kv_cache_dtype.strip().lower()
    if name not in CACHE_NAMES:
        raise UnknownNameError(
            tr("settings.kv_cache_dtype: '%(value)s' is not a cache data type of vLLM.", value=settings.kv_cache_dtype),
            name,
            CACHE_NAMES,
            field="settings.kv_cache_dtype",
            otherwise=tr("Use one of: %(names)s.", names=", ".join(CACHE_NAMES)),
        )
    latent = any(
        isinstance(part, LatentAttention) for layer, _ in architecture.main.layer_groups for part in layer.parts
    )
    if name == "fp8_ds_mla" and not latent:
        raise RequestError(
            tr("settings.kv_cache_dtype: fp8_ds_mla is for latent attention only."),
            field="settings.kv_cache_dtype",
            hint=tr("Use fp8."),
        )
    return FORMATS[own_dtype if name == "auto" else CACHE_NAMES[name]]


def _drafts(settings: VllmSettings) -> int:
    spec = settings.speculative_config
    if not spec:
        return 0
    count = spec.get("num_speculative_tokens", 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise RequestError(
            tr("settings.speculative_config.num_speculative_tokens: %(value)s is not a number of tokens.", value=count),
            field="settings.speculative_config.num_speculative_tokens",
            hint=tr("Use 1 or more."),
        )
    return count


def _state_mode(architecture: Architecture, settings: VllmSettings, rules: Rules) -> str:
    """Return how the states of recurrent layers are kept."""
    if not any(isinstance(part, Recurrent) for layer, _ in architecture.main.layer_groups for part in layer.parts):
        return "none"
    caching = settings.enable_prefix_caching
    attends = any(
        isinstance(part, (Attention, LatentAttention))
        for layer, _ in architecture.main.layer_groups
        for part in layer.parts
    )
    if caching is None:
        caching = rules.states_cached and attends
    if not caching:
        return "none"
    return settings.mamba_cache_mode if settings.mamba_cache_mode != "none" else "align"


def _images(
    architecture: Architecture, settings: VllmSettings, rules: Rules, seqs: int, tokens: int, length: int
) -> int:
    """Return the images of the profile's batch; the first generation gives every sequence one where they are crossed."""
    tower = architecture.component("vision")
    if tower is None or tower.image is None or settings.skip_mm_profiling or settings.language_model_only:
        return 0
    limit = (settings.limit_mm_per_prompt or {}).get("image", 1 if rules.engine == "v0" else MANY)
    crossed = any(
        isinstance(part, Attention) and part.scope == "cross"
        for layer, _ in architecture.main.layer_groups
        for part in layer.parts
    )
    patches, image_tokens = largest_image(tower)
    most = patches if crossed else image_tokens
    if limit == 0 or most == 0:
        return 0
    if crossed and rules.engine == "v0":
        return seqs * limit
    per_prompt = max(1, min(limit, length // most))
    return max(1, min(max(tokens, most) // most, seqs * per_prompt))


__all__ = ["CACHE_NAMES", "MILLION", "Resolved", "resolve", "tier"]
