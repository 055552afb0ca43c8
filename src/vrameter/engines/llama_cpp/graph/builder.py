"""The pieces that every layer's graph is made of: norms, linear layers, rotary positions, perceptrons, mixtures.

A builder emits operations in the order in which llama.cpp's graph code makes them, because the order of sources decides
the order of execution, and that decides what memory can be used twice. What it builds follows from which tensors the
file has: a gate, a bias or a norm that is not there makes no operation.

References
----------
.. [1] llama.cpp at 0c1e57098, ``src/llama-graph.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vrameter.engines.llama_cpp.graph import tensors as op
from vrameter.engines.llama_cpp.graph.scheduler import Graph
from vrameter.engines.llama_cpp.graph.tensors import Node

Weights = Mapping[str, Node]


@dataclass(frozen=True, slots=True)
class Batch:
    """The batch that the buffers are planned for.

    Parameters
    ----------
    num_tokens
        Tokens of the largest physical batch, a multiple of `num_seqs`.
    num_seqs
        Sequences in it.
    num_outputs
        Rows whose logits are computed.
    num_streams
        Caches side by side: 1 where all sequences share one, else one each.
    flash
        Whether attention is one operation.
    cells, window_cells
        Cells of one cache stream of layers that look at everything, and of layers with a window.
    snapshots
        Recurrent states kept per sequence besides the newest, for speculation.
    embeddings
        Whether embeddings are asked for instead of logits.
    kv_on_host
        Whether caches stay in host memory whatever device a layer is on.
    pins
        Whether norms are told to run where their layer is, as the program does when it allocates with every layer on a
        GPU; when it only measures, what it has told is forgotten.
    """

    num_tokens: int
    num_seqs: int
    num_outputs: int
    num_streams: int
    flash: bool
    cells: int
    window_cells: int
    key_type: str = "f16"
    value_type: str = "f16"
    snapshots: int = 0
    embeddings: bool = False
    kv_on_host: bool = False
    pins: bool = False

    @property
    def tokens_per_seq(self) -> int:
        """Tokens of each sequence."""
        return self.num_tokens // self.num_seqs


@dataclass(slots=True)
class LayerNodes:
    """One layer's tensors: weights by name, its caches, and the device that it is on."""

    weights: Weights
    device: int
    caches: Mapping[str, Node] = field(default_factory=dict)


class Builder:
    """Emits a graph's operations.

    Parameters
    ----------
    layer_norm
        Whether norms subtract the mean: such a norm cannot work in place.
    """

    def __init__(self, batch: Batch, *, host: int, layer_norm: bool = False) -> None:
        self.batch = batch
        self.graph = Graph()
        self.host = host
        self.layer_norm = layer_norm
        self.inputs: dict[str, Node] = {}

    # -- inputs -------------------------------------------------------------------------------------

    def input(self, name: str, kind: str, *ne: int) -> Node:
        """Return an input of the graph, made when it is first asked for."""
        if name not in self.inputs:
            node = op.leaf(kind, *ne)
            node.input = True
            self.inputs[name] = node
        return self.inputs[name]

    @property
    def positions(self) -> Node:
        """Position of each token."""
        return self.input("positions", "i32", self.batch.num_tokens * self.position_count)

    position_count = 1

    @property
    def output_rows(self) -> Node:
        """Rows whose logits are computed."""
        return self.input("output_rows", "i32", self.batch.num_outputs)

    def chosen(self, *nodes: Node) -> tuple[Node, ...]:
        """Return the rows of each tensor whose logits are computed."""
        return tuple(op.get_rows(node, self.output_rows) for node in nodes)

    # -- norms and linear layers --------------------------------------------------------------------

    def norm(
        self,
        node: Node,
        weights: Weights,
        name: str,
        device: int | None = None,
        *,
        rms: bool | None = None,
    ) -> Node:
        """Return a norm with the scale and shift of that name, on `device` where it is told."""
        mean = self.layer_norm if rms is None else not rms
        normed = op.same("norm" if mean else "rms_norm", node)
        scale, shift = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if (scale is not None or shift is not None) and device is not None and self.batch.pins:
            normed.pinned = device
        if scale is not None:
            normed = op.same("mul", normed, scale)
        if shift is not None:
            normed = op.same("add", normed, shift)
        return normed

    def linear(self, node: Node, weights: Weights, name: str) -> Node:
        """Return a product with a matrix, and its bias where it has one."""
        made = op.mul_mat(weights[f"{name}.weight"], node)
        bias = weights.get(f"{name}.bias")
        return made if bias is None else op.same("add", made, bias)

    def rope(self, node: Node, weights: Weights) -> Node:
        """Return a tensor rotated by position, with learned frequencies where the file has some."""
        factors = weights.get("rope_freqs.weight")
        return op.same("rope", node, self.positions, *(() if factors is None else (factors,)))

    # -- perceptrons --------------------------------------------------------------------------------

    def perceptron(self, node: Node, weights: Weights, suffix: str = "", *, squared: bool = False) -> Node:
        """Return a perceptron: gated by a second matrix, by halves of one, or plain."""
        up_name = f"ffn_up{suffix}"
        up = self.linear(node, weights, up_name)
        if f"ffn_gate{suffix}.weight" in weights:
            hidden = op.glu(self.linear(node, weights, f"ffn_gate{suffix}"), up)
        elif weights[f"{up_name}.weight"].ne[1] == 2 * weights[f"ffn_down{suffix}.weight"].ne[0]:
            hidden = op.glu_fused(up)
        else:
            hidden = op.same("unary", up)
            if squared:
                hidden = op.same("sqr", hidden)
        return self.linear(hidden, weights, f"ffn_down{suffix}")

    def mixture(
        self,
        node: Node,
        weights: Weights,
        *,
        used: int,
        gating: str = "softmax",
        normalised: bool = True,
        scaled: bool = False,
        groups: int = 1,
        used_groups: int = 1,
        weigh_first: bool = False,
        squared: bool = False,
        logits: Node | None = None,
    ) -> Node:
        """Return a mixture of experts.

        Parameters
        ----------
        used
            Experts of each token.
        gating
            ``softmax`` over all, ``sigmoid``, or ``softmax_chosen`` over the experts that were chosen.
        normalised, scaled
            Whether the weights of the chosen are divided by their sum, and multiplied by a constant.
        groups, used_groups
            Groups of experts, and how many of them a token may use.
        weigh_first
            Whether experts see their input multiplied by their weight, instead of their output.
        logits
            The router's logits where they are made elsewhere.
        """
        tokens = node.ne[1]
        if logits is None:
            logits = op.mul_mat(weights["ffn_gate_inp.weight"], node)
        if "ffn_gate_inp.bias" in weights:
            logits = op.same("add", logits, weights["ffn_gate_inp.bias"])
        experts = logits.ne[0]
        probs = (
            logits if gating == "softmax_chosen" else op.same("sigmoid" if gating == "sigmoid" else "soft_max", logits)
        )
        selection = probs
        if "exp_probs_b.bias" in weights:
            selection = op.same("add", probs, weights["exp_probs_b.bias"])
        if weigh_first:
            selection = logits
        if groups > 1:
            selection = self._within_groups(selection, experts, groups, used_groups, tokens)
        ids = op.top_k(selection, used)
        chosen = op.get_rows(op.reshape(probs, 1, experts, tokens), ids)
        if gating == "softmax_chosen":
            chosen = op.reshape(op.same("soft_max", op.reshape(chosen, used, tokens)), 1, used, tokens)
        if normalised:
            flat = op.reshape(chosen, used, tokens)
            total = op.same("clamp", op.sum_rows(flat))
            chosen = op.reshape(op.same("div", flat, total), 1, used, tokens)
        if scaled:
            chosen = op.same("scale", chosen)
        self.graph.expand(chosen)
        node = op.reshape(node, node.ne[0], 1, tokens)
        width = node.ne[0]
        if weigh_first:
            node = op.same("mul", op.repeat(node, width, used, tokens), chosen)
        made = self._expert_outputs(node, weights, ids, squared=squared)
        if not weigh_first:
            made = op.same("mul", made, chosen)
        self.graph.expand(made)
        width = made.ne[0]
        parts = [op.view_2d(made, width, tokens, made.nb[2], index * made.nb[1]) for index in range(used)]
        for part in parts:
            self.graph.expand(part)
        total = parts[0]
        for part in parts[1:]:
            total = self.graph.expand(op.same("add", total, part))
        return op.cont(total) if used == 1 else total

    def _within_groups(self, selection: Node, experts: int, groups: int, used_groups: int, tokens: int) -> Node:
        """Return the scores with those outside each token's best groups masked."""
        size = experts // groups
        grouped = op.reshape(selection, size, groups, tokens)
        best = op.top_k(grouped, 2)
        scores = op.get_rows(op.reshape(grouped, 1, *grouped.ne[:3]), best)
        scores = op.sum_rows(op.reshape(scores, *scores.ne[1:]))
        scores = op.reshape(scores, *scores.ne[1:3])
        chosen = op.top_k(scores, used_groups)
        kept = op.get_rows(grouped, chosen)
        masked = op.set_rows(op.same("fill", grouped), kept, chosen)
        return op.reshape(masked, experts, tokens)

    def _expert_outputs(self, node: Node, weights: Weights, ids: Node, *, squared: bool) -> Node:
        def product(source: Node, name: str) -> Node:
            made = op.mul_mat_id(weights[f"{name}.weight"], source, ids)
            bias = weights.get(f"{name}.bias")
            return made if bias is None else op.same("add_id", made, bias, ids)

        if "ffn_gate_up_exps.weight" in weights:
            both = product(node, "ffn_gate_up_exps")
            width = both.ne[0] // 2
            gate, up = (
                op.view_3d(both, (width, both.ne[1], both.ne[2]), both.nb[1], both.nb[2], start * both.nb[0])
                for start in (0, width)
            )
            hidden = op.glu(gate, up)
        else:
            up = product(node, "ffn_up_exps")
            if "ffn_gate_exps.weight" in weights:
                hidden = op.glu(product(node, "ffn_gate_exps"), up)
            else:
                hidden = op.same("unary", up)
                if squared:
                    hidden = op.same("sqr", hidden)
        made = product(hidden, "ffn_down_exps")
        scale = weights.get("ffn_down_exps.scale")
        if scale is None:
            return made
        experts, tokens = scale.ne[0], node.ne[2]
        spread = op.repeat(op.reshape(scale, 1, experts, 1), 1, experts, tokens, 1)
        return op.same("mul", made, op.get_rows(spread, ids))
