"""The parameters that stored tensors stand for: packed words, scales and indices brought together again.

A quantised matrix lies in a file as several tensors, and their elements are no parameters: eight 4-bit values share an
int32, two share a byte, and scales, zero points and indices explain them. Which tensors belong together shows in their
names; how many values they hold shows in their shapes, where the layout tells it [1]_ [2]_ [3]_ [4]_ [5]_, else in the
number of bits that the model's configuration states.

References
----------
.. [1] AutoGPTQ and AutoAWQ: ``qweight``, ``qzeros``, ``scales``, ``g_idx``; words packed along inputs or outputs.
.. [2] compressed-tensors 0.12, ``compressors``: ``weight_packed``, ``weight_scale``, ``weight_zero_point``.
.. [3] bitsandbytes 0.48, ``functional.QuantState``: ``weight.absmax``, ``weight.quant_map``, ``weight.quant_state.*``.
.. [4] mlx 0.30, ``quantize``: uint32 words with ``scales`` and ``biases`` a group.
.. [5] gpt-oss in MXFP4: ``*_blocks`` of two values a byte, ``*_scales`` of one byte for 32 values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from vrameter.model.tensor_table import StoredTensor

# Ends of names that belong to the matrix before them, longest first.
_ENDS = (
    "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4", "weight.nested_quant_map",
    "weight.nested_absmax", "weight.quant_map", "weight.absmax", "weight._data", "weight._scale", "weight._shift",
    "weight_zero_point", "weight_global_scale", "input_global_scale", "weight_scale_inv", "weight_scale_2",
    "weight_scale", "weight_packed", "weight_shape", "weight_g_idx", "weight_format", "input_zero_point", "input_scale",
    "output_scale", "qweight", "qzeros", "scales", "biases", "g_idx", "SCB", "codes", "codebooks", "q_weight", "q_scale",
    "q_scale_max", "q_groups", "q_group_map", "q_perm", "q_invperm", "trellis", "suh", "svh", "su", "sv", "mcg", "mul1",
    "W_q", "scale", "zero", "weight",
)  # fmt: skip
_LAST_WORDS: dict[str, tuple[str, ...]] = {
    word: tuple(end for end in _ENDS if end.rpartition(".")[2] == word)
    for word in (end.rpartition(".")[2] for end in _ENDS)
}
# The tensor that holds the packed values; the first that is there says which method it was.
_MAINS = ("qweight", "weight_packed", "W_q", "codes", "q_weight", "trellis", "weight._data", "weight")
_BLOCKS, _SCALES = "_blocks", "_scales"
# Types that hold packed or scaled values wherever a scale stands beside them.
_NARROW = ("f8", "u", "i", "f4", "f6")


@dataclass(frozen=True, slots=True)
class Packing:
    """What a configuration says of packed matrices, where their shapes do not.

    Parameters
    ----------
    bits
        Of one value; 0 where it is not stated. [bits]
    group
        Values that share a scale; 0 where it is not stated. [elements]
    modules
        What is stated of single modules, by their names.
    """

    bits: int = 0
    group: int = 0
    modules: Mapping[str, Packing] = field(default_factory=dict)

    def of(self, module: str) -> Packing:
        """Return what holds for one module."""
        return self.modules.get(module, self)


def packing_of(config: Mapping[str, Any] | None) -> Packing:
    """Return what a ``quantization_config``, of whatever method, says of packed matrices.

    >>> packing_of({"bits": 4, "group_size": 64, "lm_head": {"bits": 8, "group_size": 32}}).of("lm_head").bits
    8
    """
    if not config:
        return Packing()
    groups = config.get("config_groups")
    if isinstance(groups, Mapping):
        for group in groups.values():
            weights = group.get("weights") if isinstance(group, Mapping) else None
            if isinstance(weights, Mapping):
                return _stated(weights)
    stated = _stated(config)
    own = {name: _stated(value) for name, value in config.items() if isinstance(value, Mapping) and "bits" in value}
    return Packing(stated.bits, stated.group, own)


def _stated(config: Mapping[str, Any]) -> Packing:
    def first(*names: str) -> int:
        found = (config.get(name) for name in names)
        return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 2**20), 0)

    bits = first("bits", "w_bit", "nbits", "num_bits", "weight_bits", "nbits_per_codebook")
    return Packing(bits if bits <= 32 else 0, first("group_size", "q_group_size"))


class Parameter(NamedTuple):
    """One parameter as the files hold it.

    Parameters
    ----------
    name
        As the unpacked checkpoint would spell it: ``model.layers.0.mlp.up_proj.weight``.
    shape
        Of the parameter; one number where the layout does not tell rows and columns.
    values, scales
        What its packed values take, and what explains them. [bytes]
    dtype
        The type of the tensor that holds the values, as the file spells it.
    method
        How it is packed; empty where it is a plain tensor.
    num_tensors
        Tensors that hold it.
    """

    name: str
    shape: tuple[int, ...]
    values: int
    scales: int
    dtype: str
    method: str = ""
    num_tensors: int = 1

    @property
    def num_params(self) -> int:
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.values + self.scales


def parameters(tensors: Iterable[StoredTensor], packing: Packing | None = None) -> list[Parameter]:
    """Return the parameters that tensors stand for, in the order of the files."""
    modules: dict[str, dict[str, StoredTensor]] = {}
    for tensor in tensors:
        module, end = _split(tensor.name)
        held = modules.get(module)
        if held is None:
            modules[module] = {end: tensor}
        else:
            held[end] = tensor
    stated = packing or Packing()
    found: list[Parameter] = []
    for module, held in modules.items():
        main = _main_of(held) if len(held) > 1 else None
        if main is None:
            found += [_plain(tensor) for tensor in held.values()]
        else:
            found.append(_unpacked(module, held, main, stated.of(module)))
    return found


def _split(name: str) -> tuple[str, str]:
    """Return the module of a tensor, and which of its tensors it is."""
    module, _, last = name.rpartition(".")
    ends = _LAST_WORDS.get(last)
    if ends is None:
        for end in (_BLOCKS, _SCALES):
            if name.endswith(end):
                return name.removesuffix(end), end
        return name, ""
    if len(ends) == 1 and ends[0] == last and module:
        return module, last
    for end in ends:
        if name.endswith(f".{end}"):
            return name[: -len(end) - 1], end
    return name, ""


def _plain(tensor: StoredTensor) -> Parameter:
    return Parameter(tensor.name, tensor.shape, tensor.num_bytes, 0, tensor.dtype)


def _main_of(held: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """Return the tensor that holds packed values; None where it is no packed matrix but, say, a norm's weight and scale."""
    end, surely = _main_end(tuple(held))
    main = held.get(end)
    return main if main is not None and (surely or main.dtype.startswith(_NARROW)) else None


@lru_cache(maxsize=1024)
def _main_end(ends: tuple[str, ...]) -> tuple[str, bool]:
    """Return which of a module's tensors would hold packed values, and whether the others show that it does."""
    main = next((end for end in (_BLOCKS, *_MAINS) if end in ends), "")
    return main, main not in ("", "weight") or "SCB" in ends or "weight.absmax" in ends


def _unpacked(module: str, held: Mapping[str, StoredTensor], main: StoredTensor, packing: Packing) -> Parameter:
    """Return the matrix that tensors of one module hold together."""
    method, shape = _layout(held, main, packing)
    beside = -main.num_bytes
    for tensor in held.values():
        beside += tensor.num_bytes
    name = module if _BLOCKS in held else f"{module}.weight"
    return Parameter(name, shape, main.num_bytes, beside, main.dtype, method, len(held))


def _layout(held: Mapping[str, StoredTensor], main: StoredTensor, packing: Packing) -> tuple[str, tuple[int, ...]]:
    """Return the method and the shape of the parameter."""
    if main.dtype.startswith("f8") and "weight" in held:
        return "fp8", main.shape
    if _BLOCKS in held:
        *stack, groups, width = main.shape if len(main.shape) > 1 else (1, *main.shape)
        return "mxfp4", (*stack, groups * width * 2)
    if "qweight" in held:
        return _words(held, main, packing)
    if "weight_packed" in held:
        return _packed_weight(held, main, packing)
    if "weight.absmax" in held:
        # Two values a byte, whatever type the bytes were given.
        return "bnb-4bit", (main.num_bytes * 2,)
    if "SCB" in held:
        return "bnb-int8", main.shape
    if "scales" in held and main.dtype == "u32":
        return _mlx(held, main, packing)
    if "W_q" in held:
        return "hqq", (main.num_bytes * 8 // (packing.bits or 4),)
    if any(end in held for end in ("codes", "q_weight", "trellis")):
        method = "aqlm" if "codes" in held else "exl2" if "q_weight" in held else "exl3"
        bits = packing.bits or (2 if method == "aqlm" else 4)
        return method, (main.num_bytes * 8 // bits,)
    if main.dtype in ("u8", "f4"):
        return _half_bytes(held, main)
    return "int8", main.shape


def _half_bytes(held: Mapping[str, StoredTensor], main: StoredTensor) -> tuple[str, tuple[int, ...]]:
    """Return what bytes with a scale hold: two 4-bit values each, four 2-bit values, or one 8-bit value."""
    scale = held.get("weight_scale") or held.get("scales")
    *stack, columns = main.shape or (1,)
    if main.dtype == "f4":
        return "nvfp4", main.shape
    if scale is not None and scale.dtype.startswith("f8_e4m3"):
        return "nvfp4", (*stack, 2 * columns)
    if scale is not None and scale.dtype in ("u8", "f8_e8m0"):
        return "mxfp4", (*stack, 2 * columns)
    if scale is not None and prod(scale.shape) == 1 and len(main.shape) == 2:
        return "bitnet", (4 * main.shape[0], columns)
    return "int8", main.shape


def _words(held: Mapping[str, StoredTensor], main: StoredTensor, packing: Packing) -> tuple[str, tuple[int, ...]]:
    """Return GPTQ's words along the inputs, or AWQ's along the outputs; scales tell the outputs."""
    scales, zeros = held.get("scales"), held.get("qzeros")
    *stack, rows, columns = main.shape if len(main.shape) > 1 else (1, *main.shape)
    word = 8 * main.num_bytes // max(1, prod(main.shape))
    outputs = scales.shape[-1] if scales is not None and scales.shape else columns
    if outputs != columns and columns:
        return "awq", (*stack, rows, outputs)
    bits = packing.bits or 4
    if zeros is not None and zeros.shape and zeros.shape[-1] and columns:
        bits = max(1, word * zeros.shape[-1] // columns)
    return "gptq", (*stack, columns, rows * word // bits)


def _packed_weight(
    held: Mapping[str, StoredTensor], main: StoredTensor, packing: Packing
) -> tuple[str, tuple[int, ...]]:
    """Return compressed-tensors' words, packed along the inputs; its scales tell the groups."""
    *stack, columns = main.shape or (1,)
    if main.dtype == "u8":
        scale = held.get("weight_scale")
        return ("mxfp4" if scale is not None and scale.dtype == "u8" else "nvfp4"), (*stack, 2 * columns)
    word = 8 * main.num_bytes // max(1, prod(main.shape))
    return "compressed-tensors", (*stack, columns * word // (packing.bits or 4))


def _mlx(held: Mapping[str, StoredTensor], main: StoredTensor, packing: Packing) -> tuple[str, tuple[int, ...]]:
    """Return MLX's words; groups times their size are the inputs."""
    scales = held["scales"]
    stack = main.shape[:-1]
    groups = scales.shape[-1] if scales.shape else 1
    if "biases" not in held:
        return "mlx-fp", (*stack, groups * (packing.group or 32))
    return "mlx", (*stack, groups * (packing.group or _mlx_group(32 * (main.shape or (1,))[-1] // max(1, groups))))


def _mlx_group(bits_of_group: int) -> int:
    """Return the size of a group whose packed values take so many bits: the default, where it makes sense."""
    return next((group for group in (64, 32, 128) if bits_of_group / group in (3, 4, 5, 6, 8)), 64)


__all__ = ["Packing", "Parameter", "packing_of", "parameters"]
