"""The pieces that a step runs on one device: embedding, layers, head, each with what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import msgspec

from vrameter.model.architecture import Attention, Component, FeedForward, LatentAttention, Layer, Tensor
from vrameter.model.megatron import image_tokens
from vrameter.training import losses
from vrameter.training.companions import scores_vocabulary
from vrameter.training.constants import constants
from vrameter.training.families import traits_of
from vrameter.training.graph import Graph, Value
from vrameter.training.holdings import Holding
from vrameter.training.lending import borrowed, lender, lent
from vrameter.training.programs.litgpt import FIRST_ADAPTED_LAYER
from vrameter.training.programs.scene import Kernels, Scene, Traits, Use, norms_of
from vrameter.training.setup import TRAINED, Setup
from vrameter.training.sight import tower_pieces
from vrameter.training.simulate import Cost, cost
from vrameter.training.step import Piece, joined
from vrameter.units import ceil_div

# Costs kept for the next question about the same layer. They hold it, so that its id stays its own.
REMEMBERED = 512
_COSTS: dict[tuple[object, ...], tuple[object, Cost]] = {}


def remembered(key: tuple[object, ...], held: object, make: Callable[[], Cost]) -> Cost:
    """Return a cost, made once for a key; `held` is what the key names by its id, which lives as long."""
    known = _COSTS.get(key)
    if known is None:
        if len(_COSTS) >= REMEMBERED:
            _COSTS.clear()
        known = _COSTS[key] = (held, make())
    return known[1]


@dataclass(frozen=True)
class Pieces:
    """The pieces of one holding.

    Parameters
    ----------
    turns
        Turns that an interleaved pipeline cuts its layers into.
    """

    holding: Holding
    turns: int = 1

    @property
    def setup(self) -> Setup:
        """The request."""
        return self.holding.setup

    @cached_property
    def accumulates(self) -> bool:
        """Whether gradients have buffers of their own already."""
        setup = self.setup
        return (
            setup.settings.grad_accumulation > 1 or setup.stack.gradients == "buffer" or setup.degrees.splits_gradients
            or setup.settings.optimizer_in_backward or setup.recipe.contiguous_gradients
        )  # fmt: skip

    @cached_property
    def program(self) -> Any:
        """The module whose layers run."""
        return import_module(f"vrameter.training.programs.{self.setup.stack.program}")

    @cached_property
    def kernels(self) -> Kernels:
        """The kernels that the settings name."""
        settings = self.setup.settings
        asked = settings.attn_implementation or "sdpa"
        local = self.setup.stack.program == "megatron" and self.setup.architecture.model_type.endswith("_local")
        odd = self.setup.stack.program == "megatron" and any(
            isinstance(part, Attention) and part.head_dim % 8
            for layer, _ in self.setup.architecture.main.layer_groups for part in layer.parts
        )  # fmt: skip
        attention = "eager" if asked == "eager" or local or odd else "sdpa" if asked == "sdpa" else "flash"
        if attention == "flash" and self.prefers_cudnn:
            attention = "cudnn"
        fused = settings.fused_kernels or settings.compile
        return Kernels(
            attention=attention, repeats_kv=self.setup.stack.repeats_kv and attention == "sdpa", norm=fused, rope=fused,
            activation=fused, local=local,
        )  # fmt: skip

    @property
    def prefers_cudnn(self) -> bool:
        """Whether Transformer Engine runs cuDNN's attention: on Hopper, and where kernels need not be deterministic on Blackwell."""
        setup = self.setup
        device, args = setup.ask.device, setup.megatron
        # ms-swift's Megatron asks for FlashAttention by default.
        backend = (
            args.text("attention-backend") if args is not None else {"megatron-swift": "flash"}.get(setup.stack.name)
        )
        if setup.stack.program != "megatron" or backend == "flash":
            return False
        capability = float(device.compute_capability or 0) if device is not None else 9
        return 9 <= capability < 10 or (capability >= 10 and not (args is not None and args.flag("deterministic-mode")))

    def scene(
        self,
        component: Component,
        bare: frozenset[str] = frozenset(),
        *,
        prompted: bool = True,
        tied: Tensor | None = None,
    ) -> Callable[[Graph], Scene]:
        """Return the maker of scenes for a component's programs.

        Parameters
        ----------
        bare
            Tensors that get no adapter here though those of other layers do.
        prompted
            Whether the layer has a learned prompt of its own.
        tied
            The embedding, where it is the output layer's matrix too: adapters can train a copy of one and not of the other.
        """
        setup, holding = self.setup, self.holding
        traits = self.traits(component)
        length = self.length(component)
        known: dict[int, Use] = {}
        tower = component.name == "vision"
        kernels = replace(self.kernels, masks=not (self.kernels.local or tower))

        def use(tensor: Tensor) -> Use:
            found = known.get(id(tensor))
            if found is None:
                found = holding.use(component, tensor)
                if tensor.name in bare:
                    found = replace(found, adapter=None)
                if tensor is tied and setup.adapters is not None:
                    found = replace(found, trained=("head", "tied") in setup.adapters.copied)
                known[id(tensor)] = found
            return found

        adapters = setup.adapters
        enabled = adapters.by_slot if adapters else {}
        prompt = setup.recipe.numbers.compute if prompted and self.prompts else 0
        learned = adapters.prompt if adapters and component.kind == "decoder" else None
        prefix = learned.tokens if learned is not None and learned.place == "keys" else 0
        second = learned.tokens if learned is not None and learned.place == "beside" and prompted else 0

        def make(graph: Graph) -> Scene:
            return Scene(
                graph, setup.settings.micro_batch * self.sequences, length, setup.recipe.numbers, kernels, traits,
                use, keys=setup.length if setup.degrees.context > 1 and not tower else 0, enabled=enabled, prompt_element=prompt,
                ranks=self.split(component), exchanges=setup.degrees.expert > 1,
                expert_ranks=setup.degrees.expert_tensor, memory_tokens=self.memory_tokens, checkpoints=self.checkpoints,
                offloads=self.offloads, routing=self.routing, prefix_tokens=prefix, beside_tokens=second,
            )  # fmt: skip

        return make

    def traits(self, component: Component) -> Traits:
        """Return the traits of a component's layers, with the dropout that the settings name."""
        found, settings = traits_of(self.setup.architecture, component), self.setup.settings
        if self.setup.stack.program == "litgpt" and found.activation == "new":
            # LitGPT calls PyTorch's own GELU for both of its forms.
            found = replace(found, activation="native")
        if settings.attention_dropout is not None:
            found = replace(found, attention_dropout=settings.attention_dropout)
        if settings.hidden_dropout is not None:
            found = replace(found, hidden_dropout=settings.hidden_dropout)
        if self.setup.megatron is not None and self.setup.megatron.text("moe-router-dtype") == "fp32":
            found = replace(found, router="fp32")
        return found

    def length(self, component: Component) -> int:
        """Return the tokens of one sequence of a component on this device. [tokens]."""
        setup, args = self.setup, self.setup.megatron
        if args is None:
            return setup.local_length
        images = image_tokens(args)
        if component.name == "vision":
            return images
        own = args.number("decoder-seq-length", 0) if component.kind == "decoder" else 0
        return own or setup.local_length + ceil_div(images, setup.degrees.context)

    @cached_property
    def memory_tokens(self) -> int:
        """Tokens that cross-attention reads."""
        return self.tokens

    def rows(self, component: Component) -> int:
        """Return the tokens of one forward pass of a component on this device, split by sequence parallelism."""
        return self.setup.settings.micro_batch * self.sequences * self.length(component) // self.split(component)

    def split(self, component: Component) -> int:
        """Return the devices among which a component's tokens are split: those of a tower of images never are."""
        return 1 if component.name == "vision" else self.ranks

    @cached_property
    def checkpoints(self) -> frozenset[str]:
        """Parts of a layer that Megatron's selective recompute runs again; attention alone where none is named."""
        setup = self.setup
        if setup.settings.recompute != "selective" or setup.stack.program != "megatron":
            return frozenset()
        return frozenset(setup.settings.recompute_modules or ("core_attn",))

    @cached_property
    def routing(self) -> int:
        """What experts on this device get of routed tokens, in thousandths of an even share: uneven unless they are all here."""
        setup = self.setup
        if setup.degrees.expert == 1 or setup.stack.program != "megatron":
            return 1000
        args = setup.megatron
        even = ("moe-expert-capacity-factor", "moe-router-force-load-balancing")
        if args is not None and any(args.flag(name) for name in even):
            return 1000
        return constants().routing.typical

    @cached_property
    def offloads(self) -> frozenset[str]:
        """Parts of a layer whose kept tensors Megatron's fine-grained offloading takes to host memory."""
        args = self.setup.megatron
        if args is None or not args.flag("fine-grained-activation-offloading"):
            return frozenset()
        return frozenset(args.words("offload-modules"))

    @cached_property
    def ranks(self) -> int:
        """Devices among which tokens are split between matrices."""
        degrees = self.setup.degrees
        return degrees.tensor if degrees.sequence else 1

    @cached_property
    def sequences(self) -> int:
        """Sequences that one sample makes: a chosen and a rejected answer are two, of which a pack holds both."""
        settings = self.setup.settings
        if settings.objective == "reranker":
            return self.setup.stack.documents
        return 2 if settings.objective in ("dpo", "ipo", "orpo", "simpo", "cpo") and not settings.packing else 1

    @cached_property
    def tokens(self) -> int:
        """Tokens of one forward pass on this device."""
        return self.setup.settings.micro_batch * self.sequences * self.setup.local_length

    # -- pieces -------------------------------------------------------------------------------------

    @cached_property
    def all(self) -> tuple[Piece, ...]:
        """The pieces of one forward pass, in order."""
        found = tower_pieces(self, remembered) if self.seen else []
        bodies = [
            component
            for component in self.holding.share.loaded
            if component.kind in ("encoder", "decoder") and (component.layers or component.tensors)
        ]
        main = self.holding.share.main
        if not bodies:
            bodies = [main]
        for component in bodies:
            found += self._body(component)
        if self.holding.last:
            head = self._head(bodies[-1])
            for component in self.holding.share.loaded:
                if component.kind == "mtp":
                    given = self.rows(component) * component.hidden_size * self.setup.recipe.numbers.residual
                    found += [self._layer(component, layer, given, input_grad=True) for layer in component.layers]
                    found.append(head)
            found.append(replace(head, extra_saved=self.deferred))
        return tuple(found)

    @cached_property
    def seen(self) -> bool:
        """Whether the settings say what a sample shows."""
        settings = self.setup.settings
        return settings.image_size is not None or settings.video is not None

    @cached_property
    def deferred(self) -> int:
        """What waits for the embedding's gradient, where Megatron puts it off: logits' gradients and their inputs. [bytes]."""
        args = self.setup.megatron
        if args is None or not args.flag("defer-embedding-wgrad-compute"):
            return 0
        batches = args.number("wgrad-deferral-limit", 0) or self.setup.settings.grad_accumulation
        main = self.holding.share.main
        return batches * self.tokens * (main.vocab_size // self.setup.degrees.tensor + main.hidden_size) * 2

    def _body(self, component: Component) -> list[Piece]:
        setup = self.setup
        width, element = component.hidden_size, setup.recipe.numbers.residual
        given = self.rows(component) * width * element
        found: list[Piece] = []
        if self.holding.first and component.name != TRAINED:
            found.append(self._embedding(component, given))
        made: dict[tuple[object, ...], Piece] = {}
        adapters = setup.adapters
        # Layers below those that are trained make no graph at all.
        still = setup.settings.finetuning == "freeze" and component.name != TRAINED
        grad = not still and component.name != TRAINED and self._embedding_has_gradient(component)
        layers: list[Piece] = []
        for number, layer in enumerate(component.layers):
            place = component.first_layer + number
            bare = adapters.bare(component.kind, place) if adapters else frozenset()
            prompted = self._prompted(component, place)
            again = self.recomputes(number, len(component.layers))
            key = (id(layer), grad, again, bare, prompted)
            if key not in made:
                made[key] = self._layer(
                    component, layer, given, input_grad=grad, recomputed=again, bare=bare, prompted=prompted
                )
            layers.append(made[key])
            grad = grad or not (still or self._silent(component, layer, bare, prompted=prompted))
        if self.holding.last and self.offloads and layers:
            # What the backward pass needs at once stays.
            layers[-1] = replace(layers[-1], cost=replace(layers[-1].cost, offloaded=0))
        size = self.layers_per_checkpoint
        return [*found, *(joined(layers[start : start + size]) for start in range(0, len(layers), size))]

    @cached_property
    def layers_per_checkpoint(self) -> int:
        """Layers that one checkpoint spans, where recompute is uniform over groups of them."""
        settings = self.setup.settings
        uniform = settings.recompute == "full" and settings.recompute_method == "uniform"
        return (settings.recompute_num_layers or 1) if uniform else 1

    def recomputes(self, number: int, count: int) -> bool:
        """Say whether a layer runs again as a whole: all of them, the first of each turn (``block``), or every nth."""
        settings = self.setup.settings
        asked = settings.recompute_num_layers
        if settings.recompute == "full":
            if settings.recompute_method != "block" or asked is None:
                return True
            turn = -(-count // max(1, min(self.turns, count)))
            return number % turn < asked
        if settings.recompute != "selective":
            return False
        if settings.recompute_policy == "layer":
            return (number + 1) % (asked or 1) == 0
        return settings.recompute_policy in ("op", "attention")

    @cached_property
    def prompts(self) -> bool:
        """Whether layers attend to learned prompts of their own."""
        adapters = self.setup.adapters
        return adapters is not None and adapters.method in ("adapter", "adapter_v2")

    def _prompted(self, component: Component, number: int) -> bool:
        """Say whether a layer has a learned prompt of its own: Llama-Adapter's are in the last layers."""
        if self.prompts:
            return number >= FIRST_ADAPTED_LAYER
        adapters = self.setup.adapters
        prompt = adapters.prompt if adapters else None
        if prompt is None or component.kind != "decoder":
            return False
        return prompt.place == "keys" or number >= component.first_layer + len(component.layers) - prompt.layers

    def _silent(self, component: Component, layer: Layer, bare: frozenset[str], *, prompted: bool) -> bool:
        """Say whether nothing of a layer is trained, so that what comes before it needs no gradient."""
        adapters = self.setup.adapters
        if adapters is None or prompted or adapters.method == "llamapro":
            return False
        return not any(
            (adapters.use(component.kind, tensor) is not None and tensor.name not in bare)
            or self.holding.updated(component, tensor)
            for tensor in layer.all_tensors
        )

    def _embedding_has_gradient(self, component: Component) -> bool:
        setup = self.setup
        if setup.full or setup.settings.recompute != "none" or not self.holding.first:
            return True
        adapters = setup.adapters
        if adapters is None:
            return False
        placed = adapters.prompt is not None and adapters.prompt.place == "input"
        copied = any(kind == component.kind and name == tensor.name for kind, name in adapters.copied
                     for tensor in component.tensors if tensor.role == "embedding")  # fmt: skip
        return placed or copied or bool(adapters.tables) or bool(adapters.token_rows)

    def _embedding(self, component: Component, size: int) -> Piece:
        setup = self.setup
        tables = [tensor for tensor in component.tensors if tensor.role == "embedding"]
        trained = [tensor for tensor in tables if self.holding.updated(component, tensor)]
        fresh = sum(tensor.size for tensor in trained) * setup.recipe.gradient
        largest = max((tensor.size for tensor in trained), default=0) * setup.recipe.gradient
        kept, passing = self._adapted_tables(component, tables, size)
        ids = self.tokens * 8 + kept
        made = Cost(ids, ids, 0, 0, ids + size + passing, size + passing,
                    ids + size + passing + (largest if self.accumulates else fresh),
                    0 if self.accumulates else fresh, size)  # fmt: skip
        gathered = 0 if self.joins_ends else self.gathered(sum(tensor.size for tensor in tables))
        pending, joined = self.outermost
        return Piece("embedding", made, 0, gradients=0 if self.accumulates else fresh, gathered=gathered,
                     extra_backward=pending + joined)  # fmt: skip

    def _adapted_tables(self, component: Component, tables: list[Tensor], size: int) -> tuple[int, int]:
        """Return what adapters of embeddings keep, and what passes beside. [bytes].

        A low-rank one keeps the rows of its first matrix and makes the output in its own numbers; trained rows are put
        into a copy of the whole table. Learned keys and values of all layers are one tensor, which passes.
        """
        adapters, main = self.setup.adapters, self.holding.share.main
        if adapters is None:
            return 0, 0
        kept = passing = 0
        element = self.setup.recipe.numbers.residual
        for tensor in tables:
            use = adapters.tables.get((component.kind, tensor.name))
            if use is not None:
                kept += self.rows(component) * use.rank * use.element
                passing += size // element * use.element
        if adapters.token_rows and component is main:
            passing += sum(tensor.size for tensor in tables if tensor.slot == "token") * element
        prompt = adapters.prompt
        if prompt is not None and prompt.place == "keys" and component is main:
            width = next((part.num_kv_heads * part.head_dim for layer in main.layers for part in layer.parts
                          if isinstance(part, Attention)), 0)  # fmt: skip
            count = self.setup.settings.micro_batch * self.sequences * prompt.tokens * prompt.layers
            passing += count * 2 * width * element
        return kept, passing

    def _layer(
        self,
        component: Component,
        layer: Layer,
        given: int,
        *,
        input_grad: bool,
        recomputed: bool | None = None,
        bare: frozenset[str] = frozenset(),
        prompted: bool = False,
    ) -> Piece:
        setup = self.setup
        settings = setup.settings
        owner = lender(layer, (*component.layers, *setup.architecture.main.layers))
        again = 0
        if owner is not None:
            # What is lent has its gradient once, by whoever owns it.
            again = sum(tensor.size for tensor in borrowed(layer, owner) if self.holding.trained(component, tensor))
            layer = lent(layer, owner)
        made = self._layer_cost(component, layer, input_grad=input_grad, bare=bare, prompted=prompted)
        policy = settings.recompute_policy if settings.recompute == "selective" else None
        recomputed = self.recomputes(0, 1) if recomputed is None else recomputed
        kept = given
        if policy == "op":
            kept += self._kept_products(layer, component.hidden_size)
        elif policy == "attention":
            kept += self._kept_attention(layer)
        return Piece(
            "layer", made, given, recomputed=recomputed,
            kept_input=0 if settings.activation_offload else kept,
            gathered=self.gathered(layer.num_params),
            gradients=max(0, made.gradients - again * setup.recipe.gradient), extra_backward=self.outermost[0],
        )  # fmt: skip

    def _layer_cost(
        self, component: Component, layer: Layer, *, input_grad: bool, bare: frozenset[str], prompted: bool
    ) -> Cost:
        """Return what a layer's program costs, remembered for the next question about the same layer."""
        setup = self.setup
        key = (
            id(layer), component.kind, component.name, self.rows(component), self.length(component), setup.length, input_grad,
            self.accumulates, self.kernels, self.traits(component), self.signature, bare, prompted,
        )  # fmt: skip
        return remembered(
            key, layer,
            lambda: cost(
                lambda scene, x: self.program.layer(scene, layer, x), self.scene(component, bare, prompted=prompted), width=component.hidden_size,
                element=setup.recipe.numbers.residual, rows=self.rows(component), accumulates=self.accumulates, input_grad=input_grad,
            ),
        )  # fmt: skip

    @cached_property
    def signature(self) -> tuple[object, ...]:
        """What else a layer's cost depends on."""
        setup = self.setup
        adapter = msgspec.json.encode(setup.settings.adapter) if setup.settings.adapter else b""
        return (
            setup.recipe, setup.degrees, setup.plan.quantization, setup.plan.dtype, setup.frozen, setup.settings.finetuning,
            setup.settings.micro_batch, self.sequences, adapter, setup.stack.program, setup.stack.packed_keeps_input,
            setup.settings.precision, self.checkpoints, self.offloads, self.routing, setup.samples_layers,
            setup.stack.adapter_dtype, setup.stack.adapts_experts,
        )  # fmt: skip

    def _kept_products(self, layer: Layer, width: int) -> int:
        """Return what recompute by operation keeps: attention's output and every other matrix product. [bytes].

        In torchtitan's blocks these are queries, values, the gate (or first) and the last product of the perceptron; a
        compiler leaves the last out, which nothing needs again.
        """
        total = 0
        for part in layer.parts:
            if isinstance(part, Attention):
                total += 2 * part.num_heads * part.head_dim + part.num_kv_heads * part.value_dim
                total += 2 * part.num_heads
            elif isinstance(part, FeedForward):
                total += part.intermediate_size * max(1, part.num_experts_per_token)
                total += 0 if self.setup.settings.compile else width
        return total * self.tokens // self.ranks * self.setup.recipe.numbers.compute

    def _kept_attention(self, layer: Layer) -> int:
        """Return what recompute of all but attention keeps: its output and the sums of its softmax. [bytes]."""
        compute = self.setup.recipe.numbers.compute
        total = sum(
            part.num_heads * (part.value_dim * compute + 4)
            for part in layer.parts
            if isinstance(part, (Attention, LatentAttention))
        )
        return total * self.tokens // self.ranks

    @cached_property
    def prefetched(self) -> int:
        """Weights that are put together ahead of the layer that runs. [bytes].

        FSDP gathers the next layer; ZeRO lets up to a billion parameters stay (``stage3_max_live_parameters``).
        """
        setup = self.setup
        if setup.degrees.zero >= 3:
            most = setup.settings.stage3_max_live_parameters
            return min(10**9 if most is None else most, self.holding.share.num_params) * setup.recipe.numbers.compute
        return max((piece.gathered for piece in self.all if piece.name == "layer"), default=0)

    @cached_property
    def stays_whole(self) -> bool:
        """Whether a stage of a pipeline keeps its weights together for all micro-batches of a step."""
        degrees = self.setup.degrees
        return degrees.splits_weights and degrees.pipeline > 1 and degrees.fsdp is not None

    @cached_property
    def standing(self) -> int:
        """Weights that stay together from the forward to the backward pass, and their gradients with them. [bytes].

        FSDP's outermost group (embedding, last norm, head) is not split again in between; neither is anything in a
        pipeline, where gradients wait whole for the last micro-batch too.
        """
        setup = self.setup
        if not setup.degrees.splits_weights:
            return 0
        sides = sum(tensor.size for component in self.holding.share.loaded for tensor in component.tensors)
        if self.stays_whole:
            whole = self.holding.share.num_params
            grads = 4 if setup.full else 0
            return whole * (setup.recipe.numbers.compute + grads)
        return sides * setup.recipe.numbers.compute if self.joins_ends else 0

    @cached_property
    def joins_ends(self) -> bool:
        """Whether FSDP's outermost group holds the embedding and the output layer."""
        setup = self.setup
        return setup.degrees.fsdp is not None and not (setup.stack.shards_ends and setup.full)

    @cached_property
    def outermost(self) -> tuple[int, int]:
        """Gradients of FSDP's outermost group, which is reduced last. [bytes].

        The output layer's waits from the start of the backward pass; at its end all of the group are put together, for a flat
        parameter or for the reduction.
        """
        setup = self.setup
        if not self.joins_ends or self.stays_whole or not setup.full:
            return 0, 0
        sides = [(component, tensor) for component in self.holding.share.loaded for tensor in component.tensors]
        trained = [tensor for component, tensor in sides if self.holding.trained(component, tensor)]
        tied = self.holding.share.tied or setup.architecture.tied
        waiting = sum(tensor.size for tensor in trained if tensor.slot == ("token" if tied else "head"))
        element = setup.recipe.numbers.compute
        joined = max(element, setup.recipe.gradient if setup.degrees.fsdp == "fsdp2" else 0)
        return waiting * element, sum(tensor.size for tensor in trained) * joined

    @cached_property
    def buckets(self) -> int:
        """Copies of gradients on their way between devices. [bytes].

        Data parallelism copies all of them to buckets once; ZeRO's third stage reduces a bucket of `h * h` numbers at a time
        and keeps a second one filling, or one buffer of the size that a configuration states; FSDP reduces one layer's at a
        time, in fp32 where parameters are.
        """
        setup, degrees = self.setup, self.setup.degrees
        if degrees.data * degrees.context == 1 or setup.stack.program == "megatron":
            return 0
        trained = self.holding.trained_elements * setup.recipe.gradient
        trained += self.holding.adapter_parameters * setup.recipe.weight
        if degrees.zero:
            width = setup.architecture.main.hidden_size
            if degrees.zero < 3:
                return 0
            if setup.settings.reduce_bucket_size:
                return setup.settings.reduce_bucket_size * setup.recipe.gradient
            return min(2 * trained, 2 * width * width * setup.recipe.gradient)
        if degrees.fsdp:
            layers = max((piece.gathered for piece in self.all if piece.name == "layer"), default=0)
            return layers // setup.recipe.numbers.compute * (setup.recipe.numbers.compute + 4) if setup.full else 0
        return trained

    @cached_property
    def reducing(self) -> tuple[int, int, int]:
        """Buffers of a fixed size through which ZeRO's first stages reduce gradients in the backward pass. [bytes].

        Of the size that a configuration states, twice where communication overlaps. Without one as low as a square of the width,
        which ``auto`` means, and as high as two buffers.
        DeepSpeed 0.16, ``runtime/zero/stage_1_and_2.py``: ``backward_prologue``, ``reduce_bucket_size``.
        """
        setup = self.setup
        if not 1 <= setup.degrees.zero < 3 or setup.stack.program != "transformers":
            return 0, 0, 0
        if setup.settings.reduce_bucket_size:
            stated = setup.settings.reduce_bucket_size * setup.recipe.numbers.compute
            stated *= 2 if setup.settings.overlap_grad_reduce else 1
            return stated, stated, stated
        size = setup.stack.zero_bucket * setup.recipe.numbers.compute
        least = setup.architecture.main.hidden_size**2 * setup.recipe.numbers.compute
        return min(least, size), size, 2 * size

    @cached_property
    def broadcast(self) -> int:
        """What the first broadcast of DistributedDataParallel copies: all parameters, frozen ones included. [bytes]."""
        setup, degrees = self.setup, self.setup.degrees
        plain = setup.stack.program == "transformers" and not degrees.zero and degrees.fsdp is None
        return self.holding.weight_bytes if plain and degrees.data > 1 else 0

    def gathered(self, num_params: int) -> int:
        """Return what weights take while they are put together from shards. [bytes]."""
        setup = self.setup
        if not setup.degrees.splits_weights or self.stays_whole:
            return 0
        if setup.plan.quantization:
            return num_params * 5 // 8
        return num_params * setup.recipe.numbers.compute

    def _head(self, body: Component) -> Piece:
        setup = self.setup
        head = self.head_tensor(body) if scores_vocabulary(setup) else None
        shared = head if head is not None and head.role == "embedding" else None
        scene = self.scene(body, tied=shared)
        norms = list(_final_norms(body))
        vocab = head.shape[0] if head is not None else 0

        def program(where: Scene, x: Value) -> Value | None:
            for group in norms[-1:]:
                x = where.norm(x, group)
            if head is None:
                where.graph.seed(x)
                return None
            return self._loss(where, x, head, vocab)

        made = cost(
            program, scene, width=body.hidden_size, element=setup.recipe.numbers.residual, rows=self.rows(body),
            accumulates=self.accumulates, seeded=False,
        )  # fmt: skip
        given = self.rows(body) * body.hidden_size * setup.recipe.numbers.residual
        return Piece("head", made, given, gradients=made.gradients,
                     gathered=self.gathered(head.size if head is not None and not self.joins_ends else 0))  # fmt: skip

    def head_tensor(self, body: Component) -> Tensor | None:
        """Return the matrix from the last hidden state to the vocabulary, a tied embedding included."""
        share = self.holding.share
        for component in share.loaded:
            for tensor in component.tensors:
                if tensor.slot == "head" and len(tensor.shape) == 2:
                    return tensor
        if share.tied or self.setup.architecture.tied:
            return next((tensor for tensor in body.tensors if tensor.slot == "token"), None)
        return None

    def _loss(self, scene: Scene, x: Value, head: Tensor, vocab: int) -> Value | None:
        setup = self.setup
        kind, asked = setup.stack.loss, setup.settings.loss or "full"
        if kind == "megatron":
            args = setup.megatron
            te = args.text("cross-entropy-fusion-impl") == "te" if args else setup.stack.name == "megatron-bridge"
            fused = asked == "fused" or setup.settings.cross_entropy_loss_fusion
            losses.parallel(scene, x, head, vocab, compiled=fused and not te)
            return None
        if asked == "fused" and setup.stack.tiles_loss:
            losses.tiled(scene, x, head, vocab)
            return None
        if asked == "fused":
            losses.fused(scene, x, head, vocab)
            return None
        if kind == "fabric":
            return losses.fabric(scene, x, head, vocab, setup.settings.loss_chunk_tokens or 0)
        if asked == "chunked" and setup.stack.loss_pieces:
            losses.in_pieces(scene, x, head, vocab, setup.stack.loss_pieces, compiled=setup.settings.compile)
            return None
        if asked == "chunked":
            losses.chunked(scene, x, head, vocab, setup.settings.loss_chunk_tokens or -(-x.rows // 8),
                           compiled=setup.settings.compile)  # fmt: skip
            return None
        if setup.settings.compile and setup.stack.compiles_loss:
            losses.chunked(scene, x, head, vocab, x.rows, compiled=True)
            return None
        # transformers' Trainer runs half precision under autocast; DeepSpeed does not.
        mixed = setup.settings.autocast is not False and not setup.degrees.zero
        return losses.full(
            scene, x, head, vocab, shifts=setup.stack.shifts_logits, holds=setup.stack.holds_output, mixed=mixed
        )


def _final_norms(body: Component) -> list[tuple[Tensor, ...]]:
    return norms_of(Layer((), tuple(tensor for tensor in body.tensors if tensor.role == "norm")))


__all__ = ["Pieces"]
