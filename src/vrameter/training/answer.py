"""From a resolved request to the ledger of the fullest device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from vrameter.engines import Answer, Ask, held_layers
from vrameter.engines.choice import PIPELINES
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Basis, Held, Item, Ledger, item
from vrameter.memory import optimizer as opt
from vrameter.memory import runtime
from vrameter.memory.training_state import numbers_bytes
from vrameter.memory.zero_step import SUB_GROUP, zero_step_bytes
from vrameter.model.architecture import Attention, FeedForward
from vrameter.model.diffusion.pipeline import Pipeline
from vrameter.settings import canonical
from vrameter.training import contradictions, standing
from vrameter.training.advice import changes, limits
from vrameter.training.companions import companions, gathered_for_generation, generator, rollout
from vrameter.training.constants import constants
from vrameter.training.hoarding import hoarded
from vrameter.training.holdings import Holding
from vrameter.training.pieces import Pieces
from vrameter.training.setup import Degrees, Setup, setup
from vrameter.training.sharing import Stage, stages
from vrameter.training.standing import NO_LINES, Lines
from vrameter.training.static_cache import remembered
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
# Transformer Engine's workspace from compute capability 9.0 on, and before. PyTorch's is as large as the first where
# deterministic kernels are asked for (CUBLAS_WORKSPACE_CONFIG=:4096:8). [bytes] [Transformer Engine, cpp_extensions/gemm.py]
HOPPER_WORKSPACE, AMPERE_WORKSPACE = 33_554_432, 4_194_304
# What is placed once and stays.
STEP = ("step",)
MASTERS = "the optimizer's own copy"
OF_ALL = "of all trained parameters"
PLACED = ("weights", "adapters", "master_weights", "optimizer_state", "ema", "fragmentation")


@dataclass(frozen=True, slots=True)
class Static:
    """What is there between steps on one device, line by line."""

    weights: Lines
    master: Lines
    adapters: Lines
    state: Lines
    gradients: Lines
    fresh_gradients: Lines
    step: Lines
    ema: Lines
    uncut: Lines = NO_LINES
    pipeline: Lines = NO_LINES
    shared: Lines = NO_LINES
    placeholders: Lines = NO_LINES
    others: Lines = NO_LINES
    generator: Lines = NO_LINES
    outputs: Lines = NO_LINES

    @property
    def steady(self) -> int:
        """All of it but the step's temporaries, after the backward pass. [bytes]."""
        return sum(getattr(self, name).bytes for name in self.__slots__ if name != "step")


def estimate(ask: Ask) -> Answer:
    """Return the ledger of the fullest device in a training step."""
    if isinstance(ask.architecture, Pipeline):
        from vrameter.training import diffusion

        return diffusion.estimate(ask, ask.architecture)
    if ask.request.engine and canonical(ask.request.engine) in PIPELINES["training"]:
        raise RequestError(
            tr(
                "engine: %(engine)s trains pipelines, and %(name)s is none.",
                engine=ask.request.engine,
                name=ask.architecture.name,
            ),
            field="engine",
            hint=tr("Name a pipeline such as FLUX.1-dev, or another engine."),
        )
    asked = setup(ask)
    contradictions.refuse(asked)
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
        ledgers=_by_stage(asked, [(stage, each) for stage, each, _ in found]),
        settings=settings,
        resolved={"dtype": _dtype(asked), "quantization": asked.plan.quantization, "parallelism": _degrees(asked)},
        report=measured[2],
        limits=limits(asked, estimate) if advised else {},
        changes=changes(asked, ledger.peak().used, estimate) if advised else [],
        warnings=(*asked.warnings, *contradictions.notes(asked)),
    )


def _dtype(asked: Setup) -> str | None:
    """Return the data type of the weights as the same question would say it: trained ones are fp32 under mixed precision."""
    if asked.ask.request.dtype is not None or not asked.full or asked.recipe.weight != 4:
        return asked.plan.dtype
    return None if asked.settings.finetuning == "freeze" else "fp32"


def _degrees(asked: Setup) -> dict[str, Any]:
    """Return the degrees that the request left to the number of devices and to the stack."""
    degrees = asked.degrees
    return {
        "data": degrees.data, "zero_stage": degrees.zero, "fsdp": degrees.fsdp or asked.ask.request.parallelism.fsdp
    }  # fmt: skip


def _by_stage(asked: Setup, found: list[tuple[Stage, Ledger]]) -> tuple[tuple[Ledger, int], ...]:
    """Return the ledgers with how many devices are like each; the second stage of a pipeline stands for all in the middle."""
    count, devices = asked.degrees.pipeline, asked.ask.num_devices
    if count == 1:
        return ((found[0][1], devices),)
    ledgers = []
    for stage, ledger in found:
        alike = 1 if stage.first or stage.last else count - 2
        last = stage.number + alike
        which = f"{stage.number + 1}-{last}" if alike > 1 else str(last)
        holds = tr("stage %(number)s of %(count)s", number=which, count=count)
        if alike == 1:
            holds += f" ({held_layers(stage.share)})"
        ledgers.append((replace(ledger, holds=holds), alike * devices // count))
    return tuple(ledgers)


def _device(stage: Stage, asked: Setup) -> tuple[Ledger, dict[str, int]]:
    holding = Holding(asked, stage.share, stage.first, stage.last)
    picture = asked.architecture.network is not None
    static = remembered(holding, static_of) if picture else static_of(holding)
    pieces = Images(holding) if picture else Pieces(holding, stage.chunks)
    static = replace(
        static, pipeline=_pipeline_buffers(asked, stage, pieces), shared=_shared_buffer(asked, stage, pieces),
        placeholders=_placeholders(asked, stage, pieces), outputs=_outputs(asked, pieces), others=companions(asked, static, phases=PHASES), generator=_generator(asked),
    )  # fmt: skip
    kept = sum(piece.saved for piece in pieces.all if piece.name == "layer")
    count = sum(len(component.layers) for component in stage.share.loaded)
    waiting = kept * max(0, stage.in_flight - len(stage.share.main.layers)) // max(1, count)
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
        "weights_bytes": static.weights.bytes + static.adapters.bytes,
        "steady_bytes": static.steady + space,
        "peak_allocated_bytes": peak.allocated,
        "peak_reserved_bytes": peak.reserved,
        "peak_used_bytes": peak.used,
        "first_logged_peak_bytes": peak.allocated - static.state.bytes,
    }
    share = _shortest(asked)
    for name, held in HELD.items():
        alive = [each for each in ledger.items if each.held in held]
        report[f"{name}_low_bytes"] = max(
            sum(_least(each, share) for each in alive if phase in each.phases) for phase in PHASES
        )
        report[f"{name}_high_bytes"] = max(sum(each.high for each in alive if phase in each.phases) for phase in PHASES)
    for phase in PHASES:
        report[f"{phase}_bytes"] = ledger.at(phase, held=("tensors",))
    return ledger, report


def _pipeline_buffers(asked: Setup, stage: Stage, pieces: Pieces | Images) -> Lines:
    """Return what a stage of a pipeline holds of its neighbours' tensors between steps."""
    if asked.degrees.pipeline == 1 or asked.settings.pipeline_schedule == "naive":
        return NO_LINES
    return Lines((
        item("communication", crossing_bytes, phases=PHASES[1:], basis="modelled", chunks=stage.chunks,
             tokens=pieces.tokens // pieces.ranks, hidden_size=asked.architecture.main.hidden_size,
             element_bytes=asked.recipe.numbers.residual,
             source="inputs of each chunk of a pipeline's stage and their gradients, kept by the model between steps"),
    ))  # fmt: skip


def crossing_bytes(*, chunks: int, tokens: int, hidden_size: int, element_bytes: int) -> int:
    """Return the inputs of a stage's chunks, their gradients, and one tensor on its way.

    Formula::

        (2 * chunks + 1) * tokens * hidden_size * element_bytes
    """
    return (2 * chunks + 1) * tokens * hidden_size * element_bytes


def _shared_buffer(asked: Setup, stage: Stage, pieces: Pieces | Images) -> Lines:
    """Return the buffer that Megatron's own modules share and keep (``GlobalMemoryBuffer``): its largest use.

    Tokens of all devices that split experts between them, where the dispatcher gathers them; tokens of all devices of
    sequence parallelism before the output layer; scores of all heads in its own attention.
    """
    if asked.stack.program != "megatron" or isinstance(pieces, Images):
        return NO_LINES
    local = pieces.kernels.local
    degrees, width, rows = asked.degrees, asked.architecture.main.hidden_size, pieces.tokens // pieces.ranks
    uses = [(0, 0)]
    if pieces.ranks > 1 and (stage.last or local):
        uses.append((pieces.tokens, width))
    dispatcher = asked.megatron.text("moe-token-dispatcher-type", "allgather") if asked.megatron is not None else ""
    meeting = degrees.expert * degrees.expert_tensor
    for component in stage.share.loaded:
        for layer, _ in component.layer_groups:
            for part in layer.parts:
                if isinstance(part, FeedForward) and part.num_experts and dispatcher == "allgather" and meeting > 1:
                    uses.append((rows * meeting, width))
                if isinstance(part, Attention) and local:
                    length = pieces.length(component)
                    uses.append((asked.settings.micro_batch * pieces.sequences * part.num_heads * length, length))
    most, across = max(uses, key=lambda use: use[0] * use[1])
    if not most * across:
        return NO_LINES
    made = item(
        "communication", shared_bytes, phases=PHASES[1:], basis="modelled", rows=most, width=across,
        element_bytes=asked.recipe.numbers.compute, source="a buffer that modules share and keep",
    )  # fmt: skip
    return Lines((_spread(made),))


def shared_bytes(*, rows: int, width: int, element_bytes: int) -> int:
    """Return a buffer that is as large as its largest use.

    Formula::

        rows * width * element_bytes
    """
    return rows * width * element_bytes


def _placeholders(asked: Setup, stage: Stage, pieces: Pieces | Images) -> Lines:
    """Return the empty gradients that autograd is handed where Megatron's kernels add to the buffer of gradients.

    One for each shape of a matrix, kept for good (Transformer Engine, ``module/base.py``: ``get_dummy_wgrad``).
    """
    args = asked.megatron
    fused = args is None or not args.flag("no-gradient-accumulation-fusion")
    if (
        isinstance(pieces, Images)
        or asked.stack.program != "megatron"
        or not fused
        or not asked.full
        or asked.degrees.fsdp
    ):
        return NO_LINES
    shapes = set()
    for component, _, tensor, _ in pieces.holding.tensors():
        matrix = len(tensor.shape) > 1 and tensor.linear and tensor.role not in ("embedding", "router")
        if matrix and pieces.holding.trained(component, tensor):
            shapes.add(tensor.shape[-2:])
    if stage.last:
        heads = (pieces.head_tensor(component) for component in stage.share.loaded)
        shapes |= {head.shape[-2:] for head in heads if head is not None}
    if not shapes:
        return NO_LINES
    made = item(
        "temporary", numbers_bytes, phases=PHASES[1:], basis="modelled", num_params=sum(rows * columns for rows, columns in shapes),
        element_bytes=asked.recipe.numbers.compute,
        source="empty gradients handed to autograd where kernels add to the buffer, one for each shape of a matrix",
    )  # fmt: skip
    return Lines((_spread(made),))


def _generator(asked: Setup) -> Lines:
    """Return what Megatron's own inference holds beside a policy that it trains."""
    size = generator(asked)
    if not size:
        return NO_LINES
    made = item(
        "rollout_engine", held_bytes, phases=PHASES, basis="modelled", size=size,
        source="Megatron's own inference: caches, logits, weights",
    )  # fmt: skip
    return Lines((_spread(made),))


def _outputs(asked: Setup, pieces: Pieces | Images) -> Lines:
    """Return the logits of the last batch, which a loop on transformers holds until the next one."""
    settings, vocab = asked.settings, asked.architecture.main.vocab_size
    if isinstance(pieces, Images) or asked.stack.name != "transformers" or settings.packing or settings.loss != "full":
        return NO_LINES
    # Samples are shorter than the longest; learned tokens stand before each of them all the same.
    own = settings.micro_batch * pieces.sequences * -(-asked.length // asked.degrees.context)
    return Lines((
        item("logits", held_logits_bytes, phases=PHASES[-2:], basis="calibrated", num_tokens=own, learned_tokens=pieces.tokens - own,
             vocab_size=vocab, element_bytes=asked.recipe.numbers.compute, thousandths=constants().fill.typical,
             source="outputs of the last batch, which the loop still holds"),
    ))  # fmt: skip


def held_logits_bytes(
    *, num_tokens: int, learned_tokens: int, vocab_size: int, element_bytes: int, thousandths: int
) -> int:
    """Return the logits of a batch of the usual length.

    Formula::

        (num_tokens * thousandths // 1000 + learned_tokens) * vocab_size * element_bytes

    Parameters
    ----------
    learned_tokens
        Of learned prompts, which stand before every sequence. [tokens]
    thousandths
        Length of a usual batch in thousandths of the longest.
    """
    return (num_tokens * thousandths // 1000 + learned_tokens) * vocab_size * element_bytes


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
    bounds, more = constants().nccl, constants().nccl_group
    further = groups(asked.degrees) - 1
    low, typical, high = (getattr(bounds, name) + further * getattr(more, name) for name in ("low", "typical", "high"))
    return [
        item("communicators", held_bytes, phases=PHASES, basis="assumed", held="driver", low=low * MIB, high=high * MIB,
             size=typical * MIB, source=bounds.runs)
    ]  # fmt: skip


def groups(degrees: Degrees) -> int:
    """Return how many groups of devices talk to each other, each over a communicator of its own.

    Examples
    --------
    Data parallelism alone is one; tensors split between devices besides make three more: among themselves, of all
    devices, and of those that hold one model.

    >>> from vrameter.training.setup import Degrees
    >>> alone = Degrees(1, 1, 8, 1, 1, 1, 1, False, 0, None, None)
    >>> both = Degrees(4, 1, 2, 1, 1, 4, 1, True, 1, None, None)
    >>> groups(alone), groups(both)
    (1, 4)
    """
    axes = [degrees.tensor, degrees.pipeline, degrees.context, degrees.data]
    split = sum(axis > 1 for axis in axes)
    if split <= 1 and degrees.expert == 1 and degrees.tensor * degrees.pipeline == 1:
        return 1
    # All devices, those that hold one model, and for experts a group that shares them and one that repeats them.
    return split + 1 + (degrees.tensor * degrees.pipeline > 1) + 2 * (degrees.expert > 1)


def _slack(asked: Setup, alive: list[Item], outside: int) -> Item:
    """Return what the allocator holds beyond live tensors."""
    settings, degrees = asked.settings, asked.degrees
    sharded = degrees.fsdp in ("full_shard", "fsdp1", "shard_grad_op", "hybrid_shard")
    network = asked.architecture.network
    fixed = (
        network is not None
        or settings.packing
        or settings.finetuning == "pretrain"
        or asked.stack.program != "transformers"
    )
    if asked.stack.hoards:
        return hoarded(alive, asked.ask.device, outside, phases=PHASES[1:], working=WORKING)
    if network is not None and network.convolves:
        kind = "convolutional"
    elif sharded or (asked.stack.name == "fsdp_qlora" and degrees.fsdp):
        kind = "flat"
    elif fixed and degrees.splits_weights:
        kind = "sharded"
    elif settings.recompute == "full":
        kind = "checkpointed"
    else:
        kind = "fixed" if fixed else "variable"
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
    after = PHASES[1:]
    # Adapters have numbers of their own; copies of modules keep those of the base.
    elements = (_adapter_element(asked), recipe.frozen)
    masters_adapters = bool(recipe.master and asked.adapters)
    state = standing.state(holding, phases=after, elements=(4, 4) if masters_adapters else elements)
    master = NO_LINES
    if not asked.offloads_optimizer:
        master = standing.of_trained(
            holding, "master_weights", recipe.master + recipe.gradient_copy, split=degrees.splits_state, phases=after,
            source=MASTERS, note=tr("with an fp32 copy of gradients") if recipe.gradient_copy else "",
        )  # fmt: skip
        if masters_adapters:
            beside = standing.side(
                holding, "master_weights", (recipe.master, recipe.master), split=degrees.splits_state, phases=after, source=MASTERS
            )  # fmt: skip
            master = standing.total(master, beside)
        if asked.deals_tensors:
            master, state = standing.dealt(holding, phases=after)
    split = degrees.splits_gradients
    buffer = standing.of_trained(
        holding, "gradients", recipe.main_gradient, split=split, phases=after, source="one buffer for good"
    )
    fresh = standing.side(holding, "gradients", elements, split=split, phases=STEP, source=OF_ALL)
    if not recipe.main_gradient:
        own = standing.of_trained(holding, "gradients", recipe.gradient, split=split, phases=STEP, source=OF_ALL)
        fresh = standing.total(own, fresh)
    if asked.settings.optimizer_in_backward or rule.gradient_free:
        fresh = NO_LINES
    if asked.settings.offload_gradients or asked.offloads_weights:
        fresh = NO_LINES
    if recipe.contiguous_gradients:
        kept = (replace(each, phases=after, source="one buffer for good") for each in fresh.items)
        buffer, fresh = standing.total(buffer, kept), NO_LINES
    ema = NO_LINES
    if asked.settings.ema:
        ema = standing.of_trained(
            holding, "ema", 4, split=False, phases=after, source="averaged copy of the weights in fp32"
        )
    adapters = standing.total(
        standing.side(
            holding, "adapters", elements, split=degrees.splits_weights, phases=PHASES, note=standing.adapter_note(asked)
        ),
        standing.held_frozen(asked, phases=PHASES),
    )  # fmt: skip
    return Static(
        standing.weights(holding, PHASES), master, adapters, state, buffer, fresh, _step(holding, elements), ema,
        _uncut(holding),
    )  # fmt: skip


def _uncut(holding: Holding) -> Lines:
    """Return what the allocator does not cut off the blocks of a full training's state."""
    if not holding.uncut:
        return NO_LINES
    return Lines((
        item("fragmentation", held_bytes, phases=PHASES[1:], size=holding.uncut,
             source="PyTorch cuts no remainder of 1 MiB or less off a tensor's block"),
    ))  # fmt: skip


def _step(holding: Holding, elements: tuple[int, int]) -> Lines:
    """Return the temporaries of the optimizer's step: of all tensors at once, or of the largest."""
    asked = holding.setup
    recipe, rule, degrees = asked.recipe, asked.rule, asked.degrees
    if asked.offloads_optimizer:
        return NO_LINES
    tensors = list(holding.parameters)
    shards = degrees.shards if degrees.splits_state else 1
    counts = (holding.adapter_parameters, holding.copied_parameters)
    tensors += [
        opt.Parameter((ceil_div(count, shards),), size) for count, size in zip(counts, elements, strict=True) if count
    ]
    if degrees.zero and recipe.master and asked.stack.program == "transformers":
        count = sum(tensor.times * ceil_div(tensor.size, tensor.share) for tensor in tensors)
        made = item(
            "temporary", zero_step_bytes, phases=STEP, basis="modelled", source="DeepSpeed 0.16, runtime/zero: step",
            num_params=count if degrees.zero < 3 else min(count, SUB_GROUP), stage=degrees.zero,
            gradient_bytes=recipe.gradient, temporaries=rule.temporaries if rule.step == "foreach" else 0,
        )  # fmt: skip
        return Lines((_spread(made),))
    copies, worked_on, element = opt.step_copies(rule, tensors, element=recipe.master or recipe.weight)
    if asked.stack.early and rule.step == "foreach":
        # torch 2.0, ``optim/adamw.py``: the root of the second moments, and the same plus epsilon.
        copies *= 2
    if asked.settings.optimizer_in_backward:
        largest = max((tensor.size for tensor in tensors), default=0)
        if copies * worked_on * element > 3 * 4 * largest:
            copies, worked_on, element = 3, largest, 4
    wide = standing.of_trained(
        holding, "temporary", recipe.step_copy, split=degrees.splits_state, phases=STEP,
        source="an fp32 copy of gradients that are summed up in half precision",
    )  # fmt: skip
    made_items = [replace(each, basis="modelled") for each in wide.items]
    if copies * worked_on * element:
        made_items.append(
            item(
                "temporary", opt.copies_bytes, phases=STEP, basis="modelled", copies=copies, num_params=worked_on,
                element_bytes=element, source="temporaries of the optimizer's step",
                note=tr("of all tensors at once") if rule.step == "foreach" else tr("of the largest tensor"),
            )
        )  # fmt: skip
    return Lines(tuple(_spread(each) for each in made_items))


def _adapter_element(asked: Setup) -> int:
    adapters = asked.adapters
    if adapters is None:
        return 0
    if adapters.method == "adaption_prompt":
        return asked.recipe.numbers.compute  # its prompts take the numbers of the projections
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

    for lines in (
        static.weights, static.others, static.generator, static.adapters, static.master, static.state, static.ema, static.gradients,
        static.uncut, static.shared, static.placeholders, static.outputs, static.pipeline,
    ):  # fmt: skip
        items += lines.items
    held = pieces.accumulates and not static.gradients.items
    fresh = static.fresh_gradients
    moments: dict[str, Moment] = {"forward": run.forward, "loss": run.loss, "backward": run.backward}
    whole: list[str] = []  # the phases in which the gradients of all trained parameters are there
    for phase, moment in moments.items():
        if not (static.gradients.items or asked.settings.optimizer_in_backward):
            if held and asked.adapters is None and holding.held_back:
                line(
                    "gradients", holding.held_back, (phase,), "whole until the last micro-batch of the step is reduced"
                )
            elif held or (asked.adapters is not None and phase == "backward"):
                whole.append(phase)
            elif asked.adapters is None and moment.gradients:
                items.append(_made_so_far(moment.gradients, asked.recipe.gradient, phase))
        if moment.activations:
            items.append(
                item("activations", kept_bytes, phases=(phase,), basis="modelled",
                     low=moment.activations * spread.low // 1000, high=moment.activations * spread.high // 1000,
                     source=f"kept by autograd until the backward pass; fullest in a piece of kind {moment.piece}",
                     others=moment.others, piece=moment.activations - moment.others)
            )  # fmt: skip
        line("temporary", moment.temporary, (phase,), "alive within one operation or layer", basis="modelled")
        if moment.gathered:
            ahead = min(moment.gathered, pieces.prefetched)
            items.append(_spread(
                item("communication", gathered_bytes, phases=(phase,), basis="modelled", running=moment.gathered - ahead,
                     ahead=ahead, source="weights put together from shards: of the piece that runs, and of what comes next")
            ))  # fmt: skip
    line(
        "communication",
        pieces.standing,
        WORKING[:3],
        "weights that stay together through both passes",
        basis="modelled",
    )
    line(
        "communication",
        gathered_for_generation(asked),
        PHASES[1:2],
        "weights put together to generate answers before the forward pass",
        basis="modelled",
    )
    least, size, most = pieces.reducing
    if size:
        items.append(
            item("communication", held_bytes, phases=PHASES[3:4], basis="assumed", low=least, high=most, size=size,
                 source="DeepSpeed's buffer for gradients on their way, of reduce_bucket_size numbers whatever is trained")
        )  # fmt: skip
    if pieces.broadcast:
        items.append(
            item("communication", held_bytes, phases=PHASES[:1], basis="assumed", held="allocator", low=0, high=pieces.broadcast,
                 size=0, source="DDP's first broadcast of all parameters: before torch 2.8 its buckets can wait for NCCL's stream, as large as the model together")
        )  # fmt: skip
    line(
        "communication", pieces.buckets, WORKING, "buckets of gradients on their way between devices", basis="modelled"
    )
    items += [replace(each, phases=(*whole, *STEP)) for each in fresh.items]
    items += static.step.items
    return items


def _shortest(asked: Setup) -> int:
    """Return the least share of what grows with tokens that a log may show, where samples stay below the limit. [thousandths].

    The ledger is of sequences as long as the request says; the low bounds of `report` take shorter samples in.
    """
    settings = asked.settings
    below = asked.stack.limits and not settings.packing and settings.finetuning != "pretrain"
    return constants().samples.low if below else 1000


def _least(line: Item, share: int) -> int:
    """Return the low bound of a line in a log of samples that may be shorter. [bytes]."""
    moves = line.term == "activations" or (line.term == "temporary" and line.phases != STEP)
    return line.low * share // 1000 if moves else line.low


def _made_so_far(size: int, element: int, phase: str) -> Item:
    """Return the line of the gradients that the backward pass has made at the fullest moment."""
    if size % element:
        return item("gradients", held_bytes, phases=(phase,), source="made by the backward pass so far", size=size)
    return item("gradients", numbers_bytes, phases=(phase,), num_params=size // element, element_bytes=element,
                source="made by the backward pass so far, one for each parameter behind it")  # fmt: skip


def _spread(line: Item) -> Item:
    """Return a modelled line with the interval of what is modelled."""
    spread = constants().modelled
    return replace(line, low=line.bytes * spread.low // 1000, high=line.bytes * spread.high // 1000)


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


def gathered_bytes(*, running: int, ahead: int) -> int:
    """Return weights that are put together from shards for a moment.

    Formula::

        running + ahead

    Parameters
    ----------
    running
        Of the embedding, the layer or the head that runs. [bytes]
    ahead
        Of what is fetched before it is needed. [bytes]
    """
    return running + ahead


def held_bytes(*, size: int) -> int:
    """Return a size that was added up piece by piece.

    Formula::

        size
    """
    return size


__all__ = ["estimate"]
