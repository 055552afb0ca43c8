"""Number formats as data: what one stored value takes, and what it can express.

Storage and computing differ: tf32 is a way to multiply fp32 numbers and takes four bytes; e8m0 is only ever a scale.

References
----------
.. [1] IEEE 754-2019 (fp64, fp32, fp16).
.. [2] P. Micikevicius et al., "FP8 Formats for Deep Learning", 2022, arXiv:2209.05433 (e4m3, e5m2).
.. [3] Open Compute Project, "OCP Microscaling Formats (MX) Specification v1.0", 2023 (fp6, fp4, e8m0).
.. [4] NVIDIA, "CUDA C++ Programming Guide", tensor core types by compute capability.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from vrameter.errors import UnknownNameError
from vrameter.i18n import tr


@dataclass(frozen=True, slots=True)
class Dtype:
    """A number format.

    Parameters
    ----------
    bits
        What one value takes in memory. [bits]
    exponent, mantissa
        Bits of the exponent and of the stored fraction; integers have no exponent. [bits]
    largest
        Largest finite value.
    smallest
        Smallest positive normal value; 1 for integers.
    digits
        Decimal digits of precision, for people.
    computes_since
        CUDA compute capability from which tensor cores, or else plain cores, multiply it; None where none does.
    purpose, hardware
        One English sentence each, to be shown through `tr`.
    """

    name: str
    bits: int
    kind: Literal["float", "integer", "scale"]
    exponent: int
    mantissa: int
    largest: float
    smallest: float
    digits: str
    purpose: str
    hardware: str
    computes_since: tuple[int, int] | None = None
    aliases: tuple[str, ...] = ()

    @property
    def bytes_per_value(self) -> Fraction:
        """What one value takes.  [bytes]."""
        return Fraction(self.bits, 8)

    def bytes_of(self, elements: int) -> int:
        """Return what `elements` values take, whole bytes. [bytes].

        >>> dtype("bf16").bytes_of(10), dtype("int4").bytes_of(3)
        (20, 2)
        """
        return -(-elements * self.bits // 8)


_ALL = (
    Dtype(
        "fp64", 64, "float", 11, 52, 1.7976931348623157e308, 2.2250738585072014e-308, "15-17",
        "Scientific computing and reference results; hardly ever for models.",
        "Every CUDA GPU; fast only on data-centre cards (P100, V100, A100, H100, MI200 and later).",
        (6, 0), ("float64", "double", "f64"),
    ),
    Dtype(
        "fp32", 32, "float", 8, 23, 3.4028234663852886e38, 1.1754943508222875e-38, "7",
        "Master weights, optimizer states and reductions; weights only of small or old models.",
        "Every GPU, without tensor cores.",
        (1, 0), ("float32", "float", "single", "f32", "full"),
    ),
    Dtype(
        "tf32", 32, "float", 8, 10, 3.4011621342146535e38, 1.1754943508222875e-38, "3",
        "A way to multiply fp32 numbers with 19 bits of each; they are stored as fp32, so memory stays the same.",
        "NVIDIA tensor cores since Ampere (compute capability 8.0); AMD MI300 as xf32.",
        (8, 0), ("tensorfloat32", "tensorfloat-32", "xf32"),
    ),
    Dtype(
        "bf16", 16, "float", 8, 7, 3.3895313892515355e38, 1.1754943508222875e-38, "2",
        "Training and inference: the range of fp32 in half the memory, so no loss scaling.",
        "NVIDIA since Ampere (8.0), AMD since MI100 and RDNA3, Intel since Xe-HPC, Google TPUs, Apple since M2.",
        (8, 0), ("bfloat16", "bfloat"),
    ),
    Dtype(
        "fp16", 16, "float", 5, 10, 65504.0, 6.103515625e-05, "3",
        "Inference, and training with loss scaling: more precise than bf16, but overflows above 65504.",
        "NVIDIA tensor cores since Volta (7.0), all recent AMD, Intel and Apple GPUs.",
        (7, 0), ("float16", "half", "f16", "half-precision"),
    ),
    Dtype(
        "fp8", 8, "float", 4, 3, 448.0, 2.0**-6, "1",
        "Weights, activations and KV cache of inference, and the forward pass of fp8 training; needs scales.",
        "NVIDIA tensor cores since Ada and Hopper (8.9, 9.0), AMD since MI300; older cards compute in 16 bits.",
        (8, 9), ("fp8-e4m3", "e4m3", "float8", "float8-e4m3fn", "fp8-e4m3fn", "f8-e4m3", "e4m3fn", "float8-e4m3"),
    ),
    Dtype(
        "fp8-e5m2", 8, "float", 5, 2, 57344.0, 2.0**-14, "1",
        "Gradients in fp8 training, and KV caches without scales: more range, less precision than e4m3.",
        "NVIDIA tensor cores since Ada and Hopper (8.9, 9.0), AMD since MI300.",
        (8, 9), ("e5m2", "float8-e5m2", "f8-e5m2"),
    ),
    Dtype(
        "fp6-e2m3", 6, "float", 2, 3, 7.5, 1.0, "1",
        "Weights in the MXFP6 block format, with a scale for every 32 values.",
        "NVIDIA tensor cores since Blackwell (10.0), AMD since MI350.",
        (10, 0), ("e2m3", "fp6", "float6-e2m3fn", "float6"),
    ),
    Dtype(
        "fp6-e3m2", 6, "float", 3, 2, 28.0, 0.25, "1",
        "Weights in the MXFP6 block format where range matters more than precision.",
        "NVIDIA tensor cores since Blackwell (10.0), AMD since MI350.",
        (10, 0), ("e3m2", "float6-e3m2fn"),
    ),
    Dtype(
        "fp4", 4, "float", 2, 1, 6.0, 1.0, "0-1",
        "Weights in the MXFP4 and NVFP4 block formats, with a scale for every 32 or 16 values.",
        "NVIDIA tensor cores since Blackwell (10.0), AMD since MI350; older cards store it and compute in 16 bits.",
        (10, 0), ("fp4-e2m1", "e2m1", "float4", "float4-e2m1fn", "f4"),
    ),
    Dtype(
        "int8", 8, "integer", 0, 7, 127.0, 1.0, "2",
        "Weights and activations of 8-bit inference (W8A8, LLM.int8), and 8-bit optimizer states.",
        "NVIDIA since Pascal (6.1), on tensor cores since Turing (7.5); slower than fp8 from Blackwell Ultra on.",
        (7, 5), ("i8", "w8", "uint8", "u8"),
    ),
    Dtype(
        "int4", 4, "integer", 0, 3, 7.0, 1.0, "1",
        "Weights of 4-bit inference (AWQ, GPTQ), unpacked to 16 bits when they are multiplied.",
        "Tensor cores of Turing and Ampere only (7.5 to 8.9); elsewhere it is a way to store.",
        (7, 5), ("i4", "uint4", "u4"),
    ),
    Dtype(
        "int2", 2, "integer", 0, 1, 1.0, 1.0, "0",
        "Weights of 2-bit and ternary models; only a way to store.",
        "No GPU multiplies it; kernels unpack it.",
        None, ("i2", "uint2"),
    ),
    Dtype(
        "e8m0", 8, "scale", 8, 0, 2.0**127, 2.0**-127, "0",
        "The scale of a block of MXFP8, MXFP6 or MXFP4 values: a power of two.",
        "Read by the tensor cores of Blackwell (10.0) and AMD MI350 together with its block.",
        None, ("ue8m0", "float8-e8m0fnu", "f8-e8m0"),
    ),
    Dtype(
        "int64", 64, "integer", 0, 63, 2.0**63 - 1, 1.0, "18",
        "Token numbers, positions and counters.", "Every GPU.", (1, 0), ("long", "i64"),
    ),
    Dtype(
        "int32", 32, "integer", 0, 31, 2.0**31 - 1, 1.0, "9",
        "Packed words of quantised weights and indices.", "Every GPU.", (1, 0), ("int", "i32", "uint32", "u32"),
    ),
)  # fmt: skip

DTYPES: dict[str, Dtype] = {item.name: item for item in _ALL}


def spelled(name: str) -> str:
    """Return a name without case and punctuation, a decimal point between digits kept.

    >>> spelled("Q4_K_M"), spelled("torch.bfloat16"), spelled("EXL2 4.65bpw")
    ('q4km', 'torchbfloat16', 'exl24.65bpw')
    """
    return re.sub(r"[^a-z0-9.]|(?<!\d)\.|\.(?!\d)", "", name.strip().lower())


_BY_SPELLING = {spelled(spelling): item for item in _ALL for spelling in (item.name, *item.aliases)}


def dtype(name: str, *, field: str = "dtype") -> Dtype:
    """Return the number format of a name, whatever its case and punctuation.

    >>> dtype("torch.bfloat16").name, dtype("FP8_E4M3").name, dtype("half").bits
    ('bf16', 'fp8', 16)

    Raises
    ------
    UnknownNameError
        With the nearest known names.
    """
    found = find_dtype(name)
    if found is None:
        raise UnknownNameError(
            tr("%(field)s: '%(value)s' is not a known number format.", field=field, value=name),
            name,
            [spelling for item in _ALL for spelling in (item.name, *item.aliases)],
            field=field,
            otherwise=tr("Known are: %(names)s.", names=", ".join(DTYPES)),
        )
    return found


def find_dtype(name: str) -> Dtype | None:
    """Return the number format of a name, or None."""
    return _BY_SPELLING.get(spelled(name).removeprefix("torch"))


__all__ = ["DTYPES", "Dtype", "dtype", "find_dtype", "spelled"]
