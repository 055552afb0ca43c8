"""The pieces of a step that see: towers of images and videos, and what brings patches to the decoder's width.

They run before the decoder and, where they are trained, last in the backward pass. How many patches a sample has must be
asked (``image_size``, ``num_frames``, ``video``): without it a tower counts by its weights alone.

References
----------
.. [1] transformers 5.23, ``modeling_qwen2_5_vl.py`` and its relatives.
.. [2] QwenLM/Qwen2.5-VL, ``qwen-vl-utils/src/qwen_vl_utils/vision_process.py``: ``fetch_video``.
.. [3] modelscope/ms-swift, ``vit_gradient_checkpointing``: follows ``gradient_checkpointing`` unless it is set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isqrt
from typing import TYPE_CHECKING, Any

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Component, Layer, Tensor
from vrameter.settings.training import TrainingSettings
from vrameter.training.graph import Graph, Value
from vrameter.training.programs import towers
from vrameter.training.programs.scene import Scene
from vrameter.training.simulate import Cost, cost
from vrameter.training.step import Piece
from vrameter.units import ceil_div

if TYPE_CHECKING:
    from vrameter.training.pieces import Pieces

# Makes a cost once for a key that names what is held by its id.
Remembered = Callable[[tuple[object, ...], object, Callable[[], Cost]], Cost]
# Towers that turn heads though they learn positions as well.
ROTATING = ("qwen3_vl", "qwen3_5", "qwen3_omni", "glm4v", "glm46v")
# Bounds of a video processor, by the names that the environment gives them.
AREA, FRAMES = "VIDEO_MAX_PIXELS", "FPS_MAX_FRAMES"
# A frame keeps at least 1.05 times the area of 128 tokens, whatever the upper bound.
LEAST_TOKENS, MARGIN = 128, 105


def tower_pieces(pieces: Pieces, remembered: Remembered) -> list[Piece]:
    """Return the pieces of a model's towers for what each sample shows; none where that is not asked."""
    settings = pieces.setup.settings
    if not pieces.holding.first or pieces.setup.megatron is not None:
        return []
    found: list[Piece] = []
    for component in pieces.holding.share.loaded:
        seen = _patches(component, settings) if component.kind == "vision" else None
        if seen is not None:
            found += _tower(pieces, component, *seen, remembered)
    return found


def _patches(component: Component, settings: TrainingSettings) -> tuple[int, int] | None:
    """Return how many grids a sample has, and the positions of one; None where nothing says so. [grids], [positions]."""
    image = component.image
    if image is None:
        return None
    size, frames = settings.image_size, settings.num_frames
    if settings.video:
        area, count = settings.video.get(AREA), settings.video.get(FRAMES)
        least = LEAST_TOKENS * image.patch_size[0] * image.patch_size[1] * image.merge**2 * MARGIN // 100
        size = size or (isqrt(max(least, _whole(area, AREA))) if area is not None else None)
        frames = frames or (_whole(count, FRAMES) if count is not None else None)
    if size is None:
        return None
    height, width = _edges(size)
    return ceil_div(frames or 1, image.temporal_patch), image.patches_of(height, width)


def _edges(size: int | list[int]) -> tuple[int, int]:
    """Return height and width. [pixels]."""
    edges = [size] if isinstance(size, int) else size
    if len(edges) not in (1, 2) or min(edges) < 1:
        raise RequestError(
            tr("settings.image_size: '%(value)s' is no height and width.", value=size),
            field="settings.image_size",
            hint=tr("Give %(expected)s.", expected="448, or [448, 672]"),
        )
    return edges[0], edges[-1]


def _whole(value: Any, name: str) -> int:
    if isinstance(value, int) and value > 0:
        return value
    raise RequestError(
        tr("settings.video.%(name)s: '%(value)s' is not a whole number above 0.", name=name, value=value),
        field=f"settings.video.{name}",
        hint=tr("Give %(expected)s.", expected='{"VIDEO_MAX_PIXELS": 50176, "FPS_MAX_FRAMES": 12}'),
    )


def _tower(pieces: Pieces, component: Component, grids: int, positions: int, remembered: Remembered) -> list[Piece]:
    setup, settings = pieces.setup, pieces.setup.settings
    element, width = setup.recipe.numbers.residual, component.hidden_size
    seqs = settings.micro_batch * pieces.sequences * grids
    rows = seqs * positions
    places = any(tensor.slot == "position" for tensor in component.tensors)
    rotates = not places or setup.architecture.model_type.startswith(ROTATING)
    traits = towers.traits_of_tower(component, rotates=rotates)
    make = pieces.scene(component)

    def scene(graph: Graph) -> Scene:
        return replace(make(graph), seqs=seqs, length=positions, keys=0, traits=traits, ranks=1)

    learns = component.kind not in setup.frozen and (
        any(pieces.holding.trained(component, tensor) for tensor in component.tensors)
        or any(
            pieces.holding.use(component, tensor).adapter
            for group, _ in component.layer_groups
            for tensor in group.all_tensors
        )
    )
    again = (settings.vision_recompute or ("full" if settings.recompute == "full" else "none")) == "full"

    about = (component.name, rows, positions, learns, pieces.accumulates, pieces.kernels, traits, pieces.signature)

    def run(program: Callable[[Scene, Value], Value], held: object, number: int) -> Cost:
        def make() -> Cost:
            made = cost(
                program,
                scene,
                width=width,
                element=element,
                rows=rows,
                accumulates=pieces.accumulates,
                input_grad=learns,
            )
            return made if learns else _unrecorded(made)

        return remembered(("tower", id(held), number, *about), held, make)

    given = rows * width * element
    found = [_embedding(component, given)]
    for layer in component.layers:
        made = run(_block(layer), layer, 0)
        found.append(
            Piece("layer", made, given, recomputed=learns and again, kept_input=given if learns else 0,
                  gathered=pieces.gathered(layer.num_params), gradients=made.gradients)
        )  # fmt: skip
    for number, tensors in enumerate(_bridges(pieces, component)):
        made = run(_bridge(tensors), component, number)
        found.append(Piece("projector", made, given, gradients=made.gradients))
    return found


def _block(layer: Layer) -> Callable[[Scene, Value], Value]:
    return lambda scene, x: towers.layer(scene, layer, x)


def _bridge(tensors: Sequence[Tensor]) -> Callable[[Scene, Value], Value]:
    return lambda scene, x: towers.bridge(scene, tensors, x)


def _embedding(component: Component, size: int) -> Piece:
    """Return the piece that turns pixels into patches."""
    return Piece("embedding", Cost(0, 0, 0, 0, size, size, size, 0, size), 0)


def _unrecorded(made: Cost) -> Cost:
    """Return the cost of a frozen piece whose input asks for no gradient: nothing is kept, and it never runs backwards."""
    return replace(made, saved=0, per_token=0, per_pair=0, fixed=0, forward=made.lean_forward, backward=0, gradients=0)


def _bridges(pieces: Pieces, component: Component) -> list[tuple[Tensor, ...]]:
    """Return the tensors of each bridge from the tower to the decoder: its own mergers, or the projector's."""
    groups: dict[str, list[Tensor]] = {}
    for tensor in component.tensors:
        parts = tensor.name.split(".")
        if "merger" in tensor.name:
            groups.setdefault(".".join(parts[:2]) if parts[0].endswith("list") else parts[0], []).append(tensor)
    if groups:
        return [tuple(group) for group in groups.values()]
    others = [each for each in pieces.holding.share.loaded if each.kind == "projector"]
    return [tuple(other.tensors) for other in others[:1]]


__all__ = ["tower_pieces"]
