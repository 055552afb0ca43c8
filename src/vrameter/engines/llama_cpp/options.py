"""Settings with every default filled in, and the names of buffers.

References
----------
.. [1] llama.cpp at 0c1e57098, ``tools/server/server.cpp`` and ``tools/server/server-context.cpp``: slots and outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from vrameter.devices import Device
from vrameter.engines.llama_cpp.buffers import Context, Planned
from vrameter.engines.llama_cpp.graph import kernels
from vrameter.engines.llama_cpp.graph import tensors as op
from vrameter.engines.llama_cpp.placement import EXPERT_TENSORS, Placement, expert_overrides, layer_devices
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Attention, LatentAttention
from vrameter.model.gguf_types import BLOCKS
from vrameter.settings.llama_cpp import LlamaCppSettings

AUTO_PARALLEL = 4
FALLBACK_CONTEXT = 4096
BACKENDS = {"amd": "ROCm", "apple": "MTL", "intel": "SYCL"}


@dataclass(frozen=True, slots=True)
class Backend:
    """The program's names of GPUs and of host memory.

    >>> Backend("CUDA").gpu(1)
    'CUDA1'
    """

    name: str

    def gpu(self, number: int) -> str:
        """Return the name of a GPU's buffers."""
        return f"{self.name}{number}"

    @property
    def pinned(self) -> str:
        """Name of buffers in pinned host memory."""
        return f"{self.name}_Host"


def backend_of(device: Device | None) -> Backend:
    """Return the backend that a device is used through; CUDA where none is named."""
    return Backend(BACKENDS.get(device.vendor if device else "", "CUDA"))


def context_of(planned: Planned, settings: LlamaCppSettings) -> Context:
    """Return the context that settings ask for, as the server fills in what they leave open."""
    auto = settings.n_parallel is None or settings.n_parallel < 0
    parallel = AUTO_PARALLEL if auto else max(1, settings.n_parallel or 0)
    unified = settings.kv_unified if settings.kv_unified is not None else auto
    embeddings = settings.embeddings if settings.embeddings is not None else planned.encoder
    batch = min(settings.n_batch, settings.n_ubatch) if embeddings else settings.n_batch
    outputs = settings.n_outputs_max
    if outputs is None:
        outputs = (
            batch if embeddings else min(batch, parallel * (1 + (settings.draft_max if settings.model_draft else 0)))
        )
    flash = settings.flash_attn
    if flash is None:
        flash = BLOCKS[settings.cache_type_v][0] > 1 or runs_flash_attention(planned, settings)
    return Context(
        n_ctx=settings.n_ctx or planned.architecture.main.max_positions or FALLBACK_CONTEXT, n_batch=batch,
        n_ubatch=settings.n_ubatch, n_parallel=parallel, n_outputs_max=outputs, kv_unified=unified, flash_attn=flash,
        cache_type_k=settings.cache_type_k, cache_type_v=settings.cache_type_v, swa_full=settings.swa_full,
        no_kv_offload=settings.no_kv_offload, op_offload=settings.op_offload, embeddings=embeddings,
        snapshots=settings.n_rs_seq,
    )  # fmt: skip


def runs_flash_attention(planned: Planned, settings: LlamaCppSettings) -> bool:
    """Say whether GPUs have a kernel for every layer's attention, which is when the program turns it on by itself."""
    cells, rows = 256, 2
    for layer in {id(layer): layer for layer in planned.layers}.values():
        for part in layer.parts:
            if isinstance(part, LatentAttention):
                width, value, heads, shared = part.kv_lora_rank + part.rope_dim, part.kv_lora_rank, part.num_heads, 1
            elif isinstance(part, Attention) and part.scope != "cross":
                width, value, heads, shared = part.head_dim, part.value_dim, part.num_heads, part.num_kv_heads
            else:
                continue
            node = op.new(
                "flash_attn", "f32", (value, heads, rows, 1), op.leaf("f32", width, rows, heads, 1),
                op.leaf(settings.cache_type_k, width, cells, shared, 1),
                op.leaf(settings.cache_type_v, value, cells, shared, 1), op.leaf("f16", cells, rows, 1, 1),
            )  # fmt: skip
            if not kernels.flash_attention_runs(node):
                return False
    return True


def placement_of(
    planned: Planned, settings: LlamaCppSettings, devices: tuple[Device, ...], num_devices: int
) -> Placement:
    """Return where layers and tensors go.

    Raises
    ------
    RequestError
        For shares that are not one per GPU, and for what the program cannot do.
    """
    used = 1 if settings.split_mode == "none" else num_devices
    if settings.split_mode == "row":
        raise RequestError(
            tr("settings.split_mode: row needs split buffers, which llama.cpp's CUDA devices no longer have."),
            field="settings.split_mode",
            hint=tr('Give "split_mode": "layer".'),
        )
    if settings.main_gpu >= num_devices:
        raise RequestError(
            tr(
                "settings.main_gpu: there is no GPU %(value)s among %(count)s.",
                value=settings.main_gpu,
                count=num_devices,
            ),
            field="settings.main_gpu",
            hint=tr("Give a number from 0 to %(most)s.", most=num_devices - 1),
        )
    shares = _shares(settings, devices, used)
    count = len(planned.layers)
    whole = count + planned.file.skipped
    wanted = settings.n_gpu_layers
    on_gpu = whole + 1 if wanted is None or wanted < 0 else wanted
    found = layer_devices(whole, on_gpu, shares)
    return Placement(planned.file, (*found[:count], found[-1]), used, _overrides(settings))


def _shares(settings: LlamaCppSettings, devices: tuple[Device, ...], used: int) -> list[float]:
    given = settings.tensor_split or []
    if (len(given) > used and settings.split_mode != "none") or any(share < 0 for share in given):
        raise RequestError(
            tr(
                "settings.tensor_split: %(given)s shares for %(count)s GPUs, none of which may be below 0.",
                given=len(given),
                count=used,
            ),
            field="settings.tensor_split",
            hint=tr("Give one share per GPU, such as %(shares)s.", shares=[1] * used),
        )
    if any(given) and used > 1:
        return [*given, *([0.0] * (used - len(given)))]
    unequal = len({device.capacity_bytes for device in devices}) > 1
    if unequal and used == len(devices):
        return [float(device.capacity_bytes - device.runtime_overhead[1]) for device in devices]
    return [1.0] * used


def _overrides(settings: LlamaCppSettings) -> tuple[str, ...]:
    patterns = [EXPERT_TENSORS] if settings.cpu_moe else list(expert_overrides(settings.n_cpu_moe))
    for text in settings.override_tensor:
        pattern, sign, buffer = text.rpartition("=")
        if not sign or buffer.upper() not in ("CPU", "CUDA_HOST", "ROCM_HOST"):
            raise RequestError(
                tr("settings.override_tensor: '%(value)s' is not a pattern with =CPU behind it.", value=text),
                field="settings.override_tensor",
                hint=tr('Give for example "ffn_.*_exps=CPU".'),
            )
        patterns.append(_checked(pattern))
    return tuple(patterns)


def _checked(pattern: str) -> str:
    import re

    try:
        re.compile(pattern)
    except re.error as error:
        raise RequestError(
            tr("settings.override_tensor: '%(value)s' is no pattern: %(reason)s.", value=pattern, reason=str(error)),
            field="settings.override_tensor",
            hint=tr('Give for example "ffn_.*_exps=CPU".'),
        ) from None
    return pattern


__all__ = ["Backend", "backend_of", "context_of", "placement_of", "runs_flash_attention"]
