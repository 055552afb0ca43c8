"""Quantisations by name: which format a method uses, and which tensors it leaves alone.

A name such as ``awq`` or ``bnb-nf4`` stands for a `Scheme`; a GGUF name such as ``q4_k_m`` for a mixture of types
(`vrameter.model.gguf_mixture`). Names are read whatever their case and punctuation, and may carry a group size:
``awq-g64``, ``mlx-4bit-g32``, ``exl3-4.0bpw``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.model import formats
from vrameter.model.architecture import Component, Tensor
from vrameter.model.dtypes import find_dtype, spelled
from vrameter.model.formats import Format
from vrameter.model.gguf_mixture import MIXTURES

LINEAR_ROLES = frozenset({"attention", "cross_attention", "mixer", "mlp", "shared_experts", "projector", "other"})
TOWERS = frozenset({"vision", "audio", "projector", "other"})


@dataclass(frozen=True, slots=True)
class Scheme:
    """Which format the tensors of a model have.

    Parameters
    ----------
    linear
        The format of the matrices of linear layers in the decoder, or in whatever the model mainly is.
    experts, head, embedding, router
        The formats of stacked experts, of the output matrix, of the token table and of routers; None leaves them alone.
    towers
        Whether the linear layers of vision and audio towers and of projectors are quantised too.
    experts_only
        Whether the experts of a model that has any are all that is quantised (mxfp4 as gpt-oss has it).
    summary
        One English sentence, to be shown through `tr`.
    """

    name: str
    linear: Format | None
    experts: Format | None = None
    head: Format | None = None
    embedding: Format | None = None
    router: Format | None = None
    towers: bool = False
    experts_only: bool = False
    summary: str = ""

    def format_of(
        self, component: Component, tensor: Tensor, *, is_main: bool, has_experts: bool = False
    ) -> Format | None:
        """Return the format of a tensor, None for one that stays in the model's dtype."""
        if tensor.buffer or len(tensor.shape) < 2:
            return None
        if component.kind == "head" or tensor.role == "head":
            return self.head if tensor.linear else None
        if component.kind in TOWERS and not is_main and not self.towers:
            return None
        if tensor.role == "embedding":
            return self.embedding if tensor.slot == "token" else None
        if tensor.role == "router":
            return self.router if tensor.slot == "router" else None
        if not tensor.linear:
            return None
        if tensor.role == "experts":
            return self.experts
        return None if self.experts_only and has_experts else self.linear if tensor.role in LINEAR_ROLES else None

    @property
    def formats(self) -> tuple[Format, ...]:
        """The distinct formats in use, that of the linear layers first."""
        used = (self.linear, self.experts, self.head, self.embedding, self.router)
        return tuple(dict.fromkeys(item for item in used if item is not None))


def _of(form: Format, summary: str, *, name: str = "", towers: bool = False, experts_only: bool = False) -> Scheme:
    return Scheme(name or form.name, form, form, towers=towers, experts_only=experts_only, summary=summary)


def mlx_scheme(bits: int, group: int = 64, *, form: Format | None = None) -> Scheme:
    """Return MLX's quantisation, which covers embeddings, heads and routers too."""
    used = form or formats.mlx(bits, group)
    return Scheme(
        used.name,
        used,
        used,
        used,
        used,
        used,
        summary="MLX: integers with a scale and a bias per group, embeddings included.",
    )


_MX4_MLX = replace(formats.MXFP4, name="mlx-mxfp4", whole_groups=True)
_NV4_MLX = replace(formats.NVFP4, name="mlx-nvfp4", matrix_bytes=0, whole_groups=True)

_NAMED = (
    _of(formats.CHANNEL_FP8, "8-bit floats with an fp32 scale per output, as vLLM loads or makes them."),
    _of(formats.TENSOR_FP8, "8-bit floats with one fp32 scale per matrix."),
    _of(formats.STATIC_FP8, "8-bit floats with one fp32 scale per matrix and one for its inputs."),
    _of(formats.BLOCK_FP8, "8-bit floats with an fp32 scale per block of 128 × 128, as DeepSeek-V3 and Qwen3-FP8."),
    _of(formats.CHANNEL_INT8, "8-bit integers with an fp32 scale per output (SmoothQuant, W8A8)."),
    _of(replace(formats.CHANNEL_INT8, name="w8a8"), "8-bit weights and activations with an fp32 scale per output."),
    _of(formats.grouped("w8a16", 8, 0), "8-bit integers with a 16-bit scale per output; computes in 16 bits."),
    _of(formats.AWQ, "4-bit integers in groups of 128 with scales and zero points."),
    _of(formats.gptq(4), "4-bit integers in groups of 128 with scales, zero points and the order of the inputs."),
    _of(formats.gptq(8), "8-bit integers in groups of 128 (GPTQ)."),
    _of(formats.gptq(3), "3-bit integers in groups of 128 (GPTQ)."),
    _of(formats.gptq(2), "2-bit integers in groups of 128 (GPTQ)."),
    _of(formats.grouped("w4a16", 4, 128), "4-bit integers in groups of 128 with scales (compressed-tensors)."),
    _of(formats.grouped("auto-round", 4, 128, zero=True), "4-bit integers in groups of 128 (AutoRound)."),
    _of(formats.bnb(8), "LLM.int8(): 8-bit integers with an fp32 scale per output.", towers=True),
    _of(formats.bnb(4), "4-bit normal floats in blocks of 64 (QLoRA).", towers=True),
    _of(formats.bnb(4, kind="fp4"), "4-bit floats in blocks of 64.", towers=True),
    _of(formats.bnb(4, double=True), "4-bit normal floats in blocks of 64, their scales quantised too.", towers=True),
    _of(formats.bnb(4, kind="fp4", double=True), "4-bit floats in blocks of 64, scales quantised too.", towers=True),
    _of(formats.hqq(4), "4-bit integers in groups of 64 with scale and zero point (HQQ).", towers=True),
    _of(formats.hqq(8), "8-bit integers in groups of 64 (HQQ).", towers=True),
    _of(formats.hqq(3), "3-bit integers in groups of 64 (HQQ).", towers=True),
    _of(formats.hqq(2), "2-bit integers in groups of 64 (HQQ).", towers=True),
    _of(formats.aqlm(), "One 16-bit code for 8 values, with a codebook per matrix (AQLM).", name="aqlm-2bit"),
    _of(formats.MXFP4, "4-bit floats in blocks of 32; with experts only those, as gpt-oss.", experts_only=True),
    _of(formats.MXFP6, "6-bit floats in blocks of 32."),
    _of(formats.MXFP8, "8-bit floats in blocks of 32."),
    _of(formats.NVFP4, "4-bit floats in blocks of 16 with an fp8 scale, and one fp32 scale per matrix."),
    _of(replace(formats.grouped("torchao-int4", 4, 128, scale_bytes=4), padded_columns=1024),
        "4-bit integers in groups of 128, in tiles of 1024 inputs.", towers=True),
    _of(formats.grouped("torchao-int8", 8, 0), "8-bit integers with a 16-bit scale per output (torchao).", towers=True),
    _of(replace(formats.CHANNEL_FP8, name="torchao-float8"), "8-bit floats with a scale per output.", towers=True),
    _of(Format("torchao-fp6", Fraction(6), row_bytes=2, whole_rows=256), "6-bit floats with a 16-bit scale per output.", towers=True),
    _of(Format("torchao-fp5", Fraction(5), row_bytes=2, whole_rows=256), "5-bit floats with a 16-bit scale per output.", towers=True),
    _of(Format("torchao-fp4", Fraction(4), row_bytes=2, whole_rows=256), "4-bit floats with a 16-bit scale per output.", towers=True),
    _of(Format("torchao-int4dq", Fraction(8), group=32, scale_bytes=4, zero_bits=8),
        "4-bit integers a byte each, an fp32 scale and a zero point of each 32 (torchao, dynamic int8 activations).", towers=True),
    _of(Format("torchao-sparse", Fraction(5), row_bytes=2),
        "8-bit integers, two of four zero: the others, and their places in 2 bits each (torchao).", towers=True),
    _of(replace(formats.CHANNEL_FP8, name="quanto-float8", row_bytes=2), "8-bit floats with a scale per output (quanto).", towers=True),
    _of(Format("torchao-nf4", Fraction(4), group=64, scale_bytes=1, super_group=256, super_bytes=2, flat=True),
        "4-bit normal floats in blocks of 64 as torchao and torchtune hold them.", towers=True),
    _of(formats.grouped("eetq", 8, 0), "8-bit integers with a 16-bit scale per output (EETQ)."),
    _of(formats.grouped("quanto-int8", 8, 0), "8-bit integers with a 16-bit scale per output (quanto).", towers=True),
    _of(formats.grouped("quanto-int4", 4, 128, scale_bytes=4), "4-bit integers in groups of 128.", towers=True),
    _of(formats.grouped("quanto-int2", 2, 128, scale_bytes=4), "2-bit integers in groups of 128.", towers=True),
    _of(replace(formats.CHANNEL_FP8, name="fbgemm-fp8"), "8-bit floats with an fp32 scale per output (FBGEMM)."),
    _of(formats.TERNARY, "Ternary weights, four to a byte (BitNet)."),
    *(mlx_scheme(bits) for bits in (2, 3, 4, 5, 6, 8)),
    mlx_scheme(4, form=_MX4_MLX), mlx_scheme(4, form=_NV4_MLX),
)  # fmt: skip

SCHEMES: dict[str, Scheme] = {item.name: item for item in _NAMED}

_ALIASES = {
    "fp8": ("fp8-per-channel", "fp8-dynamic", "ptpc-fp8", "fp8-e4m3", "float8", "w8a8-fp8", "fp8-w8a8"),
    "fp8-per-tensor": ("fp8-tensor",), "fp8-static": ("modelopt-fp8",),
    "fp8-block": ("fp8-blockwise", "fp8-128x128", "blockwise-fp8", "finegrained-fp8", "w8a8-block-fp8", "deepseek-fp8"),
    "int8": ("i8", "smoothquant", "w8a8-int8"), "w4a16": ("int4", "i4", "wna16"),
    "awq": ("awq-marlin", "awq-int4", "autoawq", "awq-4bit"),
    "gptq": ("gptq-int4", "gptq-marlin", "gptq-4bit", "gptqmodel"), "gptq-int8": ("gptq-8bit",),
    "gptq-int3": ("gptq-3bit",),
    "gptq-int2": ("gptq-2bit",), "auto-round": ("autoround",),
    "bnb-int8": ("bnb-8bit", "llm.int8", "llm-int8", "8bit", "bitsandbytes-8bit", "load-in-8bit"),
    "bnb-nf4": ("nf4", "bnb-4bit", "bnb", "bitsandbytes", "4bit", "bitsandbytes-4bit", "load-in-4bit"),
    "bnb-fp4": ("bnb-4bit-fp4",), "bnb-nf4-dq": ("qlora", "nf4-dq", "bnb.nf4-dq", "bnb-nf4-double-quant"),
    "hqq-4bit": ("hqq", "hqq-int4"), "hqq-8bit": ("hqq-int8",), "hqq-3bit": ("hqq-int3",), "hqq-2bit": ("hqq-int2",),
    "aqlm-2bit": ("aqlm",), "mxfp4": ("mx4",), "nvfp4": ("modelopt-fp4", "fp4", "w4a4-nvfp4", "w4a16-nvfp4"),
    "torchao-int4": ("int4wo", "int4-weight-only", "torchao-int4wo"),
    "torchao-int8": ("int8wo", "int8-weight-only", "torchao-int8wo", "int8dq", "torchao-int8dq"),
    "torchao-float8": (
        "float8wo", "torchao-fp8", "torchao-float8wo", "torchao-fp8wo", "torchao-fp8dq", "torchao-fp8dqrow", "fp8wo", "fp8dq",
    ),
    "torchao-fp6": ("torchao-fp6_e3m2", "torchao-fp6_e2m3", "torchao-fpx6"), "torchao-fp4": ("torchao-fp4_e2m1",),
    "torchao-fp5": ("torchao-fp5_e2m2", "torchao-fp5_e3m1"),
    "torchao-int4dq": ("int4dq", "8da4w"), "torchao-sparse": ("torchao-sparsify",), "quanto-float8": ("quanto-fp8",),
    "quanto-int8": ("quanto",), "fbgemm-fp8": ("fbgemm",),
    "mlx-4bit": ("mlx", "mlx-q4"), "mlx-8bit": ("mlx-q8",), "bitnet": ("bitnet-1.58", "ternary"),
}  # fmt: skip
_BY_SPELLING = {spelled(item): SCHEMES[name] for name, others in _ALIASES.items() for item in others}
_BY_SPELLING |= {spelled(name): item for name, item in SCHEMES.items()}

_GGUF_ALIASES = {
    "q3_k": "q3_k_m",
    "q4_k": "q4_k_m",
    "q5_k": "q5_k_m",
    "float16": "f16",
    "float32": "f32",
    "bfloat16": "bf16",
}
_GGUF = {spelled(item): item for item in MIXTURES} | {spelled(item): of for item, of in _GGUF_ALIASES.items()}
UNQUANTIZED = frozenset({"none", "no", "unquantized", "unquantised", "off"})

_GROUP = re.compile(r"(?P<rest>.*?)(?:gs?|group|groupsize)(?P<group>\d+)\Z")
_BPW = re.compile(r"(?:exl(?P<version>[23])?)?(?P<bits>\d+(?:\.\d+)?)(?:bpw|bit)?\Z")


def known_names() -> list[str]:
    """Return every name that `parse` takes, GGUF mixtures last."""
    return [*SCHEMES, "exl2-4.0bpw", "exl3-4.0bpw", *MIXTURES]


@lru_cache(maxsize=512)
def parse(name: str, *, field: str = "quantization") -> Scheme | str | None:
    """Return what a quantisation's name stands for: a scheme, the name of a GGUF mixture, or None for "none".

    >>> parse("AWQ").linear.formula, parse("Q4_K_M"), parse("none")
    ('elements × 0.5 + groups of 128 × (2 + 0.5)', 'q4_k_m', None)
    >>> parse("4.65bpw").linear.bits
    Fraction(93, 20)

    Raises
    ------
    UnknownNameError
        With the nearest known names.
    RequestError
        For names that only a file's own table of tensors explains.
    """
    key = spelled(name)
    if key in UNQUANTIZED:
        return None
    if key in _GGUF:
        return _GGUF[key]
    found = _BY_SPELLING.get(key) or _with_group(key) or _exl(key)
    if found is not None:
        return found
    if _is_custom_gguf(key):
        raise RequestError(
            tr(
                "%(field)s: '%(value)s' is a mixture of its maker's own, which only the file itself tells.",
                field=field,
                value=name,
            ),
            field=field,
            hint=tr(
                "Give the .gguf file as the model, or the nearest common mixture: '%(name)s'.",
                name=_nearest_mixture(key),
            ),
        )
    otherwise = tr("Known are: %(names)s.", names=", ".join(list(SCHEMES)[:12]) + ", q4_k_m, ...")
    if find_dtype(name) is not None:
        otherwise = tr("'%(value)s' is a number format: give it as dtype.", value=name)
    elif key in {"compressedtensors", "modelopt", "torchao", "quark"}:
        otherwise = tr(
            "Leave it out: config.json says how the model is quantised. Or name a format: 'w4a16' or 'nvfp4'."
        )
    raise UnknownNameError(
        tr("%(field)s: '%(value)s' is not a known quantisation.", field=field, value=name),
        name,
        _spellings(),
        field=field,
        otherwise=otherwise,
    )


def _spellings() -> Iterable[str]:
    return [*known_names(), *(item for others in _ALIASES.values() for item in others)]


def _with_group(key: str) -> Scheme | None:
    """Return a scheme with a group size of its own: ``awq-g64``."""
    match = _GROUP.match(key)
    base = _BY_SPELLING.get(match["rest"]) if match else None
    if match is None or base is None or base.linear is None or not base.linear.group:
        return None
    group = int(match["group"])
    if base.linear.group_rows > 1 or base.linear.flat or not 8 <= group <= 65536:
        return None
    if group == base.linear.group:
        return base

    def regrouped(form: Format | None) -> Format | None:
        return replace(form, name=f"{form.name}-g{group}", group=group) if form else None

    return replace(
        base,
        name=f"{base.name}-g{group}",
        linear=regrouped(base.linear),
        experts=regrouped(base.experts),
        head=regrouped(base.head),
        embedding=regrouped(base.embedding),
        router=regrouped(base.router),
    )


def _exl(key: str) -> Scheme | None:
    """Return ExLlama's average of so many bits, its head at 6."""
    match = _BPW.match(key)
    if match is None or not (match["version"] or key.endswith("bpw")):
        return None
    bits = Fraction(match["bits"])
    if not 1 <= bits <= 8:
        return None
    return exl_scheme(int(match["version"] or 2), bits)


def exl_scheme(version: int, bits: Fraction, head_bits: Fraction = Fraction(6)) -> Scheme:
    """Return ExLlama's quantisation: the body at an average of `bits`, the head at `head_bits`, embeddings in fp16."""
    body = formats.exl(version, bits)
    return Scheme(
        body.name,
        body,
        body,
        head=formats.exl(version, head_bits),
        summary="ExLlama: so many bits a weight on average, the head in 6.",
    )


def _is_custom_gguf(key: str) -> bool:
    return bool(re.match(r"ud(i?q|tq|f|bf)\d|i?q\d+k?(xl|l|xxl|p|r4|r8|kt|ks|kss|kl|xs|m|s)*\Z|i?q\dk\w*\Z", key))


def _nearest_mixture(key: str) -> str:
    bits = re.search(r"q(\d)", key)
    wanted = f"q{bits[1]}_k_m" if bits else "q4_k_m"
    return (
        wanted if wanted in MIXTURES else {"q2_k_m": "q2_k", "q6_k_m": "q6_k", "q8_k_m": "q8_0"}.get(wanted, "q4_k_m")
    )


__all__ = ["SCHEMES", "UNQUANTIZED", "Scheme", "exl_scheme", "known_names", "mlx_scheme", "parse"]
