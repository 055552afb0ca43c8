"""What can be trained at all: layers that are known as programs, formats that take gradients, optimizers that can be split."""

from __future__ import annotations

from vrameter.engines import Ask
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.memory.optimizer import Optimizer
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import Attention, FeedForward
from vrameter.settings.training import TrainingSettings
from vrameter.training.adapter_options import READS_NUMBERS, canonical_of
from vrameter.training.stacks import stack

# Formats that can be trained on with adapters: their matrices can be unpacked for a product.
TRAINABLE_FORMATS = (
    "bnb",
    "gptq",
    "awq",
    "hqq",
    "aqlm",
    "eetq",
    "torchao",
    "quanto",
    "nf4",
    "nvfp4",
    "mxfp4",
    "fp8",
    "int8",
    "w8a8",
)


def refuse(
    ask: Ask,
    settings: TrainingSettings,
    plan: WeightPlan,
    rule: Optimizer,
    *,
    zero: int,
    tunes: bool,
    picture: bool,
) -> None:
    """Refuse what cannot be trained.

    Parameters
    ----------
    zero
        ZeRO's stage, 0 where nothing is split.
    tunes
        Whether adapters are trained beside frozen weights.
    picture
        Whether the model is one of images, whose program is another.

    Raises
    ------
    RequestError
        With the field, and what to type instead.
    """
    _refuse_layers(ask, picture=picture)
    if zero >= 3 and not rule.shards:
        raise RequestError(
            tr("settings.optimizer: '%(value)s' needs whole matrices, and ZeRO stage 3 splits them.", value=rule.name),
            field="settings.optimizer",
            hint=tr("Use an AdamW, or parallelism.zero_stage 2 or less."),
        )
    if plan.quantization and not tunes:
        raise RequestError(
            tr(
                "quantization: '%(value)s' weights are frozen: they cannot be trained in full.", value=plan.quantization
            ),
            field="quantization",
            hint=tr('Use {"finetuning": "lora"}, or leave quantization out.'),
        )
    name = (plan.quantization or "").lower()
    if name and tunes and not any(part in name for part in TRAINABLE_FORMATS):
        raise RequestError(
            tr("quantization: adapters cannot be trained on '%(value)s' weights.", value=plan.quantization),
            field="quantization",
            hint=tr("Use one of: %(names)s.", names="bnb-nf4, bnb-nf4-dq, bnb-int8, gptq, awq, hqq-int4"),
        )
    method = canonical_of(settings.adapter.method.lower()) if settings.adapter is not None else ""
    if name and tunes and method in READS_NUMBERS:
        raise RequestError(
            tr("settings.adapter.method: '%(value)s' reads the numbers of the matrix, and '%(name)s' packs them.",
               value=method, name=plan.quantization),
            field="settings.adapter.method",
            hint=tr("Use one of: %(names)s.", names="lora, dora, adalora, vera, ia3, oft, boft, miss, randlora, road, hira"),
        )  # fmt: skip
    if settings.precision == "fp16" and not tunes and not settings.master_weights and not zero:
        raise RequestError(
            tr("settings.precision: fp16 throughout has no gradient scaler: small gradients vanish."),
            field="settings.precision",
            hint=tr("Use fp16-mixed, which scales the loss, or bf16."),
        )


def _refuse_layers(ask: Ask, *, picture: bool) -> None:
    """Refuse models whose layers are not known as programs, or that a stack does not have."""
    plain = (part for component in ask.architecture.components for layer, _ in component.layer_groups
             for part in layer.parts if isinstance(part, FeedForward) and part.tensors and not part.num_experts)  # fmt: skip
    known = picture or stack(ask.request.engine).program == "diffusers"
    if not known and not all(any(tensor.slot == "down" for tensor in part.tensors) for part in plain):
        raise RequestError(
            tr("model: training of %(name)s is not modelled in this version.", name=ask.architecture.name),
            field="model",
            hint=tr("Ask for inference, or name another model."),
        )
    if stack(ask.request.engine).program != "litgpt":
        return
    for layer, _ in ask.architecture.main.layer_groups:
        kinds = {type(part) for part in layer.parts}
        sparse = any(isinstance(part, FeedForward) and part.num_experts for part in layer.parts)
        if kinds != {Attention, FeedForward} or sparse or ask.architecture.decoder is None:
            raise RequestError(
                tr("engine: litgpt has no layers like those of %(model)s.", model=ask.architecture.name),
                field="engine",
                hint=tr("Use one of: %(names)s.", names="transformers, megatron"),
            )


__all__ = ["refuse"]
