"""Attention's operations: projections, caches, scores, latent attention and its indexer.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/llama-graph.cpp`` (``build_qkv``, ``build_attn``, ``build_attn_mha``) and
       ``src/llama-kv-cache.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vrameter.engines.llama_cpp.graph import tensors as op
from vrameter.engines.llama_cpp.graph.builder import Builder, LayerNodes
from vrameter.engines.llama_cpp.graph.tensors import Node
from vrameter.model.gguf_types import BLOCKS

INDEX_TOP_K = 2048


@dataclass(frozen=True, slots=True)
class Heads:
    """What one attention layer's graph depends on.

    Parameters
    ----------
    heads, kv_heads, key, value
        Query heads, key-value heads, and the widths of a key and a value.
    window
        Whether the layer looks only at a window, and so uses the smaller cache.
    rotary
        Whether queries and keys are rotated by position.
    norm_flat
        Whether queries and keys are normed over all heads at once, before they are split.
    norm_after_rope
        Whether they are normed after rotation; without weights where the layer has none.
    gated
        Whether the query matrix makes an output gate besides.
    shares
        Whether keys and values are an earlier layer's.
    """

    heads: int
    kv_heads: int
    key: int
    value: int
    window: bool = False
    rotary: bool = True
    norm_flat: bool = False
    norm_after_rope: bool = False
    scaled_by_position: bool = False
    value_norm: bool = False
    gated: bool = False
    shares: bool = False


@dataclass(frozen=True, slots=True)
class Latent:
    """What one layer of latent attention depends on; `index_heads` > 0 where an indexer chooses tokens."""

    heads: int
    nope: int
    rope: int
    value: int
    rank: int
    index_heads: int = 0
    index_dim: int = 0
    index_top_k: int = INDEX_TOP_K


def rotation_width(width: int) -> int:
    """Return the width of the rotation that a quantised key cache is multiplied by: the largest power of two that divides.

    >>> rotation_width(128), rotation_width(192), rotation_width(576)
    (128, 64, 64)
    """
    size = 64
    while width % (2 * size) == 0:
        size *= 2
    return size


def quantised(kind: str) -> bool:
    """Say whether a type holds blocks."""
    return BLOCKS[kind][0] > 1


class Attention:
    """Attention layers of one graph: they share masks, cache rows and rotations."""

    def __init__(
        self, builder: Builder, *, widths: Mapping[bool, tuple[int, int]], widest_value: int, windowed: bool
    ) -> None:
        """Give the widths of keys and values of the layers without and with a window: 0 where layers disagree."""
        self.builder = builder
        self.widths = widths
        self.widest_value = widest_value
        self.windowed = windowed
        self.zeros: Node | None = None

    # -- inputs -------------------------------------------------------------------------------------

    def mask(self, *, window: bool) -> Node:
        """Return the mask of the layers that look at everything, or of those with a window."""
        batch = self.builder.batch
        cells = batch.window_cells if window else batch.cells
        return self.builder.input(
            f"mask{window}", "f16" if batch.flash else "f32", cells, batch.num_tokens // batch.num_streams, 1,
            batch.num_streams,
        )  # fmt: skip

    def _rows(self, what: str, *, window: bool) -> Node:
        batch = self.builder.batch
        wide = what == "value" and not batch.flash
        return self.builder.input(f"{what}_rows{window}", "i64", batch.num_tokens * (self.widest_value if wide else 1))

    def rotations(self, *, window: bool) -> tuple[Node | None, Node | None]:
        """Return the matrices that keys and values are rotated by before a quantised cache, None where they are not."""
        batch = self.builder.batch
        key = value = None
        key_width, value_width = self.widths.get(window, (0, 0))
        if key_width and quantised(batch.key_type) and key_width % 64 == 0:
            size = rotation_width(key_width)
            key = self.builder.input(f"key_rotation{window}", "f32", size, size)
        if value_width and quantised(batch.value_type) and value_width % 64 == 0:
            value = self.builder.input(f"value_rotation{window}", "f32", 64, 64)
        return key, value

    # -- grouped-query attention --------------------------------------------------------------------

    def grouped(self, node: Node, layer: LayerNodes, heads: Heads) -> Node:
        """Return the output of attention with a cache."""
        builder, weights = self.builder, layer.weights
        query, key, value, gate = self._project(node, layer, heads)
        rotate_key, rotate_value = self.rotations(window=heads.window)
        if rotate_key is not None:
            query = _rotated(query, rotate_key)
            key = None if key is None else _rotated(key, rotate_key)
        if rotate_value is not None and value is not None:
            value = _rotated(value, rotate_value)
        expand = builder.graph.expand
        expand(query)
        # layers with windows expand keys first: the order in which tensors come to life
        order = (key, value) if self.windowed else (value, key)
        for each in order:
            if each is not None:
                expand(each)
        if key is not None and value is not None:
            expand(self._store_keys(layer.caches["k"], key, self._rows("key", window=heads.window)))
            expand(self._store_values(layer.caches["v"], value, self._rows("value", window=heads.window)))
        keys = self._keys(layer.caches["k"], heads.key, heads.kv_heads)
        values = self._values(layer.caches["v"], heads.value, heads.kv_heads)
        sinks = weights.get("attn_sinks.weight")
        made = self._attend(query, keys, values, self.mask(window=heads.window), sinks, None)
        if rotate_value is not None:
            made = _rotated(made, rotate_value)
        if gate is not None:
            made = op.same("mul", made, op.same("sigmoid", gate))
        return builder.linear(made, weights, "attn_output") if "attn_output.weight" in weights else made

    def _project(
        self, node: Node, layer: LayerNodes, heads: Heads
    ) -> tuple[Node, Node | None, Node | None, Node | None]:
        builder, weights, tokens = self.builder, layer.weights, node.ne[1]
        if heads.gated:
            return self._project_gated(node, layer, heads)
        flat = heads.norm_flat
        query: Node
        key: Node | None = None
        value: Node | None = None
        if "attn_qkv.weight" in weights:
            fused = builder.linear(node, weights, "attn_qkv")
            query, key, value = self._views(fused, heads, tokens)
        else:
            query = builder.linear(node, weights, "attn_q")
            if not heads.shares:
                key = builder.linear(node, weights, "attn_k")
                value = builder.linear(node, weights, "attn_v") if "attn_v.weight" in weights else key
            if not flat:
                query = op.reshape(query, heads.key, heads.heads, tokens)
                key = None if key is None else op.reshape(key, heads.key, heads.kv_heads, tokens)
                value = None if value is None else op.reshape(value, heads.value, heads.kv_heads, tokens)
        if not heads.norm_after_rope:
            query, key = self._normed(query, key, layer)
        if heads.value_norm and value is not None:
            value = op.same("rms_norm", value)
        if flat:
            query = op.reshape(query, heads.key, heads.heads, tokens)
            assert key is not None
            assert value is not None
            key = op.reshape(key, heads.key, heads.kv_heads, tokens)
            value = op.reshape(value, heads.value, heads.kv_heads, tokens)
        if heads.rotary:
            query = builder.rope(query, weights)
            key = None if key is None else builder.rope(key, weights)
        if heads.scaled_by_position:
            query = op.same("mul", query, builder.input("temperature", "f32", 1, 1, tokens))
        if heads.norm_after_rope and "attn_q_norm.weight" in weights:
            query, key = self._normed(query, key, layer)
        elif heads.norm_after_rope and heads.rotary:
            query = op.same("rms_norm", query)
            key = None if key is None else op.same("rms_norm", key)
        gate = builder.linear(node, weights, "attn_gate") if "attn_gate.weight" in weights else None
        return query, key, value, gate

    def _normed(self, query: Node, key: Node | None, layer: LayerNodes) -> tuple[Node, Node | None]:
        """Return queries and keys, normed where the layer has norms for them."""
        builder, weights = self.builder, layer.weights
        if "attn_q_norm.weight" in weights:
            query = builder.norm(query, weights, "attn_q_norm", layer.device)
        if "attn_k_norm.weight" in weights and key is not None:
            key = builder.norm(key, weights, "attn_k_norm", layer.device)
        return query, key

    def _views(self, fused: Node, heads: Heads, tokens: int) -> tuple[Node, Node, Node]:
        size, width = fused.nb[0], fused.nb[1]
        queries, keys = heads.key * heads.heads, heads.key * heads.kv_heads
        return (
            op.view_3d(fused, (heads.key, heads.heads, tokens), size * heads.key, width),
            op.view_3d(fused, (heads.key, heads.kv_heads, tokens), size * heads.key, width, size * queries),
            op.view_3d(
                fused, (heads.value, heads.kv_heads, tokens), size * heads.value, width, size * (queries + keys)
            ),
        )

    def _project_gated(self, node: Node, layer: LayerNodes, heads: Heads) -> tuple[Node, Node, Node, Node]:
        """Return query, key, value and the gate that the query matrix makes besides."""
        builder, weights, tokens = self.builder, layer.weights, node.ne[1]
        full = builder.linear(node, weights, "attn_q")
        key = builder.linear(node, weights, "attn_k")
        value = builder.linear(node, weights, "attn_v")
        size = full.nb[0]
        step, row = size * 2 * heads.key, size * 2 * heads.key * heads.heads
        query = op.view_3d(full, (heads.key, heads.heads, tokens), step, row)
        gate = op.view_3d(full, (heads.key, heads.heads, tokens), step, row, size * heads.key)
        key = op.reshape(key, heads.key, heads.kv_heads, tokens)
        value = op.reshape(value, heads.value, heads.kv_heads, tokens)
        query = builder.norm(query, weights, "attn_q_norm", layer.device)
        key = builder.norm(key, weights, "attn_k_norm", layer.device)
        gate = op.cont(gate, heads.key * heads.heads, tokens)
        return builder.rope(query, weights), builder.rope(key, weights), value, gate

    # -- the cache ----------------------------------------------------------------------------------

    def _store_keys(self, cache: Node, key: Node, rows: Node) -> Node:
        tokens, width = key.ne[2], key.ne[0] * key.ne[1]
        flat = op.view_2d(key, width, tokens, key.nb[2])
        if cache.ne[2] > 1:
            cache = op.reshape(cache, width, cache.ne[1] * cache.ne[2])
        return op.set_rows(cache, flat, rows)

    def _store_values(self, cache: Node, value: Node, rows: Node) -> Node:
        tokens, width = value.ne[2], value.ne[0] * value.ne[1]
        if self.builder.batch.flash:
            flat = op.view_2d(value, width, tokens, value.nb[2])
            if cache.ne[2] > 1:
                cache = op.reshape(cache, width, cache.ne[1] * cache.ne[2])
            return op.set_rows(cache, flat, rows)
        whole = value.nb[2] == op.row_bytes(value.type, width)
        value = op.reshape(value, width, tokens) if whole else op.cont(value, width, tokens)
        if width < cache.ne[0]:
            value = op.new("pad", value.type, (cache.ne[0], *value.ne[1:]), value)
        cache = op.reshape(cache, 1, cache.num_elements)
        return op.set_rows(cache, op.reshape(value, 1, value.num_elements), rows)

    def _keys(self, cache: Node, width: int, heads: int) -> Node:
        row = op.row_bytes(cache.type, cache.ne[0])
        return op.view_4d(
            cache, (width, heads, cache.ne[1], cache.ne[2]), op.row_bytes(cache.type, width), row, row * cache.ne[1]
        )

    def _values(self, cache: Node, width: int, heads: int) -> Node:
        kind, cells, streams = cache.type, cache.ne[1], cache.ne[2]
        if self.builder.batch.flash:
            return self._keys(cache, width, heads)
        column = op.row_bytes(kind, cells)
        return op.view_4d(cache, (cells, heads, width, streams), column * width, column, column * cache.ne[0])

    # -- scores -------------------------------------------------------------------------------------

    def _attend(
        self, query: Node, keys: Node, values: Node, mask: Node, sinks: Node | None, decompress: Node | None
    ) -> Node:
        builder, streams = self.builder, keys.ne[3]
        turned = values.nb[1] > values.nb[2]
        tokens = query.ne[2] // streams
        query = op.view_4d(
            query, (query.ne[0], query.ne[1], tokens, streams), query.nb[1], query.nb[2], query.nb[2] * tokens
        )
        query, keys, values = (op.permute(each, 0, 2, 1, 3) for each in (query, keys, values))
        if builder.batch.flash:
            if turned:
                values = op.transpose(values)
            if keys.type == "f32":
                keys = op.cast(keys, "f16")
            if values.type == "f32":
                values = op.cast(values, "f16")
            made = op.flash_attention(query, keys, values, mask, sinks)
            if decompress is not None:
                made = op.mul_mat(decompress, op.permute(made, 0, 2, 1, 3))
                made = op.cont(op.permute(made, 0, 2, 1, 3))
            made = op.reshape(made, made.ne[0] * made.ne[1], made.ne[2] * made.ne[3])
        else:
            scores = op.soft_max(op.mul_mat(keys, query), mask, sinks)
            if not turned:
                values = op.cont(op.transpose(values))
            made = op.mul_mat(values, scores)
            if decompress is not None:
                made = op.mul_mat(decompress, made)
            made = op.permute(made, 0, 2, 1, 3)
            made = op.cont(made, made.ne[0] * made.ne[1], made.ne[2] * made.ne[3])
            if builder.batch.kv_on_host and builder.batch.pins:
                made.pinned = builder.host
        return builder.graph.expand(made)

    # -- without a cache ----------------------------------------------------------------------------

    def uncached(self, node: Node, layer: LayerNodes, heads: Heads) -> Node:
        """Return the output of an encoder's attention, which sees the batch alone."""
        builder, batch = self.builder, self.builder.batch
        query, key, value, _ = self._project(node, layer, heads)
        assert key is not None
        assert value is not None
        for each in (query, key, value):
            builder.graph.expand(each)
        mask = builder.input(f"mask{heads.window}", "f16" if batch.flash else "f32", batch.num_tokens, batch.num_tokens)
        made = self._attend(query, key, value, mask, None, None)
        return builder.linear(made, layer.weights, "attn_output")

    # -- latent attention ---------------------------------------------------------------------------

    def latent(self, node: Node, layer: LayerNodes, latent: Latent) -> Node:
        """Return the output of latent attention: keys are the cached compressed vectors, values a view of them."""
        builder, weights, tokens = self.builder, layer.weights, node.ne[1]
        expand = builder.graph.expand
        width = latent.nope + latent.rope
        top: Node | None = None
        if "attn_q_a.weight" in weights:
            low = builder.linear(node, weights, "attn_q_a")
            low = builder.norm(low, weights, "attn_q_a_norm", layer.device)
            if latent.index_heads:
                top = self._index(node, low, layer, latent)
            query = builder.linear(low, weights, "attn_q_b")
        else:
            query = builder.linear(node, weights, "attn_q")
        if not latent.index_heads:
            query = op.reshape(query, width, latent.heads, tokens)
        compressed = builder.linear(node, weights, "attn_kv_a_mqa")
        size = compressed.nb[0]
        row = size * (latent.rank + latent.rope)
        content = op.view_2d(compressed, latent.rank, tokens, row)
        place = op.view_3d(compressed, (latent.rope, 1, tokens), row, row, size * latent.rank)
        step, jump = size * width, size * width * latent.heads
        plain = op.view_3d(query, (latent.nope, latent.heads, tokens), step, jump)
        rotated = op.view_3d(query, (latent.rope, latent.heads, tokens), step, jump, size * latent.nope)
        place = builder.rope(place, weights)
        content = builder.norm(content, weights, "attn_kv_a_norm", layer.device, rms=True)
        rotated = builder.rope(rotated, weights)
        absorbed = op.mul_mat(weights["attn_k_b.weight"], op.permute(plain, 0, 2, 1, 3))
        query = op.concat(op.permute(absorbed, 0, 2, 1, 3), rotated, 0)
        content = op.reshape(content, latent.rank, 1, tokens)
        key = op.concat(content, place, 0)
        expand(query)
        expand(content)
        expand(key)
        expand(self._store_keys(layer.caches["k"], key, self._rows("key", window=False)))
        mask = self.mask(window=False)
        if top is not None:
            mask = self._only(top, mask)
        keys = self._keys(layer.caches["k"], latent.rank + latent.rope, 1)
        values = op.view_4d(keys, (latent.rank, *keys.ne[1:]), *keys.nb[1:])
        made = self._attend(query, keys, values, mask, None, weights["attn_v_b.weight"])
        return builder.linear(made, weights, "attn_output")

    def _index(self, node: Node, low: Node, layer: LayerNodes, latent: Latent) -> Node:
        """Return the tokens that the indexer chooses."""
        builder, weights, tokens = self.builder, layer.weights, node.ne[1]
        batch = builder.batch
        dim, heads = latent.index_dim, latent.index_heads
        query = op.reshape(builder.linear(low, weights, "indexer.attn_q_b"), dim, heads, tokens)
        query = op.same("rope", query, builder.positions)
        key = builder.linear(node, weights, "indexer.attn_k")
        key = builder.norm(key, weights, "indexer.k_norm", layer.device, rms=False)
        key = op.same("rope", op.reshape(key, dim, 1, tokens), builder.positions)
        size = rotation_width(dim)
        rotation = builder.input("index_rotation", "f32", size, size)
        query, key = op.mul_mat(rotation, query), op.mul_mat(rotation, key)
        cache = layer.caches["index"]
        builder.graph.expand(self._store_keys(cache, key, builder.input("index_rows", "i64", batch.num_tokens)))
        share = builder.linear(node, weights, "indexer.proj")
        keys = self._keys(cache, dim, 1)
        streams = keys.ne[3]
        query = op.view_4d(
            query, (dim, heads, tokens // streams, streams), query.nb[1], query.nb[2], query.nb[3] // streams
        )
        share = op.view_4d(
            share, (share.ne[0], share.ne[1] // streams, share.ne[2], streams), share.nb[1],
            share.nb[2] // streams, share.nb[3] // streams,
        )  # fmt: skip
        share = op.same("scale", share)
        mask = builder.input("index_mask", "f16", batch.cells, batch.num_tokens // streams, 1, streams)
        score = op.new("indexer", "f32", (batch.cells, query.ne[2], 1, streams), query, keys, share, mask)
        count = min(batch.cells, latent.index_top_k)
        return op.cont(op.new("top_k", "i32", (count, *score.ne[1:]), score))

    def _only(self, top: Node, mask: Node) -> Node:
        """Return a mask that leaves only the chosen tokens."""
        closed = op.same("fill", mask)
        ne, nb = closed.ne, closed.nb
        closed = op.view_4d(closed, (1, ne[0], ne[1], ne[3]), nb[0], nb[1], nb[2])
        chosen = op.view_4d(top, (top.ne[0], top.ne[1], top.ne[3], 1), top.nb[1], top.nb[2], top.ne[3] * top.nb[3])
        self.zeros = zeros = op.leaf("f32", 1, *chosen.ne[:3])
        opened = op.set_rows(closed, op.same("fill", zeros), chosen)
        nb = opened.nb
        opened = op.view_4d(opened, (opened.ne[1], opened.ne[2], 1, opened.ne[3]), nb[2], nb[3], nb[3])
        return op.same("add", opened, mask)


def _rotated(node: Node, rotation: Node) -> Node:
    """Return a tensor multiplied by a rotation, group of columns by group."""
    size = rotation.ne[0]
    rows = node.num_elements // size
    flat = op.reshape(node, size, rows) if node.contiguous else op.cont(node, size, rows)
    return op.reshape(op.mul_mat(rotation, flat), *node.ne)
