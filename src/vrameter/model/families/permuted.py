"""Language models of 2019 that are neither BERT nor GPT: XLNet, XLM, Reformer.

Shapes follow the classes of transformers 5.23; XLM's classes list each kind of module apart, and its names here are put
below one list of layers.

References
----------
.. [1] Z. Yang et al., "XLNet", 2019, arXiv:1906.08237.
.. [2] G. Lample, A. Conneau, "Cross-lingual Language Model Pretraining", 2019, arXiv:1901.07291.
.. [3] N. Kitaev et al., "Reformer", 2020, arXiv:2001.04451.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.gpt import head_named
from vrameter.model.families.mixture import listed
from vrameter.model.families.registry import Built, decoder, stack, tower


@decoder("xlnet", base="transformer", heads=head_named(name="lm_loss", bias=True))
def xlnet(cfg: Config, prefix: str) -> Component:
    """XLNet [1]_: attention with relative positions, whose matrices are stored inputs first and head by head."""
    hidden, heads = cfg.hidden_size, cfg.num_heads
    dim = cfg.integer("d_head", None) or hidden // heads
    name = "rel_attn"
    attention = Attention(
        tensors=(
            *(
                tensor
                for which in ("q", "k", "v", "o", "r")
                for tensor in parts.parameter(f"{name}.{which}", hidden, heads, dim, role="attention")
            ),
            *(
                tensor
                for which in ("r_r_bias", "r_s_bias", "r_w_bias")
                for tensor in parts.parameter(f"{name}.{which}", heads, dim, role="attention")
            ),
            *parts.parameter(f"{name}.seg_embed", 2, heads, dim, role="embedding"),
            *parts.norm(f"{name}.layer_norm", hidden, bias=True),
        ),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=dim,
        value_dim=dim,
    )
    feed = parts.mlp(
        hidden_size=hidden,
        intermediate_size=cfg.integer("d_inner"),
        gated=False,
        bias=True,
        name="ff",
        up="layer_1",
        down="layer_2",
        extra=parts.norm("ff.layer_norm", hidden, bias=True),
    )
    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=(Layer((attention, feed)),) * cfg.num_layers,
        tensors=(
            *parts.embedding("word_embedding", cfg.vocab_size, hidden),
            *parts.parameter("mask_emb", 1, 1, hidden, role="embedding"),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layer"),
        vocab_size=cfg.vocab_size,
    )


@tower("xlm", base="transformer", heads=head_named(name="pred_layer.proj", bias=True))
def xlm(cfg: Config, prefix: str) -> Component:
    """XLM [2]_: an encoder with a perceptron four times as wide as the model."""
    hidden = cfg.hidden_size
    attention = parts.attention(
        hidden_size=hidden,
        num_heads=cfg.num_heads,
        name="attentions",
        q="q_lin",
        k="k_lin",
        v="v_lin",
        o="out_lin",
        bias=True,
        scope="encoder",
    )
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=4 * hidden, gated=False, bias=True, name="ffns", up="lin1", down="lin2"
    )
    norms = (*parts.norm("layer_norm1", hidden, bias=True), *parts.norm("layer_norm2", hidden, bias=True))
    languages, positions = cfg.integer("n_langs", 1), cfg.integer("max_position_embeddings")
    named = languages > 1 and cfg.flag("use_lang_emb", True)
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(Layer((attention, feed), norms),) * cfg.num_layers,
        tensors=(
            *parts.embedding("position_embeddings", positions, hidden, slot="position"),
            *(parts.embedding("lang_embeddings", languages, hidden, slot="type") if named else ()),
            *parts.embedding("embeddings", cfg.vocab_size, hidden),
            *parts.norm("layer_norm_emb", hidden, bias=True),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        vocab_size=cfg.vocab_size,
        max_positions=positions,
    )


def _reformer_heads(cfg: Config, class_name: str) -> Built | None:
    """Return the head over both residual streams; it is never tied."""
    if not class_name.endswith(("ModelWithLMHead", "ForMaskedLM")):
        return None
    body = reformer(cfg, "reformer")
    tensors = (
        *parts.linear("lm_head.decoder", cfg.vocab_size, 2 * cfg.hidden_size, role="head", slot="head"),
        *parts.parameter("lm_head.bias", cfg.vocab_size, role="head"),
    )
    return Built((body, Component(kind="head", name="head", hidden_size=2 * cfg.hidden_size, tensors=tensors)))


@decoder("reformer", base="reformer", heads=_reformer_heads)
def reformer(cfg: Config, prefix: str) -> Component:
    """Reformer [3]_: windows and hashed attention in turn, positions as sums over axes.

    A cache keeps hidden states in place of keys and values, a little less than what stands here.
    """
    hidden = cfg.hidden_size
    turns = list(cfg.sequence("attn_layers") or ())
    kinds = listed(cfg, "attn_layers", cfg.layers("num_hidden_layers", len(turns))) or []
    for kind in kinds:
        if kind not in ("local", "lsh"):
            raise cfg.fail("attn_layers", "'%(value)s' is not a kind of layer known here.", value=kind)
    name = "attention.self_attention"
    traits = {"hidden_size": hidden, "num_heads": cfg.num_heads, "head_dim": cfg.integer("attention_head_size")}
    feed = parts.mlp(
        hidden_size=hidden,
        intermediate_size=cfg.integer("feed_forward_size"),
        gated=False,
        bias=True,
        name="feed_forward",
        up="dense.dense",
        down="output.dense",
        extra=parts.norm("feed_forward.layer_norm", hidden, bias=True),
    )

    def build(kind: str) -> Layer:
        plain = parts.attention(**traits, name=name, q="query", k="key", v="value", o="output")
        first = "query_key" if kind == "lsh" else "query"
        own: Tensors = (
            *parts.norm("attention.layer_norm", hidden, bias=True),
            *(
                tensor._replace(name=tensor.name.replace("query", first))
                for tensor in plain.tensors
                if tensor.slot in (("q", "v") if kind == "lsh" else ("q", "k", "v"))
            ),
            *(tensor._replace(name="attention.output.dense.weight") for tensor in plain.tensors if tensor.slot == "o"),
        )
        return Layer((replace(plain, tensors=own), feed))

    positions = cfg.integer("max_position_embeddings")
    axes: Tensors = parts.embedding("embeddings.position_embeddings.embedding", positions, hidden, slot="position")
    if cfg.flag("axial_pos_embds", True):
        sides, widths = cfg.integers("axial_pos_shape"), cfg.integers("axial_pos_embds_dim")
        axes = tuple(
            tensor
            for axis, width in enumerate(widths)
            for tensor in parts.parameter(
                f"embeddings.position_embeddings.weights.{axis}",
                *(side if at == axis else 1 for at, side in enumerate(sides)),
                width,
                role="embedding",
                slot="position",
            )
        )
    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=stack(kinds, build),
        tensors=(
            *parts.embedding("embeddings.word_embeddings", cfg.vocab_size, hidden),
            *axes,
            *parts.norm("encoder.layer_norm", 2 * hidden, bias=True),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "encoder.layers"),
        vocab_size=cfg.vocab_size,
        max_positions=positions,
    )
