"""How a layer wires its parts together: what is normed, what is added to what, and where chosen rows are taken.

References
----------
.. [1] llama.cpp at 0c1e57098, the graph of each architecture in ``src/models``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vrameter.engines.llama_cpp.graph import tensors as op
from vrameter.engines.llama_cpp.graph.attention import Attention, Heads, Latent
from vrameter.engines.llama_cpp.graph.builder import Builder, LayerNodes
from vrameter.engines.llama_cpp.graph.mixers import Mixer, Mixers
from vrameter.engines.llama_cpp.graph.tensors import Node

Style = Literal[
    "sequential", "single", "post_norm", "parallel", "parallel_shared", "parallel_falcon", "parallel_neox",
    "parallel_mixers",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Experts:
    """What a mixture's graph depends on, as `Builder.mixture` takes it."""

    used: int
    gating: str = "softmax"
    normalised: bool = True
    scaled: bool = False
    groups: int = 1
    used_groups: int = 1
    weigh_first: bool = False
    router_apart: bool = False
    beside: bool = False
    """Whether a dense perceptron of its own works beside the experts, each with norms (Gemma 4)."""


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One kind of layer: its parts, and how they are wired.

    Parameters
    ----------
    style
        ``sequential``: mixer, then perceptron, each added to what came before (norms before, after, or both as the file
        has them); ``single``: one part only; ``post_norm``: an encoder's, normed after the sums; ``parallel``: both read
        one norm and are added last to first (command-r), and its variants; ``parallel_mixers``: attention and a state
        space side by side.
    residual_first, ffn_residual_first
        Whether the sum after the mixer, and that after the perceptron, puts the residual before what is added: it decides
        whose memory the sum takes over.
    chosen_here
        Whether the last layer keeps only the rows whose logits are computed.
    early
        Whether the norm before the mixer is computed before anything else of the layer.
    squared
        Whether a plain perceptron's activation is squared.
    deepstack
        Whether features of a vision tower are added after it.
    per_layer
        Width of the embedding that each layer gets for itself; 0 where there is none.
    cached
        Whether attention keeps a cache; an encoder's does not.
    plain_norms
        Whether norms have no weights.
    pins_last_norm
        Whether the norm after the perceptron is told to run where the layer is.
    forwards
        Whether it has a perceptron or experts.
    """

    style: Style
    heads: Heads | None = None
    latent: Latent | None = None
    mixer: Mixer | None = None
    experts: Experts | None = None
    residual_first: bool = False
    ffn_residual_first: bool = False
    chosen_here: bool = True
    early: bool = False
    squared: bool = False
    deepstack: bool = False
    per_layer: int = 0
    cached: bool = True
    plain_norms: bool = False
    pins_last_norm: bool = False
    forwards: bool = True

    @property
    def mixes(self) -> bool:
        """Whether it has attention or another mixer."""
        return self.heads is not None or self.latent is not None or self.mixer is not None


class Layers:
    """Builds layer after layer of one graph."""

    def __init__(self, builder: Builder, attention: Attention, mixers: Mixers) -> None:
        self.builder = builder
        self.attention = attention
        self.mixers = mixers

    def build(self, node: Node, layer: LayerNodes, kind: LayerKind, *, last: bool) -> Node:
        """Return a layer's output."""
        choose = last and kind.chosen_here
        styles = {
            "sequential": self._sequential, "single": self._single, "post_norm": self._post_norm,
            "parallel_mixers": self._parallel_mixers,
        }  # fmt: skip
        return styles.get(kind.style, self._parallel)(node, layer, kind, choose)

    def _mixed(self, node: Node, layer: LayerNodes, kind: LayerKind) -> Node:
        if kind.mixer is not None:
            return self.mixers.mix(node, layer, kind.mixer)
        if kind.latent is not None:
            return self.attention.latent(node, layer, kind.latent)
        assert kind.heads is not None
        attend = self.attention.grouped if kind.cached else self.attention.uncached
        return attend(node, layer, kind.heads)

    def _optional(self, node: Node, layer: LayerNodes, name: str, *, pinned: bool = True) -> Node:
        """Return a norm where the layer has one of that name, else the tensor itself."""
        if f"{name}.weight" not in layer.weights:
            return node
        return self.builder.norm(node, layer.weights, name, layer.device if pinned else None)

    def _sequential(self, node: Node, layer: LayerNodes, kind: LayerKind, choose: bool) -> Node:
        builder = self.builder
        if kind.mixes:
            made = self._mixed(self._normed_input(node, layer, kind), layer, kind)
            if choose:
                made, node = builder.chosen(made, node)
            made = self._optional(made, layer, "post_attention_norm")
            middle = op.same("add", node, made) if kind.residual_first else op.same("add", made, node)
        else:
            middle = builder.chosen(node)[0] if choose else node
        if not kind.forwards:
            return middle
        made = self._forward(middle, layer, kind)
        made = op.same("add", middle, made) if kind.ffn_residual_first else op.same("add", made, middle)
        return self._afterwards(made, layer, kind)

    def _normed_input(self, node: Node, layer: LayerNodes, kind: LayerKind) -> Node:
        weights = layer.weights
        if "attn_norm.weight" not in weights and not kind.plain_norms:
            return node
        normed = self.builder.norm(node, weights, "attn_norm", layer.device)
        return self.builder.graph.expand(normed) if kind.early else normed

    def _forward(self, middle: Node, layer: LayerNodes, kind: LayerKind) -> Node:
        """Return the perceptron's or the mixture's output, its norms included."""
        if kind.experts is not None and kind.experts.beside:
            return self._beside(middle, layer, kind.experts)
        plain = kind.plain_norms
        node = (
            self.builder.norm(middle, layer.weights, "ffn_norm", layer.device)
            if plain
            else self._optional(middle, layer, "ffn_norm")
        )
        made = self._perceptron(node, layer, kind)
        return self._optional(made, layer, "post_ffw_norm", pinned=kind.pins_last_norm)

    def _perceptron(self, node: Node, layer: LayerNodes, kind: LayerKind) -> Node:
        builder, weights, experts = self.builder, layer.weights, kind.experts
        if experts is None:
            return builder.perceptron(node, weights, squared=kind.squared)
        inside = node
        if "ffn_latent_down.weight" in weights:
            inside = builder.linear(node, weights, "ffn_latent_down")
        logits = builder.linear(node, weights, "ffn_gate_inp") if experts.router_apart else None
        made = builder.mixture(
            inside, weights, used=experts.used, gating=experts.gating, normalised=experts.normalised,
            scaled=experts.scaled, groups=experts.groups, used_groups=experts.used_groups,
            weigh_first=experts.weigh_first, squared=kind.squared, logits=logits,
        )  # fmt: skip
        if "ffn_latent_up.weight" in weights:
            made = builder.linear(made, weights, "ffn_latent_up")
        if "ffn_up_shexp.weight" in weights:
            shared = builder.perceptron(node, weights, "_shexp", squared=kind.squared)
            if "ffn_gate_inp_shexp.weight" in weights:
                gate = op.same("sigmoid", builder.linear(node, weights, "ffn_gate_inp_shexp"))
                shared = op.same("mul", shared, gate)
            made = op.same("add", made, shared)
        return made

    def _beside(self, middle: Node, layer: LayerNodes, experts: Experts) -> Node:
        """Return a dense perceptron and a mixture side by side, each between norms of its own."""
        builder, weights, device = self.builder, layer.weights, layer.device
        dense = builder.norm(middle, weights, "ffn_norm", device)
        dense = builder.perceptron(dense, weights)
        dense = builder.norm(dense, weights, "post_ffw_norm_1", device)
        routed = builder.norm(middle, weights, "pre_ffw_norm_2", device)
        router = op.same("mul", op.same("scale", op.same("rms_norm", middle)), weights["ffn_gate_inp.scale"])
        logits = op.mul_mat(weights["ffn_gate_inp.weight"], router)
        routed = builder.mixture(routed, weights, used=experts.used, logits=logits)
        routed = builder.norm(routed, weights, "post_ffw_norm_2", device)
        made = op.same("add", dense, routed)
        return self._optional(made, layer, "post_ffw_norm", pinned=False)

    def _afterwards(self, node: Node, layer: LayerNodes, kind: LayerKind) -> Node:
        """Return the layer's output with what a few families add or multiply last."""
        builder, weights = self.builder, layer.weights
        if kind.per_layer:
            gate = op.same("unary", builder.linear(node, weights, "inp_gate"))
            own = builder.inputs["per_layer"]
            part = op.view_2d(own, own.ne[0], own.ne[1], op.row_bytes(own.type, own.ne[0]))
            made = builder.linear(op.same("mul", gate, part), weights, "proj")
            node = op.same("add", node, builder.norm(made, weights, "post_norm", layer.device))
        if "layer_output_scale.weight" in weights:
            node = op.same("mul", node, weights["layer_output_scale.weight"])
        if kind.deepstack:
            features = builder.inputs["embedded_whole"]
            node = op.same("add", node, op.view_2d(features, node.ne[0], node.ne[1], features.nb[1]))
        return node

    def _single(self, node: Node, layer: LayerNodes, kind: LayerKind, choose: bool) -> Node:
        builder = self.builder
        normed = builder.norm(node, layer.weights, "attn_norm", layer.device)
        if not kind.mixes:
            made = self._perceptron(normed, layer, kind)
        else:
            made = self._mixed(normed, layer, kind)
        if choose:
            made, node = builder.chosen(made, node)
        return op.same("add", made, node)

    def _post_norm(self, node: Node, layer: LayerNodes, kind: LayerKind, choose: bool) -> Node:
        builder = self.builder
        made = self._mixed(node, layer, kind)
        if choose:
            made, node = builder.chosen(made, node)
        made = builder.norm(op.same("add", made, node), layer.weights, "attn_output_norm", layer.device)
        if "attn_norm_2.weight" in layer.weights:
            made = builder.norm(op.same("add", made, node), layer.weights, "attn_norm_2", layer.device)
        hidden = self._perceptron(made, layer, kind)
        return builder.norm(op.same("add", hidden, made), layer.weights, "layer_output_norm", layer.device)

    def _parallel(self, node: Node, layer: LayerNodes, kind: LayerKind, choose: bool) -> Node:
        """Return attention and perceptron of one input, summed in the order of the family."""
        builder = self.builder
        first = builder.norm(node, layer.weights, "attn_norm", layer.device)
        source = self._optional(node, layer, "attn_norm_2") if "attn_norm_2.weight" in layer.weights else first
        attended = self._mixed(source, layer, kind)
        if choose:
            attended, node = builder.chosen(attended, node)
            if kind.style != "parallel_neox":
                (first,) = builder.chosen(first)
        if kind.style == "parallel_neox":
            first = builder.norm(node, layer.weights, "ffn_norm", layer.device)
        hidden = self._perceptron(first, layer, kind)
        if kind.style == "parallel_shared":
            return op.same("add", op.same("add", attended, hidden), node)
        if kind.style == "parallel_falcon":
            return op.same("add", op.same("add", hidden, attended), node)
        return op.same("add", op.same("add", hidden, node), attended)

    def _parallel_mixers(self, node: Node, layer: LayerNodes, kind: LayerKind, choose: bool) -> Node:
        """Return attention and a state space side by side, then the perceptron."""
        builder, weights = self.builder, layer.weights
        assert kind.heads is not None
        assert kind.mixer is not None
        attended = self.attention.grouped(builder.norm(node, weights, "attn_norm", layer.device), layer, kind.heads)
        mixed = self.mixers.mix(builder.norm(node, weights, "attn_norm", layer.device), layer, kind.mixer)
        middle = op.same("add", op.same("add", attended, mixed), node)
        if choose:
            (middle,) = builder.chosen(middle)
        made = self._forward(middle, layer, kind)
        return op.same("add", made, middle)
