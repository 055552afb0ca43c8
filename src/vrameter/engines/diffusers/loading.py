"""Which modules of a pipeline stand on the device, in which form, and when.

References
----------
.. [1] diffusers 0.42.1, ``pipelines/pipeline_utils.py``: ``enable_model_cpu_offload`` keeps one module on the device at a
       time, but for those in bitsandbytes' 8 bits, which do not move; ``enable_sequential_cpu_offload`` one leaf of a
       module.
.. [2] transformers 5.23, ``modeling_t5.py``: ``wo`` stays in fp32 where the rest is fp16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from vrameter.errors import UnknownNameError
from vrameter.i18n import tr
from vrameter.ledger import Item, item
from vrameter.memory.weights import WeightPlan, weight_plan, weights_bytes
from vrameter.model.diffusion.pipeline import AUTOENCODERS, DENOISERS, Module, Pipeline
from vrameter.model.dtypes import dtype as dtype_named
from vrameter.model.gguf_types import gguf_format
from vrameter.model.schemes import Scheme, parse
from vrameter.settings.diffusers import DiffusersSettings, ModuleSettings

QKV = ("to_q.", "to_k.", "to_v.", "add_q_proj.", "add_k_proj.", "add_v_proj.")
PHASES = ("load", "text_encode", "denoise", "vae_decode")


@dataclass(frozen=True)
class Loaded:
    """One module as it is loaded."""

    module: Module
    plan: WeightPlan

    @property
    def name(self) -> str:
        return self.module.name

    @property
    def role(self) -> str:
        """The phase that it runs in."""
        if self.name in DENOISERS:
            return "denoise"
        return "vae_decode" if self.name in AUTOENCODERS else "text_encode"

    @cached_property
    def kept_wide(self) -> int:
        """Bytes of matrices that stay in fp32 beyond their size in fp16. [bytes]."""
        if self.plan.dtype != "fp16" or self.plan.quantization or "T5" not in self.module.class_name:
            return 0
        return sum(
            2 * tensor.size * times
            for component in self.module.architecture.components
            for tensor, times in component.counted_tensors()
            if tensor.name.endswith("DenseReluDense.wo.weight")
        )

    @cached_property
    def total(self) -> int:
        """Weights. [bytes]."""
        return self.plan.of().total + self.kept_wide

    @cached_property
    def fused(self) -> int:
        """Fused copies of query, key and value matrices beside the three. [bytes]."""
        return sum(
            form.bytes_of(shape).total * times
            for component in self.module.architecture.components
            for tensors, times in (
                (component.tensors, 1),
                *((layer.all_tensors, len(places)) for layer, places in component.layer_groups),
            )
            for tensor in tensors
            if any(name in tensor.name for name in QKV)
            for form, shape in self.plan.stored(component, None, tensor)
        )

    @cached_property
    def largest(self) -> int:
        """The largest tensor. [bytes]."""
        return max(
            form.bytes_of(shape).total
            for component in self.module.architecture.components
            for tensor, _ in component.counted_tensors()
            for form, shape in self.plan.stored(component, None, tensor)
        )


def loaded_modules(
    pipeline: Pipeline, settings: DiffusersSettings, dtype: str | None, quantization: str | None, warnings: list[str]
) -> list[Loaded]:
    """Return the modules that are loaded, each with how it is stored; `quantization` is the denoiser's."""
    chosen: Mapping[str, ModuleSettings] = settings.components
    known = [module.name for module in pipeline.modules]
    for name in chosen:
        if name not in known and not pipeline.notes:
            raise UnknownNameError(
                tr("settings.components: %(pipeline)s has no '%(name)s'.", pipeline=pipeline.name, name=name),
                name,
                known,
                field="settings.components",
                otherwise=tr("Use one of: %(names)s.", names=", ".join(known)),
            )
    whole = any(name in chosen for name in AUTOENCODERS) and any(name in chosen for name in DENOISERS)
    left_out = [name for name in known if whole and name not in chosen]
    if left_out:
        warnings.append(tr("Not among the components, and so not loaded: %(names)s.", names=", ".join(left_out)))
    found = []
    for module in pipeline.modules:
        if module.name in left_out:
            continue
        own = chosen.get(module.name, ModuleSettings())
        stored = own.quantization or (quantization if module.name in DENOISERS else None)
        found.append(Loaded(module, module_plan(module, own.dtype or dtype or pipeline.dtype or "bf16", stored)))
    return found


def module_plan(module: Module, dtype: str, quantization: str | None) -> WeightPlan:
    """Return how a module's tensors are stored. A GGUF type means its blocks in every linear layer that they divide."""
    scheme = parse(quantization) if quantization else None
    if isinstance(scheme, str):
        base = scheme.partition("_k_")[0] + "_k" if "_k_" in scheme else scheme
        form = replace(gguf_format(base), whole_groups=True)
        own = dtype_named(dtype).name
        return WeightPlan(module.architecture, own, scheme, Scheme(scheme, form, towers=True))
    return weight_plan(module.architecture, dtype=dtype, quantization=quantization)


def weight_items(modules: list[Loaded], offload: str, *, fuse_qkv: bool) -> list[Item]:
    """Return the lines of all modules, each alive while it stands on the device."""
    items: list[Item] = []
    for each in modules:
        phases = _phases(each, modules, offload)
        if not phases:
            continue
        if offload == "sequential":
            items.append(_plain(each.largest, phases, each.name, "its largest tensor: one leaf at a time"))
            continue
        made = each.plan.item(each.module.architecture, phases)
        items.append(replace(made, note=f"{each.name}; {made.note}" if made.note else each.name))
        if each.kept_wide:
            items.append(
                _plain(each.kept_wide, phases, each.name, "transformers 5.23: T5 keeps wo in fp32 beside fp16")
            )
        if fuse_qkv and each.role == "denoise":
            items.append(
                _plain(each.fused, phases, each.name, "diffusers 0.42.1: fuse_qkv_projections keeps the three matrices")
            )
    return items


def _phases(each: Loaded, modules: list[Loaded], offload: str) -> tuple[str, ...]:
    if offload == "none" or (offload == "model" and each.plan.quantization == "bnb-int8"):
        return PHASES
    alike = [other for other in modules if other.role == each.role]
    fullest = max(alike, key=lambda other: other.largest if offload == "sequential" else other.total)
    return (each.role,) if each is fullest else ()


def _plain(size: int, phases: tuple[str, ...], name: str, source: str) -> Item:
    return item(
        "weights", weights_bytes, phases=phases, source=source, note=name, quantized=0, scales=0, unquantized=size,
        buffers=0,
    )  # fmt: skip
