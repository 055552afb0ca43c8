"""How every tensor of a model is stored, and what a model or a share of it takes so.

Tensors are found by component, layer and name, and their bytes follow from the shapes at hand, so that a plan made for
a whole model counts what one device holds of it.

References
----------
.. [1] transformers 5.23, ``quantizers``: bitsandbytes, hqq, torchao and quanto quantise matrix by matrix on loading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, cast

from vrameter.ledger import Item, item
from vrameter.memory.weight_sums import Line, WeightBytes, weights_bytes
from vrameter.model.architecture import Architecture, Component, Layer, Tensor
from vrameter.model.dtypes import dtype as dtype_named
from vrameter.model.formats import Format, plain
from vrameter.model.orientation import Key, component_key, oriented
from vrameter.model.tensor_table import TensorTable

if TYPE_CHECKING:
    from vrameter.memory.stored_weights import StoredWeights
    from vrameter.model.configured import Configured
    from vrameter.model.gguf_mixture import Piece
    from vrameter.model.schemes import Scheme

# Sums kept for the next question about the same share. They hold it, so that its id stays its own.
REMEMBERED = 256
# Made from the 16-bit matrix while it loads, unless the checkpoint holds it so already.
_MADE_ON_LOADING = ("bnb", "hqq", "torchao", "quanto", "eetq")


Stored = tuple[tuple[Format, tuple[int, ...]], ...]
"""The tensors that hold one of ours: usually one, of the same shape."""
Groups = list[tuple[list[tuple[Tensor, Stored]], int]]
"""Groups of tensors with how often each occurs just so."""


@dataclass(frozen=True)
class WeightPlan:
    """How every tensor of a model is stored.

    Parameters
    ----------
    dtype
        Name of the number format of what is not quantised.
    quantization
        Name of the quantisation, None for none.
    scheme
        What decides: a named scheme, the model's own configuration, or None.
    mixture
        The tensors of a GGUF file, where the quantisation is a mixture.
    from_config
        Whether the model's own configuration decides, so that the checkpoint is quantised already.
    table
        What the files hold, where that decides.
    files
        How the files hold the tensors, where they were read and decide.
    """

    architecture: Architecture
    dtype: str
    quantization: str | None = None
    scheme: Scheme | Configured | None = None
    mixture: dict[Key, tuple[Piece, ...]] | None = None
    from_config: bool = False
    warnings: tuple[str, ...] = ()
    table: TensorTable | None = None
    files: StoredWeights | None = None
    _known: dict[Key, Format | None] = field(default_factory=dict, compare=False, repr=False)
    _sums: dict[int, tuple[Architecture, WeightBytes]] = field(default_factory=dict, compare=False, repr=False)
    _parts: dict[int, tuple[Component, Groups]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def compute_dtype(self) -> str:
        """Name of the number format that layers compute in and caches have: at least 16 bits."""
        if self.dtype == "tf32":
            return "fp32"
        return self.dtype if dtype_named(self.dtype).bits >= 16 else "bf16"

    @cached_property
    def compute_bytes(self) -> int:
        """What one element of it takes. [bytes]."""
        return dtype_named(self.compute_dtype).bits // 8

    @cached_property
    def _plain(self) -> Format:
        return plain(self.dtype)

    @cached_property
    def _main(self) -> str:
        return component_key(self.architecture.main)

    @cached_property
    def _has_experts(self) -> bool:
        return any(
            tensor.role == "experts"
            for component in self.architecture.loaded
            for tensor, _ in component.counted_tensors()
        )

    @cached_property
    def by_layer(self) -> bool:
        """Whether equal layers may be stored differently."""
        return self.mixture is not None or self.files is not None or self._stated is not None

    @cached_property
    def _stated(self) -> Configured | None:
        """What the model's own configuration says of each tensor, where it decides."""
        return cast("Configured | None", self.scheme) if self.from_config else None

    # -- one tensor ---------------------------------------------------------------------------------

    def stored(self, component: Component, layer: int | None, tensor: Tensor) -> Stored:
        """Return the format and shape of what holds a tensor; `layer` counts from the first of `component`.

        The component may be a share: its tensors smaller, its layers fewer.
        """
        if layer is not None:
            layer += component.first_layer
        if self.mixture is not None:
            return self._in_mixture(component, layer, tensor)
        if self.files is not None:
            key = (component_key(component), layer, tensor.name)
            held = self.files.stored(key, tensor, lambda: self._format(component, layer, tensor))
            if held is not None:
                return ((held, tensor.shape if held.plain or not held.scale_bits else (tensor.size,)),)
        if tensor.buffer:
            return ((_buffer_format(tensor, self._plain), tensor.shape),)
        form = self._format(component, layer, tensor)
        shape = oriented(tensor, component.hidden_size)
        if form is None or not form.fits(shape):
            return ((self._plain, tensor.shape),)
        return ((form, shape),)

    def _format(self, component: Component, layer: int | None, tensor: Tensor) -> Format | None:
        if self.scheme is None:
            return None
        key = (component_key(component), layer if self.by_layer else None, tensor.name)
        if key in self._known:
            return self._known[key]
        if self._stated is not None:
            form = self._stated.format_of(component, layer, tensor, is_main=key[0] == self._main)
        else:
            scheme = cast("Scheme", self.scheme)
            form = scheme.format_of(component, tensor, is_main=key[0] == self._main, has_experts=self._has_experts)
        self._known[key] = form
        return form

    def _in_mixture(self, component: Component, layer: int | None, tensor: Tensor) -> Stored:
        from vrameter.model.gguf_types import gguf_format

        assert self.mixture is not None
        whole = self.mixture.get((component_key(component), layer, tensor.name))
        if whole is None:
            return ((gguf_format("f32"), tensor.shape),)
        if len(whole) == 1:
            same = whole[0].shape == tensor.shape or self.table is not None
            return ((gguf_format(whole[0].type), tensor.shape if same else oriented(tensor, component.hidden_size)),)
        size = sum(prod(piece.shape) for piece in whole)
        if size == tensor.size:
            return tuple((gguf_format(piece.type), piece.shape) for piece in whole)
        return tuple(
            (gguf_format(piece.type), (*piece.shape[:-2], piece.shape[-2] * tensor.size // size, piece.shape[-1]))
            for piece in whole
        )

    def packing_head(self) -> WeightPlan:
        """Return the plan of a loader that quantises the output matrix like every other; the same where none is."""
        if self.scheme is None or self.from_config:
            return self
        scheme = cast("Scheme", self.scheme)
        return replace(self, scheme=replace(scheme, head=scheme.linear), _known={}, _sums={}, _parts={})

    # -- sums ---------------------------------------------------------------------------------------

    def of(self, share: Architecture | None = None) -> WeightBytes:
        """Return what the model, or a share of it, takes."""
        held = share or self.architecture
        if id(held) not in self._sums:
            while len(self._sums) >= REMEMBERED:
                del self._sums[next(iter(self._sums))]
            self._sums[id(held)] = (held, self._sum(held))
        return self._sums[id(held)][1]

    def _sum(self, share: Architecture) -> WeightBytes:
        lines: list[Line] = []
        for component in share.loaded:
            sums: dict[str, list[int]] = {}
            for tensors, times in self._groups(component):
                for tensor, stored in tensors:
                    _add(sums.setdefault(tensor.role, [0] * 5), tensor, stored, times)
            lines += [Line(component.name, role, *numbers) for role, numbers in sums.items()]
        return WeightBytes(tuple(lines))

    def _groups(self, component: Component) -> Groups:
        """Return how the tensors of a component, or of a share of it, are stored."""
        if id(component) not in self._parts:
            while len(self._parts) >= REMEMBERED:
                del self._parts[next(iter(self._parts))]
            self._parts[id(component)] = (component, list(self._grouped(component)))
        return self._parts[id(component)][1]

    def _grouped(self, component: Component) -> Iterator[tuple[list[tuple[Tensor, Stored]], int]]:
        yield [(tensor, self.stored(component, None, tensor)) for tensor in component.tensors], 1
        if not self.by_layer:
            for layer, places in component.layer_groups:
                yield [(tensor, self.stored(component, places[0], tensor)) for tensor in layer.all_tensors], len(places)
            return
        alike: dict[tuple[int, tuple[Stored, ...]], tuple[Layer, int]] = {}
        for index, layer in enumerate(component.layers):
            key = id(layer), tuple(self.stored(component, index, tensor) for tensor in layer.all_tensors)
            alike[key] = (layer, alike[key][1] + 1 if key in alike else 1)
        for (_, stored), (layer, times) in alike.items():
            yield list(zip(layer.all_tensors, stored, strict=True)), times

    def piece_bytes(self, component: Component, layer: int | None) -> int:
        """Return what one layer takes, or, where `layer` is None, a component's tensors outside its layers. [bytes]."""
        tensors = component.tensors if layer is None else component.layers[layer].all_tensors
        return sum(
            form.bytes_of(shape).total for tensor in tensors for form, shape in self.stored(component, layer, tensor)
        )

    def load_transient(self, share: Architecture | None = None) -> int:
        """Return the largest matrix that stands beside its quantised copy while weights load. [bytes].

        0 where nothing is quantised on loading: unquantised models, and checkpoints that are quantised already.
        """
        name = self.quantization or ""
        if self.from_config or self.mixture is not None or not name.startswith(_MADE_ON_LOADING):
            return 0
        sizes = (
            self._plain.bytes_of(tensor.shape).total
            for component in (share or self.architecture).loaded
            for tensors, _ in self._groups(component)
            for tensor, stored in tensors
            if any(not form.plain for form, _ in stored)
        )
        return max(sizes, default=0)

    @cached_property
    def formats(self) -> tuple[Format, ...]:
        """The distinct formats in use, the first the one that takes most."""
        sums: dict[Format, int] = {}
        for component in self.architecture.loaded:
            for tensors, times in self._groups(component):
                for _, stored in tensors:
                    for form, shape in stored:
                        sums[form] = sums.get(form, 0) + times * form.bytes_of(shape).total
        return tuple(sorted(sums, key=lambda form: -sums[form]))

    def item(self, share: Architecture, phases: tuple[str, ...]) -> Item:
        """Return the line of the ledger that holds a share's weights."""
        parts = self.of(share)
        named = [f"{form.name}: {form.formula}" for form in self.formats if not form.plain]
        return item(
            "weights", weights_bytes, phases=phases,
            basis="modelled" if self._is_modelled else "exact",
            source=self._source, note="; ".join(named[:4]),
            quantized=parts.quantized, scales=parts.scales, unquantized=parts.unquantized, buffers=parts.buffers,
        )  # fmt: skip

    @property
    def _is_modelled(self) -> bool:
        return self.files is None and self._stated is not None and self._stated.approximate

    @cached_property
    def _source(self) -> str:
        if self.table is not None or self.files is not None:
            return "tensors as the headers of the weight files list them"
        if self.mixture is not None:
            return "shapes of the model; llama.cpp, src/llama-quant.cpp at 007dbbf"
        if self.scheme is None:
            return "shapes of the model"
        return (
            "shapes of the model and its quantization_config"
            if self.from_config
            else "shapes of the model; sizes of the format"
        )


def _add(numbers: list[int], tensor: Tensor, stored: Stored, times: int) -> None:
    for form, shape in stored:
        values, scales = form.bytes_of(shape)
        if tensor.buffer:
            numbers[4] += (values + scales) * times
            continue
        numbers[0] += prod(shape) * times
        numbers[3 if form.plain else 1] += values * times
        numbers[2] += scales * times


def _buffer_format(tensor: Tensor, own: Format) -> Format:
    """Return how a buffer is loaded: counters and positions as int64, balancing biases in fp32, others as the model."""
    if tensor.name.endswith(("num_batches_tracked", "position_ids", "position_indices")):
        return plain("int64")
    return plain("fp32") if tensor.role == "router" else own


__all__ = ["REMEMBERED", "Stored", "WeightPlan"]
