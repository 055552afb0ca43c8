"""CTRL and CPM-Ant: decoders steered by control codes or by learned prompts.

References
----------
.. [1] N. S. Keskar et al., "CTRL", 2019, arXiv:1909.05858.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component
from vrameter.model.config import Config
from vrameter.model.families.gpt import equal_heads, head_named
from vrameter.model.families.llama import dense_decoder, full_scopes
from vrameter.model.families.registry import Built, decoder, num_labels
from vrameter.model.read import with_head


def _ctrl_heads(cfg: Config, class_name: str) -> Built | None:
    """Return CTRL's heads: biased to write, under another name to classify."""
    if not class_name.endswith("ForSequenceClassification"):
        return head_named(bias=True)(cfg, class_name)
    body = ctrl(cfg, "transformer")
    tensors = parts.linear("classifier", num_labels(cfg), body.hidden_size, role="head")
    return Built((body, Component(kind="head", name="head", hidden_size=body.hidden_size, tensors=tensors)))


@decoder("ctrl", base="transformer", heads=_ctrl_heads)
def ctrl(cfg: Config, prefix: str) -> Component:
    """CTRL: fixed positions, biases everywhere, also on the head."""
    cfg = equal_heads(cfg)
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        norms=("layernorm1", "layernorm2"),
        norm_bias=True,
        final_norm="layernorm",
        embed="w",
        layers_name="h",
        scopes=full_scopes(cfg),
        attention_traits={
            "name": "multi_head_attention", "q": "Wq", "k": "Wk", "v": "Wv", "o": "dense", "bias": True, "o_bias": True,
        },
        mlp_traits={"name": "ffn", "up": "0", "down": "2", "bias": True, "intermediate_size": cfg.integer("dff")},
    )  # fmt: skip


def _cpmant_heads(cfg: Config, class_name: str) -> Built | None:
    """Return a head of its own: it has no rows for prompts, so it cannot be tied."""
    if class_name.endswith("Model"):
        return None
    return with_head(cfg.over(tie_word_embeddings=False), (cpmant(cfg, "cpmant"),), class_name)


@decoder("cpmant", base="cpmant", heads=_cpmant_heads)
def cpmant(cfg: Config, prefix: str) -> Component:
    """CPM-Ant: gated perceptrons, learned biases for distances, rows for prompts in its token table."""
    heads, width = cfg.num_heads, cfg.integer("dim_head")
    segments, hidden = cfg.integer("segment_types"), cfg.hidden_size
    prompts = cfg.integer("prompt_types") * cfg.integer("prompt_length")
    cfg = cfg.over(num_key_value_heads=None, head_dim=width)
    feed = parts.mlp(
        hidden_size=hidden,
        intermediate_size=cfg.integer("dim_ff"),
        name="ffn.ffn",
        gate="w_in.w_0",
        up="w_in.w_1",
        down="w_out",
    )
    body = dense_decoder(
        cfg,
        prefix,
        norms=("self_att.layernorm_before_attention", "ffn.layernorm_before_ffn"),
        final_norm="encoder.output_layernorm",
        embed="segment_embedding",
        layers_name="encoder.layers",
        scopes=full_scopes(cfg),
        attention_traits={
            "name": "self_att.self_attention", "q": "project_q", "k": "project_k", "v": "project_v",
            "o": "attention_out", "bias": False, "o_bias": False,
        },
        make_mlp=lambda cfg: feed,
    )  # fmt: skip
    buckets = segments * segments + cfg.integer("position_bias_num_buckets")
    tables = (
        *parts.embedding("segment_embedding", segments, hidden, slot="type"),
        *parts.embedding("input_embedding", cfg.vocab_size + prompts, hidden),
        *parts.parameter("position_bias.relative_attention_bias", buckets, heads, role="attention"),
    )
    return replace(body, tensors=(*tables, *body.tensors[1:]))
