"""Which numbers a step keeps and computes with.

References
----------
.. [1] PyTorch 2.13, ``autocast_mode``; transformers 5.23, ``trainer.py``; S. Rajbhandari et al., "ZeRO", arXiv:1910.02054.
.. [2] Megatron-LM, ``distributed_data_parallel_config.py``: fp32 main gradients; ``optimizer/distrib_optimizer.py``: fp32 masters.
"""

from __future__ import annotations

from dataclasses import dataclass

from vrameter.training.programs.scene import Numbers

SIZES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes of one number of each kind. [bytes].

    Parameters
    ----------
    weight, frozen
        Of parameters that are trained, and of those that are not.
    gradient
        Of a gradient as the backward pass makes it.
    main_gradient
        Of a buffer that gradients are added to and that stays between steps; 0 without one.
    master
        Of a second copy of trained parameters that the optimizer works on; 0 without one.
    gradient_copy
        Of an fp32 copy of gradients beside the masters, which unscaling fp16 takes; 0 without one.
    moment
        Of an optimizer's state; 0 where it follows the parameter.
    step_copy
        Of a copy of gradients that stands while the optimizer steps; 0 without one.
    """

    weight: int
    frozen: int
    numbers: Numbers
    gradient: int
    main_gradient: int = 0
    master: int = 0
    moment: int = 0
    contiguous_gradients: bool = False
    gradient_copy: int = 0
    step_copy: int = 0

    @property
    def state_element(self) -> int:
        """Size of one number of the optimizer's state. [bytes]."""
        return self.moment or self.master or self.weight


def eager_recipe(precision: str, *, stored: int, full: bool, autocast: bool | None) -> Recipe:
    """Return the recipe of a plain PyTorch loop or transformers' Trainer.

    Parameters
    ----------
    stored
        Size of one stored number of the base model. [bytes]
    full
        Whether the base model itself is trained.
    """
    half = 2
    if precision in ("fp32", "tf32"):
        return Recipe(4, stored, Numbers(max(4, stored) if full else stored, 4), 4)
    if precision in ("bf16", "fp16"):
        auto = half if autocast else 0
        return Recipe(half, min(stored, half) if stored < 4 else half, Numbers(half, half, auto), half)
    auto = 0 if autocast is False else half
    weight = stored if full else 4
    residual = stored
    return Recipe(weight, stored, Numbers(half, residual, auto), weight)


__all__ = ["SIZES", "Recipe", "eager_recipe"]
