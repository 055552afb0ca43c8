"""Llama 3.2 Vision and Llama 4: tiles of one size, read by cross-attention or merged into tokens.

References
----------
.. [1] Llama Team, "The Llama 3 Herd of Models", 2024, arXiv:2407.21783, section 7 (cross-attention layers that keep an
       image's keys and values).
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.llama import dense_decoder, full_scopes, rounded_heads
from vrameter.model.families.multimodal import head_of, is_headless, projector_of, vision_language
from vrameter.model.families.registry import Built, decoder, model, tower
from vrameter.model.families.vision_parts import encoder_layer, flat_patches, grid, inverse, pair, patches, tower_of
from vrameter.model.image_input import ImageInput, Tiles

SPARE_ROWS = 8  # rows of the token table for marks such as <|image|>, which no head predicts


def crossing_layer(cfg: Config, tokens: int | None) -> Layer:
    """Return a layer that looks at the image instead of the text [1]_."""
    hidden, name = cfg.hidden_size, "cross_attn"
    crossing = parts.attention(
        hidden_size=hidden, num_heads=cfg.num_heads, num_kv_heads=cfg.num_kv_heads, head_dim=cfg.head_dim, name=name,
        qk_norm=cfg.head_dim, role="cross_attention", scope="cross", cross_tokens=tokens,
    )  # fmt: skip
    feed = parts.mlp(hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"))
    around = (
        *parts.norm("input_layernorm", hidden),
        *parts.norm("post_attention_layernorm", hidden),
        *parts.parameter(f"{name}_attn_gate", 1),
        *parts.parameter(f"{name}_mlp_gate", 1),
    )
    return Layer((crossing, feed), around)


def crossing_text(cfg: Config, class_name: str) -> Built | None:
    """Return the decoder with a head over the tokens that it may predict; never tied, the table being longer."""
    if not class_name.endswith("ForCausalLM"):
        return None
    body = mllama_text(cfg, "model")
    return Built((body, *head_of(body, is_tied=False).components))


@decoder("mllama_text_model", heads=crossing_text)
def mllama_text(cfg: Config, prefix: str, *, tokens: int | None = None) -> Component:
    """Llama 3.2 Vision's decoder: Llama with layers of cross-attention between; `tokens` are kept of an image."""
    cfg = rounded_heads(cfg)
    body = dense_decoder(cfg.over(vocab_size=cfg.vocab_size + SPARE_ROWS), prefix, scopes=full_scopes(cfg))
    places = set(cfg.integers("cross_attention_layers", [3, 8, 13, 18, 23, 28, 33, 38]))
    crossing = crossing_layer(cfg, tokens)
    layers = tuple(crossing if index in places else layer for index, layer in enumerate(body.layers))
    return replace(body, layers=layers, vocab_size=cfg.vocab_size)


@tower("mllama_vision_model")
def mllama_vision(cfg: Config, prefix: str) -> tuple[Component, ...]:
    """Llama 3.2 Vision's tower: positions of patches and tiles behind gates, then layers over all tiles together."""
    hidden = cfg.hidden_size
    tiles, ratios = cfg.integer("max_num_tiles"), len(cfg.sequence("supported_aspect_ratios") or range(8)) + 1
    places = grid(cfg) + 1
    norms = ("input_layernorm", "post_attention_layernorm")
    attention = {"o": "o_proj", "bias": False}
    gates = (*parts.parameter("gate_attn", 1), *parts.parameter("gate_ffn", 1))
    near = encoder_layer(cfg, norms=norms, attention=attention)
    wide = encoder_layer(cfg, norms=norms, attention=attention, extra=gates)
    positions: Tensors = ()
    for where in ("pre", "post"):
        name = f"{where}_tile_positional_embedding"
        positions += parts.parameter(f"{name}.gate", 1)
        positions += parts.embedding(f"{name}.embedding", ratios, tiles * hidden, slot="position")
    name = "gated_positional_embedding"
    tensors = (
        *parts.parameter("class_embedding", hidden, role="embedding"),
        *patches(cfg, "patch_embedding", hidden, bias=False),
        *parts.parameter(f"{name}.gate", 1),
        *parts.parameter(f"{name}.embedding", places, hidden, role="embedding", slot="position"),
        *parts.embedding(f"{name}.tile_embedding", ratios, tiles * places * hidden, slot="position"),
        *positions,
        *parts.norm("layernorm_pre", hidden, bias=True),
        *parts.norm("layernorm_post", hidden, bias=True),
    )
    image = Tiles(
        patch_size=pair(cfg, "patch_size"), image_size=pair(cfg, "image_size"), extra_patches=1, num_tokens=0,
        max_tiles=tiles, overview=False, fit="canvas", extra_tokens=1, keeps_empty_tiles=True,
    )  # fmt: skip
    body = tower_of(cfg, prefix, near, tensors=tensors, layers_name="transformer.layers", image=image)
    over = tower_of(
        cfg, prefix, wide, tensors=(), count=cfg.layers("num_global_layers"),
        layers_name="global_transformer.layers", name="vision tower over tiles",
    )  # fmt: skip
    return body, over


@model("mllama")
def mllama(cfg: Config, class_name: str) -> Built:
    """Llama 3.2 Vision: the projector reads the tower's output beside that of five of its layers."""
    text, vision = cfg.nested("text_config"), cfg.nested("vision_config")
    if class_name.endswith("ForCausalLM"):
        return crossing_text(text, class_name) or Built(())
    base = "" if is_headless(class_name) else "model"
    towers = mllama_vision(vision, joined(base, "vision_model"))
    assert towers[0].image is not None
    body = mllama_text(text, joined(base, "language_model"), tokens=towers[0].image.max_patches)
    layers = vision.sequence("intermediate_layers_indices") or range(5)
    inputs = vision.integer("vision_output_dim", vision.hidden_size * (1 + len(layers)))
    matrix = parts.linear("multi_modal_projector", body.hidden_size, inputs, bias=True, role="projector")
    components = (body, *towers, projector_of(body, matrix, base))
    if not base:
        return Built(components)
    return Built((*components, *head_of(body, is_tied=False).components))


@tower("llama4_vision_model")
def llama4_vision(cfg: Config, prefix: str) -> Component:
    """Llama 4's tower: four patches to a token, and a perceptron behind them."""
    hidden = cfg.hidden_size
    layer = encoder_layer(cfg, norms=("input_layernorm", "post_attention_layernorm"), attention={"o": "o_proj"})
    places = grid(cfg) + 1
    inner, outputs = cfg.integer("projector_input_dim"), cfg.integer("projector_output_dim", 4096)
    tensors = (
        *parts.parameter("class_embedding", hidden, role="embedding"),
        *parts.parameter("positional_embedding_vlm", places, hidden, role="embedding", slot="position"),
        *flat_patches(cfg, "patch_embedding.linear", hidden, bias=False),
        *parts.norm("layernorm_pre", hidden, bias=True),
        *parts.norm("layernorm_post", hidden, bias=True),
        *parts.linear("vision_adapter.mlp.fc1", inner, cfg.integer("intermediate_size"), role="projector"),
        *parts.linear("vision_adapter.mlp.fc2", outputs, outputs, role="projector"),
    )
    image: ImageInput = Tiles(
        patch_size=pair(cfg, "patch_size"), image_size=pair(cfg, "image_size"), extra_patches=1,
        merge=inverse(cfg, "pixel_shuffle_ratio", 0.5), max_tiles=16, fit="canvas", extra_tokens=3,
        mark_tokens=1,
    )  # fmt: skip
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="model.layers", image=image)


@model("llama4")
def llama4(cfg: Config, class_name: str) -> Built:
    """Llama 4: the decoder keeps its own head."""

    def projector(own: Config, vision: Component, body: Component) -> Tensors:
        inputs = own.nested("vision_config").integer("vision_output_dim", 7680)
        return parts.linear("linear_1", body.hidden_size, inputs, role="projector")

    return vision_language(
        cfg, class_name, tower="vision_model", text="language_model.model", projector=projector, base="",
        head="language_model.lm_head", is_tied=bool(cfg.nested("text_config").flag("tie_word_embeddings", False)),
    )  # fmt: skip
