"""From a resolved request to the ledger of the fullest device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from vrameter.engines import Answer, Ask
from vrameter.ledger import Basis, Held, Item, Ledger, item
from vrameter.memory import optimizer as opt
from vrameter.memory import runtime
from vrameter.memory.zero_step import SUB_GROUP, zero_step_bytes
from vrameter.model.architecture import Attention, FeedForward
from vrameter.model.diffusion.pipeline import Pipeline
from vrameter.training import pipelines
from vrameter.training.advice import changes, limits
from vrameter.training.companions import companions, generator, rollout
from vrameter.training.constants import constants
from vrameter.training.hoarding import hoarded
from vrameter.training.holdings import Holding
from vrameter.training.pieces import Pieces
from vrameter.training.setup import Setup, setup
from vrameter.training.sharing import Stage, stages
from vrameter.training.step import Course, Moment, course
from vrameter.units import MIB, ceil_div

PHASES = ("load", "forward", "loss", "backward", "step", "save")
WORKING = ("forward", "loss", "backward", "step")
# What each figure counts: live tensors, the allocator around them, the driver outside it.
HELD: dict[str, tuple[Held, ...]] = {
    "peak_allocated": ("tensors",),
    "peak_reserved": ("tensors", "allocator"),
    "peak_used": ("tensors", "allocator", "driver"),
}
# Transformer Engine's workspace from compute capability 9.0 on, and before. PyTorch's is as large as the first where
# deterministic kernels are asked for (CUBLAS_WORKSPACE_CONFIG=:4096:8). [bytes] [Transformer Engine, cpp_extensions/gemm.py]
HOPPER_WORKSPACE, AMPERE_WORKSPACE = 33_554_432, 4_194_304
# What is placed once and stays.
PLACED = ("weights", "adapters", "master_weights", "optimizer_state", "ema", "fragmentation")


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
    shared: int = 0
    others: int = 0
    generator: int = 0
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
    pieces = Pieces(holding, stage.chunks)
    static = replace(
        static, pipeline=_pipeline_buffers(asked, stage, pieces), shared=_shared_buffer(asked, stage, pieces), outputs=_outputs(asked, pieces),
        others=companions(asked, static), generator=generator(asked),
    )  # fmt: skip
    kept = sum(piece.saved for piece in pieces.all if piece.name == "layer")
    count = sum(len(component.layers) for component in stage.share.loaded)
    waiting = kept * max(0, stage.in_flight - len(stage.share.main.layers)) // max(1, count)
    run = course(pieces.all, in_flight=waiting, prefetched=pieces.prefetched, held_gradients=pieces.accumulates)
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
        + static.shared
        + static.others
        + static.generator
        + static.outputs
        + static.fresh_gradients
        + holding.uncut,
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


def _pipeline_buffers(asked: Setup, stage: Stage, pieces: Pieces) -> int:
    """Return what a stage of a pipeline holds of its neighbours' tensors between steps. [bytes]."""
    if asked.degrees.pipeline == 1 or asked.settings.pipeline_schedule == "naive":
        return 0
    size = pieces.tokens // pieces.ranks * asked.architecture.main.hidden_size * asked.recipe.numbers.residual
    return (2 * stage.chunks + 1) * size


def _shared_buffer(asked: Setup, stage: Stage, pieces: Pieces) -> int:
    """Return the buffer that Megatron's own modules share and keep (``GlobalMemoryBuffer``): its largest use. [bytes].

    Tokens of all devices that split experts between them, where the dispatcher gathers them; tokens of all devices of
    sequence parallelism before the output layer; scores of all heads in its own attention.
    """
    if asked.stack.program != "megatron":
        return 0
    local = pieces.kernels.local
    degrees, element = asked.degrees, asked.recipe.numbers.compute
    width, rows = asked.architecture.main.hidden_size, pieces.tokens // pieces.ranks
    uses = [0]
    if pieces.ranks > 1 and (stage.last or local):
        uses.append(pieces.tokens * width * element)
    dispatcher = asked.megatron.text("moe-token-dispatcher-type", "allgather") if asked.megatron is not None else ""
    meeting = degrees.expert * degrees.expert_tensor
    for component in stage.share.loaded:
        for layer, _ in component.layer_groups:
            for part in layer.parts:
                if isinstance(part, FeedForward) and part.num_experts and dispatcher == "allgather" and meeting > 1:
                    uses.append(rows * meeting * width * element)
                if isinstance(part, Attention) and local:
                    rows_of_scores = (
                        asked.settings.micro_batch * pieces.sequences * part.num_heads * pieces.length(component)
                    )
                    uses.append(rows_of_scores * pieces.length(component) * element)
    return max(uses)


def _outputs(asked: Setup, pieces: Pieces) -> int:
    """Return the logits of the last batch, which a loop on transformers holds until the next one. [bytes]."""
    settings, vocab = asked.settings, asked.architecture.main.vocab_size
    if asked.stack.name != "transformers" or settings.packing or settings.loss != "full":
        return 0
    return pieces.tokens * vocab * asked.recipe.numbers.compute * constants().fill.typical // 1000


def _runtime(asked: Setup, alive: list[Item]) -> list[Item]:
    """Return workspaces, allocator slack and context."""
    found = []
    slack = False
    for each in runtime.items(asked.ask.device, phases=PHASES, first="load", alive=alive):
        if each.term == "fragmentation":
            slack = True
        elif each.term == "runtime" and asked.stack.early:
            bounds = constants().context
            low, size, high = (bound * MIB for bound in (bounds.low, bounds.typical, bounds.high))
            found.append(
                item("runtime", held_bytes, phases=PHASES, basis="calibrated", held="driver", low=low, high=high,
                     source=bounds.runs, size=size)
            )  # fmt: skip
        else:
            found.append(_workspace(asked, each.bytes) if each.term == "workspace" else each)
    if slack:
        outside = sum(each.bytes for each in (*found, *_communicators(asked)))
        found.append(_slack(asked, alive, outside))
    return found


def _workspace(asked: Setup, size: int) -> Item:
    """Return the workspaces of a device whose matrix library takes `size` for one."""
    args, local = asked.megatron, asked.architecture.model_type.endswith("_local")
    engine = 0
    # Routers multiply with Transformer Engine's kernel in any case.
    if asked.stack.program == "megatron" and not (local and not _mixtures(asked)):
        engine = 1
        if args is not None:
            engine += 4 * args.flag("moe-grouped-gemm") + 3 * args.flag("tp-comm-overlap")
    own = HOPPER_WORKSPACE if size >= HOPPER_WORKSPACE else AMPERE_WORKSPACE
    fixed = args is not None and args.flag("deterministic-mode")
    blas = HOPPER_WORKSPACE if fixed else size
    return item(
        "workspace", workspaces, phases=PHASES[1:], basis="modelled", handles=2, blas_workspace=blas,
        engine_handles=engine, engine_workspace=own, low=blas + engine * own, high=2 * (2 * blas + engine * own),
        source="PyTorch 2.13 CUDABlas: one workspace for the forward and one for the backward thread; Transformer Engine's own, four more for grouped experts, three for overlapped tensor parallelism",
    )  # fmt: skip


def _mixtures(asked: Setup) -> bool:
    return any(isinstance(part, FeedForward) and part.num_experts
               for layer, _ in asked.architecture.main.layer_groups for part in layer.parts)  # fmt: skip


def _communicators(asked: Setup) -> list[Item]:
    """Return what NCCL holds outside the allocator where several devices work together."""
    if asked.ask.num_devices == 1 or asked.settings.pipeline_schedule == "naive":
        return []
    low, typical, high = (constants().nccl.low, constants().nccl.typical, constants().nccl.high)
    return [
        item("communicators", held_bytes, phases=PHASES, basis="assumed", held="driver", low=low * MIB, high=high * MIB,
             size=typical * MIB, source=constants().nccl.runs)
    ]  # fmt: skip


def _slack(asked: Setup, alive: list[Item], outside: int) -> Item:
    """Return what the allocator holds beyond live tensors."""
    settings, degrees = asked.settings, asked.degrees
    flat = degrees.fsdp in ("full_shard", "fsdp1", "shard_grad_op", "hybrid_shard") or asked.stack.name == "fsdp_qlora"
    fixed = settings.packing or settings.finetuning == "pretrain" or asked.stack.program != "transformers"
    kind = "flat" if flat else "variable" if not fixed else "sharded" if degrees.splits_weights else "fixed"
    if asked.stack.hoards:
        return hoarded(alive, asked.ask.device, outside, phases=PHASES[1:], working=WORKING)
    bounds = constants().slack[kind]
    moving = max(
        sum(each.bytes for each in alive if phase in each.phases and each.term not in PLACED) for phase in WORKING
    )
    low, high = (runtime.slack_bytes(moving_bytes=moving, thousandths=bound) for bound in (bounds.low, bounds.high))
    return item(
        "fragmentation", runtime.slack_bytes, phases=PHASES[1:], basis="calibrated", held="allocator", low=low, high=high,
        source=bounds.runs, moving_bytes=moving, thousandths=bounds.typical,
    )  # fmt: skip


def workspaces(*, handles: int, blas_workspace: int, engine_handles: int, engine_workspace: int) -> int:
    """Return the workspaces of the matrix libraries: PyTorch's, and Transformer Engine's own.

    Formula::

        handles * blas_workspace + engine_handles * engine_workspace
    """
    return handles * blas_workspace + engine_handles * engine_workspace


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
        if asked.deals_tensors:
            master, state = _dealt(holding, element=element)
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
        step += holding.per_device(recipe.step_copy, when=split)
        if asked.stack.early and rule.step == "foreach":
            # torch 2.0, ``optim/adamw.py``: the root of the second moments, and the same plus epsilon.
            step *= 2
        if asked.settings.optimizer_in_backward:
            step = min(step, 3 * 4 * max((tensor.size for tensor in tensors), default=0))
        if degrees.zero and recipe.master and asked.stack.program == "transformers":
            count = sum(tensor.times * ceil_div(tensor.size, tensor.share) for tensor in tensors)
            step = zero_step_bytes(
                num_params=count if degrees.zero < 3 else min(count, SUB_GROUP), stage=degrees.zero,
                gradient_bytes=recipe.gradient, temporaries=rule.temporaries if rule.step == "foreach" else 0,
            )  # fmt: skip
    if recipe.contiguous_gradients:
        buffer, fresh = buffer + fresh, 0
    ema = holding.per_device(4, when=False) if asked.settings.ema else 0
    return Static(weights, master, side_weights * adapter_element, state, buffer, fresh, step, ema)


def _dealt(holding: Holding, *, element: int) -> tuple[int, int]:
    """Return masters and state of the fullest device where whole tensors are dealt out to devices. [bytes]."""
    asked = holding.setup
    masters = state = 0
    for share in {tensor.share for tensor in holding.parameters}:
        tensors = [tensor for tensor in holding.parameters if tensor.share == share for _ in range(tensor.times)]
        both = opt.dealt_bytes(
            (opt.state_of(asked.rule, each, element=element) + each.size * asked.recipe.master for each in tensors),
            devices=share,
        )
        own = opt.dealt_bytes((each.size * asked.recipe.master for each in tensors), devices=share)
        masters += own
        state += both - own
    return masters, state


def _adapter_element(asked: Setup) -> int:
    adapters = asked.adapters
    if adapters is None:
        return 0
    first = next(iter(adapters.uses.values()), None) or next(iter(adapters.by_slot.values()), None)
    if first is not None:
        return first.element
    own = asked.settings.adapter.dtype if asked.settings.adapter else None
    return {"fp32": 4, "bf16": 2, "fp16": 2}.get(own or "", 4 if asked.stack.adapter_dtype == "fp32" else 2)


def _items(holding: Holding, static: Static, run: Course, pieces: Pieces) -> list[Item]:
    asked = holding.setup
    items: list[Item] = []

    spread = constants().modelled
    shortest = spread.low * _shortest(asked) // 1000

    def line(
        term: str, size: int, phases: tuple[str, ...], source: str, basis: Basis = "exact", least: int = spread.low
    ) -> None:
        if not size:
            return
        low, high = (size * least // 1000, size * spread.high // 1000) if basis == "modelled" else (size, size)
        items.append(item(term, held_bytes, phases=phases, source=source, basis=basis, low=low, high=high, size=size))

    line("weights", static.weights, PHASES, "shapes of the model and how each is stored")
    line(
        "other_models",
        static.others,
        PHASES,
        "models that are compared with or that score: reference, reward, critic, teacher",
    )
    line(
        "rollout_engine",
        static.generator,
        PHASES,
        "Megatron's own inference: caches, logits, weights",
        basis="modelled",
    )
    line("adapters", static.adapters, PHASES, "peft: low-rank matrices beside frozen ones")
    line("master_weights", static.master, PHASES[1:], "the optimizer's own copy")
    line("optimizer_state", static.state, PHASES[1:], "state per parameter of the optimizer")
    line("ema", static.ema, PHASES[1:], "averaged copy of the weights in fp32")
    line("gradients", static.gradients, PHASES[1:], "one buffer for good")
    line("fragmentation", holding.uncut, PHASES[1:], "PyTorch cuts no remainder of 1 MiB or less off a tensor's block")
    line("communication", static.shared, PHASES[1:], "a buffer that modules share and keep", basis="modelled")
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
        grads = holding.held_back or fresh if held else moment.gradients
        if asked.adapters is not None:
            grads = fresh if held or phase == "backward" else 0
        if static.gradients or asked.settings.optimizer_in_backward:
            grads = 0
        line("gradients", grads, (phase,), "made by the backward pass so far")
        if moment.activations:
            items.append(
                item("activations", kept_bytes, phases=(phase,), basis="modelled",
                     low=moment.activations * shortest // 1000, high=moment.activations * spread.high // 1000,
                     source=f"kept by autograd until the backward pass; fullest in a piece of kind {moment.piece}",
                     others=moment.others, piece=moment.activations - moment.others)
            )  # fmt: skip
        line(
            "temporary",
            moment.temporary,
            (phase,),
            "alive within one operation or layer",
            basis="modelled",
            least=shortest,
        )
        line("communication", moment.gathered, (phase,), "weights put together from shards", basis="modelled")
    line(
        "communication",
        pieces.standing,
        WORKING[:3],
        "weights that stay together through both passes",
        basis="modelled",
    )
    if pieces.broadcast:
        items.append(
            item("communication", held_bytes, phases=PHASES[:1], basis="assumed", held="allocator", low=0, high=pieces.broadcast,
                 size=0, source="DDP's first broadcast of all parameters: before torch 2.8 its buckets can wait for NCCL's stream, as large as the model together")
        )  # fmt: skip
    line(
        "communication", pieces.buckets, WORKING, "buckets of gradients on their way between devices", basis="modelled"
    )
    line("gradients", fresh, ("step",), "of all trained parameters")
    line("temporary", static.step, ("step",), "temporaries of the optimizer's step", basis="modelled")
    return items


def _shortest(asked: Setup) -> int:
    """Return the least share of what grows with tokens that samples below the limit may have. [thousandths]."""
    settings = asked.settings
    below = asked.stack.limits and not settings.packing and settings.finetuning != "pretrain"
    return constants().samples.low if below else 1000


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
