"""What each method of peft trains beside a matrix, what it keeps frozen, and what all matrices share.

A function takes one `Matrix`, the rank, the method's options and the size of a number, and returns a `Size`. Ranks, block
sizes and widths are adjusted where ``update_layer`` adjusts them.

References
----------
.. [1] peft 0.21.2, ``tuners/*/layer.py``, ``tuners/*/model.py``, ``tuners/*/config.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from vrameter.memory.adapters import Matrix, Size
from vrameter.units import ceil_div

Options = Mapping[str, Any]
Own = Callable[[Matrix, int, Options, int], Size]
Shared = Callable[[Sequence[Matrix], int, Options, int], Size]

INT32, INT64, FP32 = 4, 8, 4


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Parameters
    ----------
    own
        What one matrix brings.
    shared
        What all matrices bring together.
    defaults
        Options that matter to memory, with peft's defaults.
    """

    own: Own
    shared: Shared | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def largest(matrices: Sequence[Matrix]) -> tuple[int, int]:
    """Return the widest input and the widest output."""
    return max(matrix.inputs for matrix in matrices), max(matrix.outputs for matrix in matrices)


# -- low rank -------------------------------------------------------------------------------------------


def lora(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Two thin matrices; DoRA adds the length of each row, a bias of the second matrix its own numbers."""
    extra = m.outputs * (bool(options["use_dora"]) + bool(options["lora_bias"]))
    first, second = m.stack * rank * m.inputs, m.stack * rank * m.outputs
    return Size(first + second + extra) if options["trains_A"] else Size(second + extra, first * element)


def adalora(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Two thin matrices, a singular value for each rank, and the number of ranks.

    peft 0.21 trains that number as well where the base is not in fp32, without meaning to. The allocator of ranks keeps
    three averages of every number.
    """
    numbers = rank * (m.inputs + m.outputs + 1)
    return Size(numbers + (bool(options["trains_ranknum"]) and m.element < 4), 3 * numbers * element)


def twice(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Two pairs of thin matrices (LoHa)."""
    return Size(2 * rank * (m.inputs + m.outputs))


def factors(size: int, factor: int) -> tuple[int, int]:
    """Return two factors of a width, the first the smaller, near `factor` or as equal as they come (-1).

    >>> factors(128, -1), factors(128, 4), factors(127, -1)
    ((8, 16), (4, 32), (1, 127))
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor == -1 else factor
    low = next(each for each in range(min(isqrt(size), limit), 0, -1) if size % each == 0)
    return low, size // low


def kronecker(m: Matrix, rank: int, options: Options) -> tuple[tuple[int, int, bool], tuple[int, int, bool]]:
    """Return the two factors of LoKr: rows, columns, and whether each is stored whole."""
    in_small, in_large = factors(m.inputs, options["decompose_factor"])
    out_small, out_large = factors(m.outputs, options["decompose_factor"])
    first = not (options["decompose_both"] and rank < max(out_small, in_small) / 2)
    return (out_small, in_small, first), (out_large, in_large, rank >= max(out_large, in_large) / 2)


def lokr(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count a Kronecker product of two matrices, each whole or as two thin ones."""
    return Size(
        sum(
            rows * columns if whole else rank * (rows + columns) for rows, columns, whole in kronecker(m, rank, options)
        )
    )


def hira(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Two thin matrices whose product multiplies the frozen one."""
    return Size(rank * (m.inputs + m.outputs))


def gralora(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Thin matrices for each of `gralora_k` blocks, and a plain pair of rank `hybrid_r`."""
    return Size((rank + options["hybrid_r"]) * (m.inputs + m.outputs))


def delora(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Two thin matrices and a strength; the lengths of the frozen matrix's columns are kept."""
    return Size(rank * (m.inputs + m.outputs) + 1, m.inputs * element)


def deft(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count a projection of outputs and, unless `para`, what is put in its place."""
    rank = min(rank, m.outputs)
    return Size(rank * (m.outputs + (0 if options["para"] else m.inputs)))


def glora(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Two updates of the matrix (A, B), one of inputs' bias (C), two of the bias (D, E)."""
    kind = options["config_A_B"]
    plain = {"lora": rank * (m.inputs + m.outputs), "vector": m.outputs, "constant": 1}.get(kind, 0)
    trained, frozen = 2 * plain, 0 if plain else 2 * m.inputs * m.outputs
    inner = {"lora": rank * (m.inputs + 1), "vector": m.inputs}.get(options["config_C"], 0) if m.bias else 0
    outer = {"vector": m.outputs, "constant": 1}.get(options["config_D_E"], 0) if m.bias else 0
    frozen += (0 if inner else m.inputs) + (0 if outer else 2 * m.outputs)
    return Size(trained + inner + 2 * outer, frozen * m.element)


def peanut(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count a small network over the frozen matrix's columns."""
    return Size(2 * rank * m.outputs + 2 * options["depth"] * rank * rank)


def lily(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count a router over the second matrices, which all layers share."""
    return Size(rank * options["num_B"])


def lily_shared(matrices: Sequence[Matrix], rank: int, options: Options, element: int) -> Size:
    """First matrices shared by `stride_A` neighbouring layers, second ones by all layers of a target."""
    groups: dict[tuple[str, int, int], int] = {}
    for m in matrices:
        key = (m.target, m.inputs, m.outputs)
        groups[key] = groups.get(key, 0) + m.count
    return Size(
        sum(
            ceil_div(count, options["stride_A"]) * rank * inputs + options["num_B"] * rank * outputs
            for (_, inputs, outputs), count in groups.items()
        )
    )


# -- shared projections ---------------------------------------------------------------------------------


def vera(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Two vectors; the random matrices are shared."""
    return Size(rank + m.outputs)


def vera_shared(matrices: Sequence[Matrix], rank: int, options: Options, element: int) -> Size:
    """Two frozen matrices as wide as the widest layer."""
    return Size(0, rank * sum(largest(matrices)) * element)


def pvera(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """VeRA with a mean and a variance for each rank."""
    return Size(2 * rank + m.outputs)


def pvera_shared(matrices: Sequence[Matrix], rank: int, options: Options, element: int) -> Size:
    """Count the frozen matrices, the first one twice as high."""
    inputs, outputs = largest(matrices)
    return Size(0, rank * (2 * inputs + outputs) * element)


def randlora(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Scales of enough random bases to span the matrix."""
    small = min(m.inputs, m.outputs)
    bases = ceil_div(small, rank)
    return Size(bases * (rank + small))


def randlora_shared(matrices: Sequence[Matrix], rank: int, options: Options, element: int) -> Size:
    """Count the random bases of the widest layer."""
    small, wide = sorted(largest(matrices))
    return Size(0, rank * (small + wide * ceil_div(small, rank)) * element)


def vblora(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Logits that choose vectors of a bank for each piece of two thin matrices."""
    pieces = m.inputs // options["vector_length"] + m.outputs // options["vector_length"]
    return Size(rank * pieces * options["num_vectors"])


def vblora_shared(matrices: Sequence[Matrix], rank: int, options: Options, element: int) -> Size:
    """Count the bank of vectors."""
    return Size(options["num_vectors"] * options["vector_length"])


def unilora(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Frozen places in one trained vector, and frozen scales, for two thin matrices."""
    return Size(0, rank * (m.inputs + m.outputs) * (INT64 + element))


def unilora_shared(matrices: Sequence[Matrix], rank: int, options: Options, element: int) -> Size:
    """Count the one vector."""
    return Size(options["theta_d_length"])


def tinylora(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Frozen singular vectors and random projections."""
    return Size(0, (rank * (m.inputs + m.outputs) + options["u"] * rank * rank) * element)


def tinylora_shared(matrices: Sequence[Matrix], rank: int, options: Options, element: int) -> Size:
    """Count a vector for each group of layers."""
    count = sum(m.count for m in matrices)
    groups = max(1, round(count * (1.0 - options["weight_tying"])))
    size = max(1, count // groups)
    return Size(options["u"] * min(groups, ceil_div(count, size)))


# -- rotations ------------------------------------------------------------------------------------------


def near_divisor(size: int, wanted: int) -> int:
    """Return the divisor of a width nearest to what is wanted, the smaller of two."""
    if wanted >= size:
        return size
    low = next(each for each in range(wanted, 0, -1) if size % each == 0)
    high = next(each for each in range(wanted, size + 1) if size % each == 0)
    return low if wanted - low <= high - wanted else high


def oft_blocks(m: Matrix, options: Options) -> tuple[int, int]:
    """Return OFT's number of blocks and the width of each."""
    if options["r"]:
        blocks = near_divisor(m.inputs, options["r"])
        return blocks, m.inputs // blocks
    block = near_divisor(m.inputs, options["oft_block_size"])
    return m.inputs // block, block


def oft(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Skew-symmetric blocks, and where their numbers stand."""
    blocks, block = oft_blocks(m, options)
    numbers = block * (block - 1) // 2
    return Size(numbers * (1 if options["block_share"] else blocks), 2 * numbers * INT64)


def boft_block(m: Matrix, options: Options) -> int:
    """Return the width of BOFT's blocks."""
    return m.inputs // options["boft_block_num"] if options["boft_block_num"] else int(options["boft_block_size"])


def boft(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Square blocks for each butterfly factor, and a scale for each output; permutations wait in host memory."""
    factors = options["boft_n_butterfly_factor"]
    moved = factors * m.inputs * m.inputs * FP32 if options["moves_buffers"] else 0
    return Size(factors * m.inputs * boft_block(m, options) + m.outputs, moved)


def hra(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Vectors of Householder reflections."""
    return Size(m.inputs * rank)


def road(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Angles and scales of pairs of outputs."""
    return Size({"road_1": 1, "road_2": 2, "road_4": 4}.get(options["variant"], 1) * m.outputs)


def psoft(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count a rotation within the frozen matrix's main directions, which are kept beside it.

    Both in fp32. A full decomposition is kept whole on a GPU: the first directions are a view of all of them.
    """
    trained = rank * (rank - 1) // 2 if options["psoft_orth"] else rank * rank
    places = rank * (rank - 1) * INT64 if options["psoft_orth"] else 0
    rows = (
        min(m.inputs, m.outputs) if options["psoft_svd"] == "full" and options["ab_svd_init"] == "psoft_init" else rank
    )
    sides = rank * (bool(options["psoft_mag_a"]) + bool(options["psoft_mag_b"]))
    return Size(trained + sides, (rows * m.inputs + m.outputs * rank) * FP32 + places)


def osf_low(m: Matrix, rank: int, options: Options) -> int:
    """Return how many directions OSF trains: those beyond the `effective_rank` that stay frozen."""
    small = min(m.inputs, m.outputs)
    if options["low_rank"] is not None:
        return min(int(options["low_rank"]), small)
    asked = options["effective_rank"]
    if asked is None:
        return small - small // 2
    high = int(small * asked) if isinstance(asked, float) and 0 < asked <= 1 else int(asked)
    return small - max(0, min(small, high))


def osf(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count the least singular directions, trained; their first values and, where the matrix is not square, the others, frozen.

    Before peft 0.21 all others were kept, on both sides, and no first values.
    """
    low = osf_low(m, rank, options)
    high = min(m.inputs, m.outputs) - low
    trained = low * (m.inputs + m.outputs + 1)
    if options["rebuilds_weight"]:
        return Size(trained, high * (m.inputs + m.outputs + 1) * element)
    others = high * m.outputs * (m.outputs > m.inputs) + high * m.inputs * (m.outputs < m.inputs)
    return Size(trained, (trained + others) * element)


# -- sparse and spectral --------------------------------------------------------------------------------


def ia3(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count a scale for each output, in the perceptron for each input."""
    return Size(m.inputs if m.feedforward else m.outputs)


def beft(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count a bias."""
    return Size(m.outputs)


def fourierft(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Coefficients of a spectrum; their places wait in host memory."""
    return Size(options["n_frequency"])


def waveft(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Coefficients of wavelets; their places wait in host memory."""
    return Size(options["n_frequency"])


def proportional(matrices: Sequence[Matrix], n_frequency: int) -> int:
    """Return WaveFT's coefficients where larger matrices get more: what that changes in the sum."""
    count = sum(m.count for m in matrices)
    area = sum(m.count * m.inputs * m.outputs for m in matrices)
    shares = (m.count * max(1, round(m.inputs * m.outputs / area * n_frequency * count)) for m in matrices)
    return sum(shares) - count * n_frequency


def waveft_shared(matrices: Sequence[Matrix], rank: int, options: Options, element: int) -> Size:
    """Count what a proportional split changes."""
    return Size(proportional(matrices, options["n_frequency"]) if options["proportional_parameters"] else 0)


def c3a(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Circulant blocks, each of one row."""
    return Size(m.inputs * m.outputs // options["block_size"])


def shira(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """As many numbers of the matrix as LoRA would train, and where they stand."""
    numbers = rank * (m.inputs + m.outputs)
    return Size(numbers, 2 * numbers * INT32)


def supertuning(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count the largest numbers of the matrix, where they stand, and a plain update where a rank is given."""
    total = m.inputs * m.outputs
    numbers = int(total * (1 - options["sparsity"]))
    return Size(numbers + (options["r"] or 0) * (m.inputs + m.outputs), numbers * INT32)


def frod(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Scales of the shared directions, and a sparse coupling of them."""
    return Size(m.inputs + (max(1, int(m.inputs * m.inputs * options["sparse_rate"])) if options["sparse_rate"] else 0))


def miss(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """One matrix for all pieces of the input; `mini` repeats a narrow one."""
    return Size(rank * (options["mini_r"] if options["init_weights"] == "mini" else m.outputs))


def adamss(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Thin matrices for each group of outputs; a frozen basis of inputs."""
    inputs = m.inputs + m.bias
    inner = options["subspace_rank"]
    return Size(inner * (options["num_subspaces"] * rank + m.outputs), rank * inputs * element)


def poly(m: Matrix, rank: int, options: Options, element: int) -> Size:
    """Count a pair of thin matrices for each skill, and what each task takes of them."""
    skills = options["n_skills"]
    return Size(skills * rank * (m.inputs + m.outputs) + options["n_tasks"] * skills * options["n_splits"])


LORA = {"use_dora": False, "lora_bias": False, "trains_A": True}
METHODS: dict[str, Method] = {
    "lora": Method(lora, defaults=LORA),
    "adalora": Method(adalora, defaults={"trains_ranknum": True}),
    "adamss": Method(adamss, defaults={"num_subspaces": 5, "subspace_rank": 1}),
    "beft": Method(beft),
    "boft": Method(boft, defaults={"boft_block_size": 4, "boft_block_num": 0, "boft_n_butterfly_factor": 1, "moves_buffers": False}),
    "c3a": Method(c3a, defaults={"block_size": 256}),
    "deft": Method(deft, defaults={"para": False}),
    "delora": Method(delora),
    "fourierft": Method(fourierft, defaults={"n_frequency": 1000}),
    "frod": Method(frod, defaults={"sparse_rate": 0.01}),
    "glora": Method(glora, defaults={"config_A_B": "lora", "config_C": "lora", "config_D_E": "constant"}),
    "gralora": Method(gralora, defaults={"hybrid_r": 0, "gralora_k": 2}),
    "hira": Method(hira),
    "hra": Method(hra, defaults={"apply_GS": False}),
    "ia3": Method(ia3),
    "lily": Method(lily, lily_shared, {"stride_A": 1, "num_B": 2}),
    "loha": Method(twice),
    "lokr": Method(lokr, defaults={"decompose_both": False, "decompose_factor": -1}),
    "miss": Method(miss, defaults={"mini_r": 1, "init_weights": True}),
    "oft": Method(oft, defaults={"r": 0, "oft_block_size": 32, "block_share": False, "num_cayley_neumann_terms": 5, "use_cayley_neumann": True}),
    "osf": Method(osf, defaults={"effective_rank": None, "low_rank": None, "rebuilds_weight": False}),
    "peanut": Method(peanut, defaults={"depth": 0, "act_fn": "relu"}),
    "poly": Method(poly, defaults={"n_tasks": 1, "n_skills": 4, "n_splits": 1}),
    "psoft": Method(
        psoft,
        defaults={"psoft_orth": True, "psoft_mag_a": True, "psoft_mag_b": True, "psoft_svd": "full", "ab_svd_init": "psoft_init",
                  "use_cayley_neumann": False, "num_cayley_neumann_terms": 5},
    ),
    "pvera": Method(pvera, pvera_shared),
    "randlora": Method(randlora, randlora_shared, {"num_bases": 0}),
    "road": Method(road, defaults={"variant": "road_1"}),
    "shira": Method(shira),
    "supertuning": Method(supertuning, defaults={"sparsity": 0.99, "r": None}),
    "tinylora": Method(tinylora, tinylora_shared, {"u": 64, "weight_tying": 0.0}),
    "unilora": Method(unilora, unilora_shared, {"theta_d_length": 256}),
    "vblora": Method(vblora, vblora_shared, {"num_vectors": 256, "vector_length": 256, "topk": 2}),
    "vera": Method(vera, vera_shared),
    "waveft": Method(waveft, waveft_shared, {"n_frequency": 2592, "use_idwt": True, "proportional_parameters": False}),
}  # fmt: skip

# Variants of a method under names of their own; those that only start from other values are the method itself.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(("lorafa", "lora-fa", "lora_fa"), ("lora", {"trains_A": False})),
    "dora": ("lora", {"use_dora": True}), "qdora": ("lora", {"use_dora": True}), "bone": ("miss", {}),
    **dict.fromkeys(("rslora", "pissa", "olora", "lora+", "loraplus", "eva", "corda", "loftq", "mica",
                     "lora_ga", "loraga", "bdlora", "qlora", "longlora", "xlora"), ("lora", {})),
}  # fmt: skip


def canonical(method: str) -> tuple[str, dict[str, Any]]:
    """Return a method's own name, and the options that a variant's name implies."""
    name = method.lower()
    return (name, {}) if name in METHODS else VARIANTS[name]


def options_of(name: str, given: Options) -> dict[str, Any]:
    """Return a method's options, peft's defaults where none is given."""
    return {**METHODS[name].defaults, **given}


__all__ = ["METHODS", "VARIANTS", "Method", "canonical", "factors", "kronecker", "oft_blocks", "options_of", "osf_low"]
