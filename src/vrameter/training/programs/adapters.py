"""Adapters of frozen linear layers as programs: what each method's own forward pass keeps and makes.

A program takes a `Site` (the frozen layer and its adapter) and the layer's input, and returns the layer's output. It
reads like the method's ``forward`` in peft: a tensor as large as the matrix that the code makes is made here, so that
its moment and its neighbours count.

References
----------
.. [1] peft 0.21.2, ``tuners/*/layer.py``; every program is compared byte for byte with what is alive after peft's own
       forward pass in ``tests/training/test_adapter_oracle.py``.
.. [2] peft 0.20, ``tuners/osf/utils.py``: OSF put the whole matrix together again in each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vrameter.memory.adapter_methods import METHODS, canonical, kronecker, oft_blocks, options_of, osf_low
from vrameter.memory.adapters import Matrix
from vrameter.training.graph import FIXED, Graph, Slot, Storage, Value, Weight
from vrameter.units import ceil_div

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
    """

    rank: int
    element: int
    dropout: float = 0.0
    method: str = "lora"
    options: Mapping[str, Any] = field(default_factory=dict)
    feedforward: bool = False
    folded: bool = False


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
        if self.unpacked and self.scene.numbers.autocast:
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


def run(site: Site, x: Value) -> Value:
    """Run a frozen linear layer with its adapter; what it makes of its input stands until it returns."""
    if site.use.method == "trainable_tokens":
        return token_rows(site, x)
    made = PROGRAMS[canonical(site.use.method)[0]](site, x)
    if isinstance(made, Value):
        return made
    parts = list(made)
    del made
    element = parts[0].element
    parts = [site.graph.add(*parts)]
    return site.graph.cast(parts.pop(), element)


def site_of(scene: Scene, base: Callable[[Value], Value], inputs: int, outputs: int, use: AdapterUse, *, stored: int,
            unpacked: int = 0) -> Site:  # fmt: skip
    """Return a site, with the options that the method's name implies and peft's defaults."""
    options: Mapping[str, Any] = {}
    if use.method != "trainable_tokens":
        name, implied = canonical(use.method)
        options = options_of(name, {**implied, **use.options})
    return Site(scene, base, inputs, outputs, stored, unpacked, use, options)


# -- low rank -------------------------------------------------------------------------------------------


def lora(site: Site, x: Value) -> Made:
    """Two thin matrices beside the frozen one."""
    out = site.base(x)
    if site.options["use_dora"]:
        return _dora(site, x, out)
    inner = site.entering(x)
    update = _thin(site, inner)
    del inner
    return out, site.graph.pointwise(update, keeps="nothing")


def _thin(site: Site, inner: Value) -> Value:
    """Multiply by two thin matrices, both trained but for LoRA-FA."""
    first = site.weight(site.rank * site.inputs, trained=site.options["trains_A"])
    second = site.weight(site.rank * site.outputs)
    return site.linear(site.linear(inner, first, site.rank), second, site.outputs)


def _dora(site: Site, x: Value, out: Value) -> Made:
    """Scale rows to learned lengths: the merged matrix is made anew, by way of an identity, to measure it."""
    graph, inputs, outputs = site.graph, site.inputs, site.outputs
    inner = site.entering(x)
    through = site.plain(inputs, inputs + site.rank + outputs)
    weight = site.unpacked_weight(inner.element)
    graph.touch(2 * inputs * outputs * inner.element)
    ratio = site.made(1, outputs, site.weight(outputs), saves=(site.plain(1, outputs),))
    update = _thin(site, inner)
    if site.use.dropout:
        out_inner = site.product(inner, weight, outputs)
    else:
        out_inner = out
    less = site.made(1, outputs, ratio)
    scaled = site.times(out_inner, less)
    update = graph.pointwise(site.times(update, ratio), keeps="nothing")
    del inner, out_inner, less, ratio
    update = graph.add(scaled, update)
    del through, weight, scaled
    return out, update


def adalora(site: Site, x: Value) -> Made:
    """Singular values between two thin matrices, divided by the number of ranks."""
    graph = site.graph
    out = site.base(x)
    inner = site.entering(x)
    count = site.plain(1, 1)
    first = site.made(site.rank, site.inputs, site.weight(site.rank * site.inputs), site.weight(site.rank))
    update = site.product(inner, first, site.rank)
    del inner, first
    update = site.linear(update, site.weight(site.rank * site.outputs), site.outputs)
    update = graph.pointwise(update, keeps="nothing")
    trained = site.options["trains_ranknum"] and site.stored < 4
    update = graph.op([update], element=max(update.element, site.element), saves=[update if trained else None, count],
                      weights=[site.weight(1)] if trained else [], work=3 * update.bytes if trained else 0)  # fmt: skip
    return site.into(out, update)


def deft(site: Site, x: Value) -> Made:
    """Take a subspace of outputs away and put another in its place, in fp32."""
    graph, rank = site.graph, min(site.rank, site.outputs)
    out = site.base(x)
    wide = graph.cast(out, 4)
    inner = graph.cast(x, 4)
    wide_side = site.plain(site.outputs, rank, 4) if site.element != 4 else None
    side = site.made(
        site.outputs, rank, site.weight(site.outputs * rank), element=4, saves=(wide_side,), saves_output=True
    )
    correction = site.product(site.product(wide, side, rank), side, site.outputs)
    result = graph.add(wide, correction)
    site.standing += [wide, correction, inner]
    del wide, correction
    if not site.options["para"]:
        right = site.made(rank, site.inputs, site.weight(site.inputs * rank), element=4)
        inner = site.dropped(inner)
        update = site.product(site.product(inner, right, rank), side, site.outputs)
        result = graph.add(result, update)
    return graph.cast(result, x.element)


def delora(site: Site, x: Value) -> Made:
    """Two thin matrices whose lengths are divided out."""
    graph, rank = site.graph, site.rank
    out = site.base(x)
    added = graph.new(out.rows, out.width, out.element)
    inner = site.dropped(x)
    inner = graph.op([inner], element=max(inner.element, site.element))
    first, second = site.weight(rank * site.inputs), site.weight(rank * site.outputs)
    update = site.linear(inner, first, rank)
    del inner
    small = (*(site.plain(1, rank) for _ in range(5)), site.plain(1, 1))
    scale = site.made(1, rank, first, second, site.weight(1), saves=small)
    del small
    update = site.times(update, scale)
    del scale
    update = site.linear(update, second, site.outputs)
    added = site.into(added, update)
    return graph.add(out, added)


def gralora(site: Site, x: Value) -> Made:
    """Thin matrices for each block; a plain pair beside them copies its input once more."""
    graph, blocks, rank = site.graph, site.options["gralora_k"], site.rank
    out = site.base(x)
    update = site.linear(site.dropped(graph.cast(x, site.element)), site.weight(rank * site.inputs), blocks * rank)
    update = graph.copy(update)
    update = site.linear(update, site.weight(rank * site.outputs), site.outputs)
    out = site.into(out, graph.pointwise(graph.cast(update, out.element), keeps="nothing"))
    del update
    hybrid = site.options["hybrid_r"]
    if hybrid:
        update = site.linear(site.dropped(graph.cast(x, site.element)), site.weight(hybrid * site.inputs), hybrid)
        update = site.linear(update, site.weight(hybrid * site.outputs), site.outputs)
        out = site.into(out, graph.pointwise(graph.cast(update, out.element), keeps="nothing"))
    return out


def lily(site: Site, x: Value) -> Made:
    """Second matrices mixed by a router."""
    graph, rank, count = site.graph, site.rank, site.options["num_B"]
    out = site.base(x)
    inner = graph.cast(x, site.element)
    hidden = site.linear(inner, site.weight(rank * site.inputs), rank)
    del inner
    logits = site.linear(hidden, site.weight(rank * count), count)
    wide = graph.op([logits], element=4 if site.scene.numbers.autocast else logits.element, saves_output=True)
    shares = graph.op([wide], count, rows=1, kind=FIXED)
    del logits, wide
    mixed = site.multiplied(rank, site.outputs, shares, site.weight(count * rank * site.outputs), viewed=True)
    update = site.product(hidden, mixed, site.outputs)
    del hidden, mixed, shares
    return graph.add(out, graph.cast(graph.pointwise(update, keeps="nothing"), out.element))


def poly(site: Site, x: Value) -> Made:
    """Thin matrices mixed for each sequence from those of the skills."""
    graph, rank = site.graph, site.rank
    skills, seqs = site.options["n_skills"], site.scene.seqs
    out = site.base(x)
    first = site.made(seqs * site.inputs, rank, site.weight(skills * site.inputs * rank))
    second = site.made(seqs * rank, site.outputs, site.weight(skills * site.outputs * rank))
    inner = graph.cast(x, site.element)
    update = site.product(site.product(inner, first, rank), second, site.outputs)
    del inner, first, second
    return site.into(out, graph.pointwise(update, keeps="nothing"))


# -- shared projections ---------------------------------------------------------------------------------


def vera(site: Site, x: Value) -> Made:
    """Two trained vectors around two frozen random matrices."""
    graph, rank = site.graph, site.rank
    out = site.base(x)
    update = site.linear(site.entering(x), site.weight(rank * site.inputs, trained=False), rank)
    update = graph.scale(update, site.weight(rank))
    update = site.linear(update, site.weight(rank * site.outputs, trained=False), site.outputs)
    update = graph.scale(update, site.weight(site.outputs))
    return out, update


def pvera(site: Site, x: Value) -> Made:
    """VeRA with a sample drawn for each token."""
    graph, rank = site.graph, site.rank
    out = site.base(x)
    update = site.linear(site.entering(x), site.weight(2 * rank * site.inputs, trained=False), 2 * rank)
    update = graph.scale(update, site.weight(2 * rank))
    mean, spread = graph.halves(update, [rank, rank])
    del update
    spread = graph.pointwise(graph.pointwise(spread, keeps="nothing"), keeps="output")
    noise = graph.new(spread.rows, rank, spread.element)
    update = graph.add(mean, graph.mul(noise, spread))
    del mean, spread, noise
    update = site.linear(update, site.weight(rank * site.outputs, trained=False), site.outputs)
    update = graph.scale(update, site.weight(site.outputs))
    return out, update


def randlora(site: Site, x: Value) -> Made:
    """Scaled random bases: the scaled ones are made anew and kept."""
    graph, rank = site.graph, site.rank
    small = min(site.inputs, site.outputs)
    wide = ceil_div(small, rank) * rank
    out = site.base(x)
    large = max(site.inputs, site.outputs)
    # Where the shared bases are more than this matrix needs, its part of them is copied.
    part = site.plain(large, wide) if site.options["num_bases"] > wide // rank else None
    frozen = site.weight(large * wide, trained=False)
    scaled = site.made(wide, small, site.weight(wide + wide // rank * small))
    inner = site.entering(x)
    if part is not None:
        site.standing.append(part)
    site.standing.append(scaled)
    if small == site.inputs:
        hidden = site.product(inner, scaled, wide)
        update = _by_part(site, hidden, part, frozen, site.outputs)
    else:
        hidden = _by_part(site, inner, part, frozen, wide)
        update = site.product(hidden, scaled, site.outputs)
    del inner, hidden
    return out, graph.pointwise(update, keeps="nothing")


def _by_part(site: Site, x: Value, part: Value | None, frozen: Weight, width: int) -> Value:
    """Multiply by a frozen matrix, or by the copy of a part of it."""
    return site.linear(x, frozen, width) if part is None else site.product(x, part, width)


def vblora(site: Site, x: Value) -> Made:
    """Thin matrices put together from the vectors of a bank."""
    rank, out = site.rank, site.base(x)
    first = _from_bank(site, rank, site.inputs)
    second = _from_bank(site, site.outputs, rank)
    inner = site.entering(x)
    site.standing += [first, second]
    return out, site.product(site.product(inner, first, rank), second, site.outputs)


def _from_bank(site: Site, rows: int, width: int) -> Value:
    length, top = site.options["vector_length"], site.options["topk"]
    pieces = rows * width // length
    logits, bank = site.weight(pieces * site.options["num_vectors"]), site.weight(site.options["num_vectors"] * length)
    chosen = site.plain(pieces, top, 8)
    shares = site.made(pieces, top, logits, saves=(chosen,))
    vectors = site.made(pieces * top, length, bank, saves=(chosen,))
    weighed = site.made(pieces * top, length, shares, vectors, saves=(shares, vectors))
    return site.made(rows, width, weighed)


def unilora(site: Site, x: Value) -> Made:
    """Thin matrices picked from one trained vector."""
    rank, out = site.rank, site.base(x)
    vector = site.weight(site.options["theta_d_length"])
    first, second = site.made(rank, site.inputs, vector), site.made(site.outputs, rank, vector)
    inner = site.entering(x)
    site.standing += [first, second]
    return out, site.product(site.product(inner, first, rank), second, site.outputs)


def tinylora(site: Site, x: Value) -> Made:
    """Run a small trained matrix between frozen singular vectors."""
    graph, rank, out = site.graph, site.rank, site.base(x)
    middle = site.multiplied(
        rank, rank, site.weight(site.options["u"]), site.weight(site.options["u"] * rank * rank, trained=False), viewed=True,
    )  # fmt: skip
    inner = graph.cast(site.dropped(x), site.element)
    hidden = site.linear(inner, site.weight(rank * site.inputs, trained=False), rank)
    hidden = site.product(hidden, middle, rank)
    update = site.linear(hidden, site.weight(rank * site.outputs, trained=False), site.outputs)
    site.standing += [inner, update]
    return out, update


def adamss(site: Site, x: Value) -> Made:
    """Thin matrices for groups of outputs, in the base's own numbers; a frozen basis of inputs is cast anew."""
    graph, rank, inner = site.graph, site.rank, site.options["subspace_rank"]
    groups = site.options["num_subspaces"]
    out = site.base(x)
    if site.element == x.element:
        projected = site.linear(x, site.weight(rank * site.inputs, trained=False), rank)
    else:
        basis = site.plain(rank, site.inputs, x.element)
        projected = site.product(x, basis, rank)
        del basis
    places = site.plain(1, site.outputs, 8)
    first, second = site.weight(groups * inner * rank), site.weight(site.outputs * inner)
    if site.element == x.element:
        hidden = site.linear(projected, first, groups * inner)
        update = site.linear(hidden, second, site.outputs)
    else:
        hidden = site.product(projected, site.made(groups * inner, rank, first, element=x.element), groups * inner)
        update = site.product(hidden, site.made(site.outputs, inner, second, element=x.element), site.outputs)
    del hidden, projected
    site.standing.append(update)
    update = graph.op([update], saves=[places], scratch=update.bytes)
    site.standing.append(update)
    return graph.add(out, update)


# -- products as large as the matrix --------------------------------------------------------------------


def loha(site: Site, x: Value) -> Made:
    """Run the product of two low-rank matrices, made anew in each pass."""
    rank, auto = site.rank, site.scene.numbers.autocast
    element = auto or site.element
    size = site.inputs * site.outputs * element
    out = site.base(x)
    weights = [site.weight(rank * width) for width in (site.outputs, site.inputs) * 2]
    for weight in weights:
        weight.cast = Storage(site.graph, weight.size * auto, FIXED) if auto and auto != site.element else None
    delta = site.made(
        site.outputs, site.inputs, *weights, element=element, saves=(site.plain(1, 1, 4),), scratch=2 * size, work=4 * size
    )  # fmt: skip
    return _delta(site, x, out, delta)


def _delta(site: Site, x: Value, out: Value, delta: Value) -> Made:
    """Multiply by an update as large as the matrix, and add."""
    inner = site.graph.cast(x, delta.element)
    site.standing += [inner, delta]
    return out, site.product(inner, delta, site.outputs)


def lokr(site: Site, x: Value) -> Made:
    """Run a Kronecker product, made anew in each pass."""
    out = site.base(x)
    parts: list[Value | Weight] = []
    for rows, columns, whole in kronecker(site.matrix, site.rank, site.options):
        if whole:
            parts.append(site.weight(rows * columns))
        else:
            thin = (site.weight(rows * site.rank), site.weight(columns * site.rank))
            parts.append(site.multiplied(rows, columns, *thin))
    saved = tuple(part for part in parts if isinstance(part, Value))
    element = max(site.element if isinstance(part, Weight) else part.element for part in parts)
    size = site.inputs * site.outputs * element
    delta = site.made(site.outputs, site.inputs, *parts, element=element, saves=saved, work=size)
    del parts, saved
    delta = site.made(site.outputs, site.inputs, delta, element=element)
    return _delta(site, x, out, delta)


def hira(site: Site, x: Value) -> Made:
    """Run the frozen matrix multiplied number by number with a low-rank one."""
    rank, out = site.rank, site.base(x)
    low = site.multiplied(site.outputs, site.inputs, site.weight(rank * site.inputs), site.weight(rank * site.outputs))
    inner = site.entering(x)
    delta = site.made(site.outputs, site.inputs, low, element=max(low.element, site.stored))
    update = site.product(inner, delta, site.outputs)
    site.standing += [inner, low, update]
    return out, update


def peanut(site: Site, x: Value) -> Made:
    """Run an update that a small network makes of the frozen matrix."""
    graph, rank = site.graph, site.rank
    out = site.base(x)
    weight = site.unpacked_weight(site.element)
    hidden = site.multiplied(site.inputs, rank, weight, site.weight(rank * site.outputs), viewed=True)
    del weight
    hidden = _activated(site, hidden)
    residuals = []
    for _ in range(site.options["depth"]):
        residuals.append(hidden)
        hidden = _activated(site, site.multiplied(site.inputs, rank, hidden, site.weight(rank * rank)))
    for residual in reversed(residuals):
        hidden = _activated(site, site.multiplied(site.inputs, rank, hidden, site.weight(rank * rank)))
        hidden = site.made(site.inputs, rank, hidden, residual, element=hidden.element)
    residuals.clear()
    delta = site.multiplied(site.inputs, site.outputs, hidden, site.weight(rank * site.outputs))
    del hidden
    delta = site.made(site.outputs, site.inputs, delta, element=delta.element)
    inner = graph.cast(x, delta.element)
    update = site.product(inner, delta, site.outputs)
    del inner, delta
    return graph.add(out, graph.cast(update, out.element))


def _activated(site: Site, x: Value) -> Value:
    """Run PEANuT's activation; ReLU and its like keep their output."""
    out = site.graph.op([x], saves_output=site.options["act_fn"] in ("relu", "tanh", "sigmoid"),
                        saves=() if site.options["act_fn"] in ("relu", "tanh", "sigmoid") else (x,))  # fmt: skip
    return out


def glora(site: Site, x: Value) -> Made:
    """Run the frozen layer and, beside it, the layer with a changed matrix."""
    graph, rank = site.graph, site.rank
    out = site.base(x)
    rows = site.outputs
    if site.options["config_A_B"] == "lora":
        scale = site.multiplied(rows, site.inputs, site.weight(rank * rows), site.weight(rank * site.inputs))
        scale = graph.cast(scale, site.stored)
        shift = site.multiplied(rows, site.inputs, site.weight(rank * rows), site.weight(rank * site.inputs))
        shift = graph.cast(shift, site.stored)
    elif site.options["config_A_B"] == "none":
        scale = shift = site.plain(1, 1)
    else:
        width = rows if site.options["config_A_B"] == "vector" else 1
        scale = site.made(width, 1, site.weight(width), element=site.stored)
        shift = site.made(width, 1, site.weight(width), element=site.stored)
    changed = site.made(rows, site.inputs, scale, element=site.stored)
    changed = site.made(rows, site.inputs, changed, element=site.stored)
    changed = site.made(rows, site.inputs, changed, shift, element=site.stored)
    del scale, shift
    update = site.product(x, changed, rows)
    del changed
    result = graph.add(out, update)
    del update
    return graph.add(result, graph.pointwise(out, keeps="nothing"))


def fourierft(site: Site, x: Value) -> Made:
    """Run the real part of an inverse Fourier transform: complex numbers pass, their places are kept."""
    out = site.base(x)
    size = site.inputs * site.outputs
    places = site.plain(2, site.options["n_frequency"], 8)
    dense = site.made(site.outputs, site.inputs, site.weight(site.options["n_frequency"]), element=4, saves=(places,))
    del places
    transformed = site.made(site.outputs, 2 * site.inputs, dense, element=4, scratch=8 * size, work=8 * size)
    del dense
    delta = site.made(site.outputs, site.inputs, transformed, element=4)
    del transformed
    return _delta(site, x, out, site.graph.cast(delta, site.element))


def waveft(site: Site, x: Value) -> Made:
    """Run an inverse wavelet transform: its input is kept beside its output."""
    out = site.base(x)
    count = site.options["n_frequency"]
    places = site.plain(2, count, 8)
    dense = site.made(site.outputs, site.inputs, site.weight(count), saves=(places,))
    del places
    if site.options["use_idwt"]:
        chosen, filters = site.plain(1, count, 1), site.plain(4, 4)
        stacked = site.made(site.outputs, site.inputs, dense, saves=(chosen,))
        site.standing.append(dense)
        del dense, chosen
        auto = site.scene.numbers.autocast
        if auto:
            stacked, filters = site.graph.cast(stacked, auto), site.plain(4, 4, auto)
        dense = site.made(site.outputs, site.inputs, stacked, element=stacked.element, saves=(stacked, filters))
        site.standing.append(stacked)
        del stacked, filters
    delta = site.made(site.outputs, site.inputs, dense, element=dense.element)
    del dense
    return _delta(site, x, out, delta)


def shira(site: Site, x: Value) -> Made:
    """Run the frozen matrix copied and changed at a few places."""
    numbers = site.rank * (site.inputs + site.outputs)
    places = site.plain(2, numbers, 8)
    weight = site.made(site.outputs, site.inputs, site.weight(numbers), element=site.stored, saves=(places,))
    del places
    return site.product(x, weight, site.outputs)


def supertuning(site: Site, x: Value) -> Made:
    """Run the frozen matrix copied and changed at its largest numbers."""
    graph = site.graph
    numbers = int(site.inputs * site.outputs * (1 - site.options["sparsity"]))
    places = site.plain(1, numbers, 8)
    weight = site.made(site.outputs, site.inputs, site.weight(numbers), element=site.stored, saves=(places,))
    del places
    out = site.product(x, weight, site.outputs)
    del weight
    rank = site.options["r"]
    if not rank:
        return out
    inner = site.dropped(x)
    inner = graph.cast(inner, site.element)
    first, second = site.weight(rank * site.inputs), site.weight(rank * site.outputs)
    update = site.linear(site.linear(inner, first, rank), second, site.outputs)
    del inner
    return graph.add(out, graph.cast(graph.pointwise(update, keeps="nothing"), out.element))


def frod(site: Site, x: Value) -> Made:
    """Frozen directions copied from host memory in each pass, with trained scales and a sparse coupling."""
    graph, width, element = site.graph, site.inputs, x.element
    coupling = site.weight(max(1, int(width * width * site.options["sparse_rate"])))
    left, right = site.plain(site.outputs, width, element), site.plain(width, width, element)
    dense = site.made(width, width, coupling, element=element)
    scales = site.made(1, width, site.weight(width), element=element)
    inner = site.dropped(x)
    hidden = graph.op([inner, right], width, element=element, saves=[right if x.slot else None])
    del right, inner
    coupled = site.product(hidden, dense, width)
    scaled = site.times(hidden, scales)
    del hidden, dense, scales
    hidden = graph.add(coupled, scaled)
    del coupled, scaled
    return graph.op([hidden, left], site.outputs, element=element, saves=[left])


# -- rotations ------------------------------------------------------------------------------------------


def oft(site: Site, x: Value) -> Made:
    """Rotate blocks of the input before the frozen layer."""
    graph = site.graph
    inner = graph.cast(x, site.element)
    blocks, block = oft_blocks(site.matrix, site.options)
    own = 1 if site.options["block_share"] else blocks
    turn = _cayley(site, own, block, site.weight(own * block * (block - 1) // 2), steps_kept=True)
    if own != blocks:
        turn = site.made(blocks, block * block, turn)
    turned = site.product(inner, turn, site.inputs)
    del inner, turn
    turned = graph.copy(turned)
    turned = graph.cast(turned, x.element)
    return site.base(turned)


def _cayley(site: Site, blocks: int, width: int, weight: Weight, *, steps_kept: bool) -> Value:
    """Make rotations of skew-symmetric blocks: powers of a series are kept, or what a solver factorised."""
    terms = site.options["num_cayley_neumann_terms"]
    if site.options["use_cayley_neumann"]:
        kept = max(2, terms - 2) if terms > 2 and steps_kept else 0
        return site.made(
            blocks, width * width, weight, saves=tuple(site.plain(blocks, width * width) for _ in range(kept))
        )
    saves = (site.plain(blocks, width * width, 4), site.plain(blocks, width, 4), site.plain(blocks, width * width, 4))
    return site.graph.cast(
        site.made(blocks, width * width, weight, element=4, saves=saves, saves_output=True), site.element
    )


def boft(site: Site, x: Value) -> Made:
    """Rotate the input by butterfly factors, each a matrix as wide as the input on both sides."""
    graph, width = site.graph, site.inputs
    element = x.element
    factors = site.options["boft_n_butterfly_factor"]
    block = (
        width // site.options["boft_block_num"] if site.options["boft_block_num"] else site.options["boft_block_size"]
    )
    identity = site.plain(width, width, element)
    ones = site.plain(site.outputs, 1, element)
    pieces = factors * width // block
    solved = (*(site.plain(pieces, block * block, 4) for _ in range(2)), site.plain(pieces, block, 4))
    turn = site.made(
        pieces, block * block, site.weight(factors * width * block), saves=solved, saves_output=True, element=4
    )
    del solved
    turn = graph.cast(turn, site.element)
    spread = site.made(factors * width, width, turn)
    permutations = site.plain(factors * width, width, element)
    spread = graph.cast(spread, element)
    site.standing += [identity, permutations, spread, turn]
    turned = site.made(factors * width, width, spread, element=element, saves=(permutations,))
    del spread
    turned = site.made(factors * width, width, turned, element=element, saves=(permutations,))
    site.standing.append(turned)
    del permutations
    rotation = site.made(width, width, turned, element=element, saves=(identity,))
    del turned, identity
    scale = site.made(site.outputs, 1, site.weight(site.outputs), element=max(site.element, element), saves=(ones,))
    del ones, turn
    out = site.base(site.product(x, rotation, width))
    del rotation
    return graph.cast(site.times(out, scale), out.element)


def hra(site: Site, x: Value) -> Made:
    """Householder reflections: every product of them with the identity is kept, and the changed matrix."""
    graph, rank, width, element = site.graph, site.rank, site.inputs, site.element
    vectors = site.weight(width * rank)
    identity = site.plain(width, width, 4)
    unit = site.made(width, rank, vectors, saves=(site.plain(1, rank),))
    turn = site.plain(width, width)
    for _ in range(rank):
        column = site.part(unit, width, 1)
        doubled = site.made(width, width, turn, element=turn.element)
        made = site.multiplied(width, 1, doubled, column)
        del doubled
        outer = site.multiplied(width, width, made, column)
        del made, column
        turn = site.made(width, width, turn, outer, element=max(turn.element, outer.element))
        del outer
    del unit
    turned = site.multiplied(width, width, graph.cast(identity, element), turn)
    del turn, identity
    weight = site.unpacked_weight(turned.element)
    changed = site.multiplied(site.outputs, width, weight, turned)
    del weight, turned
    out = site.product(graph.cast(x, changed.element), changed, site.outputs)
    return graph.cast(out, x.element)


def road(site: Site, x: Value) -> Made:
    """Rotate and stretch pairs of outputs."""
    graph, width = site.graph, site.outputs
    wide = graph.cast(site.base(x), site.element)
    repeated = site.options["variant"] != "road_2"
    angles, scales = site.weight(width), site.weight(width)
    saves = tuple(site.plain(1, width) for _ in range(4 if repeated else 2))
    first = site.made(1, width, angles, scales, saves=saves)
    del saves
    second = site.made(1, width, angles, scales)
    turned = graph.copy(wide)
    result = graph.add(site.times(wide, first), site.times(turned, second))
    return graph.cast(result, x.element)


def psoft(site: Site, x: Value) -> Made:
    """Rotate the input within the matrix's main directions."""
    graph, rank = site.graph, site.rank
    out = site.base(x)
    inner = site.entering(x, 4)
    first = site.linear(inner, site.weight(rank * site.inputs, trained=False, element=4), rank)
    del inner
    turn = _cayley(site, 1, rank, site.weight(rank * (rank - 1) // 2), steps_kept=True)
    sides = site.options["psoft_mag_a"] + site.options["psoft_mag_b"]
    for _ in range(sides):
        turn = site.made(rank, rank, turn, site.weight(rank), saves=(turn,))
    turned = site.product(first, turn, rank)
    del turn
    moved = graph.add(turned, first)
    del turned, first
    update = site.linear(moved, site.weight(rank * site.outputs, trained=False, element=4), site.outputs)
    site.standing.append(update)
    return out, graph.pointwise(update, keeps="nothing")


def osf(site: Site, x: Value) -> Made:
    """Trained least directions less their first values, beside the frozen layer."""
    graph = site.graph
    low = osf_low(site.matrix, site.rank, site.options)
    if site.options["rebuilds_weight"]:
        return _rebuilt(site, x, low)
    out = site.base(x)
    sides = (site.weight(low * site.outputs), site.weight(low))
    left = site.made(site.outputs, low, *sides)
    first = site.made(site.outputs, 2 * low, left)
    del left
    second = site.made(2 * low, site.inputs, site.weight(low * site.inputs))
    inner = graph.cast(x, site.element)
    hidden = site.product(inner, second, 2 * low)
    update = site.product(hidden, first, site.outputs)
    return graph.add(out, graph.cast(update, out.element))


def _rebuilt(site: Site, x: Value, low: int) -> Value:
    """Put the whole matrix together from both sets of directions."""
    high = min(site.inputs, site.outputs) - low
    frozen = site.plain(site.outputs, high)
    kept = site.plain(site.outputs, site.inputs)
    del frozen
    left = site.made(site.outputs, low, site.weight(low * site.outputs), site.weight(low))
    part = site.made(site.outputs, site.inputs, left, site.weight(low * site.inputs), saves=(left,))
    del left
    weight = site.made(site.outputs, site.inputs, part)
    del part, kept
    inner = site.graph.cast(x, site.element)
    return site.graph.cast(site.product(inner, weight, site.outputs), x.element)


# -- vectors --------------------------------------------------------------------------------------------


def ia3(site: Site, x: Value) -> Made:
    """Scale outputs, in the perceptron inputs."""
    graph = site.graph
    if site.use.feedforward:
        scale = site.made(1, site.inputs, site.weight(site.inputs))
        inner = graph.cast(x, site.element)
        return site.base(graph.cast(site.times(inner, scale), x.element))
    scale = site.made(1, site.outputs, site.weight(site.outputs))
    out = site.base(x)
    return graph.cast(site.times(out, scale), out.element)


def beft(site: Site, x: Value) -> Made:
    """Add a bias."""
    out = site.base(x)
    site.standing.append(out)
    return out, site.made(1, site.outputs, site.weight(site.outputs))


def c3a(site: Site, x: Value) -> Made:
    """Circular convolutions by way of Fourier transforms, always in fp32."""
    graph = site.graph
    out = site.base(x)
    inner = graph.cast(x, 4)
    kernel = site.weight(site.inputs * site.outputs // site.options["block_size"])
    wide = site.plain(1, kernel.size, 4) if site.element != 4 else None
    rows, width = inner.rows, site.inputs
    update = graph.op([inner], site.outputs, element=4, saves=[inner, wide], weights=[kernel],
                      scratch=rows * (8 * width + 4 * site.outputs) + 8 * kernel.size,
                      work=rows * (16 * width + 8 * site.outputs))  # fmt: skip
    del inner
    return site.into(out, graph.cast(graph.pointwise(update, keeps="nothing"), out.element))


def miss(site: Site, x: Value) -> Made:
    """Run sums of pieces of the input times one matrix; `bat` changes the frozen matrix itself."""
    graph, rank = site.graph, site.rank
    if site.options["init_weights"] == "bat":
        return _bat(site, x)
    out = site.base(x)
    weight: Weight | Value = site.weight(rank * site.outputs)
    if site.options["init_weights"] == "mini":
        weight = site.made(rank, site.outputs, site.weight(rank * site.options["mini_r"]))
    if site.inputs % rank:
        x = graph.copy(x, width=ceil_div(site.inputs, rank) * rank)
    summed = graph.op([site.entering(x)], rank)
    if isinstance(weight, Weight):
        update = site.linear(summed, weight, site.outputs)
    else:
        update = site.product(summed, weight, site.outputs)
    site.standing += [weight] if isinstance(weight, Value) else []
    return out, update


def _bat(site: Site, x: Value) -> Value:
    graph, element = site.graph, site.element
    copied = site.plain(site.outputs, site.inputs, site.stored)
    wide = site.plain(site.outputs, site.inputs)
    pieces = site.plain(site.outputs, site.inputs)
    delta = site.multiplied(site.outputs, site.inputs, pieces, site.weight(site.rank * site.outputs))
    delta = site.made(site.outputs, site.inputs, delta)
    del pieces, wide
    changed = site.made(site.outputs, site.inputs, delta, element=max(element, site.stored))
    del delta, copied
    out = site.product(graph.cast(x, changed.element), changed, site.outputs)
    return graph.cast(out, x.element)


def token_rows(site: Site, x: Value) -> Value:
    """Multiply by the table of the vocabulary, copied to put trained rows in (``rank`` counts them)."""
    table = site.made(site.outputs, site.inputs, site.weight(site.rank * site.inputs), element=site.stored)
    return site.product(x, table, site.outputs)


PROGRAMS: dict[str, Callable[[Site, Value], Made]] = {
    "lora": lora, "adalora": adalora, "adamss": adamss, "beft": beft, "boft": boft, "c3a": c3a, "deft": deft, "delora": delora,
    "fourierft": fourierft, "frod": frod, "glora": glora, "gralora": gralora, "hira": hira, "hra": hra, "ia3": ia3, "lily": lily,
    "loha": loha, "lokr": lokr, "miss": miss, "oft": oft, "osf": osf, "peanut": peanut, "poly": poly, "psoft": psoft,
    "pvera": pvera, "randlora": randlora, "road": road, "shira": shira, "supertuning": supertuning, "tinylora": tinylora,
    "unilora": unilora, "vblora": vblora, "vera": vera, "waveft": waveft,
}  # fmt: skip
assert set(PROGRAMS) == set(METHODS)


@dataclass(frozen=True, slots=True)
class Beside:
    """What an adapter adds to one frozen linear layer. [bytes].

    Parameters
    ----------
    saved
        Kept from the forward to the backward pass, the layer's own input and output left out.
    fixed
        Of it, what does not grow with tokens: matrices that the method makes.
    keeps_input
        Whether the layer's input itself is kept.
    forward
        The most that is alive in the forward pass beside input and output, `saved` within.
    backward
        The most that is alive in the backward pass beside the input, the output's gradient within.
    """

    saved: int
    fixed: int
    keeps_input: bool
    forward: int
    backward: int


def beside(
    use: AdapterUse, *, inputs: int, outputs: int, rows: int, element: int, autocast: int = 0, unpacked: int = 0,
    input_grad: bool = True, seqs: int = 1, mask_element: int = 1,
) -> Beside:  # fmt: skip
    """Return what an adapter of a method adds to one frozen linear layer, of whatever model.

    Parameters
    ----------
    rows
        Tokens, or places of an image. [tokens]
    element
        Size of one number of the layer's input and output, and of its matrix. [bytes]
    autocast
        Size of the numbers that autocast multiplies in; 0 without it. [bytes]
    unpacked
        What unpacking a quantised matrix takes; 0 for a plain one. [bytes]
    input_grad
        Whether the input requires a gradient.
    """
    from vrameter.training.programs.scene import Kernels, Numbers, Scene, Traits, Use

    graph = Graph()
    scene = Scene(graph, seqs, rows // seqs, Numbers(element, element, autocast), Kernels(), Traits(),
                  lambda _: Use(element, trained=False), mask_element=mask_element)  # fmt: skip
    weight = Weight(inputs * outputs, element, trained=False, unpacked=unpacked)

    def base(value: Value) -> Value:
        return graph.linear(value, weight, outputs, compute=autocast)

    x = graph.new(rows, inputs, element, grad=input_grad)
    given, storage = x.bytes, x.storage
    y = run(site_of(scene, base, inputs, outputs, use, stored=element, unpacked=unpacked), x)
    around = given + y.bytes
    forward, fixed, saved = graph.peak - around, graph.held[FIXED], graph.live - around
    del x
    keeps = any(storage is each for node in graph.nodes for each in node.saved)
    graph.seed(y)
    del y
    graph.peak = graph.live
    graph.backward()
    return Beside(saved, fixed, keeps, forward, graph.peak - given)


__all__ = ["AdapterUse", "Beside", "Site", "beside", "run", "site_of"]
