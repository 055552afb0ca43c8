"""Gemma's decoders: a wide head apart from the hidden width, norms before and after, windows on most layers.

A config with `use_bidirectional_attention` is an encoder: it keeps nothing.

References
----------
.. [1] Gemma Team, "Gemma 2", 2024, arXiv:2408.00118; "Gemma 3 Technical Report", 2025, arXiv:2503.19786.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vrameter.model.architecture import Component
from vrameter.model.config import Config
from vrameter.model.families.llama import dense_decoder, full_scopes
from vrameter.model.families.registry import LayerScope, decoder, layer_scopes

SANDWICH = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip


def gemma_decoder(cfg: Config, prefix: str, scopes: Sequence[LayerScope], **traits: Any) -> Component:
    """Return a Gemma decoder, or the encoder made of one."""
    if cfg.get("use_bidirectional_attention") is True:
        component = dense_decoder(cfg, prefix, mlp_bias=False, scopes=[("encoder", None)] * len(scopes), **traits)
        return replace(component, kind="encoder", name="encoder")
    return dense_decoder(cfg, prefix, mlp_bias=False, scopes=scopes, **traits)


@decoder("gemma")
def gemma(cfg: Config, prefix: str) -> Component:
    """Gemma: Llama's order, a head as wide as the config says."""
    return gemma_decoder(cfg, prefix, full_scopes(cfg))


@decoder("gemma2")
def gemma2(cfg: Config, prefix: str) -> Component:
    """Gemma 2: norms before and after each part; every other layer slides, from the first."""
    scopes = layer_scopes(cfg, cfg.num_layers, pattern=lambda index: index % 2 == 0)
    return gemma_decoder(cfg, prefix, scopes, norms=SANDWICH)


@decoder("vaultgemma")
def vaultgemma(cfg: Config, prefix: str) -> Component:
    """VaultGemma: Gemma 2 without the norms after."""
    scopes = layer_scopes(cfg, cfg.num_layers, pattern=lambda index: index % 2 == 0)
    return gemma_decoder(cfg, prefix, scopes, norms=("input_layernorm", "pre_feedforward_layernorm"))


@decoder("gemma3_text")
def gemma3_text(cfg: Config, prefix: str) -> Component:
    """Gemma 3: Gemma 2 with norms on heads; all but every sixth layer slide."""
    period = cfg.integer("sliding_window_pattern", 6)
    scopes = layer_scopes(cfg, cfg.num_layers, pattern=lambda index: (index + 1) % period != 0)
    return gemma_decoder(cfg, prefix, scopes, norms=SANDWICH, qk_norm="head")
