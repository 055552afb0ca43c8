"""Muse: gated attention with norms before and after each part, and the drafter that predicts blocks of its tokens.

Shapes follow the classes of transformers 5.23.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, joined
from vrameter.model.config import Config
from vrameter.model.families.gemma import SANDWICH
from vrameter.model.families.llama import dense_decoder
from vrameter.model.families.mixture import block, grouped_attention, perceptron
from vrameter.model.families.registry import LayerScope, decoder, layer_scopes, stack, tower


@decoder("muse_glimmer_text")
def muse_glimmer_text(cfg: Config, prefix: str) -> Component:
    """Muse Glimmer's text decoder: every fourth layer sees all, counted from the last."""
    count = cfg.num_layers
    width = cfg.num_heads * cfg.head_dim
    gate = parts.linear("self_attn.gate_proj", width, cfg.hidden_size, role="attention", slot="gate")
    return dense_decoder(
        cfg,
        prefix,
        mlp_bias=False,
        norms=SANDWICH,
        scopes=layer_scopes(cfg, count, pattern=lambda index: (count - 1 - index) % 4 != 0),
        attention_traits={"extra": gate},
    )


@tower("muse_glimmer_assistant")
def muse_glimmer_assistant(cfg: Config, prefix: str) -> Component:
    """Muse Glimmer's drafter: a few layers over hidden states of the model that it drafts for, and no token table."""
    hidden, targets = cfg.hidden_size, cfg.integers("target_layer_ids", [1, 13, 25, 37, 49])

    def build(scope: LayerScope) -> Layer:
        return block(cfg, grouped_attention(cfg, scope, bias=False, qk_norm="head"), perceptron(cfg))

    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=stack(layer_scopes(cfg, cfg.num_layers), build),
        tensors=(
            *parts.norm("norm", hidden),
            *parts.linear("encoder.fc", hidden, len(targets) * hidden, role="projector"),
            *parts.norm("encoder.output_norm_enc", hidden),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        max_positions=cfg.integer("max_position_embeddings", 0, least=0),
    )
