"""ProphetNet [1]_: an encoder-decoder that predicts several tokens ahead, with relative positions in the decoder.

References
----------
.. [1] W. Qi et al., "ProphetNet", 2020, arXiv:2001.04063.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.config import Config
from vrameter.model.families.encoder_decoder import Style, language_head, projections, shared_tokens, side
from vrameter.model.families.encoder_heads import task_of
from vrameter.model.families.registry import ENTRIES, Built, tower

STYLE = Style(
    embedding_norm="embeddings_layer_norm", cross="cross_attn", cross_norm="cross_attn_layer_norm",
    mlp_norm="feed_forward_layer_norm", up="feed_forward.intermediate", down="feed_forward.output",
    projections=("query_proj", "key_proj", "value_proj"), tokens="word_embeddings", positions="position_embeddings",
)  # fmt: skip


def _side(cfg: Config, prefix: str, *, decoder: bool, **given: Any) -> Component:
    kind = "decoder" if decoder else "encoder"
    heads = cfg.integer(f"num_{kind}_attention_heads")
    own = cfg.over(**{f"{kind}_layers": cfg.layers(f"num_{kind}_layers"), f"{kind}_attention_heads": heads})
    if not decoder:
        return side(own, prefix, STYLE, decoder=False, **given)
    attention = projections(own, STYLE, name="self_attn", heads=heads, scope="full")
    table = parts.linear(
        "self_attn.relative_pos_embeddings", cfg.integer("num_buckets") * heads, cfg.hidden_size, bias=True,
        role="attention", slot="position",
    )  # fmt: skip
    ahead = parts.embedding("ngram_embeddings", cfg.integer("ngram"), cfg.hidden_size, slot="other")
    return side(
        own, prefix, STYLE, decoder=True, attention=replace(attention, tensors=(*attention.tensors, *table)), tensors=ahead,
        **given,
    )  # fmt: skip


def _heads(cfg: Config, class_name: str) -> Built:
    task = task_of(class_name)
    prefix = "" if task == "Model" else ENTRIES[cfg.model_type].base
    tables = shared_tokens(cfg, tied=cfg.tied, name="word_embeddings", own="word_embeddings")
    if task == "CausalLM":
        kept: Tensors = tuple(table for table in tables if not table.name.startswith("encoder"))
        sides: tuple[Component, ...] = (_side(cfg, prefix, decoder=True, embeddings=kept),)
    else:
        sides = (_side(cfg, prefix, decoder=False, embeddings=tables), _side(cfg, prefix, decoder=True))
    if task == "Model":
        return Built(sides)
    head = language_head(cfg, cfg.hidden_size)
    return Built((*sides, *head.components), tied=head.tied)


@tower("prophetnet", base="prophetnet", heads=_heads, task="ForConditionalGeneration")
def prophetnet(cfg: Config, prefix: str) -> Component:
    """ProphetNet's encoder."""
    return _side(cfg, prefix, decoder=False, own_tokens=True, stack_name="")
