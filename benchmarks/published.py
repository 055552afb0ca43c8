"""Published sizes and counts: parameters of every model of the catalogue, and figures that projects print of their files."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.scores import Pair, Score
from vrameter.errors import VrameterError
from vrameter.memory.weights import weight_bytes
from vrameter.sources import catalogue

# Files of Llama 3.1 8B as llama.cpp's tools/quantize/README lists them; they hold 64 rotary frequencies in fp32 besides.
GGUF_8B = {
    "f16": 16_061_055_232, "q8_0": 8_532_934_912, "q6_k": 6_588_170_496, "q5_k_m": 5_725_151_488, "q5_k_s": 5_591_458_048,
    "q4_k_m": 4_912_898_304, "q4_k_s": 4_684_833_024, "q3_k_l": 4_314_120_448, "q3_k_s": 3_656_663_296, "q2_k": 3_171_295_488,
}  # fmt: skip
# Sizes of published files of Llama 3.1 70B in 10^9 bytes, made with an importance matrix; tokenizer and metadata included.
GGUF_70B = {
    "q8_0": 74.98, "q6_k": 57.89, "q5_k_m": 49.95, "q4_k_m": 42.52, "q4_k_s": 40.35, "iq4_xs": 37.90, "q3_k_m": 34.27, "iq3_m": 31.94,
}  # fmt: skip
ROTARY = 64 * 4


def counts() -> Iterator[Pair]:
    """Yield parameters of every model that has a count of what is loaded."""
    for entry in catalogue.entries():
        if entry.computed_params is None:
            continue
        try:
            found = entry.architecture().num_params
        except VrameterError:
            found = 0
        yield Pair(entry.id, found, entry.computed_params)


def files() -> Iterator[Pair]:
    """Yield sizes of GGUF files."""
    small = catalogue.find("meta-llama/Llama-3.1-8B").architecture()
    for name, size in GGUF_8B.items():
        yield Pair(f"Llama-3.1-8B {name}", weight_bytes(small, quantization=name).total + ROTARY, size)
    large = catalogue.find("meta-llama/Llama-3.1-70B").architecture()
    for name, gigabytes in GGUF_70B.items():
        estimate = weight_bytes(large, quantization=name, imatrix=True).total
        yield Pair(f"Llama-3.1-70B {name}", estimate, gigabytes * 1e9, rounding=0.02e9)


def scores() -> list[Score]:
    """Return the scores of this area."""
    return [
        Score("catalogue", "parameters", tuple(counts()), "all equal"),
        Score("weights", "GGUF files", tuple(files()), "all equal"),
    ]
