"""What programs of image models keep for their backward pass, as the tests ask for it."""

from __future__ import annotations

from typing import Any

from vrameter.model.vision.net import Map
from vrameter.model.vision.network import Network
from vrameter.training.graph import Value
from vrameter.training.programs.scene import Numbers, Use
from vrameter.training.vision import detection
from vrameter.training.vision.tape import Dialect, Record, Tape

# What torch's kernels for the CPU do otherwise.
CPU = Dialect(wide_norms=False, narrow_statistics=True)


def tape(
    *, batch: int, autocast: bool = False, fused: bool = True, recomputes: bool = False, trained: bool = True
) -> Tape:
    """Return a tape whose parameters are fp32 and all trained, or none."""
    return Tape(
        graph=Record(keeps=True, accumulates=True), batch=batch, numbers=Numbers(2, 4, 2) if autocast else Numbers(4, 4),
        use=lambda tensor: Use(4, trained=trained), dialect=CPU, fused=fused, recomputes=recomputes,
    )  # fmt: skip


def kept_bytes(network: Network, *, batch: int = 2, **facts: Any) -> int:
    """Return what autograd keeps of one forward pass up to the classifier's or the head's output, that output left out."""
    run = tape(batch=batch, **facts)
    outputs: list[Value | None] = []

    def loss(
        own: Tape, maps: list[Value], classes: int, *, proto: Value | None, mixed: Value | None, anchored: bool
    ) -> Value:
        outputs.extend([*maps, proto, mixed])
        return own.graph.new(1, 1, 1, grad=True)

    kept, detection.loss = detection.loss, loss  # type: ignore[assignment]
    try:
        image = run.image(network.image_size, 4)
        out = network.run(run, image)
    finally:
        detection.loss = kept
    run.end_autocast()
    del image
    last = out.value.storage.bytes + sum(each.bytes for each in outputs if each is not None)
    alive: int = run.graph.live
    return alive - last


def step_moments(network: Network, **facts: Any) -> tuple[int, int]:
    """Return what is alive at most in the forward and in the backward pass of a classifier, fresh gradients within."""
    run = tape(**facts)
    run.graph.accumulates = False
    graph, image = run.graph, run.image(network.image_size, 4)
    out = network.run(run, Map(3, image.height, image.width, image.value))
    run.end_autocast()
    forward: int = graph.peak
    logs = graph.pointwise(graph.cast(out.value, 4), keeps="output")
    picked = graph.op([logs], 1, element=4, saves=[logs])
    graph.seed(graph.op([picked], 1, rows=1))
    graph.reset()
    graph.backward()
    del image, out, logs, picked
    backward: int = graph.peak
    return forward, backward
