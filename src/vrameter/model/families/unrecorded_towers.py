"""Models that see through a tower whose sizes their config.json does not hold: it names another repository, or nothing.

What the config says is read: the decoder, and the projector where its widths are stated. The tower is left out with a
warning, except where a nested config gives its sizes.

References
----------
.. [1] H. Liu et al., "Visual Instruction Tuning", 2023, arXiv:2304.08485 (``mm_vision_tower``, ``mm_projector_type``).
.. [2] M. Deitke et al., "Molmo and PixMo", 2024, arXiv:2409.17146.
"""

from __future__ import annotations

import re

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.config import Config
from vrameter.model.families.gpt import head_named
from vrameter.model.families.llama import dense_decoder, full_scopes
from vrameter.model.families.registry import Built, decoder, entry, model, read_part

_DEPTH = re.compile(r"mlp(\d+)x_gelu\Z")


def _decoder_type(cfg: Config) -> str:
    """Return the language model that the fields are of: Qwen's lines count their windows, Qwen3's heads have a width."""
    if cfg.given("max_window_layers"):
        return "qwen3" if cfg.given("head_dim") else "qwen2"
    return "mistral" if cfg.given("sliding_window") else "llama"


def _projector(cfg: Config, hidden: int) -> Tensors:
    inputs = cfg.integer("mm_hidden_size", None)
    if inputs is None:
        return ()
    match = _DEPTH.match(str(cfg.get("mm_projector_type") or "linear"))
    depth = int(match[1]) if match else 1
    tensors: Tensors = ()
    for index in range(min(depth, 8)):
        tensors += parts.linear(
            f"{2 * index}" if depth > 1 else "", hidden, inputs if index == 0 else hidden, bias=True, role="projector"
        )
    return tensors


@model("logics", "llava_llama", "llava_mistral", "llava_qwen")
def first_llava(cfg: Config, class_name: str) -> Built:
    """LLaVA as first published [1]_: a decoder's own fields, and a tower by name."""
    from vrameter.model.read import build

    kind = _decoder_type(cfg)
    found = entry(kind)
    assert found is not None
    built = build(cfg.as_type(kind), found, "ForCausalLM")
    hidden = built.components[0].hidden_size
    bridge = Component(
        kind="projector",
        name="projector",
        hidden_size=hidden,
        tensors=_projector(cfg, hidden),
        prefix="model.mm_projector",
    )
    towers = read_part(cfg.nested("siglip_config"), "model.vision_tower") if cfg.has_nested("siglip_config") else ()
    cfg.warn(
        "The vision tower '%(tower)s' is another repository's, whose sizes are not in this config.json: it is left out.",
        tower=str(cfg.get("mm_vision_tower") or "?")[:80],
    )
    return Built((*built.components, bridge, *towers), tied=built.tied)


@decoder("molmo", base="model.transformer", heads=head_named(name="model.transformer.ff_out", untied=True))
def molmo(cfg: Config, prefix: str) -> Component:
    """Molmo [2]_: OLMo's names, fused projections, a second small table of embeddings; the tower is in its code."""
    cfg.warn("The vision tower is described by the repository's code, which is not run: it is left out.")
    return dense_decoder(
        cfg,
        prefix,
        norms=("attn_norm", "ff_norm"),
        final_norm="ln_f",
        embed="wte",
        layers_name="blocks",
        scopes=full_scopes(cfg),
        qkv_bias=cfg.flag("qkv_bias", False),
        o_bias=False,
        embeddings=parts.embedding("wte.new_embedding", cfg.integer("additional_vocab_size", 128), cfg.hidden_size),
        attention_traits={"name": "", "qkv": "att_proj", "o": "attn_out"},
        mlp_traits={
            "name": "", "gate_up": "ff_proj", "down": "ff_out", "bias": False, "gated": True,
            "intermediate_size": cfg.integer("intermediate_size") // 2,
        },
    )  # fmt: skip
