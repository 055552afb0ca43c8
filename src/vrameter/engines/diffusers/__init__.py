"""Inference with diffusers: load, encode the prompt, denoise, decode.

Every module stands on the device unless it is offloaded; what a pass holds dies with it. The largest moment is the
decoding of many or of large pictures, else the denoiser's.

References
----------
.. [1] diffusers 0.42.1, ``pipelines``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from vrameter.engines import Answer, Ask
from vrameter.engines.diffusers.decode import constants, decode_moments
from vrameter.engines.diffusers.denoise import denoise_bytes
from vrameter.engines.diffusers.encode import encode_bytes
from vrameter.engines.diffusers.loading import PHASES, Loaded, loaded_modules, weight_items
from vrameter.engines.diffusers.shape import Shape, shape_of
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory import runtime
from vrameter.memory.weights import weights_bytes
from vrameter.model.diffusion.pipeline import AUTOENCODERS, DENOISERS, Pipeline
from vrameter.search import largest_fitting
from vrameter.settings.diffusers import DiffusersSettings
from vrameter.spec import check

# Pipelines whose autoencoder overflows in 16 bits. [diffusers 0.42.1: force_upcast]
UPCAST = ("StableDiffusionXL", "Amused")
MOST_SAMPLES = 2**16


def transient_bytes(*, fullest: int) -> int:
    """Return what a phase's passes hold at their fullest moment.

    Formula::

        fullest
    """
    return fullest


def fragments_bytes(*, earlier: int, denoised: int) -> int:
    """Return what the allocator keeps of tensors that were too small to be used again.

    Formula::

        earlier + denoised

    Parameters
    ----------
    earlier
        Fullest moments of all stages of the decoder but the fullest, whose blocks hold none of its maps. [bytes]
    denoised
        Fullest moment of the denoiser. [bytes]
    """
    return earlier + denoised


@dataclass(frozen=True)
class Run:
    """A pipeline loaded: what does not change with the number of pictures."""

    ask: Ask
    settings: DiffusersSettings
    pipeline: Pipeline
    modules: tuple[Loaded, ...]

    @cached_property
    def weights(self) -> list[Item]:
        return weight_items(list(self.modules), self.settings.offload, fuse_qkv=self.settings.fuse_qkv)

    def ledger(self, shape: Shape) -> Ledger:
        """Return the ledger of the device."""
        items = list(self.weights)
        denoised = self._denoised(shape)
        encoded = self._encoded(shape)
        for phase, size, source in (
            ("text_encode", encoded, "transformers 5.23: the fullest block of the text encoders"),
            ("denoise", denoised, "diffusers 0.42.1: the fullest block of the denoiser"),
        ):
            if size:
                items.append(
                    item("activations", transient_bytes, phases=(phase,), basis="modelled", source=source, fullest=size)
                )
        items += self._decoded(shape)
        items += runtime.items(self.ask.device, phases=PHASES, first="text_encode", alive=items)
        return Ledger(PHASES, tuple(items))

    def fragments(self, shape: Shape) -> int:
        """Return what the allocator keeps after a run of maps too small to be used again. [bytes].

        It gives them back before it fails, so they do not count against fitting.
        """
        stages, _ = self._moments(shape, constants().convolution_workspace.typical)
        return fragments_bytes(earlier=sum(stages) - max(stages, default=0), denoised=self._denoised(shape))

    def _denoised(self, shape: Shape) -> int:
        return max(
            (
                denoise_bytes(
                    each.module, shape, element_bytes=each.plan.compute_bytes,
                    eager=self.settings.attn_implementation == "eager", integer=each.plan.quantization == "bnb-int8",
                )
                for each in self.modules
                if each.name in DENOISERS
            ),
            default=0,
        )  # fmt: skip

    def _encoded(self, shape: Shape) -> int:
        return max(
            (
                encode_bytes(each.module, shape, each.plan.compute_bytes)
                for each in self.modules
                if each.role == "text_encode"
            ),
            default=0,
        )

    @cached_property
    def vae(self) -> Loaded | None:
        return next((each for each in self.modules if each.name in AUTOENCODERS), None)

    @cached_property
    def upcast(self) -> bool:
        """Whether the autoencoder decodes in fp32 though it is loaded in fp16."""
        return (
            self.vae is not None
            and self.vae.plan.dtype == "fp16"
            and self.pipeline.class_name.startswith(UPCAST)
            and self.vae.module.cfg.flag("force_upcast", True)
        )

    def _moments(self, shape: Shape, thousandths: int) -> tuple[list[int], int]:
        if self.vae is None:
            return [], 0
        return decode_moments(
            self.vae.module, shape, tiling=self.settings.vae_tiling, slicing=self.settings.vae_slicing,
            element_bytes=4 if self.upcast else self.vae.plan.compute_bytes, thousandths=thousandths,
        )  # fmt: skip

    def _decoded(self, shape: Shape) -> list[Item]:
        vae = self.vae
        if vae is None:
            return []
        items: list[Item] = []
        if self.upcast:
            items.append(
                item(
                    "temporary", weights_bytes, phases=("vae_decode",), source="diffusers 0.42.1: SDXL's autoencoder decodes in fp32",
                    quantized=0, scales=0, unquantized=vae.total, buffers=0,
                )
            )  # fmt: skip
        share = constants().convolution_workspace

        stages, finished = self._moments(shape, share.typical)
        low, high = (
            max(found) + beside for found, beside in (self._moments(shape, share.low), self._moments(shape, share.high))
        )
        items.append(
            item(
                "activations", transient_bytes, phases=("vae_decode",), basis="calibrated", low=low, high=high,
                source="diffusers 0.42.1: the fullest stage of the decoder; cuDNN's copies calibrated on FLUX.1-dev, batches 4 and 8",
                fullest=max(stages) + finished,
            )
        )  # fmt: skip
        return items

    def limits(self, shape: Shape) -> dict[str, int]:
        """Return the most pictures at once that fit."""
        device = self.ask.device
        if device is None:
            return {}

        def headroom(count: int) -> int:
            return device.capacity_bytes - self.ledger(replace(shape, samples=count)).used

        return {"batch_size": largest_fitting(headroom, most=MOST_SAMPLES, start=self.settings.batch_size)}


def estimate(ask: Ask) -> Answer:
    """Return the ledger of the device, and the most pictures that fit."""
    settings: DiffusersSettings = check(DiffusersSettings, ask.request.settings, path="settings.")
    pipeline = ask.architecture
    if not isinstance(pipeline, Pipeline):
        raise RequestError(
            tr("engine: diffusers runs pipelines, and %(name)s is none.", name=pipeline.name),
            field="engine",
            hint=tr("Name a pipeline such as FLUX.1-dev, or another engine."),
        )
    if ask.num_devices > 1:
        raise RequestError(
            tr("num_devices: a pipeline stands on one device in this version."),
            field="num_devices",
            hint=tr("Ask with one device, or with settings.offload."),
        )
    warnings: list[str] = []
    shape = shape_of(pipeline, settings)
    modules = loaded_modules(pipeline, settings, ask.request.dtype, ask.request.quantization, warnings)
    if settings.compile:
        warnings.append(tr("What torch.compile fuses is not modelled: the figures are those without it."))
    run = Run(ask, settings, pipeline, tuple(modules))
    ledger = run.ledger(shape)
    peak = ledger.peak()
    resident = max(
        sum(each.bytes for each in ledger.items if each.term == "weights" and phase in each.phases) for phase in PHASES
    )
    denoiser = next((each for each in modules if each.name in DENOISERS), modules[0])
    return Answer(
        ledgers=((ledger, 1),),
        settings={name: getattr(settings, name) for name in settings.__struct_fields__ if name != "components"}
        | {
            "height": shape.height, "width": shape.width, "num_frames": shape.frames, "max_sequence_length": shape.text_tokens,
            "components": {
                each.name: {"dtype": each.plan.dtype, "quantization": each.plan.quantization} for each in modules
            },
        },
        resolved={"dtype": denoiser.plan.dtype, "quantization": denoiser.plan.quantization},
        report={
            "weights_bytes": resident,
            "activation_bytes": max(each.bytes for each in ledger.items if each.term == "activations"),
            "reserved_after_load_bytes": ledger.at("load", held=("tensors", "allocator")),
            "peak_allocated_bytes": max(ledger.at(phase, held=("tensors",)) for phase in PHASES),
            "peak_reserved_bytes": max(ledger.at(phase, held=("tensors",)) for phase in PHASES) + run.fragments(shape),
            "peak_used_bytes": peak.used,
        },
        limits=run.limits(shape),
        warnings=tuple(warnings),
    )  # fmt: skip
