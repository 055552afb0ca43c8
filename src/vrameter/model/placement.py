"""Which tensor of the files is which of the architecture, and what the files decide.

The files are the truth about bytes; the architecture says what each tensor is for. `place` brings the two together:
packed tensors count as the parameter that they hold, experts stored one by one as the stack that they are loaded into,
and names are compared in common words (`vrameter.model.module_names`). Where names differ and a layer's sizes agree,
sizes decide. What the files hold besides is sorted into what loaders skip (duplicates of tied matrices, multi-token
prediction, rotary tables) and what counts although the config does not describe it. What the config describes and the
files lack is left out. Either is said in a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import NamedTuple

from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Component, Layer, Part, Tensor, joined
from vrameter.model.from_tensors import components_of, kind_of, role_of, tensor_of
from vrameter.model.module_names import common, spellings
from vrameter.model.orientation import Key, component_key
from vrameter.model.packing import Parameter, packing_of, parameters
from vrameter.model.tensor_table import TensorTable

_EXPERT = re.compile(r"\.(?:experts\.\d+|switch_mlp)\.")
_STACKED = re.compile(r"\.experts\.(?!\d)")
_LAYER = re.compile(r"\A(.*?)\.(\d{1,6})\.(.+)\Z")
_NOT_LOADED = re.compile(
    r"(?:rotary\w*|rope)\.\w*(?:inv_freq|cos_cached|sin_cached)\Z|\.attn\.(?:bias|masked_bias)\Z|\.attention\.(?:bias|masked_bias)\Z"
    r"|position_ids\Z|inv_freq\Z"
)
_PREDICTS = re.compile(r"(?:\A|\.)(?:mtp|mtp_layers|nextn)\b|\.(?:eh_proj|enorm|hnorm|shared_head)\b|\.mtp_block\b")
# Words that releases of a library put between others and take away again.
_WRAPPERS = frozenset({"model", "vision_model", "text_model", "audio_model", "language_model", "encoder", "module"})


class Held(NamedTuple):
    """How the files hold one tensor of the architecture. Sizes in bytes.

    Parameters
    ----------
    shape
        Of the whole tensor.
    dtype
        The type of what holds its values, as the file spells it.
    method
        How it is packed; empty where it is not.
    """

    shape: tuple[int, ...]
    values: int
    scales: int
    dtype: str
    method: str

    @property
    def num_bytes(self) -> int:
        return self.values + self.scales


class Placed(NamedTuple):
    """Parameters of the files, and where they belong together. `loaded` is False for what loaders skip."""

    parameters: tuple[Parameter, ...]
    component: str
    role: str
    layer: int | None
    loaded: bool


@dataclass(frozen=True)
class Placement:
    """A model as its files have it.

    Parameters
    ----------
    architecture
        With the shapes of the files; the very object that was given where they agree.
    held
        By component, layer and name.
    dtype
        The number format of most unpacked values, as the file spells it.
    method
        How most packed values are packed; empty where none are.
    """

    architecture: Architecture
    held: Mapping[Key, Held]
    placed: tuple[Placed, ...]
    dtype: str
    method: str
    warnings: tuple[str, ...] = ()


class _Slot(NamedTuple):
    """A tensor of the architecture and where it stands."""

    component: Component
    layer: int | None
    tensor: Tensor

    @property
    def key(self) -> Key:
        return component_key(self.component), self.layer, self.tensor.name


_PLACEMENTS: dict[tuple[int, int], tuple[TensorTable, Architecture, Placement]] = {}
REMEMBERED = 16


def place(architecture: Architecture, table: TensorTable) -> Placement:
    """Return where each tensor of the files belongs. Remembered for the next question about the same model."""
    key = (id(architecture), id(table))
    if key not in _PLACEMENTS:
        while len(_PLACEMENTS) >= REMEMBERED:
            del _PLACEMENTS[next(iter(_PLACEMENTS))]
        placement = _Matching(architecture, table).placement()
        _PLACEMENTS[key] = (table, architecture, placement)
        # The model as its files have it is found again under its own name.
        _PLACEMENTS[id(placement.architecture), id(table)] = (table, placement.architecture, placement)
    return _PLACEMENTS[key][2]


@dataclass
class _Matching:
    """The work of `place`, step by step."""

    architecture: Architecture
    table: TensorTable
    slots: dict[str, _Slot] = field(default_factory=dict)
    found: dict[Key, list[Parameter]] = field(default_factory=dict)
    slot_of: dict[Key, _Slot] = field(default_factory=dict)
    skipped: list[Parameter] = field(default_factory=list)
    extra: list[Parameter] = field(default_factory=list)

    def placement(self) -> Placement:
        self._list_slots()
        left = self._match(parameters(self.table.tensors, packing_of(self.architecture.quantization_config)))
        left = self._match_by_size(self._match_in_fewer_words(left))
        self._sort_out(left)
        return self._conclude()

    # -- names --------------------------------------------------------------------------------------

    def _list_slots(self) -> None:
        for component in self.architecture.components:
            for slot in _slots(component):
                self.slot_of[slot.key] = slot
                name = (
                    joined(component.prefix, slot.tensor.name)
                    if slot.layer is None
                    else f"{component.layers_prefix}.{slot.layer}.{slot.tensor.name}"
                )
                for spelling in spellings(name):
                    self.slots.setdefault(spelling, slot)

    def _match(self, stored: Iterable[Parameter]) -> list[Parameter]:
        """Put each parameter where its name says, and return those whose names say nothing."""
        left: list[Parameter] = []
        prefixes = self._shortcuts()
        for parameter in stored:
            slot = self._named(parameter.name)
            if slot is None:
                others = (self._named(f"{prefix}.{parameter.name}") for prefix in prefixes)
                slot = next((found for found in others if found), None)
            if slot is None:
                left.append(parameter)
            else:
                self.found.setdefault(slot.key, []).append(parameter)
        return left

    def _match_in_fewer_words(self, left: list[Parameter]) -> list[Parameter]:
        """Put parameters whose names have one word more than ours where nothing else was put, and return the rest."""
        taken = set(self.found)
        rest: list[Parameter] = []
        for parameter in left:
            slots = (self._named(name) for name in _fewer_words(parameter.name))
            slot = next((slot for slot in slots if slot is not None and slot.key not in taken), None)
            if slot is None:
                rest.append(parameter)
            else:
                self.found.setdefault(slot.key, []).append(parameter)
        return rest

    def _named(self, name: str) -> _Slot | None:
        collapsed = _EXPERT.sub(".experts.0.", name)
        return self.slots.get(common(collapsed)) or (
            self.slots.get(common(_STACKED.sub(".experts.0.", collapsed))) if ".experts." in collapsed else None
        )

    def _shortcuts(self) -> tuple[str, ...]:
        """Return the first words of our names, which a checkpoint of the bare model leaves out."""
        words = {
            (component.prefix or component.layers_prefix).partition(".")[0]
            for component in self.architecture.components
        }
        return tuple(sorted(word for word in words if word))

    # -- sizes --------------------------------------------------------------------------------------

    def _match_by_size(self, left: list[Parameter]) -> list[Parameter]:
        """Put parameters of a layer into the tensors that it lacks, where both have the same size in sum."""
        lists = {
            _list_name(component.layers_prefix): component
            for component in reversed(self.architecture.components)
            if component.layers
        }
        groups: dict[tuple[str, int | None], list[Parameter]] = {}
        for parameter in left:
            where = _layer_of(parameter.name)
            groups.setdefault(where[:2] if where and where[0] in lists else ("", None), []).append(parameter)
        rest = groups.pop(("", None), [])
        for (prefix, number), group in groups.items():
            component = lists[prefix]
            index = number - component.first_layer if number is not None else -1
            layer = component.layers[index] if 0 <= index < len(component.layers) else None
            lacking = [
                _Slot(component, number, tensor)
                for tensor in (layer.all_tensors if layer else ())
                if (component_key(component), number, tensor.name) not in self.found
            ]
            if lacking and sum(slot.tensor.size for slot in lacking) == sum(each.num_params for each in group):
                self._spread(group, lacking)
            else:
                rest += group
        return rest

    def _spread(self, group: list[Parameter], lacking: list[_Slot]) -> None:
        """Give each tensor its share of what a layer holds under other names."""
        whole = sum(slot.tensor.size for slot in lacking)
        values, scales = sum(each.values for each in group), sum(each.scales for each in group)
        widest = max(group, key=lambda each: each.values)
        given = [0, 0]
        reached = 0
        for slot in lacking:
            reached += slot.tensor.size
            upto = values * reached // whole, scales * reached // whole
            self.found[slot.key] = [
                Parameter(slot.tensor.name, slot.tensor.shape, upto[0] - given[0], upto[1] - given[1], widest.dtype,
                          widest.method)
            ]  # fmt: skip
            given = list(upto)

    # -- the rest -----------------------------------------------------------------------------------

    def _sort_out(self, left: list[Parameter]) -> None:
        """Tell what loaders skip from what counts although nothing describes it."""
        tied = {common(name) for name in self.architecture.tied}
        known = {common(tensor.name) for tensor in self.architecture.stored_extra}
        embeddings = {
            self.slot_of[key].tensor.size for key in self.found if self.slot_of[key].tensor.slot == "token"
        } if self.architecture.tied else set()  # fmt: skip
        main = self.architecture.main if self.architecture.components else None
        for parameter in left:
            name = common(parameter.name)
            where = _layer_of(parameter.name)
            beyond = bool(main and main.layers and where and where[0] in ("layers", "h")) and (
                where is not None and main is not None and where[1] >= main.first_layer + len(main.layers)
            )
            duplicate = role_of(name) in ("embedding", "head") and parameter.num_params in embeddings
            if (
                name in tied
                or name in known
                or duplicate
                or _NOT_LOADED.search(parameter.name)
                or (_PREDICTS.search(parameter.name) and main is not None)
                or (beyond and any(component.kind == "mtp" for component in self.architecture.components))
            ):
                self.skipped.append(parameter)
            else:
                self.extra.append(parameter)

    # -- the result ---------------------------------------------------------------------------------

    def _conclude(self) -> Placement:
        held: dict[Key, Held] = {}
        placed: list[Placed] = []
        reshaped: list[tuple[Tensor, tuple[int, ...]]] = []
        for key, group in self.found.items():
            slot = self.slot_of[key]
            values = scales = size = 0
            widest = group[0]
            for each in group:
                values += each.values
                scales += each.scales
                size += prod(each.shape)
                if each.values > widest.values:
                    widest = each
            shape = _shape(slot.tensor, group, size)
            if shape != slot.tensor.shape:
                reshaped.append((slot.tensor, shape))
            held[key] = Held(shape, values, scales, widest.dtype, widest.method)
            component = slot.component
            placed.append(Placed(tuple(group), component.name, slot.tensor.role, slot.layer, component.loaded))
        lacking = [slot for key, slot in self.slot_of.items() if key not in held and slot.component.loaded]
        components = [self._as_held(component, held) for component in self.architecture.components]
        components = self._with_extra(components, held, placed)
        same = all(new is old for new, old in zip(components, self.architecture.components, strict=False)) and len(
            components
        ) == len(self.architecture.components)
        kept = tuple(component for component in components if component.tensors or component.layers)
        architecture = self.architecture if same else replace(self.architecture, components=kept)
        placed += [Placed((each,), kind_of(each.name), role_of(each.name), None, False) for each in self.skipped]
        floats, methods = _sums(held.values())
        return Placement(
            architecture, held, tuple(placed), dtype=_largest(floats), method=_largest(methods),
            warnings=tuple(self._warnings(reshaped, lacking)),
        )  # fmt: skip

    def _as_held(self, component: Component, held: Mapping[Key, Held]) -> Component:
        """Return a component with the shapes of the files and without what they lack."""
        name = component_key(component)

        def change(tensors: tuple[Tensor, ...], layer: int | None) -> tuple[Tensor, ...]:
            new = tuple(
                tensor if found.shape == tensor.shape else tensor._replace(shape=found.shape)
                for tensor in tensors
                if (found := held.get((name, layer, tensor.name))) is not None
            )
            return tensors if new == tensors else new

        def part(old: Part, layer: int) -> Part:
            tensors = change(old.tensors, layer)
            return old if tensors is old.tensors else replace(old, tensors=tensors)

        made: dict[tuple[int, tuple[tuple[Tensor, ...], ...]], Layer] = {}
        layers = []
        for index, old in enumerate(component.layers, component.first_layer):
            parts = tuple(part(each, index) for each in old.parts)
            own = change(old.tensors, index)
            if own is old.tensors and all(new is each for new, each in zip(parts, old.parts, strict=True)):
                layers.append(old)
                continue
            key = id(old), (own, *(each.tensors for each in parts))
            layers.append(made.setdefault(key, Layer(parts, own)))
        tensors = change(component.tensors, None)
        if tensors is component.tensors and all(new is old for new, old in zip(layers, component.layers, strict=True)):
            return component
        return replace(component, tensors=tensors, layers=tuple(layers))

    def _with_extra(self, components: list[Component], held: dict[Key, Held], placed: list[Placed]) -> list[Component]:
        """Return the components with what the files hold besides: in the layer that its name says, else apart."""
        apart: list[Parameter] = []
        by_layer: dict[tuple[int, int], list[tuple[str, Parameter]]] = {}
        lists = {
            _list_name(component.layers_prefix): number
            for number, component in reversed(list(enumerate(components)))
            if component.layers
        }
        for parameter in self.extra:
            where = _layer_of(parameter.name) if kind_of(parameter.name) == "other" else None
            number = lists.get(where[0]) if where else None
            index = where[1] - components[number].first_layer if where and number is not None else -1
            if where and number is not None and 0 <= index < len(components[number].layers):
                by_layer.setdefault((number, index), []).append((where[2], parameter))
            else:
                apart.append(parameter)
        made: dict[tuple[int, tuple[Tensor, ...]], Layer] = {}
        for (number, index), group in by_layer.items():
            component = components[number]
            layer = component.layers[index]
            tensors = tuple(tensor_of(parameter, name) for name, parameter in group)
            for tensor, (_, parameter) in zip(tensors, group, strict=True):
                _hold(held, placed, component, component.first_layer + index, tensor, parameter)
            key = id(layer), tensors
            if key not in made:
                made[key] = Layer(layer.parts, (*layer.tensors, *tensors))
            layers = (*component.layers[:index], made[key], *component.layers[index + 1 :])
            components[number] = replace(component, layers=layers)
        named = {parameter.name: parameter for parameter in apart}
        for component in components_of(apart, name="other" if self.architecture.components else "model"):
            components.append(component)
            for slot in _slots(component):
                name = (
                    slot.tensor.name
                    if slot.layer is None
                    else f"{component.layers_prefix}.{slot.layer}.{slot.tensor.name}"
                )
                _hold(held, placed, component, slot.layer, slot.tensor, named[name])
        return components

    def _warnings(self, reshaped: list[tuple[Tensor, tuple[int, ...]]], lacking: list[_Slot]) -> Iterator[str]:
        if not self.architecture.model_type:
            return
        if reshaped:
            tensor, shape = reshaped[0]
            yield tr(
                "The files and config.json disagree on %(count)s tensors, such as %(name)s: %(file)s in the file, %(config)s by the "
                "config. The files decide.",
                count=len(reshaped), name=tensor.name, file=list(shape), config=list(tensor.shape),
            )  # fmt: skip
        if lacking:
            yield tr(
                "config.json describes %(count)s tensors (%(params)s parameters) that the files lack, such as %(name)s: they are "
                "not counted.",
                count=len(lacking), params=f"{sum(slot.tensor.size for slot in lacking):,}", name=lacking[0].tensor.name,
            )  # fmt: skip
        unknown = [each for each in self.extra if kind_of(each.name) == "other"]
        if unknown:
            yield tr(
                "The files hold %(count)s tensors (%(bytes)s bytes) that config.json does not describe, such as %(name)s: they are "
                "counted.",
                count=len(unknown), bytes=f"{sum(each.num_bytes for each in unknown):,}", name=unknown[0].name,
            )  # fmt: skip


def _fewer_words(name: str) -> Iterator[str]:
    """Yield a name without one of the words that say nothing, and without its first.

    >>> list(_fewer_words("vision_tower.vision_model.post_layernorm.bias"))
    ['vision_tower.post_layernorm.bias', 'vision_model.post_layernorm.bias']
    """
    words = name.split(".")
    for place, word in enumerate(words):
        if word in _WRAPPERS and place:
            yield ".".join((*words[:place], *words[place + 1 :]))
    yield ".".join(words[1:])


def _list_name(prefix: str) -> str:
    """Return what a list of layers is called in common words."""
    return common(f"{prefix}.0.x").removesuffix(".0.x")


def _layer_of(name: str) -> tuple[str, int, str] | None:
    """Return the list of layers that a name stands in, in common words, its number there, and the rest of the name.

    >>> _layer_of("language_model.model.layers.3.mlp.up_proj.weight"), _layer_of("model.norm.weight")
    (('layers', 3, 'mlp.up_proj.weight'), None)
    """
    match = _LAYER.match(name)
    return (_list_name(match[1]), int(match[2]), match[3]) if match else None


def _slots(component: Component) -> Iterator[_Slot]:
    for tensor in component.tensors:
        yield _Slot(component, None, tensor)
    for number, layer in enumerate(component.layers, component.first_layer):
        for tensor in layer.all_tensors:
            yield _Slot(component, number, tensor)


def _hold(
    held: dict[Key, Held], placed: list[Placed], component: Component, layer: int | None, tensor: Tensor, parameter: Parameter
) -> None:  # fmt: skip
    held[component_key(component), layer, tensor.name] = Held(
        tensor.shape, parameter.values, parameter.scales, parameter.dtype, parameter.method
    )
    placed.append(Placed((parameter,), component.name, tensor.role, layer, component.loaded))


def _shape(tensor: Tensor, group: list[Parameter], size: int) -> tuple[int, ...]:
    """Return a tensor's shape as the files have it. Packed matrices keep ours: their layout may not tell it."""
    if size == tensor.size or any(each.method for each in group):
        return tensor.shape
    if len(group) == 1 and len(group[0].shape) == len(tensor.shape):
        return group[0].shape
    inner = prod(tensor.shape[1:])
    return (size // inner, *tensor.shape[1:]) if inner and size % inner == 0 else (size,)


def _sums(held: Iterable[Held]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the bytes of each plain number format of floats, and of each way of packing."""
    floats: dict[str, int] = {}
    methods: dict[str, int] = {}
    for each in held:
        if each.method:
            methods[each.method] = methods.get(each.method, 0) + each.values
        elif each.dtype.startswith(("f", "bf")):
            floats[each.dtype] = floats.get(each.dtype, 0) + each.values
    return floats, methods


def _largest(sums: Mapping[str, int]) -> str:
    return max(sums, key=lambda name: sums[name]) if sums else ""


__all__ = ["Held", "Placed", "Placement", "place"]
