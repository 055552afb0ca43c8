"""What a program of an image model keeps for its backward pass, as the tests ask for it."""

from __future__ import annotations

from typing import Any

from vrameter.model.vision.net import Step
from vrameter.training.programs.scene import Numbers, Use
from vrameter.training.vision.tape import Dialect, Record, Tape

# What torch's kernels for the CPU do otherwise.
CPU = Dialect(wide_norms=False, narrow_statistics=True)


def kept_bytes(
    program: Step, facts: dict[str, Any], *, batch: int, size: tuple[int, int], element: int = 4, autocast: int = 0,
    fused: bool = True, classes: int = 10,
) -> int:  # fmt: skip
    """Return what autograd keeps of one forward pass, the batch of images within where it is kept."""
    tape = Tape(
        graph=Record(keeps=True, accumulates=True), batch=batch, numbers=Numbers(autocast or element, element, autocast),
        use=lambda tensor: Use(element, trained=True), dialect=CPU, fused=fused,
    )  # fmt: skip
    image = tape.image(size, element)
    out = program(tape, image, facts, classes)
    tape.end_autocast()
    del image, out
    return tape.graph.live
