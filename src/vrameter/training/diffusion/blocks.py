"""Which program a block of a denoiser runs, and what the block costs in a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vrameter.model.architecture import Attention, Component, Layer, Tensor
from vrameter.model.config import Config
from vrameter.training.diffusion import crossed, joint, masked
from vrameter.training.diffusion.bench import Bench
from vrameter.training.diffusion.joint import Streams
from vrameter.training.graph import SHARED, Graph, Value
from vrameter.training.programs.scene import Use
from vrameter.training.simulate import Cost

Program = Callable[[Bench, Value, Value | None], Streams]
Stage = Callable[[Graph], Bench]


@dataclass(frozen=True, slots=True)
class Kind:
    """How the blocks of one list run.

    Parameters
    ----------
    streams
        ``joint``: picture and text beside each other; ``picture``: the picture alone, which may look at the text;
        ``text``: the text alone; ``both``: one stream of picture and text.
        ``sound``: video beside a stream of sound, each of which looks at the text.
    recomputed
        Whether a checkpointed model runs these blocks again.
    """

    program: Program
    streams: str = "joint"
    traits: frozenset[str] = frozenset({"rotary"})
    recomputed: bool = True

    def element(self, auto: int, element: int) -> int:
        """Return the size of one number that flows from block to block. [bytes]."""
        return 4 if auto and "fp32-stream" in self.traits else element


_PLAIN: frozenset[str] = frozenset()
_WIDE_TEXT = frozenset({"fp32-text"})
_WIDE_STREAM = frozenset({"fp32-stream"})
_WIDE_TIME = frozenset({"rotary", "fp32-time"})
_DOUBLE, _SINGLE = "transformer_blocks", "single_transformer_blocks"
_REFINER = Kind(joint.hunyuan_refiner, "text", _PLAIN)
# (class, list of blocks) -> how they run
KINDS: dict[tuple[str, str], Kind] = {
    ("Flux", _DOUBLE): Kind(joint.flux_double), ("Flux", _SINGLE): Kind(joint.flux_single),
    ("Chroma", _DOUBLE): Kind(joint.flux_double), ("Chroma", _SINGLE): Kind(joint.flux_single, "both"),
    ("Flux2", _DOUBLE): Kind(joint.flux2_double), ("Flux2", _SINGLE): Kind(joint.flux2_single, "both"),
    ("SD3", _DOUBLE): Kind(joint.sd3, traits=_PLAIN), ("QwenImage", _DOUBLE): Kind(joint.qwen_image),
    ("HunyuanVideo", _DOUBLE): Kind(joint.hunyuan_double), ("HunyuanVideo", _SINGLE): Kind(joint.hunyuan_single),
    ("HunyuanVideo", "refiner_blocks"): _REFINER, ("CogVideoX", _DOUBLE): Kind(joint.cogvideox),
    ("HunyuanImage", _DOUBLE): Kind(joint.hunyuan_double), ("HunyuanImage", _SINGLE): Kind(joint.hunyuan_single),
    ("HunyuanImage", "refiner_blocks"): _REFINER, ("HunyuanVideo15", _DOUBLE): Kind(joint.hunyuan_double),
    ("HunyuanVideo15", "refiner_blocks"): _REFINER,
    ("AuraFlow", "joint_transformer_blocks"): Kind(joint.aura_flow, traits=_WIDE_STREAM),
    ("AuraFlow", _SINGLE): Kind(joint.aura_flow, "both", _WIDE_STREAM), ("Mochi", _DOUBLE): Kind(joint.mochi),
    ("Lumina2", "layers"): Kind(crossed.lumina2, "both"), ("Lumina2", "noise_refiner"): Kind(crossed.lumina2, "picture"),
    ("Lumina2", "context_refiner"): Kind(crossed.lumina2, "text", frozenset({"rotary", "masked"})),
    ("UVit2DModel", "transformer_layers"): Kind(masked.transformer, "picture", _WIDE_TEXT, recomputed=False),
    ("UVit2DModel", "res_blocks"): Kind(masked.convolved, "picture", _PLAIN, recomputed=False),
    ("UVit2DModel", "attention_blocks"): Kind(masked.attended, "picture", _WIDE_TEXT, recomputed=False),
    ("PixArt", _DOUBLE): Kind(crossed.pixart, "picture", _PLAIN), ("Sana", _DOUBLE): Kind(crossed.sana, "picture", _WIDE_TEXT),
    ("Wan", "blocks"): Kind(crossed.wan, "picture", frozenset({"rotary", "fp32-table"})),
    ("LTXVideo", _DOUBLE): Kind(crossed.ltx, "picture"), ("LTX2Video", _DOUBLE): Kind(crossed.ltx2, "sound"), ("ZImage", "layers"): Kind(crossed.z_image, "both", _WIDE_TIME),
    ("ZImage", "noise_refiner"): Kind(crossed.z_image, "picture", _WIDE_TIME),
    ("ZImage", "context_refiner"): Kind(crossed.z_image, "text", _WIDE_TIME),
}  # fmt: skip


def kind_of(class_name: str, component: Component, cfg: Config, *, square_masks: bool = False) -> Kind | None:
    """Return how a list of blocks runs; None for one that has no program here.

    Parameters
    ----------
    square_masks
        Whether HunyuanVideo's attention is given a mask of all pairs of tokens, as before diffusers 0.33.
    """
    stem = class_name.partition("Transformer")[0]
    found = KINDS.get((stem, component.layers_prefix.rpartition(".")[2]))
    if found is not None and stem == "CogVideoX" and not cfg.flag("use_rotary_positional_embeddings", False):
        return Kind(found.program, found.streams, _PLAIN)
    if found is not None and stem == "HunyuanVideo" and square_masks and found.streams == "joint":
        return replace(found, traits=found.traits | {"square-mask"})
    return found


def bench_maker(
    layer: Layer,
    use: Callable[[Tensor], Use],
    *,
    samples: int,
    kind: Kind,
    width: int,
    auto: int,
    element: int,
    steered: bool,
    time_width: int,
    read: tuple[int, int, bool] = (0, 0, False),
) -> Stage:
    """Return what sets a block's program up on a graph.

    Parameters
    ----------
    read
        Text that cross-attention reads: its tokens, its width, whether it requires a gradient.
    """
    named = {tensor.name: tensor for tensor in layer.all_tensors}
    mixers = [part for part in layer.parts if isinstance(part, Attention)]
    head_dim = mixers[0].head_dim if mixers else _head_width(named)
    inner = mixers[0].num_heads * head_dim if mixers else width
    crossed_head = mixers[1].head_dim if len(mixers) > 1 else head_dim

    def make(graph: Graph) -> Bench:
        return Bench(
            graph, samples, named, use, auto=auto, element=element, head_dim=head_dim, inner=inner, steered=steered,
            time_width=time_width or width, read_rows=read[0], read_width=read[1], read_grad=read[2], traits=kind.traits,
            crossed_head=crossed_head,
        )  # fmt: skip

    return make


def _head_width(named: dict[str, Tensor]) -> int:
    """Return the width of a head where no part of the block says it: that of the norm of its queries."""
    return next((tensor.size for name, tensor in named.items() if name.endswith("norm_q.weight")), 64)


def block_cost(
    program: Program,
    make: Stage,
    *,
    rows: int,
    text_rows: int,
    width: int,
    text_width: int = 0,
    element: int,
    accumulates: bool = True,
    input_grad: bool = True,
    steady: bool = True,
) -> Cost:
    """Return what a block costs on `rows` tokens of its picture and `text_rows` of its text.

    Parameters
    ----------
    input_grad
        Whether what enters requires a gradient: not in the first block where only adapters are trained.
    steady
        Whether blocks of this kind follow one another, so that each is given what it hands on.
    """

    def inputs(graph: Graph, grad: bool) -> list[Any]:
        made: list[Any] = [graph.new(rows, width, element, grad=grad)]
        made.append(graph.new(text_rows, text_width or width, element, grad=grad) if text_rows else None)
        return made

    lean_graph = Graph(keeps=False)
    given = inputs(lean_graph, False)
    base = lean_graph.live
    lean_graph.peak = base
    made = program(make(lean_graph), given[0], given[1])[0]
    if steady and made.element != element:
        # What flows from block to block has the numbers that a block hands on, which sums with fp32 tables widen.
        return block_cost(
            program, make, rows=rows, text_rows=text_rows, width=width, text_width=text_width, element=made.element,
            accumulates=accumulates, input_grad=input_grad,
        )  # fmt: skip
    del made
    graph = Graph(accumulates=accumulates)
    where = make(graph)
    given = inputs(graph, input_grad)
    graph.peak = base
    y, told = program(where, given.pop(0), given.pop(0))
    forward = graph.peak - base
    outputs = [value for value in (y, told) if value is not None]
    del y, told
    output = sum(value.bytes for value in outputs)
    saved = [0, 0, 0]
    seen = {id(value.storage) for value in outputs}
    for storage in (each for node in graph.nodes for each in node.saved):
        if storage.kind != SHARED and id(storage) not in seen:
            seen.add(id(storage))
            saved[storage.kind] += storage.bytes
    graph.seed(*outputs)
    outputs.clear()
    graph.peak = graph.live
    graph.backward()
    return Cost(
        saved=sum(saved), per_token=saved[0], per_pair=saved[1], fixed=saved[2], forward=forward,
        lean_forward=lean_graph.peak - base, backward=graph.peak, gradients=graph.gradients, output=output,
    )  # fmt: skip


__all__ = ["KINDS", "Kind", "bench_maker", "block_cost", "kind_of"]
