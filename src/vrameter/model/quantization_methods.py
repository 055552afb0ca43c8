"""Configurations of methods that treat all linear layers alike, with exceptions: one reader for each.

References
----------
.. [1] transformers 5.23, ``utils/quantization_config.py``, for the fields of each ``quant_method``.
.. [2] mlx-lm 0.31, ``utils.py``: a group size, a number of bits, and exceptions by module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from math import log2
from typing import Any

from vrameter.errors import ConfigError
from vrameter.i18n import tr
from vrameter.model import formats
from vrameter.model.configured import PATH, Configured, covering, ignored, integer, mapping, strings
from vrameter.model.formats import Format
from vrameter.model.module_names import Names, common
from vrameter.model.quantization_groups import compressed_tensors, modelopt, quantized_layers, quark
from vrameter.model.schemes import Scheme, exl_scheme, mlx_scheme, parse

Reader = Callable[[Mapping[str, Any]], Configured]
# What fp8 checkpoints keep in 16 bits without listing it: the indexer's head weights, the way into an MTP layer.
_NEVER_FP8 = ("indexer.weights_proj", "eh_proj")


def _fp8(config: Mapping[str, Any]) -> Configured:
    """Native fp8, in blocks or with a scale a matrix. ``expert_dtype`` is DeepSeek-V4's, whose experts are MXFP4."""
    if mapping(config, "quantized_layers") or config.get("quant_algo"):
        return _modelopt_over_fp8(config)
    form = _fp8_format(config)
    scheme = covering(form)
    if config.get("expert_dtype") == "fp4":
        scheme = replace(scheme, experts=formats.MXFP4)
    return Configured(form.name, scheme, ignored(config, *_NEVER_FP8))


def _fp8_format(config: Mapping[str, Any]) -> Format:
    block = config.get("weight_block_size")
    if (
        isinstance(block, (list, tuple))
        and len(block) == 2
        and all(isinstance(size, int) and size > 0 for size in block)
    ):
        scale = 1 if config.get("scale_fmt") == "ue8m0" and "expert_dtype" in config else 4
        return replace(formats.BLOCK_FP8, group_rows=block[0], group=block[1], scale_bytes=scale)
    return formats.STATIC_FP8 if config.get("activation_scheme") == "static" else formats.TENSOR_FP8


def _modelopt_over_fp8(config: Mapping[str, Any]) -> Configured:
    """Return blockwise fp8 with some modules in another format, as ``quantized_layers`` says."""
    base = covering(_fp8_format(config))
    return Configured("nvfp4", base, Names(_NEVER_FP8), exceptions=quantized_layers(config))


def _awq(config: Mapping[str, Any]) -> Configured:
    bits, group = (
        integer(config, "bits", integer(config, "w_bit", 4)),
        integer(config, "group_size", integer(config, "q_group_size", 128), least=-1),
    )
    form = formats.grouped("awq", bits, group, zero=bool(config.get("zero_point", True)))
    return Configured("awq", covering(form), ignored(config))


def _gptq(config: Mapping[str, Any]) -> Configured:
    bits, group = integer(config, "bits", 4), integer(config, "group_size", 128, least=-1)
    form = formats.grouped("gptq" if bits == 4 else f"gptq-int{bits}", bits, group, zero=True, index=True)
    groups: list[tuple[Names, Format | None]] = []
    for pattern, change in mapping(config, "dynamic").items():
        names = Names([f"re:{pattern.lstrip('+-:')}"], field=f"{PATH}.dynamic")
        if pattern.startswith("-"):
            groups.append((names, None))
        elif isinstance(change, Mapping):
            own = integer(change, "bits", bits)
            other = formats.grouped(
                f"gptq-int{own}", own, integer(change, "group_size", group, least=-1), zero=True, index=True
            )
            groups.append((names, other))
    scheme = covering(form, head=bool(config.get("lm_head")))
    return Configured(form.name, scheme, ignored(config), tuple(groups))


def _auto_round(config: Mapping[str, Any]) -> Configured:
    bits, group = integer(config, "bits", 4), integer(config, "group_size", 128, least=-1)
    kind = str(config.get("data_type", "int"))
    if kind.startswith(("mx_fp", "nv_fp")):
        form = formats.NVFP4 if kind.startswith("nv") else {8: formats.MXFP8, 6: formats.MXFP6}.get(bits, formats.MXFP4)
    elif kind.startswith("fp8") or (kind == "fp" and bits == 8):
        form = formats.CHANNEL_FP8
    else:
        form = formats.grouped(
            "auto-round", bits, group, zero=True, index="gptq" in str(config.get("packing_format", ""))
        )
    exceptions: dict[str, Format | None] = {}
    groups: list[tuple[Names, Format | None]] = []
    for name, change in mapping(config, "extra_config").items():
        own = integer(change, "bits", bits) if isinstance(change, Mapping) else bits
        other = (
            None
            if own >= 16
            else formats.grouped("auto-round", own, integer(change, "group_size", group, least=-1), zero=True)
        )
        if any(character in name for character in "*\\^("):
            groups.append((Names([f"re:{name}"], field=f"{PATH}.extra_config"), other))
        else:
            exceptions[common(name)] = other
    return Configured("auto-round", covering(form), ignored(config), tuple(groups), exceptions)


def _bitsandbytes(config: Mapping[str, Any]) -> Configured:
    if config.get("load_in_8bit") or config.get("_load_in_8bit"):
        form = formats.bnb(8)
    else:
        kind = str(config.get("bnb_4bit_quant_type", "fp4"))
        block = integer(config, "blocksize", integer(config, "bnb_4bit_blocksize", 64), least=1)
        form = formats.bnb(4, kind=kind, double=bool(config.get("bnb_4bit_use_double_quant")), block=block)
    return Configured(form.name, covering(form, towers=True), ignored(config))


def _mxfp4(config: Mapping[str, Any]) -> Configured:
    form = formats.MXFP4
    return Configured("mxfp4", Scheme("mxfp4", None, form), ignored(config))


def _hqq(config: Mapping[str, Any]) -> Configured:
    inner = mapping(config, "quant_config") or config
    own = mapping(inner, "weight_quant_params")
    kept = ignored(config)

    def form_of(params: Mapping[str, Any], *, scales: bool = False, zeros: bool = False) -> Format:
        form = formats.hqq(integer(params, "nbits", 4), integer(params, "group_size", 64, least=1))
        return replace(form, scale_bytes=(1 if scales else 2) + (1 if zeros else 2))

    if own or "nbits" in inner:
        form = form_of(
            own or inner, scales=bool(inner.get("scale_quant_params")), zeros=bool(inner.get("zero_quant_params"))
        )
        return Configured(form.name, covering(form, towers=True), kept)
    groups: list[tuple[Names, Format | None]] = []
    for name, what in inner.items():
        if isinstance(what, Mapping) and mapping(what, "weight_quant_params"):
            groups.append((Names([name]), form_of(mapping(what, "weight_quant_params"))))
    return Configured(groups[0][1].name if groups and groups[0][1] else "hqq-4bit", covering(None), kept, tuple(groups))


def _aqlm(config: Mapping[str, Any]) -> Configured:
    form = formats.aqlm(
        codebooks=integer(config, "num_codebooks", 1, least=1),
        code_bits=integer(config, "nbits_per_codebook", 16, least=1, most=16),
        inputs=integer(config, "in_group_size", 8, least=1),
        outputs=integer(config, "out_group_size", 1, least=1),
    )
    return Configured(form.name, covering(form), Names(strings(config, "linear_weights_not_to_quantize"), field=PATH))


_TORCHAO = {
    "int4weightonly": "torchao-int4", "int4_weight_only": "torchao-int4", "int8weightonly": "torchao-int8",
    "int8_weight_only": "torchao-int8",
    "int8dynamicactivationint8weight": "torchao-int8", "int8_dynamic_activation_int8_weight": "torchao-int8",
    "int8dynamicactivationint4weight": "torchao-int4", "float8weightonly": "torchao-float8",
    "float8dynamicactivationfloat8weight": "torchao-float8",
    "float8_dynamic_activation_float8_weight": "torchao-float8", "float8_weight_only": "torchao-float8",
    "autoquant": "torchao-int8",
    "nvfp4inference": "nvfp4", "mxfpinference": "mxfp4", "float8dynamicactivationint4weight": "torchao-int4",
    "intxweightonly": "torchao-int4",
}  # fmt: skip


def _torchao(config: Mapping[str, Any]) -> Configured:
    kind: Any = config.get("quant_type")
    options: Mapping[str, Any] = mapping(config, "quant_type_kwargs")
    if isinstance(kind, Mapping):
        kind = kind.get("default", kind)
    if isinstance(kind, Mapping):
        options = mapping(kind, "_data")
        kind = kind.get("_type")
    name = _TORCHAO.get(str(kind).lower().removesuffix("config"))
    if name is None:
        raise ConfigError(
            tr("%(field)s: '%(value)s' is not a quantisation known here.", field=f"{PATH}.quant_type", value=str(kind)),
            field=f"{PATH}.quant_type",
            hint=tr("Name the format instead: quantization = 'torchao-int4', 'torchao-int8' or 'torchao-float8'."),
        )
    base = parse(name)
    assert isinstance(base, Scheme)
    assert base.linear is not None
    form = base.linear
    if form.group and integer(options, "group_size", 0):
        form = replace(form, group=integer(options, "group_size", form.group))
    scheme = replace(base, linear=form, experts=form)
    if config.get("include_input_output_embeddings") or config.get("include_embedding"):
        scheme = replace(scheme, head=form, embedding=form)
    return Configured(name, scheme, ignored(config))


def _named(name: str) -> Callable[[Mapping[str, Any]], Configured]:
    """Return a reader for a method that has one format."""

    def read(config: Mapping[str, Any]) -> Configured:
        scheme = parse(name)
        assert isinstance(scheme, Scheme)
        return Configured(name, scheme, ignored(config))

    return read


def _quanto(config: Mapping[str, Any]) -> Configured:
    kind = str(config.get("weights", "int8"))
    return _named("fp8-per-tensor" if kind.startswith("float8") else f"quanto-{kind}")(config)


def _exl(version: int) -> Callable[[Mapping[str, Any]], Configured]:
    def read(config: Mapping[str, Any]) -> Configured:
        bits, head = (Fraction(str(config.get(name) or default)) for name, default in (("bits", 4), ("head_bits", 6)))
        scheme = exl_scheme(version, bits, head)
        return Configured(scheme.name, scheme, approximate=True)

    return read


def _vptq(config: Mapping[str, Any]) -> Configured:
    """VPTQ: indices into codebooks of vectors, one or two a vector, listed for every layer."""
    exceptions: dict[str, Format | None] = {}
    for name, what in mapping(config, "config_for_layers").items():
        if not isinstance(what, Mapping):
            continue
        vectors = [size for size in what.get("vector_lens") or () if isinstance(size, int) and size > 0] or [8]
        entries = [
            size
            for key in ("num_centroids", "num_res_centroids")
            for size in what.get(key) or ()
            if isinstance(size, int) and size > 1
        ]
        bits = sum(round(log2(size)) for size in entries)
        book = sum(entries) * vectors[-1] * 2 * integer(what, "group_num", 1, least=1)
        exceptions[common(name)] = Format("vptq", Fraction(bits, vectors[-1]), matrix_bytes=book)
    return Configured("vptq", covering(None), ignored(config), exceptions=exceptions, approximate=True)


def _spqr(config: Mapping[str, Any]) -> Configured:
    """SpQR: few bits in small groups whose scales are quantised too, and outliers apart."""
    bits = integer(config, "bits", 3)
    form = Format("spqr", Fraction(bits), group=integer(config, "beta1", 16, least=1), zero_bits=2 * bits, row_bytes=4)
    return Configured("spqr", covering(form), ignored(config), approximate=True)


def _higgs(config: Mapping[str, Any]) -> Configured:
    form = formats.grouped("higgs", integer(config, "bits", 4), integer(config, "group_size", 256))
    return Configured("higgs", covering(form), ignored(config), approximate=True)


def _fp_quant(config: Mapping[str, Any]) -> Configured:
    return _named("nvfp4" if "nv" in str(config.get("forward_dtype")) else "mxfp4")(config)


def _mlx(config: Mapping[str, Any]) -> Configured:
    """MLX [2]_: bits and group size for all modules, and exceptions by module path."""
    bits, group = integer(config, "bits", 4), integer(config, "group_size", 64, least=1)
    mode = str(config.get("mode", "affine"))

    def form_of(bits: int, group: int, mode: str) -> Format:
        if mode == "affine":
            return formats.mlx(bits, group)
        base = {"nvfp4": formats.NVFP4, "mxfp8": formats.MXFP8}.get(mode, formats.MXFP4)
        return replace(base, name=f"mlx-{mode}", matrix_bytes=0, whole_groups=True)

    exceptions: dict[str, Format | None] = {}
    for name, what in config.items():
        if isinstance(what, Mapping) and "bits" in what:
            exceptions[common(name)] = form_of(
                integer(what, "bits", bits),
                integer(what, "group_size", group, least=1),
                str(what.get("mode", mode if "mode" in what else "affine")),
            )
        elif what is False and "." in name:
            exceptions[common(name)] = None
    scheme = mlx_scheme(bits, group, form=form_of(bits, group, mode))
    return Configured(scheme.name, scheme, exceptions=exceptions)


READERS: dict[str, Reader] = {
    "fp8": _fp8, "awq": _awq, "gptq": _gptq, "compressed-tensors": compressed_tensors, "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "modelopt": modelopt, "modelopt-fp4": modelopt, "modelopt-mixed": modelopt, "hqq": _hqq, "aqlm": _aqlm,
    "torchao": _torchao,
    "eetq": _named("eetq"), "quanto": _quanto, "exl2": _exl(2), "exl3": _exl(3), "bitnet": _named("bitnet"),
    "fbgemm-fp8": _named("fbgemm-fp8"), "vptq": _vptq, "spqr": _spqr, "higgs": _higgs, "auto-round": _auto_round,
    "intel/auto-round": _auto_round, "quark": quark, "fp-quant": _fp_quant, "mlx": _mlx, "mxfp8": _named("mxfp8"),
}  # fmt: skip

__all__ = ["READERS", "Reader"]
