"""The pieces that a step of a denoiser runs: what embeds, blocks, what makes the prediction and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Component, Layer, Tensor
from vrameter.training.diffusion import masked
from vrameter.training.diffusion.bench import Bench
from vrameter.training.diffusion.blocks import Kind, Program, bench_maker, block_cost, kind_of
from vrameter.training.diffusion.joint import Streams
from vrameter.training.diffusion.run import Run
from vrameter.training.diffusion.unets import Placed, layout, step_cost
from vrameter.training.graph import Graph, Value, Weight
from vrameter.training.programs.scene import Use
from vrameter.training.simulate import Cost
from vrameter.training.step import Piece
from vrameter.units import ceil_div

# Costs kept for the next question about the same block. They hold it, so that its id stays its own.
REMEMBERED = 512
# Tokens of LTX-2's sound and frames of its video in a second. [diffusers 0.42.1, pipeline_ltx2.py: 16 kHz, hops of 160, 4 to a token]
SOUND_TOKENS, FRAMES = 25, 24
_COSTS: dict[tuple[object, ...], tuple[object, Cost]] = {}


def remembered(key: tuple[object, ...], holds: object, make: Callable[[], Cost]) -> Cost:
    """Return a cost, made where it is not known yet."""
    known = _COSTS.get(key)
    if known is not None:
        return known[1]
    made = make()
    if len(_COSTS) >= REMEMBERED:
        _COSTS.clear()
    _COSTS[key] = (holds, made)
    return made


@dataclass(frozen=True)
class Pieces:
    """The pieces of one step on one device."""

    run: Run

    @cached_property
    def samples(self) -> int:
        """Pictures or videos of one forward pass."""
        return self.run.settings.micro_batch

    @cached_property
    def recomputed(self) -> bool:
        """Whether blocks run again in the backward pass."""
        return self.run.settings.recompute == "full"

    @cached_property
    def recomputes(self) -> bool:
        """Whether any of them does."""
        return any(piece.recomputed for piece in self.all)

    @cached_property
    def accumulates(self) -> bool:
        """Whether gradients have buffers of their own already."""
        asked = self.run.asked
        return (
            asked.settings.grad_accumulation > 1 or asked.degrees.splits_gradients or asked.recipe.contiguous_gradients
            or asked.settings.optimizer_in_backward
        )  # fmt: skip

    @cached_property
    def steered(self) -> bool:
        """Whether what the time step makes requires a gradient: where more than blocks is trained."""
        return self.run.asked.full

    @cached_property
    def signature(self) -> tuple[object, ...]:
        """What a block's cost depends on beside the block and its tokens."""
        asked = self.run.asked
        adapter = msgspec.json.encode(asked.settings.adapter) if asked.settings.adapter else b""
        return (
            asked.recipe, asked.degrees, asked.plan.quantization, asked.plan.dtype, asked.settings.finetuning, adapter, self.samples,
            self.accumulates, self.steered,
        )  # fmt: skip

    def use(self, component: Component) -> Callable[[Tensor], Use]:
        """Return what tells how a component's tensors are used."""
        known: dict[int, Use] = {}
        holding = self.run.holding

        def use(tensor: Tensor) -> Use:
            found = known.get(id(tensor))
            if found is None:
                found = known[id(tensor)] = holding.use(component, tensor)
            return found

        return use

    def gathered(self, num_params: int) -> int:
        """Return what weights take while they are put together from shards. [bytes]."""
        asked = self.run.asked
        return num_params * asked.recipe.numbers.compute if asked.degrees.splits_weights else 0

    def fresh(self, component: Component, tensors: tuple[Tensor, ...]) -> int:
        """Return the gradients that a piece leaves, where they are made anew in each backward pass. [bytes]."""
        settings = self.run.settings
        if self.accumulates or settings.offload_gradients or settings.optimizer_in_backward:
            return 0
        if not self.run.asked.full and not self.run.holding.trained_norms:
            return 0
        holding = self.run.holding
        trained = sum(tensor.size for tensor in tensors if holding.trained(component, tensor))
        return trained * self.run.asked.recipe.gradient

    # -- the course ---------------------------------------------------------------------------------

    @cached_property
    def all(self) -> tuple[Piece, ...]:
        """The pieces of one forward pass, in order."""
        text = self._text()
        if self.run.module.name == "unet":
            return (*text, *self._maps())
        if self.run.module.class_name == "UVit2DModel":
            return (*text, *self._masked())
        found = [*text, self._embedding()]
        grad = self.steered or bool(text)
        components = self.run.holding.share.components
        for component in sorted(components, key=lambda each: "refiner" not in each.layers_prefix):
            for layer in component.layers:
                found.append(self._block(component, layer, grad))
                grad = grad or self._adapts(component, layer)
        found.append(self._head())
        return tuple(found)

    def _adapts(self, component: Component, layer: Layer) -> bool:
        use = self.use(component)
        return any(use(tensor).adapter is not None or use(tensor).trained for tensor in layer.all_tensors)

    @cached_property
    def width(self) -> int:
        """Width of the denoiser's stream."""
        return self.run.holding.share.main.hidden_size

    def _embedding(self) -> Piece:
        component = self.run.holding.share.components[0]
        given = self.samples * self.run.shape.tokens * self.width * self.run.element
        text = self.samples * self.run.shape.text_tokens * self.width * self.run.element
        fresh = self.fresh(component, component.tensors)
        saved = self.samples * self.run.shape.tokens * self._latent_width * self.run.element
        cost = Cost(
            saved, saved, 0, 0, saved + given + text, given + text, saved + given + text + fresh, fresh, given + text
        )
        return Piece(
            "embedding", cost, 0, gradients=fresh, gathered=self.gathered(sum(t.size for t in component.tensors))
        )

    @cached_property
    def _latent_width(self) -> int:
        """Numbers of latents in one token."""
        cfg, (edge, depth) = self.run.module.cfg, self.run.shape.patch
        channels = cfg.integer("in_channels", 16)
        packed = self.run.module.class_name.startswith(("Flux", "Chroma", "QwenImage", "LTX"))
        return int(channels) if packed else int(channels) * edge * edge * depth

    def _rows(self, kind: Kind) -> tuple[int, int]:
        """Return the tokens of picture and of text that enter a block, over all samples."""
        picture, text = self.run.shape.tokens, self.run.shape.text_tokens
        sound = ceil_div(self.run.shape.frames * SOUND_TOKENS, FRAMES)
        return {
            "sound": (self.samples * picture, self.samples * sound), "joint": (self.samples * picture, self.samples * text),
            "picture": (self.samples * picture, 0), "text": (self.samples * text, 0), "both": (self.samples * (picture + text), 0),
        }[kind.streams]  # fmt: skip

    def _block(self, component: Component, layer: Layer, grad: bool) -> Piece:
        run, settings = self.run, self.run.settings
        kind = kind_of(run.module.class_name, component, run.module.cfg, square_masks=run.square_masks)
        if kind is None:
            raise unknown(run.module.class_name)
        rows, text_rows = self._rows(kind)
        element = kind.element(run.auto, run.element)
        key = (id(layer), component.layers_prefix, run.square_masks, rows, text_rows, grad, self.signature)

        def make() -> Cost:
            cfg = run.module.cfg
            maker = bench_maker(
                layer, self.use(component), samples=self.samples, kind=kind, width=component.hidden_size, auto=run.auto,
                element=run.element, steered=self.steered, time_width=_time_width(run.module.class_name, component, cfg),
                read=(self.samples * run.shape.text_tokens, _read_width(layer, component), self.steered),
            )  # fmt: skip
            return block_cost(
                kind.program, maker, rows=rows, text_rows=text_rows, width=component.hidden_size, element=element,
                text_width=_text_width(layer),
                accumulates=self.accumulates, input_grad=grad or self.recomputed,
            )  # fmt: skip

        made = remembered(key, layer, make)
        recomputed = self.recomputed and kind.recomputed
        given = (rows * component.hidden_size + text_rows * (_text_width(layer) or component.hidden_size)) * element
        return Piece(
            "layer", made, given, recomputed=recomputed, kept_input=0 if settings.activation_offload else given,
            gathered=self.gathered(layer.num_params), gradients=self.fresh(component, tuple(layer.all_tensors)),
        )  # fmt: skip

    def _head(self) -> Piece:
        run, component = self.run, self.run.holding.share.components[0]
        rows, wide = self.samples * run.shape.tokens, self._latent_width
        last = next(
            (tensor for tensor in component.tensors if tensor.name.startswith("proj_out") and tensor.linear), None
        )
        use = self.use(component)

        def program(bench: Bench, x: Value, text: Value | None) -> Streams:
            scale, shift = bench.rows_given(2)
            x = bench.modulated(bench.layer_norm(x), scale, shift)
            weight = (
                bench.scene.weight(last)
                if last is not None
                else Weight(wide * x.width, run.element, trained=self.steered)
            )
            return squared(bench.graph, bench.graph.linear(x, weight, wide, compute=run.auto)), text

        def make(graph: Graph) -> Bench:
            return Bench(
                graph, self.samples, {}, use, auto=run.auto, element=run.element, inner=self.width, steered=self.steered
            )

        cost = block_cost(
            program, make, rows=rows, text_rows=0, width=self.width, element=run.element, accumulates=True, steady=False,
        )  # fmt: skip
        return Piece("head", cost, rows * self.width * run.element)

    def _masked(self) -> list[Piece]:
        """Return the pieces of aMUSEd's denoiser: blocks of convolutions and of attention in turn, the transformer between them."""
        run = self.run
        main, *sides = run.holding.share.components
        places = self.samples * run.shape.tokens
        full = self.samples * run.shape.latent[1] * run.shape.latent[2]
        channels = run.module.cfg.integer("in_channels", 768)
        blocks = sides[0].hidden_size
        found = [self._own(masked.embed, main, full, channels)]
        grad = self.steered
        for side in (sides[:2], sides[2:]):
            for pair in zip(*(component.layers for component in side), strict=True):
                for component, layer in zip(side, pair, strict=True):
                    found.append(self._block(component, layer, grad))
                    grad = grad or self._adapts(component, layer)
            if side is sides[2:] or component is sides[3]:
                break
            found.append(self._own(masked.enter, main, places, blocks))
            for layer in main.layers:
                found.append(self._block(main, layer, grad))
                grad = grad or self._adapts(main, layer)
            found.append(self._own(masked.leave, main, places, main.hidden_size))
        return [*found, replace(self._own(masked.predict, main, places, blocks), name="head")]

    def _own(self, program: Program, component: Component, rows: int, width: int) -> Piece:
        """Return a piece that runs a denoiser's own tensors on `rows` of a width."""
        run = self.run
        named = {tensor.name: tensor for tensor in component.tensors}
        use = self.use(component)

        def make(graph: Graph) -> Bench:
            return Bench(graph, self.samples, named, use, auto=run.auto, element=run.element, steered=self.steered)

        cost = block_cost(
            program, make, rows=rows, text_rows=0, width=width, element=run.element, accumulates=self.accumulates, steady=False,
        )  # fmt: skip
        return Piece("embedding", cost, rows * width * run.element, gradients=cost.gradients)

    def _maps(self) -> list[Piece]:
        """Return the pieces of a UNet."""
        run = self.run
        component = run.holding.share.components[0]
        plan, modules = layout(component, run.module.cfg)
        use, shape = self.use(component), run.shape
        latents = shape.latent[1] * shape.latent[2]
        found: list[Piece] = []
        grad = self.steered or run.text is not None
        for module in modules:
            step, named = module.step, module.named
            key = (
                id(component),
                step.kind,
                step.channels,
                step.edge,
                step.heads,
                module.shapes,
                latents,
                grad,
                self.signature,
            )

            def make(module: Placed = module, grad: bool = grad) -> Cost:
                return step_cost(
                    module.step, plan, module.named, use, samples=self.samples, latents=latents, auto=run.auto,
                    element=run.element, steered=self.steered, text=(shape.text_tokens, plan.cross, run.text is not None),
                    input_grad=(grad and module.step.kind != "first") or (self.recomputed and module.step.recomputed),
                    accumulates=self.accumulates,
                )  # fmt: skip

            made = remembered(key, component, make)
            given = self.samples * latents // step.edge**2 * step.channels * run.element
            left = 0 if step.kind == "leave" and not self.recomputed else given
            found.append(
                Piece(
                    "head" if step.kind == "last" else "layer", made, given, recomputed=self.recomputed and step.recomputed,
                    kept_input=0 if run.settings.activation_offload else left, gradients=self.fresh(component, tuple(named.values())),
                    gathered=self.gathered(sum(tensor.size for tensor in named.values())),
                    extra_saved=2 * 4 * self.samples * latents * plan.out_channels if step.kind == "last" else 0,
                )
            )  # fmt: skip
            grad = grad or any(use(tensor).adapter is not None for tensor in named.values())
        return found

    def _text(self) -> list[Piece]:
        """Return the pieces of a text encoder that is trained."""
        from vrameter.training.pieces import Pieces as TextPieces

        holding = self.run.text_holding
        if holding is None:
            return []
        return [replace(piece, name="embedding") for piece in TextPieces(holding).all if piece.name != "head"]

    # -- devices ------------------------------------------------------------------------------------

    @cached_property
    def prefetched(self) -> int:
        """Weights that are put together ahead of the block that runs. [bytes]."""
        return max((piece.gathered for piece in self.all if piece.name == "layer"), default=0)

    @cached_property
    def buckets(self) -> int:
        """Copies of gradients on their way between devices. [bytes].

        Data parallelism copies all of them to buckets once; ZeRO keeps a bucket of up to five hundred million numbers
        (``reduce_bucket_size``); FSDP reduces one block's at a time.
        """
        asked, holding = self.run.asked, self.run.holding
        degrees = asked.degrees
        if degrees.data * degrees.context == 1:
            return 0
        trained = holding.trained_elements * asked.recipe.gradient + holding.adapter_parameters * asked.recipe.weight
        if degrees.zero:
            return min(trained, 5 * 10**8 * asked.recipe.gradient)
        if degrees.fsdp:
            return 2 * self.prefetched if asked.full else 0
        return trained


def squared(graph: Graph, x: Value) -> Value:
    """Run the mean squared error against latents of the same size, all in fp32."""
    wide = graph.cast(x, 4)
    target = graph.new(wide.rows, wide.width, 4)
    return graph.pointwise(graph.add(wide, target))


def _time_width(class_name: str, component: Component, cfg: object) -> int:
    """Return the width of the embedded time step where it is not the stream's."""
    from vrameter.model.config import Config

    assert isinstance(cfg, Config)
    if class_name.startswith("CogVideoX"):
        return int(cfg.integer("time_embed_dim", 512))
    return min(component.hidden_size, 256) if class_name.startswith("ZImage") else component.hidden_size


def _text_width(layer: Layer) -> int:
    """Return the width of a second stream that is narrower than the first; 0 where it is not."""
    ends = ("add_q_proj.weight", "audio_attn1.to_q.weight")
    return next((tensor.shape[-1] for tensor in layer.all_tensors if tensor.name.endswith(ends)), 0)


def _read_width(layer: Layer, component: Component) -> int:
    """Return the width of the text that a block's cross-attention reads."""
    readers = ("kv_mapper.weight", "attn2.to_k.weight")
    found = (tensor.shape[-1] for name in readers for tensor in layer.all_tensors if tensor.name == name)
    return next(found, component.hidden_size)


def unknown(class_name: str) -> RequestError:
    """Return the refusal of a denoiser whose blocks have no program."""
    return RequestError(
        tr("model: training of %(name)s is not modelled in this version.", name=class_name),
        field="model",
        hint=tr("Ask for inference, or name another pipeline."),
    )


__all__ = ["Pieces"]
