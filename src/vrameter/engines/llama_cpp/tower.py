"""A tower for images beside the model (``--mmproj``): its file in f16, and the compute buffer of its largest image.

References
----------
.. [1] llama.cpp at 0c1e57098, ``tools/mtmd/clip.cpp``: weights on one device, a graph planned for a large image at start.
.. [2] A server's log of Qwen3.6-27B: 887.99 MiB of weights, 248.10 MiB to compute 1472 x 1472 pixels.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Item, item
from vrameter.model.architecture import Attention, Component, FeedForward, Tensor

if TYPE_CHECKING:
    from vrameter.engines import Ask
    from vrameter.engines.llama_cpp.options import Backend
    from vrameter.settings.llama_cpp import LlamaCppSettings

# Most tokens of an image that the program plans for at start: 46 x 46.
WARMUP_TOKENS = 46 * 46
LEAST_TOKENS = 16 * 16
KINDS = frozenset({"vision", "audio", "projector"})


def tower_bytes(*, matrices: int, others: int) -> int:
    """Return the weights of a tower: matrices in f16; norms, biases, tables and the first convolution in fp32. [bytes].

    Formula::

        2 * matrices + 4 * others

    Parameters
    ----------
    matrices, others
        Elements of each.
    """
    return 2 * matrices + 4 * others


def tower_compute_bytes(*, patches: int, patch_values: int, hidden_size: int, forward_values: int) -> int:
    """Return the compute buffer of a tower with flash attention. [bytes].

    Formula::

        4 * patches * (patch_values + 4 + max(6 * hidden_size, forward_values + 2 * hidden_size))

    The image, positions, and the larger of two moments: attention (the residual, queries, keys and values together, rotated
    queries and keys) and the perceptron.

    Parameters
    ----------
    patches
        Patches of the largest image.
    patch_values
        Pixel values of a patch.
    forward_values
        Values inside the perceptron that live at once.

    Examples
    --------
    >>> tower_compute_bytes(patches=8464, patch_values=768, hidden_size=1152, forward_values=4304)
    260149504
    """
    return 4 * patches * (patch_values + 4 + max(6 * hidden_size, forward_values + 2 * hidden_size))


def tower_items(ask: Ask, settings: LlamaCppSettings, backend: Backend) -> list[tuple[Item, int | None]]:
    """Return weights and compute buffer of the model's towers and projectors.

    Raises
    ------
    RequestError
        Where the model has none.
    """
    parts = [part for part in ask.architecture.components if part.kind in KINDS]
    towers = [part for part in parts if part.layers]
    if not parts:
        raise RequestError(
            tr("settings.mmproj: %(model)s has no tower for images or sound.", model=ask.architecture.class_name),
            field="settings.mmproj",
            hint=tr("Leave it out."),
        )
    matrices, others = _elements(parts)
    place = 0 if settings.mmproj_offload else None
    buffer = backend.gpu(0) if settings.mmproj_offload else "CPU"
    found = [
        item(
            "weights", tower_bytes, phases=("inference",), buffer=buffer, note="mmproj", basis="modelled",
            source="shapes of towers and projectors; llama.cpp's converter to f16", matrices=matrices, others=others,
        )
    ]  # fmt: skip
    for tower in towers:
        if tower.image is not None:
            found.append(_compute(tower, buffer))
    return [(each, place) for each in found]


def _elements(parts: list[Component]) -> tuple[int, int]:
    matrices = others = 0
    for part in parts:
        tensors: list[tuple[Tensor, int]] = list(part.counted_tensors())
        for tensor, times in tensors:
            if len(tensor.shape) > 1 and tensor.slot != "position" and tensor.role != "convolution":
                matrices += times * prod(tensor.shape)
            else:
                others += times * prod(tensor.shape)
    return matrices, others


def _compute(tower: Component, buffer: str) -> Item:
    image = tower.image
    assert image is not None
    merged = max(1, image.merge) ** 2
    fixed = all(image.image_size)
    patches = image.max_patches if fixed else min(image.max_patches, WARMUP_TOKENS * merged)
    attention = next((part for part in tower.layers[0].parts if isinstance(part, Attention)), None)
    forward = max(
        (part.intermediate_size for part in tower.layers[0].parts if isinstance(part, FeedForward)), default=0
    )
    gated = any(tensor.slot == "gate" for tensor in tower.layers[0].all_tensors)
    width = attention.num_heads * attention.head_dim if attention is not None else tower.hidden_size
    values = {
        "patches": patches, "patch_values": 3 * prod(image.patch_size), "hidden_size": max(width, tower.hidden_size),
        "forward_values": forward * (3 if gated else 1),
    }  # fmt: skip
    least = values | {"patches": patches if fixed else LEAST_TOKENS * merged}
    size = tower_compute_bytes(**values)
    return item(
        "compute", tower_compute_bytes, phases=("inference",), basis="modelled", buffer=buffer, note="mmproj",
        low=min(size, tower_compute_bytes(**least)), high=size * 6 // 5,
        source="llama.cpp at 0c1e57098, tools/mtmd/clip.cpp: the image that it plans for at start",
        patches=values["patches"], patch_values=values["patch_values"], hidden_size=values["hidden_size"],
        forward_values=values["forward_values"],
    )  # fmt: skip


__all__ = ["tower_bytes", "tower_compute_bytes", "tower_items"]
