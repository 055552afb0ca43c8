"""A frozen linear layer with its adapter: what programs of adapters work on.

References
----------
.. [1] peft 0.21.2, ``tuners/tuners_utils.py``; PyTorch 2.13, ``autocast_mode.cpp``: which casts its cache keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vrameter.memory.adapters import Matrix
from vrameter.training.graph import FIXED, Graph, Slot, Storage, Value, Weight

if TYPE_CHECKING:
    from vrameter.training.programs.scene import Scene

# A layer's output; or the frozen layer's output and the update that is added to it.
Made = Value | tuple[Value, Value]


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """The adapter of one linear layer.

    Parameters
    ----------
    rank
        Rank of the update.
    element
        Size of one number of its parameters. [bytes]
    dropout
        Dropout of its input.
    method
        peft's name in lower case, or a variant's.
    options
        Fields of the method's configuration under peft's names.
    feedforward
        Whether its method treats the layer as part of the perceptron (IA3).
    folded
        Whether the update is added to the stored parameter before the product, as peft does where a parameter is targeted
        and not a module.
    casts
        Whether its input is cast beside a quantised matrix under autocast too, as where peft has no class of its own for it.
    """

    rank: int
    element: int
    dropout: float = 0.0
    method: str = "lora"
    options: Mapping[str, Any] = field(default_factory=dict)
    feedforward: bool = False
    folded: bool = False
    casts: bool = False


@dataclass(slots=True)
class Site:
    """A frozen linear layer with its adapter.

    Parameters
    ----------
    base
        Runs the frozen layer.
    stored
        Size of one number of the matrix as it is multiplied with. [bytes]
    unpacked
        What unpacking a quantised matrix takes, 0 for a plain one. [bytes]
    standing
        What local variables of the method's ``forward`` hold until it returns.
    """

    scene: Scene
    base: Callable[[Value], Value]
    inputs: int
    outputs: int
    stored: int
    unpacked: int
    use: AdapterUse
    options: Mapping[str, Any]
    standing: list[Value] = field(default_factory=list)

    @property
    def graph(self) -> Graph:
        """The graph that records."""
        return self.scene.graph

    @property
    def rank(self) -> int:
        """Rank of the update."""
        return self.use.rank

    @property
    def element(self) -> int:
        """Size of one number of the adapter. [bytes]."""
        return self.use.element

    @property
    def matrix(self) -> Matrix:
        """Shape of the frozen matrix."""
        return Matrix(self.inputs, self.outputs)

    def weight(self, size: int, *, trained: bool = True, element: int = 0) -> Weight:
        """Return a parameter of the adapter, or a frozen tensor that it keeps."""
        return Weight(size, element or self.element, trained=trained)

    def entering(self, x: Value, element: int = 0) -> Value:
        """Return the input in the adapter's own numbers, dropped out; the numbers before dropout stand as long.

        Beside a quantised matrix autocast does without them: peft leaves the input as it is there.
        """
        if self.unpacked and self.scene.numbers.autocast and not self.use.casts:
            return self.dropped(x)
        inner = self.graph.cast(x, element or self.element)
        self.standing.append(inner)
        return self.dropped(inner)

    def dropped(self, x: Value) -> Value:
        """Drop numbers of the input out, where the adapter does."""
        return self.scene.dropout(x) if self.use.dropout else x

    def linear(self, x: Value, weight: Weight, width: int) -> Value:
        """Multiply by a parameter, under autocast in its numbers."""
        return self.graph.linear(x, weight, width, compute=self.scene.numbers.autocast)

    def product(self, x: Value, matrix: Value, width: int) -> Value:
        """Multiply by a matrix that was made: each factor is kept for the other's gradient."""
        graph, auto = self.graph, self.scene.numbers.autocast
        if auto:
            x, matrix = graph.cast(x, auto), graph.cast(matrix, auto)
        return graph.op(
            [x, matrix], width, rows=x.rows, element=auto or max(x.element, matrix.element), kind=x.storage.kind,
            saves=[x if matrix.slot else None, matrix if x.slot else None],
        )  # fmt: skip

    def made(self, rows: int, width: int, *parents: Value | Weight, element: int = 0,
             saves: tuple[Value | Storage | None, ...] = (),
             saves_output: bool = False, work: int = 0, scratch: int = 0) -> Value:  # fmt: skip
        """Return a tensor made of parameters and of tensors made of them: as large as the matrix, as a rule."""
        graph = self.graph
        inputs = [each for each in parents if isinstance(each, Value)]
        weights = [each for each in parents if isinstance(each, Weight)]
        grad = graph.needs(*parents)
        if scratch:
            graph.grow(scratch)
        out = graph.new(rows, width, element or self.element, grad=grad, kind=FIXED)
        if scratch:
            graph.live -= scratch
        if grad:
            graph.record(inputs, (out,), (*saves, out if saves_output else None), weights=weights, work=work)
        return out

    def multiplied(self, rows: int, width: int, first: Value | Weight, second: Value | Weight, *, scratch: int = 0,
                   viewed: bool = False) -> Value:  # fmt: skip
        """Multiply parameters, or what was made of them; autocast keeps its copies of trained ones, of views of them not."""
        graph, auto = self.graph, self.scene.numbers.autocast
        kept: list[Value | Storage | None] = []
        parents: list[Value | Weight] = []
        for factor, other in ((first, second), (second, first)):
            if isinstance(factor, Value):
                taken = graph.cast(factor, auto) if auto else factor
                parents.append(taken)
                kept.append(taken if other.slot is not None else None)
                continue
            parents.append(factor)
            if not auto or factor.element == auto:
                continue
            copy = factor.cast or Storage(graph, factor.size * auto, FIXED)
            if factor.slot is not None and graph.keeps and not viewed:
                factor.cast = copy
            elif other.slot is not None:
                kept.append(copy)
        element = auto or max(self.element, *(each.element for each in parents if isinstance(each, Value)), 0)
        return self.made(rows, width, *parents, element=element, saves=tuple(kept), scratch=scratch)

    def part(self, whole: Value, rows: int, width: int) -> Value:
        """Return a piece of a tensor without copying it."""
        graph = self.graph
        piece = Value(whole.storage, rows, width, whole.element, None)
        if whole.slot is not None:
            piece.slot = Slot(piece.bytes)
            graph.record((whole,), (piece,))
        return piece

    def times(self, x: Value, vector: Value) -> Value:
        """Multiply by a vector that was made: its gradient is a sum over a product as large as `x`."""
        element = max(x.element, vector.element)
        return self.graph.op(
            [x, vector], element=element, saves=[x if vector.slot else None, vector if x.slot else None], kind=x.storage.kind,
            work=x.rows * x.width * element if vector.slot else 0,
        )  # fmt: skip

    def plain(self, rows: int, width: int, element: int = 0) -> Value:
        """Return a tensor without a gradient that does not grow with tokens."""
        return self.graph.new(rows, width, element or self.element, kind=FIXED)

    def unpacked_weight(self, element: int) -> Value:
        """Return the frozen matrix in numbers of a size: itself, or a copy."""
        self.graph.touch(self.unpacked + (self.inputs * self.outputs * element if self.stored != element else 0))
        if self.stored == element and not self.unpacked:
            return Value(Storage(self.graph, 0, FIXED), self.outputs, self.inputs, element, None)
        return self.plain(self.outputs, self.inputs, element)

    def into(self, out: Value, update: Value) -> Value:
        """Add to a tensor in place, in its own numbers."""
        graph = self.graph
        grad = graph.needs(out, update)
        summed = Value(out.storage, out.rows, out.width, out.element, None)
        if grad:
            summed.slot = Slot(out.bytes)
            graph.record((out, update), (summed,), passes=True)
        return summed


__all__ = ["AdapterUse", "Made", "Site"]
