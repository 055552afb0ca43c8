"""HiFi-GAN [1]_: from spectra, or from hidden frames, to a waveform.

References
----------
.. [1] J. Kong et al., "HiFi-GAN", 2020, arXiv:2010.05646.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Tensors
from vrameter.model.config import Config


def transposed(name: str, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> Tensors:
    """Return a transposed convolution, whose kernel is stored inputs first."""
    weight = parts.parameter(f"{name}.weight", inputs, outputs, kernel, role="convolution")
    return (*weight, *(parts.parameter(f"{name}.bias", outputs, role="convolution") if bias else ()))


def mixed_kernels(cfg: Config) -> list[tuple[int, int]]:
    """Return the kernels that each stage mixes, and how many dilations of each."""
    kernels, steps = cfg.integers("resblock_kernel_sizes", least=1), cfg.sequence("resblock_dilation_sizes", ())
    if len(steps) != len(kernels) or not all(isinstance(each, (list, tuple)) for each in steps):
        raise cfg.fail(
            "resblock_dilation_sizes",
            "has %(length)s entries for %(count)s layers.",
            length=len(steps),
            count=len(kernels),
        )
    return [(kernel, len(each)) for kernel, each in zip(kernels, steps, strict=True)]


def hifi_gan(cfg: Config, inputs: int, *, post_bias: bool = True) -> Tensors:
    """Return the generator [1]_: each stage raises the rate and halves the width, then mixes several kernels.

    `inputs` is the width of what it reads.
    """
    width = cfg.integer("upsample_initial_channel")
    kernels = cfg.integers("upsample_kernel_sizes", least=1)
    tensors = parts.conv("conv_pre", width, inputs, 7)
    block, reaches = 0, mixed_kernels(cfg)
    for stage, kernel in enumerate(kernels):
        tensors += transposed(f"upsampler.{stage}", width, width // 2, kernel)
        width //= 2
        for reach, steps in reaches:
            for half in ("convs1", "convs2"):
                for index in range(steps):
                    tensors += parts.conv(f"resblocks.{block}.{half}.{index}", width, width, reach)
            block += 1
    return (*tensors, *parts.conv("conv_post", 1, width, 7, bias=post_bias))


__all__ = ["hifi_gan", "mixed_kernels", "transposed"]
