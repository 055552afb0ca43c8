"""What a device is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Basis = Literal["measured", "assumed", "given"]


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator as one process sees it.

    Parameters
    ----------
    id
        Its slug: ``h100-sxm-80gb``.
    nominal_bytes
        What it is sold with, its GB read as GiB; None for a device given by its capacity. [bytes]
    nvidia_smi_bytes, torch_total_bytes
        What ``nvidia-smi`` and ``torch.cuda.mem_get_info`` print as the total, where they were seen. [bytes]
    capacity_bytes
        What the driver lets a process see. [bytes]
    capacity_interval
        The least and the most that it can be. [bytes]
    basis
        ``measured`` where torch's total was seen, ``assumed`` where a rule gives it, ``given`` where the request does.
    capacity_source
        Where the figure or the rule comes from.
    runtime_overhead
        What a process's context and libraries take beside its tensors: low, typical, high; assumed. [bytes]
    bandwidth_gb_s
        Memory bandwidth. [10**9 bytes per second]
    tflops
        Dense arithmetic by data type. [10**12 operations per second]
    """

    id: str
    name: str
    vendor: str
    capacity_bytes: int
    capacity_interval: tuple[int, int]
    basis: Basis
    capacity_source: str
    runtime_overhead: tuple[int, int, int]
    runtime_source: str
    nominal_bytes: int | None = None
    nvidia_smi_bytes: int | None = None
    torch_total_bytes: int | None = None
    architecture: str = ""
    compute_capability: str | None = None
    bandwidth_gb_s: float | None = None
    tflops: dict[str, float] = field(default_factory=dict)
    tflops_source: str = ""
    supports: dict[str, bool] = field(default_factory=dict)
    form_factor: str = ""
    unified_memory: bool = False
    notes: tuple[str, ...] = ()
