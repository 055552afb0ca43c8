"""Recurrent mixers' operations: Mamba 1 and 2, gated delta nets, short convolutions.

Each reads its state rows, writes the new ones back, and computes the batch with one scan.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/models/mamba-base.cpp``, ``delta-net-base.cpp``, ``qwen3next.cpp``, ``qwen35.cpp``,
       ``lfm2.cpp``; ``src/llama-graph.cpp`` (``build_rs``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vrameter.engines.llama_cpp.graph import tensors as op
from vrameter.engines.llama_cpp.graph.builder import Builder, LayerNodes, Weights
from vrameter.engines.llama_cpp.graph.tensors import Node

Reader = Callable[[Node, Node], Node]


KINDS = frozenset({"mamba", "mamba2", "gated_delta_net", "short_conv"})


@dataclass(frozen=True, slots=True)
class Mixer:
    """What one recurrent layer's graph depends on.

    Parameters
    ----------
    kind
        ``mamba``, ``mamba2``, ``gated_delta_net`` or ``short_conv``.
    inner, state, conv
        Width inside, numbers of state per channel (key width of a delta net), columns of the convolution.
    heads, groups
        Heads (of values), and groups that share what writes to the state (key heads).
    split_inputs
        Whether a delta net's queries, keys, values and gates come from matrices of their own (two for gate and decay).
    repeats_keys
        Whether its keys are repeated to the heads of values.
    norms_steps
        Whether Mamba's step, B and C are normed even without weights for it.
    """

    kind: str
    inner: int
    state: int
    conv: int
    heads: int
    groups: int
    split_inputs: bool = False
    repeats_keys: bool = True
    norms_steps: bool = False


class Mixers:
    """The recurrent layers of one graph: they share the list of state rows."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def mix(self, node: Node, layer: LayerNodes, mixer: Mixer) -> Node:
        """Return the mixer's output."""
        make = {
            "mamba": self._mamba, "mamba2": self._mamba2, "gated_delta_net": self._delta_net,
            "short_conv": self._short_conv,
        }[mixer.kind]  # fmt: skip
        return make(node, layer, mixer)

    # -- states -------------------------------------------------------------------------------------

    def _rows(self) -> tuple[Node, Node]:
        """Return which states the batch's sequences have, and the others."""
        builder, seqs = self.builder, self.builder.batch.num_seqs
        if "state_rows" not in builder.inputs:
            rows = builder.input("state_rows", "i32", seqs)
            builder.inputs["state_rows_used"] = op.view_1d(rows, seqs)
            builder.inputs["state_rows_other"] = op.view_1d(rows, 0, seqs * rows.nb[0])
        return builder.inputs["state_rows_used"], builder.inputs["state_rows_other"]

    def _states(self, cache: Node, width: int, read: Reader = op.get_rows) -> Node:
        """Return the states of the batch's sequences, read from a cache of rows."""
        expand, seqs = self.builder.graph.expand, self.builder.batch.num_seqs
        used, others = self._rows()
        states = op.reshape(cache, width, cache.ne[1])
        expand(op.inplace("scale", op.view_1d(states, width)))
        found = expand(read(states, used))
        rest = op.get_rows(states, others)
        expand(op.copy_into(rest, op.view_2d(cache, width, 0, cache.nb[1], seqs * cache.nb[1])))
        return found

    def _write_columns(self, source: Node, cache: Node, columns: int, channels: int, *, flat: bool) -> None:
        """Write the last columns of a convolution's input back as the newest state, and older ones as snapshots."""
        batch = self.builder.batch
        seqs, width = batch.num_seqs, columns * channels
        kept = min(batch.tokens_per_seq, batch.snapshots + 1)
        for slot in range(kept):
            last = op.view_3d(
                source, (columns, channels, seqs), source.nb[1], source.nb[2],
                (batch.tokens_per_seq - slot) * source.nb[0],
            )  # fmt: skip
            row = op.row_bytes(cache.type, width)
            target = (
                op.view_1d(cache, width * seqs)
                if flat
                else op.view_2d(cache, width, seqs, cache.nb[1], slot * seqs * row)
            )
            self.builder.graph.expand(op.copy_into(last, target))

    # -- Mamba --------------------------------------------------------------------------------------

    def _mamba(self, node: Node, layer: LayerNodes, mixer: Mixer) -> Node:
        builder, weights, batch = self.builder, layer.weights, self.builder.batch
        seqs, tokens = batch.num_seqs, batch.tokens_per_seq
        columns, inner, state = mixer.conv - 1, mixer.inner, mixer.state
        rank = weights["ssm_dt.weight"].ne[0]
        past = op.reshape(self._states(layer.caches["r"], columns * inner), columns, inner, seqs)
        both = builder.linear(op.reshape(node, node.ne[0], tokens, seqs), weights, "ssm_in")
        size = both.nb[0]
        inside = op.view_3d(both, (inner, tokens, seqs), both.nb[1], both.nb[2])
        gate = op.view_3d(both, (inner, tokens, seqs), both.nb[1], both.nb[2], inner * size)
        padded = op.concat(past, op.transpose(inside), 0)
        self._write_columns(padded, layer.caches["r"], columns, inner, flat=True)
        inside = op.same("unary", self._convolved(padded, weights))
        mixed = builder.linear(inside, weights, "ssm_x")
        step = op.view_3d(mixed, (rank, tokens, seqs), mixed.nb[1], mixed.nb[2])
        writes, reads = (
            op.view_4d(mixed, (state, 1, tokens, seqs), state * size, mixed.nb[1], mixed.nb[2], size * start)
            for start in (rank, rank + state)
        )
        if "ssm_dt_norm.weight" in weights or mixer.norms_steps:
            step = builder.norm(step, weights, "ssm_dt_norm", layer.device)
            writes = builder.norm(writes, weights, "ssm_b_norm", layer.device)
            reads = builder.norm(reads, weights, "ssm_c_norm", layer.device)
        else:
            step = op.cont(step)
        step = builder.linear(step, weights, "ssm_dt")
        heads = op.reshape(inside, 1, inner, tokens, seqs)
        decay = weights["ssm_a"]

        def scan(states: Node, rows: Node) -> Node:
            held = op.reshape(states, state, 1, inner, states.ne[1])
            return self._scan(held, heads, step, decay, writes, reads, rows)

        cache = layer.caches["s"]
        made = self._states(cache, state * inner, scan)
        builder.graph.expand(
            op.copy_into(
                op.view_1d(made, state * inner * seqs, heads.nb[3] * heads.ne[3]),
                op.view_1d(cache, state * inner * seqs),
            )
        )
        out = op.view_3d(made, (inner, tokens, seqs), heads.nb[2], heads.nb[3])
        out = op.same("add", out, op.same("mul", inside, weights["ssm_d"]))
        out = op.glu(op.cont(gate), out)
        out = builder.linear(out, weights, "ssm_out")
        return op.reshape(out, out.ne[0], tokens * seqs)

    def _convolved(self, padded: Node, weights: Weights) -> Node:
        kernel = weights["ssm_conv1d.weight"]
        made = op.new(
            "ssm_conv", "f32", (kernel.ne[1], padded.ne[0] - kernel.ne[0] + 1, padded.ne[2], 1), padded, kernel
        )
        bias = weights.get("ssm_conv1d.bias")
        return made if bias is None else op.same("add", made, bias)

    def _scan(
        self, held: Node, inside: Node, step: Node, decay: Node, writes: Node, reads: Node, rows: Node, slots: int = 1
    ) -> Node:
        size = inside.num_elements + slots * held.ne[0] * held.ne[1] * held.ne[2] * rows.ne[0]
        return op.new("ssm_scan", "f32", (size, 1, 1, 1), held, inside, step, decay, writes, reads, rows)

    def _mamba2(self, node: Node, layer: LayerNodes, mixer: Mixer) -> Node:
        builder, weights, batch = self.builder, layer.weights, self.builder.batch
        seqs, tokens = batch.num_seqs, batch.tokens_per_seq
        columns, inner, state = mixer.conv - 1, mixer.inner, mixer.state
        heads, groups = mixer.heads, mixer.groups
        width = inner // heads
        channels = inner + 2 * groups * state
        slots = batch.snapshots + 1
        past = op.reshape(self._states(layer.caches["r"], columns * channels), columns, channels, seqs)
        mixed = builder.linear(node, weights, "ssm_in")
        mixed = op.reshape(mixed, mixed.ne[0], tokens, seqs)
        size = mixed.nb[0]
        gate = op.view_4d(mixed, (width, heads, tokens, seqs), width * size, mixed.nb[1], mixed.nb[2])
        inside = op.view_3d(mixed, (channels, tokens, seqs), mixed.nb[1], mixed.nb[2], inner * size)
        step = op.view_3d(
            mixed, (heads, tokens, seqs), mixed.nb[1], mixed.nb[2], (2 * inner + 2 * groups * state) * size
        )
        padded = op.concat(past, op.transpose(inside), 0)
        self._write_columns(padded, layer.caches["r"], columns, channels, flat=False)
        inside = op.same("unary", self._convolved(padded, weights))
        values = op.view_4d(inside, (width, heads, tokens, seqs), width * size, inside.nb[1], inside.nb[2])
        writes, reads = (
            op.view_4d(inside, (state, groups, tokens, seqs), state * size, inside.nb[1], inside.nb[2], start * size)
            for start in (inner, inner + groups * state)
        )
        step = op.same("add", op.cont(step), weights["ssm_dt.bias"])
        decay = weights["ssm_a"]

        def scan(states: Node, rows: Node) -> Node:
            held = op.reshape(states, state, width, heads, states.ne[1])
            return self._scan(held, values, step, decay, writes, reads, rows, slots)

        cache = layer.caches["s"]
        made = self._states(cache, state * inner, scan)
        each = state * inner
        kept = min(tokens, slots)
        row = op.row_bytes("f32", each)
        builder.graph.expand(
            op.copy_into(
                op.view_3d(made, (each, seqs, kept), row, row * seqs, values.num_elements * size),
                op.view_3d(cache, (each, seqs, kept), cache.nb[1], seqs * row),
            )
        )
        out = op.view_4d(
            made, (width, heads, tokens, seqs), values.nb[1], heads * values.nb[1], tokens * heads * values.nb[1]
        )
        out = op.same("add", out, op.same("mul", values, weights["ssm_d"]))
        out = op.glu(op.cont(gate), out)
        if "ssm_norm.weight" in weights:
            out = op.reshape(out, inner // groups, groups, tokens, seqs)
            out = builder.norm(out, weights, "ssm_norm", layer.device, rms=True)
        return builder.linear(op.reshape(out, inner, tokens * seqs), weights, "ssm_out")

    # -- gated delta nets ---------------------------------------------------------------------------

    def _delta_inputs(self, node: Node, layer: LayerNodes, mixer: Mixer) -> tuple[Node, Node, Node, Node]:
        """Return queries, keys and values in one; the output gate; what is written; and the decay."""
        builder, weights, batch = self.builder, layer.weights, self.builder.batch
        seqs, tokens = batch.num_seqs, batch.tokens_per_seq
        heads, groups = mixer.heads, mixer.groups
        mixed = builder.linear(node, weights, "attn_qkv")
        mixed = op.reshape(mixed, mixed.ne[0], tokens, seqs)
        gate = builder.linear(node, weights, "attn_gate")
        if mixer.split_inputs:
            written = op.reshape(builder.linear(node, weights, "ssm_beta"), 1, heads, tokens, seqs)
            written = op.same("sigmoid", written)
            decay = op.reshape(builder.linear(node, weights, "ssm_alpha"), heads, tokens, seqs)
        else:
            both = builder.linear(node, weights, "ssm_ba")
            share = heads // groups
            both = op.reshape(both, 2 * share, groups, tokens, seqs)
            first, second = (
                op.view_4d(both, (share, groups, tokens, seqs), *both.nb[1:], start * both.nb[0])
                for start in (0, share)
            )
            written = op.same("sigmoid", op.cont(first))
            decay = op.cont(second, heads, tokens, seqs)
        decay = op.same("softplus", op.same("add", decay, weights["ssm_dt.bias"]))
        decay = op.same("mul", decay, weights["ssm_a"])
        if not mixer.split_inputs:
            written = op.reshape(written, 1, heads, tokens, seqs)
        return mixed, gate, written, op.reshape(decay, 1, heads, tokens, seqs)

    def _delta_net(self, node: Node, layer: LayerNodes, mixer: Mixer) -> Node:
        builder, weights, batch = self.builder, layer.weights, self.builder.batch
        seqs, tokens = batch.num_seqs, batch.tokens_per_seq
        heads, groups, key = mixer.heads, mixer.groups, mixer.state
        value = mixer.inner // heads
        channels = mixer.inner + 2 * groups * key
        mixed, gate, written, decay = self._delta_inputs(node, layer, mixer)
        columns = mixer.conv - 1
        past = op.reshape(self._states(layer.caches["r"], columns * channels), columns, channels, seqs)
        padded = op.concat(past, op.transpose(mixed), 0)
        self._write_columns(padded, layer.caches["r"], columns, channels, flat=False)
        cache = layer.caches["s"]
        width = value * value * heads
        state = op.reshape(self._states(cache, width), value, value, heads, seqs)
        inside = op.same("unary", self._convolved(padded, weights))
        size = inside.nb[0]
        row = size * channels
        queries, keys = (
            op.view_4d(inside, (key, groups, tokens, seqs), size * key, row, row * tokens, start * key * groups * size)
            for start in (0, 1)
        )
        values = op.view_4d(
            inside, (value, heads, tokens, seqs), size * value, row, row * tokens, 2 * key * groups * size
        )
        queries, keys = (op.same("scale", op.same("rms_norm", each)) for each in (queries, keys))
        if mixer.repeats_keys and groups != heads:
            times = heads // groups
            queries, keys = (
                op.reshape(
                    op.repeat(op.reshape(each, key, 1, groups, tokens * seqs), key, times, groups, tokens * seqs),
                    key, heads, tokens, seqs,
                )
                for each in (queries, keys)
            )  # fmt: skip
        slots = batch.snapshots + 1
        made = op.new(
            "gated_delta_net", "f32", (value * heads, tokens * seqs + slots * value * seqs, 1, 1), queries, keys,
            values, decay, written, state,
        )  # fmt: skip
        size = made.nb[0]
        out = op.view_4d(
            made, (value, heads, tokens, seqs), size * value, size * value * heads, size * value * heads * tokens
        )
        start = size * value * heads * tokens * seqs
        if batch.snapshots:
            kept = min(tokens, slots)
            source = op.view_3d(made, (width, seqs, kept), size * width, size * width * seqs, start)
            target = op.view_3d(cache, (width, seqs, kept), cache.nb[1], seqs * size * width)
        else:
            source = op.view_4d(
                made, (value, value, heads, seqs), size * value, size * value * value, size * width, start
            )
            target = op.view_2d(cache, width, seqs, cache.nb[1])
        builder.graph.expand(op.copy_into(source, target))
        gate = op.reshape(gate, value, heads, tokens, seqs)
        normed = builder.norm(out, weights, "ssm_norm", layer.device, rms=True)
        out = op.same("mul", normed, op.same("unary", gate))
        out = builder.linear(op.reshape(out, value * heads, tokens, seqs), weights, "ssm_out")
        return op.reshape(out, out.ne[0], tokens * seqs)

    # -- short convolutions -------------------------------------------------------------------------

    def _short_conv(self, node: Node, layer: LayerNodes, mixer: Mixer) -> Node:
        builder, weights, batch = self.builder, layer.weights, self.builder.batch
        seqs, tokens, width = batch.num_seqs, batch.tokens_per_seq, mixer.inner
        columns = mixer.conv - 1
        mixed = builder.linear(op.reshape(node, node.ne[0], tokens, seqs), weights, "shortconv.in_proj")
        first, second, third = (
            op.view_3d(mixed, (width, tokens, seqs), mixed.nb[1], mixed.nb[2], index * width * mixed.nb[0])
            for index in range(3)
        )
        inside = op.transpose(op.same("mul", first, third))
        past = op.reshape(self._states(layer.caches["r"], columns * width), columns, width, seqs)
        padded = op.concat(past, inside, 0)
        self._write_columns(padded, layer.caches["r"], columns, width, flat=False)
        kernel = weights["shortconv.conv.weight"]
        made = op.new("ssm_conv", "f32", (kernel.ne[1], tokens, seqs, 1), padded, kernel)
        out = builder.linear(op.same("mul", second, made), weights, "shortconv.out_proj")
        return op.reshape(out, out.ne[0], tokens * seqs)
