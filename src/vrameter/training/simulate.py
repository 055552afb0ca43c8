"""What one piece of a model costs in a step: a program run forwards and backwards on a graph of sizes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vrameter.training.graph import Graph, Value
from vrameter.training.programs.scene import Scene

Program = Callable[[Scene, Value], Value | None]


@dataclass(frozen=True, slots=True)
class Cost:
    """Sizes of one piece on one device. [bytes].

    Parameters
    ----------
    saved
        What it keeps from its forward to its backward pass, what the next piece keeps left out.
    per_token, per_pair, fixed
        Its parts: what grows with tokens, with pairs of tokens, and with neither.
    forward
        The most that is alive in its forward pass, `saved` within, its input left out.
    lean_forward
        The same where nothing is kept, as in the first pass of a checkpointed piece.
    backward
        The most that is alive in its backward pass, `saved` and the gradient that arrives within.
    gradients
        Gradients of parameters that stand when it ends.
    output
        What it hands on.
    offloaded
        What of `saved` goes to host memory once it has run forwards.
    """

    saved: int
    per_token: int
    per_pair: int
    fixed: int
    forward: int
    lean_forward: int
    backward: int
    gradients: int
    output: int
    offloaded: int = 0


def cost(
    program: Program,
    scene: Callable[[Graph], Scene],
    *,
    width: int,
    element: int,
    rows: int,
    accumulates: bool,
    input_grad: bool = True,
    seeded: bool = True,
) -> Cost:
    """Return what a program costs on an input of `rows` of a width.

    Parameters
    ----------
    input_grad
        Whether the input requires a gradient.
    seeded
        Whether a gradient as large as the output arrives from above. A loss starts with a number; what its program returns
        stays alive through the backward pass.
    """
    with _no_collection():
        return _cost(program, scene, width, element, rows, accumulates, input_grad=input_grad, seeded=seeded)


def _cost(
    program: Program,
    scene: Callable[[Graph], Scene],
    width: int,
    element: int,
    rows: int,
    accumulates: bool,
    *,
    input_grad: bool,
    seeded: bool,
) -> Cost:
    lean = _lean(program, scene, width, element, rows)
    graph = Graph(accumulates=accumulates)
    where = scene(graph)
    x = graph.new(rows, width, element, grad=input_grad)
    base = x.bytes
    graph.peak = graph.live
    y = program(where, x)
    forward = graph.peak - base
    del x
    output = y.bytes if y is not None else 0
    kept = y.storage.bytes if seeded and y is not None and y.storage.kind == 0 else 0
    held = list(graph.held)
    saved = graph.live - kept
    offloaded = graph.offloaded()
    if seeded and y is not None:
        graph.seed(y)
        y = None
    graph.peak = graph.live
    graph.backward()
    del y
    return Cost(
        saved=saved,
        per_token=held[0] - kept,
        per_pair=held[1],
        fixed=held[2],
        forward=forward,
        lean_forward=lean,
        backward=graph.peak,
        gradients=graph.gradients,
        output=output,
        offloaded=offloaded,
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector of cycles from walking all objects of the process because a run makes many that die at once."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


def _lean(program: Program, scene: Callable[[Graph], Scene], width: int, element: int, rows: int) -> int:
    graph = Graph(keeps=False)
    x = graph.new(rows, width, element)
    base = x.bytes
    graph.peak = graph.live
    program(scene(graph), x)
    return graph.peak - base


__all__ = ["Cost", "Program", "cost"]
