"""Running a frozen linear layer with its adapter, in a model's layer or alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrameter.memory.adapter_methods import canonical, options_of
from vrameter.training.graph import FIXED, Graph, Value, Weight
from vrameter.training.programs.adapter_programs import PROGRAMS, token_rows
from vrameter.training.programs.adapter_site import AdapterUse, Site

if TYPE_CHECKING:
    from vrameter.training.programs.scene import Scene


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


__all__ = ["PROGRAMS", "AdapterUse", "Beside", "Site", "beside", "run", "site_of"]
