"""T5Gemma [1]_: an encoder-decoder whose two sides are Gemma 2.

References
----------
.. [1] B. Zhang et al., "Encoder-Decoder Gemma", 2025, arXiv:2504.06225.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_decoder import language_head
from vrameter.model.families.encoder_heads import is_bare, linear, task_of
from vrameter.model.families.llama import dense_decoder
from vrameter.model.families.registry import Built, layer_scopes, model, num_labels

SANDWICH = (
    "pre_self_attn_layernorm", "post_self_attn_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip


def _side(cfg: Config, prefix: str, *, decoder: bool, heard: int = 0) -> Component:
    scopes = layer_scopes(cfg, cfg.num_layers, pattern=lambda index: index % 2 == 0)
    if not decoder:
        body = dense_decoder(
            cfg, prefix, norms=SANDWICH, mlp_bias=False, scopes=[("encoder", window) for _, window in scopes]
        )
        return replace(body, kind="encoder", name="encoder")
    traits: dict[str, Any] = {"bias": cfg.flag("attention_bias", False)}
    cross = parts.attention(
        hidden_size=cfg.hidden_size, num_heads=cfg.num_heads, num_kv_heads=cfg.num_kv_heads, head_dim=cfg.head_dim,
        name="cross_attn", role="cross_attention", scope="cross", kv_size=heard, **traits,
    )  # fmt: skip
    norms = (
        *parts.norm("pre_cross_attn_layernorm", cfg.hidden_size),
        *parts.norm("post_cross_attn_layernorm", cfg.hidden_size),
    )
    return dense_decoder(
        cfg, prefix, norms=SANDWICH, mlp_bias=False, scopes=scopes, extra_parts=(cross,), layer_tensors=norms
    )


@model("t5gemma")
def t5gemma(cfg: Config, class_name: str) -> Built:
    """Return both sides, or the encoder alone, with the head of the class."""
    task, bare = task_of(class_name), is_bare(class_name)
    classifies = task in ("SequenceClassification", "TokenClassification")
    both = cfg.flag("is_encoder_decoder", True)
    prefix = "" if bare else "model"
    seen, written = cfg.nested("encoder"), cfg.nested("decoder")
    sides: tuple[Component, ...] = (_side(seen, joined(prefix, "encoder"), decoder=False),)
    if (both and not class_name.endswith("EncoderModel")) or not (classifies or bare):
        sides += (_side(written, joined(prefix, "decoder"), decoder=True, heard=seen.hidden_size),)
    if bare:
        return Built(sides)
    hidden = sides[-1].hidden_size
    if classifies:
        tensors = linear("score.out_proj", num_labels(cfg), hidden)
        return Built((*sides, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)))
    head = language_head(written.over(tie_word_embeddings=cfg.tied), hidden, name="lm_head.out_proj")
    return Built((*sides, *head.components), tied=head.tied)
