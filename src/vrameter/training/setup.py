"""A training request with every default filled in and every contradiction refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import msgspec

from vrameter.engines import Ask
from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.memory.optimizer import Optimizer, optimizer, options
from vrameter.memory.weights import WeightPlan, weight_plan
from vrameter.model.architecture import Architecture, Component, FeedForward, LatentAttention
from vrameter.model.dtypes import dtype as dtype_named
from vrameter.model.megatron import Arguments
from vrameter.model.output_layer import untied
from vrameter.settings.training import AdapterSettings, TrainingSettings
from vrameter.spec import Parallelism, check
from vrameter.training import trainable
from vrameter.training.adapting import Adapting, adapting
from vrameter.training.programs.scene import Numbers
from vrameter.training.recipes import SIZES, Recipe, eager_recipe
from vrameter.training.stacks import Stack, stack
from vrameter.training.vision import asking

DEFAULT_LENGTH = 2048
# An optimizer that trains a few layers at a time (R. Pan et al., "LISA", 2024, arXiv:2403.17919).
LISA = "lisa_adamw"
# Formats of a checkpoint that adapters are not trained on: its matrices are unpacked on loading (transformers 5.23,
# ``quantizers/quantizer_mxfp4.py``: ``is_trainable``).
UNTRAINABLE = ("mxfp4",)
# Objectives whose classes have a score in place of the output layer (``AutoModelForSequenceClassification``).
SCORED = ("sequence-classification", "reward")
# Quantised bases of which peft's preparation widens the rest: not those of GPTQ, AQLM, EETQ, HQQ and torchao.
WIDENED = ("bnb", "awq", "nf4", "fp4")
FROZEN_NAMES = {
    "vit": ("vision", "audio"), "vision": ("vision",), "aligner": ("projector",), "projector": ("projector",), "audio": ("audio",), "backbone": ("vision",),
    "llm": ("decoder", "head"), "encoder": ("encoder",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Degrees:
    """How many devices share the work, and how."""

    tensor: int
    pipeline: int
    data: int
    context: int
    expert: int
    expert_tensor: int
    virtual: int
    sequence: bool
    zero: int
    fsdp: str | None
    offload: str | None
    instances: int = 1

    @property
    def devices(self) -> int:
        """Devices together."""
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def shards(self) -> int:
        """Devices among which a dense parameter's state can be split: those of one of the optimizer's instances."""
        return max(1, self.data * self.context // self.instances)

    @property
    def expert_shards(self) -> int:
        """Devices among which an expert's state can be split."""
        return max(1, self.data * self.context * self.tensor // (self.expert * self.expert_tensor * self.instances))

    @property
    def splits_weights(self) -> bool:
        """Whether each device holds a shard of every parameter."""
        return self.zero >= 3 or self.fsdp in _WHOLE

    @property
    def splits_gradients(self) -> bool:
        """Whether each device keeps a shard of every gradient."""
        return self.zero >= 2 or self.fsdp in (*_WHOLE, "shard_grad_op")

    @property
    def splits_state(self) -> bool:
        """Whether each device keeps a shard of the optimizer's state."""
        return self.zero >= 1 or self.fsdp in (*_WHOLE, "shard_grad_op")


# Parts of a layer that Megatron's selective recompute knows (``transformer_config.py``, August 2026). Those of recurrent layers are
# known and not modelled.
MODULES = ("core_attn", "layernorm", "mla_up_proj", "mlp", "moe", "moe_act", "shared_experts")
OTHER_MODULES = ("gdn_norm_out", "gdp_in_proj", "gdp_qkv", "mhc")
# FSDP's ways that shard weights, all its ways, and names for none of them.
# Mixed precision, and the numbers of weights under DeepSpeed (accelerate 1.15, ``accelerator.py``: no autocast with it;
# DeepSpeed 0.17, ``runtime/engine.py``: the module is cast).
HALF = {"bf16-mixed": "bf16", "fp16-mixed": "fp16"}
_WHOLE = ("full_shard", "fsdp", "fsdp1", "fsdp2", "optim_grads_params", "hybrid_shard", "hsdp", "full")
FSDP = (*_WHOLE, "shard_grad_op")
UNSHARDED = ("no_shard", "ddp", "none")


@dataclass(frozen=True)
class Setup:
    """What a step is asked, resolved."""

    ask: Ask
    settings: TrainingSettings
    stack: Stack
    architecture: Architecture
    plan: WeightPlan
    recipe: Recipe
    rule: Optimizer
    degrees: Degrees
    adapters: Adapting | None
    length: int
    frozen: tuple[str, ...]
    assumed: dict[str, Any]
    warnings: tuple[str, ...]

    @cached_property
    def megatron(self) -> Arguments | None:
        """Megatron's own arguments, where the model was given by them."""
        model = self.ask.request.model
        return Arguments(model["megatron_args"]) if isinstance(model, dict) and "megatron_args" in model else None

    @property
    def samples_layers(self) -> bool:
        """Whether a few layers at a time are trained, beside embeddings and head (LISA)."""
        return self.rule.name == LISA and self.settings.finetuning == "full"

    @property
    def full(self) -> bool:
        """Whether the base model itself is trained."""
        return self.adapters is None

    @cached_property
    def widened(self) -> bool:
        """Whether what is not quantised was widened to fp32 (peft's ``prepare_model_for_kbit_training``)."""
        asked = self.settings.adapter
        packed = (self.plan.quantization or "").lower().startswith(WIDENED)
        return self.adapters is not None and asked is not None and asked.prepare_kbit and packed

    @property
    def local_length(self) -> int:
        """Tokens of one sequence on this device, learned ones before its own included. [tokens]."""
        prompt = self.adapters.prompt if self.adapters else None
        learned = prompt.tokens if prompt is not None and prompt.place == "input" else 0
        return -(-(self.length + learned) // self.degrees.context)

    @property
    def deals_tensors(self) -> bool:
        """Whether Megatron's layer-wise optimizer deals whole tensors out to devices, without a layout of its buffers."""
        return (
            self.megatron is not None and self.rule.matrices_only and self.degrees.splits_state
            and self.megatron.flag("no-use-layer-wise-param-layout")
        )  # fmt: skip

    @property
    def offloads_optimizer(self) -> bool:
        """Whether the optimizer's state lies in host memory."""
        return self.degrees.offload in ("optimizer", "cpu", "all") or self.settings.optimizer_cpu_offload

    @property
    def offloads_weights(self) -> bool:
        """Whether parameters lie in host memory between uses."""
        return self.degrees.offload in ("cpu", "all", "parameters") and self.degrees.splits_weights


def setup(ask: Ask) -> Setup:
    """Return a request resolved.

    Raises
    ------
    RequestError
        Where it contradicts itself, the model, or the stack.
    """
    given: TrainingSettings = check(TrainingSettings, _typed(ask.request.settings), path="settings.")
    found = stack(ask.request.engine, ask.request.engine_version)
    stated = given_fields(given) | {name for name, value in ask.request.settings.items() if value is not None}
    settings, assumed = _with_defaults(given, found, stated)
    settings = _micro_batch(_with_arguments(settings, ask), found, ask)
    architecture = untied(ask.architecture) if found.unties else ask.architecture
    picture = asking.is_picture(ask, found)
    if settings.objective in SCORED and not picture:
        architecture = headless(architecture)
    elif settings.mtp_num_layers:
        architecture = looking_ahead(architecture)
    if picture:
        architecture = asking.prepared(ask, settings, found, TRAINED)
    elif settings.finetuning == "freeze":
        architecture = last_layers(architecture, settings.num_trainable_layers or 2)
    rule = optimizer(settings.optimizer)
    if rule.name == LISA and settings.finetuning == "full":
        if picture or found.program == "diffusers":
            raise RequestError(
                tr("settings.optimizer: '%(value)s' draws layers of a language model; %(model)s is none.",
                   value=rule.name, model=architecture.name),
                field="settings.optimizer", hint=tr("Use one of: %(names)s.", names="adamw_torch, adafactor, sgd"),
            )  # fmt: skip
        architecture = last_layers(architecture, active_layers(settings))
    tunes = settings.finetuning in ("lora", "dora", "peft")
    plan = ask.weight_plan()
    unpacks = (plan.quantization or "").startswith(UNTRAINABLE)
    if plan.from_config and (not tunes or unpacks):
        plan = weight_plan(architecture, dtype=ask.request.dtype, quantization="none")
    degrees = _degrees(ask, found)
    rule = optimizer(
        "sgd_momentum" if found.name == "ultralytics" and settings.optimizer == "sgd" else settings.optimizer
    )
    if found.fused_steps and rule.name == "adamw_torch":
        rule = replace(rule, step="fused", temporaries=0)
    warnings = list(plan.warnings)
    length = 1 if picture else _length(architecture, settings, assumed, warnings)
    frozen = _frozen(settings)
    adapters = None
    if tunes:
        adapters = _adapters(architecture, settings, plan, found, frozen)
    recipe = _recipe(ask, settings, plan, found, degrees, full=not tunes, assumed=assumed)
    warnings += _module_warnings(settings, found, architecture)
    trainable.refuse(ask, settings, plan, rule, zero=degrees.zero, tunes=tunes, picture=picture)
    return Setup(
        ask,
        settings,
        found,
        architecture,
        plan,
        recipe,
        rule,
        degrees,
        adapters,
        length,
        frozen,
        assumed,
        tuple(warnings),
    )


@lru_cache(maxsize=64)
def headless(architecture: Architecture) -> Architecture:
    """Return a model whose output layer is a score of one row instead of a vocabulary."""
    return replace(
        architecture, components=tuple(each for each in architecture.components if each.kind not in ("head", "mtp"))
    )


@lru_cache(maxsize=64)
def looking_ahead(architecture: Architecture) -> Architecture:
    """Return a model whose layers for multi-token prediction, which a plain loader skips, are loaded and trained."""
    return replace(
        architecture,
        components=tuple(
            replace(each, loaded=True) if each.kind == "mtp" else each for each in architecture.components
        ),
    )


TRAINED = "trained"


def active_layers(settings: TrainingSettings) -> int:
    """Return how many layers LISA trains at a time [layers].

    Raises
    ------
    RequestError
        Where it is no count.
    """
    given = options(settings.optimizer_args).get("lisa_activated_layers", "2")
    if not given.isdigit() or not int(given):
        raise RequestError(
            tr("settings.optimizer_args: lisa_activated_layers '%(value)s' is no count of layers.", value=given),
            field="settings.optimizer_args",
            hint=tr("Give %(expected)s.", expected="lisa_activated_layers=2"),
        )
    return int(given)


@lru_cache(maxsize=64)
def last_layers(architecture: Architecture, count: int) -> Architecture:
    """Return a model whose last layers stand apart, so that they alone can be trained."""
    main = architecture.main
    start = max(0, len(main.layers) - count)
    norms = tuple(tensor for tensor in main.tensors if tensor.role == "norm")
    below = replace(
        main, layers=main.layers[:start], tensors=tuple(tensor for tensor in main.tensors if tensor not in norms)
    )
    above = replace(main, name=TRAINED, layers=main.layers[start:], tensors=norms, first_layer=main.first_layer + start)
    components: list[Component] = []
    for component in architecture.components:
        components += [below, above] if component is main else [component]
    return replace(architecture, components=tuple(components))


def _with_defaults(given: TrainingSettings, found: Stack, stated: set[str]) -> tuple[TrainingSettings, dict[str, Any]]:
    """Return settings with the stack's defaults where the request is silent, and which were filled in."""
    assumed = {name: value for name, value in found.defaults.items() if name not in stated}
    settings = msgspec.structs.replace(given, **assumed)
    if settings.ref_model is None and settings.objective in found.unreferenced:
        assumed["ref_model"] = False
        settings = msgspec.structs.replace(settings, ref_model=False)
    if settings.finetuning in ("lora", "dora", "peft") and settings.adapter is None:
        settings = msgspec.structs.replace(settings, adapter=AdapterSettings(targets="all-linear"))
        assumed["adapter"] = {"rank": 8, "targets": "all-linear"}
    return settings, assumed


def _micro_batch(settings: TrainingSettings, found: Stack, ask: Ask) -> TrainingSettings:
    """Return settings with torchtitan's size of a micro-batch: a stage's share of what a device takes in one step."""
    degrees = ask.request.parallelism
    if found.name != "torchtitan" or degrees.pipeline == 1 or not settings.local_batch or settings.micro_batch > 1:
        return settings
    turns = 2 if settings.pipeline_schedule == "interleaved-1f1b" else 1
    size = max(1, settings.local_batch // (degrees.pipeline * turns))
    return msgspec.structs.replace(settings, micro_batch=size)


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with numbers and switches that argument lists write as text turned into what they are."""
    words = {"true": True, "false": False}
    return {
        name: words.get(value.lower(), int(value) if value.isdigit() else value) if isinstance(value, str) else value
        for name, value in values.items()
    }


def _with_arguments(settings: TrainingSettings, ask: Ask) -> TrainingSettings:
    """Return settings with what Megatron's own arguments say of dropout, recompute and buffers."""
    model = ask.request.model
    if not isinstance(model, dict) or "megatron_args" not in model:
        return settings
    args = Arguments(model["megatron_args"])
    changes: dict[str, Any] = {}
    for name in ("attention_dropout", "hidden_dropout"):
        given = args.share(name.replace("_", "-"))
        if given is not None and getattr(settings, name) is None:
            changes[name] = given
    modules = args.words("recompute-modules")
    if modules and not settings.recompute_modules:
        changes["recompute_modules"] = modules
    if settings.gradient_dtype is None:
        narrow = args.flag("grad-reduce-in-bf16") or args.text("main-grads-dtype") == "bf16"
        if narrow or args.flag("accumulate-allreduce-grads-in-fp32"):
            changes["gradient_dtype"] = "bf16" if narrow else "fp32"
    if args.flag("use-precision-aware-optimizer"):
        changes["use_precision_aware_optimizer"] = True
        if settings.moment_dtype is None and args.text("exp-avg-dtype") in SIZES:
            changes["moment_dtype"] = args.text("exp-avg-dtype")
    return msgspec.structs.replace(settings, **changes)


def given_fields(settings: TrainingSettings) -> set[str]:
    """Return the fields that differ from what the struct assumes."""
    defaults = TrainingSettings()
    return {name for name in settings.__struct_fields__ if getattr(settings, name) != getattr(defaults, name)}


def _degrees(ask: Ask, found: Stack) -> Degrees:
    """Return the degrees, data parallelism filled in, or refuse what does not multiply."""
    asked: Parallelism = ask.request.parallelism
    product = asked.tensor * asked.pipeline * asked.context
    if ask.num_devices % (product * asked.data):
        raise RequestError(
            tr(
                "parallelism: %(degrees)s devices do not divide num_devices %(count)s.",
                degrees=product * asked.data, count=ask.num_devices,
            ),
            field="parallelism",
            hint=tr("tensor x pipeline x context x data must be num_devices."),
        )  # fmt: skip
    data = ask.num_devices // product
    if asked.data > 1 and data != asked.data:
        raise RequestError(
            tr(
                "parallelism: tensor x pipeline x context x data is %(degrees)s, and num_devices is %(count)s.",
                degrees=product * asked.data, count=ask.num_devices,
            ),
            field="parallelism.data",
            hint=tr("Use parallelism.data %(data)s, or leave it out.", data=data),
        )  # fmt: skip
    shares = asked.tensor * data * asked.context
    follows = 1 if shares % (asked.expert * asked.tensor) else asked.tensor
    expert_tensor = asked.expert_tensor or found.expert_tensor or follows
    if asked.tensor * data * asked.context % (asked.expert * min(expert_tensor, asked.tensor)):
        raise RequestError(
            tr(
                "parallelism.expert: %(value)s does not divide the %(count)s devices of a pipeline stage.",
                value=asked.expert, count=asked.tensor * data * asked.context,
            ),
            field="parallelism.expert",
            hint=tr("Use a divisor of tensor x data x context."),
        )  # fmt: skip
    silent = data > 1 and asked.fsdp is None and asked.zero_stage is None
    fsdp = asked.fsdp.lower() if asked.fsdp else found.fsdp if silent else None
    zero = found.zero_stage if silent else asked.zero_stage or 0
    model = ask.request.model
    args = Arguments(model["megatron_args"] if isinstance(model, dict) and "megatron_args" in model else {})
    return Degrees(
        asked.tensor, asked.pipeline, data, asked.context, asked.expert, expert_tensor, asked.virtual_pipeline,
        asked.sequence, zero, None if fsdp in UNSHARDED else fsdp, asked.offload,
        max(1, args.number("num-distributed-optimizer-instances", 1)),
    )  # fmt: skip


def _length(
    architecture: Architecture, settings: TrainingSettings, assumed: dict[str, Any], warnings: list[str]
) -> int:
    limit = architecture.main.max_positions
    if settings.seq_len is None:
        length = min(DEFAULT_LENGTH, limit) if limit else DEFAULT_LENGTH
        assumed["seq_len"] = length
        return length
    table = any(tensor.slot == "position" for component in architecture.loaded for tensor in component.tensors)
    if limit and settings.seq_len > limit and not table:
        warnings.append(
            tr(
                "seq_len %(value)s is beyond the %(limit)s positions that the model's config states.",
                value=settings.seq_len, limit=limit,
            )
        )  # fmt: skip
    elif limit and settings.seq_len > limit:
        raise RequestError(
            tr(
                "settings.seq_len: %(value)s is beyond the %(limit)s positions of the model.",
                value=settings.seq_len, limit=limit,
            ),
            field="settings.seq_len",
            hint=tr("Use %(limit)s or less, or set max_position_embeddings in the model's config.", limit=limit),
        )  # fmt: skip
    return settings.seq_len


def _frozen(settings: TrainingSettings) -> tuple[str, ...]:
    names = [*settings.freeze, *(["llm"] if settings.freeze_llm else [])]
    kinds: list[str] = []
    for name in names:
        if name not in FROZEN_NAMES:
            raise RequestError(
                tr("settings.freeze: '%(value)s' is no part of a model known here.", value=name),
                field="settings.freeze",
                hint=tr("Use one of: %(names)s.", names=", ".join(FROZEN_NAMES)),
            )
        kinds += FROZEN_NAMES[name]
    return tuple(kinds)


def _adapters(
    architecture: Architecture, settings: TrainingSettings, plan: WeightPlan, found: Stack, frozen: tuple[str, ...]
) -> Adapting:
    asked = settings.adapter
    assert asked is not None
    own = SIZES.get(plan.compute_dtype, 2)
    name = asked.dtype or found.adapter_dtype
    element = SIZES[name] if name else min(own, 4)
    return adapting(
        architecture, asked, magnitude=settings.finetuning == "dora", element=element, experts=found.adapts_experts,
        frozen=frozen, slots_only=found.program == "litgpt", base_element=own, before_021=found.peft_before_021,
        renames=found.program == "transformers" and not found.adapts_experts,
        moves_buffers=found.program == "transformers" and found.name != "transformers",
    )  # fmt: skip


def _recipe(
    ask: Ask,
    settings: TrainingSettings,
    plan: WeightPlan,
    found: Stack,
    degrees: Degrees,
    *,
    full: bool,
    assumed: dict[str, Any],
) -> Recipe:
    """Return the sizes of the numbers that a step works with."""
    precision = settings.precision or "bf16-mixed"
    if found.program == "megatron":
        from vrameter.training.stacks.megatron import recipe

        mixture = any(
            isinstance(part, FeedForward) and part.num_experts
            for layer, _ in ask.architecture.main.layer_groups
            for part in layer.parts
        )
        return recipe(found.name, precision, settings, mixture=mixture)
    stored = max(2, dtype_named(plan.compute_dtype).bits // 8)
    if ask.request.dtype is None and full and precision in ("fp32", "bf16-mixed", "fp16-mixed"):
        stored = 4
    base = eager_recipe(precision, stored=stored, full=full, autocast=settings.autocast)
    if degrees.zero and full and precision in HALF:
        # DeepSpeed holds half-precision weights and fp32 masters, and accelerate leaves autocast off for it.
        base = eager_recipe(HALF[precision], stored=2, full=True, autocast=False)
    if degrees.fsdp and precision in ("bf16-mixed", "fp16-mixed", "fp8") and full:
        # FSDP's mixed precision: shards as they are stored, layers put together and run in half precision.
        base = replace(base, numbers=Numbers(2, 2))
    master = {"fp32": 4, "bf16": 2, "fp16": 2}.get(settings.master_weights or "", 0)
    if degrees.zero and full and not master and base.weight == 2:
        master = 4
    widened = settings.adapter is not None and settings.adapter.prepare_kbit and not full
    if widened and (plan.quantization or "").lower().startswith(WIDENED):
        base = replace(base, frozen=4, numbers=Numbers(base.numbers.compute, 4, base.numbers.autocast))
    changes: dict[str, Any] = {"master": 0 if master == base.weight else master}
    if settings.gradient_dtype:
        changes["gradient"] = SIZES[settings.gradient_dtype]
    if degrees.zero:
        changes["contiguous_gradients"] = True
    return replace(base, **changes)


def _module_warnings(settings: TrainingSettings, found: Stack, architecture: Architecture) -> list[str]:
    """Refuse modules that Megatron does not know; return what is asked of them without effect."""
    names = settings.recompute_modules
    unknown = [name for name in names if name not in (*MODULES, *OTHER_MODULES)]
    if unknown:
        raise UnknownNameError(
            tr("settings.recompute_modules: '%(value)s' is no part of a layer.", value=unknown[0]), unknown[0], MODULES,
            field="settings.recompute_modules", otherwise=tr("Use one of: %(names)s.", names=", ".join(MODULES)),
        )  # fmt: skip
    if not names:
        return []
    if found.program != "megatron" or settings.recompute != "selective":
        return [tr("recompute_modules has an effect with Megatron's selective recompute alone.")]
    held = [part for layer, _ in architecture.main.layer_groups for part in layer.parts]
    if "mla_up_proj" in names and not any(isinstance(part, LatentAttention) for part in held):
        raise RequestError(
            tr("settings.recompute_modules: 'mla_up_proj' needs latent attention, which %(model)s does not have.", model=architecture.name),
            field="settings.recompute_modules", hint=tr("Leave it out, or use core_attn."),
        )  # fmt: skip
    others = [name for name in names if name in OTHER_MODULES]
    return [tr("recompute_modules: %(names)s is not modelled.", names=", ".join(others))] if others else []


__all__ = ["Degrees", "Setup", "given_fields", "setup"]
