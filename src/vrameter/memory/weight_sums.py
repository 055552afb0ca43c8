"""What weights add up to: one tensor, one line, one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vrameter.model.dtypes import Dtype
from vrameter.model.formats import Format, TensorBytes, plain


def weights_bytes(*, quantized: int, scales: int, unquantized: int, buffers: int) -> int:
    """Return what weights take on one device. [bytes].

    Formula::

        quantized + scales + unquantized + buffers

    Parameters
    ----------
    quantized
        Packed values of quantised matrices. [bytes]
    scales
        Their scales, zero points, codebooks and indices. [bytes]
    unquantized
        Parameters in the model's dtype. [bytes]
    buffers
        Stored tensors that are no parameters. [bytes]
    """
    return quantized + scales + unquantized + buffers


def tensor_bytes(shape: Sequence[int], form: Format | Dtype | str) -> TensorBytes:
    """Return what one tensor takes in a format: ``(..., outputs, inputs)``. [bytes].

    `form` is a format, a number format or the name of one.

    >>> tensor_bytes((4096, 4096), "bf16").total
    33554432
    """
    return (form if isinstance(form, Format) else plain(form)).bytes_of(shape)


@dataclass(frozen=True, slots=True)
class Line:
    """The tensors of one role in one component. Sizes in bytes, `num_params` without buffers."""

    component: str
    role: str
    num_params: int
    quantized: int
    scales: int
    unquantized: int
    buffers: int

    @property
    def total(self) -> int:
        """All together. [bytes]."""
        return self.quantized + self.scales + self.unquantized + self.buffers


@dataclass(frozen=True)
class WeightBytes:
    """What the weights of a model or a share of one take, by component and role. [bytes]."""

    lines: tuple[Line, ...]

    @cached_property
    def quantized(self) -> int:
        """Packed values of quantised matrices. [bytes]."""
        return sum(line.quantized for line in self.lines)

    @cached_property
    def scales(self) -> int:
        """Scales, zero points, codebooks and indices. [bytes]."""
        return sum(line.scales for line in self.lines)

    @cached_property
    def unquantized(self) -> int:
        """Parameters in a plain number format. [bytes]."""
        return sum(line.unquantized for line in self.lines)

    @cached_property
    def buffers(self) -> int:
        """Stored tensors that are no parameters. [bytes]."""
        return sum(line.buffers for line in self.lines)

    @cached_property
    def total(self) -> int:
        """All together. [bytes]."""
        return weights_bytes(
            quantized=self.quantized, scales=self.scales, unquantized=self.unquantized, buffers=self.buffers
        )

    @cached_property
    def num_params(self) -> int:
        """Parameters."""
        return sum(line.num_params for line in self.lines)

    @cached_property
    def bits_per_weight(self) -> float:
        """Bits of all bytes over all parameters. [bits]."""
        return 8 * self.total / max(1, self.num_params)

    @cached_property
    def by_role(self) -> dict[str, int]:
        """Bytes of each role, the largest first."""
        return self._summed("role")

    @cached_property
    def by_component(self) -> dict[str, int]:
        """Bytes of each component, the largest first."""
        return self._summed("component")

    def _summed(self, attribute: str) -> dict[str, int]:
        sums: dict[str, int] = {}
        for line in self.lines:
            name = getattr(line, attribute)
            sums[name] = sums.get(name, 0) + line.total
        return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


__all__ = ["Line", "WeightBytes", "tensor_bytes", "weights_bytes"]
