"""One optimizer step, moment by moment: what is alive beside weights and optimizer state, and when it is most.

The pieces of a model (embedding, layers, head) run forwards in order and backwards in reverse. Going up, each leaves
behind what it keeps; going down, each takes that back and leaves gradients. The worst moment is the largest of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vrameter.training.simulate import Cost


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a model in a step. [bytes].

    Parameters
    ----------
    name
        ``embedding``, ``layer`` or ``head``.
    cost
        What its program costs.
    input
        Size of what it is given.
    recomputed
        Whether its forward pass runs again in the backward pass, so that only the input is kept.
    kept_input
        What a checkpoint keeps of the input on this device: 0 where it lies in host memory or is kept by another.
    gathered
        Its weights where they are put together from shards for as long as it runs.
    gradients
        Gradients that it leaves, where they are made anew in each backward pass.
    extra_saved, extra_forward, extra_backward
        What it takes beside its program: logits, communication buffers.
    """

    name: str
    cost: Cost
    input: int
    recomputed: bool = False
    kept_input: int = 0
    gathered: int = 0
    gradients: int = 0
    extra_saved: int = 0
    extra_forward: int = 0
    extra_backward: int = 0

    @property
    def saved(self) -> int:
        """What stays from its forward to its backward pass."""
        return self.kept_input if self.recomputed else self.cost.saved - self.cost.offloaded + self.extra_saved


def joined(pieces: Sequence[Piece]) -> Piece:
    """Return layers under one checkpoint as one piece: the first's input is kept, all run again before any goes back."""
    first, *others = pieces
    if not others:
        return first
    lasting = [piece.cost.saved for piece in pieces]
    below = [sum(lasting[:number]) for number in range(len(pieces))]
    cost = Cost(
        saved=sum(lasting),
        per_token=sum(piece.cost.per_token for piece in pieces),
        per_pair=sum(piece.cost.per_pair for piece in pieces),
        fixed=sum(piece.cost.fixed for piece in pieces),
        forward=max(base + piece.cost.forward for base, piece in zip(below, pieces, strict=True)),
        lean_forward=max(piece.input + piece.cost.lean_forward for piece in pieces) - first.input,
        backward=max(base + piece.cost.backward for base, piece in zip(below, pieces, strict=True)),
        gradients=sum(piece.cost.gradients for piece in pieces),
        output=pieces[-1].cost.output,
    )
    return replace(
        first, cost=cost, gradients=sum(piece.gradients for piece in pieces), gathered=max(piece.gathered for piece in pieces)
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Moment:
    """What is alive at the worst moment of a phase, beside what is alive always. [bytes].

    Parameters
    ----------
    piece
        Which piece runs then: ``embedding``, ``layer`` or ``head``.
    others
        Of the activations, what the pieces around it keep.
    """

    activations: int = 0
    temporary: int = 0
    gradients: int = 0
    gathered: int = 0
    piece: str = ""
    others: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return self.activations + self.temporary + self.gradients + self.gathered


@dataclass(frozen=True, slots=True)
class Course:
    """The worst moments of a step's phases, and what its passes leave."""

    forward: Moment
    loss: Moment
    backward: Moment
    kept: int
    gradients: int
    pieces: tuple[Piece, ...] = field(default=())


def course(pieces: Sequence[Piece], *, in_flight: int = 0, prefetched: int = 0, held_gradients: bool = False) -> Course:
    """Return the worst moments of one forward and one backward pass.

    Parameters
    ----------
    in_flight
        What earlier micro-batches of a pipeline keep meanwhile. [bytes]
    prefetched
        The largest weights that are gathered ahead of the piece that runs. [bytes]
    held_gradients
        Whether gradients of an earlier pass are there already.
    """
    kept = in_flight
    forward = loss = Moment()
    for piece in pieces:
        if piece.recomputed:
            inner, left = piece.cost.lean_forward, piece.kept_input
            moment = Moment(kept + max(left, 0), inner + max(0, piece.input - left) + piece.extra_forward, 0,
                            piece.gathered + _ahead(piece, prefetched), piece.name, kept)  # fmt: skip
        else:
            lasting = piece.cost.saved + piece.extra_saved
            peak = piece.input + piece.cost.forward + piece.extra_forward + piece.extra_saved
            moment = Moment(kept + lasting, max(0, peak - lasting), 0, piece.gathered + _ahead(piece, prefetched),
                            piece.name, kept)  # fmt: skip
        if piece.name == "head":
            loss = moment if moment.total > loss.total else loss
        elif moment.total > forward.total:
            forward = moment
        kept += piece.saved
    total = kept
    made = 0
    everything = sum(piece.gradients for piece in pieces)
    backward = Moment()
    for piece in reversed(pieces):
        kept -= piece.saved
        standing = everything if held_gradients else made
        inner = piece.cost.backward + piece.extra_backward + piece.extra_saved
        lasting = piece.cost.saved + piece.extra_saved
        if piece.recomputed:
            inner = max(inner, piece.cost.forward + piece.cost.output)
            lasting += piece.kept_input
            inner += piece.kept_input
        fresh = 0 if held_gradients else piece.gradients
        moment = Moment(
            kept + min(lasting, inner), max(0, inner - lasting - min(fresh, piece.cost.gradients)), standing + fresh,
            piece.gathered + _ahead(piece, prefetched), piece.name, kept,
        )  # fmt: skip
        if moment.total > backward.total:
            backward = moment
        made += piece.gradients
    return Course(forward, loss, backward, total, everything, tuple(pieces))


def _ahead(piece: Piece, prefetched: int) -> int:
    return prefetched if piece.gathered else 0


__all__ = ["Course", "Moment", "Piece", "course"]
