"""A model's shape as data: components of layers, layers of parts, parts of tensors.

Every number that vrameter gives about a model is read off this one description: parameters and bytes
from the tensors, caches from what the parts say of themselves, activations from the widths.

An `Architecture` is a few `Component` s (the decoder, a vision tower, a projector). A component has
layers; equal layers are one object that stands at several places, so that counting a model of a
hundred layers touches each kind of layer once. A `Layer` has parts: an `Attention` or another mixer, a
`FeedForward`, and the tensors of its norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from vrameter.model.audio_input import AudioInput
    from vrameter.model.image_input import ImageInput
    from vrameter.model.vision.network import Network

from vrameter.model.wiring import NONE, Wiring

Role = Literal[
    "embedding", "attention", "cross_attention", "mixer", "mlp", "experts", "shared_experts", "router",
    "norm", "head", "projector", "convolution", "other",
]  # fmt: skip


class Tensor(NamedTuple):
    """One named array.

    Parameters
    ----------
    name
        Path below its layer or component: ``self_attn.q_proj.weight``.
    shape
        As torch stores it: outputs before inputs; experts stacked in front.
    role
        What it is for; the line of an overview that it counts in.
    slot
        Which one of its kind: ``q``, ``k``, ``v``, ``o``, ``gate``, ``up``, ``down``, ``token``, ...
        Quantisation mixtures, sharding and adapters go by it. Empty where nothing does.
    linear
        Whether it is the matrix of a linear layer, which a quantisation method may replace.
    buffer
        Whether it is stored and loaded but no parameter: a router's balancing bias, a fixed position.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    slot: str = ""
    linear: bool = False
    buffer: bool = False

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


Tensors = tuple[Tensor, ...]
Scope = Literal["full", "sliding", "chunked", "cross", "encoder"]


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head, grouped-query or multi-query attention.

    Parameters
    ----------
    head_dim, value_dim
        Widths of a key head and of a value head. [elements]
    scope
        What a token looks at, and so what the cache keeps: all tokens, the last `window`, the current
        chunk of `window` tokens, or an encoder's output (``cross``). ``encoder`` keeps nothing.
    window
        Tokens kept by a sliding or chunked scope. [tokens]
    num_sink_tokens
        First tokens kept beside the window. [tokens]
    shares_cache
        Whether keys and values are those of an earlier layer, so that this one keeps none.
    cross_tokens
        Encoder positions that cross-attention keeps, where the architecture fixes them. [tokens]
    index_dim
        Elements a token that an indexer, which chooses what to look at, keeps besides keys and values.
    """

    tensors: Tensors
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    scope: Scope = "full"
    window: int | None = None
    num_sink_tokens: int = 0
    shares_cache: bool = False
    cross_tokens: int | None = None
    index_dim: int = 0


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention: one compressed vector a token instead of keys and values.

    `index_heads` and `index_dim` describe the small attention that chooses tokens in sparse variants;
    it keeps `index_dim` more elements a token. `compression` is the number of tokens that share one
    cached entry where a variant pools its cache; its indexer's entries are pooled alike.

    A token's entry has ``kv_lora_rank + rope_dim`` elements. Without pooling, `window` is the reach of a sliding
    scope. With pooling (`compression` > 1) one entry stands for `compression` tokens without bound, and the last
    `window` tokens are kept unpooled besides; `state_elements` is what waits to be pooled, of fixed size per sequence.
    """

    tensors: Tensors
    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    index_heads: int = 0
    index_dim: int = 0
    scope: Scope = "full"
    window: int | None = None
    compression: int = 1
    state_elements: int = 0


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A mixer with a state of fixed size per sequence instead of a cache that grows.

    Parameters
    ----------
    kind
        ``mamba``, ``mamba2``, ``gated_delta_net``, ``kda``, ``linear_attention``, ``rg_lru``, ``mlstm``, ``rwkv``,
        ``short_conv``.
    conv_channels, conv_kernel
        The short convolution before it: engines keep its last ``kernel - 1`` columns, transformers `kernel`.
    state_elements
        Elements of the recurrent state of one sequence.
    state_fp32
        Whether the recurrent state is kept in fp32 whatever the model's dtype.
    inner_size
        Width inside the mixer, for activations. [elements]
    num_heads, head_dim, state_size
        The state as a matrix per head: `head_dim` channels with `state_size` numbers each. Mamba-1 keeps one channel a
        head; linear attention keeps value widths as `head_dim` and key widths as `state_size`. 0 where there is none.
    num_groups
        Heads that share what writes to and reads from the state are a group: Mamba-2's B and C, the key heads of a
        delta net. Where more devices than groups share a mixer, each holds a copy of its group.
    """

    tensors: Tensors
    kind: str
    conv_channels: int = 0
    conv_kernel: int = 0
    state_elements: int = 0
    state_fp32: bool = False
    inner_size: int = 0
    num_heads: int = 0
    head_dim: int = 0
    state_size: int = 0
    num_groups: int = 0


@dataclass(frozen=True, slots=True)
class FeedForward:
    """A multi-layer perceptron, or a mixture of them.

    `intermediate_size` is the width of one expert where `num_experts` > 0, and `shared_size` the width of what
    every token passes besides.
    """

    tensors: Tensors
    intermediate_size: int
    gated: bool = True
    num_experts: int = 0
    num_experts_per_token: int = 0
    shared_size: int = 0


Part = Attention | LatentAttention | Recurrent | FeedForward


@dataclass(frozen=True)
class Layer:
    """One block: its parts in order, and the tensors that belong to none of them (norms, scales)."""

    parts: tuple[Part, ...]
    tensors: Tensors = ()

    def experts_in(self, tensor: Tensor) -> int:
        """Return how many experts' matrices a tensor of experts holds: stacked along its first axis, or along its rows."""
        part = next(
            (
                each
                for each in self.parts
                if isinstance(each, FeedForward) and each.num_experts and tensor in each.tensors
            ),
            None,
        )
        first = tensor.shape[0]
        if part is None or first <= part.num_experts:
            return first if part is not None else 1
        alone = sum(each.slot == tensor.slot for each in part.tensors) > 1
        return 1 if alone or first % part.intermediate_size else first // part.intermediate_size

    @cached_property
    def all_tensors(self) -> Tensors:
        """Every tensor of the layer, names relative to it."""
        return (*(tensor for part in self.parts for tensor in part.tensors), *self.tensors)

    @cached_property
    def num_params(self) -> int:
        """Parameters, buffers left out."""
        return sum(tensor.size for tensor in self.all_tensors if not tensor.buffer)

    @cached_property
    def num_active_params(self) -> int:
        """Parameters that one token uses: of the experts only those chosen."""
        return self.num_params - sum(
            tensor.size - tensor.size * part.num_experts_per_token // part.num_experts
            for part in self.parts
            if isinstance(part, FeedForward) and part.num_experts
            for tensor in part.tensors
            if tensor.role == "experts" and not tensor.buffer
        )


ComponentKind = Literal[
    "decoder", "encoder", "vision", "audio", "projector", "head", "mtp", "denoiser", "autoencoder", "other",
]  # fmt: skip


@dataclass(frozen=True)
class Component:
    """A stack of layers with its embeddings and final norm, or a bag of tensors such as a projector.

    Parameters
    ----------
    prefix
        Module path put before the names of `tensors`: ``model``; may be empty.
    layers_prefix
        Module path of the layer list: ``model.layers``.
    loaded
        False for what a checkpoint stores and a plain loader skips, such as multi-token prediction.
    first_layer
        Number that the first layer bears in names, where they go on from another component's or this is a share.
    image
        What a vision tower makes of an image: its patches, and the tokens that the decoder sees of it.
    audio
        How an audio encoder comes from seconds to frames and tokens.
    activation
        The function between its perceptrons' matrices as transformers calls it, where the config names one.
    """

    kind: ComponentKind
    name: str
    hidden_size: int
    layers: tuple[Layer, ...] = ()
    tensors: Tensors = ()
    prefix: str = ""
    layers_prefix: str = "layers"
    vocab_size: int = 0
    max_positions: int = 0
    loaded: bool = True
    first_layer: int = 0
    image: ImageInput | None = None
    audio: AudioInput | None = None
    activation: str = ""

    @cached_property
    def layer_groups(self) -> tuple[tuple[Layer, tuple[int, ...]], ...]:
        """Distinct layers with the places where they stand."""
        places: dict[int, list[int]] = {}
        by_identity: dict[int, Layer] = {}
        for index, layer in enumerate(self.layers):
            places.setdefault(id(layer), []).append(index)
            by_identity[id(layer)] = layer
        return tuple((by_identity[key], tuple(indices)) for key, indices in places.items())

    @cached_property
    def num_params(self) -> int:
        """Parameters of the component."""
        return sum(tensor.size for tensor in self.tensors if not tensor.buffer) + sum(
            layer.num_params * len(places) for layer, places in self.layer_groups
        )

    @cached_property
    def num_active_params(self) -> int:
        """Parameters that one token uses."""
        return self.num_params - sum(
            (layer.num_params - layer.num_active_params) * len(places) for layer, places in self.layer_groups
        )

    def named_tensors(self) -> Iterator[tuple[str, int | None, Tensor]]:
        """Yield every tensor with its full name and layer number."""
        for tensor in self.tensors:
            yield joined(self.prefix, tensor.name), None, tensor
        for number, layer in enumerate(self.layers, self.first_layer):
            for tensor in layer.all_tensors:
                yield f"{self.layers_prefix}.{number}.{tensor.name}", number, tensor

    def counted_tensors(self) -> Iterator[tuple[Tensor, int]]:
        """Yield every distinct tensor with how often it occurs, for sums."""
        for tensor in self.tensors:
            yield tensor, 1
        for layer, places in self.layer_groups:
            for tensor in layer.all_tensors:
                yield tensor, len(places)


@dataclass(frozen=True)
class Architecture:
    """A model.

    Parameters
    ----------
    name
        What it was asked for as, or what the config calls itself.
    class_name
        The class that would be built: ``LlamaForCausalLM``.
    tied
        Names of matrices that share another's memory: a head tied to the embedding.
    dtype
        The checkpoint's own dtype as the config states it, or None.
    quantization_config
        The object of that name in the config, or None.
    stored_extra
        Tensors that the file is known to hold beyond what is loaded: duplicated heads, rotary buffers.
    notes
        What the reader assumed.
    rotary_tables
        Positions and width of the tables of rotary angles that engines build.
    rotary_axes
        Whether angles count time, height and width apart: in ``sections`` of a head, or ``interleaved``; empty where not.
    wiring
        What the config says beyond shapes, as far as memory depends on it.
    network
        What an image model computes, where its program is known.
    """

    name: str
    model_type: str
    class_name: str
    components: tuple[Component, ...]
    tied: tuple[str, ...] = ()
    dtype: str | None = None
    quantization_config: dict[str, object] | None = None
    stored_extra: Tensors = ()
    notes: tuple[str, ...] = ()
    rotary_tables: tuple[tuple[int, int], ...] = ()
    rotary_axes: Literal["", "sections", "interleaved"] = ""
    wiring: Wiring = NONE
    network: Network | None = None

    def __hash__(self) -> int:
        return hash((self.name, self.model_type, self.class_name, self.num_params))

    @cached_property
    def loaded(self) -> tuple[Component, ...]:
        """Components that a plain loader builds."""
        return tuple(component for component in self.components if component.loaded)

    @cached_property
    def num_params(self) -> int:
        """Parameters as loaded, which is what ``model.parameters()`` counts."""
        return sum(component.num_params for component in self.loaded)

    @cached_property
    def num_active_params(self) -> int:
        """Parameters that one token uses."""
        return sum(component.num_active_params for component in self.loaded)

    @cached_property
    def num_embedding_params(self) -> int:
        """Parameters of token and position tables."""
        return sum(
            tensor.size * times
            for component in self.loaded
            for tensor, times in component.counted_tensors()
            if tensor.role == "embedding" and not tensor.buffer
        )

    @cached_property
    def params_by_role(self) -> dict[str, int]:
        """Parameters of each role, the largest first."""
        sums: dict[str, int] = {}
        for component in self.loaded:
            for tensor, times in component.counted_tensors():
                if not tensor.buffer:
                    sums[tensor.role] = sums.get(tensor.role, 0) + tensor.size * times
        return dict(sorted(sums.items(), key=lambda pair: -pair[1]))

    @cached_property
    def num_buffer_elements(self) -> int:
        """Elements that are loaded and stored but are no parameters."""
        return sum(
            tensor.size * times
            for component in self.loaded
            for tensor, times in component.counted_tensors()
            if tensor.buffer
        )

    @cached_property
    def num_stored_params(self) -> int:
        """Elements that an unquantised checkpoint holds: loaded, buffers, and what loaders skip."""
        return (
            self.num_params
            + self.num_buffer_elements
            + sum(
                tensor.size * times
                for component in self.components
                if not component.loaded
                for tensor, times in component.counted_tensors()
            )
            + sum(tensor.size for tensor in self.stored_extra)
        )

    def component(self, kind: ComponentKind) -> Component | None:
        """Return the first component of a kind."""
        return next((component for component in self.components if component.kind == kind), None)

    @cached_property
    def decoder(self) -> Component | None:
        """The component that generates tokens, or None for a pure encoder."""
        return self.component("decoder")

    @cached_property
    def main(self) -> Component:
        """The decoder, else the component with the most parameters."""
        return self.decoder or max(self.components, key=lambda component: component.num_params)

    def named_tensors(self) -> Iterator[tuple[str, int | None, Tensor]]:
        """Yield every loaded tensor with its full name and layer number."""
        for component in self.loaded:
            yield from component.named_tensors()

    def renamed(self, name: str, *, notes: tuple[str, ...] = ()) -> Architecture:
        """Return the same model under another name, with notes added."""
        return replace(self, name=name, notes=(*self.notes, *notes))


Function = TypeVar("Function", bound=Callable[..., Any])


def remembered(function: Function) -> Function:
    """Return a pure function of an architecture or a component that keeps its answers with that object.

    The first argument must be the object; the others must be hashable. Answers go when the object goes.
    """

    @wraps(function)
    def wrapped(shape: Any, /, *arguments: Any, **named: Any) -> Any:
        known = shape.__dict__.setdefault("_remembered", {})
        key = (function, arguments, tuple(named.items()))
        try:
            return known[key]
        except KeyError:
            found = known[key] = function(shape, *arguments, **named)
            return found

    return wrapped  # type: ignore[return-value]


def joined(prefix: str, name: str) -> str:
    """Return a module path below another; either may be empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


__all__ = [
    "Architecture", "Attention", "Component", "FeedForward", "LatentAttention", "Layer", "Part", "Recurrent",
    "Role", "Tensor", "Tensors", "joined", "remembered",
]  # fmt: skip
