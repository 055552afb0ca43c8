"""How one matrix lies in memory: bits of a value, and the scales, zeros, codebooks and indices beside it.

A `Format` knows nothing of models. Which tensor of a model has which format is a scheme's business
(`vrameter.model.schemes`, `vrameter.model.quantization_config`, `vrameter.model.gguf_mixture`).

Matrices are taken as ``(..., outputs, inputs)``; everything in front of the last two is a stack of matrices, such
as experts. Groups run along the inputs and round up at the end of a row, as kernels and files store them.

References
----------
.. [1] E. Frantar et al., "GPTQ", 2022, arXiv:2210.17323; J. Lin et al., "AWQ", 2023, arXiv:2306.00978.
.. [2] T. Dettmers et al., "LLM.int8()", 2022, arXiv:2208.07339; "QLoRA", 2023, arXiv:2305.14314, section 3.
.. [3] Open Compute Project, "OCP Microscaling Formats (MX) Specification v1.0", 2023.
.. [4] V. Egiazarian et al., "Extreme Compression of LLMs via Additive Quantization" (AQLM), 2024, arXiv:2401.06118.
.. [5] DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, arXiv:2412.19437, section 3.3 (128 x 128 fp8 blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import NamedTuple

from vrameter.model.dtypes import Dtype, dtype
from vrameter.units import ceil_div, ceil_to


class TensorBytes(NamedTuple):
    """What one tensor takes. [bytes].

    `values` are the packed numbers, `scales` everything that explains them: scales, zero points, codebooks, indices.
    """

    values: int
    scales: int

    @property
    def total(self) -> int:
        """Both together.  [bytes]."""
        return self.values + self.scales


@dataclass(frozen=True, slots=True)
class Format:
    """How a matrix of ``outputs x inputs`` is stored.

    Parameters
    ----------
    bits
        What one value takes. [bits]
    group
        Inputs that share a scale; 0 where there are no groups. [elements]
    group_rows
        Outputs that share it: 128 in blockwise fp8. [elements]
    scale_bytes, zero_bits
        What each group adds: its scale [bytes] and its zero point [bits].
    super_group, super_bytes
        Groups that share a scale of scales (double quantisation), and what that takes. [groups], [bytes]
    row_bytes, column_bytes, matrix_bytes
        What each output, each input and each matrix adds: row scales, ``g_idx``, codebooks, global scales. [bytes]
    flat
        Whether groups run over the flattened matrix instead of its rows (bitsandbytes).
    block_bytes
        Where not 0: blocks of `group` values take this much, scales inside (GGUF). [bytes]
    scale_bits
        What explains a value, where only the sum over a matrix is known (a file's own tensors). [bits]
    whole_groups
        Whether a matrix whose inputs are no multiple of `group` stays unquantised (MLX).
    whole_rows
        Where not 0: a matrix whose outputs are no multiple of it stays unquantised (torchao's 6-bit floats).
    padded_columns
        Inputs are filled up to a multiple of it (torchao's 4-bit integers, in tiles). [elements]
    plain
        Whether it is a number format without any of the above.
    """

    name: str
    bits: Fraction
    group: int = 0
    group_rows: int = 1
    scale_bytes: int = 0
    zero_bits: int = 0
    super_group: int = 0
    super_bytes: int = 0
    row_bytes: int = 0
    column_bytes: int = 0
    matrix_bytes: int = 0
    flat: bool = False
    block_bytes: int = 0
    scale_bits: Fraction = Fraction(0)
    whole_groups: bool = False
    whole_rows: int = 0
    padded_columns: int = 1
    plain: bool = False

    def __hash__(self) -> int:
        return hash(self.name)

    def bytes_of(self, shape: Sequence[int]) -> TensorBytes:
        """Return what a tensor of this format takes. [bytes].

        >>> BLOCK_FP8.bytes_of((300, 129))
        TensorBytes(values=38700, scales=24)
        >>> bnb(4).bytes_of((4096, 4096)).total / 2**24
        0.5625
        """
        elements = prod(shape)
        if self.plain or not elements:
            return TensorBytes(-(-elements * self.bits.numerator // (8 * self.bits.denominator)), 0)
        columns = shape[-1] if shape else 1
        rows = shape[-2] if len(shape) > 1 else 1
        matrices = elements // (rows * columns)
        columns = ceil_to(columns, self.padded_columns)
        if self.block_bytes:
            return TensorBytes(matrices * rows * ceil_div(columns, self.group) * self.block_bytes, 0)
        values = matrices * ceil_div(rows * columns * self.bits.numerator, 8 * self.bits.denominator)
        if self.scale_bits:
            return TensorBytes(values, ceil_div(elements * self.scale_bits.numerator, 8 * self.scale_bits.denominator))
        groups = 0
        if self.group:
            per_row = ceil_div(columns, self.group)
            groups = ceil_div(rows * columns, self.group) if self.flat else ceil_div(rows, self.group_rows) * per_row
        scales = groups * self.scale_bytes + ceil_div(groups * self.zero_bits, 8)
        if self.super_group:
            scales += ceil_div(groups, self.super_group) * self.super_bytes
        scales += rows * self.row_bytes + columns * self.column_bytes + self.matrix_bytes
        return TensorBytes(values, matrices * scales)

    def fits(self, shape: Sequence[int]) -> bool:
        """Say whether a matrix can have this format at all."""
        if self.whole_rows and (len(shape) < 2 or shape[-2] % self.whole_rows):
            return False
        return not self.whole_groups or (len(shape) > 1 and shape[-1] % self.group == 0)

    @property
    def bits_per_weight(self) -> Fraction:
        """Bits of a value with its share of the group's scales, without what rows, columns and matrices add. [bits].

        >>> float(AWQ.bits_per_weight), float(bnb(4, double=True).bits_per_weight)
        (4.15625, 4.126953125)
        """
        if not self.group:
            return self.bits + self.scale_bits
        if self.block_bytes:
            return Fraction(8 * self.block_bytes, self.group)
        shared = self.group * self.group_rows
        scales = Fraction(8 * self.scale_bytes + self.zero_bits, shared)
        if self.super_group:
            scales += Fraction(8 * self.super_bytes, shared * self.super_group)
        return self.bits + scales

    @property
    def formula(self) -> str:
        """The sum that `bytes_of` computes, for people.

        >>> AWQ.formula
        'elements × 0.5 + groups of 128 × (2 + 0.5)'
        >>> BLOCK_FP8.formula
        'elements × 1 + blocks of 128 × 128 × 4'
        """
        if self.block_bytes:
            return f"outputs × ⌈inputs / {self.group}⌉ × {self.block_bytes}"
        terms = [f"elements × {_decimal((self.bits + self.scale_bits) / 8)}"]
        if self.group and (self.scale_bytes or self.zero_bits):
            each = [_decimal(Fraction(part)) for part in (self.scale_bytes, Fraction(self.zero_bits, 8)) if part]
            share = f"({' + '.join(each)})" if len(each) > 1 else each[0]
            of = f"blocks of {self.group_rows} × {self.group}" if self.group_rows > 1 else f"groups of {self.group}"
            terms.append(f"{of} × {share}")
        if self.super_group:
            terms.append(f"groups / {self.super_group} × {self.super_bytes}")
        beside = ((self.row_bytes, "outputs"), (self.column_bytes, "inputs"), (self.matrix_bytes, "matrices"))
        terms += [f"{what} × {size}" for size, what in beside if size]
        return " + ".join(terms)


def measured(name: str, *, values: int, scales: int, elements: int) -> Format:
    """Return the format of a matrix whose bytes are known and whose layout need not be.

    >>> measured("awq", values=512, scales=40, elements=1024).bytes_of((256,))
    TensorBytes(values=128, scales=10)
    """
    return Format(name, Fraction(8 * values, elements), scale_bits=Fraction(8 * scales, elements))


def _decimal(number: Fraction) -> str:
    return f"{float(number):.6g}"


def plain(of: Dtype | str) -> Format:
    """Return a number format as the format of a tensor."""
    item = dtype(of) if isinstance(of, str) else of
    return Format(item.name, Fraction(item.bits), plain=True)


# -- families of formats; sizes of scales as the engines hold them [MEMORY_MODEL 2B] -----------------

TENSOR_FP8 = Format("fp8-per-tensor", Fraction(8), matrix_bytes=4)
STATIC_FP8 = Format("fp8-static", Fraction(8), matrix_bytes=8)
CHANNEL_FP8 = Format("fp8", Fraction(8), row_bytes=4)
BLOCK_FP8 = Format("fp8-block", Fraction(8), group=128, group_rows=128, scale_bytes=4)
CHANNEL_INT8 = Format("int8", Fraction(8), row_bytes=4)
MXFP8 = Format("mxfp8", Fraction(8), group=32, scale_bytes=1)
MXFP6 = Format("mxfp6", Fraction(6), group=32, scale_bytes=1)
MXFP4 = Format("mxfp4", Fraction(4), group=32, scale_bytes=1)
NVFP4 = Format("nvfp4", Fraction(4), group=16, scale_bytes=1, matrix_bytes=4)
TERNARY = Format("bitnet", Fraction(2), matrix_bytes=2)


def grouped(
    name: str, bits: int, group: int, *, scale_bytes: int = 2, zero: bool = False, index: bool = False
) -> Format:
    """Return integers with a 16-bit scale for each group of inputs [1]_; ``group <= 0``: one group a row.

    Parameters
    ----------
    zero
        Whether each group has a packed zero point of the same width.
    index
        Whether an int32 per input tells its group (GPTQ's ``g_idx``).
    """
    column = 4 if index else 0
    if group <= 0:
        row = scale_bytes + (ceil_div(bits, 8) if zero else 0)
        return Format(name, Fraction(bits), row_bytes=row, column_bytes=column)
    zero_bits = bits if zero else 0
    return Format(name, Fraction(bits), group=group, scale_bytes=scale_bytes, zero_bits=zero_bits, column_bytes=column)


AWQ = grouped("awq", 4, 128, zero=True)


def gptq(bits: int = 4, group: int = 128) -> Format:
    """Return GPTQ [1]_: packed values, fp16 scales, packed zeros, and the group of every input."""
    return grouped("gptq" if bits == 4 else f"gptq-int{bits}", bits, group, zero=True, index=True)


def bnb(bits: int, *, kind: str = "nf4", double: bool = False, block: int = 64) -> Format:
    """Return bitsandbytes [2]_: 8 bits with a scale a row, or 4 bits in blocks over the flattened matrix.

    The table of 16 levels, 64 bytes a tensor, is left out.
    """
    if bits == 8:
        return Format("bnb-int8", Fraction(8), row_bytes=4)
    name = f"bnb-{kind}-dq" if double else f"bnb-{kind}"
    base = Format(name, Fraction(4), group=block, scale_bytes=1 if double else 4, flat=True)
    return replace(base, super_group=256, super_bytes=4) if double else base


def hqq(bits: int = 4, group: int = 64) -> Format:
    """Return HQQ: fp16 scale and zero of each group."""
    return Format(f"hqq-{bits}bit", Fraction(bits), group=group, scale_bytes=4)


def mlx(bits: int, group: int = 64) -> Format:
    """Return MLX's affine quantisation: 16-bit scale and bias of each group."""
    return Format(f"mlx-{bits}bit", Fraction(bits), group=group, scale_bytes=4, whole_groups=True)


def aqlm(*, codebooks: int = 1, code_bits: int = 16, inputs: int = 8, outputs: int = 1) -> Format:
    """Return AQLM [4]_: codes of `code_bits` (stored in 8 or 16) for every group, codebooks, and a scale a row."""
    stored = ceil_to(code_bits, 8)
    return Format(
        "aqlm-2bit" if (codebooks, code_bits, inputs, outputs) == (1, 16, 8, 1) else "aqlm",
        Fraction(codebooks * stored, inputs * outputs),
        row_bytes=2,
        matrix_bytes=codebooks * 2**code_bits * inputs * outputs * 2,
    )


def exl(version: int, bits: Fraction) -> Format:
    """Return ExLlama's format at an average number of bits, scales counted in.

    Version 2 keeps a 16-bit permutation of the inputs, version 3 16-bit sign vectors of inputs and outputs.
    """
    return Format(f"exl{version}-{float(bits):g}bpw", bits, column_bytes=2, row_bytes=2 if version == 3 else 0)


__all__ = [
    "AWQ", "BLOCK_FP8", "CHANNEL_FP8", "CHANNEL_INT8", "MXFP4", "MXFP6", "MXFP8", "NVFP4", "STATIC_FP8", "TENSOR_FP8",
    "TERNARY", "Format", "TensorBytes", "aqlm", "bnb", "exl", "gptq", "grouped", "hqq", "measured", "mlx",
    "plain",
]  # fmt: skip
