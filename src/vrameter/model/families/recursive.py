"""HRM-Text: two stacks that run several times per token, each run with a cache of its own.

References
----------
.. [1] G. Wang et al., "Hierarchical Reasoning Model", 2025, arXiv:2506.21734.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, Layer, joined
from vrameter.model.config import Config
from vrameter.model.families.mixture import grouped_attention, perceptron
from vrameter.model.families.registry import decoder

MAX_RUNS = 64


@decoder("hrm_text")
def hrm_text(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Return the lower stack with all runs of both as the layers that keep keys and values, and the upper's weights [1]_.

    A run is a layer; only the first of the lower stack's holds tensors, and the upper stack's stand in a component apart.
    """
    hidden = cfg.hidden_size
    own = cfg.over(num_key_value_heads=None)
    width = cfg.num_heads * cfg.head_dim
    bias = cfg.flag("attention_bias", False)
    gate = parts.linear("self_attn.gate_proj", width, hidden, bias=bias, role="attention", slot="gate")
    attention = grouped_attention(own, extra=gate)
    feed: FeedForward = perceptron(cfg, bias=cfg.flag("mlp_bias", False))
    layer = Layer((attention, feed))
    again = Layer((replace(attention, tensors=()), replace(feed, tensors=())))
    count = cfg.layers("num_layers_per_stack", cfg.num_layers)
    runs = cfg.integer("H_cycles", most=MAX_RUNS) * (cfg.integer("L_cycles", most=MAX_RUNS) + 1)
    lower = Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=(*(layer,) * count, *(again,) * (count * (runs - 1))),
        tensors=(
            *parts.embedding("embed_tokens", cfg.vocab_size, hidden),
            *parts.parameter("z_L_init", hidden),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "L_module.layers"),
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings", 0, least=0),
    )
    upper = Component(
        kind="other",
        name="upper stack",
        hidden_size=hidden,
        layers=(layer,) * count,
        layers_prefix=joined(prefix, "H_module.layers"),
    )
    return lower, upper
