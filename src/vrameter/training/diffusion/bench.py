"""What the blocks of diffusers are made of, as operations on a graph of sizes.

A `Bench` runs one block: it finds the block's tensors by diffusers' names and calls the operations that the block's own
code calls, so that local variables hold tensors just as long. What makes a block differ from a language model's layer is
here: two streams, modulations made of the time step, convolutions, rotations in fp32.

References
----------
.. [1] diffusers 0.42.1: ``models/attention.py``, ``models/attention_processor.py``, ``models/normalization.py``,
       ``models/embeddings.py``.
.. [2] PyTorch 2.13, ``derivatives.yaml``: what each operation keeps; ``autocast_mode.h``: norms run in fp32 under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vrameter.model.architecture import Tensor
from vrameter.training.graph import FIXED, TOKENS, Graph, Slot, Storage, Value, Weight
from vrameter.training.programs.scene import Kernels, Numbers, Scene, Traits, Use


@dataclass
class Bench:
    """Where the program of a block runs.

    Parameters
    ----------
    samples
        Pictures or videos of one pass. [samples]
    named
        The block's tensors by name: ``attn.to_q.weight``.
    auto
        Size of the numbers that autocast computes matrices in; 0 without autocast. [bytes]
    element
        Size of one number of the streams. [bytes]
    head_dim, inner
        Width of one head, and of all query heads together. [elements]
    steered
        Whether what the time step makes requires a gradient.
    time_width
        Width of the embedded time step. [elements]
    read_rows, read_width, read_grad
        The text that cross-attention reads: its tokens over all samples, its width, whether it requires a gradient.
    traits
        How a class differs: ``rotary`` (positions turn queries and keys), ``masked`` (it makes a
        mask for itself), ``square-mask`` (of all pairs of tokens, switches turned into numbers), ``fp32-table``, ``fp32-text``, ``fp32-time``, ``fp32-stream`` (modulations, the text, the time step, what
        flows from block to block are fp32 under autocast).
    crossed_head
        Width of one head of cross-attention, where it is another. [elements]
    """

    graph: Graph
    samples: int
    named: Mapping[str, Tensor]
    use: Callable[[Tensor], Use]
    auto: int = 0
    element: int = 2
    head_dim: int = 64
    steered: bool = True
    time_width: int = 0
    read_rows: int = 0
    read_width: int = 0
    read_grad: bool = False
    traits: frozenset[str] = frozenset()
    crossed_head: int = 0
    inner: int = 0
    scene: Scene = field(init=False)

    def __post_init__(self) -> None:
        numbers = Numbers(self.auto or self.element, self.element, self.auto)
        self.scene = Scene(self.graph, self.samples, 1, numbers, Kernels(), Traits(), self.use)

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.inner // self.head_dim

    # -- tensors ------------------------------------------------------------------------------------

    def tensor(self, name: str) -> Tensor | None:
        """Return the matrix or the scale of a module, or a bare parameter; None where the block has none."""
        return self.named.get(f"{name}.weight") or self.named.get(name)

    def has(self, name: str) -> bool:
        """Say whether the block has a module or a parameter."""
        return self.tensor(name) is not None

    def weight(self, name: str) -> Weight:
        """Return a tensor as an operation sees it."""
        tensor = self.tensor(name)
        assert tensor is not None, name
        return self.scene.weight(tensor)

    def shared(self, rows: int, width: int, *, grad: bool, element: int = 0) -> Value:
        """Return a tensor that all blocks share and that is counted elsewhere."""
        made = self.graph.constant(rows, width, element or self.auto or self.element)
        made.slot = Slot(made.bytes) if grad and self.graph.keeps else None
        return made

    # -- matrices -----------------------------------------------------------------------------------

    def linear(self, x: Value, name: str) -> Value:
        """Run a linear layer with its adapter."""
        return self.scene.linear(x, self.tensor(name))

    def convolve(self, x: Value, name: str, *, shrinks: int = 1) -> Value:
        """Run a convolution over a map of `x.rows` places; its input is kept even where its kernel is frozen.

        Parameters
        ----------
        shrinks
            Its stride along an edge.
        """
        tensor = self.tensor(name)
        assert tensor is not None, name
        graph, weight, auto = self.graph, self.scene.weight(tensor), self.auto
        cast: Storage | None = None
        if auto:
            x = graph.cast(x, auto)
            if weight.element != auto:
                cast = weight.cast or Storage(graph, weight.size * auto, FIXED)
                if weight.slot is not None and graph.keeps:
                    weight.cast = cast
        out = graph.op([x], tensor.shape[0], rows=x.rows // shrinks**2, element=auto or max(x.element, weight.element),
                       saves=[x], weights=[weight])  # fmt: skip
        if out.slot is not None and cast is not None:
            graph.nodes[-1].saved.append(cast)
        adapter = self.use(tensor).adapter
        return out if adapter is None else self.scene.adapted(x, out, tensor, adapter)

    # -- norms --------------------------------------------------------------------------------------

    def layer_norm(self, x: Value, name: str = "", *, heads: int = 0) -> Value:
        """Run a LayerNorm: its input and two statistics are kept; autocast runs it in fp32."""
        graph = self.graph
        source = graph.cast(x, 4) if self.auto else x
        weights = [self.weight(name)] if name and self.has(name) else []
        stats = graph.new(x.rows * (heads or 1), 2, 4)
        return graph.op([source], saves=[source, stats], weights=weights)

    def wide_norm(self, x: Value, name: str = "") -> Value:
        """Run a LayerNorm on fp32 copies of its input and of its scale and shift (``FP32LayerNorm``)."""
        graph = self.graph
        wide, weights = graph.cast(x, 4), [self.weight(name)] if name and self.has(name) else []
        stats = graph.new(x.rows, 2, 4)
        copies = [Storage(graph, 2 * weight.size * 4, FIXED) for weight in weights if weight.element < 4]
        out = graph.op([wide], saves=[wide, stats], weights=weights)
        if out.slot is not None:
            graph.nodes[-1].saved += copies
        return graph.cast(out, x.element)

    def rms(self, x: Value, name: str = "", *, heads: int = 1) -> Value:
        """Run torch's RMSNorm, one kernel: its input and one statistic are kept."""
        graph = self.graph
        weights = [self.weight(name)] if name and self.has(name) else []
        stat = graph.new(x.rows * heads, 1, 4)
        return graph.op([x], saves=[x, stat], weights=weights)

    def plain_rms(self, x: Value, name: str = "", *, heads: int = 1) -> Value:
        """Run diffusers' own RMSNorm, operation by operation: squares in fp32, a product with the input as it came."""
        graph, width = self.graph, x.width
        x = x.view(x.rows * heads, x.width // heads)
        element = x.element
        variance = graph.op([graph.pointwise(graph.cast(x, 4))], 1)
        x = graph.mul(x, graph.pointwise(variance, keeps="output"))
        del variance
        if name and self.has(name):
            weight = self.weight(name)
            x = graph.scale(graph.cast(x, weight.element) if weight.element < 4 else x, weight)
        else:
            x = graph.cast(x, element)
        return x.view(x.rows // heads, width)

    def group_norm(self, x: Value, name: str, *, groups: int = 32) -> Value:
        """Run a GroupNorm: its input and two statistics for each sample and group are kept."""
        graph = self.graph
        source = graph.cast(x, 4) if self.auto else x
        stats = graph.new(self.samples * groups, 2, source.element)
        return graph.op([source], saves=[source, stats], weights=[self.weight(name)])

    # -- modulation ---------------------------------------------------------------------------------

    def time(self) -> Value:
        """Return the embedded time step, one row for each sample."""
        element = 4 if self.auto and "fp32-time" in self.traits else 0
        return self.shared(self.samples, self.time_width, grad=self.steered, element=element)

    def modulation(self, name: str, parts: int) -> list[Value]:
        """Return shifts, scales and gates that a matrix makes of the activated time step."""
        time = self.time()
        made = self.linear(self.graph.op([time], saves=[time], kind=TOKENS), name)
        return self.graph.halves(made, [made.width // parts] * parts)

    def rows_given(self, parts: int) -> list[Value]:
        """Return shifts, scales and gates that all blocks share."""
        width = self.inner
        made = self.shared(self.samples, parts * width, grad=self.steered)
        return self.graph.halves(made, [width] * parts)

    def table(self, name: str, parts: int, width: int) -> list[Value]:
        """Return shifts, scales and gates that all blocks share, with a table of the block's own added."""
        graph = self.graph
        shared = self.shared(self.samples, parts * width, grad=self.steered)
        weight = self.weight(name)
        element = max(shared.element, weight.element) if "fp32-table" not in self.traits else 4
        made = graph.op([shared], element=element, weights=[weight], kind=TOKENS)
        return graph.halves(made, [width] * parts)

    def plus_one(self, scale: Value) -> Value:
        """Return one plus a scale."""
        return self.graph.op([scale], kind=TOKENS)

    def times(self, x: Value, factor: Value) -> Value:
        """Multiply a stream by one row for each sample; the gradient of that row is summed over a product as large as `x`."""
        work = x.bytes if factor.slot is not None else 0
        return self.graph.op([x, factor], saves=[x if factor.slot else None, factor if x.slot else None], work=work)

    def plus(self, x: Value, term: Value) -> Value:
        """Add one row for each sample."""
        graph = self.graph
        out = graph.new(x.rows, x.width, max(x.element, term.element), grad=graph.needs(x, term), kind=x.storage.kind)
        if out.slot is not None:
            graph.record((x,) if x.slot is not None else (term,), (out,), passes=x.slot is not None)
        return out

    def modulated(self, x: Value, scale: Value, shift: Value) -> Value:
        """Scale a normalised stream by one plus a scale, and shift it."""
        return self.plus(self.times(x, self.plus_one(scale)), shift)

    # -- streams ------------------------------------------------------------------------------------

    def stacked(self, first: Value, second: Value) -> Value:
        """Put the tokens of two streams one after another; gradients are views."""
        graph = self.graph
        out = graph.new(first.rows + second.rows, first.width, max(first.element, second.element),
                        grad=graph.needs(first, second))  # fmt: skip
        if out.slot is not None:
            graph.record((first, second), (out,), passes=True)
        return out

    def parted(self, x: Value, rows: Sequence[int]) -> list[Value]:
        """Return views of some of the tokens each."""
        graph = self.graph
        grad = graph.needs(x)
        parts = [Value(x.storage, each, x.width, x.element, Slot(each * x.width * x.element) if grad else None)
                 for each in rows]  # fmt: skip
        if grad:
            graph.record((x,), parts)
        return parts

    def dense(self, x: Value) -> Value:
        """Copy a view of some of the tokens where several samples make it scattered, as a linear layer does that casts none."""
        if self.auto and x.element != self.auto:
            return x
        return self.graph.copy(x) if self.samples > 1 and x.storage.bytes > x.bytes else x

    # -- attention ----------------------------------------------------------------------------------

    def turned(self, x: Value) -> Value:
        """Turn heads by their positions in fp32: two products with tables that all blocks share."""
        graph = self.graph
        if "rotary" not in self.traits:
            return x
        other = graph.join([graph.op([x], x.width // 2), x.view(x.rows, x.width // 2)])
        return graph.cast(graph.add(graph.op([graph.cast(x, 4)]), graph.op([graph.cast(other, 4)])), x.element)

    def turned_complex(self, x: Value) -> Value:
        """Turn heads as complex numbers in fp32."""
        graph = self.graph
        if "rotary" not in self.traits:
            return x
        return graph.cast(graph.op([graph.cast(x, 4)]), x.element)

    def attend(self, q: Value, k: Value, v: Value, *, heads_first: bool = False, masks: int = 0) -> Value:
        """Run torch's fused attention: queries, keys, values, output and one sum for each head and token are kept.

        Parameters
        ----------
        masks
            Rows of a mask over all keys that this attention makes for itself, for each sample.
        """
        graph, auto, element = self.graph, self.auto, q.element
        if auto:
            q, k, v = (graph.cast(each, auto) for each in (q, k, v))
        sums = graph.new(q.rows, q.width // self.head_dim, 4)
        if masks and "square-mask" in self.traits:
            masks = k.rows // self.samples
            graph.touch(2 * k.rows * masks)
        mask = graph.new(k.rows, masks, q.element) if masks else None
        out = graph.op([q, k, v], v.width, element=q.element, saves=[q, k, v, sums, mask], saves_output=True,
                       work=2 * q.bytes if q.element < 4 else 0)  # fmt: skip
        return graph.cast(graph.copy(out) if heads_first else out, element)

    def read(self) -> Value:
        """Return the text that cross-attention reads."""
        element = 4 if self.auto and "fp32-text" in self.traits else 0
        return self.shared(self.read_rows, self.read_width, grad=self.read_grad, element=element)

    # -- perceptrons --------------------------------------------------------------------------------

    def perceptron(self, x: Value, name: str) -> Value:
        """Run ``FeedForward`` with GELU between its two matrices."""
        return self.linear(self.graph.pointwise(self.linear(x, f"{name}.net.0.proj")), f"{name}.net.2")

    def gated(self, x: Value, name: str) -> Value:
        """Run ``FeedForward`` whose first matrix makes a gate as well."""
        return self.linear(self.split_gate(self.linear(x, f"{name}.net.0.proj")), f"{name}.net.2")

    def split_gate(self, x: Value) -> Value:
        """Multiply one half of `x` by the activated other half; both are views of one tensor."""
        graph = self.graph
        first, gate = graph.halves(x, [x.width // 2, x.width // 2])
        del x
        return graph.mul(first, graph.pointwise(gate))


__all__ = ["Bench"]
