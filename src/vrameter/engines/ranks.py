"""What one rank of a serving engine holds: its slice of every matrix, its layers, its experts.

vLLM, SGLang and their kin split a model alike: tensor ranks split matrices by heads and widths (`vrameter.parallel`),
pipeline stages take runs of layers, and experts are split over all ranks that serve one copy of the layers, by
number or by width. Tables of the vocabulary are padded before they are split.

References
----------
.. [1] vLLM 0.19, ``distributed/utils.py`` (``get_pp_indices``), ``model_executor/layers/vocab_parallel_embedding.py``,
       ``model_executor/layers/fused_moe/config.py`` (``FusedMoEParallelConfig.make``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import (
    Architecture,
    Attention,
    Component,
    FeedForward,
    LatentAttention,
    Layer,
    Part,
    Tensor,
    remembered,
)
from vrameter.parallel import VOCABULARY, split_component, split_tensor, tensor_share
from vrameter.units import ceil_div, ceil_to

if TYPE_CHECKING:
    from vrameter.devices import Device
    from vrameter.engines import Ask

VOCABULARY_MULTIPLE = 64
# What engines take as arguments of their own and a request says elsewhere.
ELSEWHERE = {
    "tensor_parallel_size": "parallelism.tensor", "pipeline_parallel_size": "parallelism.pipeline",
    "data_parallel_size": "parallelism.data", "tp_size": "parallelism.tensor", "pp_size": "parallelism.pipeline",
    "dp_size": "parallelism.data", "ep_size": "parallelism.expert", "expert_parallel_size": "parallelism.expert",
    "num_shard": "parallelism.tensor", "dtype": "dtype", "quantization": "quantization", "quantize": "quantization",
}  # fmt: skip
SEEN = ("vision", "audio")
UNLINKED = ("pcie", "pci-e", "consumer", "desktop", "workstation", "laptop")


@dataclass(frozen=True, slots=True)
class Degrees:
    """How many ranks split what.

    Parameters
    ----------
    experts
        Ranks that split the experts of a layer.
    whole_experts
        Whether each of these holds whole experts instead of a slice of all.
    split_towers
        Whether tensor ranks split encoders of images and sound too.
    """

    tensor: int = 1
    pipeline: int = 1
    experts: int = 1
    whole_experts: bool = False
    split_towers: bool = True


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank of a stage: its share of the model, and the decoder's layers from `first` to before `last`."""

    share: Architecture
    stage: int
    first: int
    last: int
    is_last: bool


def stage_layers(num_layers: int, stages: int) -> list[int]:
    """Return how many layers each pipeline stage takes: what is left over goes to the last but one, and before.

    >>> stage_layers(62, 4)
    [15, 16, 16, 15]
    """
    counts = [num_layers // stages] * stages
    for place in range(2, num_layers % stages + 2):
        counts[-place] += 1
    return counts


@remembered
def ranks(architecture: Architecture, degrees: Degrees) -> tuple[Rank, ...]:
    """Return one rank of every pipeline stage.

    Raises
    ------
    RequestError
        Where the heads do not divide, or there are more stages than layers.
    """
    whole = _padded(architecture)
    share = tensor_share(whole, degrees.tensor)
    if degrees.split_towers and degrees.tensor > 1:
        share = _with_towers(whole, share, degrees.tensor)
    if degrees.experts > 1:
        share = _with_experts(whole, share, degrees)
    decoder = share.main
    count = len(decoder.layers)
    if degrees.pipeline > max(1, count):
        raise RequestError(
            tr(
                "parallelism.pipeline: %(value)s stages are more than the %(layers)s layers.",
                value=degrees.pipeline, layers=count,
            ),
            field="parallelism.pipeline",
            hint=tr("Use %(most)s or less.", most=count),
        )  # fmt: skip
    if degrees.pipeline == 1:
        return (Rank(share, 0, 0, count, True),)
    found, first = [], 0
    for stage, layers in enumerate(stage_layers(count, degrees.pipeline)):
        last = first + layers
        is_last = stage == degrees.pipeline - 1
        found.append(
            Rank(_stage(share, first, last, is_first=stage == 0, is_last=is_last), stage, first, last, is_last)
        )
        first = last
    return tuple(found)


def check_places(settings: Mapping[str, Any]) -> None:
    """Refuse settings that stand elsewhere in a request, and say where."""
    for name in settings:
        if name in ELSEWHERE:
            raise RequestError(
                tr("settings.%(name)s: is not a setting of the engine here.", name=name),
                field=f"settings.{name}",
                hint=tr("Give it as %(field)s.", field=ELSEWHERE[name]),
            )


def check_heads(architecture: Architecture, tensor: int) -> None:
    for layer, _ in architecture.main.layer_groups:
        for part in layer.parts:
            if isinstance(part, (Attention, LatentAttention)) and part.num_heads % tensor:
                legal = [size for size in range(1, part.num_heads + 1) if part.num_heads % size == 0]
                near = max((size for size in legal if size <= tensor), default=1)
                raise RequestError(
                    tr(
                        "parallelism.tensor: total number of attention heads (%(heads)s) must be divisible by tensor "
                        "parallel size (%(value)s).",
                        heads=part.num_heads, value=tensor,
                    ),
                    field="parallelism.tensor",
                    hint=tr("Use %(near)s; legal are: %(names)s.", near=near, names=", ".join(map(str, legal[:12]))),
                )  # fmt: skip


def tensor_degree(ask: Ask, warnings: list[str]) -> int:
    """Return the ranks that split every matrix: as asked, or all devices that no other degree accounts for.

    Raises
    ------
    RequestError
        Where the degrees do not make up the number of devices.
    """
    given = ask.request.parallelism
    product = given.num_devices
    if given.tensor == 1 and ask.num_devices > product and ask.num_devices % product == 0:
        tensor = ask.num_devices // product
        warnings.append(tr("%(count)s devices: parallelism.tensor %(count)s is assumed.", count=tensor))
        return tensor
    if ask.num_devices != product:
        raise RequestError(
            tr(
                "parallelism: %(degrees)s devices where num_devices says %(count)s.",
                degrees=product, count=ask.num_devices,
            ),
            field="parallelism",
            hint=tr("Give num_devices as tensor x pipeline x data."),
        )  # fmt: skip
    return given.tensor


def linked(device: Device | None) -> bool:
    """Say whether devices of a kind have a link of their own, such as NVLink, so far as the kind tells."""
    return device is None or device.form_factor.lower() not in UNLINKED


def _padded(architecture: Architecture) -> Architecture:
    """Return the model with its vocabulary padded to whole multiples, as engines keep it."""
    components = tuple(
        replace(component, tensors=tuple(_padded_tensor(tensor) for tensor in component.tensors))
        if any(tensor.slot in VOCABULARY for tensor in component.tensors)
        else component
        for component in architecture.components
    )
    return replace(architecture, components=components)


def _padded_tensor(tensor: Tensor) -> Tensor:
    if tensor.slot not in VOCABULARY or not tensor.shape:
        return tensor
    return tensor._replace(shape=(ceil_to(tensor.shape[0], VOCABULARY_MULTIPLE), *tensor.shape[1:]))


def _with_towers(whole: Architecture, share: Architecture, degree: int) -> Architecture:
    """Return a share whose encoders of images and sound are split as well, where their heads divide."""
    components = tuple(
        split_component(own, degree) if own.kind in SEEN and _divides(own, degree) else held
        for own, held in zip(whole.components, share.components, strict=True)
    )
    return replace(share, components=components)


def _divides(component: Component, degree: int) -> bool:
    heads = [
        part.num_heads for layer, _ in component.layer_groups for part in layer.parts if isinstance(part, Attention)
    ]
    return bool(heads) and all(number % degree == 0 for number in heads)


def _with_experts(whole: Architecture, share: Architecture, degrees: Degrees) -> Architecture:
    """Return a share whose experts are split over as many ranks as `degrees` says."""
    made: dict[tuple[int, int], Layer] = {}

    def changed(own: Layer, held: Layer) -> Layer:
        key = id(own), id(held)
        if key not in made:
            parts = tuple(
                _expert_part(first, second, degrees)
                if isinstance(first, FeedForward) and isinstance(second, FeedForward) and first.num_experts
                else second
                for first, second in zip(own.parts, held.parts, strict=True)
            )
            made[key] = replace(held, parts=parts)
        return made[key]

    components = tuple(
        replace(
            held, layers=tuple(changed(first, second) for first, second in zip(own.layers, held.layers, strict=True))
        )
        for own, held in zip(whole.components, share.components, strict=True)
    )
    return replace(share, components=components)


def _expert_part(own: FeedForward, held: FeedForward, degrees: Degrees) -> Part:
    if degrees.whole_experts and degrees.experts > own.num_experts:
        raise RequestError(
            tr(
                "parallelism.expert: %(value)s ranks are more than the %(experts)s experts.",
                value=degrees.experts, experts=own.num_experts,
            ),
            field="parallelism.expert",
            hint=tr("Use %(most)s or less.", most=own.num_experts),
        )  # fmt: skip
    tensors = tuple(
        _expert_tensor(first, own, degrees) if first.role == "experts" else second
        for first, second in zip(own.tensors, held.tensors, strict=True)
    )
    width = own.intermediate_size if degrees.whole_experts else ceil_div(own.intermediate_size, degrees.experts)
    return replace(held, tensors=tensors, intermediate_size=width)


def _expert_tensor(tensor: Tensor, part: FeedForward, degrees: Degrees) -> Tensor:
    if degrees.whole_experts:
        return tensor._replace(shape=(ceil_div(tensor.shape[0], degrees.experts), *tensor.shape[1:]))
    return split_tensor(tensor, part, degrees.experts)


def _stage(share: Architecture, first: int, last: int, *, is_first: bool, is_last: bool) -> Architecture:
    """Return what a stage holds: the first has embeddings and towers, the last the final norm and the head."""
    decoder = share.main
    components = []
    for component in share.components:
        if component is not decoder:
            wanted = is_last if component.kind in ("head", "mtp") else is_first
            if wanted:
                components.append(component)
            continue
        tables = is_first or (is_last and bool(share.tied))
        tensors = tuple(tensor for tensor in decoder.tensors if (tables if tensor.role == "embedding" else is_last))
        components.append(
            replace(
                decoder,
                layers=decoder.layers[first:last],
                tensors=tensors,
                first_layer=decoder.first_layer + first,
            )
        )
    return replace(share, components=tuple(components))


__all__ = [
    "VOCABULARY_MULTIPLE",
    "Degrees",
    "Rank",
    "check_heads",
    "check_places",
    "linked",
    "ranks",
    "stage_layers",
    "tensor_degree",
]
