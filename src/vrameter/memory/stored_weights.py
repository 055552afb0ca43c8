"""What weights take where the files were read: every tensor as it lies there, or as it is loaded from there.

A loader keeps packed matrices as they are, brings plain numbers of the file's main format to the model's, and leaves
others alone: fp32 biases of routers, states of recurrent mixers, counters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod

from vrameter.model.architecture import Tensor
from vrameter.model.dtypes import find_dtype
from vrameter.model.formats import Format, measured, plain
from vrameter.model.orientation import Key
from vrameter.model.placement import Held, Placement

FLOATS = {"f64": "fp64", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
"""Number formats that a loader converts into each other, as files and as we spell them."""


@dataclass(frozen=True)
class StoredWeights:
    """How files hold a model's tensors.

    Parameters
    ----------
    dtype
        Name of the number format that a loader brings plain numbers to.
    all_floats
        Whether it brings every plain number to it, as where it was asked for, rather than those of the file's main format.
    """

    placement: Placement
    dtype: str
    all_floats: bool = False
    _known: dict[Key, Format] = field(default_factory=dict, compare=False, repr=False)

    def stored(self, key: Key, tensor: Tensor, described: Callable[[], Format | None]) -> Format | None:
        """Return the format of a tensor, None where the files do not hold it.

        Parameters
        ----------
        described
            Returns the format that the model's configuration states, which is taken where it comes to the same bytes.
        """
        held = self.placement.held.get(key)
        if held is None:
            return None
        if key not in self._known:
            self._known[key] = self._packed(held, described()) if held.method else self._plain(held, tensor)
        return self._known[key]

    def _plain(self, held: Held, tensor: Tensor) -> Format:
        own = FLOATS.get(held.dtype)
        if own is None or (held.dtype == self.placement.dtype and not tensor.buffer):
            return plain(self.dtype) if own else number_format(held)
        kept = tensor.buffer or not self.all_floats
        return plain(own if kept else self.dtype)

    @staticmethod
    def _packed(held: Held, described: Format | None) -> Format:
        if described is not None and described.bytes_of(held.shape) == (held.values, held.scales):
            return described
        return measured(held.method, values=held.values, scales=held.scales, elements=prod(held.shape) or 1)


def number_format(held: Held) -> Format:
    """Return a plain tensor's number format as the file spells it."""
    known = find_dtype(held.dtype)
    bits = Fraction(8 * held.values, prod(held.shape) or 1)
    return plain(known) if known is not None and known.bits == bits else Format(held.dtype, bits, plain=True)


__all__ = ["FLOATS", "StoredWeights", "number_format"]
