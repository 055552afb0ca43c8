"""The modules that programs are made of: linear layers with their adapters, norms, rotations, attention, perceptrons.

Each reads like the module it stands for, so that local variables hold tensors just as long.

References
----------
.. [1] transformers 5.23: ``modeling_llama.py`` and its relatives; ``integrations/sdpa_attention.py``; ``integrations/moe.py``.
.. [2] peft 0.21, ``tuners/lora/layer.py``: the input is cast to the adapter's dtype, dropped out, and multiplied twice.
.. [3] bitsandbytes 0.50, ``autograd/_functions.py``: a 4-bit matrix is unpacked for each product, forward and backward.
.. [4] Liger-Kernel 0.8, ``ops``: what the fused norms, rotations and activations keep.
.. [5] PyTorch 2.13, ``distributed/tensor/experimental/_context_parallel/_attention.py``: all-gather of keys and values.
.. [6] AutoGPTQ 0.7, ``nn_modules/qlinear/qlinear_cuda_old.py``: ``torch.matmul`` with a matrix made by shifts of int32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

from vrameter.model.architecture import Attention, FeedForward, Layer, Part, Tensor
from vrameter.training.graph import FIXED, PAIRS, Graph, Region, Slot, Storage, Value, Weight
from vrameter.training.programs.adapters import AdapterUse, run, site_of

# Checkpoints whose outputs are discarded as well, for what follows keeps them.
DISCARDED = ("layernorm", "mla_up_proj", "moe_act")


@dataclass(frozen=True, slots=True)
class Use:
    """How a step uses one tensor of the model.

    Parameters
    ----------
    element
        Size of one number as it is multiplied with. [bytes]
    grad_element
        Size of one number of its gradient. [bytes]
    unpacked
        Bytes that one product unpacks a quantised matrix to. [bytes]
    keeps_input
        Size of the numbers in which a product keeps a copy of its input instead of the input: of a frozen matrix all the same
        (bitsandbytes before 0.43), in float8 (Transformer Engine); 0: none. [bytes]
    unpacking
        Bytes that unpacking takes on the way, where autograd keeps the unpacked matrix (AutoGPTQ [6]_); 0: it is unpacked
        again. [bytes]
    """

    element: int
    trained: bool
    grad_element: int = 0
    unpacked: int = 0
    keeps_input: int = 0
    unpacking: int = 0
    adapter: AdapterUse | None = None


@dataclass(frozen=True, slots=True)
class Numbers:
    """Sizes of the numbers that a step computes with. [bytes].

    Parameters
    ----------
    compute
        Of what matrices make.
    residual
        Of what flows from layer to layer.
    autocast
        Of matrix products under autocast, 0 without it.
    """

    compute: int
    residual: int
    autocast: int = 0


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which kernels a step runs.

    Parameters
    ----------
    attention
        ``eager``, ``sdpa`` (a fused kernel of torch), ``flash`` (packed, grouped heads kept as they are) or ``cudnn``.
    repeats_kv
        Whether keys and values are copied out to every query head before a fused kernel.
    norm, rope, activation
        Whether a fused kernel, or a compiler that fuses what stands between matrix products, replaces the module's own
        operations: it keeps inputs and makes the rest again in the backward pass.
    local
        Whether Megatron's own modules run in place of Transformer Engine's.
    masks
        Whether attention in separate operations keeps a mask of padding in each layer.
    """

    attention: str = "sdpa"
    repeats_kv: bool = False
    norm: bool = False
    rope: bool = False
    activation: bool = False
    local: bool = False
    masks: bool = False


@dataclass(frozen=True, slots=True)
class Traits:
    """How a family's layer differs from Llama's beyond its widths."""

    norm: str = "rms"
    layout: str = "pre"
    activation: str = "native"
    rotary: str = "half"
    rotary_share: float = 1.0
    heads_first: bool = False
    softcap: bool = False
    softmax_fp32: bool = True
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    router: str = "softmax"
    widens_logits: bool = True


@dataclass
class Scene:
    """Where a program runs: the graph, the tokens, and how weights are used.

    Parameters
    ----------
    seqs, length
        Sequences and the tokens of each on this device. [sequences], [tokens]
    keys
        Tokens that one token's attention spans in memory, where that is not `length`. [tokens]
    enabled
        Adapters by slot, for stacks that name what is adapted by its part in the layer.
    ranks
        Devices among which tokens are split between matrices (sequence parallelism). [devices]
    exchanges
        Whether routed tokens travel between devices.
    routing
        What a device's experts get of them, in thousandths of an even share.
    expert_ranks
        Devices that split each expert, so that all their tokens meet there. [devices]
    memory_tokens
        Tokens of an encoder that cross-attention reads. [tokens]
    prompt_element
        Size of the numbers of a learned prompt that each layer attends to; 0 without one. [bytes]
    checkpoints
        Parts of a layer that run again in the backward pass, under Megatron's names.
    offloads
        Parts of a layer whose kept tensors go to host memory, under Megatron's names.
    prefix_tokens
        Learned keys and values before those of each sequence. [tokens]
    beside_tokens
        Learned tokens to which the layer's queries attend a second time. [tokens]
    mask_element
        Size of one number of what dropout keeps: 1 on a GPU, that of its input on a CPU. [bytes]
    """

    graph: Graph
    seqs: int
    length: int
    numbers: Numbers
    kernels: Kernels
    traits: Traits
    use: Callable[[Tensor], Use]
    keys: int = 0
    enabled: Mapping[str, AdapterUse] = field(default_factory=dict)
    prompt_element: int = 0
    prefix_tokens: int = 0
    beside_tokens: int = 0
    ranks: int = 1
    exchanges: bool = False
    routing: int = 1000
    expert_ranks: int = 1
    memory_tokens: int = 0
    checkpoints: frozenset[str] = frozenset()
    offloads: frozenset[str] = frozenset()
    mask_element: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of one forward pass on this device."""
        return self.seqs * self.length

    def memory(self, width: int) -> Value:
        """Return what an encoder hands to cross-attention: one tensor for all layers, counted with the encoder."""
        made = self.graph.constant(self.memory_tokens or self.tokens, width, self.numbers.residual)
        made.slot = Slot(made.bytes) if self.graph.keeps else None
        return made

    def gathered(self, x: Value) -> Value:
        """Return what a column-split matrix made, counted over all tokens: under sequence parallelism they meet there."""
        if self.ranks == 1:
            return x
        graph = self.graph
        out = graph.new(x.rows * self.ranks, x.width, x.element, grad=x.slot is not None)
        if x.slot is not None:
            graph.record((x,), (out,))
        return out

    def checkpoint(
        self, name: str, run: Callable[..., list[Value]], *inputs: Value
    ) -> tuple[Region | None, list[Value]]:
        """Run a part of a layer, so that it runs again in the backward pass where it is named among the checkpoints."""
        if name in self.checkpoints:
            return self.graph.checkpoint(run, *inputs, discards=name in DISCARDED)
        return None, run(*inputs)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run a part of a layer, whose kept tensors go to host memory where it is named among the offloads."""
        graph = self.graph
        before, graph.away = graph.away, graph.away or name in self.offloads
        yield
        graph.away = before

    # -- weights ------------------------------------------------------------------------------------

    def weight(self, tensor: Tensor) -> Weight:
        """Return a tensor as an operation sees it."""
        use = self.use(tensor)
        return Weight(
            tensor.size, use.element, trained=use.trained, grad_element=use.grad_element, unpacked=use.unpacked,
            keeps_input=use.keeps_input, unpacking=use.unpacking,
        )  # fmt: skip

    def linear(self, x: Value, tensor: Tensor | None, *, outputs: int = 0, fan: int = 1) -> Value:
        """Run a linear layer with its adapter; `outputs` where the matrix is stored inputs first."""
        assert tensor is not None
        use = self.use(tensor)
        width = outputs or tensor.size // x.width

        def base(value: Value) -> Value:
            return self.graph.linear(value, self.weight(tensor), width, compute=self.numbers.autocast)

        return base(x) if use.adapter is None else self._run(x, base, width, use, use.adapter)

    def head_linear(self, x: Value, tensor: Tensor, width: int) -> Value:
        """Run the output layer of a stack that names adapters by slot."""
        out = self.graph.linear(x, self.weight(tensor), width, compute=self.numbers.autocast)
        if any(each.method == "adapter_v2" for each in self.enabled.values()):
            return self.scaled(out)
        adapter = self.enabled.get("head")
        return out if adapter is None else self.adapted(x, out, tensor, adapter)

    def scaled(self, out: Value) -> Value:
        """Shift and scale what a frozen matrix made, by trained vectors."""
        graph, element = self.graph, out.element
        shifted = graph.op([out], weights=[Weight(out.width, element, trained=True)])
        return graph.scale(shifted, Weight(out.width, element, trained=True))

    def grouped(self, x: Value, tensor: Tensor, width: int) -> Value:
        """Run a product with stacked matrices, one for each group of rows; autocast does not know this operation.

        An adapter of stacked matrices changes the whole stack before the product, which keeps the changed one.
        """
        use = self.use(tensor)
        if use.adapter is None or not use.adapter.folded:
            out = self.graph.linear(x, self.weight(tensor), width)
            return out if use.adapter is None else self.adapted(x, out, tensor, use.adapter)
        graph, rank = self.graph, use.adapter.rank
        stack = tensor.size // (x.width * width)
        factors = [Weight(stack * rank * size, use.adapter.element, trained=True) for size in (x.width, width)]
        changed = graph.new(tensor.size // x.width, x.width, use.element, grad=graph.keeps, kind=FIXED)
        graph.touch(
            use.unpacked + (stack * rank * (x.width + width) * use.element if use.adapter.element != use.element else 0)
        )
        graph.record((), (changed,), weights=factors)
        return graph.op([x, changed], width, element=x.element, saves=[x, changed if x.slot else None])

    def adapted(self, x: Value, out: Value, tensor: Tensor, adapter: AdapterUse) -> Value:
        """Add an adapter to what a frozen matrix made of `x`."""
        return self._run(x, lambda _: out, out.width, self.use(tensor), adapter)

    def _run(self, x: Value, base: Callable[[Value], Value], width: int, use: Use, adapter: AdapterUse) -> Value:
        return run(site_of(self, base, x.width, width, adapter, stored=use.element, unpacked=use.unpacked), x)

    def dropout(self, x: Value) -> Value:
        """Drop numbers out: the kernel keeps one byte each to know which."""
        graph = self.graph
        if x.slot is None:
            return graph.op([x])
        mask = graph.new(x.rows, x.width, self.mask_element, kind=x.storage.kind)
        return graph.op([x], saves=[mask])

    # -- norms --------------------------------------------------------------------------------------

    def norm(self, x: Value, tensors: Sequence[Tensor], *, kind: str = "", heads: int = 0) -> Value:
        """Run a norm; `heads` where each head is normalised on its own."""
        graph = self.graph
        kind = kind or self.traits.norm
        if heads:
            x = x.view(x.rows * heads, x.width // heads)
        weights = [self.weight(tensor) for tensor in tensors]
        out = self._norm(graph, x, weights, kind)
        return out.view(out.rows // heads, out.width * heads) if heads else out

    def _norm(self, graph: Graph, x: Value, weights: list[Weight], kind: str) -> Value:
        if kind == "layer":
            source = graph.cast(x, 4) if self.numbers.autocast else x
            stats = graph.new(x.rows, 2, 4)
            return graph.op([source], saves=[source, stats], weights=weights)
        if self.kernels.norm:
            rstd = graph.new(x.rows, 1, 4)
            return graph.op([x], saves=[x, rstd], weights=weights)
        if kind == "t5":
            return self._t5_norm(graph, x, weights)
        element = x.element
        wide = graph.cast(x, 4)
        if kind == "cohere":
            mean = graph.op([wide], 1)
            centred = graph.add(wide, mean)
            variance = graph.op([graph.pointwise(graph.add(wide, mean))], 1)
            normal = graph.mul(centred, graph.pointwise(variance, keeps="output"))
            del centred, mean
            return graph.cast(graph.scale(normal, weights[0], product_element=4), element)
        variance = graph.op([graph.pointwise(wide)], 1)
        factor = graph.pointwise(variance, keeps="input" if kind == "gemma4" else "output")
        if kind in ("gemma", "gemma4"):
            normal = graph.mul(wide, factor)
            return graph.cast(self._plus_one(graph, normal, weights, kind), element)
        wide = graph.mul(wide, factor)
        if not weights:
            return graph.cast(wide, element)
        if kind == "late":
            return graph.cast(graph.scale(wide, weights[0]), element)
        return graph.scale(graph.cast(wide, element), weights[0])

    def _t5_norm(self, graph: Graph, x: Value, weights: list[Weight]) -> Value:
        variance = graph.op([graph.pointwise(graph.cast(x, 4))], 1)
        x = graph.mul(x, graph.pointwise(variance, keeps="output"))
        return graph.scale(graph.cast(x, min(x.element, weights[0].element)), weights[0])

    @staticmethod
    def _plus_one(graph: Graph, normal: Value, weights: list[Weight], kind: str) -> Value:
        """Multiply by one plus the weights, which are made anew in fp32 and kept."""
        if not weights:
            return normal
        weight = weights[0]
        made = kind == "gemma" or weight.element != 4
        out = graph.scale(normal, weight, product_element=4)
        if made and out.slot is not None and normal.slot is not None:
            graph.nodes[-1].saved.append(Storage(graph, weight.size * 4, FIXED))
        return out

    # -- attention ----------------------------------------------------------------------------------

    def rotated(self, x: Value, head_dim: int) -> Value:
        """Turn the heads of queries or keys by their positions; cosines and sines are shared by all layers."""
        graph, traits = self.graph, self.traits
        if traits.rotary == "none":
            return x
        if self.kernels.rope:
            out = graph.add(x, x, into=True) if x.slot is not None else x
            return Value(x.storage, x.rows, x.width, x.element, out.slot)
        table = graph.constant(self.tokens, head_dim, x.element)
        turned_width = int(x.width * traits.rotary_share)
        if turned_width < x.width:
            turned, rest = graph.halves(x, [turned_width, x.width - turned_width])
            return graph.join([self._turned(turned, table), rest])
        return self._turned(x, table)

    def _turned(self, x: Value, table: Value) -> Value:
        graph = self.graph
        return graph.add(graph.mul(x, table), graph.mul(self.half_turn(x), table))

    def half_turn(self, x: Value) -> Value:
        """Swap the halves of a head, one of them negated."""
        graph = self.graph
        first, second = graph.halves(x, [x.width // 2, x.width - x.width // 2])
        return graph.join([graph.pointwise(second, keeps="nothing"), first])

    def attend(self, part: Attention, q: Value, k: Value, v: Value) -> Value:
        """Run the attention kernel on queries, keys and values."""
        graph, kernels = self.graph, self.kernels
        out_width = part.num_heads * part.value_dim
        auto = self.numbers.autocast
        repeats = part.num_heads // max(1, part.num_kv_heads)
        held: list[Value] = []
        if self.prefix_tokens and part.scope != "cross":
            k, v = self._prefixed(k), self._prefixed(v)
            held = [k, v]
        if kernels.attention == "eager" or (self.traits.softcap and kernels.attention == "sdpa"):
            return self._eager(part, q, k, v, repeats)
        if auto:
            q, k, v = (graph.cast(each, auto) for each in (q, k, v))
        # Keys that are more than queries need a mask, and with a mask grouped heads are copied out.
        if (kernels.repeats_kv or (self.prefix_tokens and kernels.attention == "sdpa")) and repeats > 1:
            k = graph.copy(k, width=part.num_heads * part.head_dim)
            v = graph.copy(v, width=out_width)
        sums = graph.new(q.rows, part.num_heads, 4)
        shared, arriving = self._ring(q, k, v)
        if held and kernels.attention == "sdpa":
            held.append(graph.new(q.rows, self.length + self.prefix_tokens, q.element, kind=PAIRS))
        # A cache that holds learned keys keeps them joined with the sequence's; the mask is made anew in each layer.
        out = graph.op([q, k, v], out_width, element=q.element, saves=[q, k, v, sums, *held], saves_output=True,
                       work=(q.bytes * 2 if q.element < 4 else 0) + arriving, scratch=shared)  # fmt: skip
        del sums, q, k, v, held
        # The kernel lays its output out as the queries are: heads before tokens where these were put together anew.
        return graph.copy(out) if self.traits.heads_first else out

    def _ring(self, q: Value, k: Value, v: Value) -> tuple[int, int]:
        """Return what attention over sequences that devices share takes beside its tensors, forwards and backwards. [bytes].

        All keys and values are gathered, and put together once more for sending; outputs and gradients add up in fp32, those
        of keys and values travel on.
        """
        if self.keys <= self.length:
            return 0, 0
        pair = k.bytes + v.bytes
        gathered = pair * (self.keys // self.length) + pair
        wide = 4 // q.element
        return gathered + wide * q.bytes, gathered + wide * (q.bytes + 3 * pair)

    def _prefixed(self, x: Value) -> Value:
        """Put learned keys or values before those of each sequence, as a cache does that holds them already."""
        graph = self.graph
        past = Value(graph.constant(1, 1, 1).storage, self.seqs * self.prefix_tokens, x.width, x.element, None)
        past.slot = Slot(past.bytes) if graph.keeps else None
        out = graph.new(x.rows + past.rows, x.width, x.element, grad=graph.needs(x, past), kind=x.storage.kind)
        if out.slot is not None:
            graph.record((x, past), (out,), passes=True)
        return out

    def _eager(self, part: Attention, q: Value, k: Value, v: Value, repeats: int) -> Value:
        graph, auto = self.graph, self.numbers.autocast
        if repeats > 1:
            k = graph.copy(k, width=part.num_heads * part.head_dim)
            v = graph.copy(v, width=part.num_heads * part.value_dim)
        if auto:
            q, k, v = (graph.cast(each, auto) for each in (q, k, v))
        q, k, v = (graph.copy(each) if each.storage.bytes > each.bytes else each for each in (q, k, v))
        rows, width = self.seqs * part.num_heads * self.length, (self.keys or self.length) + self.prefix_tokens
        element = q.element
        scores = graph.op([q, k], width, rows=rows, saves=[q if k.slot else None, k if q.slot else None], kind=PAIRS)
        scores = graph.pointwise(scores, keeps="nothing")
        if self.traits.softcap:
            scores = graph.pointwise(scores, keeps="nothing")
            scores = graph.pointwise(scores, keeps="output")
            scores = graph.pointwise(scores, keeps="nothing")
        scores = graph.add(scores, graph.constant(1, 1, element))
        if self.traits.softmax_fp32 or auto:
            scores = graph.op([scores], element=4, saves_output=True)
            scores = graph.cast(scores, element)
        else:
            scores = graph.pointwise(scores, keeps="output")
        if self.traits.attention_dropout:
            scores = self.dropout(scores)
        out = graph.op([scores, v], part.num_heads * part.value_dim, rows=q.rows, element=element,
                       saves=[scores, v], kind=0)  # fmt: skip
        del scores
        return graph.copy(out)

    def beside(self, part: Attention, x: Value, q_tensor: Tensor, o_tensor: Tensor, out: Value) -> Value:
        """Attend to a learned prompt a second time (Llama-Adapter): queries are made anew, a gate weighs the result."""
        graph, rows, width = self.graph, x.rows, part.num_heads * part.head_dim
        tokens, element = self.beside_tokens, out.element
        learned = Weight(tokens * x.width, element, trained=True)
        sides = [graph.new(self.seqs * tokens, width, element, grad=graph.keeps, kind=FIXED) for _ in range(2)]
        graph.record((), sides, weights=[learned])
        q = self.rotated(self.linear(x, q_tensor, outputs=width), part.head_dim)
        scores = graph.matmul(q, sides[0], rows, part.num_heads * tokens)
        del q
        scores = graph.pointwise(scores, keeps="nothing")
        scores = graph.op([scores], element=4, saves_output=True)
        scores = graph.cast(scores, element)
        scores = graph.scale(scores, Weight(1, element, trained=True))
        added = graph.matmul(scores, sides[1], rows, width)
        del scores, sides
        added = graph.copy(added)
        added = self.linear(added, o_tensor, outputs=x.width)
        return graph.add(out, added)

    # -- perceptrons --------------------------------------------------------------------------------

    def activation(self, x: Value) -> Value:
        """Run the activation function."""
        graph = self.graph
        kind = self.traits.activation
        if kind == "new":
            cubed = graph.pointwise(x)
            inner = graph.add(x, graph.pointwise(cubed, keeps="nothing"))
            del cubed
            gate = graph.pointwise(graph.pointwise(inner, keeps="nothing"), keeps="output")
            gate = graph.pointwise(gate, keeps="nothing")
            return graph.mul(graph.pointwise(x, keeps="nothing"), gate)
        if kind == "quick":
            return graph.mul(x, graph.pointwise(graph.pointwise(x, keeps="nothing"), keeps="output"))
        if kind == "squared":
            return graph.pointwise(graph.pointwise(x, keeps="output"))
        if kind == "relu":
            return graph.pointwise(x, keeps="output")
        return graph.pointwise(x)

    def gated(self, gate: Value, up: Value) -> Value:
        """Multiply the activated gate with its partner; fused kernels make the product again when it is needed."""
        graph = self.graph
        if self.kernels.activation:
            return graph.op([gate, up], saves=[gate, up])
        return graph.mul(self.activation(gate), up)

    def perceptron(self, x: Value, part: FeedForward, slots: Mapping[str, Tensor] | None = None) -> Value:
        """Run a dense perceptron, gated or plain."""
        named = by_slot(part.tensors) if slots is None else slots
        down, width = named["down"], part.intermediate_size
        if "gate_up" in named:
            inner = self.linear(x, named["gate_up"], outputs=2 * width)
            return self.linear(self.gated(*self.graph.halves(inner, [width, width])), down, outputs=x.width)
        if part.gated:
            return self.linear(
                self.gated(self.linear(x, named["gate"], outputs=width), self.linear(x, named["up"], outputs=width)),
                down, outputs=x.width,
            )  # fmt: skip
        return self.linear(self.activation(self.linear(x, named["up"], outputs=width)), down, outputs=x.width)


def by_slot(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the matrices of a part by what they are for; the first of each slot."""
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.slot and len(tensor.shape) > 1:
            found.setdefault(tensor.slot, tensor)
    return found


def norms_of(layer: Layer | Part) -> list[tuple[Tensor, ...]]:
    """Return the norms among a layer's or a part's tensors: each a scale with, perhaps, a shift."""
    groups: dict[str, list[Tensor]] = {}
    for tensor in layer.tensors:
        if tensor.role == "norm" and not tensor.buffer:
            groups.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)
    return [tuple(group) for group in groups.values()]


def numel(shape: Sequence[int]) -> int:
    """Return the elements of a shape."""
    return prod(shape)


__all__ = ["AdapterUse", "Kernels", "Numbers", "Scene", "Traits", "Use", "by_slot", "norms_of"]
