"""A training step of a diffusion pipeline: its denoiser is trained, whole or by adapters, and the rest is frozen.

A block of a transformer keeps its norm's input and output, what enters each matrix, queries, keys and values before
and after their norms, the output of attention, and the perceptron's products. Under checkpointing only the input of
each block stays, and one block at a time is run again.

References
----------
.. [1] PyTorch 2.13, ``derivatives.yaml``: what layer norm, products and attention keep for their gradients.
.. [2] diffusers 0.42.1, ``models/transformers``; peft 0.21, ``tuners/lora/layer.py``: adapters of fp32 copy their input.
"""

from __future__ import annotations

import msgspec

from vrameter.engines import Answer, Ask
from vrameter.engines.diffusers.decode import constants
from vrameter.engines.diffusers.denoise import joined_streams
from vrameter.engines.diffusers.loading import module_plan
from vrameter.engines.diffusers.shape import Shape, shape_of
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory import optimizer as opt
from vrameter.memory import runtime
from vrameter.model.architecture import Attention, FeedForward, Layer
from vrameter.model.diffusion.pipeline import DENOISERS, Module, Pipeline
from vrameter.settings import canonical
from vrameter.settings.diffusers import DiffusersSettings
from vrameter.settings.training import AdapterSettings, TrainingSettings
from vrameter.spec import check

PHASES = ("load", "forward", "backward", "step")
WORKING = PHASES[1:]
FULL = ("full", "pretrain")
TARGETS = ("to_k", "to_q", "to_v", "to_out.0")  # where diffusers' scripts put adapters, and a request names none
SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Adapters whose product runs beside the matrix on a copy of its input.
BESIDE = (
    "lora",
    "dora",
    "rslora",
    "adalora",
    "lokr",
    "loha",
    "vera",
    "pvera",
    "vblora",
    "randlora",
    "gralora",
    "glora",
    "delora",
    "lily",
)


def kept_bytes(
    *, rows: int, hidden: int, inner: int, intermediate: int, products: int, trained: int, element_bytes: int
) -> int:
    """Return what one block keeps for its backward pass.

    Formula::

        rows * (2 * hidden + 6 * inner + products * intermediate + trained * (4 * hidden + 2 * inner + intermediate))
        * element_bytes

    Parameters
    ----------
    hidden, inner, intermediate
        Widths of the stream, of queries, and of the perceptron. [elements]
    products
        1 for a plain perceptron, what its activation was made of; 3 for a gated one. [tensors]
    trained
        Whether the block's own matrices are trained: what enters them is kept as well, and what gates and scales multiply.
    """
    return (
        rows
        * (2 * hidden + 6 * inner + products * intermediate + trained * (4 * hidden + 2 * inner + intermediate))
        * element_bytes
    )


def passing_bytes(*, rows: int, hidden: int, widest: int, element_bytes: int) -> int:
    """Return gradients on their way through one block.

    Formula::

        rows * (2 * hidden + widest) * element_bytes
    """
    return rows * (2 * hidden + widest) * element_bytes


def copied_bytes(*, rows: int, width: int, adapter_bytes: int) -> int:
    """Return what adapters copy in one block into their own numbers: each target's input, or one output at a time.

    Formula::

        rows * width * adapter_bytes
    """
    return rows * width * adapter_bytes


def inputs_bytes(*, blocks: int, rows: int, hidden: int, element_bytes: int) -> int:
    """Return the inputs of all blocks, which checkpoints keep.

    Formula::

        blocks * rows * hidden * element_bytes
    """
    return blocks * rows * hidden * element_bytes


def held_bytes(*, size: int) -> int:
    """Return what stands as it is.

    Formula::

        size
    """
    return size


def trained_bytes(*, num_params: int, element_bytes: int) -> int:
    """Return numbers that go with trained parameters: themselves, their gradients, or a step's copies.

    Formula::

        num_params * element_bytes
    """
    return num_params * element_bytes


def _call(pipeline: Pipeline, settings: TrainingSettings) -> Shape:
    edges = settings.image_size if isinstance(settings.image_size, list) else [settings.image_size] * 2
    call = DiffusersSettings(
        batch_size=settings.micro_batch, height=edges[0], width=edges[-1], num_frames=settings.num_frames,
        text_len=settings.text_len, guidance_scale=0.0,
    )  # fmt: skip
    return shape_of(pipeline, call)


class Denoiser:
    """What the blocks of a denoiser cost in a step."""

    def __init__(self, module: Module, shape: Shape, settings: TrainingSettings, element_bytes: int) -> None:
        self.module, self.shape, self.settings, self.element_bytes = module, shape, settings, element_bytes
        adapter = settings.adapter
        targets = adapter.targets if adapter else []
        self.targets = [targets] if isinstance(targets, str) else targets
        beside = settings.finetuning in ("lora", "dora") or (adapter is not None and adapter.method in BESIDE)
        self.adapter_bytes = SIZES[adapter.dtype or "fp32"] if adapter and beside else 0

    def rows(self, layer: Layer, name: str) -> int:
        """Return the tokens of a block. [tokens]."""
        tokens = self.shape.tokens + (self.shape.text_tokens if joined_streams(layer) else 0)
        return self.shape.samples * (self.shape.text_tokens if "refiner" in name else tokens)

    def block(self, layer: Layer, hidden: int, rows: int) -> tuple[int, int]:
        """Return what a block keeps, and what its backward pass takes besides. [bytes]."""
        attentions = [part for part in layer.parts if isinstance(part, Attention)]
        inner = sum(part.num_heads * part.head_dim for part in attentions) or hidden
        perceptrons = [part for part in layer.parts if isinstance(part, FeedForward)]
        widest = max((part.intermediate_size for part in perceptrons), default=0)
        gated = any(part.gated for part in perceptrons)
        kept = kept_bytes(
            rows=rows, hidden=hidden, inner=inner, intermediate=widest, products=3 if gated else 1,
            trained=int(self.settings.finetuning in FULL), element_bytes=self.element_bytes,
        )  # fmt: skip
        passing = passing_bytes(
            rows=rows,
            hidden=hidden,
            widest=max(3 * inner, widest * (2 if gated else 1)),
            element_bytes=self.element_bytes,
        )
        if self.adapter_bytes:
            matrices = [
                tensor
                for tensor in layer.all_tensors
                if tensor.linear
                and "add_" not in tensor.name
                and "_context" not in tensor.name
                and self.targeted(tensor.name)
            ]
            inputs = sum(tensor.shape[-1] for tensor in matrices)
            output = max((tensor.shape[0] for tensor in matrices), default=0)
            kept += copied_bytes(rows=rows, width=inputs, adapter_bytes=self.adapter_bytes)
            passing += copied_bytes(rows=rows, width=output, adapter_bytes=self.adapter_bytes)
        return kept, passing

    def targeted(self, name: str) -> bool:
        """Say whether a matrix gets an adapter."""
        stem = name.removesuffix(".weight")
        return any(target == "all-linear" or stem == target or stem.endswith(f".{target}") for target in self.targets)

    def moments(self) -> tuple[int, int]:
        """Return what the forward pass keeps, and what the backward pass takes besides at its fullest. [bytes]."""
        kept, fullest = 0, 0
        full = self.settings.recompute == "full"
        for component in self.module.architecture.components:
            for layer, places in component.layer_groups:
                rows = self.rows(layer, component.layers_prefix)
                saved, passing = self.block(layer, component.hidden_size, rows)
                if full:
                    kept += inputs_bytes(
                        blocks=len(places), rows=rows, hidden=component.hidden_size, element_bytes=self.element_bytes
                    )
                    fullest = max(fullest, saved + passing)
                else:
                    kept += saved * len(places)
                    fullest = max(fullest, passing)
        return kept, fullest

    def adapter_params(self) -> int:
        """Return the parameters of the adapters."""
        adapter = self.settings.adapter
        if adapter is None:
            return 0
        if adapter.trainable_params is not None:
            return adapter.trainable_params
        return sum(
            adapter.rank * (tensor.shape[0] + tensor.shape[-1]) * times
            for component in self.module.architecture.components
            for tensor, times in component.counted_tensors()
            if tensor.linear and self.targeted(tensor.name)
        )


def estimate(ask: Ask, pipeline: Pipeline) -> Answer:
    """Return the ledger of one device in a training step of a pipeline's denoiser."""
    settings: TrainingSettings = check(TrainingSettings, ask.request.settings, path="settings.")
    if settings.finetuning not in FULL:
        adapter = settings.adapter or AdapterSettings()
        targets = adapter.targets or list(TARGETS)
        settings = msgspec.structs.replace(settings, adapter=msgspec.structs.replace(adapter, targets=targets))
    module = next((pipeline.module(name) for name in DENOISERS if pipeline.module(name)), None)
    if module is None or module.name == "unet":
        raise RequestError(
            tr(
                "model: training is modelled for pipelines with a transformer, and %(name)s has none.",
                name=pipeline.name,
            ),
            field="model",
            hint=tr("Ask for inference, or name another pipeline."),
        )
    dtype = (
        "bf16"
        if settings.precision in (None, "bf16", "bf16-mixed")
        else "fp16"
        if "16" in settings.precision
        else "fp32"
    )
    full = settings.finetuning in FULL
    mixed = full and settings.precision in ("bf16-mixed", "fp16-mixed", "fp32")
    resident = settings.resident_components or (
        [module.name] if settings.precompute else [each.name for each in pipeline.modules]
    )
    element = SIZES[dtype]
    denoiser = Denoiser(module, _call(pipeline, settings), settings, element)
    items: list[Item] = []
    for each in pipeline.modules:
        if each.name in resident or each is module:
            plan = module_plan(each, "fp32" if mixed and each is module else dtype, None)
            items.append(plan.item(each.architecture, PHASES))
    trained = module.architecture.num_params if full else denoiser.adapter_params()
    size = 4 if mixed else element if full else SIZES[(settings.adapter.dtype if settings.adapter else None) or "fp32"]
    rule = opt.optimizer(settings.optimizer or "adamw_torch")
    offload = ask.request.parallelism.offload
    away = settings.optimizer_cpu_offload or offload in ("optimizer", "cpu", "all")
    source = "PyTorch 2.13: trained parameters, their gradients and the optimizer's numbers"
    if not full:
        items.append(
            item("adapters", trained_bytes, phases=PHASES, source=source, num_params=trained, element_bytes=size)
        )
    if not away and rule.bits:
        items.append(
            item("optimizer_state", opt.quantized_state_bytes, phases=WORKING, source=source, num_params=trained,
                 moments=rule.moments, bits=rule.bits, block=rule.block)
        )  # fmt: skip
    elif not away:
        items.append(
            item(
                "optimizer_state",
                opt.state_bytes,
                phases=WORKING,
                source=source,
                moments=rule.moments,
                num_params=trained,
                element_bytes=size,
            )
        )
    if not away and rule.step == "foreach" and rule.temporaries:
        items.append(
            item("temporary", trained_bytes, phases=("step",), source=source, num_params=trained, element_bytes=size)
        )
    if not (settings.offload_gradients or offload in ("cpu", "all")):
        items.append(
            item(
                "gradients",
                trained_bytes,
                phases=("backward", "step"),
                source=source,
                num_params=trained,
                element_bytes=size,
            )
        )
    kept, fullest = denoiser.moments()
    items.append(
        item("activations", held_bytes, phases=("forward", "backward"), basis="modelled", size=kept,
             source="diffusers 0.42.1: what blocks keep, or checkpoints of their inputs")
    )  # fmt: skip
    items.append(
        item("temporary", held_bytes, phases=("backward",), basis="modelled", size=fullest,
             source="the fullest block run again, and gradients on their way through it")
    )  # fmt: skip
    around = runtime.items(ask.device, phases=PHASES, first="forward", alive=items)
    if settings.recompute == "full":
        share, moving = constants().checkpoint_slack, kept + fullest
        around = [each for each in around if each.term != "fragmentation"]
        around.append(
            item(
                "fragmentation", runtime.slack_bytes, phases=("backward",), basis="calibrated", held="allocator",
                low=runtime.slack_bytes(moving_bytes=moving, thousandths=share.low),
                high=runtime.slack_bytes(moving_bytes=moving, thousandths=share.high),
                source="what the allocator holds beside a checkpointed step's activations, by nine measured runs",
                moving_bytes=moving, thousandths=share.typical,
            )
        )  # fmt: skip
    items += around
    ledger = Ledger(PHASES, tuple(each for each in items if each.bytes or each.high))
    peak = ledger.peak()
    passing = ("temporary", "gradients") if canonical(ask.request.engine or "") == "finetrainers" else ("temporary",)
    steady = sum(
        each.bytes for each in items if each.held == "tensors" and "step" in each.phases and each.term not in passing
    )
    echoed = msgspec.to_builtins(settings)
    echoed |= {"resident_components": list(resident), "optimizer": settings.optimizer or "adamw_torch"}
    return Answer(
        ledgers=((ledger, ask.num_devices),),
        settings=echoed,
        resolved={"dtype": dtype},
        report={
            "weights_bytes": sum(each.bytes for each in items if each.term in ("weights", "adapters")),
            "steady_bytes": steady,
            "peak_allocated_bytes": peak.allocated,
            "peak_reserved_bytes": max(ledger.at(phase, held=("tensors", "allocator")) for phase in PHASES),
            "peak_used_bytes": peak.used,
        },
    )


__all__ = ["estimate"]
