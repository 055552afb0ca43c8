"""OPT and its relations in fairseq's names: a perceptron of two layers without a module of its own.

References
----------
.. [1] S. Zhang et al., "OPT", 2022, arXiv:2205.01068.
.. [2] X. V. Lin et al., "Few-shot Learning with Multilingual Language Models", 2021, arXiv:2112.10668 (XGLM).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.config import Config
from vrameter.model.families.gpt import equal_heads, head_named
from vrameter.model.families.llama import dense_decoder, full_scopes
from vrameter.model.families.registry import Built, decoder
from vrameter.model.read import with_head

FAIRSEQ_NORMS = ("self_attn_layer_norm", "final_layer_norm")


def fairseq_decoder(cfg: Config, prefix: str, *, bias: bool = True, **traits: Any) -> Component:
    """Return a decoder with fairseq's names: two-layer perceptron without a module of its own."""
    own: dict[str, Any] = {"norms": FAIRSEQ_NORMS, "norm_bias": True, "final_norm": "layer_norm", **traits}
    mlp = {"name": "", "up": "fc1", "down": "fc2", "bias": bias, **own.pop("mlp_traits", {})}
    return dense_decoder(
        cfg,
        prefix,
        gated=False,
        scopes=full_scopes(cfg),
        attention_traits={"o": "out_proj", "bias": bias, "o_bias": bias},
        mlp_traits=mlp,
        **own,
    )


def _opt_heads(cfg: Config, class_name: str) -> Built | None:
    """Return heads that see the embeddings' width, which may be less than the layers'."""
    if class_name.endswith("Model"):
        return None
    body = opt(cfg, "model")
    width = cfg.integer("word_embed_proj_dim", cfg.hidden_size)
    built = with_head(cfg, (replace(body, hidden_size=width),), class_name)
    return replace(built, components=(body, *built.components[1:]))


@decoder("opt", heads=_opt_heads)
def opt(cfg: Config, prefix: str) -> Component:
    """OPT: learned positions with two spare rows, biases everywhere; its embeddings may be narrower than its layers."""
    cfg = equal_heads(cfg)
    hidden, width = cfg.hidden_size, cfg.integer("word_embed_proj_dim", cfg.hidden_size)
    affine = cfg.flag("layer_norm_elementwise_affine", True)
    ends = cfg.flag("do_layer_norm_before", True) and not cfg.flag("_remove_final_layer_norm")
    projections: Tensors = ()
    if width != hidden:
        projections = (
            *parts.linear("project_out", width, hidden, role="other"),
            *parts.linear("project_in", hidden, width, role="other"),
        )
    body = fairseq_decoder(
        cfg,
        f"{prefix}.decoder" if prefix else "decoder",
        bias=cfg.flag("enable_bias", True),
        norm_bias=affine,
        norm_weight=affine,
        final_norm="final_layer_norm" if ends else "",
        embeddings=parts.embedding(
            "embed_positions", cfg.integer("max_position_embeddings") + 2, hidden, slot="position"
        ),
        final_tensors=projections,
        mlp_traits={"intermediate_size": cfg.integer("ffn_dim")},
    )
    token = parts.embedding("embed_tokens", cfg.vocab_size, width)
    return replace(body, tensors=(*token, *body.tensors[1:]))


@decoder("xglm")
def xglm(cfg: Config, prefix: str) -> Component:
    """XGLM: fixed positions, with cross-attention where the config asks for it."""
    cfg = equal_heads(cfg)
    hidden = cfg.hidden_size
    traits: dict[str, Any] = {}
    if cfg.flag("add_cross_attention"):
        cross = parts.attention(
            hidden_size=hidden, num_heads=cfg.num_heads, name="encoder_attn", o="out_proj", bias=True,
            role="cross_attention", scope="cross",
        )  # fmt: skip
        traits = {"extra_parts": (cross,), "layer_tensors": parts.norm("encoder_attn_layer_norm", hidden, bias=True)}
    return fairseq_decoder(cfg, prefix, mlp_traits={"intermediate_size": cfg.integer("ffn_dim")}, **traits)


@decoder("biogpt", base="biogpt", heads=head_named(name="output_projection"))
def biogpt(cfg: Config, prefix: str) -> Component:
    """BioGPT: OPT's layers with a norm at the end."""
    cfg = equal_heads(cfg)
    rows = cfg.integer("max_position_embeddings") + 2
    positions = parts.embedding("embed_positions", rows, cfg.hidden_size, slot="position")
    return fairseq_decoder(cfg, prefix, embeddings=positions)
