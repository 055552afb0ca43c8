"""An image model's program on a graph of sizes: what autograd keeps of each operation, and what comes and goes.

Two kinds of devices differ in the numbers some kernels keep: `Dialect` says how.

References
----------
.. [1] PyTorch 2.13, ``derivatives.yaml``: a convolution keeps its input and its matrix whatever is trained, batch norm its
       input and two statistics a channel, max pooling its input and int64 places, ReLU its output, SiLU, GELU and
       Hardswish their input (a copy of it where they work in place).
.. [2] PyTorch 2.13, ``autocast_mode.h``: convolutions, matrices and attention in half precision, layer and group norms and
       losses in fp32 on CUDA, batch norm in the numbers it is given.
.. [3] Saved tensors of timm's, torchvision's and transformers' own models, ``tests/training/test_vision_oracle.py``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vrameter.model.architecture import Tensor
from vrameter.model.vision.net import Map, Net, Step
from vrameter.training.graph import FIXED, TOKENS, Graph, Node, Slot, Storage, Value, Weight
from vrameter.training.programs.scene import AdapterUse, Numbers, Use
from vrameter.training.vision import detection

# Activations whose derivative is a function of their output; those of the others want their input.
OUTPUT = frozenset({"relu", "sigmoid", "tanh"})
# The same of those that do so only in place.
OUTPUT_IN_PLACE = frozenset({"leaky_relu"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """What kernels and autocast of a kind of device differ in.

    Parameters
    ----------
    wide_norms
        Whether autocast runs layer and group norms in fp32.
    narrow_statistics
        Whether layer norm keeps its statistics in the numbers it is given.
    """

    wide_norms: bool = True
    narrow_statistics: bool = False


class Replay(Node):
    """A checkpointed block on the tape: it is run again when its gradient arrives."""

    __slots__ = ("block", "given", "index")

    def __init__(
        self, inputs: Sequence[Value], out: Value, block: Callable[[Sequence[Value]], Value], index: int
    ) -> None:
        super().__init__([each.slot for each in inputs], [out.slot], [], 0, False, (), False)
        self.block, self.given, self.index = block, list(inputs), index


class Record(Graph):
    """A graph that knows which piece of the model its peak falls into, and that runs checkpointed blocks again."""

    def __init__(self, *, keeps: bool, accumulates: bool) -> None:
        super().__init__(keeps=keeps, accumulates=accumulates)
        self.piece = 0
        self.starts: list[int] = [0]
        self.top = (0, 0)

    def grow(self, size: int) -> None:
        """Count bytes that have come alive, and remember the highest moment."""
        self.live += size
        if self.live > self.peak:
            self.peak = self.live
            self.top = (self.piece, self.gradients)

    def reset(self) -> None:
        """Begin a phase."""
        self.peak, self.top = self.live, (self.piece, self.gradients)

    def backward(self) -> None:
        """Run the tape backwards."""
        while self.nodes:
            self.piece = bisect_right(self.starts, len(self.nodes) - 1) - 1
            self._step(self.nodes.pop())

    def _accumulate(self, slot: Slot, grad: Storage) -> None:
        """Add a second gradient: into a new tensor where the first is a part of a larger one."""
        held = slot.grad
        assert held is not None
        if held.bytes != slot.bytes:
            slot.grad = Storage(self, slot.bytes)
        else:
            del held
            super()._accumulate(slot, grad)

    def _step(self, node: Node) -> None:
        if isinstance(node, Replay):
            self._replay(node)
        else:
            super()._step(node)

    def _replay(self, node: Replay) -> None:
        slot = node.outputs[0] if node.outputs else None
        if slot is None or slot.grad is None:
            return
        base = len(self.nodes)
        fresh = [
            Value(each.storage, each.rows, each.width, each.element, Slot(each.bytes) if each.slot else None)
            for each in node.given
        ]
        out = node.block(fresh)
        assert out.slot is not None
        out.slot.grad, slot.grad = slot.grad, None
        del out
        while len(self.nodes) > base:
            self._step(self.nodes.pop())
        before = [each.slot for each in node.given if each.slot is not None]
        made = [each.slot for each in fresh if each.slot is not None]
        node.given = []
        for old, new in zip(before, made, strict=True):
            grad, new.grad = new.grad, None
            if grad is None:
                continue
            if old.grad is None:
                old.grad = grad
            else:
                self._accumulate(old, grad)


@dataclass
class Tape(Net):
    """A net that records on a graph.

    Parameters
    ----------
    graph
        Where tensors live.
    batch
        Images of one forward pass on this device. [images]
    use
        How a step uses the parameter of a name.
    recomputes
        Whether blocks are checkpointed.
    fused
        Whether attention is one fused kernel.
    compares
        Whether a detector's outputs are compared with labels; without, they are added up.
    kept
        What is alive after each piece of the forward pass. [bytes]
    """

    graph: Record = field(default_factory=lambda: Record(keeps=True, accumulates=True))
    batch: int = 1
    numbers: Numbers = field(default_factory=lambda: Numbers(4, 4))
    use: Callable[[Tensor], Use] = field(default=lambda tensor: Use(4, trained=True))
    dialect: Dialect = field(default_factory=Dialect)
    recomputes: bool = False
    fused: bool = True
    compares: bool = True
    kept: list[int] = field(default_factory=list)
    casts: list[Value] = field(default_factory=list)
    replaying: bool = False

    # -- frame ---------------------------------------------------------------------------------------

    def image(self, size: tuple[int, int], element: int, channels: int = 3) -> Map:
        """Return a batch of images."""
        value = self.graph.new(self.batch * size[0] * size[1], channels, element)
        return Map(channels, size[0], size[1], value)

    def begin(self) -> None:
        """Note the end of a piece and the start of another."""
        graph = self.graph
        self.kept.append(graph.live)
        graph.starts.append(len(graph.nodes))
        graph.piece = len(graph.starts) - 1

    def block(self, name: str, run: Step, *inputs: Map, **facts: Any) -> Map:
        """Run a block, or keep its inputs only and run it again in the backward pass."""
        if self.replaying:
            return super().block(name, run, *inputs, **facts)
        self.begin()
        if not self.recomputes or not self.graph.keeps:
            return super().block(name, run, *inputs, **facts)
        graph, known = self.graph, len(self.tensors)
        graph.keeps = False
        out = super().block(name, run, *inputs, **facts)
        graph.keeps = True
        value: Value = out.value
        uses = (self.use(tensor) for _, tensor in self.tensors[known:])
        if not graph.needs(*(each.value for each in inputs)) and not any(use.trained or use.adapter for use in uses):
            return out
        value.slot = Slot(value.bytes)
        path, shapes = self.path, [each.like() for each in inputs]

        def again(values: Sequence[Value]) -> Value:
            before, count = self.path, len(self.tensors)
            self.path, self.replaying = path, True
            maps = [
                Map(shape.channels, shape.height, shape.width, each) for shape, each in zip(shapes, values, strict=True)
            ]
            made = Net.block(self, name, run, *maps, **facts)
            self.path, self.replaying = before, False
            del self.tensors[count:]
            self.end_autocast()
            found: Value = made.value
            return found

        graph.nodes.append(Replay([each.value for each in inputs], value, again, graph.piece))
        return out

    def end_autocast(self) -> None:
        """Leave autocast: its cache of cast weights goes."""
        self.casts = []

    def emit(self, kind: str, out: Map, inputs: Sequence[Map], weights: Sequence[Tensor] = (), **facts: Any) -> Map:
        """Run an operation on the graph."""
        values = [each.value for each in inputs]
        out.value = getattr(self, f"_{kind}")(out, values, weights, **facts)
        return out

    def rows(self, shape: Map) -> int:
        """Return the positions of a batch."""
        return self.batch * shape.places

    def weights(self, tensors: Sequence[Tensor]) -> list[Weight]:
        """Return parameters as operations see them."""
        found = []
        for tensor in tensors:
            use = self.use(tensor)
            found.append(Weight(tensor.size, use.element, trained=use.trained, grad_element=use.grad_element,
                                unpacked=use.unpacked, keeps_input=use.keeps_input))  # fmt: skip
        return found

    def _cast_weight(self, weight: Weight) -> Value | None:
        """Return autocast's copy of a parameter, None where there is none; autocast caches those of trained parameters."""
        graph, auto = self.graph, self.numbers.autocast
        if not auto or weight.element == auto or weight.unpacked or weight.keeps_input:
            return None
        cast = graph.new(1, weight.size, auto, grad=weight.slot is not None, kind=FIXED)
        if cast.slot is not None:
            graph.record((), (cast,), weights=[weight])
        if weight.slot is not None:
            self.casts.append(cast)
        return cast

    # -- operations with parameters -----------------------------------------------------------------

    def _conv(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        graph, auto = self.graph, self.numbers.autocast
        weights = self.weights(tensors)
        x = graph.cast(values[0], auto) if auto else values[0]
        casts = [cast for cast in map(self._cast_weight, weights) if cast is not None]
        return graph.op(
            [x, *casts], out.channels, rows=self.rows(out), element=auto or max(x.element, weights[0].element),
            saves=[x, *casts[:1]], weights=[] if casts else [weight for weight in weights if weight.slot is not None],
            kind=TOKENS,
        )  # fmt: skip

    def _linear(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        graph, auto = self.graph, self.numbers.autocast
        x = values[0]
        weights = self.weights(tensors)
        adapter = self.use(tensors[0]).adapter
        casts = [cast for cast in map(self._cast_weight, weights) if cast is not None]
        if casts:
            inner = graph.cast(x, auto)
            made = graph.op(
                [inner, *casts], out.channels, element=auto, kind=TOKENS,
                saves=[inner if weights[0].slot else None, casts[0] if inner.slot else None],
            )  # fmt: skip
        else:
            made = graph.linear(x, weights[0], out.channels, compute=auto)
            if made.slot is not None and len(weights) > 1 and weights[1].slot is not None:
                graph.nodes[-1].weights.append(weights[1])
        return made if adapter is None else self._adapted(x, made, adapter)

    def _adapted(self, x: Value, out: Value, adapter: AdapterUse) -> Value:
        graph, auto = self.graph, self.numbers.autocast
        inner = graph.cast(x, adapter.element)
        if adapter.dropout:
            mask = graph.new(inner.rows, inner.width, 1)
            inner = graph.op([inner], saves=[mask])
            del mask
        first = Weight(adapter.rank * inner.width, adapter.element, trained=True)
        second = Weight(adapter.rank * out.width, adapter.element, trained=True)
        update = graph.linear(graph.linear(inner, first, adapter.rank, compute=auto), second, out.width, compute=auto)
        return graph.cast(graph.add(out, graph.pointwise(update, keeps="nothing")), out.element)

    def _batch_norm(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        graph, x = self.graph, values[0]
        statistics = graph.new(out.channels, 2, 4, kind=FIXED)
        return graph.op([x], element=x.element, saves=[x, statistics], weights=self.weights(tensors))

    def _layer_norm(self, out: Map, values: list[Value], tensors: Sequence[Tensor], *, groups: int) -> Value:
        graph = self.graph
        x = graph.cast(values[0], 4) if self.numbers.autocast and self.dialect.wide_norms else values[0]
        weights = self.weights(tensors)
        narrow = self.dialect.narrow_statistics and all(weight.element == x.element for weight in weights)
        statistics = graph.new(x.rows * groups, 2, x.element if narrow else 4)
        return graph.op([x], element=x.element, saves=[x, statistics], weights=weights)

    def _group_norm(self, out: Map, values: list[Value], tensors: Sequence[Tensor], *, groups: int) -> Value:
        graph = self.graph
        x = graph.cast(values[0], 4) if self.numbers.autocast and self.dialect.wide_norms else values[0]
        weights = self.weights(tensors)
        narrow = self.dialect.narrow_statistics and all(weight.element == x.element for weight in weights)
        statistics = graph.new(self.batch * groups, 2, x.element if narrow else 4)
        return graph.op([x], element=x.element, saves=[x, statistics], weights=weights)

    def _scale(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        return self.graph.scale(values[0], self.weights(tensors)[0])

    def _shift(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        weight = self.weights(tensors)[0]
        x = values[0]
        return self.graph.op([x], element=max(x.element, weight.element), weights=[weight])

    def _join(self, out: Map, values: list[Value], tensors: Sequence[Tensor] = ()) -> Value:
        graph = self.graph
        weights = self.weights(tensors)
        made = graph.new(self.rows(out), out.channels, max([value.element for value in values] + [weight.element for weight in weights]),
                         grad=graph.needs(*values, *weights))  # fmt: skip
        if made.slot is not None:
            graph.record(values, (made,), passes=True, weights=weights)
        return made

    def _learned(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        graph, weight = self.graph, self.weights(tensors)[0]
        made = graph.constant(self.rows(out), out.channels, weight.element)
        if graph.needs(weight):
            made.slot = Slot(made.bytes)
            graph.record((), (made,), weights=[weight])
        auto = self.numbers.autocast
        return graph.op([made], element=auto, kind=TOKENS) if auto else made

    # -- operations without parameters --------------------------------------------------------------

    def _act(self, out: Map, values: list[Value], tensors: Sequence[Tensor], *, function: str, inplace: bool) -> Value:
        graph, x = self.graph, values[0]
        if function == "quick_gelu":
            return self._mul(out, [x, graph.pointwise(graph.pointwise(x, keeps="nothing"), keeps="output")], ())
        keeps = function in OUTPUT or (inplace and function in OUTPUT_IN_PLACE)
        if not inplace or not keeps:
            return graph.pointwise(x, keeps="output" if keeps else "input")
        return self._in_place(x, keeps=True)

    def _in_place(self, x: Value, *, keeps: bool) -> Value:
        grad = self.graph.needs(x)
        made = Value(x.storage, x.rows, x.width, x.element, Slot(x.bytes) if grad else None)
        if grad:
            self.graph.record((x,), (made,), [made] if keeps else [])
        return made

    def _add(self, out: Map, values: list[Value], tensors: Sequence[Tensor], *, into: bool) -> Value:
        return self.graph.add(values[0], values[1], into=into)

    def _mul(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        a, b = values
        return self.graph.op(
            [a, b], max(a.width, b.width), rows=max(a.rows, b.rows), work=a.bytes if a.rows != b.rows else 0,
            saves=[a if b.slot else None, b if a.slot else None],
        )  # fmt: skip

    def split(self, x: Map, widths: Sequence[int]) -> list[Map]:
        """Cut the channels into views; their gradients are put together again."""
        parts = self.graph.halves(x.value, widths)
        return [Map(width, x.height, x.width, part) for width, part in zip(widths, parts, strict=True)]

    def _tokens(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        return self._seen(values[0], self.rows(out), out.channels)

    def _view(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        return values[0].view(self.rows(out), out.channels)

    def _seen(self, x: Value, rows: int, width: int) -> Value:
        """See a part of a tensor, whose gradient is written into a fresh one."""
        grad = self.graph.needs(x)
        made = Value(x.storage, rows, width, x.element, Slot(rows * width * x.element) if grad else None)
        if grad:
            self.graph.record((x,), (made,))
        return made

    def _copy(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        return self.graph.op([values[0]], out.channels, rows=self.rows(out))

    def _max_pool(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        graph, x = self.graph, values[0]
        places = graph.new(self.rows(out), out.channels, 8)
        return graph.op([x], rows=self.rows(out), saves=[x, places])

    def _avg_pool(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        x = values[0]
        return self.graph.op([x], rows=self.rows(out), saves=[x])

    def _mean(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        return self.graph.op([values[0]], rows=self.rows(out))

    def _drop_path(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        graph, x = self.graph, values[0]
        mask = graph.new(self.batch, 1, x.element, kind=FIXED)
        return graph.op([x], saves=[mask])

    def _attend(
        self,
        out: Map,
        values: list[Value],
        tensors: Sequence[Tensor],
        *,
        heads: int,
        keys: int,
        masked: bool,
        wide: bool,
        written: bool,
        heads_first: bool,
    ) -> Value:
        graph, auto = self.graph, self.numbers.autocast
        q, k, v = (graph.cast(each, auto) if auto else each for each in values)
        values.clear()
        fused = self.fused and not written
        table = self._bias(q, tensors, heads, keys, pairs=keys * min(keys, out.places), masked=masked and fused)
        if not fused:
            return self._attend_eager(out, q, k, v, table, heads, keys, wide=wide)
        if table is not None and auto:
            table = graph.cast(table, auto)
        sums = graph.new(q.rows, heads, 4)
        made = graph.op(
            [q, k, v, *([] if table is None else [table])], out.channels, element=q.element, saves=[q, k, v, sums, table],
            saves_output=True, work=2 * q.bytes if q.element < 4 else 0,
        )  # fmt: skip
        return graph.copy(made) if heads_first else made

    def _bias(
        self, q: Value, tensors: Sequence[Tensor], heads: int, keys: int, *, pairs: int, masked: bool
    ) -> Value | None:
        """Return what is added to scores: looked up for each pair of a window, and for each window where it is masked."""
        graph = self.graph
        if not tensors:
            return None
        weight = self.weights(tensors)[0]
        looked = graph.op([graph.constant(1, 1, weight.element)], heads, rows=pairs, weights=[weight], kind=FIXED)
        bias = graph.copy(looked)
        if not masked:
            return bias
        return graph.op([bias], heads, rows=q.rows * keys, kind=TOKENS)

    def _attend_eager(
        self, out: Map, q: Value, k: Value, v: Value, bias: Value | None, heads: int, keys: int, *, wide: bool
    ) -> Value:
        graph, auto = self.graph, self.numbers.autocast
        element = q.element
        if k.storage is v.storage:  # parts of one product, which matrices by heads are copied out of
            k, v = graph.copy(k), graph.copy(v)
        q = graph.pointwise(q, keeps="nothing")
        scores = graph.matmul(q, k, q.rows, heads * keys)
        if bias is not None:
            scores = graph.op([scores, bias], scores.width, rows=scores.rows)
        if wide or (auto and self.dialect.wide_norms):
            scores = graph.cast(scores, 4)
        share = graph.pointwise(scores, keeps="output")
        del scores, q, k
        share = graph.cast(share, element)
        return graph.copy(graph.matmul(share, v, share.rows, out.channels))

    def _table(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        return self.graph.new(out.places, out.channels, 4, kind=FIXED)

    def _rotate(self, out: Map, values: list[Value], tensors: Sequence[Tensor], *, first: int) -> Value:
        graph = self.graph
        x, cosines, sines = values
        places = out.places - first
        element = max(x.element, cosines.element)
        turned = self._seen(x, self.batch * places, x.width)
        halves = graph.halves(turned, [x.width // 2] * 2)
        swapped = graph.join([graph.pointwise(halves[1], keeps="nothing"), halves[0]])
        del halves
        straight = graph.op([turned], element=element, saves=[cosines])
        crossed = graph.op([swapped], element=element, saves=[sines])
        del turned, swapped
        made = graph.op([graph.add(straight, crossed), x], rows=x.rows, element=element)
        del straight, crossed
        return made

    def _products(self, out: Map, values: list[Value], tensors: Sequence[Tensor], *, heads: int) -> Value:
        graph, auto = self.graph, self.numbers.autocast
        q, k, v = values
        scores = graph.matmul(q, k, q.rows, heads * (k.rows // self.batch))
        scores = graph.pointwise(scores, keeps="nothing")
        if auto and self.dialect.wide_norms:
            scores = graph.cast(scores, 4)
        share = graph.pointwise(scores, keeps="output")
        del scores
        if auto:
            share = graph.cast(share, auto)
        return graph.matmul(v, share, v.rows, out.channels)

    def detection_loss(
        self, maps: Sequence[Map], classes: int, *, proto: Map | None, mixed: Map | None, anchored: bool
    ) -> Map:
        """Run a detector's loss, if anything is trained."""
        values = [each.value for each in maps]
        if not self.graph.needs(*values):
            return maps[0]
        if not self.compares:
            parts = [self.graph.op([value], 1, rows=1, element=4) for value in values]
            return Map(1, 1, 1, self.graph.op(parts, 1, rows=1))
        found = detection.loss(
            self,
            values,
            classes,
            proto=proto.value if proto else None,
            mixed=mixed.value if mixed else None,
            anchored=anchored,
        )
        return Map(1, 1, 1, found)

    def _strength(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        graph = self.graph
        x = graph.cast(values[0], 4) if self.numbers.autocast and self.dialect.wide_norms else values[0]
        return graph.op([x], rows=self.rows(out), saves=[x], saves_output=True)

    def _relative(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        graph, x = self.graph, values[0]
        mean = graph.op([x], 1)
        mean = graph.pointwise(mean, keeps="nothing")
        return graph.op([x, mean], x.width, saves=[x, mean])

    def _affine(self, out: Map, values: list[Value], tensors: Sequence[Tensor]) -> Value:
        weights, x = self.weights(tensors), values[0]
        return self.graph.op([x], element=max(x.element, weights[0].element), saves=[x] if weights[0].slot else [],
                             weights=weights)  # fmt: skip


__all__ = ["Dialect", "Record", "Tape"]
