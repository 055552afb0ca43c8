"""Text encoders with Llama's layers, read in both directions: ESM Cambrian [1]_, UltraBERT.

References
----------
.. [1] ESM Team, "ESM Cambrian", 2024, evolutionaryscale.ai/blog/esm-cambrian.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import LanguageHead, dense_classifier, linear, text_heads
from vrameter.model.families.llama import dense_decoder
from vrameter.model.families.registry import LayerScope, tower


def _everything(cfg: Config) -> list[LayerScope]:
    return [("encoder", None)] * cfg.num_layers


def _both_ways(body: Component) -> Component:
    return replace(body, kind="encoder", name="encoder")


def _esmc_head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    matrix = parts.lm_head(vocab, hidden, name="lm_head.decoder", bias=True)
    tensors = (
        *linear("lm_head.dense", hidden, hidden),
        *parts.norm("lm_head.layer_norm", hidden, bias=True),
        *matrix,
    )
    return LanguageHead(tensors, (), ())


@tower(
    "esmc",
    base="esmc",
    heads=text_heads(
        language=_esmc_head,
        classifier=dense_classifier,
        tagger=lambda cfg, labels, hidden: linear("score", labels, hidden),
    ),
)
def esmc(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """ESM Cambrian [1]_, for proteins: norms with biases, norms over all heads of queries and keys; the head is its own."""
    norms = ("input_layernorm", "post_attention_layernorm")
    shifts = tuple(tensor for name in norms for tensor in parts.norm(name, cfg.hidden_size, bias=True, weight=False))
    return _both_ways(
        dense_decoder(
            cfg,
            prefix,
            qk_norm="full",
            scopes=_everything(cfg),
            layer_tensors=shifts,
            attention_traits={"qk_norm": cfg.hidden_size},
        )
    )


def _ultrabert_head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    inner = cfg.integer("prediction_head_size")
    tensors = (
        *linear("head.linear1", inner, hidden, bias=False),
        *linear("head.linear2", hidden, inner, bias=False),
    )
    return LanguageHead(tensors, parts.lm_head(vocab, hidden, name="head.decoder"), ("head.decoder.weight",))


@tower("ultrabert", base="model", heads=text_heads(language=_ultrabert_head))
def ultrabert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """UltraBERT: Llama's layers, most with a window."""
    return _both_ways(dense_decoder(cfg, prefix, scopes=_everything(cfg)))
