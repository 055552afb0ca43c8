"""NeoMME: one encoder for text and image patches, with factorised embeddings and embeddings of the values.

Norms have no weights; perceptrons are not gated; every layer mixes its input with the embeddings by two numbers.
Shapes follow transformers 5.23.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import LanguageHead, linear, text_heads
from vrameter.model.families.registry import tower


def _language(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    rank = cfg.integer("embedding_rank")
    untied = (
        *linear("unembedding_projection", hidden, rank, bias=False),
        *parts.lm_head(vocab, rank),
    )
    return LanguageHead((), untied, ("unembedding_projection.weight", "lm_head.weight"))


@tower("neomme", base="model", heads=text_heads(language=_language))
def neomme(cfg: Config, prefix: str, *, pooler: bool = False, causal: bool = False) -> Component:
    """NeoMME's encoder."""
    hidden, rank, vocab = cfg.hidden_size, cfg.integer("embedding_rank"), cfg.vocab_size
    heads, kv_heads, dim = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
    bias, mlp_bias = cfg.flag("attention_bias"), cfg.flag("mlp_bias")
    gate: Tensors = (
        *parts.parameter("self_attn.exclusive_self_attention.alpha", heads, role="attention"),
        *parts.linear("self_attn.output_projection.gate_proj", heads * dim, hidden, role="attention", slot="gate"),
    )
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, bias=bias,
        o="output_projection.o_proj", extra=gate, scope="encoder",
    )  # fmt: skip
    perceptron = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=mlp_bias
    )
    patch = 3 * cfg.integer("patch_size") ** 2
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(Layer((attention, perceptron), parts.parameter("lambdas", 2)),) * cfg.num_layers,
        tensors=(
            *parts.embedding("embed_tokens.word_embeddings", vocab, rank),
            *parts.linear("embed_tokens.embedding_projection", hidden, rank, role="embedding"),
            *parts.norm("patch_embeddings.norm", patch, bias=True),
            *parts.linear("patch_embeddings.up_proj", 2 * hidden, patch, role="projector"),
            *parts.linear("patch_embeddings.down_proj", hidden, 2 * hidden, bias=True, role="projector"),
            *parts.embedding("value_embeddings", vocab, kv_heads * dim, slot="value"),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        vocab_size=vocab,
        max_positions=cfg.integer("max_position_embeddings"),
    )
