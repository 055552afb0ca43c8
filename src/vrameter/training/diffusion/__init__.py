"""A training step of a diffusion pipeline: its denoiser is trained, whole or by adapters, and the rest is frozen.

The denoiser is a model of its own: what a device holds of it, its optimizer's state and its adapters are counted as for
language models. What its blocks keep comes from programs that read like diffusers' own, and equals what autograd keeps. Before
them run what encodes a batch, each in a phase of its own.

References
----------
.. [1] diffusers 0.42.1, ``models`` and ``examples``; peft 0.21, ``tuners``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from vrameter.engines import Answer, Ask
from vrameter.engines.diffusers.decode import constants as diffusion_constants
from vrameter.i18n import tr
from vrameter.ledger import Basis, Item, Ledger, item
from vrameter.memory import runtime
from vrameter.model.diffusion.pipeline import Pipeline
from vrameter.training import contradictions
from vrameter.training.constants import constants
from vrameter.training.diffusion import encoders
from vrameter.training.diffusion.advice import changes, limits
from vrameter.training.diffusion.pieces import Pieces
from vrameter.training.diffusion.run import Run, resolve
from vrameter.training.diffusion.segments import segments
from vrameter.training.holdings import Holding
from vrameter.training.standing import Lines, of_trained
from vrameter.training.static_cache import remembered
from vrameter.training.step import Course, course
from vrameter.units import MIB

if TYPE_CHECKING:
    from vrameter.training.answer import Static

PHASES = ("load", "text_encode", "vae_encode", "forward", "loss", "backward", "step", "save")
ENCODING = ("text_encode", "vae_encode")
STANDING = PHASES[1:]
WORKING = ("text_encode", "vae_encode", "forward", "loss", "backward", "step")
PLACED = ("weights", "adapters", "master_weights", "optimizer_state", "ema", "other_models", "cache")


def held_bytes(*, size: int) -> int:
    """Return a size that was added up piece by piece.

    Formula::

        size
    """
    return size


def kept_bytes(*, others: int, piece: int) -> int:
    """Return what autograd keeps at the fullest moment: of the block that runs, and of those around it.

    Formula::

        others + piece
    """
    return others + piece


def workspaces(*, handles: int, blas_workspace: int) -> int:
    """Return the workspaces of the matrix library: one of the forward thread, one of the backward thread.

    Formula::

        handles * blas_workspace
    """
    return handles * blas_workspace


def estimate(ask: Ask, pipeline: Pipeline) -> Answer:
    """Return the ledger of one device in a training step of a pipeline."""
    run = resolve(ask, pipeline)
    contradictions.refuse(run.asked)
    ledger = ledger_of(run)
    peak = ledger.peak()
    settings = msgspec.to_builtins(run.settings)
    settings |= {"resident_components": list(run.resident), "image_size": [run.shape.height, run.shape.width]}
    settings |= {"text_len": run.shape.text_tokens}
    if run.shape.frames > 1:
        settings["num_frames"] = run.shape.frames
    return Answer(
        ledgers=((ledger, ask.num_devices),),
        settings=settings,
        resolved={"dtype": run.dtype, "quantization": run.asked.plan.quantization},
        report=_report(run, ledger),
        limits=limits(run, partial(estimate, pipeline=pipeline)) if run.settings.advise else {},
        changes=changes(run, peak.used, partial(estimate, pipeline=pipeline)) if run.settings.advise else [],
        warnings=(*run.asked.warnings, *_without_effect(run), *contradictions.notes_of_pipeline(ask.request.settings)),
    )


def _without_effect(run: Run) -> list[str]:
    """Return what the request says and the answer does not count."""
    found = []
    if run.settings.recompute == "full" and run.module.class_name == "UVit2DModel":
        found.append(
            tr("settings.recompute: diffusers' UVit2DModel runs no block again: its activations are all kept.")
        )
    if run.settings.float8:
        found.append(
            tr("settings.float8: what a pipeline computes in 8 bits is counted as 16 bits, which never needs less.")
        )
    return found


def ledger_of(run: Run) -> Ledger:
    """Return the ledger of one device."""
    pieces = Pieces(run)
    course_ = course(pieces.all, prefetched=pieces.prefetched, held_gradients=pieces.accumulates)
    items = _standing(run)
    items += _moments(run, pieces, course_)
    items += _around(run, pieces, items)
    return _without_idle(Ledger(PHASES, tuple(each for each in items if each.bytes or each.high)))


def _without_idle(ledger: Ledger) -> Ledger:
    """Return a ledger without the phases in which nothing is encoded."""
    busy = {phase for each in ledger.items if each.term == "activations" for phase in each.phases}
    idle = {phase for phase in ENCODING if phase not in busy}
    kept = (replace(each, phases=tuple(phase for phase in each.phases if phase not in idle)) for each in ledger.items)
    return Ledger(tuple(phase for phase in PHASES if phase not in idle), tuple(each for each in kept if each.phases))


def _line(
    term: str, size: int, phases: tuple[str, ...], source: str, basis: Basis = "exact", note: str = ""
) -> list[Item]:
    if not size:
        return []
    spread = diffusion_constants().modelled
    low, high = (size * spread.low // 1000, size * spread.high // 1000) if basis == "modelled" else (size, size)
    return [item(term, held_bytes, phases=phases, source=source, basis=basis, note=note, low=low, high=high, size=size)]


def _buckets_only(run: Run) -> bool:
    """Say whether gradients leave for host memory bucket by bucket, as ZeRO-Offload's do."""
    return bool(run.asked.degrees.zero) and run.asked.offloads_optimizer


def _holdings(run: Run) -> list[Holding]:
    return [run.holding, *([run.text_holding] if run.text_holding is not None else [])]


def _static(holding: Holding) -> Static:
    """Return what a device holds between steps of a module that is trained."""
    from vrameter.training.answer import static_of

    return remembered(holding, static_of)


def _standing(run: Run) -> list[Item]:
    """Return what is there between steps: weights, the optimizer's state, copies, what waits encoded."""
    items: list[Item] = []
    for module, plan in run.frozen():
        made = plan.item(module.architecture, PHASES)
        items.append(replace(made, note=f"{module.name}; {made.note}" if made.note else module.name))
    for holding in _holdings(run):
        static = _static(holding)
        name = run.module.name if holding is run.holding else "text_encoder"
        items += _placed(static.weights, PHASES, name)
        items += _placed(static.adapters, PHASES, name)
        for lines in (static.master, static.state, static.ema):
            items += _placed(lines, STANDING, name)
        if not _buckets_only(run):
            items += _placed(static.gradients, STANDING, name)
        items += _placed(static.fresh_gradients, ("step",), name)
        items += _placed(static.step, ("step",), name)
    source = "models that score and what else the process keeps, as the request says"
    items += _line("other_models", run.settings.resident_bytes or 0, PHASES, source)
    waiting = run.settings.cached_samples or 0
    items += _line(
        "cache", encoders.batch_bytes(run, waiting), STANDING, "latents and embedded prompts of samples encoded before"
    )
    items += _line(
        "temporary",
        encoders.batch_bytes(run, run.settings.micro_batch),
        STANDING[2:],
        "latents and embedded prompts of the batch",
    )
    return items


def _placed(lines: Lines, phases: tuple[str, ...], name: str) -> list[Item]:
    """Return lines of a module in the phases of a pipeline's step."""
    return [replace(each, phases=phases, note=f"{name}; {each.note}" if each.note else name) for each in lines.items]


def _moments(run: Run, pieces: Pieces, found: Course) -> list[Item]:
    """Return what comes and goes in each phase."""
    items: list[Item] = []
    asked = run.asked
    share = diffusion_constants().convolution_workspace
    typical, low, high = (encoders.phases(run, bound) for bound in (share.typical, share.low, share.high))
    for phase, size in typical.items():
        if size:
            items.append(
                item("activations", held_bytes, phases=(phase,), basis="calibrated", low=low[phase], high=high[phase], size=size,
                     source="diffusers 0.42.1, transformers 5.23: the fullest stage of what encodes a batch")
            )  # fmt: skip
    spread = diffusion_constants().modelled
    fresh = 0 if asked.settings.optimizer_in_backward or asked.settings.offload_gradients else found.gradients
    for phase, moment in (("forward", found.forward), ("loss", found.loss), ("backward", found.backward)):
        gradients = fresh and moment.gradients
        if not asked.full:
            gradients = _adapter_gradients(run) if phase == "backward" or pieces.accumulates else 0
        elif pieces.accumulates and not asked.recipe.contiguous_gradients:
            gradients = sum(
                of_trained(
                    holding,
                    "gradients",
                    asked.recipe.gradient,
                    split=asked.degrees.splits_gradients,
                    phases=(phase,),
                    source="",
                ).bytes
                for holding in _holdings(run)
            )
        if asked.recipe.contiguous_gradients or asked.settings.offload_gradients:
            gradients = 0
        items += _line("gradients", gradients, (phase,), "made by the backward pass so far")
        if moment.activations:
            items.append(
                item("activations", kept_bytes, phases=(phase,), basis="modelled",
                     low=moment.activations * spread.low // 1000, high=moment.activations * spread.high // 1000,
                     source=f"kept by autograd until the backward pass; fullest in a piece of kind {moment.piece}",
                     others=moment.others, piece=moment.activations - moment.others)
            )  # fmt: skip
        items += _line("temporary", moment.temporary, (phase,), "alive within one operation or block", "modelled")
        items += _line("communication", moment.gathered, (phase,), "weights put together from shards", "modelled")
    items += _line(
        "communication",
        pieces.buckets,
        ("backward", "step"),
        "buckets of gradients on their way between devices",
        "modelled",
    )
    return items


def _adapter_gradients(run: Run) -> int:
    """Return the gradients of all adapters. [bytes]."""
    return sum(_static(holding).fresh_gradients.bytes for holding in _holdings(run))


def _around(run: Run, pieces: Pieces, alive: list[Item]) -> list[Item]:
    """Return workspaces, the allocator's slack, the context, and NCCL's memory where several devices work together."""
    found: list[Item] = []
    for each in runtime.items(run.ask.device, phases=PHASES, first="text_encode", alive=alive):
        if each.term == "fragmentation":
            found += _slack(run, pieces, alive)
        elif each.term == "workspace":
            found.append(
                item("workspace", workspaces, phases=PHASES[1:], basis="modelled", handles=2, blas_workspace=each.bytes,
                     low=each.bytes, high=4 * each.bytes,
                     source="PyTorch 2.13 CUDABlas: one workspace for the forward and one for the backward thread")
            )  # fmt: skip
        else:
            found.append(each)
    if run.ask.num_devices > 1:
        nccl = constants().nccl
        found.append(
            item("communicators", held_bytes, phases=PHASES, basis="assumed", held="driver", low=nccl.low * MIB,
                 high=nccl.high * MIB, size=nccl.typical * MIB, source=nccl.runs)
        )  # fmt: skip
    return found


def _slack(run: Run, pieces: Pieces, alive: list[Item]) -> list[Item]:
    """Return what the allocator holds beyond live tensors: beside what comes and goes, and in the segments of what stays."""
    known = diffusion_constants()
    found = []
    for phase in WORKING:
        recomputes = pieces.recomputes and phase in ("forward", "loss", "backward")
        share = known.step_slack if phase == "step" else known.checkpoint_slack if recomputes else known.plain_slack
        moving = sum(each.bytes for each in alive if phase in each.phases and each.term not in PLACED)
        found.append(
            item(
                "fragmentation", runtime.slack_bytes, phases=(phase,), basis="calibrated", held="allocator",
                low=runtime.slack_bytes(moving_bytes=moving, thousandths=share.low),
                high=runtime.slack_bytes(moving_bytes=moving, thousandths=share.high),
                source="what the allocator holds beside what comes and goes, by measured runs",
                moving_bytes=moving, thousandths=share.typical,
            )
        )  # fmt: skip
    for phases, size in segments(run):
        if size:
            found.append(
                item("fragmentation", held_bytes, phases=phases, basis="modelled", held="allocator", low=size // 2,
                     high=2 * size, size=size,
                     source="PyTorch 2.13 CUDACachingAllocator: tensors of 1 to 10 MiB share segments of 20, larger ones are rounded up to 2 MiB")
            )  # fmt: skip
    return found


def _report(run: Run, ledger: Ledger) -> dict[str, int]:
    """Return what torch's counters would print."""
    peak = ledger.peak()
    standing = ("temporary", "gradients") if run.asked.stack.name == "finetrainers" else ("temporary",)
    steady = sum(
        each.bytes
        for each in ledger.items
        if each.held == "tensors" and "step" in each.phases and (each.term not in standing or "forward" in each.phases)
    )
    report = {
        "weights_bytes": sum(each.bytes for each in ledger.items if each.term in ("weights", "adapters")),
        "steady_bytes": steady,
        "peak_allocated_bytes": peak.allocated,
        "peak_reserved_bytes": max(ledger.at(phase, held=("tensors", "allocator")) for phase in ledger.phases),
        "peak_used_bytes": peak.used,
    }
    for phase in ledger.phases:
        report[f"{phase}_bytes"] = ledger.at(phase, held=("tensors",))
    return report


__all__ = ["estimate", "ledger_of"]
