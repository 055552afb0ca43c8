"""Keys and values kept during generation.

One vector per token, per layer, per KV head, for keys and again for values. Grouped-query attention shrinks
the number of KV heads [1]_, latent attention keeps one compressed vector instead [2]_, windows bound the number
of tokens, and layers that share another's cache keep nothing.

References
----------
.. [1] J. Ainslie et al., "GQA", 2023, arXiv:2305.13245.
.. [2] DeepSeek-AI, "DeepSeek-V2", 2024, arXiv:2405.04434, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vrameter.memory.cache_formats import FORMATS, CacheFormat
from vrameter.model.architecture import Architecture, Attention, Component, LatentAttention, Recurrent, remembered
from vrameter.units import ceil_div


@dataclass(frozen=True, slots=True)
class CachedLayers:
    """Layers that cache alike.

    Parameters
    ----------
    count
        How many of them.
    entry_bytes
        Bytes of one cached entry of one layer on one device.
    limit
        Tokens kept at most; None where the cache grows with the context. [tokens]
    tokens_per_entry
        Tokens that share one entry, where a layer pools its cache. [tokens]
    whole_entry_bytes
        The same entry in the model's own dtype: what the residual tokens take.
    residual_tokens
        Last tokens kept in the model's own dtype. [tokens]
    cross_tokens
        Encoder positions kept, for cross-attention; None for self-attention, 0 where the request decides.
    """

    count: int
    entry_bytes: int
    limit: int | None = None
    tokens_per_entry: int = 1
    whole_entry_bytes: int = 0
    residual_tokens: int = 0
    cross_tokens: int | None = None

    def tokens_kept(self, seq_len: int) -> int:
        """Return how many of `seq_len` tokens a layer keeps. [tokens]."""
        return seq_len if self.limit is None else min(seq_len, self.limit)

    def sequence_bytes(self, seq_len: int) -> int:
        """Return what these layers keep of one sequence. [bytes]."""
        kept = self.tokens_kept(seq_len)
        entries = ceil_div(kept, self.tokens_per_entry)
        whole = min(entries, self.residual_tokens)
        return self.count * ((entries - whole) * self.entry_bytes + whole * self.whole_entry_bytes)


def cached_layers(component: Component, kv_format: CacheFormat, own_format: CacheFormat) -> tuple[CachedLayers, ...]:
    """Return the layers of a decoder grouped by how they cache."""
    groups: dict[tuple[int, int | None, int, int, int, int | None], int] = {}
    caching = [
        part
        for layer in component.layers
        for part in layer.parts
        if isinstance(part, LatentAttention) or (isinstance(part, Attention) and part.scope != "encoder")
    ]
    hybrid = any(isinstance(part, Recurrent) for layer, _ in component.layer_groups for part in layer.parts)
    edges = 0 if hybrid else kv_format.whole_edge_layers
    for index, part in enumerate(caching):
        stored = own_format if index < edges or index >= len(caching) - edges else kv_format
        if isinstance(part, LatentAttention):
            entry = stored.latent_entry(part.kv_lora_rank, part.rope_dim)
            whole = own_format.latent_entry(part.kv_lora_rank, part.rope_dim)
            limit = part.window if part.scope == "sliding" else None
            entries: list[tuple[int, int | None, int, int, int, int | None]] = [
                (entry, limit, part.compression, whole, stored.residual_tokens, None)
            ]
            if part.index_dim:
                index_bytes = part.index_dim + 4 if stored.latent is not None else own_format.key(part.index_dim)
                entries.append((index_bytes, None, part.compression, index_bytes, 0, None))
        else:
            if part.shares_cache:
                continue
            heads = part.num_kv_heads
            entry = heads * stored.pair(part.head_dim, part.value_dim)
            whole = heads * own_format.pair(part.head_dim, part.value_dim)
            cross = (part.cross_tokens or 0) if part.scope == "cross" else None
            limit = part.window + part.num_sink_tokens if part.window and part.scope in ("sliding", "chunked") else None
            entries = [(entry, limit, 1, whole, stored.residual_tokens, cross)]
        for key in entries:
            groups[key] = groups.get(key, 0) + 1
    return tuple(
        CachedLayers(
            count=count,
            entry_bytes=entry,
            limit=limit,
            tokens_per_entry=pooled,
            whole_entry_bytes=whole,
            residual_tokens=residual,
            cross_tokens=cross,
        )
        for (entry, limit, pooled, whole, residual, cross), count in groups.items()
    )


@dataclass(frozen=True)
class CacheShape:
    """What one sequence's cache consists of, on one device."""

    layers: tuple[CachedLayers, ...]

    @cached_property
    def self_layers(self) -> tuple[CachedLayers, ...]:
        """Layers that cache the decoder's own tokens."""
        return tuple(group for group in self.layers if group.cross_tokens is None)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one more token adds however long the context is; of windowed layers where no other grows."""
        growing = [group for group in self.self_layers if group.limit is None] or list(self.self_layers)
        return sum(ceil_div(group.count * group.entry_bytes, group.tokens_per_entry) for group in growing)

    @property
    def window_bytes_per_token(self) -> int:
        """Bytes that one more token adds in layers with a window, until it is full."""
        return sum(group.count * group.entry_bytes for group in self.self_layers if group.limit is not None)

    def sequence_bytes(self, seq_len: int, *, encoder_tokens: int = 0) -> int:
        """Return the cache of one sequence, cross-attention included. [bytes]."""
        own = sum(group.sequence_bytes(seq_len) for group in self.self_layers)
        return own + self.cross_bytes(encoder_tokens)

    def cross_bytes(self, encoder_tokens: int) -> int:
        """Return what cross-attention keeps of one sequence. [bytes]."""
        return sum(
            group.count * group.entry_bytes * (group.cross_tokens or encoder_tokens)
            for group in self.layers
            if group.cross_tokens is not None
        )

    def unwindowed_bytes(self, seq_len: int) -> int:
        """Return the cache of one sequence before windows cut it. [bytes]."""
        return sum(
            group.count * group.entry_bytes * ceil_div(seq_len, group.tokens_per_entry) for group in self.self_layers
        )

    @property
    def largest_layer_entry(self) -> int:
        """Bytes of one token in the widest layer."""
        return max((group.entry_bytes for group in self.self_layers), default=0)


@remembered
def cache_shape(architecture: Architecture, *, kv_dtype: str = "bf16", own_dtype: str = "bf16") -> CacheShape:
    """Return the cache of a model's decoder, or of a share of it; empty for a model that generates nothing.

    Examples
    --------
    See `kv_cache_bytes` for the closed form of one kind of layer.
    """
    decoder = architecture.decoder
    if decoder is None:
        return CacheShape(())
    return CacheShape(cached_layers(decoder, FORMATS[kv_dtype], FORMATS[own_dtype]))


def kv_cache_bytes(
    *,
    num_seqs: int,
    num_tokens: int,
    bytes_per_token: int,
    num_window_tokens: int,
    window_bytes_per_token: int,
    fixed_bytes: int,
) -> int:
    """Return the bytes of the KV cache that one device holds.

    Formula::

        num_seqs * (num_tokens * bytes_per_token + num_window_tokens * window_bytes_per_token + fixed_bytes)

    Parameters
    ----------
    num_seqs
        Sequences held at once, beams counted. [sequences]
    num_tokens
        Tokens of one sequence kept by layers whose cache grows with the context. [tokens]
    bytes_per_token
        Bytes of one token in those layers: keys, values, scales. [bytes]
    num_window_tokens
        Tokens kept by layers with a window. [tokens]
    window_bytes_per_token
        Bytes of one token in these. [bytes]
    fixed_bytes
        What a sequence keeps beside that: cross-attention to an encoder, rounding of pooled entries, the tokens
        that a quantised cache keeps whole. [bytes]

    Examples
    --------
    Llama 3.1 8B with 8192 cached tokens in bf16 is exactly one GiB:

    >>> kv_cache_bytes(num_seqs=1, num_tokens=8192, bytes_per_token=131072,
    ...                num_window_tokens=0, window_bytes_per_token=0, fixed_bytes=0)
    1073741824
    """
    return num_seqs * (num_tokens * bytes_per_token + num_window_tokens * window_bytes_per_token + fixed_bytes)
