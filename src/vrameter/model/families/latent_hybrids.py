"""Latent attention beside delta nets and several residual streams, or with the keys and values of other layers.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] DeepSeek-AI, "DeepSeek-V3.2", 2025, arXiv:2512.02556 (sparse attention with an indexer).
.. [2] Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture", 2025, arXiv:2510.26692.
.. [3] Z. Xie et al., "mHC: Manifold-Constrained Hyper-Connections", 2025, arXiv:2512.24880 (residual streams).
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, LatentAttention, Layer, Part, Tensors
from vrameter.model.config import Config
from vrameter.model.families.kimi import delta_attention
from vrameter.model.families.latent import INDEXED, choosing_layers, hyper_connection, latent
from vrameter.model.families.layer_kinds import FULL, LINEAR, layer_kinds
from vrameter.model.families.mixture import balanced, block, decoder_of, listed, perceptron, sparse_layers
from vrameter.model.families.registry import decoder, stack


@decoder("glm5_next_text")
def glm5_next_text(cfg: Config, prefix: str) -> Component:
    """GLM-5.3-Flash: delta nets [2]_, every fourth layer latent attention with an indexer over pools, streams [3]_."""
    count, hidden, streams = cfg.num_layers, cfg.hidden_size, cfg.integer("hc_mult")
    kinds = layer_kinds(cfg, count, lambda index: INDEXED if index % 4 == 3 else LINEAR, known=(LINEAR, FULL, INDEXED))
    own = cfg.nested("linear_attn_config") if cfg.has_nested("linear_attn_config") else Config({}, notes=cfg.notes)
    width, name = cfg.integer("index_head_dim"), "self_attn.indexer"
    pooling = (
        *parts.parameter(f"{name}.index_kpool_compress_ape", cfg.integer("index_kpool"), width, role="attention"),
        *parts.parameter(f"{name}.index_kpool_compress_gate", width, hidden, role="attention", slot="index"),
    )
    mixing = tuple(
        tensor
        for part in ("attn_hc", "ffn_hc")
        for tensor in hyper_connection(part, (2 + streams) * streams, streams, hidden, 3)
    )
    rope = cfg.integer("qk_rope_head_dim", 0, least=0)

    def build(kind: tuple[str, bool, bool]) -> Layer:
        mixer: Part = (
            delta_attention(cfg, own, flat_decay=True)
            if kind[0] == LINEAR
            else latent(cfg, indexed=kind[1], rope_dim=rope, extra=pooling if kind[1] else ())
        )
        return block(cfg, mixer, balanced(cfg) if kind[2] else perceptron(cfg), extra=mixing)

    sparse = sparse_layers(cfg.over(moe_layer_freq=None, first_k_dense_replace=None), 3)
    layers = stack(list(zip(kinds, choosing_layers(cfg), sparse, strict=True)), build)
    return decoder_of(cfg, prefix, layers)


def _scaling(name: str, heads: int) -> Tensors:
    """Return a slope and a shift per head, by which scores grow with the position."""
    return (
        *parts.parameter(f"{name}.softmax_scaling.scale", heads, role="attention"),
        *parts.parameter(f"{name}.softmax_scaling.bias", heads, role="attention"),
    )


@decoder("mistral_large4_text")
def mistral_large4_text(cfg: Config, prefix: str) -> Component:
    """Mistral Large 4: indexers [1]_, layers without rotary positions, and layers that read another's keys and values."""
    count, hidden = cfg.num_layers, cfg.hidden_size
    nope, rope = cfg.integer("qk_nope_head_dim"), cfg.integer("qk_rope_head_dim")
    rotates = listed(cfg, "no_rope_layers", count)
    if rotates is None:
        period = cfg.integer("no_rope_layer_interval", 4)
        rotates = [(index + 1) % period != 0 for index in range(count)]
    sources = listed(cfg, "kv_source_layers", count) or list(range(count))
    name = "self_attn.indexer"

    def attention(turns: bool, shares: bool, indexed: bool) -> LatentAttention:
        extra = _scaling("self_attn", cfg.num_heads)
        if indexed:
            extra += (
                *parts.norm(f"{name}.q_input_norm", hidden, bias=True),
                *_scaling(name, cfg.integer("index_n_heads")),
            )
        own = {"nope_dim": nope, "rope_dim": rope} if turns else {"nope_dim": nope + rope, "rope_dim": 0}
        made = latent(cfg, indexed=indexed, q_lora_rank=None, extra=extra, **own)
        if not shares:
            return made
        kept = tuple(tensor for tensor in made.tensors if not tensor.name.startswith("self_attn.kv_a_"))
        return replace(made, tensors=kept, kv_lora_rank=0, rope_dim=0, nope_dim=made.nope_dim + made.rope_dim)

    def build(kind: tuple[bool, bool, bool, bool]) -> Layer:
        return block(cfg, attention(*kind[:3]), balanced(cfg, balance_bias=None) if kind[3] else perceptron(cfg))

    shared = [source != index for index, source in enumerate(sources)]
    sparse = sparse_layers(cfg.over(moe_layer_freq=None), 1)
    kinds = list(zip(map(bool, rotates), shared, choosing_layers(cfg), sparse, strict=True))
    body = decoder_of(cfg, prefix, stack(kinds, build))
    if rope % 2:
        raise cfg.fail("qk_rope_head_dim", "%(value)s is not a multiple of %(unit)s.", value=rope, unit=2)
    return replace(body, tensors=(*body.tensors, *parts.buffer("rotary_emb.alpha", rope // 2)))
