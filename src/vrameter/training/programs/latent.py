"""Multi-head latent attention as a program.

References
----------
.. [1] transformers 5.23, ``modeling_deepseek_v3.py``.
"""

from __future__ import annotations

from vrameter.model.architecture import Attention, LatentAttention
from vrameter.training.graph import Value
from vrameter.training.programs.scene import Scene, by_slot, norms_of


def latent_attention(scene: Scene, part: LatentAttention, x: Value) -> Value:
    """Run the compressed projections, expand them to heads, attend."""
    graph, slots, heads = scene.graph, by_slot(part.tensors), part.num_heads
    norms = {group[0].name.rpartition(".")[0].rpartition(".")[2]: group for group in norms_of(part)}
    key_dim = part.nope_dim + part.rope_dim
    if part.q_lora_rank:
        inner = scene.linear(x, slots["q_a"])
        q = scene.linear(scene.norm(inner, norms["q_a_layernorm"]), slots["q_b"], outputs=heads * key_dim)
        del inner
    else:
        q = scene.linear(x, slots["q"], outputs=heads * key_dim)
    q_still, q_turned = graph.halves(q, [heads * part.nope_dim, heads * part.rope_dim])
    compressed = scene.linear(x, slots["kv_a"])
    kv, k_turned = graph.halves(compressed, [part.kv_lora_rank, part.rope_dim])
    kv = scene.linear(
        scene.norm(kv, norms["kv_a_layernorm"]), slots["kv_b"], outputs=heads * (part.nope_dim + part.value_dim)
    )
    k_still, v = graph.halves(kv, [heads * part.nope_dim, heads * part.value_dim])
    q_turned, k_turned = scene.rotated(q_turned, part.rope_dim), scene.rotated(k_turned, part.rope_dim)
    q = graph.join([q_still, q_turned])
    k = graph.join([k_still, graph.op([k_turned], heads * part.rope_dim)])
    dense = Attention((), heads, heads, key_dim, part.value_dim)
    out = scene.attend(dense, q, k, v)
    return scene.linear(out, slots["o"], outputs=x.width)


__all__ = ["latent_attention"]
