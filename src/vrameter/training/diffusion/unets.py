"""What each module of a UNet costs in a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vrameter.model.architecture import Component, Tensor
from vrameter.model.config import Config
from vrameter.model.diffusion.unet import UNetPlan, unet_plan
from vrameter.training.diffusion.bench import Bench
from vrameter.training.diffusion.blocks import block_cost
from vrameter.training.diffusion.maps import PROGRAMS, Step, steps
from vrameter.training.graph import Graph
from vrameter.training.programs.scene import Use
from vrameter.training.simulate import Cost


@dataclass(frozen=True, slots=True)
class Placed:
    """A module of a UNet with its tensors, by their names within it.

    Parameters
    ----------
    shapes
        Their names and shapes: modules with the same cost the same.
    """

    step: Step
    named: dict[str, Tensor]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]


# Layouts kept so that their components' ids stay their own.
_LAYOUTS: dict[int, tuple[Component, UNetPlan, tuple[Placed, ...]]] = {}


def layout(component: Component, cfg: Config) -> tuple[UNetPlan, tuple[Placed, ...]]:
    """Return the shape of a UNet and its modules in the order in which they run."""
    known = _LAYOUTS.get(id(component))
    if known is None:
        plan = unet_plan(cfg)
        placed = []
        for step in steps(plan):
            named = tensors_of(step, component.tensors)
            placed.append(Placed(step, named, tuple((name, tensor.shape) for name, tensor in named.items())))
        if len(_LAYOUTS) > 64:
            _LAYOUTS.clear()
        known = _LAYOUTS[id(component)] = component, plan, tuple(placed)
    return known[1], known[2]


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
    named: dict[str, Tensor],
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


__all__ = ["Placed", "layout", "step_cost", "tensors_of"]
