"""Models that write what an image shows with BERT's, BART's or T5's layers: BLIP, GIT, Florence-2, Pix2Struct, UDOP.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] J. Li et al., "BLIP", 2022, arXiv:2201.12086.
.. [2] J. Wang et al., "GIT: A Generative Image-to-text Transformer", 2022, arXiv:2205.14100.
.. [3] B. Xiao et al., "Florence-2", 2023, arXiv:2311.06242; M. Ding et al., "DaViT", 2022, arXiv:2204.03645.
.. [4] K. Lee et al., "Pix2Struct", 2022, arXiv:2210.03347.
.. [5] Z. Tang et al., "Unifying Vision, Text, and Layout (UDOP)", 2022, arXiv:2212.02623.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.bart import MBART
from vrameter.model.families.bert import bert_model, even_heads
from vrameter.model.families.clip import clip_vision
from vrameter.model.families.encoder_decoder import language_head, side
from vrameter.model.families.encoder_heads import bert_head
from vrameter.model.families.multimodal import is_headless
from vrameter.model.families.registry import Built, entry, model, stack, tower, within
from vrameter.model.families.resamplers import blip_vision, row_column_tower
from vrameter.model.families.t5 import Side, t5_side
from vrameter.model.families.vision_parts import (
    channels,
    listed_sizes,
    patches,
    plain_mlp,
    tower_of,
)
from vrameter.model.families.vision_towers import sam_tower
from vrameter.model.image_input import ImageInput

# -- BLIP and GIT --------------------------------------------------------------------------------------


def blip_text(cfg: Config, prefix: str, *, pooler: bool = False) -> Component:
    """Return BLIP's text model: BERT's layers, and where it decodes, attention to the image in each."""
    body = bert_model(cfg, prefix, types=False, pooler="pooler.dense" if pooler else "")
    if not cfg.flag("is_decoder", True):
        return body
    hidden, heads = cfg.hidden_size, cfg.num_heads
    crossing = parts.attention(
        hidden_size=hidden, num_heads=heads, name="crossattention", q="self.query", k="self.key", v="self.value",
        o="output.dense", bias=True, kv_size=cfg.integer("encoder_hidden_size"), role="cross_attention", scope="cross",
    )  # fmt: skip
    own = body.layers[0]
    norm = parts.norm("crossattention.output.LayerNorm", hidden, bias=True)
    layer = Layer((own.parts[0], crossing, *own.parts[1:]), (*own.tensors, *norm))
    return replace(body, layers=(layer,) * len(body.layers))


@tower("blip_text_model")
def blip_text_model(cfg: Config, prefix: str) -> Component:
    """BLIP's text model alone."""
    return blip_text(cfg, prefix, pooler=True)


@model("blip")
def blip(cfg: Config, class_name: str) -> Built:
    """BLIP [1]_: a caption's decoder that looks at the image, or a pair of towers."""
    text = cfg.nested("text_config", "blip_text_model")
    vision = blip_vision(cfg.nested("vision_config", "blip_vision_model"), "vision_model")
    text = text.over(encoder_hidden_size=vision.hidden_size)
    if is_headless(class_name):
        width = cfg.integer("projection_dim")
        bridge = (
            *parts.parameter("logit_scale"),
            *parts.linear("visual_projection", width, vision.hidden_size, role="projector"),
            *parts.linear("text_projection", width, text.hidden_size, role="projector"),
        )
        body = blip_text_model(text, "text_model")
        joint = Component(kind="projector", name="projection", hidden_size=width, tensors=bridge)
        return Built((body, vision, joint))
    body = blip_text(text, "text_decoder.bert")
    readers = (blip_text(text, "text_encoder"),) if class_name.endswith("ForQuestionAnswering") else ()
    head = bert_head(text, body.hidden_size, body.vocab_size)
    is_tied = cfg.flag("tie_word_embeddings", True) or text.tied
    tensors = head.tensors if is_tied else (*head.tensors, *head.untied)
    names = tuple(joined("text_decoder", name) for name in head.tied) if is_tied else ()
    last = Component(kind="head", name="head", hidden_size=body.hidden_size, tensors=tensors, prefix="text_decoder")
    return Built((body, vision, *readers, last), tied=names)


@tower("git_vision_model")
def git_vision(cfg: Config, prefix: str) -> Component:
    """GIT's tower: CLIP's."""
    return clip_vision(cfg, joined(prefix, "vision_model"))


@model("git")
def git(cfg: Config, class_name: str) -> Built:
    """GIT [2]_: a decoder of BERT's layers that reads the image's patches before the text."""
    base = "" if is_headless(class_name) else "git"
    own = cfg.nested("vision_config", "git_vision_model")
    vision = git_vision(own, joined(base, "image_encoder"))
    body = bert_model(cfg, base, types=False, causal=True)
    hidden = cfg.hidden_size
    frames = cfg.layers("num_image_with_embedding", 0, least=0)
    bridge = (
        *parts.linear("visual_projection.visual_projection.0", hidden, vision.hidden_size, bias=True, role="projector"),
        *parts.norm("visual_projection.visual_projection.1", hidden, bias=True),
        *(
            tensor
            for index in range(frames)
            for tensor in parts.parameter(f"img_temporal_embedding.{index}", 1, 1, vision.hidden_size)
        ),
    )
    assert vision.image is not None
    vision = replace(vision, image=vision.image.bounded(extra_tokens=1))
    joint = Component(kind="projector", name="projector", hidden_size=hidden, tensors=bridge, prefix=base)
    if not base:
        return Built((body, vision, joint))
    matrix = parts.lm_head(cfg.vocab_size, hidden, name="output", bias=True)
    is_tied = cfg.flag("tie_word_embeddings", False)
    last = Component(kind="head", name="head", hidden_size=hidden, tensors=matrix[1:] if is_tied else matrix)
    return Built((body, vision, joint, last), tied=("output.weight",) if is_tied else ())


# -- Florence-2 ----------------------------------------------------------------------------------------


@tower("florence_vision")
def florence_vision(cfg: Config, prefix: str) -> Component:
    """Florence-2's tower, DaViT [3]_: in each stage attention within windows and then between channels."""
    widths = listed_sizes(cfg, "embed_dim", 1)
    count = len(widths)
    depths, kernels, heads, groups, strides = (
        listed_sizes(cfg, name, count) for name in ("depths", "patch_size", "num_heads", "num_groups", "patch_stride")
    )
    before = (cfg.sequence("patch_prenorm") or [])[:count]
    if len(before) < count:
        raise cfg.fail("patch_prenorm", "has %(length)s entries for %(count)s layers.", length=len(before), count=count)
    bias = cfg.flag("qkv_bias", True)

    def half(name: str, width: int, number: int, attention: str) -> Layer:
        if width % number:
            raise cfg.fail(
                "embed_dim", "%(value)s is not a multiple of the %(heads)s attention heads.", value=width, heads=number
            )
        own = parts.attention(
            hidden_size=width, num_heads=number, name=f"{name}.{attention}", qkv="qkv", o="proj", bias=bias, o_bias=True,
            scope="encoder",
        )  # fmt: skip
        feed = parts.mlp(
            hidden_size=width, intermediate_size=int(width * cfg.number("mlp_ratio", 4.0)), gated=False, bias=True,
            name=f"{name}.ffn", up="fc1", down="fc2",
        )  # fmt: skip
        around = (
            *parts.conv(f"{name}.conv1", width, 1, 3, 3),
            *parts.norm(f"{name}.norm1", width, bias=True),
            *parts.conv(f"{name}.conv2", width, 1, 3, 3),
            *parts.norm(f"{name}.norm2", width, bias=True),
        )
        return Layer((own, feed), around)

    layers: list[Layer] = []
    tensors: Tensors = ()
    shrink = 1
    for stage, width in enumerate(widths):
        inputs = widths[stage - 1] if stage else channels(cfg)
        tensors += parts.conv(f"convs.{stage}.conv", width, inputs, kernels[stage], kernels[stage])
        tensors += parts.norm(f"convs.{stage}.norm", inputs if before[stage] else width, bias=True)
        halves = [
            half(f"{index}.{name}", width, number, attention)
            for index in range(depths[stage])
            for name, number, attention in (
                ("spatial_block", heads[stage], "window_attn"),
                ("channel_block", groups[stage], "channel_attn"),
            )
        ]
        members = tuple(part for each in halves for part in each.parts)
        layers.append(Layer(members, tuple(tensor for each in halves for tensor in each.tensors)))
        shrink *= strides[stage]
    # Edge of the image by the processor's published files. [preprocessor_config.json of microsoft/Florence-2-large]
    image = ImageInput(patch_size=(shrink, shrink), image_size=(768, 768), extra_tokens=1)
    return tower_of(cfg, prefix, tuple(layers), tensors=tensors, hidden=widths[-1], layers_name="blocks", image=image)


@model("florence2")
def florence2(cfg: Config, class_name: str) -> Built:
    """Florence-2 [3]_: BART reads what the tower saw, with its place in the image, before the prompt."""
    from vrameter.model.read import build

    base = "" if is_headless(class_name) else "model"
    text, own = cfg.nested("text_config"), cfg.nested("vision_config", "florence_vision")
    found = entry(text.model_type)
    if found is None or found.kind == "model":
        raise text.fail(
            "model_type", "'%(value)s' is not a kind of network that can stand here.", value=text.model_type
        )
    language = within(joined(base, "language_model"), build(text, found, "Model"))
    vision = florence_vision(own, joined(base, "vision_tower"))
    seen, width = vision.hidden_size, own.integer("projection_dim")
    rows, times = own.integer("max_position_embeddings"), own.integer("max_temporal_embeddings")
    bridge = (
        *parts.linear("image_projection", width, seen, role="projector"),
        *parts.norm("image_proj_norm", width, bias=True),
        *parts.embedding("image_position_embed.row_embeddings", rows, seen // 2, slot="position"),
        *parts.embedding("image_position_embed.column_embeddings", rows, seen - seen // 2, slot="position"),
        *parts.buffer("visual_temporal_embed.pos_idx_to_embed", times, seen),
    )
    joint = Component(
        kind="projector",
        name="projector",
        hidden_size=width,
        tensors=bridge,
        prefix=joined(base, "multi_modal_projector"),
    )
    components = (*language.components, vision, joint)
    if not base:
        return Built(components, tied=language.tied)
    last = language_head(text.over(tie_word_embeddings=cfg.flag("tie_word_embeddings", True)), text.hidden_size)
    return Built((*components, *last.components), tied=(*language.tied, *last.tied))


# -- PP-FormulaNet -------------------------------------------------------------------------------------


@tower("pp_formulanet_vision")
def formula_vision(cfg: Config, prefix: str) -> Component:
    """PP-FormulaNet's tower: SAM's, two convolutions that halve the edges, and two layers."""
    first, middle, last = (cfg.integer(f"post_conv_{name}_channels") for name in ("in", "mid", "out"))
    body = sam_tower(cfg, prefix, global_layers=cfg.integers("global_attn_indexes", [2, 5, 8, 11]))
    name = "multi_modal_projector"
    bridge = (
        *parts.conv(f"{name}.conv1", middle, first, 3, 3, bias=False),
        *parts.conv(f"{name}.conv2", last, middle, 3, 3, bias=False),
        *plain_mlp(
            name, last, last, cfg.integer("decoder_hidden_size"), up="linear_1", down="linear_2", role="projector"
        ),
    )
    assert body.image is not None
    return replace(body, tensors=(*body.tensors, *bridge), image=body.image.bounded(merge=4))


@model("pp_formulanet")
def pp_formulanet(cfg: Config, class_name: str) -> Built:
    """PP-FormulaNet: a decoder of MBART's layers writes the formula that the tower sees."""
    base = "" if is_headless(class_name) else "model"
    text = cfg.nested("text_config", "pp_formulanet_text")
    vision = formula_vision(cfg.nested("vision_config", "pp_formulanet_vision"), joined(base, "encoder"))
    body = side(text, base, MBART, decoder=True, own_tokens=True)
    if not base:
        return Built((body, vision))
    last = language_head(text.over(tie_word_embeddings=False), text.hidden_size)
    return Built((body, vision, *last.components))


# -- Pix2Struct ----------------------------------------------------------------------------------------


@tower("pix2struct_vision_model")
def pix2struct_vision(cfg: Config, prefix: str) -> Component:
    """Pix2Struct's tower [4]_: patches with the numbers of their row and column."""
    return row_column_tower(
        cfg, prefix, rows=cfg.integer("seq_len"), head_dim=cfg.integer("d_kv"), inner=cfg.integer("d_ff")
    )


def pix2struct_text(cfg: Config, prefix: str) -> Component:
    """Return Pix2Struct's decoder: T5's layers under names of its own."""
    heads, dim = even_heads(cfg)
    hidden = heads * dim
    names: dict[str, Any] = {"q": "query", "k": "key", "v": "value", "o": "output"}

    def layer(is_first: bool) -> Layer:
        table = "self_attention.attention.relative_attention_bias"
        biases = parts.embedding(table, cfg.integer("relative_attention_num_buckets"), heads, slot="position")
        own = parts.attention(
            hidden_size=hidden, num_heads=heads, head_dim=dim, name="self_attention.attention",
            extra=biases if is_first else (), **names,
        )  # fmt: skip
        crossing = parts.attention(
            hidden_size=hidden, num_heads=heads, head_dim=dim, name="encoder_decoder_attention.attention",
            role="cross_attention", scope="cross", **names,
        )  # fmt: skip
        feed = parts.mlp(
            hidden_size=hidden, intermediate_size=cfg.integer("d_ff"), name="mlp.DenseReluDense", gate="wi_0", up="wi_1",
            down="wo",
        )  # fmt: skip
        norms = ("self_attention", "encoder_decoder_attention", "mlp")
        return Layer(
            (own, crossing, feed), tuple(t for name in norms for t in parts.norm(f"{name}.layer_norm", hidden))
        )

    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=stack([index == 0 for index in range(cfg.layers("num_layers"))], layer),
        tensors=(
            *parts.embedding("embed_tokens", cfg.vocab_size, hidden),
            *parts.norm("final_layer_norm", hidden),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layer"),
        vocab_size=cfg.vocab_size,
    )


@model("pix2struct")
def pix2struct(cfg: Config, class_name: str) -> Built:
    """Pix2Struct [4]_: the decoder keeps its own head."""
    text = cfg.nested("text_config")
    vision = pix2struct_vision(cfg.nested("vision_config", "pix2struct_vision_model"), "encoder")
    body = pix2struct_text(text, "decoder")
    is_tied = text.flag("tie_word_embeddings", False)
    last = language_head(text.over(tie_word_embeddings=is_tied), body.hidden_size, name="decoder.lm_head")
    return Built((body, vision, *last.components), tied=last.tied)


# -- UDOP ----------------------------------------------------------------------------------------------


@model("udop")
def udop(cfg: Config, class_name: str) -> Built:
    """UDOP [5]_: T5 whose encoder reads patches and words by their place on the page."""
    hidden, heads = cfg.integer("d_model"), cfg.integer("num_heads")
    buckets, places = cfg.integer("relative_attention_num_buckets"), cfg.integer("max_2d_position_embeddings")
    count = len(cfg.sequence("relative_bias_args", ("1d", "horizontal", "vertical")))
    alone = class_name.endswith("EncoderModel")
    names = ("encoder",) if alone else ("encoder", "decoder")
    first = 0 if class_name.endswith("UdopModel") or not cfg.tied else 1  # the others share the first layer's biases

    def biases(name: str) -> Tensors:
        return tuple(
            tensor
            for index in range(first, count)
            for tensor in parts.embedding(
                f"{name}.relative_bias.biases.{index}.relative_attention_bias", buckets, heads, slot="position"
            )
        )

    shared = (
        *parts.embedding("shared", cfg.vocab_size, hidden),
        *patches(cfg, "patch_embed.proj", hidden),
        *parts.embedding("encoder.cell_2d_embedding.x_position_embeddings", places, hidden, slot="position"),
        *parts.embedding("encoder.cell_2d_embedding.y_position_embeddings", places, hidden, slot="position"),
        *(tensor for name in names for tensor in biases(name)),
        *(() if alone else patches(cfg, "decoder.embed_patches.proj", hidden)),
    )
    sides: tuple[Component, ...] = (t5_side(cfg, "", Side(), decoder=False, shared=shared),)
    if not alone:
        sides += (t5_side(cfg, "", Side(), decoder=True),)
    if is_headless(class_name):
        return Built(sides)
    last = language_head(cfg, hidden)
    return Built((*sides, *last.components), tied=last.tied)
