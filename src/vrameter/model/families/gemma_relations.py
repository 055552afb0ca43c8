"""Models made of Gemma's parts: T5Gemma 2, DiffusionGemma, and pi0, which moves a robot.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] B. Zhang et al., "T5Gemma 2: Seeing, Reading, and Understanding Longer", 2025, arXiv:2512.14856.
.. [2] K. Black et al., "pi0: A Vision-Language-Action Flow Model for General Robot Control", 2024, arXiv:2410.24164.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensor, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_decoder import language_head
from vrameter.model.families.encoder_heads import is_bare, linear, task_of
from vrameter.model.families.gemma_edge import gemma4_text
from vrameter.model.families.llama import dense_decoder
from vrameter.model.families.multimodal import head_of, is_headless, nested_as
from vrameter.model.families.registry import (
    Built,
    LayerScope,
    entry,
    layer_scopes,
    model,
    num_labels,
    read_part,
    tower,
    within,
)
from vrameter.model.families.t5gemma import SANDWICH

# -- T5Gemma 2 -----------------------------------------------------------------------------------------


def _scopes(cfg: Config) -> list[LayerScope]:
    """Return what each layer sees: all but every sixth a window, or as listed."""
    period = cfg.integer("sliding_window_pattern", 6)
    return layer_scopes(cfg, cfg.num_layers, pattern=lambda index: bool((index + 1) % period))


def _stack(cfg: Config, prefix: str, scopes: list[LayerScope]) -> Component:
    body = dense_decoder(cfg, prefix, norms=SANDWICH, mlp_bias=False, qk_norm="head", scopes=scopes)
    mark = parts.parameter("embed_tokens.eoi_embedding", cfg.hidden_size, role="embedding")
    return replace(body, tensors=(*body.tensors, *mark))


@tower("t5gemma2_encoder")
def t5gemma2_encoder(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """T5Gemma 2's encoder [1]_: text and, through SigLIP and one matrix, images."""
    text = cfg.nested("text_config", "t5gemma2_text")
    own = _stack(text, joined(prefix, "text_model"), [("encoder", window) for _, window in _scopes(text)])
    body = replace(own, kind="encoder", name="encoder")
    seen, *rest = read_part(nested_as(cfg, "vision_config", "siglip_vision_model"), joined(prefix, "vision_tower"))
    bridge = (
        *parts.parameter("mm_input_projection_weight", seen.hidden_size, body.hidden_size, role="projector"),
        *parts.norm("mm_soft_emb_norm", seen.hidden_size),
    )
    if seen.image is not None:
        seen = replace(seen, image=seen.image.bounded(num_tokens=cfg.integer("mm_tokens_per_image", 256)))
    name = joined(prefix, "multi_modal_projector")
    joint = Component(kind="projector", name="projector", hidden_size=body.hidden_size, tensors=bridge, prefix=name)
    return (body, seen, *rest, joint)


@model("t5gemma2")
def t5gemma2(cfg: Config, class_name: str) -> Built:
    """T5Gemma 2 [1]_: the decoder looks at itself and at the encoder with one set of matrices, and shares its table."""
    prefix = "" if is_bare(class_name) else "model"
    text = cfg.nested("decoder", "t5gemma2_decoder")
    sides = t5gemma2_encoder(cfg.nested("encoder", "t5gemma2_encoder"), joined(prefix, "encoder"))
    written = _stack(text, joined(prefix, "decoder"), _scopes(text))
    is_tied = cfg.flag("tie_word_embeddings", True)
    if is_tied:
        written = replace(written, tensors=tuple(t for t in written.tensors if not t.name.startswith("embed_tokens.")))
    hidden = written.hidden_size
    if not prefix:
        return Built((*sides, written))
    if task_of(class_name) in ("SequenceClassification", "TokenClassification"):
        tensors = linear("score.out_proj", num_labels(cfg), hidden)
        return Built((*sides, written, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)))
    head = language_head(text.over(tie_word_embeddings=is_tied), hidden, name="lm_head.out_proj")
    return Built((*sides, written, *head.components), tied=head.tied)


# -- DiffusionGemma ------------------------------------------------------------------------------------


def is_shared(tensor: Tensor) -> bool:
    """Say whether the two sides of DiffusionGemma share a tensor: scalars and biases are each side's own."""
    return not tensor.buffer and not tensor.name.endswith(".bias")


@model("diffusion_gemma")
def diffusion_gemma(cfg: Config, class_name: str) -> Built:
    """DiffusionGemma: Gemma 4's layers read the prompt, and the same weights refine a canvas of tokens."""
    base = "" if is_headless(class_name) else "model"
    text = cfg.nested("text_config").over(
        enable_moe_block=True, attention_k_eq_v=True, num_kv_shared_layers=0, hidden_size_per_layer_input=0
    )
    body = gemma4_text(text, joined(base, "decoder"))
    hidden, inner = text.hidden_size, text.integer("intermediate_size")
    is_tied = cfg.flag("tie_word_embeddings", True)
    own, twins = joined(base, "decoder"), joined(base, "encoder.language_model")
    shared = tuple(
        twins + name.removeprefix(own) for name, _, tensor in body.named_tensors() if is_tied and is_shared(tensor)
    )
    separate: Tensors = tuple(
        tensor._replace(name=joined("language_model", name.removeprefix(own).removeprefix(".")))
        for name, _, tensor in body.named_tensors()
        if not (is_tied and is_shared(tensor))
    )
    condition = parts.mlp(
        hidden_size=hidden, intermediate_size=inner, name="self_conditioning",
        extra=parts.norm("self_conditioning.pre_norm", hidden),
    )  # fmt: skip
    body = replace(body, tensors=(*body.tensors, *condition.tensors))
    encoder = joined(base, "encoder")
    seen, *rest = read_part(nested_as(cfg, "vision_config", "gemma4_vision"), joined(encoder, "vision_tower"))
    matrix = parts.linear("embedding_projection", hidden, seen.hidden_size, role="projector")
    joint = Component(
        kind="projector", name="projector", hidden_size=hidden, tensors=matrix, prefix=joined(encoder, "embed_vision")
    )
    twin = Component(kind="other", name="encoder's own", hidden_size=hidden, tensors=separate, prefix=encoder)
    components = (body, seen, *rest, joint, twin)
    last = head_of(body, is_tied=is_tied) if base else Built(())
    return Built((*components, *last.components), tied=(*shared, *last.tied))


# -- assistants ----------------------------------------------------------------------------------------


@model("gemma4_assistant", "gemma4_unified_assistant")
def gemma4_assistant(cfg: Config, class_name: str) -> Built:
    """Gemma 4's assistants, which write ahead: all layers read the keys and values of the model that they help."""
    text = cfg.nested("text_config", "gemma4_text" if cfg.model_type == "gemma4_assistant" else "gemma4_unified_text")
    own = text.over(num_kv_shared_layers=text.num_layers, hidden_size_per_layer_input=0)
    body = gemma4_text(own, "model")
    hidden, wide, vocab = body.hidden_size, cfg.integer("backbone_hidden_size"), body.vocab_size
    tensors = (
        *parts.linear("pre_projection", hidden, 2 * wide, role="projector"),
        *parts.linear("post_projection", wide, hidden, role="projector"),
    )
    if cfg.flag("use_ordered_embeddings", False):
        tensors += parts.linear("masked_embedding.centroids", cfg.integer("num_centroids"), hidden, role="head")
        tensors += parts.buffer("masked_embedding.token_ordering", vocab)
    joint = Component(kind="projector", name="projector", hidden_size=hidden, tensors=tensors)
    last = head_of(body, is_tied=cfg.flag("tie_word_embeddings", True))
    return Built((body, joint, *last.components), tied=last.tied)


# -- pi0 -----------------------------------------------------------------------------------------------


@model("pi0")
def pi0(cfg: Config, class_name: str) -> Built:
    """pi0 [2]_: PaliGemma, and a second, smaller Gemma that denoises actions while it looks at the first's cache."""
    base = "" if is_headless(class_name) else "model"
    seen, own = cfg.nested("vlm_config", "paligemma"), cfg.nested("dit_config", "gemma")
    found = entry(seen.model_type)
    if found is None or found.kind != "model":
        raise seen.fail(
            "model_type", "'%(value)s' is not a kind of network that can stand here.", value=seen.model_type
        )
    vision = within(joined(base, "vlm"), found.read(seen, "PaliGemmaModel"))
    mover, *rest = read_part(own, joined(base, "dit"), kind="decoder")
    components = (*vision.components, replace(mover, name="action decoder"), *rest)
    if not base:
        return Built(components, tied=vision.tied)
    width, actions = mover.hidden_size, cfg.integer("max_action_dim")
    name = "embed_action_time"
    tensors = (
        *linear(f"{name}.action_in_proj", width, actions),
        *linear(f"{name}.state_proj", width, cfg.integer("max_state_dim")),
        *linear(f"{name}.action_time_mlp_in", width, 2 * width),
        *linear(f"{name}.action_time_mlp_out", width, width),
        *linear("action_out_proj", actions, width),
    )
    head = Component(kind="head", name="head", hidden_size=width, tensors=tensors)
    return Built((*components, head), tied=vision.tied)
