"""One block of a GGUF file as a layer: what its tensors are says which parts it has, its keys how wide they are.

Where keys and tensors disagree the tensors decide, because they are what is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vrameter.model.architecture import Attention, FeedForward, LatentAttention, Layer, Part, Scope, Tensor, Tensors
from vrameter.model.from_gguf.keys import Keys
from vrameter.model.from_gguf.mixers import MIXER_PREFIXES, recurrent
from vrameter.model.from_gguf.names import stem, tensor_of

Shape = tuple[int, ...]
_ATTENTION_NORMS = ("attn_q_", "attn_k_", "attn_kv_", "attn_sub_norm", "attn_compressor_", "indexer")
_QUERIES = ("attn_q", "attn_qkv", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv")


@dataclass(frozen=True, slots=True)
class Place:
    """A block's place: its number, what its attention looks at, and what the whole model says.

    Parameters
    ----------
    shares_cache
        Whether it reads the keys and values of an earlier layer.
    encoder
        Whether its attention caches nothing.
    """

    architecture: str
    keys: Keys
    layer: int
    hidden_size: int
    scope: Scope = "full"
    window: int | None = None
    shares_cache: bool = False
    encoder: bool = False


def layer_of(tensors: Mapping[str, Shape], place: Place) -> Layer:
    """Return the layer that a block's tensors make; names are relative to the block."""
    rest = [tensor_of(name, shape) for name, shape in tensors.items()]
    parts: list[Part] = []
    mixer, rest = recurrent(rest, place.keys, layer=place.layer, hidden_size=place.hidden_size, name=place.architecture)
    own, rest = _split(rest, lambda tensor: tensor.role == "attention" or _norm_of_attention(tensor))
    if any(stem(tensor.name) in _QUERIES for tensor in own):
        parts.append(attention(own, place))
    else:
        rest = [*own, *rest]
    cross, rest = _split(rest, lambda tensor: tensor.role == "cross_attention")
    if cross:
        scope: Scope = "cross"
        parts.append(replace(_plain_attention(cross, place, "cross_attn_"), scope=scope, window=None))
    if mixer is not None:
        parts.append(mixer)
    roles = {"mlp", "experts", "shared_experts", "router"}
    own, rest = _split(rest, lambda tensor: tensor.role in roles or tensor.slot == "latent")
    if any(tensor.slot in ("down", "up") for tensor in own):
        parts.append(feed_forward(own, place))
    else:
        rest = [*own, *rest]
    return Layer(tuple(parts), tuple(rest))


def _split(tensors: Iterable[Tensor], belongs: object) -> tuple[list[Tensor], list[Tensor]]:
    chosen: list[Tensor] = []
    others: list[Tensor] = []
    for tensor in tensors:
        (chosen if belongs(tensor) else others).append(tensor)  # type: ignore[operator]
    return chosen, others


def _norm_of_attention(tensor: Tensor) -> bool:
    return tensor.role == "norm" and tensor.name.startswith(_ATTENTION_NORMS)


def _matrices(tensors: Iterable[Tensor]) -> dict[str, Shape]:
    """Return the shapes of matrices by module."""
    return {
        stem(tensor.name): tensor.shape
        for tensor in tensors
        if tensor.name.endswith(".weight") and len(tensor.shape) > 1
    }


# -- attention ----------------------------------------------------------------------------------------


def attention(tensors: list[Tensor], place: Place) -> Attention | LatentAttention:
    """Return the attention of a block: latent where the file is converted for a latent cache."""
    shapes = _matrices(tensors)
    keys = place.keys
    if "attn_kv" in shapes:
        return _pooled_attention(tensors, shapes, place)
    latent = keys.number("attention.key_length_mla") or ("attn_k_b" in shapes and "attn_v_b" in shapes)
    if "attn_kv_a_mqa" in shapes and latent and not place.encoder:
        return _latent_attention(tensors, shapes, place)
    return _plain_attention(tensors, place)


def _plain_attention(tensors: list[Tensor], place: Place, prefix: str = "attn_") -> Attention:
    shapes = _matrices(tensors)
    heads = _heads(place)
    kv_heads = place.keys.at("attention.head_count_kv", place.layer, heads)
    key_dim, value_dim = _head_widths(place)
    if f"{prefix}k" in shapes:
        kv_heads, key_dim = _agreed(shapes[f"{prefix}k"][0], kv_heads, key_dim)
    if f"{prefix}v" in shapes and kv_heads:
        value_dim = shapes[f"{prefix}v"][0] // kv_heads or value_dim
    if f"{prefix}q" in shapes and key_dim and shapes[f"{prefix}q"][0] % key_dim == 0:
        per_head = shapes[f"{prefix}q"][0] // key_dim
        heads = heads if heads and per_head % heads == 0 else per_head
    scope: Scope = "encoder" if place.encoder else place.scope
    index = place.keys.number("attention.indexer.key_length") if _has_indexer(tensors) else 0
    return Attention(
        tensors=tuple(tensors),
        num_heads=max(1, heads),
        num_kv_heads=max(1, kv_heads),
        head_dim=key_dim,
        value_dim=value_dim,
        scope=scope,
        window=None if place.encoder else place.window,
        shares_cache=place.shares_cache,
        index_dim=index,
    )


def _heads(place: Place) -> int:
    return place.keys.at("attention.head_count", place.layer, place.keys.number("attention.head_count"))


def _head_widths(place: Place) -> tuple[int, int]:
    """Return the widths of a key head and of a value head, which windowed layers may have apart."""
    keys = place.keys
    heads = keys.first("attention.head_count") or keys.number("attention.head_count", 1) or 1
    even = place.hidden_size // heads
    key = keys.number("attention.key_length", keys.number("attention.head_dim", even))
    value = keys.number("attention.value_length", even if keys.get("attention.key_length") is None else key)
    if place.scope in ("sliding", "chunked"):
        return keys.number("attention.key_length_swa", key), keys.number("attention.value_length_swa", value)
    return key, value


def _agreed(rows: int, heads: int, width: int) -> tuple[int, int]:
    """Return key heads and their width so that they make the rows there are."""
    if heads * width == rows:
        return heads, width
    if width and rows % width == 0:
        return rows // width, width
    return (heads, rows // heads) if heads and rows % heads == 0 else (1, rows)


def _has_indexer(tensors: Iterable[Tensor]) -> bool:
    return any(tensor.slot == "index" and "_compressor_" not in tensor.name for tensor in tensors)


def _latent_attention(tensors: list[Tensor], shapes: Mapping[str, Shape], place: Place) -> LatentAttention:
    keys = place.keys
    windowed = place.scope == "sliding"
    rope = keys.number("rope.dimension_count", 64)
    rank = keys.number("attention.kv_lora_rank_swa" if windowed else "attention.kv_lora_rank")
    rank = rank or shapes["attn_kv_a_mqa"][0] - rope
    key = _either(keys, "attention.key_length_mla", windowed) or shapes.get("attn_k_b", (0, 0, 0))[-1] + rope
    value = _either(keys, "attention.value_length_mla", windowed) or shapes.get("attn_v_b", (0, 0, 0))[-2]
    indexed = _has_indexer(tensors)
    return LatentAttention(
        tensors=tuple(tensors),
        num_heads=max(1, _heads(place)),
        q_lora_rank=shapes["attn_q_a"][0] if "attn_q_a" in shapes else None,
        kv_lora_rank=rank,
        nope_dim=max(0, key - rope),
        rope_dim=max(0, shapes["attn_kv_a_mqa"][0] - rank),
        value_dim=value,
        index_heads=keys.number("attention.indexer.head_count") if indexed else 0,
        index_dim=keys.number("attention.indexer.key_length") if indexed else 0,
        scope=place.scope,
        window=place.window,
    )


def _either(keys: Keys, key: str, windowed: bool) -> int:
    return (keys.number(f"{key}_swa") if windowed else 0) or keys.number(key)


def _pooled_attention(tensors: list[Tensor], shapes: Mapping[str, Shape], place: Place) -> LatentAttention:
    """Return attention over a window and pooled older tokens, one vector each that is key and value."""
    keys = place.keys
    width = shapes["attn_kv"][0]
    rope = min(width, keys.number("rope.dimension_count", 64))
    rate = keys.at("attention.compress_ratios", place.layer) or 1
    indexed = _has_indexer(tensors)
    index_dim = keys.number("attention.indexer.key_length") if indexed else 0
    waiting = sum(
        2 * rate * shapes[name][0] + (2 * entry if shapes[name][0] > entry else 0)
        for name, entry in (("attn_compressor_kv", width), ("indexer_compressor_kv", index_dim))
        if name in shapes
    )
    return LatentAttention(
        tensors=tuple(tensors),
        num_heads=max(1, _heads(place)),
        q_lora_rank=shapes["attn_q_a"][0] if "attn_q_a" in shapes else None,
        kv_lora_rank=width - rope,
        nope_dim=width - rope,
        rope_dim=rope,
        value_dim=width,
        index_heads=keys.number("attention.indexer.head_count") if indexed else 0,
        index_dim=index_dim,
        scope="sliding" if rate == 1 else "full",
        window=keys.number("attention.sliding_window"),
        compression=rate,
        state_elements=waiting,
    )


# -- feed-forward -------------------------------------------------------------------------------------


def feed_forward(tensors: list[Tensor], place: Place) -> FeedForward:
    """Return the perceptron of a block, or its mixture of experts with what every token passes besides."""
    shapes = _matrices(tensors)
    experts = [tensor for tensor in tensors if tensor.role == "experts" and tensor.linear]
    dense = _width(shapes, "ffn_down", "channel_mix_value", "vis_down") or (
        shapes["ffn_up"][0] if "ffn_up" in shapes else 0
    )
    fused = "ffn_gate" not in shapes and "ffn_up" in shapes and shapes["ffn_up"][0] == 2 * dense > 0
    held = _fused(tensors, "ffn_up") if fused else tuple(tensors)
    gated = fused or any(tensor.slot in ("gate", "gate_up") and tensor.linear for tensor in tensors)
    if not experts:
        gated = gated and "channel_mix_key" not in shapes
        return FeedForward(held, intermediate_size=dense, gated=gated)
    stacked = [tensor for tensor in experts if len(tensor.shape) > 2]
    single = len({tensor.name for tensor in experts if tensor.slot == "down"})
    count = stacked[0].shape[0] if stacked else single
    width = next((tensor.shape[-1] for tensor in experts if tensor.slot == "down"), 0)
    used = place.keys.at("expert_used_count", place.layer, 1)
    return FeedForward(
        held,
        intermediate_size=width,
        gated=any(tensor.slot in ("gate", "gate_up") for tensor in experts),
        num_experts=count,
        num_experts_per_token=min(max(1, used), count),
        shared_size=_width(shapes, "ffn_down_shexp") + dense,
    )


def _width(shapes: Mapping[str, Shape], *modules: str) -> int:
    return next((shapes[module][-1] for module in modules if module in shapes), 0)


def _fused(tensors: list[Tensor], module: str) -> Tensors:
    """Return tensors with one module named as gate and up in one."""
    return tuple(tensor._replace(slot="gate_up") if stem(tensor.name) == module else tensor for tensor in tensors)


__all__ = ["MIXER_PREFIXES", "Place", "attention", "feed_forward", "layer_of"]
