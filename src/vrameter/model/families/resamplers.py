"""Models that read an image through a fixed number of learned queries: Idefics, BLIP-2, Kosmos.

References
----------
.. [1] H. Laurençon et al., "OBELICS" (Idefics), 2023, arXiv:2306.16527; "What matters when building vision-language
       models?" (Idefics2), 2024, arXiv:2405.02246.
.. [2] J. Li et al., "BLIP-2", 2023, arXiv:2301.12597; W. Dai et al., "InstructBLIP", 2023, arXiv:2305.06500.
.. [3] Z. Peng et al., "Kosmos-2", 2023, arXiv:2306.14824; T. Lv et al., "Kosmos-2.5", 2023, arXiv:2309.11419.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.clip import clip_vision
from vrameter.model.families.llama import dense_decoder, full_scopes, rounded_heads
from vrameter.model.families.multimodal import head_of, is_headless, nested_as, tied, vision_language
from vrameter.model.families.registry import Built, entry, model, read_part, tower, within
from vrameter.model.families.vision_parts import encoder_layer, fixed_grid, grid, patches, tower_of
from vrameter.model.image_input import ImageInput

# -- Idefics -------------------------------------------------------------------------------------------


@tower("idefics2_vision", "idefics3_vision", "smolvlm_vision")
def idefics_vision(cfg: Config, prefix: str) -> Component:
    """Idefics2's tower, and that of Idefics3 and SmolVLM: SigLIP's without its pooling."""
    hidden = cfg.hidden_size
    tensors = (
        *patches(cfg, "embeddings.patch_embedding", hidden),
        *parts.embedding("embeddings.position_embedding", grid(cfg), hidden, slot="position"),
        *parts.norm("post_layernorm", hidden, bias=True),
    )
    return tower_of(cfg, prefix, encoder_layer(cfg), tensors=tensors, image=fixed_grid(cfg))


def perceiver(cfg: Config, prefix: str) -> Component:
    """Return Idefics2's resampler: queries that look at the image and at themselves."""
    hidden, heads, dim = cfg.hidden_size, cfg.integer("resampler_n_heads"), cfg.integer("resampler_head_dim")
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, num_kv_heads=cfg.integer("num_key_value_heads"), head_dim=dim,
        scope="encoder",
    )  # fmt: skip
    feed = parts.mlp(hidden_size=hidden, intermediate_size=4 * hidden)
    norms = ("input_latents_norm", "input_context_norm", "post_attention_layernorm")
    layer = Layer((attention, feed), tuple(tensor for name in norms for tensor in parts.norm(name, hidden)))
    queries = parts.parameter("latents", cfg.integer("resampler_n_latents"), hidden, role="projector")
    return Component(
        kind="projector",
        name="resampler",
        hidden_size=hidden,
        layers=(layer,) * cfg.layers("resampler_depth"),
        tensors=(*queries, *parts.norm("norm", hidden)),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
    )


@model("idefics2")
def idefics2(cfg: Config, class_name: str) -> Built:
    """Idefics2 [1]_: a gated perceptron to the decoder's width, then the resampler."""
    own = cfg.nested("perceiver_config")

    def projector(whole: Config, vision: Component, body: Component) -> Tensors:
        inner = whole.nested("text_config").integer("intermediate_size")
        feed = parts.mlp(
            hidden_size=vision.hidden_size, intermediate_size=inner, out_size=body.hidden_size,
            name="modality_projection", role="projector",
        )  # fmt: skip
        return feed.tensors

    def resampler(whole: Config, prefix: str, body: Component) -> tuple[Component, ...]:
        sized = own.over(hidden_size=body.hidden_size)
        return (perceiver(sized, joined(prefix, "connector.perceiver_resampler")),)

    def seen(whole: Config, vision: Component) -> ImageInput:
        assert vision.image is not None
        return vision.image.bounded(num_tokens=own.integer("resampler_n_latents"))

    return vision_language(
        cfg, class_name, tower="vision_model", text="text_model", projector=projector, projector_name="connector",
        imaging=seen, others=resampler,
    )  # fmt: skip


def gated_crossing(cfg: Config, source: int, tokens: int) -> Layer:
    """Return Idefics' layer of cross-attention behind gates."""
    hidden = cfg.hidden_size
    norms = cfg.flag("qk_layer_norms", False)
    crossing = parts.attention(
        hidden_size=hidden, num_heads=cfg.num_heads, name="cross_attn", kv_size=source, role="cross_attention",
        scope="cross", cross_tokens=tokens, qk_norm=hidden // cfg.num_heads if norms else None,
        q_norm="q_layer_norm", k_norm="k_layer_norm",
    )  # fmt: skip
    feed = parts.mlp(hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"))
    shape = (1, 1, hidden) if cfg.text("alpha_type", "float") == "vector" else (1,)
    around = (
        *parts.parameter("alpha_cross_attn", *shape),
        *parts.parameter("alpha_dense", *shape),
        *parts.norm("input_layernorm", hidden),
        *parts.norm("post_attention_layernorm", hidden),
    )
    return Layer((crossing, feed), around)


def idefics_resampler(cfg: Config, own: Config, width: int, prefix: str) -> Component:
    """Return Idefics' optional resampler."""
    heads, dim = own.integer("resampler_n_heads"), own.integer("resampler_head_dim")
    depth, inner = own.layers("resampler_depth"), heads * dim
    tensors: Tensors = parts.parameter("latents", own.integer("resampler_n_latents"), width, role="projector")
    norms = ("context_layer_norm", "latents_layer_norm")
    for index in range(depth):
        attention, feed = f"blocks.{index}.0", f"blocks.{index}.1"
        tensors += tuple(each for name in norms for each in parts.norm(f"{attention}.{name}", width, bias=True))
        if own.flag("qk_layer_norms_perceiver", False):
            tensors += parts.norm(f"{attention}.q_layer_norm", dim, bias=True)
            tensors += parts.norm(f"{attention}.k_layer_norm", dim, bias=True)
        for which in "qkv":
            tensors += parts.linear(f"{attention}.{which}_proj", inner, width, role="projector")
        tensors += parts.linear(f"{attention}.output_proj", width, inner, role="projector")
        tensors += parts.norm(f"{feed}.ln", width, bias=True)
        tensors += parts.linear(f"{feed}.fc", 4 * width, width, role="projector")
        tensors += parts.linear(f"{feed}.c_proj", width, 4 * width, role="projector")
    tensors += parts.norm("layer_norm", width, bias=True)
    return Component(kind="projector", name="resampler", hidden_size=width, tensors=tensors, prefix=prefix)


@model("idefics")
def idefics(cfg: Config, class_name: str) -> Built:
    """Idefics [1]_: Llama, and every few layers one of cross-attention to the image."""
    base = "" if is_headless(class_name) else "model"
    vision = cfg.nested("vision_config")
    width = vision.integer("embed_dim")
    seen = clip_vision(vision.over(hidden_size=width), joined(base, "vision_model"))
    assert seen.image is not None
    own = cfg.nested("perceiver_config")
    resamples = cfg.flag("use_resampler", False)
    tokens = own.integer("resampler_n_latents") if resamples else seen.image.grid_patches
    cfg = rounded_heads(cfg)
    body = dense_decoder(cfg, base, scopes=full_scopes(cfg), qkv_bias=False, o_bias=False, mlp_bias=False)
    extra = cfg.integer("additional_vocab_size", 0, least=0)
    hidden = body.hidden_size
    more = parts.embedding("embed_tokens.additional_embedding", extra, hidden) if extra else ()
    body = replace(body, tensors=(*body.tensors, *more))
    count = cfg.num_layers // cfg.integer("cross_layer_interval", 1)
    crossing = Component(
        kind="decoder", name="cross-attention layers", hidden_size=hidden,
        layers=(gated_crossing(cfg, width, tokens),) * count, prefix=base,
        layers_prefix=joined(base, "gated_cross_attn_layers"),
    )  # fmt: skip
    components: tuple[Component, ...] = (body, crossing, seen)
    if resamples:
        components += (idefics_resampler(cfg, own, width, joined(base, "perceiver_resampler")),)
    if not base:
        return Built(components)
    last = head_of(body, is_tied=tied(cfg, cfg))
    beside = parts.linear("lm_head.additional_fc", extra, hidden, role="head") if extra and not last.tied else ()
    if beside:
        components += (Component(kind="head", name="additional head", hidden_size=hidden, tensors=beside),)
    return Built((*components, *last.components), tied=last.tied)


# -- BLIP ----------------------------------------------------------------------------------------------


@tower("blip_vision_model", "blip_2_vision_model", "instructblip_vision_model", "instructblipvideo_vision_model")
def blip_vision(cfg: Config, prefix: str) -> Component:
    """BLIP's tower and that of its relations: queries, keys and values in one matrix."""
    hidden = cfg.hidden_size
    bias = cfg.flag("qkv_bias", True)
    layer = encoder_layer(cfg, attention={"qkv": "qkv", "o": "projection", "bias": bias, "o_bias": True})
    tensors = (
        *parts.parameter("embeddings.class_embedding", 1, 1, hidden, role="embedding"),
        *parts.parameter("embeddings.position_embedding", 1, grid(cfg) + 1, hidden, role="embedding"),
        *patches(cfg, "embeddings.patch_embedding", hidden),
        *parts.norm("post_layernorm", hidden, bias=True),
    )
    return tower_of(cfg, prefix, layer, tensors=tensors, image=fixed_grid(cfg, extra_patches=1))


@tower("blip_2_qformer")
def blip_2_qformer(cfg: Config, prefix: str) -> Component:
    """BLIP-2's Q-Former: BERT on learned queries."""
    return qformer(cfg, prefix, reads_text=cfg.flag("use_qformer_text_input", False), embeds=False)


@tower("instructblip_qformer", "instructblipvideo_qformer")
def instructblip_qformer(cfg: Config, prefix: str) -> Component:
    """InstructBLIP's Q-Former, which reads the instruction too."""
    return qformer(cfg, prefix, reads_text=True, embeds=True)


def qformer(cfg: Config, prefix: str, *, reads_text: bool, embeds: bool) -> Component:
    """Return a Q-Former [2]_: every `cross_attention_frequency`-th layer looks at the image."""
    hidden, source = cfg.hidden_size, cfg.integer("encoder_hidden_size")
    names: dict[str, Any] = {"q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "output.dense"}
    every = cfg.integer("cross_attention_frequency", 2)

    def feed(name: str) -> tuple[Tensors, Tensors]:
        made = parts.mlp(
            hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True, name="",
            up=f"intermediate{name}.dense", down=f"output{name}.dense",
        )  # fmt: skip
        return made.tensors, parts.norm(f"output{name}.LayerNorm", hidden, bias=True)

    def build(crosses: bool) -> Layer:
        own = parts.attention(
            hidden_size=hidden, num_heads=cfg.num_heads, name="attention", bias=True, scope="encoder", **names
        )
        members = [own]
        norms = parts.norm("attention.output.LayerNorm", hidden, bias=True)
        if crosses:
            members.append(
                parts.attention(
                    hidden_size=hidden,
                    num_heads=cfg.num_heads,
                    name="crossattention",
                    bias=True,
                    kv_size=source,
                    role="cross_attention",
                    scope="encoder",
                    **names,
                )
            )
            norms += parts.norm("crossattention.output.LayerNorm", hidden, bias=True)
        tensors, norm = feed("_query")
        if reads_text:
            further, further_norm = feed("")
            tensors, norm = (*tensors, *further), (*norm, *further_norm)
        made = parts.mlp(hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False)
        return Layer((*members, replace(made, tensors=tensors)), (*norms, *norm))

    kinds = [index % every == 0 for index in range(cfg.num_layers)]
    layers = {kind: build(kind) for kind in set(kinds)}
    first = "embeddings.layernorm" if embeds else "layernorm"
    tables: Tensors = ()
    if embeds:
        tables = (
            *parts.embedding("embeddings.word_embeddings", cfg.vocab_size, hidden),
            *parts.embedding(
                "embeddings.position_embeddings", cfg.integer("max_position_embeddings"), hidden, slot="position"
            ),
        )
    return Component(
        kind="projector",
        name="Q-Former",
        hidden_size=hidden,
        layers=tuple(layers[kind] for kind in kinds),
        tensors=(*tables, *parts.norm(first, hidden, bias=True)),
        prefix=prefix,
        layers_prefix=joined(prefix, "encoder.layer"),
    )


@model("blip-2", "instructblip", "instructblipvideo")
def blip_2(cfg: Config, class_name: str) -> Built:
    """BLIP-2 and InstructBLIP [2]_: a Q-Former, one matrix, and a language model that keeps its own head."""
    own = cfg.nested("qformer_config")
    text = cfg.nested("text_config")
    has_head = cfg.model_type == "blip-2" or not is_headless(class_name)
    found = entry(text.model_type)
    if found is None:
        raise text.fail(
            "model_type", "'%(value)s' is not a kind of network that can stand here.", value=text.model_type
        )
    seen = read_part(nested_as(cfg, "vision_config"), "vision_model")
    reader = read_part(own.over(encoder_hidden_size=seen[0].hidden_size), "qformer")
    queries = cfg.integer("num_query_tokens", 32)
    from vrameter.model.read import build

    task = ("ForCausalLM" if found.kind == "decoder" else "ForConditionalGeneration") if has_head else "Model"
    language = within("language_model", build(text, found, task))
    width = text.hidden_size
    bridge = (
        *parts.parameter("query_tokens", 1, queries, own.hidden_size, role="projector"),
        *parts.linear("language_projection", width, own.hidden_size, bias=True, role="projector"),
    )
    assert seen[0].image is not None
    vision = replace(seen[0], image=seen[0].image.bounded(num_tokens=queries))
    joint = Component(kind="projector", name="projector", hidden_size=width, tensors=bridge)
    return Built((*language.components, vision, *reader, joint), tied=language.tied)


# -- Kosmos --------------------------------------------------------------------------------------------


def kosmos_decoder(cfg: Config, prefix: str, *, inner_norm: bool, segments: bool) -> Component:
    """Return Kosmos' decoder: positions computed, a norm inside the perceptron and, in Kosmos-2, inside attention."""
    hidden, inner = cfg.integer("embed_dim"), cfg.integer("ffn_dim")
    within_attention = parts.norm("self_attn.inner_attn_ln", hidden, bias=True) if inner_norm else ()
    attention = parts.attention(
        hidden_size=hidden, num_heads=cfg.integer("attention_heads"), o="out_proj", bias=True, extra=within_attention
    )
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=inner, gated=False, bias=True, name="ffn", up="fc1", down="fc2",
        extra=parts.norm("ffn.ffn_layernorm", inner, bias=True),
    )  # fmt: skip
    norms = ("self_attn_layer_norm", "final_layer_norm")
    layer = Layer((attention, feed), tuple(each for name in norms for each in parts.norm(name, hidden, bias=True)))
    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=(layer,) * cfg.layers("layers"),
        tensors=(
            *parts.embedding("embed_tokens", cfg.vocab_size, hidden),
            *(parts.embedding("segment_emb", 2, hidden, slot="type") if segments else ()),
            *parts.norm("layer_norm", hidden, bias=True),
        ),
        prefix=prefix,
        layers_prefix=f"{prefix}.layers",
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings", 0, least=0),
    )


def latent_queries(cfg: Config, text: Config, source: int) -> Component:
    """Return Kosmos' projection: learned queries that look at the image."""
    hidden = text.integer("embed_dim")
    queries = cfg.integer("latent_query_num")
    attention = parts.attention(
        hidden_size=hidden, num_heads=text.integer("attention_heads"), name="x_attn", o="out_proj", bias=True,
        role="projector", scope="encoder",
    )  # fmt: skip
    tensors = (
        *parts.parameter("latent_query", queries, hidden, role="projector"),
        *parts.linear("dense", hidden, source, bias=True, role="projector"),
        *attention.tensors,
    )
    return Component(
        kind="projector", name="projector", hidden_size=hidden, tensors=tensors, prefix="image_to_text_projection"
    )


def kosmos(cfg: Config, class_name: str, vision: Component, *, inner_norm: bool, segments: bool) -> Built:
    """Return a Kosmos model; its decoder stands one level deeper than its tower."""
    text = cfg.nested("text_config")
    body = kosmos_decoder(text, "text_model.model", inner_norm=inner_norm, segments=segments)
    assert vision.image is not None
    vision = replace(vision, image=vision.image.bounded(num_tokens=cfg.integer("latent_query_num")))
    components = (body, vision, latent_queries(cfg, text, vision.hidden_size))
    if is_headless(class_name):
        return Built(components)
    last = head_of(body, is_tied=tied(cfg, text, text_says=True), name="text_model.lm_head")
    return Built((*components, *last.components), tied=last.tied)


@model("kosmos-2")
def kosmos_2(cfg: Config, class_name: str) -> Built:
    """Kosmos-2 [3]_ with CLIP's tower."""
    vision = clip_vision(cfg.nested("vision_config"), "vision_model.model")
    return kosmos(cfg, class_name, vision, inner_norm=True, segments=False)


def row_column_tower(cfg: Config, prefix: str, *, rows: int, head_dim: int, inner: int) -> Component:
    """Return Pix2Struct's tower: patches as vectors, their rows and columns looked up."""
    hidden, width = cfg.hidden_size, cfg.integer("patch_embed_hidden_size")
    attention = parts.attention(
        hidden_size=hidden, num_heads=cfg.num_heads, head_dim=head_dim, name="attention", q="query", k="key", v="value",
        o="output", scope="encoder",
    )  # fmt: skip
    feed = parts.mlp(hidden_size=hidden, intermediate_size=inner, gate="wi_0", up="wi_1", down="wo")
    norms = ("pre_mlp_layer_norm", "pre_attention_layer_norm")
    layer = Layer((attention, feed), tuple(each for name in norms for each in parts.norm(name, hidden)))
    tensors = (
        *parts.linear("embeddings.patch_projection", hidden, width, bias=True),
        *parts.embedding("embeddings.row_embedder", rows, hidden, slot="position"),
        *parts.embedding("embeddings.column_embedder", rows, hidden, slot="position"),
        *parts.norm("layernorm", hidden),
    )
    edge = max(round((width / 3) ** 0.5), 1)
    image = ImageInput(patch_size=(edge, edge), image_size=(edge, edge * rows))
    return tower_of(cfg, prefix, layer, tensors=tensors, layers_name="encoder.layer", image=image)


@model("kosmos-2.5")
def kosmos_2_5(cfg: Config, class_name: str) -> Built:
    """Kosmos-2.5 [3]_ with Pix2Struct's tower."""
    own = cfg.nested("vision_config")
    vision = row_column_tower(
        own, "vision_model", rows=own.integer("max_num_patches"), head_dim=own.integer("head_dim"),
        inner=own.integer("intermediate_size"),
    )  # fmt: skip
    return kosmos(cfg, class_name, vision, inner_norm=False, segments=True)
