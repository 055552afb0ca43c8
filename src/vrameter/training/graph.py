"""What autograd keeps and what comes and goes, operation by operation, without a tensor.

A *program* is a Python function that reads like the module it stands for and calls the operations of a `Graph` on
`Value` s: sizes without numbers. As in PyTorch, an operation allocates its output, keeps for the backward pass what its
derivative needs, and a tensor is freed with the last reference to it: Python's own reference counting frees a
simulated tensor just when it would free the real one, local variables of the program included. Running the backward
pass allocates gradients of inputs, frees gradients of outputs and what was kept.

Storages are counted once however many operations keep them, which is what makes the sums right: the input of the
query, key and value projections is one tensor, kept once.

References
----------
.. [1] PyTorch 2.13, ``derivatives.yaml``: what each operation keeps; ``input_buffer.cpp``: how gradients add up.
.. [2] Saved tensors of transformers' own layers, compared byte for byte in ``tests/training/test_oracle.py``.
.. [3] ``torch.utils.checkpoint``; Megatron-LM, ``core/tensor_parallel/random.py``: ``CheckpointFunction`` and
       ``CheckpointWithoutOutput``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

# What a storage grows with: tokens, pairs of tokens, neither; or it is shared by all layers and counted elsewhere.
TOKENS, PAIRS, FIXED, SHARED = range(4)
# Smaller tensors stay on the device: a million numbers of two bytes. [bytes] [Megatron-LM, min_offloaded_tensor_size]
LEAST_OFFLOADED = 2**21
# What a product with a frozen matrix keeps where it keeps its input without copying it.
ITSELF = -1


class Storage:
    """Bytes that live while something refers to them; `made_again` holds those that take the place of discarded ones."""

    __slots__ = ("bytes", "graph", "kind", "made_again")
    made_again: Storage

    def __init__(self, graph: Graph, size: int, kind: int = TOKENS) -> None:
        self.graph, self.bytes, self.kind = graph, size, kind
        if kind != SHARED:
            graph.held[kind] += size
            graph.grow(size)

    def discard(self) -> None:
        """Free the bytes though something still refers to them."""
        if self.kind != SHARED:
            self.graph.held[self.kind] -= self.bytes
            self.graph.live -= self.bytes
        self.bytes = 0

    def __del__(self) -> None:
        if self.kind != SHARED:
            self.graph.held[self.kind] -= self.bytes
            self.graph.live -= self.bytes


class Slot:
    """The place of a gradient: what a tensor that requires one is to autograd."""

    __slots__ = ("bytes", "grad", "parameter")

    def __init__(self, size: int, *, parameter: bool = False) -> None:
        self.bytes = size
        self.grad: Storage | None = None
        self.parameter = parameter


class Value:
    """A tensor as the graph sees it: rows of a width in a dtype, on a storage that views share.

    `rows` are tokens, or tokens times what they fan out to; `element` is the size of one number. [bytes]
    """

    __slots__ = ("element", "rows", "slot", "storage", "width")

    def __init__(self, storage: Storage, rows: int, width: int, element: int, slot: Slot | None) -> None:
        self.storage, self.rows, self.width, self.element, self.slot = storage, rows, width, element, slot

    @property
    def bytes(self) -> int:
        """Size of the tensor, which may be a view of a larger storage."""
        return self.rows * self.width * self.element

    def view(self, rows: int, width: int) -> Value:
        """Return the same numbers under another shape."""
        return Value(self.storage, rows, width, self.element, self.slot)


class Weight:
    """A parameter as an operation sees it.

    Parameters
    ----------
    size
        Elements.
    element
        Size of one stored element; of a quantised weight that of the numbers it is unpacked to. [bytes]
    trained
        Whether it gets a gradient.
    unpacked
        Bytes that unpacking it for one matrix product takes, 0 where it is stored as it is used. [bytes]
    keeps_input
        Size of the numbers in which a product with it keeps a copy of its input though the matrix is frozen; 0: it keeps
        none; `ITSELF`: it keeps the input itself. [bytes]
    unpacking
        Bytes that unpacking takes on the way, where a plain product with the unpacked matrix keeps it for the backward
        pass; 0 where it is unpacked again there. [bytes]
    """

    __slots__ = ("cast", "element", "grad_element", "keeps_input", "size", "slot", "unpacked", "unpacking")

    def __init__(
        self,
        size: int,
        element: int,
        *,
        trained: bool,
        grad_element: int = 0,
        unpacked: int = 0,
        keeps_input: int = 0,
        unpacking: int = 0,
    ) -> None:
        self.size, self.element, self.unpacked, self.keeps_input = size, element, unpacked, keeps_input
        self.unpacking = unpacking
        self.grad_element = grad_element or element
        self.slot = Slot(size * self.grad_element, parameter=True) if trained else None
        self.cast: Storage | None = None


class Node:
    """One operation on the tape; one with a `region` runs that part of a program again.

    What one keeps that is `away` goes to host memory.
    """

    __slots__ = ("away", "inputs", "outputs", "passes", "piecewise", "region", "saved", "weights", "work")

    def __init__(
        self,
        inputs: Sequence[Slot | None],
        outputs: Sequence[Slot | None],
        saved: list[Storage],
        work: int,
        passes: bool,
        weights: Sequence[Weight],
        piecewise: bool,
        region: Region | None = None,
        away: bool = False,
    ) -> None:
        self.region, self.away = region, away
        self.inputs = [slot for slot in inputs if slot is not None]
        self.outputs = [slot for slot in outputs if slot is not None]
        self.saved, self.work, self.passes, self.piecewise = saved, work, passes, piecewise
        self.weights = [weight for weight in weights if weight.slot is not None]


class Region:
    """A part of a program that runs without a tape, and again, with one, in the backward pass.

    Parameters
    ----------
    run
        From the inputs to the outputs. It holds no tensor of its own.
    inputs
        What is kept of the first run.
    outputs
        Storages of the first run that are discarded later.
    """

    __slots__ = ("inputs", "nodes", "outputs", "run", "sinks", "sources")

    def __init__(self, run: Callable[..., list[Value]], inputs: Sequence[Value], outputs: list[Storage]) -> None:
        self.run = run
        self.inputs = [(x.storage, x.rows, x.width, x.element, x.slot is not None) for x in inputs]
        self.outputs = outputs
        self.nodes: list[Node] | None = None
        self.sources: list[Slot] = []
        self.sinks: list[Slot | None] = []


@dataclass(slots=True)
class Graph:
    """A run of a program.

    Parameters
    ----------
    keeps
        Whether autograd records; without, nothing is kept beyond its last use.
    accumulates
        Whether gradients of parameters have a buffer of their own already, so that a new one is only added to it.
    """

    keeps: bool = True
    accumulates: bool = True
    live: int = 0
    peak: int = 0
    gradients: int = 0
    away: bool = False
    nodes: list[Node] = field(default_factory=list)
    held: list[int] = field(default_factory=lambda: [0, 0, 0])

    # -- memory -------------------------------------------------------------------------------------

    def grow(self, size: int) -> None:
        """Count bytes that have come alive."""
        self.live += size
        if self.live > self.peak:
            self.peak = self.live

    def new(self, rows: int, width: int, element: int, *, grad: bool = False, kind: int = TOKENS) -> Value:
        """Return a fresh tensor."""
        size = rows * width * element
        return Value(Storage(self, size, kind), rows, width, element, Slot(size) if grad and self.keeps else None)

    def constant(self, rows: int, width: int, element: int) -> Value:
        """Return a tensor that all layers share and that is counted elsewhere: rotations, masks."""
        return Value(Storage(self, rows * width * element, SHARED), rows, width, element, None)

    def touch(self, size: int) -> None:
        """Count bytes that live only within an operation."""
        self.grow(size)
        self.live -= size

    def record(
        self,
        inputs: Iterable[Value],
        outputs: Iterable[Value],
        saved: Iterable[Storage | Value | None] = (),
        *,
        work: int = 0,
        passes: bool = False,
        weights: Sequence[Weight] = (),
        piecewise: bool = False,
    ) -> None:
        """Put an operation on the tape.

        Parameters
        ----------
        saved
            What its derivative needs.
        work
            Bytes that its derivative takes beside the gradients it makes.
        passes
            Whether the gradients of its inputs are the gradient of its output itself, as in an addition.
        piecewise
            Whether it stands for many small operations, so that what is kept goes as gradients come.
        """
        if not self.keeps:
            return
        kept = [each.storage if isinstance(each, Value) else each for each in saved if each is not None]
        self.nodes.append(
            Node(
                [v.slot for v in inputs],
                [v.slot for v in outputs],
                kept,
                work,
                passes,
                weights,
                piecewise,
                away=self.away,
            )
        )

    # -- operations ---------------------------------------------------------------------------------

    def needs(self, *values: Value | Weight | None) -> bool:
        """Say whether autograd records an operation on these."""
        return self.keeps and any(value is not None and value.slot is not None for value in values)

    def op(
        self,
        inputs: Sequence[Value],
        width: int | None = None,
        *,
        element: int | None = None,
        rows: int | None = None,
        saves: Sequence[Value | None] = (),
        saves_output: bool = False,
        work: int = 0,
        scratch: int = 0,
        weights: Sequence[Weight] = (),
        kind: int | None = None,
        piecewise: bool = False,
    ) -> Value:
        """Run an operation that makes one tensor, by default like its first input."""
        first = inputs[0]
        grad = self.needs(*inputs, *weights)
        if scratch:
            self.grow(scratch)
        out = self.new(
            first.rows if rows is None else rows,
            first.width if width is None else width,
            max(value.element for value in inputs) if element is None else element,
            grad=grad,
            kind=(first.storage.kind if first.storage.kind != SHARED else TOKENS) if kind is None else kind,
        )
        if scratch:
            self.live -= scratch
        if grad:
            self.record(inputs, (out,), (*saves, out if saves_output else None), work=work, weights=weights,
                        piecewise=piecewise)  # fmt: skip
        return out

    def cast(self, x: Value, element: int) -> Value:
        """Convert to another dtype; the same tensor where it has it."""
        return x if x.element == element else self.op([x], element=element)

    def copy(self, x: Value, *, width: int | None = None) -> Value:
        """Copy, as ``contiguous`` or ``reshape`` of a transposed or expanded view do."""
        return self.op([x], width)

    def pointwise(self, x: Value, *, keeps: str = "input", work: int = 0) -> Value:
        """Run a function of each number that keeps its ``input``, its ``output`` or ``nothing``."""
        return self.op([x], saves=[x] if keeps == "input" else (), saves_output=keeps == "output", work=work)

    def within(self, x: Value) -> Value:
        """Run a function that writes over its input and keeps nothing; its gradient is a tensor of its own."""
        grad = self.needs(x)
        out = Value(x.storage, x.rows, x.width, x.element, Slot(x.bytes) if grad else None)
        if grad:
            self.record((x,), (out,))
        return out

    def add(self, a: Value, b: Value, *, into: bool = False) -> Value:
        """Add; `into` writes over the first."""
        grad = self.needs(a, b)
        element = max(a.element, b.element)
        if into and a.element == element:
            out = Value(a.storage, a.rows, a.width, element, Slot(a.bytes) if grad else None)
        else:
            out = self.new(a.rows, a.width, element, grad=grad, kind=a.storage.kind)
        if grad:
            self.record((a, b), (out,), passes=True)
        return out

    def mul(self, a: Value, b: Value) -> Value:
        """Multiply: each factor is kept where the other needs a gradient."""
        return self.op(
            [a, b],
            max(a.width, b.width),
            rows=max(a.rows, b.rows),
            saves=[a if b.slot else None, b if a.slot else None],
        )

    def scale(self, x: Value, weight: Weight, *, product_element: int | None = None) -> Value:
        """Multiply by a vector of parameters; `x` is kept where it is trained."""
        element = max(x.element, weight.element) if product_element is None else product_element
        return self.op([x], element=element, saves=[x] if weight.slot else (), weights=[weight],
                       work=x.bytes if weight.slot else 0)  # fmt: skip

    def linear(self, x: Value, weight: Weight, width: int, *, compute: int = 0) -> Value:
        """Multiply by a matrix of parameters.

        Parameters
        ----------
        compute
            Size of the numbers that autocast computes in; 0 without autocast. The cast weight is kept for the backward
            pass and, where it is trained, by autocast's cache.
        """
        cast: Storage | None = None
        if compute:
            x = self.cast(x, compute)
            if weight.element != compute and not weight.unpacked:
                cast = weight.cast or Storage(self, weight.size * compute, FIXED)
                if weight.slot is not None and self.keeps:
                    weight.cast = cast
        element = compute or (x.element if weight.unpacked else max(x.element, weight.element))
        keep_weight = cast if x.slot is not None else None
        kept = self.cast(x, weight.keeps_input) if weight.keeps_input > 0 else x
        again = weight.unpacked
        if weight.unpacking and x.slot is not None and self.keeps:
            self.touch(weight.unpacking)
            keep_weight, again = Storage(self, weight.unpacked, FIXED), 0
        out = self.op(
            [x], width, element=element, saves=[kept] if weight.slot is not None or weight.keeps_input else (),
            work=again + (cast.bytes if cast and weight.slot is not None else 0),
            scratch=again, weights=[weight], kind=TOKENS,
        )  # fmt: skip
        if out.slot is not None and keep_weight is not None:
            self.nodes[-1].saved.append(keep_weight)
        return out

    def halves(self, x: Value, widths: Sequence[int]) -> list[Value]:
        """Split along the width without copying; the gradients are put together again."""
        grad = self.needs(x)
        parts = [
            Value(x.storage, x.rows, width, x.element, Slot(x.rows * width * x.element) if grad else None)
            for width in widths
        ]
        if grad:
            self.record((x,), parts)
        return parts

    def join(self, values: Sequence[Value]) -> Value:
        """Concatenate along the width; gradients are views."""
        out = self.new(values[0].rows, sum(value.width for value in values), max(value.element for value in values),
                       grad=self.needs(*values))  # fmt: skip
        if out.slot is not None:
            self.record(values, (out,), passes=True)
        return out

    def matmul(self, a: Value, b: Value, rows: int, width: int, *, element: int | None = None) -> Value:
        """Multiply two activations; each is kept where the other needs a gradient."""
        return self.op([a, b], width, rows=rows, element=element or a.element,
                       saves=[a if b.slot else None, b if a.slot else None])  # fmt: skip

    # -- regions that run twice ---------------------------------------------------------------------

    def checkpoint(
        self, run: Callable[..., list[Value]], *inputs: Value, discards: bool = False
    ) -> tuple[Region | None, list[Value]]:
        """Run a part of a program so that its inputs alone are kept; no region where nothing is recorded.

        `discards` says that its outputs are given to `discard` once the operations that keep them have run.
        """
        if not self.needs(*inputs):
            return None, run(*inputs)
        self.keeps = False
        made = run(*(Value(x.storage, x.rows, x.width, x.element, None) for x in inputs))
        self.keeps = True
        outputs = [Value(y.storage, y.rows, y.width, y.element, Slot(y.bytes)) for y in made]
        region = Region(run, inputs, [y.storage for y in outputs] if discards else [])
        node = Node([x.slot for x in inputs], [y.slot for y in outputs], [], 0, False, (), False, region, self.away)
        self.nodes.append(node)
        return region, outputs

    def discard(self, region: Region | None) -> None:
        """Free what a region made and the operations since keep; the gradient of the last of them makes it again."""
        if region is None:
            return
        for storage in region.outputs:
            storage.discard()
        self.nodes.append(Node([], [], [], 0, False, (), False, region))

    def _run_again(self, region: Region) -> None:
        """Run a region a second time, with a tape of its own; discarded outputs come back."""
        outer, self.nodes = self.nodes, []
        inputs = [
            Value(storage, rows, width, element, Slot(rows * width * element) if slot else None)
            for storage, rows, width, element, slot in region.inputs
        ]
        outputs = region.run(*inputs)
        region.nodes, self.nodes = self.nodes, outer
        region.sources = [x.slot for x in inputs if x.slot is not None]
        region.sinks = [y.slot for y in outputs]
        for before, after in zip(region.outputs, outputs, strict=False):
            before.made_again = after.storage
        region.inputs, region.outputs = [], [y.storage for y in outputs]

    def _back_through(self, node: Node, region: Region) -> None:
        """Run a region's own tape backwards, from the gradients of its outputs to those of its inputs."""
        if region.nodes is None:
            self._run_again(region)
        if not node.outputs or region.nodes is None:
            return
        for sink, slot in zip(region.sinks, node.outputs, strict=True):
            if sink is not None:
                sink.grad = slot.grad
            slot.grad = None
        while region.nodes:
            self._step(region.nodes.pop())
        for source, slot in zip(region.sources, node.inputs, strict=True):
            grad, source.grad = source.grad, None
            if grad is not None and slot.grad is not None:
                self._accumulate(slot, grad)
            elif grad is not None:
                slot.grad = grad
        region.sources, region.sinks, region.outputs = [], [], []

    def offloaded(self) -> int:
        """Return what is kept by operations alone that are away, in tensors large enough. [bytes]."""

        def held(node: Node) -> list[Storage]:
            return node.saved if node.region is None else [storage for storage, *_ in node.region.inputs]

        stays = {id(storage) for node in self.nodes if not node.away for storage in held(node)}
        leaves = {id(storage): storage for node in self.nodes if node.away for storage in held(node)}
        return sum(
            storage.bytes
            for key, storage in leaves.items()
            if key not in stays and storage.bytes >= LEAST_OFFLOADED and storage.kind != SHARED
        )

    # -- backward -----------------------------------------------------------------------------------

    def seed(self, *values: Value) -> None:
        """Give outputs their gradients, as the next layer's backward pass hands them over."""
        for value in values:
            if value.slot is not None and value.slot.grad is None:
                value.slot.grad = Storage(self, value.slot.bytes)

    def backward(self) -> None:
        """Run the tape backwards."""
        while self.nodes:
            node = self.nodes.pop()
            self._step(node)

    def _step(self, node: Node) -> None:
        if node.region is not None:
            self._back_through(node, node.region)
            return
        incoming = [slot.grad for slot in node.outputs if slot.grad is not None]
        if not incoming:
            return
        if node.piecewise:
            node.saved = []
            for slot in node.outputs:
                slot.grad = None
            incoming = incoming if node.passes else []
        if node.work:
            self.grow(node.work)
        made: list[tuple[Slot, Storage]] = []
        if node.passes:
            source = incoming[0]
            for slot in node.inputs:
                same = slot.bytes == source.bytes or (len(node.inputs) > 1 and slot.bytes < source.bytes)
                made.append((slot, source if same else Storage(self, slot.bytes)))
        else:
            made = [(slot, Storage(self, slot.bytes)) for slot in node.inputs]
        for weight in node.weights:
            assert weight.slot is not None
            size = weight.size * weight.element
            if self.accumulates:
                self.touch(size)
            else:
                self.gradients += weight.slot.bytes
                self.grow(weight.slot.bytes)
        if node.work:
            self.live -= node.work
        for slot in node.outputs:
            slot.grad = None
        del incoming
        node.saved = []
        for slot, grad in made:
            if slot.grad is None:
                slot.grad = grad
            else:
                self._accumulate(slot, grad)

    def _accumulate(self, slot: Slot, grad: Storage) -> None:
        """Add a second gradient: in place where nothing else holds the first, else into a new tensor."""
        import sys

        held = slot.grad
        assert held is not None
        if sys.getrefcount(held) > 3:
            slot.grad = Storage(self, held.bytes)


__all__ = ["ITSELF", "Graph", "Region", "Slot", "Storage", "Value", "Weight"]
