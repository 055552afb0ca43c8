"""Towers brought to a decoder or an encoder by a merger or a pooling: Cosmos 3, Molmo 2, ModernVBERT, Nemotron Omni.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] M. Deitke et al., "Molmo and PixMo", 2024, arXiv:2409.17146.
.. [2] P. Teiletche et al., "ModernVBERT", 2025, arXiv:2510.01149.
.. [3] M. Ranzinger et al., "AM-RADIO", 2023, arXiv:2312.06709.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import linear, task_of
from vrameter.model.families.llama import dense_decoder, full_scopes, rounded_heads
from vrameter.model.families.multimodal import is_headless, nested_as, vision_language
from vrameter.model.families.registry import Built, decoder, entry, model, num_labels, read_part, tower, within
from vrameter.model.families.vision_parts import (
    encoder_layer,
    fixed_grid,
    flat_patches,
    inverse,
    pair,
    plain_mlp,
    tower_of,
)
from vrameter.model.image_input import AreaBounded, ImageInput, Tiles

# -- Cosmos 3 ------------------------------------------------------------------------------------------


@decoder("cosmos3_edge_text")
def cosmos3_edge_text(cfg: Config, prefix: str) -> Component:
    """Cosmos 3 Edge's decoder: Llama with a plain perceptron."""
    cfg = rounded_heads(cfg)
    return dense_decoder(cfg, prefix, gated=False, scopes=full_scopes(cfg), mlp_traits={"up": "fc1", "down": "fc2"})


@tower("cosmos3_edge_vision")
def cosmos3_edge_vision(cfg: Config, prefix: str) -> Component:
    """Cosmos 3 Edge's tower: SigLIP 2 on patches laid out as vectors."""
    hidden, places = cfg.hidden_size, cfg.integer("num_patches")
    tensors = (
        *flat_patches(cfg, "embeddings.patch_embedding", hidden),
        *parts.embedding("embeddings.position_embedding", places, hidden, slot="position"),
        *parts.norm("post_layernorm", hidden, bias=True),
    )
    edge, patch = int(places**0.5), pair(cfg, "patch_size")
    image = ImageInput(
        patch_size=patch, image_size=(edge * patch[0], edge * patch[1]), merge=cfg.integer("spatial_merge_size")
    )
    return tower_of(cfg, prefix, encoder_layer(cfg), tensors=tensors, image=image)


@model("cosmos3_edge")
def cosmos3_edge(cfg: Config, class_name: str) -> Built:
    """Cosmos 3 Edge: a norm on each patch, then two layers on four together."""
    merge = cfg.nested("vision_config").integer("spatial_merge_size")

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        inputs, inner = vision.hidden_size * merge**2, own.integer("projector_hidden_size")
        layers = plain_mlp("", inputs, inner, body.hidden_size, up="linear_fc1", down="linear_fc2", role="projector")
        return (*parts.norm("norm", vision.hidden_size, bias=True), *layers)

    return vision_language(
        cfg, class_name, tower="visual", projector=projector, projector_name="projector", is_tied=False
    )


# -- Molmo 2 -------------------------------------------------------------------------------------------


@decoder("molmo2_text")
def molmo2_text(cfg: Config, prefix: str) -> Component:
    """Molmo 2's decoder [1]_: Qwen3 or OLMo 2 with more rows in the table of tokens than the head knows."""
    extra = cfg.integer("additional_vocab_size", 128, least=0)
    per_head = cfg.text("qk_norm_type", "qwen3") == "qwen3"
    body = dense_decoder(
        cfg, prefix, o_bias=False, mlp_bias=False, qk_norm="head" if per_head else "full", scopes=full_scopes(cfg)
    )
    rows = (cfg.vocab_size + extra, cfg.hidden_size)
    tensors = tuple(t._replace(shape=rows) if t.slot == "token" else t for t in body.tensors)
    return replace(body, tensors=tensors)


@tower("molmo2_vision")
def molmo2_vision(cfg: Config, prefix: str) -> Component:
    """Molmo 2's tower: SigLIP 2's without a last norm."""
    hidden, bias = cfg.hidden_size, cfg.flag("attention_bias", True)
    layer = encoder_layer(
        cfg,
        attention={
            "o": "o_proj", "bias": bias, "num_kv_heads": cfg.num_kv_heads, "head_dim": cfg.integer("head_dim", None),
        },
    )  # fmt: skip
    tensors = (
        *parts.parameter(
            "positional_embedding",
            cfg.integer("num_position_embeddings", 729),
            hidden,
            role="embedding",
            slot="position",
        ),
        *flat_patches(cfg, "patch_embedding", hidden),
    )
    own = cfg if cfg.has("image_size") else cfg.over(image_size=[378, 378])
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="layers", image=fixed_grid(own))


@model("molmo2")
def molmo2(cfg: Config, class_name: str) -> Built:
    """Molmo 2 [1]_: features of several layers, pooled by attention over two by two patches, and a gated perceptron."""
    own = cfg.nested("adapter_config")
    hidden, heads = own.hidden_size, own.num_heads
    taken = len(own.integers("vision_feature_layer", [24, 18], least=-(2**10)))
    bias = own.flag("mlp_bias", False)

    def projector(whole: Config, vision: Component, body: Component) -> Tensors:
        pooling = parts.attention(
            hidden_size=hidden * taken, num_heads=heads, num_kv_heads=own.num_kv_heads, head_dim=own.head_dim,
            name="image_pooling_2d", bias=own.flag("attention_bias", True), out_size=hidden, role="projector",
            scope="encoder",
        )  # fmt: skip
        feed = parts.mlp(
            hidden_size=hidden, intermediate_size=own.integer("intermediate_size"), name="image_projector", bias=bias,
            down_bias=False, out_size=own.integer("text_hidden_size"), role="projector",
        )  # fmt: skip
        return (*pooling.tensors, *feed.tensors)

    def cropped(whole: Config, vision: Component) -> ImageInput:
        assert vision.image is not None
        # Most crops, and marks at the ends of rows left out. [transformers 5.23 image_processing_molmo2]
        return Tiles(
            patch_size=vision.image.patch_size, image_size=vision.image.image_size, merge=2, max_tiles=8, extra_tokens=4
        )

    return vision_language(cfg, class_name, projector=projector, imaging=cropped, is_tied=False)


# -- ModernVBERT ---------------------------------------------------------------------------------------


@model("modernvbert", "ultravbert")
def modernvbert(cfg: Config, class_name: str) -> Built:
    """ModernVBERT [2]_ and its relation: patches put side by side go into an encoder of text."""
    ultra = cfg.model_type == "ultravbert"
    base = "" if is_headless(class_name) else "model"
    text = nested_as(cfg, "text_config", "ultrabert" if ultra else "modernbert")
    seen, *rest = read_part(nested_as(cfg, "vision_config", "siglip_vision_model"), joined(base, "vision_model"))
    body, *_ = read_part(text, joined(base, "text_model"))
    hidden, factor = body.hidden_size, cfg.integer("pixel_shuffle_factor")
    bridge = (
        *parts.linear("modality_projection", hidden, seen.hidden_size * factor**2, role="projector"),
        *(parts.norm("norm", hidden) if ultra else ()),
    )
    if seen.image is not None:
        seen = replace(seen, image=seen.image.bounded(merge=factor))
    joint = Component(
        kind="projector", name="projector", hidden_size=hidden, tensors=bridge, prefix=joined(base, "connector")
    )
    components = (body, seen, *rest, joint)
    if not base:
        return Built(components)
    task = task_of(class_name)
    tied: tuple[str, ...] = ()

    def prediction(name: str) -> Tensors:
        if ultra:
            inner = text.integer("prediction_head_size")
            return plain_mlp(name, hidden, inner, up="linear1", down="linear2", bias=False, role="head")
        dense = linear(f"{name}.dense", hidden, hidden, bias=text.flag("classifier_bias", False))
        return (*dense, *parts.norm(f"{name}.norm", hidden, bias=text.flag("norm_bias", False)))

    if task in ("SequenceClassification", "TokenClassification"):
        tensors = (*(() if ultra else prediction("head")), *linear("classifier", num_labels(cfg), hidden))
    else:
        matrix = parts.lm_head(body.vocab_size, hidden, bias=not ultra and text.flag("decoder_bias", True))
        if cfg.flag("tie_word_embeddings", False):
            matrix, tied = matrix[1:], ("lm_head.weight",)
        tensors = (*prediction("projection_head"), *matrix)
    return Built((*components, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)), tied=tied)


# -- Nemotron Omni -------------------------------------------------------------------------------------


@tower("radio")
def radio(cfg: Config, prefix: str) -> Component:
    """RADIO [3]_: patches as vectors, class tokens and registers, positions for images up to a largest size."""
    hidden = cfg.hidden_size
    inner = int(hidden * cfg.number("mlp_ratio", 4.0))
    names = {"gated": True, "up": "up_proj", "down": "down_proj"} if cfg.flag("use_swiglu_ffn", False) else {}
    layer = encoder_layer(
        cfg,
        norms=("norm1", "norm2"),
        attention={"name": "attention", "o": "o_proj", "bias": cfg.flag("qkv_bias", True), "o_bias": True},
        mlp={"intermediate_size": inner, **names},
        extra=tuple(
            tensor for name in ("layer_scale1", "layer_scale2") for tensor in parts.parameter(f"{name}.lambda1", hidden)
        ),
    )
    down, right = pair(cfg, "patch_size")
    largest = cfg.integer("max_img_size")
    places = (largest // down) * (largest // right)
    marks = cfg.integer("num_cls_tokens", least=0) + cfg.integer("num_registers", least=0)
    frames = cfg.integer("video_temporal_patch_size", None)
    tensors = (
        *parts.parameter("embeddings.position_embedding", 1, places, hidden, role="embedding", slot="position"),
        *parts.parameter("embeddings.cls_register_token", marks, hidden, role="embedding"),
        *flat_patches(cfg, "embeddings.patch_projection", hidden, bias=False),
        *(flat_patches(cfg, "embeddings.video_patch_projection", hidden, bias=False, frames=frames) if frames else ()),
        *parts.buffer("input_conditioner.norm_mean", len(cfg.sequence("norm_mean") or range(3)), 1, 1),
        *parts.buffer("input_conditioner.norm_std", len(cfg.sequence("norm_std") or range(3)), 1, 1),
        *parts.buffer("summary_idxs", len(cfg.sequence("summary_idxs") or (0, 1))),
    )
    image = fixed_grid(cfg, extra_patches=marks)
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="encoder.layer", image=image)


@model("nemotron_h_omni")
def nemotron_h_omni(cfg: Config, class_name: str) -> Built:
    """Nemotron 3 Omni: RADIO, four patches side by side, two layers, and a whole Nemotron-H with its head."""
    from vrameter.model.read import build

    text = nested_as(cfg, "text_config", "nemotron_h", kind="decoder")
    found = entry(text.model_type)
    if found is None or found.kind != "decoder":
        raise text.fail(
            "model_type", "'%(value)s' is not a kind of network that can stand here.", value=text.model_type
        )
    language = within("language_model", build(text, found, "ForCausalLM"))
    seen, *rest = read_part(nested_as(cfg, "vision_config", "radio"), "vision_model")
    # The whole's processor normalises images, and keeps their size within bounds.
    # [transformers 5.23 image_processing_nemotron_h_omni]
    kept = tuple(tensor for tensor in seen.tensors if not tensor.name.startswith("input_conditioner."))
    merge, width = inverse(cfg, "downsample_ratio", 0.5), cfg.integer("vision_hidden_size", seen.hidden_size)
    inner, hidden = cfg.integer("projector_hidden_size"), text.hidden_size

    def bridge(name: str, inputs: int, middle: int, *, bias: bool = False) -> Component:
        tensors = (
            *parts.norm("layer_norm", inputs),
            *plain_mlp("", inputs, middle, hidden, up="linear_1", down="linear_2", bias=bias, role="projector"),
        )
        return Component(kind="projector", name="projector", hidden_size=hidden, tensors=tensors, prefix=name)

    if seen.image is not None:
        edge = seen.image.patch_size
        area = edge[0] * edge[1]
        bounds = AreaBounded(patch_size=edge, merge=merge, min_pixels=1024 * area, max_pixels=13312 * area)
        seen = replace(seen, image=bounds.bounded(extra_patches=seen.image.extra_patches))
    seen = replace(seen, tensors=kept)
    components = [*language.components, seen, *rest, bridge("multi_modal_projector", width * merge**2, inner)]
    if text.layers("num_nextn_predict_layers", 0, least=0):
        tensors = parts.norm("vision_final_layernorm", width, bias=True)
        components.append(Component(kind="projector", name="last norm", hidden_size=width, tensors=tensors))
    if cfg.get("audio_config") is not None:
        own = cfg.nested("audio_config").as_type("parakeet_encoder")
        own = own.over(attention_bias=own.values.get("attention_bias", False))
        components += read_part(own, "audio_tower")
        middle, bias = own.integer("projection_hidden_size"), own.flag("projection_bias", False)
        components.append(bridge("embed_audio", own.hidden_size, middle, bias=bias))
    return Built(tuple(components), tied=language.tied)
