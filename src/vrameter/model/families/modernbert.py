"""Encoders with the layers of recent decoders: ModernBERT [1]_, its causal twin [2]_, EuroBERT [3]_.

Norm first, rotary positions, gated perceptrons, few biases. In ModernBERT two layers of three see a window.

References
----------
.. [1] B. Warner et al., "Smarter, Better, Faster, Longer", 2024, arXiv:2412.13663.
.. [2] O. Weller et al., "Seq vs Seq: Ettin", 2025, arXiv:2507.11412.
.. [3] N. Boizard et al., "EuroBERT", 2025, arXiv:2503.05500.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.bert import even_heads
from vrameter.model.families.encoder_heads import LanguageHead, linear, text_heads
from vrameter.model.families.llama import dense_decoder
from vrameter.model.families.registry import LayerScope, layer_scopes, stack, tower


def _scopes(cfg: Config, window: int) -> list[LayerScope]:
    every = cfg.integer("global_attn_every_n_layers", 3)
    return layer_scopes(cfg.over(sliding_window=window), cfg.num_layers, pattern=lambda index: index % every != 0)


def modernbert_model(cfg: Config, prefix: str, *, causal: bool) -> Component:
    """Return ModernBERT's layers; the causal ones have separate projections and a window behind the token only."""
    hidden, vocab, inner = cfg.hidden_size, cfg.vocab_size, cfg.integer("intermediate_size")
    heads, dim = even_heads(cfg)
    bias, mlp_bias, norm_bias = cfg.flag("attention_bias"), cfg.flag("mlp_bias"), cfg.flag("norm_bias")
    window = cfg.integer("local_attention", 0, least=0)
    scopes = _scopes(cfg, window // 2 if causal else window)

    def layer(kind: tuple[LayerScope, bool]) -> Layer:
        (scope, size), first = kind
        attention = parts.attention(
            hidden_size=hidden, num_heads=heads, head_dim=dim, name="attn", qkv=None if causal else "Wqkv", o="Wo",
            bias=bias, scope=scope if causal else "encoder", window=size,
        )  # fmt: skip
        perceptron = parts.mlp(hidden_size=hidden, intermediate_size=inner, bias=mlp_bias, gate_up="Wi", down="Wo")
        norms = parts.norm("mlp_norm", hidden, bias=norm_bias)
        return Layer(
            (attention, perceptron), norms if first else (*parts.norm("attn_norm", hidden, bias=norm_bias), *norms)
        )

    return Component(
        kind="decoder" if causal else "encoder",
        name="decoder" if causal else "encoder",
        hidden_size=hidden,
        layers=stack([(scope, index == 0) for index, scope in enumerate(scopes)], layer),
        tensors=(
            *parts.embedding("embeddings.tok_embeddings", vocab, hidden),
            *parts.norm("embeddings.norm", hidden, bias=norm_bias),
            *parts.norm("final_norm", hidden, bias=norm_bias),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        vocab_size=vocab,
        max_positions=cfg.integer("max_position_embeddings"),
    )


def _prediction_head(cfg: Config, name: str, hidden: int) -> Tensors:
    return (
        *linear(f"{name}.dense", hidden, hidden, bias=cfg.flag("classifier_bias")),
        *parts.norm(f"{name}.norm", hidden, bias=cfg.flag("norm_bias")),
    )


def _language(cfg: Config, hidden: int, vocab: int, name: str = "head") -> LanguageHead:
    matrix = parts.lm_head(vocab, hidden, name="decoder", bias=cfg.flag("decoder_bias", True))
    return LanguageHead((*_prediction_head(cfg, name, hidden), *matrix[1:]), matrix[:1], ("decoder.weight",))


def _causal_language(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    return _language(cfg, hidden, vocab, "lm_head")


def _classifier(cfg: Config, labels: int, hidden: int) -> Tensors:
    return (*_prediction_head(cfg, "head", hidden), *linear("classifier", labels, hidden))


def _causal_classifier(cfg: Config, labels: int, hidden: int) -> Tensors:
    bias = cfg.flag("classifier_bias")
    return (*_prediction_head(cfg, "head", hidden), *linear("classifier", labels, hidden, bias=bias))


@tower(
    "modernbert",
    base="model",
    heads=text_heads(
        language=_language, classifier=_classifier, choices=_classifier, tagger=_classifier, spans=_classifier
    ),
)
def modernbert(cfg: Config, prefix: str, *, pooler: bool = False, causal: bool = False) -> Component:
    """ModernBERT."""
    return modernbert_model(cfg, prefix, causal=False)


@tower("modernbert-decoder", base="model", heads=text_heads(language=_causal_language, classifier=_causal_classifier))
def modernbert_decoder(cfg: Config, prefix: str, *, pooler: bool = False, causal: bool = True) -> Component:
    """ModernBERT's decoder; half of its window counts, since nothing ahead is seen."""
    return modernbert_model(cfg, prefix, causal=True)


def _euro_language(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    matrix = parts.lm_head(vocab, hidden, bias=cfg.flag("mlp_bias"))
    return LanguageHead(matrix[1:], matrix[:1], ("lm_head.weight",))


def _euro_classifier(cfg: Config, labels: int, hidden: int) -> Tensors:
    return (*linear("dense", hidden, hidden), *linear("classifier", labels, hidden))


@tower("eurobert", base="model", heads=text_heads(language=_euro_language, classifier=_euro_classifier))
def eurobert(cfg: Config, prefix: str, *, pooler: bool = False, causal: bool = False) -> Component:
    """EuroBERT: Llama's layers without a causal mask."""
    body = dense_decoder(cfg, prefix, scopes=[("encoder", None)] * cfg.num_layers)
    return replace(body, kind="encoder", name="encoder")
