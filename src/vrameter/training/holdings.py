"""What one device holds of a model in training: which tensors, trained or frozen, split how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from vrameter.memory.optimizer import Parameter
from vrameter.model.architecture import Architecture, Component, Layer, Tensor
from vrameter.model.formats import Format
from vrameter.training.graph import ITSELF
from vrameter.training.programs.scene import Use
from vrameter.training.setup import TRAINED, Setup
from vrameter.units import ceil_div

# Quantised bases for which peft has a LoRA layer of its own, which leaves inputs uncast under autocast.
UNCAST = ("bnb", "nf4", "fp4", "awq", "aqlm", "eetq", "hqq")
_OUTSIDE = ("token", "position", "head")


@dataclass(frozen=True)
class Holding:
    """One device's share: an architecture after tensor, expert and pipeline parallelism.

    Parameters
    ----------
    first, last
        Whether the device stands at an end of the pipeline.
    """

    setup: Setup
    share: Architecture
    first: bool = True
    last: bool = True

    def trained(self, component: Component, tensor: Tensor) -> bool:
        """Say whether a tensor gets a gradient."""
        setup = self.setup
        if tensor.buffer or component.kind in setup.frozen:
            return False
        if setup.full:
            return setup.settings.finetuning != "freeze" or component.name == TRAINED
        return self.trained_norms and tensor.role == "norm"

    def updated(self, component: Component, tensor: Tensor) -> bool:
        """Say whether an operation sees a trained tensor: the model's own, or the copy that is trained in its place."""
        adapters = self.setup.adapters
        copied = adapters is not None and (component.kind, tensor.name) in adapters.copied
        return copied or self.trained(component, tensor)

    @cached_property
    def trained_norms(self) -> bool:
        """Whether the adapters' method trains norms as well."""
        adapters = self.setup.adapters
        return adapters is not None and adapters.method in ("adapter_v2", "ln_tuning")

    def use(self, component: Component, tensor: Tensor) -> Use:
        """Return how a step uses a tensor."""
        setup = self.setup
        recipe = setup.recipe
        trained = self.updated(component, tensor)
        packed = (not trained or not setup.adapters) and (
            self.format(component, 0 if component.layers and tensor.slot not in _OUTSIDE else None, tensor) is not None
        )
        element = recipe.weight if trained else recipe.frozen
        if packed or (setup.degrees.fsdp and not recipe.numbers.autocast):
            element = recipe.numbers.compute
        adapter = setup.adapters.use(component.kind, tensor) if setup.adapters else None
        if adapter is not None and packed and not (setup.plan.quantization or "").lower().startswith(UNCAST):
            adapter = replace(adapter, casts=True)
        return Use(
            element=element, trained=trained, grad_element=recipe.gradient,
            unpacked=tensor.size * recipe.numbers.compute if packed else 0,
            keeps_input=self._keeps_input(component, tensor) if packed else 0, adapter=adapter,
        )  # fmt: skip

    def _keeps_input(self, component: Component, tensor: Tensor) -> int:
        """Return in which numbers a product with a quantised matrix keeps its input: LLM.int8() keeps the input itself."""
        setup = self.setup
        plan = (setup.plan.quantization or "").lower()
        return ITSELF if plan.startswith("bnb-int8") else setup.stack.packed_keeps_input

    def format(self, component: Component, layer: int | None, tensor: Tensor) -> Format | None:
        """Return the format of a quantised tensor, None where it is stored plainly."""
        plan = self.setup.plan
        if not plan.quantization:
            return None
        if tensor.slot == "head" and self.setup.stack.packs_head and not plan.from_config:
            return next((form for form in plan.formats if not form.plain), None)
        form, _ = plan.stored(component, layer, tensor)[0]
        return None if form.plain else form

    def tensors(self) -> Iterator[tuple[Component, Layer | None, Tensor, int]]:
        """Yield every tensor with its component, its layer and how often it occurs."""
        for component in self.share.loaded:
            for tensor in component.tensors:
                yield component, None, tensor, 1
            for layer, places in component.layer_groups:
                for tensor in layer.all_tensors:
                    yield component, layer, tensor, len(places)

    def divisor(self, tensor: Tensor) -> int:
        """Return among how many devices a tensor's state is split."""
        degrees = self.setup.degrees
        return degrees.expert_shards if tensor.role == "experts" else degrees.shards

    # -- sums ---------------------------------------------------------------------------------------

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The trained tensors as the optimizer sees them."""
        setup = self.setup
        found: list[Parameter] = []
        split = setup.degrees.splits_state
        for component, layer, tensor, times in self.tensors():
            if self.trained(component, tensor):
                found.append(
                    Parameter(
                        tensor.shape, setup.recipe.weight, times, matrix=layer is not None and len(tensor.shape) > 1,
                        embedding=tensor.role == "embedding", share=self.divisor(tensor) if split else 1,
                    )
                )  # fmt: skip
        return tuple(found)

    @cached_property
    def adapter_parameters(self) -> int:
        """Parameters of the adapters on this device."""
        adapters = self.setup.adapters
        if adapters is None:
            return 0
        degrees = self.setup.degrees
        shares = degrees.pipeline * (degrees.tensor if self.setup.stack.program == "megatron" else 1)
        return ceil_div(adapters.num_params, shares)

    @cached_property
    def copied_parameters(self) -> int:
        """Parameters of modules that are trained as full copies."""
        adapters = self.setup.adapters
        return sum(tensor.size * times for tensor, times in adapters.saved_copies) if adapters else 0

    def split(self, size: int, tensor: Tensor | None = None, *, when: bool = True) -> int:
        """Return a device's shard of a size, where it is split."""
        if not when:
            return size
        return ceil_div(size, self.divisor(tensor) if tensor is not None else self.setup.degrees.shards)

    @cached_property
    def weight_bytes(self) -> int:
        """Weights of the model itself on this device, trained and frozen. [bytes].

        Transformer Engine keeps two float8 copies of each matrix, by rows and by columns, beside the 16-bit one.
        """
        setup = self.setup
        recipe, whole = setup.recipe, setup.degrees.splits_weights
        if setup.offloads_weights:
            return 0
        total = 0
        copies = setup.settings.precision == "fp8" and setup.stack.name == "megatron"
        for component, layer, tensor, times in self.tensors():
            total += times * self.split(self._stored(component, layer, tensor, recipe.weight), tensor, when=whole)
            if copies and len(tensor.shape) > 1 and layer is not None:
                total += times * 2 * tensor.size
        return total

    def _stored(self, component: Component, layer: Layer | None, tensor: Tensor, element: int) -> int:
        if self.trained(component, tensor):
            return tensor.size * element
        index = None if layer is None else component.layers.index(layer)
        packed = self.format(component, index, tensor)
        if packed is not None and tensor.slot == "head":
            return packed.bytes_of(tensor.shape).total
        if self.setup.widened and packed is None and not tensor.buffer:
            return tensor.size * 4
        return sum(form.bytes_of(shape).total for form, shape in self.setup.plan.stored(component, index, tensor))

    @cached_property
    def trained_elements(self) -> int:
        """Trained parameters of the model itself on this device, before any sharding."""
        return sum(
            tensor.size * times for component, _, tensor, times in self.tensors() if self.trained(component, tensor)
        )

    def per_device(self, element: int, *, when: bool) -> int:
        """Return what one number of `element` bytes for each trained parameter takes, split or not. [bytes]."""
        if not element:
            return 0
        own = sum(
            times * self.split(tensor.size * element, tensor, when=when)
            for component, _, tensor, times in self.tensors()
            if self.trained(component, tensor)
        )
        return own


__all__ = ["Holding"]
