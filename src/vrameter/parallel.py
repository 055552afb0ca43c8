"""What one device holds of a model that several share.

A share of an architecture is an architecture: the same components with smaller tensors (tensor parallelism) or
fewer layers (a split by layers), so that every memory term works on it unchanged.

Tensor parallelism splits the outputs of the first matrix of a pair and the inputs of the second [1]_. Norms,
routers and the compressing matrices of latent attention are copied; so are key-value heads where there are more
devices than heads.

References
----------
.. [1] M. Shoeybi et al., "Megatron-LM", 2019, arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import (
    Architecture,
    Attention,
    Component,
    LatentAttention,
    Layer,
    Part,
    Recurrent,
    Tensor,
    Tensors,
    remembered,
)
from vrameter.units import ceil_div

COLUMN = {
    "q",
    "k",
    "v",
    "qkv",
    "gate",
    "up",
    "gate_up",
    "q_b",
    "kv_b",
    "ssm_in",
    "qkvz",
    "ba",
    "z",
    "b",
    "a",
    "sinks",
    "d",
    "ssm_dt",
    "conv",
}
ROW = {"o", "down", "ssm_out", "ssm_x"}
VOCABULARY = {"token", "head"}


def kv_heads_per_device(num_kv_heads: int, tensor_parallel: int) -> int:
    """Return the KV heads that one device holds: past one head they are copied, not split.

    >>> kv_heads_per_device(8, 4), kv_heads_per_device(8, 16)
    (2, 1)
    """
    return max(1, ceil_div(num_kv_heads, tensor_parallel))


def split_tensor(tensor: Tensor, part: Part | None, degree: int) -> Tensor:
    """Return what one of `degree` devices holds of a tensor.

    Matrices are split along outputs or inputs by their slot; a bias follows the outputs of its matrix.
    """
    slot = tensor.slot
    if degree == 1:
        return tensor
    if slot in VOCABULARY:
        return tensor._replace(shape=(ceil_div(tensor.shape[0], degree), *tensor.shape[1:]))
    if slot in COLUMN:
        axis = 0 if slot == "conv" else -1 if len(tensor.shape) == 1 else -2
        rows = tensor.shape[axis]
        if isinstance(part, Attention) and slot in ("k", "v", "qkv"):
            rows = _kv_rows(part, slot, rows, degree)
        elif isinstance(part, Recurrent) and slot in ("ssm_in", "conv"):
            rows = _with_whole_groups(part, rows, degree)
        else:
            rows = ceil_div(rows, degree)
        shape = list(tensor.shape)
        shape[axis] = rows
        return tensor._replace(shape=tuple(shape))
    if slot in ROW and len(tensor.shape) > 1:
        return tensor._replace(shape=(*tensor.shape[:-1], ceil_div(tensor.shape[-1], degree)))
    return tensor


def _kv_rows(part: Attention, slot: str, rows: int, degree: int) -> int:
    """Return the rows of a key, value or fused matrix on one device, whole heads each."""
    kv_rows = part.num_kv_heads * (part.head_dim + part.value_dim)
    held = kv_heads_per_device(part.num_kv_heads, degree)
    if slot == "qkv":
        return ceil_div(rows - kv_rows, degree) + held * (part.head_dim + part.value_dim)
    return held * (rows // part.num_kv_heads)


def _split_part(part: Part, degree: int) -> Part:
    """Return a part with its share of heads, widths and states. The one vector of latent attention stays whole."""
    tensors = tuple(split_tensor(tensor, part, degree) for tensor in part.tensors)
    if isinstance(part, Attention):
        return replace(
            part,
            tensors=tensors,
            num_heads=ceil_div(part.num_heads, degree),
            num_kv_heads=kv_heads_per_device(part.num_kv_heads, degree),
        )
    if isinstance(part, LatentAttention):
        return replace(part, tensors=tensors, num_heads=ceil_div(part.num_heads, degree))
    if isinstance(part, Recurrent):
        return replace(
            part,
            tensors=tensors,
            conv_channels=_with_whole_groups(part, part.conv_channels, degree),
            state_elements=ceil_div(part.state_elements, degree),
            inner_size=ceil_div(part.inner_size, degree),
            num_heads=ceil_div(part.num_heads, degree),
            num_groups=ceil_div(part.num_groups, degree),
        )
    return replace(
        part,
        tensors=tensors,
        intermediate_size=ceil_div(part.intermediate_size, degree),
        shared_size=ceil_div(part.shared_size, degree),
    )


def _with_whole_groups(part: Recurrent, rows: int, degree: int) -> int:
    """Return what one device holds of rows of a mixer. Mamba-2's groups stay whole, copied where they are too few.

    >>> _with_whole_groups(Recurrent((), "mamba2", conv_channels=4096 + 256, inner_size=4096, num_groups=1), 4352, 4)
    1280
    """
    if part.kind != "mamba2":
        return ceil_div(rows, degree)
    groups = part.conv_channels - part.inner_size
    return ceil_div(rows - groups, degree) + ceil_div(part.num_groups, degree) * (groups // part.num_groups)


def _split_layer(layer: Layer, degree: int) -> Layer:
    return Layer(tuple(_split_part(part, degree) for part in layer.parts), layer.tensors)


def _map_layers(component: Component, change: Callable[[Layer], Layer]) -> tuple[Layer, ...]:
    """Return the layers of a component changed one by one, equal layers staying one object."""
    made = {id(layer): change(layer) for layer, _ in component.layer_groups}
    return tuple(made[id(layer)] for layer in component.layers)


@remembered
def tensor_share(architecture: Architecture, degree: int) -> Architecture:
    """Return what each of `degree` devices holds under tensor parallelism. Encoders of images and sound are copied."""
    if degree == 1:
        return architecture
    check_tensor_parallel(architecture, degree)
    components = []
    for component in architecture.components:
        if component.kind in ("vision", "audio", "projector"):
            components.append(component)
            continue
        components.append(split_component(component, degree))
    return replace(architecture, components=tuple(components))


def split_component(component: Component, degree: int) -> Component:
    """Return what each of `degree` devices holds of one component."""
    tensors: Tensors = tuple(split_tensor(tensor, None, degree) for tensor in component.tensors)
    layers = _map_layers(component, lambda layer: _split_layer(layer, degree))
    return replace(component, tensors=tensors, layers=layers)


def check_tensor_parallel(architecture: Architecture, degree: int) -> None:
    """Refuse a degree that does not divide the attention heads, and name those that do."""
    decoder = architecture.main
    for layer, _ in decoder.layer_groups:
        for part in layer.parts:
            if isinstance(part, Attention) and part.num_heads % degree:
                legal = [size for size in range(1, part.num_heads + 1) if part.num_heads % size == 0]
                raise RequestError(
                    tr(
                        "parallelism.tensor: %(value)s does not divide the %(heads)s attention heads.",
                        value=degree, heads=part.num_heads,
                    ),
                    field="parallelism.tensor",
                    hint=tr("Use one of: %(names)s.", names=", ".join(map(str, legal[:12]))),
                )  # fmt: skip


def pieces(architecture: Architecture) -> Iterator[tuple[Component, int | None]]:
    """Yield what a split by layers moves as a whole: each component's own tensors, then each layer, in order of use."""
    order = {"vision": 0, "audio": 0, "projector": 1, "encoder": 2, "decoder": 3, "other": 4, "head": 5}
    for component in sorted(architecture.loaded, key=lambda each: order.get(each.kind, 4)):
        if component.tensors:
            yield component, None
        for index in range(len(component.layers)):
            yield component, index


@remembered
def layer_split(
    architecture: Architecture, num_devices: int, size_of: Callable[[Component, int | None], int]
) -> tuple[Architecture, ...]:
    """Return the shares of devices that take whole layers in turn, as balanced as whole layers allow.

    Parameters
    ----------
    size_of
        Bytes of one piece of `pieces`, by which the split is balanced.
    """
    if num_devices == 1:
        return (architecture,)
    sizes = [(component, index, size_of(component, index)) for component, index in pieces(architecture)]
    bound = smallest_bound([size for _, _, size in sizes], num_devices)
    shares: list[list[tuple[Component, int | None]]] = [[]]
    held = 0
    for component, index, size in sizes:
        if held + size > bound and shares[-1] and len(shares) < num_devices:
            shares.append([])
            held = 0
        held += size
        shares[-1].append((component, index))
    return tuple(_with_pieces(architecture, share) for share in shares)


@remembered
def placed(architecture: Architecture, places: tuple[int, ...]) -> dict[int, Architecture]:
    """Return what each place holds, given where each of `pieces` goes."""
    held: dict[int, list[tuple[Component, int | None]]] = {}
    for piece, place in zip(pieces(architecture), places, strict=True):
        held.setdefault(place, []).append(piece)
    return {place: _with_pieces(architecture, share) for place, share in held.items()}


def smallest_bound(sizes: list[int], parts: int) -> int:
    """Return the least size into which a sequence can be cut in order so that no part is larger.

    >>> smallest_bound([4, 1, 1, 1, 1], 2)
    4
    """
    low, high = max(sizes, default=0), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        needed, held = 1, 0
        for size in sizes:
            if held + size > middle:
                needed += 1
                held = 0
            held += size
        if needed <= parts:
            high = middle
        else:
            low = middle + 1
    return low


def _with_pieces(architecture: Architecture, share: list[tuple[Component, int | None]]) -> Architecture:
    by_component: dict[int, tuple[Component, bool, list[int]]] = {}
    for component, index in share:
        entry = by_component.setdefault(id(component), (component, False, []))
        if index is None:
            by_component[id(component)] = (component, True, entry[2])
        else:
            entry[2].append(index)
    components = tuple(
        replace(
            component,
            tensors=component.tensors if whole else (),
            layers=tuple(component.layers[index] for index in indices),
            first_layer=component.first_layer + (indices[0] if indices else 0),
        )
        for component, whole, indices in by_component.values()
    )
    return replace(architecture, components=components)
