"""A training request of a pipeline with every default filled in and every contradiction refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec

from vrameter.engines import Ask
from vrameter.engines.diffusers import UPCAST
from vrameter.engines.diffusers.shape import Shape, shape_of
from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.memory.weights import WeightPlan
from vrameter.model.diffusion.pipeline import AUTOENCODERS, DENOISERS, Module, Pipeline
from vrameter.settings.diffusers import DiffusersSettings
from vrameter.settings.training import AdapterSettings, TrainingSettings
from vrameter.spec import check
from vrameter.training.holdings import Holding
from vrameter.training.setup import Setup, given_fields, setup
from vrameter.training.sharing import split

FULL = ("full", "pretrain")
TARGETS = ("to_k", "to_q", "to_v", "to_out.0")  # where diffusers' scripts put adapters, and a request names none
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
HALF = {"fp16": "fp16", "fp16-mixed": "fp16", "fp32": "fp32", "tf32": "fp32"}


@dataclass(frozen=True)
class Run:
    """What a step of a pipeline is asked, resolved.

    Parameters
    ----------
    asked
        The denoiser's training, as a model of its own.
    text
        The text encoder's, where it is trained as well.
    resident
        Modules that stand on the device during a step, the denoiser among them.
    """

    ask: Ask
    pipeline: Pipeline
    settings: TrainingSettings
    module: Module
    asked: Setup
    text: Setup | None
    resident: tuple[str, ...]
    shape: Shape

    @cached_property
    def holding(self) -> Holding:
        """What the device holds of the denoiser."""
        return Holding(self.asked, split(self.asked.architecture, self.asked.degrees))

    @cached_property
    def text_holding(self) -> Holding | None:
        """What it holds of a text encoder that is trained."""
        return None if self.text is None else Holding(self.text, split(self.text.architecture, self.text.degrees))

    @property
    def auto(self) -> int:
        """Size of the numbers that autocast computes in; 0 without it. [bytes]."""
        return self.asked.recipe.numbers.autocast

    @property
    def element(self) -> int:
        """Size of one number that flows from block to block. [bytes]."""
        return self.auto or self.asked.recipe.numbers.compute

    @cached_property
    def dtype(self) -> str:
        """Data type of what is frozen."""
        return self.ask.request.dtype or HALF.get(self.settings.precision or "", "bf16")

    @cached_property
    def square_masks(self) -> bool:
        """Whether HunyuanVideo's masks span all pairs of tokens: before diffusers 0.33, which finetrainers took up with 0.1."""
        first = {"diffusers": (0, 33), "finetrainers": (0, 1)}[self.asked.stack.name]
        found = re.match(r"(\d+)\.(\d+)", self.ask.request.engine_version or "")
        return found is not None and (int(found[1]), int(found[2])) < first

    def frozen(self) -> list[tuple[Module, WeightPlan]]:
        """Return the frozen modules on the device, each with how it is stored."""
        from vrameter.engines.diffusers.loading import module_plan

        own = {self.module.name, *((TEXT,) if self.text is not None else ())}
        return [
            (each, module_plan(each, "fp32" if self._wide(each) else self.dtype, None))
            for each in self.pipeline.modules
            if each.name in self.resident and each.name not in own
        ]

    def _wide(self, module: Module) -> bool:
        """Say whether a frozen module stands in fp32: an autoencoder that overflows in 16 bits."""
        named = module.name in AUTOENCODERS and self.pipeline.class_name.startswith(UPCAST)
        return named and bool(module.cfg.flag("force_upcast", True))


TEXT = "text_encoder"


def resolve(ask: Ask, pipeline: Pipeline) -> Run:
    """Return a request resolved.

    Raises
    ------
    RequestError
        Where it contradicts itself or the pipeline.
    """
    given: TrainingSettings = check(TrainingSettings, ask.request.settings, path="settings.")
    module = _denoiser(pipeline)
    _refuse(given, module)
    if given.finetuning not in FULL:
        given = msgspec.structs.replace(given, adapter=_adapter(given.adapter, TARGETS))
    if given.autocast is None and ask.request.parallelism.zero_stage:
        # DeepSpeed runs a model in its own numbers; accelerate leaves autocast out.
        given = msgspec.structs.replace(given, autocast=False)
    settings = msgspec.structs.replace(given, advise=False)
    asked = setup(_alone(ask, module, settings))
    text = _text(ask, pipeline, asked.settings) if given.train_text_encoder else None
    return Run(
        ask, pipeline, msgspec.structs.replace(asked.settings, advise=given.advise), module, asked, text,
        _resident(given, pipeline, module), _shape(pipeline, given, module),
    )  # fmt: skip


def _denoiser(pipeline: Pipeline) -> Module:
    module = next((pipeline.module(name) for name in DENOISERS if pipeline.module(name)), None)
    if module is None:
        raise RequestError(
            tr("model: %(name)s has no denoiser that could be trained.", name=pipeline.name),
            field="model",
            hint=tr("Name a pipeline with a transformer or a UNet, or ask for inference."),
        )
    return module


def _refuse(settings: TrainingSettings, module: Module) -> None:
    if settings.recompute == "selective":
        raise RequestError(
            tr("settings.recompute: diffusers runs whole blocks again, and 'selective' is none of its choices."),
            field="settings.recompute",
            hint=tr("Use full or none."),
        )
    if settings.finetuning == "freeze":
        raise RequestError(
            tr("settings.finetuning: 'freeze' trains the last layers of a language model; a pipeline has no such setting."),
            field="settings.finetuning",
            hint=tr("Use full or lora."),
        )  # fmt: skip
    if module.class_name == "UNetSpatioTemporalConditionModel":
        raise RequestError(
            tr("model: training of %(name)s is not modelled in this version.", name=module.class_name),
            field="model",
            hint=tr("Ask for inference, or name another pipeline."),
        )


def _adapter(given: AdapterSettings | None, targets: Sequence[str]) -> AdapterSettings:
    adapter = given or AdapterSettings()
    return msgspec.structs.replace(adapter, targets=adapter.targets or list(targets))


def _alone(ask: Ask, module: Module, settings: TrainingSettings) -> Ask:
    """Return the same question about one module."""
    precise = settings.finetuning in FULL and settings.precision in (None, "bf16-mixed", "fp16-mixed", "fp32", "tf32")
    dtype = ask.request.dtype or (None if precise else HALF.get(settings.precision or "", "bf16"))
    asked = {name for name, value in ask.request.settings.items() if value is not None} | given_fields(settings)
    values = {name: value for name, value in msgspec.to_builtins(settings).items() if name in asked}
    request = msgspec.structs.replace(ask.request, settings=values, dtype=dtype)
    return replace(ask, architecture=module.architecture, request=request, table=None)


def _text(ask: Ask, pipeline: Pipeline, settings: TrainingSettings) -> Setup:
    """Return the training of a pipeline's first text encoder."""
    module = pipeline.module(TEXT)
    if module is None:
        raise RequestError(
            tr("settings.train_text_encoder: %(name)s has no text encoder.", name=pipeline.name),
            field="settings.train_text_encoder",
            hint=tr("Leave it out."),
        )
    if settings.precompute:
        raise RequestError(
            tr("settings.precompute: prompts cannot be encoded before while their encoder is trained."),
            field="settings.precompute",
            hint=tr("Leave out precompute or train_text_encoder."),
        )
    length = module.architecture.main.max_positions or _shape(pipeline, settings, _denoiser(pipeline)).text_tokens
    changes: dict[str, Any] = {"seq_len": min(length, settings.text_len or length), "objective": "embedding"}
    if settings.finetuning not in FULL:
        own = msgspec.structs.replace(settings.adapter or AdapterSettings(), targets=[], trainable_params=None)
        changes["adapter"] = _adapter(own, TEXT_TARGETS)
    alone = _alone(ask, module, msgspec.structs.replace(settings, **changes))
    return setup(
        replace(alone, request=msgspec.structs.replace(alone.request, engine="transformers", quantization=None))
    )


def _resident(settings: TrainingSettings, pipeline: Pipeline, module: Module) -> tuple[str, ...]:
    known = [each.name for each in pipeline.modules]
    if settings.resident_components is None:
        others = [name for name in known if name not in DENOISERS]
        return (module.name, *(() if settings.precompute else others))
    aliases = {"vqvae": "vae", "vae": "vqvae", "unet": module.name, "transformer": module.name}
    found = []
    for name in settings.resident_components:
        known_as = name if name in known else aliases.get(name, name)
        if known_as not in known and not pipeline.notes:
            raise UnknownNameError(
                tr("settings.resident_components: %(pipeline)s has no '%(name)s'.", pipeline=pipeline.name, name=name),
                name, known, field="settings.resident_components", otherwise=tr("Use one of: %(names)s.", names=", ".join(known)),
            )  # fmt: skip
        found.append(known_as)
    return tuple(dict.fromkeys([module.name, *found]))


def _shape(pipeline: Pipeline, settings: TrainingSettings, module: Module) -> Shape:
    edges = settings.image_size if isinstance(settings.image_size, list) else [settings.image_size] * 2
    if len(edges) != 2:
        raise RequestError(
            tr("settings.image_size: %(value)s is no height and width.", value=str(edges)),
            field="settings.image_size",
            hint=tr("Give one number, or two: [480, 720]."),
        )
    call = DiffusersSettings(
        batch_size=settings.micro_batch, height=edges[0], width=edges[1], num_frames=settings.num_frames,
        text_len=settings.text_len, guidance_scale=0.0,
    )  # fmt: skip
    shape = shape_of(pipeline, call)
    unit = unit_of(module, shape)
    for edge in (shape.height, shape.width):
        if edge % unit:
            below = edge // unit * unit
            raise RequestError(
                tr("settings.image_size: %(edge)s is no multiple of %(unit)s, as %(name)s needs.", edge=edge, unit=unit, name=pipeline.name),
                field="settings.image_size",
                hint=tr("Use %(below)s or %(above)s.", below=below or unit, above=below + unit),
            )  # fmt: skip
    return shape


def unit_of(module: Module, shape: Shape) -> int:
    """Return what the edge of a picture must be a multiple of: a token's pixels, or those of a UNet's smallest map. [pixels]."""
    if module.name != "unet":
        return shape.space * shape.patch[0]
    stages = module.cfg.integers("block_out_channels", [320, 640, 1280, 1280], least=1)
    return shape.space * int(2 ** (len(stages) - 1))


__all__ = ["FULL", "TARGETS", "TEXT", "Run", "resolve", "unit_of"]
