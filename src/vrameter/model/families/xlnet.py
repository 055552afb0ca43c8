"""XLNet: a language model that predicts in permuted order.

References
----------
.. [1] Z. Yang et al., "XLNet", 2019, arXiv:1906.08237.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Layer, joined
from vrameter.model.config import Config
from vrameter.model.families.gpt import head_named
from vrameter.model.families.registry import Built, decoder, num_labels


def _heads(cfg: Config, class_name: str) -> Built | None:
    """Return the heads of a language model, a span finder, and a classifier of a summary of the sequence."""
    hidden, labels = cfg.hidden_size, num_labels(cfg)
    if class_name.endswith("ForQuestionAnsweringSimple"):
        tensors = parts.linear("qa_outputs", labels, hidden, bias=True, role="head")
    elif class_name.endswith("ForSequenceClassification"):
        summary = parts.linear("sequence_summary.summary", hidden, hidden, bias=True, role="head")
        tensors = summary if cfg.flag("summary_use_proj", True) else ()
        tensors += parts.linear("logits_proj", labels, hidden, bias=True, role="head")
    else:
        return head_named(name="lm_loss", bias=True)(cfg, class_name)
    head = Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)
    return Built((xlnet(cfg, "transformer"), head))


@decoder("xlnet", base="transformer", heads=_heads)
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
