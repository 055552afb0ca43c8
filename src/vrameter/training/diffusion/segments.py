"""What segments of the allocator take beyond the tensors of a pipeline that stay in them."""

from __future__ import annotations

from collections.abc import Iterator

from vrameter.memory.segments import reserved_bytes
from vrameter.model.architecture import Architecture
from vrameter.training.diffusion.run import Run

ALWAYS = ("load", "text_encode", "vae_encode", "forward", "loss", "backward", "step", "save")
# Architectures kept so that their ids stay their own.
_KNOWN: dict[tuple[int, int], tuple[Architecture, int]] = {}


def excess_bytes(architecture: Architecture, element_bytes: int) -> int:
    """Return what segments take beyond one number of a size for each parameter. [bytes]."""
    key = (id(architecture), element_bytes)
    if key not in _KNOWN:
        sizes: dict[int, int] = {}
        for component in architecture.loaded:
            for tensor, times in component.counted_tensors():
                size = tensor.size * element_bytes
                sizes[size] = sizes.get(size, 0) + times
        if len(_KNOWN) > 256:
            _KNOWN.clear()
        _KNOWN[key] = architecture, reserved_bytes(sizes.items()) - sum(size * count for size, count in sizes.items())
    return _KNOWN[key][1]


def segments(run: Run) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the excess of weights, of the optimizer's state, of gradients and of a step's temporaries, each with its phases.

    Leaves out matrices that a quantisation packs, and states that several devices share: their parts are few and large.
    """
    asked = run.asked
    frozen = sum(
        excess_bytes(module.architecture, plan.compute_bytes) for module, plan in run.frozen() if not plan.quantization
    )
    architecture, recipe = asked.architecture, asked.recipe
    own = 0
    if not asked.plan.quantization and not asked.degrees.splits_weights:
        own = excess_bytes(architecture, recipe.weight if asked.full else recipe.frozen)
    yield ALWAYS, frozen + own
    if not asked.full or asked.degrees.shards > 1:
        return
    rule = asked.rule
    if not asked.offloads_optimizer:
        element = 1 if rule.bits else recipe.state_element
        yield ALWAYS[1:], rule.moments * excess_bytes(architecture, element)
        if rule.step == "foreach" and rule.temporaries:
            yield ("step",), excess_bytes(architecture, recipe.weight)
    if not asked.settings.offload_gradients:
        yield ("backward", "step"), excess_bytes(architecture, recipe.gradient)


__all__ = ["excess_bytes", "segments"]
