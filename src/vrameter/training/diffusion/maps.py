"""UNets as programs: residual blocks, transformers over the places of a map, and what changes its resolution.

References
----------
.. [1] diffusers 0.42.1: ``models/resnet.py``, ``models/transformers/transformer_2d.py``, ``models/unets/unet_2d_blocks.py``: a
       checkpointed UNet runs each residual block and each transformer block again, and keeps what lies between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vrameter.model.diffusion.unet import Stage, UNetPlan
from vrameter.training.diffusion.bench import Bench
from vrameter.training.diffusion.crossed import basic
from vrameter.training.diffusion.joint import Streams
from vrameter.training.graph import Value


@dataclass(frozen=True, slots=True)
class Step:
    """One module of a UNet, as it runs.

    Parameters
    ----------
    name
        Where its tensors lie: ``down_blocks.0.resnets.1``.
    kind
        ``resnet``, ``enter`` and ``leave`` (the ends of a transformer), ``block``, ``shrink``, ``grow``, ``first``, ``last``.
    channels
        What it is given.
    edge
        How many times smaller than the latents its map is along an edge.
    skipped
        Of its channels, those that the way down left for it.
    heads
        Query heads of a transformer block.
    """

    name: str
    kind: str
    channels: int
    edge: int
    skipped: int = 0
    heads: int = 1

    @property
    def recomputed(self) -> bool:
        """Whether a checkpointed UNet runs it again."""
        return self.kind in ("resnet", "block")


def steps(plan: UNetPlan) -> Iterator[Step]:
    """Yield the modules of a UNet in the order in which they run."""
    edge = 1
    yield Step("conv_in", "first", plan.in_channels, 1)
    for index, stage in enumerate(plan.down):
        name = f"down_blocks.{index}"
        for place, (inputs, _) in enumerate(stage.resnets):
            yield Step(f"{name}.resnets.{place}", "resnet", inputs, edge)
            yield from _transformer(f"{name}.attentions.{place}", stage, edge)
        if stage.resampled:
            yield Step(f"{name}.downsamplers.0", "shrink", stage.channels, edge)
            edge *= 2
    middle = plan.middle
    yield Step("mid_block.resnets.0", "resnet", middle.channels, edge)
    yield from _transformer("mid_block.attentions.0", middle, edge)
    yield Step("mid_block.resnets.1", "resnet", middle.channels, edge)
    before = middle.channels
    for index, stage in enumerate(plan.up):
        name = f"up_blocks.{index}"
        for place, (inputs, _) in enumerate(stage.resnets):
            given = before if place == 0 else stage.channels
            yield Step(f"{name}.resnets.{place}", "resnet", inputs, edge, skipped=inputs - given)
            yield from _transformer(f"{name}.attentions.{place}", stage, edge)
        if stage.resampled:
            yield Step(f"{name}.upsamplers.0", "grow", stage.channels, edge)
            edge //= 2
        before = stage.channels
    yield Step("", "last", plan.down[0].channels, 1)


def _transformer(name: str, stage: Stage, edge: int) -> Iterator[Step]:
    if not stage.depth:
        return
    yield Step(name, "enter", stage.channels, edge)
    for index in range(stage.depth):
        yield Step(f"{name}.transformer_blocks.{index}", "block", stage.channels, edge, heads=stage.heads)
    yield Step(name, "leave", stage.channels, edge)


def resnet(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run ``ResnetBlock2D``: two norms, two convolutions, and the time step added between them."""
    graph = bench.graph
    inner = bench.convolve(graph.pointwise(bench.group_norm(x, "norm1")), "conv1")
    if bench.has("time_emb_proj"):
        time = bench.time()
        inner = bench.plus(inner, bench.linear(graph.op([time], saves=[time], kind=0), "time_emb_proj"))
    inner = bench.convolve(graph.pointwise(bench.group_norm(inner, "norm2")), "conv2")
    if bench.has("conv_shortcut"):
        x = bench.convolve(x, "conv_shortcut")
    return graph.pointwise(graph.add(x, inner), keeps="nothing"), text


def enter(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run what stands before a transformer's blocks; a linear projection copies the map, channels last."""
    graph = bench.graph
    normal = bench.group_norm(x, "norm")
    if "convolved" in bench.traits:
        return bench.convolve(normal, "proj_in"), text
    return bench.linear(normal if bench.auto and normal.element != bench.auto else graph.copy(normal), "proj_in"), text


def leave(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run what stands after a transformer's blocks: a projection, a copy with channels first, the sum with what came in."""
    graph = bench.graph
    if "convolved" in bench.traits:
        return graph.copy(bench.convolve(graph.copy(x), "proj_out")), text
    return graph.copy(graph.copy(bench.linear(x, "proj_out"))), text


def shrink(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run ``Downsample2D``."""
    return bench.convolve(x, "conv", shrinks=2), text


def grow(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run ``Upsample2D``: the map four times as large, then a convolution."""
    return bench.convolve(bench.graph.op([x], rows=4 * x.rows), "conv"), text


def first(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run the first convolution."""
    return bench.convolve(x, "conv_in"), text


def last(bench: Bench, x: Value, text: Value | None) -> Streams:
    """Run the last norm and convolution."""
    return bench.convolve(bench.graph.pointwise(bench.group_norm(x, "conv_norm_out")), "conv_out"), text


PROGRAMS = {
    "resnet": resnet, "enter": enter, "leave": leave, "block": basic, "shrink": shrink, "grow": grow, "first": first, "last": last,
}  # fmt: skip


__all__ = ["PROGRAMS", "Step", "steps"]
