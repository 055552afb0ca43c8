"""BERT's post-norm layers with rotary positions: nomic-embed, jina-embeddings-v3, GTE.

Remote code came before the classes of transformers; its configs, with GPT-2's field names or options that the
classes dropped, are read too.

References
----------
.. [1] Z. Nussbaum et al., "Nomic Embed", 2024, arXiv:2402.01613; "Training Sparse Mixture Of Experts Text Embedding
       Models", 2025, arXiv:2502.07972.
.. [2] S. Sturua et al., "jina-embeddings-v3", 2024, arXiv:2409.10173.
.. [3] X. Zhang et al., "mGTE", 2024, arXiv:2407.19669.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, Layer, Tensor, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import dense_classifier, roberta_head, text_heads, transform_head
from vrameter.model.families.registry import stack, tower

PLAIN_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu")


def rotary_encoder(
    cfg: Config,
    prefix: str,
    *,
    pooler: bool,
    qkv_bias: bool,
    o_bias: bool,
    gated: bool,
    up_bias: bool,
    down_bias: bool,
    types: int,
    positions: bool = False,
    experts_every: int = 0,
) -> Component:
    """Return an encoder; every `experts_every`-th layer, from the second on, has a mixture of experts."""
    hidden, vocab, inner = cfg.hidden_size, cfg.vocab_size, cfg.integer("intermediate_size", 4 * cfg.hidden_size)
    length = cfg.integer("max_position_embeddings", 0, least=0)

    def mixture() -> FeedForward:
        count = cfg.integer("num_experts")
        tensors = (
            Tensor("mlp.experts.mlp.w1", (count, inner, hidden), "experts", "up", linear=True),
            Tensor("mlp.experts.mlp.w2", (count, inner, hidden), "experts", "down", linear=True),
            Tensor("mlp.experts.bias", (hidden,), "mlp"),
            Tensor("mlp.router.layer.weight", (count, hidden), "router", "router"),
        )
        chosen = min(count, cfg.integer("moe_top_k", 1))
        return FeedForward(tensors, inner, gated=False, num_experts=count, num_experts_per_token=chosen)

    def layer(sparse: bool) -> Layer:
        attention = parts.attention(
            hidden_size=hidden, num_heads=cfg.num_heads, head_dim=cfg.head_dim, bias=qkv_bias, o_bias=o_bias,
            scope="encoder",
        )  # fmt: skip
        if gated:
            perceptron = parts.mlp(hidden_size=hidden, intermediate_size=inner, bias=up_bias, down_bias=down_bias)
        else:
            perceptron = parts.mlp(
                hidden_size=hidden, intermediate_size=inner, gated=False, bias=up_bias, down_bias=down_bias, up="fc1",
                down="fc2",
            )  # fmt: skip
        norms = (
            *parts.norm("post_attention_layernorm", hidden, bias=True),
            *parts.norm("post_mlp_layernorm", hidden, bias=True),
        )
        return Layer((attention, mixture() if sparse else perceptron), norms)

    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=stack([bool(experts_every) and index % experts_every == 1 for index in range(cfg.num_layers)], layer),
        tensors=(
            *parts.embedding("embeddings.word_embeddings", vocab, hidden),
            *(parts.embedding("embeddings.position_embeddings", length, hidden, slot="position") if positions else ()),
            *(parts.embedding("embeddings.token_type_embeddings", types, hidden, slot="type") if types else ()),
            *parts.norm("embeddings.LayerNorm", hidden, bias=True),
            *(parts.linear("pooler.dense", hidden, hidden, bias=True, role="head") if pooler else ()),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        vocab_size=vocab,
        max_positions=length,
    )


_nomic_head = transform_head("cls.predictions", norm="transform.layer_norm")


@tower("nomic_bert", base="nomic_bert", heads=text_heads(language=_nomic_head, pooled=("SequenceClassification",)))
def nomic_bert(cfg: Config, prefix: str, *, pooler: bool = False, causal: bool = False) -> Component:
    """Nomic's BERT [1]_: gated perceptrons and no biases, unless the remote config asks for others."""
    activation = cfg.text("activation_function", None)
    qkv_bias = cfg.flag("qkv_proj_bias")
    return rotary_encoder(
        cfg, prefix, pooler=pooler, qkv_bias=qkv_bias, o_bias=qkv_bias, gated=activation not in PLAIN_ACTIVATIONS,
        up_bias=cfg.flag("mlp_fc1_bias"), down_bias=cfg.flag("mlp_fc2_bias"),
        types=cfg.integer("type_vocab_size", 0, least=0), positions=cfg.number("rotary_emb_fraction", 1.0) == 0,
        experts_every=cfg.integer("moe_every_n_layers", 0, least=0) if cfg.given("num_experts") else 0,
    )  # fmt: skip


@tower(
    "jina_embeddings_v3",
    base="roberta",
    heads=text_heads(language=roberta_head, classifier=dense_classifier, pooled=("Model",)),
)
def jina_embeddings_v3(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """jina-embeddings-v3 [2]_, its adapters merged or left aside: XLM-RoBERTa with rotary positions."""
    return rotary_encoder(
        cfg, prefix, pooler=pooler, qkv_bias=True, o_bias=True, gated=False, up_bias=True, down_bias=True,
        types=cfg.integer("type_vocab_size"),
    )  # fmt: skip


_gte_head = transform_head(
    "lm_head", dense="dense", norm="layer_norm", bias_name="decoder.bias", decoder="decoder", both_biases=False
)
_gte_heads = text_heads(language=_gte_head, pooled=("SequenceClassification",))


@tower("gte", base="gte", heads=_gte_heads)
@tower("new", base="new", heads=_gte_heads)
def gte(cfg: Config, prefix: str, *, pooler: bool = False, causal: bool = False) -> Component:
    """GTE [3]_, whose remote code is called ``new``: gated perceptrons, with biases on all but their first matrices."""
    return rotary_encoder(
        cfg, prefix, pooler=pooler, qkv_bias=True, o_bias=True, gated=True, up_bias=False, down_bias=True,
        types=cfg.integer("type_vocab_size", 0, least=0),
        positions=cfg.text("position_embedding_type", "rope") == "absolute",
    )  # fmt: skip
