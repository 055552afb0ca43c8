"""Which kernels vLLM takes on a device, so far as they change what memory holds.

References
----------
.. [1] vLLM 0.19, ``model_executor/layers/fused_moe/oracle/mxfp4.py`` (backends by device, padding of experts).
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.devices import Device
from vrameter.engines.constants import constants
from vrameter.engines.loaded import Kernels
from vrameter.engines.vllm.profile import MULTIPROCESSORS
from vrameter.engines.vllm.resolved import Resolved
from vrameter.memory.runtime import blas_workspace
from vrameter.model.architecture import Architecture, remembered
from vrameter.units import GIB

LARGE_DEVICE = 70 * GIB
LARGE_WORKSPACE, SMALL_WORKSPACE = 33_554_432, 8_519_680
# Backend of MXFP4 experts -> multiples of the experts' width and the model's, and whether scales are padded too.
MXFP4 = {"triton": ((64, 256), False), "marlin": ((128, 256), True), "flashinfer": ((256, 256), True)}


def kernels_of(device: Device | None, made: Resolved) -> Kernels:
    """Return what the kernels on a device make of weights."""
    backend = made.settings.mxfp4_backend
    if backend == "auto":
        major = float(device.compute_capability or 0) if device is not None and device.vendor == "nvidia" else 9.0
        backend = (
            "flashinfer"
            if 10 <= major < 12
            else "triton"
            if 9 <= major < 10 and made.rules.triton_experts
            else "marlin"
        )
    multiples, scales = MXFP4[backend]
    return Kernels(
        mxfp4=multiples,
        mxfp4_scales=scales,
        latent=made.latent,
        absorbed=made.rules.absorbed_latent,
        sectioned_positions=made.rules.axis_positions,
        interleaved_positions=1 if made.rules.own_positions else made.rules.axis_positions,
    )


def multiprocessors(device: Device | None) -> int:
    """Return the multiprocessors of a device; those of a large one where they are not known."""
    if device is None:
        return MULTIPROCESSORS
    known = constants().multiprocessors
    names = sorted(known, key=len, reverse=True)
    found = next((name for name in names if device.id == name or device.id.startswith(f"{name}-")), None)
    return known[found] if found else MULTIPROCESSORS


def workspace(device: Device | None) -> int:
    """Return the matrix library's workspace; a device known by its capacity alone counts as old where it is small. [bytes]."""
    if device is not None and not device.vendor:
        return LARGE_WORKSPACE if device.capacity_bytes >= LARGE_DEVICE else SMALL_WORKSPACE
    return blas_workspace(device)


@remembered
def without_towers(architecture: Architecture) -> Architecture:
    """Return a model without its encoders of images and sound."""
    kept = tuple(
        component for component in architecture.components if component.kind not in ("vision", "audio", "projector")
    )
    return replace(architecture, components=kept)


__all__ = ["kernels_of", "multiprocessors", "without_towers", "workspace"]
