"""What each module of a UNet costs in a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vrameter.model.architecture import Tensor
from vrameter.model.diffusion.unet import UNetPlan
from vrameter.training.diffusion.bench import Bench
from vrameter.training.diffusion.blocks import block_cost
from vrameter.training.diffusion.maps import PROGRAMS, Step
from vrameter.training.graph import Graph
from vrameter.training.programs.scene import Use
from vrameter.training.simulate import Cost


def tensors_of(step: Step, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return a module's tensors by their names within it."""
    if step.kind in ("first", "last"):
        return {
            tensor.name: tensor
            for tensor in tensors
            if tensor.name.startswith(("conv_in.", "conv_norm_out.", "conv_out."))
        }
    start = f"{step.name}."
    found = {tensor.name.removeprefix(start): tensor for tensor in tensors if tensor.name.startswith(start)}
    if step.kind in ("enter", "leave"):
        ends = ("norm.", "proj_in.") if step.kind == "enter" else ("proj_out.",)
        return {name: tensor for name, tensor in found.items() if name.startswith(ends)}
    return found


def step_cost(
    step: Step,
    plan: UNetPlan,
    tensors: Sequence[Tensor],
    use: Callable[[Tensor], Use],
    *,
    samples: int,
    latents: int,
    auto: int,
    element: int,
    steered: bool,
    text: tuple[int, int, bool],
    input_grad: bool = True,
    accumulates: bool = True,
) -> Cost:
    """Return what a module of a UNet costs.

    Parameters
    ----------
    latents
        Places of the latents of one picture. [elements]
    text
        Tokens and width of the text that one picture looks at, and whether it requires a gradient.
    """
    named = tensors_of(step, tensors)
    traits = frozenset() if plan.linear_projection else frozenset({"convolved"})

    def make(graph: Graph) -> Bench:
        return Bench(
            graph, samples, named, use, auto=auto, element=element, head_dim=step.channels // step.heads, inner=step.channels,
            steered=steered, time_width=plan.time_channels, read_rows=samples * text[0], read_width=text[1], read_grad=text[2],
            traits=traits,
        )  # fmt: skip

    return block_cost(
        PROGRAMS[step.kind], make, rows=samples * latents // step.edge**2, text_rows=0, width=step.channels, element=element,
        input_grad=input_grad, accumulates=accumulates, steady=False,
    )  # fmt: skip


__all__ = ["step_cost", "tensors_of"]
