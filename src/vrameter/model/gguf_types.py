"""GGUF's tensor types: values in blocks of fixed size, scales inside the block.

A tensor's rows are whole blocks; a row that is not falls back to a type with smaller blocks, as the quantiser of
llama.cpp does it [1]_.

References
----------
.. [1] llama.cpp, ``src/llama-quant.cpp`` and ``ggml/include/ggml.h`` at commit 007dbbf; block sizes as compiled ggml
       prints them.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

from vrameter.model.formats import Format

# name: (values, bytes) of a block
BLOCKS: dict[str, tuple[int, int]] = {
    "f64": (1, 8), "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "i8": (1, 1), "i16": (1, 2), "i32": (1, 4),
    "i64": (1, 8),
    "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34), "q8_1": (32, 36),
    "q2_k": (256, 84), "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210),
    "q8_k": (256, 292),
    "iq1_s": (256, 50), "iq1_m": (256, 56), "iq2_xxs": (256, 66), "iq2_xs": (256, 74), "iq2_s": (256, 82),
    "iq3_xxs": (256, 98), "iq3_s": (256, 110), "iq4_nl": (32, 18), "iq4_xs": (256, 136),
    "tq1_0": (256, 54), "tq2_0": (256, 66), "mxfp4": (32, 17), "nvfp4": (64, 36), "q1_0": (128, 18), "q2_0": (64, 18),
}  # fmt: skip

# Numbers of types in a file [1]_, and of types that were removed: kernels now repack the plain type while they load it.
TYPE_IDS: dict[int, str] = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k", 11: "q3_k",
    12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s",
    20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64",
    29: "iq1_m", 30: "bf16", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4", 41: "q1_0", 42: "q2_0",
}  # fmt: skip
REMOVED_TYPE_IDS: dict[int, str] = {
    4: "q4_2", 5: "q4_3", 31: "q4_0_4_4", 32: "q4_0_4_8", 33: "q4_0_8_8", 36: "iq4_nl_4_4", 37: "iq4_nl_4_8",
    38: "iq4_nl_8_8",
}  # fmt: skip

# What a type becomes where a row is not a whole number of its blocks.
FALLBACKS: dict[str, str] = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_0", "q2_k", "q3_k", "tq1_0", "tq2_0"), "q4_0"),
    "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0",
}  # fmt: skip


@cache
def gguf_format(name: str) -> Format:
    """Return a GGUF type as the format of a tensor.

    >>> gguf_format("q4_k").bytes_of((4096, 4096)).total
    9437184
    """
    values, size = BLOCKS[name]
    if values == 1:
        return Format(name, Fraction(8 * size), plain=True)
    return Format(name, Fraction(8 * size, values), group=values, block_bytes=size)


def fitting_type(name: str, columns: int) -> str:
    """Return the type that rows of `columns` values get where `name` is wanted.

    >>> fitting_type("q4_k", 4096), fitting_type("q4_k", 1408), fitting_type("q4_k", 1000)
    ('q4_k', 'q5_0', 'f16')
    """
    if columns % BLOCKS[name][0] == 0:
        return name
    other = FALLBACKS.get(name, "f16")
    return other if columns % BLOCKS[other][0] == 0 else "f16"


def gguf_bytes(name: str, shape: tuple[int, ...]) -> int:
    """Return what a tensor of a GGUF type takes, without the padding between tensors.  [bytes]."""
    return gguf_format(name).bytes_of(shape).total


__all__ = [
    "BLOCKS", "FALLBACKS", "REMOVED_TYPE_IDS", "TYPE_IDS", "fitting_type", "gguf_bytes", "gguf_format",
]  # fmt: skip
