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
    groups = norms_of(part)
    q_norm = next((group for group in groups if part.q_lora_rank and group[0].size == part.q_lora_rank), ())
    kv_norm = next((group for group in reversed(groups) if group[0].size == part.kv_lora_rank), ())
    key_dim = part.nope_dim + part.rope_dim
    if part.q_lora_rank:
        inner = scene.linear(x, slots["q_a"])
        inner = scene.norm(inner, q_norm) if q_norm else inner
        q = scene.linear(inner, slots["q_b"], outputs=heads * key_dim)
        del inner
    else:
        q = scene.linear(x, slots["q"], outputs=heads * key_dim)
    q_still, q_turned = graph.halves(q, [heads * part.nope_dim, heads * part.rope_dim])
    compressed = scene.linear(
        x, slots["kv_a"] if "kv_a" in slots else slots["kv"], outputs=part.kv_lora_rank + part.rope_dim
    )
    kv, k_turned = graph.halves(compressed, [part.kv_lora_rank, part.rope_dim])
    kv = scene.norm(kv, kv_norm) if kv_norm else kv
    width = heads * (part.nope_dim + part.value_dim)
    # Without a matrix that expands them, all heads read the compressed vectors as they are.
    kv = scene.linear(kv, slots["kv_b"], outputs=width) if "kv_b" in slots else graph.op([kv], width)
    k_still, v = graph.halves(kv, [heads * part.nope_dim, heads * part.value_dim])
    q_turned, k_turned = scene.rotated(q_turned, part.rope_dim), scene.rotated(k_turned, part.rope_dim)
    q = graph.join([q_still, q_turned])
    k = graph.join([k_still, graph.op([k_turned], heads * part.rope_dim)])
    dense = Attention((), heads, heads, key_dim, part.value_dim)
    out = scene.attend(dense, q, k, v)
    return scene.linear(out, slots["o"], outputs=x.width)


__all__ = ["latent_attention"]
