"""What a process takes beside its tensors: the driver's context, libraries' workspaces, the allocator's slack.

The context is paid once per process and device and depends on driver, libraries and card: an interval by class of
device, marked assumed. The allocator's slack is what it holds beyond live tensors.

References
----------
.. [1] PyTorch maintainers on lazily loaded contexts (300 to 400 MB): pytorch issues 107667, 109888.
.. [2] PyTorch 2.13, ``CUDABlas``: workspace of 8,519,680 bytes, 33,554,432 from compute capability 9.0 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vrameter.ledger import Item, item
from vrameter.units import MIB

if TYPE_CHECKING:
    from vrameter.devices import Device

# Where no device is named: from a lazily loaded context to one with every library touched. [bytes]
ANY_DEVICE = (300 * MIB, 500 * MIB, 900 * MIB)
# Slack of the caching allocator in inference, in thousandths of what is not weights. [CALIBRATION: assumed 0..10 %]
SLACK = (0, 30, 100)


def context_bytes(*, context: int) -> int:
    """Return the memory of the process's device context.

    Formula::

        context
    """
    return context


def workspace_bytes(*, blas_workspace: int) -> int:
    """Return the workspace of the matrix library, one handle and stream.

    Formula::

        blas_workspace
    """
    return blas_workspace


def slack_bytes(*, moving_bytes: int, thousandths: int) -> int:
    """Return what the caching allocator holds beyond live tensors.

    Formula::

        moving_bytes * thousandths // 1000

    Parameters
    ----------
    moving_bytes
        Bytes of the largest phase that come and go: caches, activations, logits. Weights are placed once. [bytes]
    """
    return moving_bytes * thousandths // 1000


def blas_workspace(device: Device | None) -> int:
    """Return the default workspace of the matrix library on a device. [bytes]."""
    if device is None:
        return 33_554_432
    if device.vendor == "nvidia":
        capability = float(device.compute_capability or 0)
        return 33_554_432 if capability >= 9 else 8_519_680
    return 33_554_432 if device.vendor == "amd" else 0


def items(device: Device | None, *, phases: tuple[str, ...], first: str, alive: Sequence[Item]) -> list[Item]:
    """Return context, workspace and slack beside the items that are `alive`."""
    low, typical, high = ANY_DEVICE if device is None else device.runtime_overhead
    found: list[Item] = []
    space = blas_workspace(device)
    if space:
        found.append(
            item(
                "workspace", workspace_bytes, phases=phases[1:], basis="modelled",
                source="PyTorch 2.13 CUDABlas default workspace", blas_workspace=space,
            )
        )  # fmt: skip
    moving = max(
        sum(each.bytes for each in alive if phase in each.phases and each.term != "weights") for phase in phases[1:]
    )
    found.append(
        item(
            "fragmentation", slack_bytes, phases=phases[1:], basis="assumed", held="allocator",
            low=slack_bytes(moving_bytes=moving, thousandths=SLACK[0]), high=slack_bytes(moving_bytes=moving, thousandths=SLACK[2]),
            source="assumed: 0 to 10 % of what is not weights; blocks of caches that have grown cannot all be reused",
            moving_bytes=moving, thousandths=SLACK[1],
        )
    )  # fmt: skip
    if high:
        found.append(
            item(
                "runtime", context_bytes, phases=phases, basis="assumed", held="driver", low=low, high=high,
                source="assumed by class of device: context and libraries of one process", context=typical,
            )
        )  # fmt: skip
    return found
