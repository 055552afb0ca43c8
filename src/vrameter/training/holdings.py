"""What one device holds of a model in training: which tensors, trained or frozen, split how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from vrameter.memory.optimizer import Parameter
from vrameter.memory.torch_allocator import uncut_bytes
from vrameter.memory.weight_plan import Stored
from vrameter.model.architecture import Architecture, Component, Layer, Tensor
from vrameter.model.formats import Format, plain
from vrameter.training.graph import ITSELF
from vrameter.training.programs.scene import Use
from vrameter.training.setup import TRAINED, Setup
from vrameter.units import ceil_div

# Quantised bases for which peft has a LoRA layer of its own, which leaves inputs uncast under autocast.
UNCAST = ("bnb", "nf4", "fp4", "awq", "aqlm", "eetq", "hqq")
_OUTSIDE = ("token", "position", "head")
# Bytes a number while GPTQ's words are shifted apart: int32, and int8 beside it.
SHIFTS = 5


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
        if setup.samples_layers:
            return component.name == TRAINED or any(each is tensor for each in component.tensors)
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
            unpacked=tensor.size * recipe.numbers.compute * setup.stack.unpacks if packed else 0,
            keeps_input=self._keeps_input(component, tensor) if packed else int(self.multiplies_in_float8(tensor)), adapter=adapter,
            unpacking=tensor.size * SHIFTS if packed and (setup.plan.quantization or "").startswith("gptq") else 0,
        )  # fmt: skip

    def multiplies_in_float8(self, tensor: Tensor) -> bool:
        """Say whether Transformer Engine multiplies by a matrix in float8, and so keeps its input in one byte a number."""
        setup = self.setup
        return (
            setup.settings.precision == "fp8" and setup.stack.program == "megatron" and len(tensor.shape) > 1
            and tensor.role not in ("embedding", "head", "router") and tensor.slot not in _OUTSIDE
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

    @cached_property
    def trained_sizes(self) -> tuple[tuple[int, int, int], ...]:
        """The trained tensors: elements of each, how many are alike, devices among which one can be split."""
        return tuple(
            (tensor.size, times, self.divisor(tensor))
            for component, _, tensor, times in self.tensors()
            if self.trained(component, tensor)
        )

    @cached_property
    def frozen_pieces(self) -> tuple[tuple[int, int, Format, int, int, int], ...]:
        """What is stored of frozen tensors: how many are alike, elements, format, values and scales [bytes], shards."""
        found = []
        for component, layer, tensor, times in self.tensors():
            if self.trained(component, tensor):
                continue
            for form, shape in self._stored(component, layer, tensor):
                found.append((times, prod(shape), form, *form.bytes_of(shape), self.divisor(tensor)))
        return tuple(found)

    @cached_property
    def weight_bytes(self) -> int:
        """All weights of the model itself, trained and frozen, before any sharding. [bytes]."""
        frozen = sum(times * (values + scales) for times, _, _, values, scales, _ in self.frozen_pieces)
        return self.trained_elements * self.setup.recipe.weight + frozen

    @cached_property
    def float8_sizes(self) -> tuple[tuple[int, int, int], ...]:
        """The matrices that Transformer Engine copies to float8, as `trained_sizes`."""
        if self.setup.stack.name != "megatron":
            return ()
        return tuple(
            (tensor.size, times, self.divisor(tensor))
            for _, layer, tensor, times in self.tensors()
            if layer is not None and self.multiplies_in_float8(tensor)
        )

    @cached_property
    def stored_sizes(self) -> tuple[tuple[int, int, int], ...]:
        """The trained tensors that stand in the model's own numbers: not those that stand in float8 alone (``fp8-param-gather``)."""
        args = self.setup.megatron
        if args is None or not args.flag("fp8-param-gather"):
            return self.trained_sizes
        left = list(self.trained_sizes)
        for entry in self.float8_sizes:
            left.remove(entry)
        return tuple(left)

    def _stored(self, component: Component, layer: Layer | None, tensor: Tensor) -> Stored:
        index = None if layer is None else component.layers.index(layer)
        packed = self.format(component, index, tensor)
        if packed is not None and tensor.slot == "head":
            return ((packed, tensor.shape),)
        if self.setup.widened and packed is None and not tensor.buffer:
            return ((plain("fp32"), tensor.shape),)
        return self.setup.plan.stored(component, index, tensor)

    @cached_property
    def uncut(self) -> int:
        """Bytes that the allocator does not cut off blocks of a full training's state, which is made tensor by tensor.

        Weights come first, then a buffer of gradients, masters, and the optimizer's numbers; where a device holds shards,
        they lie in a few large buffers instead.
        """
        setup = self.setup
        recipe, rule, state = setup.recipe, setup.rule, setup.recipe.state_element
        if not setup.full or setup.degrees.splits_state or setup.offloads_weights:
            return 0
        found: list[tuple[int, bool, int]] = []
        for component, layer, tensor, times in self.tensors():
            # Each of Megatron's experts has matrices of its own.
            apart = layer is not None and tensor.role == "experts" and setup.stack.program == "megatron"
            count = layer.experts_in(tensor) if apart and layer is not None else 1
            found.append((tensor.size // count, self.trained(component, tensor), times * count))
        blocks = [size * recipe.weight for size, _, times in found for _ in range(times)]
        sizes = [size for size, trained, times in found if trained for _ in range(times)]
        if recipe.main_gradient:
            blocks.append(sum(sizes) * recipe.main_gradient)
        if not setup.offloads_optimizer:
            blocks += [size * recipe.master for size in sizes]
            if not (rule.bits or rule.paged):
                blocks += [size * state for size in sizes for _ in range(rule.moments)]
        return uncut_bytes(tuple(blocks))

    @cached_property
    def trained_elements(self) -> int:
        """Trained parameters of the model itself on this device, before any sharding."""
        return sum(size * times for size, times, _ in self.trained_sizes)

    @cached_property
    def held_back(self) -> int:
        """Gradients that each device keeps whole until the last micro-batch of a step is reduced. [bytes]."""
        setup = self.setup
        kind = "fsdp2" if setup.degrees.fsdp == "fsdp2" else "fsdp1"
        waits = setup.degrees.fsdp is not None and setup.settings.grad_accumulation > 1
        if (
            not waits
            or kind not in setup.stack.holds_back
            or not setup.full
            or setup.settings.optimizer_in_backward
            or setup.settings.offload_gradients
        ):
            return 0
        return self.trained_elements * setup.recipe.numbers.compute


__all__ = ["Holding"]
