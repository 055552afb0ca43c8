"""Configurations that describe groups of modules: compressed-tensors, Model Optimizer, Quark.

Each names targets and what is left alone, by module, wildcard or regular expression.

References
----------
.. [1] compressed-tensors 0.12, ``quantization/quant_args.py``: strategies, groups, actorder.
.. [2] NVIDIA Model Optimizer, ``hf_quant_config.json``: ``quant_algo``, ``exclude_modules``, ``quantized_layers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from vrameter.errors import ConfigError
from vrameter.i18n import tr
from vrameter.model import formats
from vrameter.model.configured import PATH, Configured, covering, ignored, integer, mapping, strings
from vrameter.model.formats import Format
from vrameter.model.module_names import Names, common


def compressed_tensors(config: Mapping[str, Any]) -> Configured:
    """Compressed-tensors [1]_: groups of targets, each with the arguments of its weights."""
    outer = str(config.get("format", ""))
    default: Format | None = None
    groups: list[tuple[Names, Format | None]] = []
    names: list[str] = []
    for key, group in mapping(config, "config_groups").items():
        if not isinstance(group, Mapping):
            continue
        weights = group.get("weights")
        form = (
            _compressed_format(weights, str(group.get("format") or outer), f"{PATH}.config_groups.{key}.weights")
            if isinstance(weights, Mapping)
            else None
        )
        if form is not None:
            names.append(form.name)
        targets = strings(group, "targets") or ["Linear"]
        classes = [target for target in targets if target.isidentifier() and target[:1].isupper()]
        listed = [target for target in targets if target not in classes]
        if classes and (default is None or "Linear" in classes):
            default = form
        if listed:
            groups.append((Names(listed, field=f"{PATH}.config_groups.{key}.targets"), form))
    whole = bool(default) and not groups
    scheme = covering(default, towers=True, head=True)
    distinct = list(dict.fromkeys(names))
    return Configured(
        distinct[0] if whole or len(distinct) == 1 else "mixed" if distinct else "none",
        scheme,
        ignored(config),
        tuple(groups),
    )


def _compressed_format(weights: Mapping[str, Any], packing: str, path: str) -> Format:
    bits = integer(weights, "num_bits", 8, least=1, most=16)
    group = integer(weights, "group_size", 0, least=-1)
    strategy = str(weights.get("strategy") or ("group" if group > 0 else "tensor"))
    block = weights.get("block_structure")
    asymmetric = weights.get("symmetric") is False
    floating = weights.get("type") == "float"
    if floating and bits == 4:
        return (
            formats.MXFP4
            if "mx" in packing or (group == 32 and "nv" not in packing)
            else replace(formats.NVFP4, group=group or 16, matrix_bytes=8)
        )
    if (
        floating
        and bits == 8
        and group == 32
        and ("mx" in packing or weights.get("scale_dtype") in ("torch.uint8", "uint8"))
    ):
        return formats.MXFP8
    if strategy == "block" or block:
        rows, columns = block if isinstance(block, (list, tuple)) and len(block) == 2 else (128, 128)
        return replace(formats.BLOCK_FP8, group_rows=int(rows), group=int(columns))
    name = "fp8" if floating else "w4a16" if bits == 4 else f"int{bits}"
    if strategy in ("group", "tensor_group") and group > 0:
        form = formats.grouped(name, bits, group, zero=asymmetric)
        return replace(form, column_bytes=4) if weights.get("actorder") in ("group", True) else form
    if strategy == "tensor":
        return replace(formats.TENSOR_FP8, name=f"{name}-per-tensor", bits=Fraction(bits))
    return formats.grouped(name, bits, 0, scale_bytes=4 if bits == 8 else 2, zero=asymmetric)


_ALGORITHMS: dict[str, Format] = {
    "FP8": formats.STATIC_FP8, "FP8_PER_CHANNEL_PER_TOKEN": formats.CHANNEL_FP8, "FP8_PB_WO": formats.BLOCK_FP8,
    "FP8_PB_REAL": formats.BLOCK_FP8,
    "NVFP4": replace(formats.NVFP4, matrix_bytes=8), "W4A16_NVFP4": formats.NVFP4,
    "NVFP4_AWQ": replace(formats.NVFP4, matrix_bytes=8),
    "W4A8_NVFP4_FP8": replace(formats.NVFP4, matrix_bytes=8), "MXFP4": formats.MXFP4,
    "W4A8_MXFP4_FP8": formats.MXFP4, "MXFP8": formats.MXFP8,
    "INT8_SQ": formats.CHANNEL_INT8, "W8A8_SQ_PER_CHANNEL": formats.CHANNEL_INT8,
    "W8A16": formats.grouped("w8a16", 8, 0),
    "W4A16": formats.grouped("w4a16", 4, 128), "W4A16_AWQ": formats.grouped("awq", 4, 128),
    "W4A8_AWQ": formats.grouped("awq", 4, 128),
    "INT4_AWQ": formats.grouped("awq", 4, 128),
}  # fmt: skip


def _algorithm(name: object, group: object = None, *, where: str = "quant_algo") -> Format:
    found = _ALGORITHMS.get(str(name).upper())
    if found is None:
        raise ConfigError(
            tr("%(field)s: '%(value)s' is not a quantisation known here.", field=f"{PATH}.{where}", value=str(name)),
            field=f"{PATH}.{where}",
            hint=tr("Known are: %(names)s.", names=", ".join(_ALGORITHMS)),
        )
    if isinstance(group, int) and group > 0 and found.group and found.group_rows == 1:
        return replace(found, group=group)
    return found


def quantized_layers(config: Mapping[str, Any]) -> dict[str, Format | None]:
    found: dict[str, Format | None] = {}
    known: dict[tuple[Any, Any], Format] = {}
    for name, what in mapping(config, "quantized_layers").items():
        if not isinstance(what, Mapping):
            continue
        key = (what.get("quant_algo"), what.get("group_size"))
        if key not in known:
            known[key] = _algorithm(*key, where="quantized_layers")
        found[common(name)] = known[key]
    return found


def modelopt(config: Mapping[str, Any]) -> Configured:
    """Model Optimizer [2]_: one algorithm for every linear layer but the excluded, or a list of layers."""
    layers = quantized_layers(config)
    kept = ignored(config)
    if layers:
        names = list(dict.fromkeys(form.name for form in layers.values() if form))
        nothing = covering(None)
        return Configured(names[0] if len(names) == 1 else "mixed", nothing, kept, exceptions=layers)
    form = _algorithm(config.get("quant_algo"), config.get("group_size"))
    return Configured(form.name, covering(form, towers=True, head=True), kept)


def quark(config: Mapping[str, Any]) -> Configured:
    """AMD Quark: one description for all, exceptions by layer, and modules left out."""
    kept = Names(strings(config, "exclude"), field=f"{PATH}.exclude")
    form = _quark_format(mapping(mapping(config, "global_quant_config"), "weight"))
    groups = tuple(
        (Names([name]), _quark_format(mapping(what, "weight")))
        for name, what in mapping(config, "layer_quant_config").items()
        if isinstance(what, Mapping)
    )
    return Configured(form.name, covering(form, towers=True, head=True), kept, groups)


def _quark_format(weight: Mapping[str, Any]) -> Format:
    kind, scheme = str(weight.get("dtype", "")), str(weight.get("qscheme", ""))
    group = integer(weight, "group_size", 0)
    if kind == "fp4":
        return formats.MXFP4
    if kind.startswith("fp8"):
        return formats.CHANNEL_FP8 if scheme == "per_channel" else formats.STATIC_FP8
    if kind.startswith(("int", "uint")):
        return formats.grouped(
            f"w{kind[-1]}a16", int(kind[-1]), group if scheme == "per_group" else 0, zero=kind.startswith("u")
        )
    raise ConfigError(
        tr("%(field)s: '%(value)s' is not a quantisation known here.", field=f"{PATH}.global_quant_config", value=kind),
        field=f"{PATH}.global_quant_config",
    )


__all__ = ["compressed_tensors", "modelopt", "quantized_layers", "quark"]
