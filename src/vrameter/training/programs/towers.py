"""Layers of vision towers as programs: encoders without a mask, whose positions are learned or turn heads in fp32.

References
----------
.. [1] transformers 5.23: ``modeling_qwen2_vl.py``, ``modeling_qwen2_5_vl.py``, ``modeling_qwen3_vl.py``
       (``apply_rotary_pos_emb_vision``), ``modeling_siglip.py``, ``modeling_clip.py``, ``modeling_pixtral.py``,
       ``modeling_internvl.py`` (a learned scale on each branch).
"""

from __future__ import annotations

from collections.abc import Sequence

from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Tensor
from vrameter.training.graph import Value
from vrameter.training.programs.scene import Scene, Traits, by_slot, norms_of
from vrameter.training.programs.transformers import qk_norms

# Names of learned scales on a layer's branches.
SCALES = ("ls1", "ls2", "lambda_1", "lambda_2", "layer_scale1", "layer_scale2")


def layer(scene: Scene, block: Layer, x: Value) -> Value:
    """Run one layer: attention and a perceptron, each after a norm, each scaled where the family learns a scale."""
    graph, norms = scene.graph, norms_of(block)
    scales = [tensor for tensor in block.tensors if tensor.name.rpartition(".")[2] in SCALES]
    for number, part in enumerate(block.parts):
        residual = x
        x = scene.norm(x, norms[min(number, len(norms) - 1)]) if norms else x
        if isinstance(part, Attention):
            x = attention(scene, part, x)
        else:
            assert isinstance(part, FeedForward)
            x = scene.perceptron(x, part)
        if number < len(scales):
            x = graph.scale(x, scene.weight(scales[number]))
        x = graph.add(residual, x)
    return x


def attention(scene: Scene, part: Attention, x: Value) -> Value:
    """Run projections, rotations in fp32 and the attention kernel."""
    graph, slots = scene.graph, by_slot(part.tensors)
    width = part.num_heads * part.head_dim
    if "qkv" in slots:
        qkv = scene.linear(x, slots["qkv"], outputs=3 * width)
        q, k, v = graph.halves(qkv, [width, width, width])
        del qkv
    else:
        q, k, v = (scene.linear(x, slots[name], outputs=width) for name in ("q", "k", "v"))
    q_norm, k_norm = qk_norms(part)
    if q_norm and k_norm:
        q, k = scene.norm(q, q_norm), scene.norm(k, k_norm)
    if scene.traits.rotary != "none":
        q, k = turned(scene, q, part.head_dim), turned(scene, k, part.head_dim)
    out = scene.attend(part, q, k, v)
    del q, k, v
    if "qkv" in slots and scene.traits.rotary != "none" and scene.kernels.attention == "sdpa":
        # Images of a pack are attended one by one, and what comes out is put together.
        out = graph.copy(out)
    return scene.linear(out, slots["o"], outputs=x.width)


def turned(scene: Scene, x: Value, head_dim: int) -> Value:
    """Turn heads by their places in the image, in fp32."""
    graph, element = scene.graph, x.element
    return graph.cast(scene.rotated(graph.cast(x, 4), head_dim), element)


def bridge(scene: Scene, tensors: Sequence[Tensor], x: Value) -> Value:
    """Put neighbouring patches together and project them to the decoder's width: a norm, matrices, a function between them."""
    graph = scene.graph
    norms = norms_of(Layer((), tuple(tensors)))
    matrices = [tensor for tensor in tensors if len(tensor.shape) == 2 and tensor.role != "norm"]
    if not matrices:
        return x
    merged = max(1, matrices[0].shape[-1] // x.width)
    if norms and norms[0][0].size == x.width:
        x = scene.norm(x, norms[0])
    x = x.view(x.rows // merged, x.width * merged)
    if norms and norms[0][0].size == x.width and merged > 1:
        x = scene.norm(x, norms[0])
    for number, matrix in enumerate(matrices):
        x = scene.linear(graph.pointwise(x) if number else x, matrix)
    return x


def traits_of_tower(component: Component, *, rotates: bool) -> Traits:
    """Return the traits of a tower's layers: norms by their tensors, positions by its family."""
    shifts = any(
        tensor.role == "norm" and tensor.name.endswith("bias")
        for group, _ in component.layer_groups
        for tensor in group.tensors
    )
    activation = {"quick_gelu": "quick", "relu": "relu"}.get(component.activation, "native")
    return Traits(norm="layer" if shifts else "rms", activation=activation, rotary="half" if rotates else "none")


__all__ = ["attention", "bridge", "layer", "traits_of_tower"]
