"""One step of an image model: its program run forwards and backwards once, and the worst moments of the phases.

References
----------
.. [1] PyTorch 2.13, ``nn/parallel/distributed.py``: buckets; ``utils/checkpoint.py``: a block run again.
.. [2] timm 1.0.31, ``train.py``; transformers 5.23, ``loss/loss_utils.py``: cross-entropy over the classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vrameter.model.architecture import Component, Tensor, remembered
from vrameter.model.vision.net import Map
from vrameter.training.graph import Value
from vrameter.training.holdings import Holding
from vrameter.training.programs.scene import Use
from vrameter.training.setup import Setup
from vrameter.training.step import Course, Moment, Piece
from vrameter.training.vision.tape import Dialect, Record, Tape

Places = dict[str, tuple[Component, Tensor]]
REMEMBERED = 256
_COURSES: dict[tuple[object, ...], tuple[object, Course]] = {}


@remembered
def places(architecture: Any) -> Places:
    """Return where each parameter of a name stands."""
    found: Places = {}
    for component in architecture.loaded:
        for name, _, tensor in component.named_tensors():
            found[name] = (component, tensor)
    return found


@dataclass(frozen=True)
class Images:
    """What an image model holds in a step, beside what stands between steps."""

    holding: Holding
    all: tuple[Piece, ...] = ()
    ranks: int = 1
    tokens: int = 0
    broadcast: int = 0
    reducing: tuple[int, int, int] = (0, 0, 0)

    @property
    def setup(self) -> Setup:
        """The request."""
        return self.holding.setup

    @cached_property
    def accumulates(self) -> bool:
        """Whether gradients have buffers of their own already."""
        setup = self.setup
        return (
            setup.settings.grad_accumulation > 1 or setup.degrees.splits_gradients or setup.settings.optimizer_in_backward
            or setup.recipe.contiguous_gradients
        )  # fmt: skip

    @cached_property
    def largest_layer(self) -> int:
        """Parameters of the largest layer that is put together from shards by itself."""
        return max(
            (layer.num_params for component in self.holding.share.loaded for layer, _ in component.layer_groups),
            default=0,
        )

    @cached_property
    def prefetched(self) -> int:
        """Weights of the layer that runs and of the next one while they are put together. [bytes]."""
        setup = self.setup
        if not setup.degrees.splits_weights:
            return 0
        if setup.degrees.zero >= 3:
            return min(10**9, self.holding.share.num_params) * setup.recipe.numbers.compute
        return 2 * self.largest_layer * setup.recipe.numbers.compute

    @cached_property
    def standing(self) -> int:
        """Weights outside the layers, which FSDP's outermost group keeps together through both passes. [bytes]."""
        setup = self.setup
        if not setup.degrees.splits_weights or not setup.degrees.fsdp:
            return 0
        sides = sum(
            tensor.size for component in self.holding.share.loaded for tensor in component.tensors if not tensor.buffer
        )
        return sides * setup.recipe.numbers.compute

    @cached_property
    def buckets(self) -> int:
        """Copies of gradients on their way between devices. [bytes].

        Data parallelism copies all of them to buckets once; ZeRO fills one of half a billion numbers while it reduces
        another; FSDP reduces one layer's at a time.
        """
        setup, degrees = self.setup, self.setup.degrees
        if degrees.data == 1:
            return 0
        trained = self.holding.trained_elements * setup.recipe.gradient
        trained += self.holding.adapter_parameters * setup.recipe.weight
        if degrees.zero:
            return min(2 * trained, 2 * 5 * 10**8 * setup.recipe.gradient)
        if degrees.fsdp:
            return self.largest_layer * (setup.recipe.numbers.compute + 4) if setup.full else 0
        return trained

    # -- the step --------------------------------------------------------------------------------------

    @cached_property
    def signature(self) -> tuple[object, ...]:
        """What a step's course depends on beside the model."""
        setup = self.setup
        settings = setup.settings
        adapter = repr(settings.adapter)
        return (
            setup.recipe, setup.degrees, setup.plan.quantization, setup.plan.dtype, setup.frozen, settings.finetuning, adapter,
            settings.micro_batch, settings.recompute, settings.attn_implementation, settings.precision, settings.num_trainable_layers,
            settings.objective, settings.loss, self.accumulates, setup.architecture.network,
        )  # fmt: skip

    def course(self) -> Course:
        """Return the worst moments of a step, remembered for the next question about the same model."""
        key = (id(self.setup.architecture), *self.signature)
        known = _COURSES.get(key)
        if known is None:
            if len(_COURSES) >= REMEMBERED:
                _COURSES.clear()
            known = _COURSES[key] = (self.setup.architecture, self._course())
        return known[1]

    def tape(self) -> Tape:
        """Return a fresh tape for one step."""
        setup, holding = self.setup, self.holding
        named = places(holding.share)
        known: dict[str, Use] = {}

        def use(tensor: Tensor) -> Use:
            found = known.get(tensor.name)
            if found is None:
                component, own = named[tensor.name]
                found = known[tensor.name] = holding.use(component, own)
            return found

        return Tape(
            graph=Record(keeps=True, accumulates=self.accumulates), batch=setup.settings.micro_batch, numbers=setup.recipe.numbers,
            use=use, dialect=Dialect(), recomputes=setup.settings.recompute == "full",
            fused=setup.settings.attn_implementation != "eager", compares=setup.settings.loss != "none",
        )  # fmt: skip

    def _course(self) -> Course:
        setup, tape = self.setup, self.tape()
        network = setup.architecture.network
        assert network is not None
        graph = tape.graph
        narrow = setup.recipe.numbers.residual < 4 and not setup.recipe.numbers.autocast
        image = tape.image(network.image_size, 2 if narrow else 4)
        out = network.run(tape, Map(image.channels, image.height, image.width, image.value))
        tape.begin()
        forward = self._moment(tape, "layer", tape.kept[-1])
        graph.reset()
        logits: Value = out.value
        tape.end_autocast()
        self._loss(tape, out)
        saved = graph.live
        loss = self._moment(tape, "head", saved)
        del out
        tape.kept.append(graph.live)
        graph.reset()
        graph.backward()
        del logits, image
        piece, gradients = graph.top
        kept = tape.kept[min(piece, len(tape.kept) - 1)]
        lasting = min(kept, graph.peak - gradients)
        backward = Moment(lasting, graph.peak - gradients - lasting, gradients, self.prefetched, "layer",
                          tape.kept[max(0, piece - 1)] if piece else 0)  # fmt: skip
        return Course(forward, loss, backward, saved, graph.gradients)

    def _moment(self, tape: Tape, name: str, kept: int) -> Moment:
        """Return the highest moment of a phase that has just run."""
        graph = tape.graph
        return Moment(kept, max(0, graph.peak - kept), 0, self.prefetched, name, tape.kept[-1] if name == "head" else 0)

    def _loss(self, tape: Tape, out: Map) -> None:
        """Compare scores with labels: cross-entropy in fp32. A detector's program has ended in its loss already."""
        graph = tape.graph
        logits: Value = out.value
        if logits.slot is None:
            return
        network = self.setup.architecture.network
        if self.setup.settings.loss == "none" or (network is not None and network.task != "classify"):
            graph.seed(logits)
            return
        logs = graph.pointwise(graph.cast(logits, 4), keeps="output")
        picked = graph.op([logs], 1, element=4, saves=[logs])
        graph.seed(graph.op([picked], 1, rows=1))


__all__ = ["Images", "places"]
