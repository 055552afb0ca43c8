"""What the weights take: every tensor in its format, summed.

A `WeightPlan` says how each tensor of a model is stored: in the model's dtype, in the format of a quantisation given
by name, as the model's own ``quantization_config`` says, or as a GGUF mixture does. It counts whole models and shares
of them alike: tensors are found by component, layer and name, and their bytes follow from the shapes at hand.

Buffers that a loader builds count too; the balancing biases of routers stay in fp32. Matrices tied to another are not
there twice, because the architecture does not list them.

References
----------
.. [1] vLLM's log of Llama-3.1-70B in W8A8 (PR 12569): 67.7229 GiB, reproduced to the digit with fp32 row scales.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vrameter.errors import ConfigError
from vrameter.i18n import language, tr
from vrameter.memory.weight_plan import REMEMBERED, WeightPlan
from vrameter.memory.weight_sums import Line, WeightBytes, tensor_bytes, weights_bytes
from vrameter.model.architecture import Architecture
from vrameter.model.dtypes import dtype as dtype_named
from vrameter.model.dtypes import spelled
from vrameter.model.tensor_table import CHOSEN, TensorTable

if TYPE_CHECKING:
    from vrameter.model.configured import Configured

# Plans kept for the next question about the same model. They hold it, so that its id stays its own.
_PLANS: dict[tuple[int, str | None, str | None, bool, int, str], WeightPlan] = {}


def weight_plan(
    architecture: Architecture,
    *,
    dtype: str | None = None,
    quantization: str | None = None,
    imatrix: bool = False,
    table: TensorTable | None = None,
) -> WeightPlan:
    """Return how every tensor of a model is stored.

    Parameters
    ----------
    dtype
        Of what is not quantised; by default the checkpoint's own, bf16 where it does not say.
    quantization
        A name that `vrameter.model.schemes.parse` reads, or ``none``; by default what the model's configuration says.
    imatrix
        Whether a GGUF mixture is made with an importance matrix.
    table
        What the files hold that the architecture was made of: it decides how tensors are stored, unless another
        quantisation is asked for.

    Raises
    ------
    UnknownNameError, RequestError
        Where `dtype` or `quantization` is not known.
    ConfigError
        Where the model's ``quantization_config`` is of a kind not known.
    """
    key = (id(architecture), dtype, quantization, imatrix, id(table), language())
    if key not in _PLANS:
        while len(_PLANS) >= REMEMBERED:
            del _PLANS[next(iter(_PLANS))]
        if table is None or table.kind == "torch":
            _PLANS[key] = _plan(architecture, dtype, quantization, imatrix)
        else:
            plan = _gguf_plan if table.kind == "gguf" else _stored_plan
            _PLANS[key] = plan(architecture, dtype, quantization, imatrix, table)
    return _PLANS[key]


def _gguf_plan(
    architecture: Architecture, dtype: str | None, quantization: str | None, imatrix: bool, table: TensorTable
) -> WeightPlan:
    """Return how a GGUF file stores the model, or how it would be stored quantised otherwise."""
    from vrameter.model.from_gguf import file_mixture, stored_pieces
    from vrameter.model.gguf_types import BLOCKS

    name = file_mixture(table)
    quantized = BLOCKS.get(name, (2, 0))[0] > 1
    names = {spelled(name), spelled(str(table.metadata.get(CHOSEN, "")))}
    if quantization is None or spelled(quantization) in names:
        own = dtype_named(dtype).name if dtype else architecture.dtype or "fp16"
        changed = dtype is not None and not quantized and own != architecture.dtype
        ignored = tr("dtype: has no effect on the weights of a GGUF file, which are loaded as they are.")
        return WeightPlan(
            architecture,
            own,
            name if quantized else None,
            mixture=stored_pieces(architecture, table),
            table=table,
            warnings=(ignored,) if changed else (),
        )
    plan = _plan(architecture, dtype, quantization, imatrix)
    message = tr(
        "quantization: the file is in '%(stated)s'; the figures are for the same model in '%(value)s'.",
        stated=name,
        value=plan.quantization or plan.dtype,
    )
    return replace(plan, warnings=(*plan.warnings, message))


def _stored_plan(
    architecture: Architecture, dtype: str | None, quantization: str | None, imatrix: bool, table: TensorTable
) -> WeightPlan:
    """Return how files hold the model, or how it would be stored quantised otherwise.

    Where nothing states the quantisation, the layout of packed tensors does.
    """
    from vrameter.memory.stored_weights import FLOATS, StoredWeights
    from vrameter.model.placement import place

    placement = place(architecture, table)
    own = dtype or architecture.dtype or FLOATS.get(placement.dtype)
    plan = _plan(architecture, own, quantization, imatrix)
    if plan.quantization is not None and not plan.from_config:
        return plan
    if placement.method and quantization is not None and not plan.from_config:
        return plan
    if placement.method and plan.quantization is None:
        plan = replace(plan, quantization=placement.method, dtype=_wide(plan.dtype), from_config=True)
    files = StoredWeights(placement, plan.dtype, all_floats=dtype is not None)
    return replace(plan, files=files, warnings=(*plan.warnings, *_other_dtype(architecture, placement.dtype, dtype)))


def _other_dtype(architecture: Architecture, stored: str, asked: str | None) -> tuple[str, ...]:
    """Return the note that files and configuration name different number formats."""
    from vrameter.memory.stored_weights import FLOATS

    held = FLOATS.get(stored)
    if asked is not None or held is None or architecture.dtype in (None, held) or architecture.quantization_config:
        return ()
    return (
        tr(
            "The files hold %(stored)s, and config.json says %(stated)s, which loaders convert to.",
            stored=held,
            stated=architecture.dtype,
        ),
    )


def _plan(architecture: Architecture, dtype: str | None, quantization: str | None, imatrix: bool) -> WeightPlan:
    own = dtype_named(dtype).name if dtype else architecture.dtype or "bf16"
    if quantization is None and not architecture.quantization_config:
        return WeightPlan(architecture, own)
    from vrameter.model.schemes import Scheme, parse

    stated = _stated(architecture, quantization)
    same = stated is not None and (quantization is None or spelled(quantization) == spelled(stated.name))
    scheme = None if quantization is None or same else parse(quantization)
    if stated is not None and (same or (isinstance(scheme, Scheme) and scheme.name == stated.name)):
        return WeightPlan(
            architecture, _wide(own), stated.name, stated, from_config=True, warnings=tuple(stated.warnings)
        )
    if scheme is None:
        return WeightPlan(architecture, own)
    if isinstance(scheme, str):
        computed = own if dtype_named(own).bits == 16 else "fp16"
        from vrameter.model.gguf_mixture import mixture_types

        mixture = mixture_types(architecture, scheme, imatrix=imatrix)
        return WeightPlan(architecture, computed, scheme, mixture=mixture)
    if stated is None:
        return WeightPlan(architecture, _wide(own), scheme.name, scheme)
    message = tr(
        "quantization: '%(value)s' is taken instead of what the model's config.json says, '%(stated)s'.",
        value=scheme.name,
        stated=stated.name,
    )
    return WeightPlan(architecture, _wide(own), scheme.name, scheme, warnings=(message,))


def _stated(architecture: Architecture, quantization: str | None) -> Configured | None:
    """Return what the configuration says; one that cannot be read matters only where nothing else is asked."""
    if not architecture.quantization_config:
        return None
    from vrameter.model.quantization_config import read_quantization_config

    try:
        return read_quantization_config(architecture.quantization_config, model_type=architecture.model_type)
    except ConfigError:
        if quantization is None:
            raise
        return None


def _wide(name: str) -> str:
    """Return the number format of what a quantisation leaves alone: 16 bits at least."""
    return name if dtype_named(name).bits >= 16 else "bf16"


def weight_bytes(
    architecture: Architecture, *, dtype: str | None = None, quantization: str | None = None, imatrix: bool = False
) -> WeightBytes:
    """Return what a whole model's weights take, by component and role. Parameters as of `weight_plan`."""
    return weight_plan(architecture, dtype=dtype, quantization=quantization, imatrix=imatrix).of()


__all__ = [
    "Line", "WeightBytes", "WeightPlan", "tensor_bytes", "weight_bytes", "weight_plan", "weights_bytes",
]  # fmt: skip
