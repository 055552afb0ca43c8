"""What each stage of a pipeline holds of a model, after tensor and expert parallelism.

References
----------
.. [1] D. Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters", 2021, arXiv:2104.04473 (1F1B,
       interleaved stages).
.. [2] Megatron-LM, ``core/transformer/transformer_block.py``: layers of a stage; ``pipeline_parallel/schedules.py``.
.. [3] P. Qi et al., "Zero Bubble Pipeline Parallelism", 2023, arXiv:2401.10241; DeepSeek-AI, "DeepSeek-V3", 2024 (DualPipe).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Component, FeedForward, Layer, Part, Tensor
from vrameter.parallel import split_tensor, tensor_share
from vrameter.training.setup import Degrees, Setup
from vrameter.units import ceil_div

BODIES = ("encoder", "decoder")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a pipeline.

    Parameters
    ----------
    chunks
        Turns that its layers are cut into by an interleaved schedule.
    in_flight
        Layers, over all chunks of micro-batches, whose activations it keeps at its fullest moment, the running chunk's included.
    """

    share: Architecture
    number: int
    first: bool
    last: bool
    chunks: int = 1
    in_flight: int = 0


def stages(setup: Setup) -> Iterator[Stage]:
    """Yield the stages of the pipeline that can be fullest: the first, the second, and the last."""
    degrees = setup.degrees
    whole = split(setup.architecture, degrees)
    count = degrees.pipeline
    if count == 1:
        yield Stage(whole, 0, True, True)
        return
    counts = layer_counts(setup)
    virtual = setup_virtual(setup)
    for number in dict.fromkeys((0, min(1, count - 1), count - 1)):
        share = _stage(
            whole, counts, number, tied=bool(setup.architecture.tied), naive=setup.settings.pipeline_schedule == "naive"
        )
        waiting = in_flight(setup, number, virtual, counts[number])
        yield Stage(share, number, number == 0, number == count - 1, virtual, waiting)


@lru_cache(maxsize=64)
def split(architecture: Architecture, degrees: Degrees) -> Architecture:
    """Return what one device holds under tensor and expert parallelism."""
    shared = tensor_share(architecture, degrees.tensor)
    if degrees.expert == 1 and degrees.expert_tensor == degrees.tensor:
        return shared
    components = []
    for whole, part in zip(architecture.components, shared.components, strict=True):
        made: dict[tuple[int, int], Layer] = {}
        layers = []
        for one, other in zip(whole.layers, part.layers, strict=True):
            key = (id(one), id(other))
            if key not in made:
                made[key] = _expert_layer(one, other, degrees)
            layers.append(made[key])
        components.append(replace(part, layers=tuple(layers)))
    return replace(shared, components=tuple(components))


def _expert_layer(whole: Layer, shared: Layer, degrees: Degrees) -> Layer:
    parts = tuple(_expert_part(one, other, degrees) for one, other in zip(whole.parts, shared.parts, strict=True))
    return Layer(parts, shared.tensors)


def _expert_part(whole: Part, shared: Part, degrees: Degrees) -> Part:
    if not isinstance(whole, FeedForward) or not isinstance(shared, FeedForward) or not whole.num_experts:
        return shared
    tensors = []
    for one, other in zip(whole.tensors, shared.tensors, strict=True):
        if one.role != "experts":
            tensors.append(other)
            continue
        cut: Tensor = split_tensor(one, whole, degrees.expert_tensor)
        tensors.append(cut._replace(shape=(ceil_div(cut.shape[0], degrees.expert), *cut.shape[1:])))
    return replace(
        shared, tensors=tuple(tensors), intermediate_size=ceil_div(whole.intermediate_size, degrees.expert_tensor)
    )


def setup_virtual(setup: Setup) -> int:
    """Return the turns of an interleaved schedule."""
    args = setup.megatron
    if args is not None:
        if "num-virtual-stages-per-pipeline-rank" in args.values:
            return args.number("num-virtual-stages-per-pipeline-rank")
        per = args.number("num-layers-per-virtual-pipeline-stage", 0)
        if per:
            return max(1, len(setup.architecture.main.layers) // (setup.degrees.pipeline * per))
        layout = args.text("pipeline-model-parallel-layout")
        if layout:
            return max(1, len(_turns(layout)) // setup.degrees.pipeline)
        pattern = args.text("hybrid-layer-pattern")
        if pattern.count("|"):
            return max(1, (pattern.count("|") + 1) // setup.degrees.pipeline)
    if setup.degrees.virtual > 1:
        return setup.degrees.virtual
    return 2 if setup.settings.pipeline_schedule == "interleaved-1f1b" else 1


def layer_counts(setup: Setup) -> list[int]:
    """Return how many layers each stage has."""
    count, degrees = len(setup.architecture.main.layers), setup.degrees
    stages_ = degrees.pipeline
    args, settings = setup.megatron, setup.settings
    if args is not None and args.text("pipeline-model-parallel-layout"):
        return _layout(args.text("pipeline-model-parallel-layout"), stages_)
    first = settings.decoder_first_pipeline_num_layers
    last = settings.decoder_last_pipeline_num_layers
    if args is not None:
        first = args.number("decoder-first-pipeline-num-layers", 0) or first
        last = args.number("decoder-last-pipeline-num-layers", 0) or last
        extra = args.flag("account-for-embedding-in-pipeline-split"), args.flag("account-for-loss-in-pipeline-split")
        if any(extra):
            each = (count + sum(extra)) // stages_
            counts = [each] * stages_
            counts[0] -= extra[0]
            counts[-1] -= extra[1]
            return counts
    if first or last:
        middle = stages_ - bool(first) - bool(last)
        rest = count - (first or 0) - (last or 0)
        each = rest // max(1, middle)
        return [*([first] if first else []), *([each] * middle), *([last] if last else [])]
    if count < stages_:
        raise RequestError(
            tr("parallelism.pipeline: %(value)s stages for %(layers)s layers.", value=stages_, layers=count),
            field="parallelism.pipeline",
            hint=tr("Use %(layers)s or less.", layers=count),
        )
    return [count // stages_ + (index < count % stages_) for index in range(stages_)]


def _layout(text: str, stages_: int) -> list[int]:
    """Return the layers of each stage from a layout such as ``Et*3|(tt|)*6tmL``."""
    turns = [turn.count("t") for turn in _turns(text)]
    return [sum(turns[index::stages_]) for index in range(stages_)]


def _turns(text: str) -> list[str]:
    """Return the turns of a layout, repetitions written out."""
    text = re.sub(r"\(([^()]*)\)\*(\d+)", lambda match: match[1] * int(match[2]), text)
    text = re.sub(r"([a-zA-Z])\*(\d+)", lambda match: match[1] * int(match[2]), text)
    return text.split("|")


def _stage(whole: Architecture, counts: list[int], number: int, *, tied: bool, naive: bool) -> Architecture:
    components: list[Component] = []
    main = whole.main
    start = sum(counts[:number])
    last = number == len(counts) - 1
    # The predictor of further tokens, which is on the last stage, embeds them there.
    again = last and whole.component("mtp") is not None
    for component in whole.components:
        if component is main:
            keep = [
                tensor
                for tensor in component.tensors
                if (tensor.role == "embedding" and (number == 0 or again or (last and tied and tensor.slot == "token")))
                or (tensor.role != "embedding" and last)
            ]
            components.append(
                replace(
                    component,
                    layers=component.layers[start : start + counts[number]],
                    tensors=tuple(keep),
                    first_layer=component.first_layer + start,
                )
            )
        elif component.kind in ("head", "mtp"):
            if last:
                components.append(component)
        elif number == 0:
            components.append(component)
    return replace(whole, components=tuple(components))


def in_flight(setup: Setup, number: int, virtual: int, layers: int) -> int:
    """Return the layers whose activations a stage keeps at its fullest moment, over all chunks of micro-batches.

    A chunk is one turn of the stage's layers: all of them without interleaving. Interleaved, `group` micro-batches pass
    one turn before they pass the next.
    """
    count = setup.degrees.pipeline
    batches = micro_batches(setup)
    schedule = setup.settings.pipeline_schedule
    if schedule == "naive":
        return layers
    if schedule == "gpipe":
        return batches * layers
    if schedule == "zb-h2":
        return min(batches, 2 * (count - number) - 1) * layers
    if schedule == "dualpipe":
        return min(batches, count + 1) * layers
    if virtual == 1:
        return min(batches, count - number) * layers
    group = count
    if setup.megatron is not None:
        group = max(1, setup.megatron.number("microbatch-group-size-per-virtual-pipeline-stage", count))
    turns = turn_layers(setup, number, virtual, layers)
    passes = min(batches * virtual, (count - number - 1) * 2 + (virtual - 1) * group + 1)
    return sum(turns[index // group % virtual] for index in range(passes))


def turn_layers(setup: Setup, number: int, virtual: int, layers: int) -> list[int]:
    """Return the layers of each turn of a stage: as many in each, but where the embedding or the loss takes a layer's place."""
    args, last = setup.megatron, number == setup.degrees.pipeline - 1
    before = args is not None and number == 0 and args.flag("account-for-embedding-in-pipeline-split")
    behind = args is not None and last and args.flag("account-for-loss-in-pipeline-split")
    whole = layers + before + behind
    turns = [whole // virtual + (index < whole % virtual) for index in range(virtual)]
    turns[0] -= before
    turns[-1] -= behind
    return [max(0, turn) for turn in turns]


def micro_batches(setup: Setup) -> int:
    """Return the micro-batches of one step."""
    settings = setup.settings
    if settings.local_batch:
        return max(1, settings.local_batch // settings.micro_batch)
    if settings.global_batch_size:
        return max(1, settings.global_batch_size // (settings.micro_batch * setup.degrees.data))
    return max(1, settings.grad_accumulation)


__all__ = ["Stage", "in_flight", "layer_counts", "micro_batches", "split", "stages", "turn_layers"]
