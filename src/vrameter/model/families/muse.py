"""Muse: gated attention, a window in three layers of four, and towers for images and, in Spark, for sound.

Spark's experts work in a narrower space between two projections, and its residual stream is gated. Shapes follow the
classes of transformers 5.23.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.gemma import SANDWICH
from vrameter.model.families.llama import dense_decoder
from vrameter.model.families.mixture import balanced, block, decoder_of, grouped_attention, listed, perceptron
from vrameter.model.families.multimodal import projector_of, vision_language
from vrameter.model.families.registry import (
    Built,
    LayerScope,
    decoder,
    layer_scopes,
    model,
    read_part,
    stack,
    tower,
)
from vrameter.model.families.vision_parts import encoder_layer, flat_patches, pair, plain_mlp, tower_of
from vrameter.model.image_input import AreaBounded


def muse_scopes(cfg: Config) -> list[LayerScope]:
    """Return what each layer sees: every fourth, counted from the last, sees everything."""
    count = cfg.num_layers
    return layer_scopes(cfg, count, pattern=lambda index: (count - 1 - index) % 4 != 0)


def output_gate(cfg: Config) -> Tensors:
    """Return the matrix that gates attention's output."""
    width = cfg.num_heads * cfg.head_dim
    return parts.linear("self_attn.gate_proj", width, cfg.hidden_size, role="attention", slot="gate")


@decoder("muse_glimmer_text")
def muse_glimmer_text(cfg: Config, prefix: str) -> Component:
    """Muse Glimmer's decoder: norms before and after each part."""
    return dense_decoder(
        cfg,
        prefix,
        mlp_bias=False,
        norms=SANDWICH,
        scopes=muse_scopes(cfg),
        attention_traits={"extra": output_gate(cfg)},
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


@decoder("muse_spark_text")
def muse_spark_text(cfg: Config, prefix: str) -> Component:
    """Muse Spark's decoder: a mixture in every layer, gates on the residual stream."""
    hidden, width = cfg.hidden_size, cfg.integer("moe_hidden_size")
    kinds = listed(cfg, "mlp_layer_types", cfg.num_layers) or ["sparse"] * cfg.num_layers

    def experts() -> FeedForward:
        around = (
            *parts.linear("mlp.pre_expert_proj", width, hidden, slot="latent"),
            *parts.norm("mlp.pre_expert_norm", width),
            *parts.norm("mlp.experts.post_expert_norm", width),
            *parts.linear("mlp.post_expert_proj", hidden, width, slot="latent"),
        )
        return balanced(cfg, count="num_local_experts", shared_width=0, expert_hidden_size=width, extra=around)

    gates = (
        *parts.parameter("post_attention_residual_gate.gate", hidden),
        *parts.parameter("post_feedforward_residual_gate.gate", hidden),
    )
    norms = ("input_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")

    def build(kind: tuple[LayerScope, str]) -> Layer:
        scope, which = kind
        attention = grouped_attention(cfg, scope, extra=output_gate(cfg))
        mlp = experts() if which == "sparse" else perceptron(cfg)
        return block(cfg, attention, mlp, norms=norms, extra=gates)

    return decoder_of(cfg, prefix, stack(list(zip(muse_scopes(cfg), kinds, strict=True)), build))


@tower("muse_glimmer_vision", "muse_spark_vision")
def muse_glimmer_vision(cfg: Config, prefix: str) -> Component:
    """Muse's tower: MoonViT's layers on patches of several frames laid out as vectors."""
    hidden, frames = cfg.hidden_size, cfg.integer("patch_temporal", 2)
    layer = encoder_layer(cfg, norms=("norm1", "norm2"), attention={"name": "attn", "o": "proj"})
    places = cfg.integer("pos_emb_height") * cfg.integer("pos_emb_width")
    tensors = (
        *flat_patches(cfg, "patch_embedder.patch_embedding", hidden, bias=False, frames=frames),
        *parts.embedding("patch_embedder.position_embedding_table", places, hidden, slot="position"),
        *parts.norm("ln_pre", hidden, bias=True),
        *parts.norm("ln_post", hidden, bias=True),
    )
    edge = pair(cfg, "patch_size")
    merge = cfg.integer("merge_size", 2)
    unit = edge[0] * merge
    image = AreaBounded(
        patch_size=edge, merge=merge, temporal_patch=frames, min_pixels=1, max_pixels=4096 * unit * unit
    )
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="layers", image=image)


@tower("muse_spark_audio")
def muse_spark_audio(cfg: Config, prefix: str) -> Component:
    """Muse Spark's audio tower: convolutions over samples, at widths that grow as the rate falls."""
    ratio, kernel, outputs = (
        cfg.number("mlp_ratio", 4.0),
        cfg.integer("conv_kernel_size"),
        cfg.integer("out_hidden_size"),
    )
    widths, strides = cfg.integers("hidden_sizes", least=1), cfg.integers("patch_sizes", least=1)
    layers: list[Layer] = []
    before = 1
    for width, stride, depth in zip(widths, strides, cfg.integers("depths", least=1), strict=False):
        tensors = (
            *parts.linear("patch_embedder.proj", width, before * stride, bias=True, role="convolution"),
            *parts.norm("patch_embedder.norm", width),
        )
        for index in range(depth):
            name = f"conv_blocks.{index}"
            tensors += parts.conv(f"{name}.conv", width, 1, kernel)
            tensors += parts.norm(f"{name}.norm", width)
            tensors += plain_mlp(f"{name}.mlp", width, int(width * ratio), up="fc1", down="fc2")
        layers.append(Layer((), tensors))
        before = width
    last = (
        *parts.norm("norm", before),
        *parts.linear("proj", outputs, before, bias=True, role="projector"),
        *parts.norm("post_proj_norm", outputs),
    )
    return Component(
        kind="audio",
        name="audio tower",
        hidden_size=before,
        layers=tuple(layers),
        tensors=last,
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
    )


@model("muse_glimmer", "muse_spark")
def muse(cfg: Config, class_name: str) -> Built:
    """Muse Glimmer and Spark: four patches side by side, an adapter of two layers, one more to the decoder's width."""

    def beside(own: Config, prefix: str, body: Component) -> tuple[Component, ...]:
        inner, inputs = own.integer("projector_hidden_size"), own.integer("out_hidden_size")
        layers = (
            *plain_mlp("vision_adapter", inputs, inner, inner, up="fc1", down="fc2", bias=False, role="projector"),
            *parts.linear("vision_projection", body.hidden_size, inner, role="projector"),
        )
        heard: tuple[Component, ...] = ()
        if own.has_nested("audio_config"):
            heard = read_part(own.nested("audio_config"), joined(prefix, "audio_tower"))
        return (projector_of(body, layers, prefix), *heard)

    return vision_language(cfg, class_name, others=beside)
