"""From a resolved request to the ledger of the fullest device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from vrameter.engines import Answer, Ask
from vrameter.ledger import Basis, Held, Item, Ledger, item
from vrameter.memory import optimizer as opt
from vrameter.memory import runtime
from vrameter.model.diffusion.pipeline import Pipeline
from vrameter.training import pipelines
from vrameter.training.advice import changes, limits
from vrameter.training.companions import companions, rollout
from vrameter.training.constants import constants
from vrameter.training.holdings import Holding
from vrameter.training.pieces import Pieces
from vrameter.training.setup import Setup, setup
from vrameter.training.sharing import Stage, stages
from vrameter.training.step import Course, Moment, course
from vrameter.training.vision.images import Images
from vrameter.units import MIB, ceil_div

PHASES = ("load", "forward", "loss", "backward", "step", "save")
WORKING = ("forward", "loss", "backward", "step")
# What each figure counts: live tensors, the allocator around them, the driver outside it.
HELD: dict[str, tuple[Held, ...]] = {
    "peak_allocated": ("tensors",),
    "peak_reserved": ("tensors", "allocator"),
    "peak_used": ("tensors", "allocator", "driver"),
}
# What is placed once and stays.
PLACED = ("weights", "adapters", "master_weights", "optimizer_state", "ema")


@dataclass(frozen=True, slots=True)
class Static:
    """What is there between steps on one device. [bytes]."""

    weights: int
    master: int
    adapters: int
    state: int
    gradients: int
    fresh_gradients: int
    step: int
    ema: int = 0
    pipeline: int = 0
    masks: int = 0
    others: int = 0
    outputs: int = 0


def estimate(ask: Ask) -> Answer:
    """Return the ledger of the fullest device in a training step."""
    if isinstance(ask.architecture, Pipeline):
        return pipelines.estimate(ask, ask.architecture)
    asked = setup(ask)
    found = [(stage, *_device(stage, asked)) for stage in stages(asked)]
    found.sort(key=lambda entry: entry[1].peak().used, reverse=True)
    ledger = found[0][1]
    measured = (
        next((entry for entry in found if entry[0].last), found[0]) if asked.stack.program == "megatron" else found[0]
    )
    settings = msgspec.to_builtins(asked.settings)
    settings["seq_len"] = asked.length
    network = asked.architecture.network
    if network is not None:
        settings |= {"seq_len": None, "image_size": list(network.image_size)}
    advised = asked.settings.advise
    return Answer(
        ledgers=((ledger, ask.num_devices),),
        settings=settings,
        resolved={"dtype": asked.plan.dtype, "quantization": asked.plan.quantization},
        report=measured[2],
        limits=limits(asked, estimate) if advised else {},
        changes=changes(asked, ledger.peak().used, estimate) if advised else [],
        warnings=asked.warnings,
    )


def _device(stage: Stage, asked: Setup) -> tuple[Ledger, dict[str, int]]:
    holding = Holding(asked, stage.share, stage.first, stage.last)
    static = static_of(holding)
    picture = asked.architecture.network is not None
    pieces = Images(holding) if picture else Pieces(holding)
    static = replace(
        static, pipeline=_pipeline_buffers(asked, stage, pieces), masks=_masks(asked, pieces), outputs=_outputs(asked, pieces),
        others=companions(asked, static),
    )  # fmt: skip
    kept = sum(piece.saved for piece in pieces.all if piece.name == "layer")
    count = sum(piece.name == "layer" for piece in pieces.all)
    chunk = kept // max(1, min(stage.chunks, count))
    waiting = max(0, chunk * stage.in_flight - kept)
    run = (
        pieces.course()
        if isinstance(pieces, Images)
        else course(pieces.all, in_flight=waiting, prefetched=pieces.prefetched, held_gradients=pieces.accumulates)
    )
    items = _items(holding, static, run, pieces)
    engine = rollout(asked)
    if engine:
        items.append(item("rollout_engine", held_bytes, phases=PHASES, basis="assumed", size=engine, held="driver",
                          source="share of the device that a colocated engine keeps during the step"))  # fmt: skip
    items += _runtime(asked, items) + _communicators(asked)
    ledger = Ledger(PHASES, tuple(each for each in items if each.bytes or each.high))
    peak = ledger.peak()
    space = sum(each.bytes for each in items if each.term == "workspace")
    report = {
        "weights_bytes": static.weights + static.adapters,
        "steady_bytes": static.weights
        + static.adapters
        + static.master
        + static.state
        + static.ema
        + static.gradients
        + space
        + static.pipeline
        + static.masks
        + static.others
        + static.outputs
        + static.fresh_gradients,
        "peak_allocated_bytes": peak.allocated,
        "peak_reserved_bytes": peak.reserved,
        "peak_used_bytes": peak.used,
        "first_logged_peak_bytes": peak.allocated - static.state,
    }
    for name, held in HELD.items():
        alive = [each for each in ledger.items if each.held in held]
        report[f"{name}_low_bytes"] = max(sum(each.low for each in alive if phase in each.phases) for phase in PHASES)
        report[f"{name}_high_bytes"] = max(sum(each.high for each in alive if phase in each.phases) for phase in PHASES)
    for phase in PHASES:
        report[f"{phase}_bytes"] = ledger.at(phase, held=("tensors",))
    return ledger, report


def _pipeline_buffers(asked: Setup, stage: Stage, pieces: Pieces | Images) -> int:
    """Return what a stage of a pipeline holds of its neighbours' tensors between steps. [bytes]."""
    if asked.degrees.pipeline == 1 or asked.settings.pipeline_schedule == "naive":
        return 0
    size = pieces.tokens // pieces.ranks * asked.architecture.main.hidden_size * asked.recipe.numbers.residual
    return (2 * stage.chunks + 1) * size


def _masks(asked: Setup, pieces: Pieces | Images) -> int:
    """Return the attention masks that Megatron's own modules are given. [bytes].

    Four of them, an integer and a switch among them: 16 bytes for each pair of tokens of a sequence, as four runs show.
    """
    if not asked.architecture.model_type.endswith("_local") or (
        asked.architecture.component("encoder") and asked.architecture.decoder
    ):
        return 0
    return 16 * asked.settings.micro_batch * asked.local_length**2


def _outputs(asked: Setup, pieces: Pieces | Images) -> int:
    """Return the logits of the last batch, which a loop on transformers holds until the next one. [bytes]."""
    settings, vocab = asked.settings, asked.architecture.main.vocab_size
    if asked.stack.name != "transformers" or settings.packing or settings.loss != "full" or asked.architecture.network:
        return 0
    return pieces.tokens * vocab * asked.recipe.numbers.compute * constants().fill.typical // 1000


def _runtime(asked: Setup, alive: list[Item]) -> list[Item]:
    """Return workspaces, allocator slack and context."""
    found = []
    for each in runtime.items(asked.ask.device, phases=PHASES, first="load", alive=alive):
        if each.term == "fragmentation":
            found.append(_slack(asked, alive))
            continue
        if each.term != "workspace":
            found.append(each)
            continue
        handles = 2
        if asked.stack.program == "megatron" and not asked.architecture.model_type.endswith("_local"):
            handles = 7 if asked.megatron is not None and asked.megatron.flag("moe-grouped-gemm") else 3
        found.append(
            item("workspace", workspaces, phases=PHASES[1:], basis="modelled", handles=handles, blas_workspace=each.bytes,
                 low=(handles - 1) * each.bytes, high=2 * handles * each.bytes,
                 source="PyTorch 2.13 CUDABlas: one workspace for the forward and one for the backward thread; Transformer Engine's own, four more for grouped experts")
        )  # fmt: skip
    return found


def _communicators(asked: Setup) -> list[Item]:
    """Return what NCCL holds outside the allocator where several devices work together."""
    if asked.ask.num_devices == 1 or asked.settings.pipeline_schedule == "naive":
        return []
    low, typical, high = (constants().nccl.low, constants().nccl.typical, constants().nccl.high)
    return [
        item("communicators", held_bytes, phases=PHASES, basis="assumed", held="driver", low=low * MIB, high=high * MIB,
             size=typical * MIB, source=constants().nccl.runs)
    ]  # fmt: skip


def _slack(asked: Setup, alive: list[Item]) -> Item:
    """Return what the allocator holds beyond live tensors."""
    settings, degrees = asked.settings, asked.degrees
    flat = degrees.fsdp in ("full_shard", "fsdp1", "shard_grad_op", "hybrid_shard") or asked.stack.name == "fsdp_qlora"
    fixed = (
        asked.architecture.network is not None
        or settings.packing
        or settings.finetuning == "pretrain"
        or asked.stack.program != "transformers"
    )
    kind = "flat" if flat else "variable" if not fixed else "sharded" if degrees.splits_weights else "fixed"
    network = asked.architecture.network
    kind = "convolutional" if network is not None and network.convolves else kind
    bounds = constants().slack[kind]
    moving = max(
        sum(each.bytes for each in alive if phase in each.phases and each.term not in PLACED) for phase in WORKING
    )
    low, high = (runtime.slack_bytes(moving_bytes=moving, thousandths=bound) for bound in (bounds.low, bounds.high))
    return item(
        "fragmentation", runtime.slack_bytes, phases=PHASES[1:], basis="calibrated", held="allocator", low=low, high=high,
        source=bounds.runs, moving_bytes=moving, thousandths=bounds.typical,
    )  # fmt: skip


def workspaces(*, handles: int, blas_workspace: int) -> int:
    """Return the workspaces of the matrix libraries.

    Formula::

        handles * blas_workspace
    """
    return handles * blas_workspace


def static_of(holding: Holding) -> Static:
    """Return what is there between steps."""
    asked = holding.setup
    recipe, rule, degrees = asked.recipe, asked.rule, asked.degrees
    rank = opt.projection_rank(asked.settings.optimizer_args)
    extra = holding.adapter_parameters
    copies = holding.copied_parameters
    adapter_element = _adapter_element(asked)
    split = degrees.splits_state
    side = ceil_div(extra + copies, degrees.shards) if split else extra + copies
    side_weights = ceil_div(extra + copies, degrees.shards) if degrees.splits_weights else extra + copies
    side_gradients = ceil_div(extra + copies, degrees.shards) if degrees.splits_gradients else extra + copies
    element = recipe.state_element
    state = 0
    if not (asked.offloads_optimizer or rule.paged):
        for tensor in holding.parameters:
            state += tensor.times * ceil_div(opt.state_of(rule, tensor, element=element, rank=rank), tensor.share)
        side_state = 4 if recipe.master and asked.adapters else adapter_element
        if rule.bits and side:
            state += opt.quantized_state_bytes(num_params=side, moments=rule.moments, bits=rule.bits, block=rule.block)
        else:
            state += opt.state_bytes(num_params=side, moments=rule.moments, element_bytes=side_state)
    master = 0
    if not asked.offloads_optimizer:
        master = holding.per_device(recipe.master + recipe.gradient_copy, when=split)
        if asked.adapters and recipe.master:
            master += side * recipe.master
    weights = holding.weight_bytes
    buffer = holding.per_device(recipe.main_gradient, when=degrees.splits_gradients)
    fresh = holding.per_device(recipe.gradient, when=degrees.splits_gradients) if not recipe.main_gradient else 0
    fresh += side_gradients * adapter_element
    if asked.settings.optimizer_in_backward or rule.gradient_free:
        fresh = 0
    if asked.settings.offload_gradients or asked.offloads_weights:
        fresh = 0
    step = 0
    if not asked.offloads_optimizer:
        tensors = list(holding.parameters)
        if side:
            tensors.append(opt.Parameter((side,), adapter_element))
        step = opt.step_bytes(rule, tensors, element=recipe.master or recipe.weight)
        if asked.settings.optimizer_in_backward:
            step = min(step, 3 * 4 * max((tensor.size for tensor in tensors), default=0))
    if recipe.contiguous_gradients:
        buffer, fresh = buffer + fresh, 0
    ema = holding.per_device(4, when=False) if asked.settings.ema else 0
    return Static(weights, master, side_weights * adapter_element, state, buffer, fresh, step, ema)


def _adapter_element(asked: Setup) -> int:
    adapters = asked.adapters
    if adapters is None:
        return 0
    first = next(iter(adapters.uses.values()), None) or next(iter(adapters.by_slot.values()), None)
    if first is not None:
        return first.element
    own = asked.settings.adapter.dtype if asked.settings.adapter else None
    return {"fp32": 4, "bf16": 2, "fp16": 2}.get(own or "", 4 if asked.stack.adapter_dtype == "fp32" else 2)


def _items(holding: Holding, static: Static, run: Course, pieces: Pieces | Images) -> list[Item]:
    asked = holding.setup
    items: list[Item] = []

    spread = constants().modelled

    def line(term: str, size: int, phases: tuple[str, ...], source: str, basis: Basis = "exact") -> None:
        if not size:
            return
        low, high = (size * spread.low // 1000, size * spread.high // 1000) if basis == "modelled" else (size, size)
        items.append(item(term, held_bytes, phases=phases, source=source, basis=basis, low=low, high=high, size=size))

    line("weights", static.weights, PHASES, "shapes of the model and how each is stored")
    line(
        "other_models",
        static.others,
        PHASES,
        "models that are compared with or that score: reference, reward, critic, teacher",
    )
    line("adapters", static.adapters, PHASES, "peft: low-rank matrices beside frozen ones")
    line("master_weights", static.master, PHASES[1:], "the optimizer's own copy")
    line("optimizer_state", static.state, PHASES[1:], "state per parameter of the optimizer")
    line("ema", static.ema, PHASES[1:], "averaged copy of the weights in fp32")
    line("gradients", static.gradients, PHASES[1:], "one buffer for good")
    line("temporary", static.masks, PHASES[1:], "attention masks of a batch", basis="calibrated")
    line(
        "logits",
        static.outputs,
        PHASES[-1:],
        "outputs of the last batch, which the loop still holds",
        basis="calibrated",
    )
    if static.pipeline:
        items.append(
            item("communication", held_bytes, phases=PHASES[1:], basis="modelled", size=static.pipeline,
                 source="inputs of each chunk of a pipeline's stage and their gradients, kept by the model between steps")
        )  # fmt: skip
    held = pieces.accumulates and not static.gradients
    fresh = static.fresh_gradients
    moments: dict[str, Moment] = {"forward": run.forward, "loss": run.loss, "backward": run.backward}
    for phase, moment in moments.items():
        grads = fresh if held else moment.gradients
        if asked.adapters is not None:
            grads = fresh if held or phase == "backward" else 0
        if static.gradients or asked.settings.optimizer_in_backward:
            grads = 0
        line("gradients", grads, (phase,), "made by the backward pass so far")
        if moment.activations:
            items.append(
                item("activations", kept_bytes, phases=(phase,), basis="modelled",
                     low=moment.activations * spread.low // 1000, high=moment.activations * spread.high // 1000,
                     source=f"kept by autograd until the backward pass; fullest in a piece of kind {moment.piece}",
                     others=moment.others, piece=moment.activations - moment.others)
            )  # fmt: skip
        line("temporary", moment.temporary, (phase,), "alive within one operation or layer", basis="modelled")
        line("communication", moment.gathered, (phase,), "weights put together from shards", basis="modelled")
    line(
        "communication",
        pieces.standing,
        WORKING[:3],
        "weights that stay together through both passes",
        basis="modelled",
    )
    line(
        "communication", pieces.buckets, WORKING, "buckets of gradients on their way between devices", basis="modelled"
    )
    line("gradients", fresh, ("step",), "of all trained parameters")
    line("temporary", static.step, ("step",), "temporaries of the optimizer's step", basis="modelled")
    return items


def kept_bytes(*, others: int, piece: int) -> int:
    """Return what autograd keeps at the fullest moment: of the piece that runs, and of those around it.

    Formula::

        others + piece

    Parameters
    ----------
    others
        Kept by the pieces that ran before it and are still to be run backwards, and by micro-batches in flight. [bytes]
    piece
        Kept by the embedding, the layer or the head that runs. [bytes]
    """
    return others + piece


def held_bytes(*, size: int) -> int:
    """Return a size that was added up piece by piece.

    Formula::

        size
    """
    return size


__all__ = ["estimate"]
