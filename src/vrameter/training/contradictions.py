"""What a training request may not ask together, and what of it changes nothing.

The first is refused, with the field and what to type instead. The second is said in a note: a setting that is read
without effect is either a slip or a limit of this model, and the reader should know.

References
----------
.. [1] transformers 5.23, ``trainer_optimizer.py``, ``training_args.py``: layer-wise optimizers step once per backward pass.
.. [2] torchtune 0.6, ``recipes/full_finetune_single_device.py``: no accumulation with the optimizer in the backward pass.
.. [3] DeepSpeed 0.17, ``runtime/zero``; PyTorch 2.13, ``distributed/fsdp``: shards are parts of flattened or first dimensions.
.. [4] peft 0.21, ``tuners``; Megatron-LM, ``megatron/training/arguments.py``: degrees, stages, experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.model.architecture import FeedForward
from vrameter.model.dtypes import dtype as dtype_named
from vrameter.settings.training import TrainingSettings
from vrameter.training.companions import unknown_companions
from vrameter.training.setup import FROZEN_NAMES, FSDP, UNSHARDED, Setup

OFFLOADS = ("optimizer", "parameters", "cpu", "all")
# Degrees that a stack does not have.
LACKS = {
    **dict.fromkeys(("unsloth", "fsdp_qlora", "litgpt"), ("tensor", "pipeline", "context", "expert")),
    **dict.fromkeys(("transformers", "trl", "axolotl", "llama-factory", "ms-swift"), ("pipeline",)),
    "torchtune": ("pipeline",),
    "diffusers": ("tensor", "pipeline", "context", "expert"),
}
LEARNED_PROMPTS = ("prefix_tuning", "prompt_tuning", "p_tuning", "adaption_prompt", "adapter")
ANSWERING = ("grpo", "rloo", "ppo")  # objectives whose step starts with answers of the model


def refuse(asked: Setup) -> None:
    """Refuse what a request asks together and no run can have.

    Raises
    ------
    RequestError, UnknownNameError
        With the field, its value, and what to type instead.
    """
    for check in (_sharding, _degrees, _optimizer, _adapters, _batches, _parts, _numbers):
        check(asked)


def _no(field: str, message: str, hint: str) -> RequestError:
    return RequestError(f"{field}: {message}", field=field, hint=hint)


def _sharding(asked: Setup) -> None:
    given = asked.ask.request.parallelism
    if given.fsdp and given.fsdp.lower() not in (*FSDP, *UNSHARDED):
        raise UnknownNameError(
            tr("parallelism.fsdp: '%(value)s' is no way of sharding known here.", value=given.fsdp),
            given.fsdp.lower(), FSDP, field="parallelism.fsdp", otherwise=tr("Use one of: %(names)s.", names=", ".join(FSDP)),
        )  # fmt: skip
    if given.offload and given.offload not in OFFLOADS:
        raise UnknownNameError(
            tr("parallelism.offload: '%(value)s' is nothing that can be kept in host memory.", value=given.offload),
            given.offload, OFFLOADS, field="parallelism.offload", otherwise=tr("Use one of: %(names)s.", names=", ".join(OFFLOADS)),
        )  # fmt: skip
    if given.fsdp and given.fsdp.lower() in FSDP and given.zero_stage:
        raise _no(
            "parallelism.fsdp", tr("'%(value)s' and zero_stage %(stage)s at once.", value=given.fsdp, stage=given.zero_stage),
            tr("Give one of the two: ZeRO is DeepSpeed's, FSDP is PyTorch's."),
        )  # fmt: skip


def _degrees(asked: Setup) -> None:
    stack, degrees = asked.stack.name, asked.degrees
    for name in LACKS.get(stack, ()):
        value = getattr(degrees, name)
        if value == 1 or (name == "pipeline" and asked.settings.pipeline_schedule == "naive"):
            continue
        others = [engine for engine in ("deepspeed", "torchtitan", "megatron") if name not in LACKS.get(engine, ())]
        hint = tr("Use one of: %(names)s.", names=", ".join(others))
        if stack == "diffusers":
            hint = tr("Leave it out, or use parallelism.data.")
        elif name == "pipeline" and stack != "torchtune":
            hint = tr('Use {"pipeline_schedule": "naive"} where layers are placed one after another, or an engine of: %(names)s.',
                      names=", ".join(others))  # fmt: skip
        raise _no(
            f"parallelism.{name}",
            tr("%(engine)s trains without it (%(value)s asked).", engine=stack, value=value),
            hint,
        )
    if degrees.expert > 1:
        _experts(asked)
    first = asked.settings.decoder_first_pipeline_num_layers or 0
    last = asked.settings.decoder_last_pipeline_num_layers or 0
    layers, middle = len(asked.architecture.main.layers), degrees.pipeline - bool(first) - bool(last)
    rest = layers - first - last
    if degrees.pipeline > 1 and (first or last) and (rest < max(0, middle) or (middle and rest % middle)):
        field = "decoder_first_pipeline_num_layers" if first else "decoder_last_pipeline_num_layers"
        raise _no(
            f"settings.{field}",
            tr("%(rest)s of %(layers)s layers are left for %(stages)s stages.", rest=rest, layers=layers, stages=middle),
            tr("Leave a multiple of %(stages)s layers, at least one each.", stages=max(1, middle)),
        )  # fmt: skip


def _experts(asked: Setup) -> None:
    counts = {
        part.num_experts
        for layer, _ in asked.architecture.main.layer_groups
        for part in layer.parts
        if isinstance(part, FeedForward) and part.num_experts
    }
    degree = asked.degrees.expert
    if not counts:
        raise _no(
            "parallelism.expert", tr("%(model)s has no experts to split (%(value)s asked).", model=asked.architecture.name, value=degree),
            tr("Leave it out, or use parallelism.data."),
        )  # fmt: skip
    odd = next((count for count in counts if count % degree), None)
    if odd is not None:
        fitting = [str(number) for number in range(1, odd + 1) if odd % number == 0]
        raise _no(
            "parallelism.expert", tr("%(value)s does not divide the %(count)s experts.", value=degree, count=odd),
            tr("Use one of: %(names)s.", names=", ".join(fitting)),
        )  # fmt: skip


def _optimizer(asked: Setup) -> None:
    settings, rule, degrees = asked.settings, asked.rule, asked.degrees
    if degrees.fsdp and degrees.splits_weights and (rule.projected or rule.preconditioned or rule.gradient_free):
        raise _no(
            "settings.optimizer", tr("'%(value)s' needs whole matrices, and FSDP splits them.", value=rule.name),
            tr("Use an AdamW, or parallelism.fsdp no_shard."),
        )  # fmt: skip
    once = settings.optimizer_in_backward or rule.gradient_free
    if once and settings.grad_accumulation > 1:
        raise _no(
            "settings.grad_accumulation",
            tr("%(value)s, and the optimizer steps in every backward pass.", value=settings.grad_accumulation),
            tr('Use {"grad_accumulation": 1}, or an optimizer that steps after the backward pass.'),
        )  # fmt: skip


def _adapters(asked: Setup) -> None:
    settings = asked.settings
    adapter = settings.adapter
    if adapter is None:
        return
    if asked.full:
        raise _no(
            "settings.adapter", tr("has no effect with finetuning '%(value)s'.", value=settings.finetuning),
            tr('Use {"finetuning": "lora"}, or leave adapter out.'),
        )  # fmt: skip
    method = adapter.method.lower()
    if settings.finetuning in ("lora", "dora") and method in (*LEARNED_PROMPTS, "ia3", "ln_tuning", "trainable_tokens"):
        raise _no(
            "settings.adapter.method", tr("'%(value)s' is no low-rank update, and finetuning is '%(finetuning)s'.", value=method,
                                          finetuning=settings.finetuning),
            tr('Use {"finetuning": "peft"}, or method lora.'),
        )  # fmt: skip
    if method == "adapter_v2" and asked.stack.program != "litgpt":
        raise _no(
            "settings.adapter.method", tr("'%(value)s' is LitGPT's own.", value=method),
            tr('Use {"engine": "litgpt"}, or method lora.'),
        )  # fmt: skip


def _batches(asked: Setup) -> None:
    settings = asked.settings
    micro, data = settings.micro_batch, asked.degrees.data
    for field, each in (("local_batch", micro), ("global_batch_size", micro * data)):
        value = getattr(settings, field)
        if value and value % each:
            raise _no(
                f"settings.{field}", tr("%(value)s is no multiple of the %(each)s sequences of one pass.", value=value, each=each),
                tr("Use a multiple of %(each)s, or another micro_batch.", each=each),
            )  # fmt: skip


def _parts(asked: Setup) -> None:
    settings, architecture = asked.settings, asked.architecture
    if settings.finetuning == "freeze":
        count = settings.num_trainable_layers
        layers = sum(len(each.layers) for each in architecture.loaded if each.kind == architecture.main.kind)
        if count is not None and not 1 <= count <= layers:
            raise _no(
                "settings.num_trainable_layers", tr("%(value)s of %(layers)s layers.", value=count, layers=layers),
                tr("Give %(expected)s.", expected=tr("a whole number from %(least)s to %(most)s", least=1, most=layers)),
            )  # fmt: skip
    kinds = {each.kind for each in architecture.loaded if each.layers}
    if asked.full and kinds and kinds <= set(asked.frozen) and settings.finetuning != "freeze":
        raise _no(
            "settings.freeze", tr("freezes every layer of the model."),
            tr('Leave a part out, or use {"finetuning": "lora"}.'),
        )  # fmt: skip


def _numbers(asked: Setup) -> None:
    name = asked.plan.dtype
    if dtype_named(name).bits < 16:
        raise _no(
            "dtype", tr("'%(value)s' weights cannot be trained.", value=name),
            tr('Use bf16, or freeze them: {"quantization": "bnb-nf4", "settings": {"finetuning": "lora"}}.'),
        )  # fmt: skip


# -- without effect ------------------------------------------------------------------------------------


def notes(asked: Setup) -> list[str]:
    """Return what has to be said of a request: settings without effect, models that are not named."""
    found = unknown_companions(asked.settings)
    idle = list(dict.fromkeys(_idle(asked)))
    if idle:
        found.append(tr("Without effect on this estimate: %(names)s.", names=", ".join(idle)))
    device, precision = asked.ask.device, asked.settings.precision or ""
    narrow = precision.removesuffix("-mixed")
    if device is not None and narrow in ("bf16", "fp8") and device.supports.get(narrow) is False:
        found.append(
            tr("settings.precision: %(device)s has no arithmetic in %(value)s; fp16-mixed takes as much as bf16-mixed.",
               device=device.name, value=narrow)
        )  # fmt: skip
    degrees = asked.ask.request.parallelism
    if asked.ask.num_devices == 1 and (degrees.zero_stage or (degrees.fsdp or "none").lower() in FSDP):
        name = "zero_stage" if degrees.zero_stage else "fsdp"
        found.append(tr("parallelism.%(name)s: one device has no other to share with.", name=name))
    if asked.settings.objective in ANSWERING and asked.settings.rollout_memory_utilization is None:
        found.append(
            tr(
                "The engine that writes the answers is not counted: say its share of the device with rollout_memory_utilization."
            )
        )
    elif asked.settings.objective in ANSWERING and asked.ask.device is None:
        found.append(
            tr("rollout_memory_utilization is a share of a device, and none is named: the engine is not counted.")
        )
    return found


Rule = Callable[[Setup], bool]


def _pictures(asked: Setup) -> bool:
    return any(each.kind == "vision" for each in asked.architecture.loaded)


def _prompts(asked: Setup) -> bool:
    return asked.settings.adapter is not None and asked.settings.adapter.method.lower() in LEARNED_PROMPTS


# setting -> when it changes nothing
IDLE: dict[str, Rule] = {
    "ema": lambda asked: not asked.full,
    "optimizer_args": lambda asked: not asked.rule.projected,
    "num_trainable_layers": lambda asked: asked.settings.finetuning != "freeze",
    "rollout_memory_utilization": lambda asked: asked.settings.objective not in ANSWERING,
    "reward_model": lambda asked: asked.settings.objective != "ppo",
    "critic_model": lambda asked: asked.settings.objective != "ppo",
    "recompute_modules": lambda asked: asked.settings.recompute != "selective",
    "recompute_policy": lambda asked: asked.settings.recompute != "selective",
    "loss_chunk_tokens": lambda asked: asked.settings.loss == "fused",
    "activation_offload": lambda asked: asked.settings.recompute == "none",
    "pipeline_schedule": lambda asked: asked.degrees.pipeline == 1,
    "decoder_first_pipeline_num_layers": lambda asked: asked.degrees.pipeline == 1,
    "decoder_last_pipeline_num_layers": lambda asked: asked.degrees.pipeline == 1,
    "image_size": lambda asked: not _pictures(asked),
    "num_frames": lambda asked: not _pictures(asked),
    "video": lambda asked: not _pictures(asked),
    "resident_components": lambda asked: True,
    "text_len": lambda asked: True,
    "precompute": lambda asked: True,
}
ADAPTER_IDLE: dict[str, Rule] = {
    "num_virtual_tokens": lambda asked: not _prompts(asked),
    "targets": _prompts,
}
DEGREE_IDLE: dict[str, Rule] = {
    "sequence": lambda asked: asked.degrees.tensor == 1,
    "virtual_pipeline": lambda asked: asked.degrees.pipeline == 1,
}


# Settings of language models, which a pipeline of images or videos has no use for.
OF_LANGUAGE = (
    "seq_len", "objective", "loss", "loss_chunk_tokens", "packing", "padding_free", "freeze", "freeze_llm", "num_trainable_layers",
    "ref_model", "reward_model", "critic_model", "num_generations", "rollout_memory_utilization", "pipeline_schedule", "recompute_modules",
)  # fmt: skip


def notes_of_pipeline(settings: Mapping[str, Any]) -> list[str]:
    """Return what has to be said of a request to train a pipeline: settings of language models."""
    usual = msgspec.structs.replace(TrainingSettings(), loss="mse")
    idle = [name for name in OF_LANGUAGE if _given(settings.get(name)) and settings[name] != getattr(usual, name)]
    return [tr("Without effect on this estimate: %(names)s.", names=", ".join(idle))] if idle else []


def _idle(asked: Setup) -> Iterator[str]:
    """Yield the settings that were given and change nothing."""
    request = asked.ask.request
    for name, idle in IDLE.items():
        if _given(request.settings.get(name)) and idle(asked):
            yield name
    adapter = request.settings.get("adapter")
    for name, idle in ADAPTER_IDLE.items():
        if isinstance(adapter, dict) and _given(adapter.get(name)) and idle(asked):
            yield f"adapter.{name}"
    for name, idle in DEGREE_IDLE.items():
        if getattr(request.parallelism, name) not in (1, False) and idle(asked):
            yield f"parallelism.{name}"
    settings = asked.settings
    if (
        settings.recompute == "selective"
        and settings.recompute_policy not in ("op", "layer", "attention")
        and asked.stack.program != "megatron"
    ):
        yield "recompute selective"
    kinds = {each.kind for each in asked.architecture.loaded}
    for part in settings.freeze:
        if not set(FROZEN_NAMES[part]) & kinds:
            yield f"freeze {part}"


def _given(value: Any) -> bool:
    return value not in (None, False, [], "", 0)


__all__ = ["notes", "notes_of_pipeline", "refuse"]
