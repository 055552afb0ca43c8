"""A language model that reads proteins: an encoder of residues, a resampler, and cross-attention in some layers.

References
----------
.. [1] X. Zhou et al., "Decoding the Molecular Language of Proteins with Evolla", 2025, bioRxiv 2025.01.05.630192.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.llama import dense_decoder, full_scopes, rounded_heads
from vrameter.model.families.registry import Built, model


def residue_encoder(cfg: Config, prefix: str) -> Component:
    """Return SaProt: ESM's layers with rotary positions."""
    hidden = cfg.hidden_size
    attention = parts.attention(
        hidden_size=hidden,
        num_heads=cfg.num_heads,
        name="attention",
        q="self.query",
        k="self.key",
        v="self.value",
        o="output.dense",
        bias=True,
        scope="encoder",
    )
    feed = parts.mlp(
        hidden_size=hidden,
        intermediate_size=cfg.integer("intermediate_size"),
        gated=False,
        bias=True,
        name="",
        up="intermediate.dense",
        down="output.dense",
    )
    layer = Layer(
        (attention, feed),
        (*parts.norm("attention.LayerNorm", hidden, bias=True), *parts.norm("LayerNorm", hidden, bias=True)),
    )
    tensors = parts.embedding("embeddings.word_embeddings", cfg.vocab_size, hidden)
    if cfg.flag("emb_layer_norm_before"):
        tensors += parts.norm("embeddings.layer_norm", hidden, bias=True)
    if cfg.text("position_embedding_type", "rotary") == "absolute":
        positions = cfg.integer("max_position_embeddings")
        tensors += parts.embedding("embeddings.position_embeddings", positions, hidden, slot="position")
    else:
        tensors += parts.buffer("rotary_embeddings.inv_freq", hidden // cfg.num_heads // 2)
    return Component(
        kind="encoder",
        name="protein encoder",
        hidden_size=hidden,
        layers=(layer,) * cfg.num_layers,
        tensors=(*tensors, *parts.norm("encoder.emb_layer_norm_after", hidden, bias=True)),
        prefix=prefix,
        layers_prefix=f"{prefix}.encoder.layer",
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings", 0, least=0),
    )


def resampler(cfg: Config, source: int, prefix: str) -> Component:
    """Return the layers that turn residues into a fixed number of vectors of the decoder's width."""
    inner = cfg.integer("resampler_dim_head") * cfg.integer("resampler_heads")
    wide = source * cfg.integer("resampler_ff_mult")
    tensors: Tensors = (
        *parts.norm("0.norm_media", source, bias=True),
        *parts.norm("0.norm_latents", source, bias=True),
        *parts.linear("0.to_q", inner, source, role="projector"),
        *parts.linear("0.to_kv", 2 * inner, source, role="projector"),
        *parts.linear("0.to_out", source, inner, role="projector"),
        *parts.norm("1.norm", source, bias=True),
        *parts.linear("1.fc1", wide, source, role="projector"),
        *parts.linear("1.fc2", source, wide, role="projector"),
    )
    return Component(
        kind="projector",
        name="resampler",
        hidden_size=source,
        layers=(Layer((), tensors),) * cfg.layers("resampler_depth"),
        tensors=(
            *parts.parameter("latents", cfg.integer("resampler_num_latents"), source, role="projector"),
            *parts.norm("norm", cfg.hidden_size, bias=True),
            *parts.linear("protein_projector", cfg.hidden_size, source, bias=True, role="projector"),
        ),
        prefix=prefix,
        layers_prefix=f"{prefix}.layers",
    )


def aligner(cfg: Config) -> Layer:
    """Return what layers with cross-attention have besides, as a layer of its own."""
    hidden, name = cfg.hidden_size, "adapter"
    crossing = parts.attention(
        hidden_size=hidden,
        num_heads=cfg.num_heads,
        name=name,
        q="query",
        k="key_protein",
        v="value_protein",
        bias=True,
        role="cross_attention",
        scope="cross",
        cross_tokens=cfg.integer("resampler_num_latents"),
    )
    out = parts.linear(
        f"{name}.out_proj", hidden, hidden, bias=cfg.flag("aligner_enable_bias", True), role="cross_attention", slot="o"
    )
    inward = (tensor for tensor in crossing.tensors if tensor.slot != "o")
    crossing = replace(crossing, tensors=(*inward, *out))
    wide = hidden * cfg.integer("aligner_ffn_mult")
    feed = parts.mlp(hidden_size=hidden, intermediate_size=wide, gated=False, name="adapter.ff", up="fc1", down="fc2")
    scales = (
        *parts.parameter("adapter.gate_attention", 1),
        *parts.parameter("adapter.gate_ffw", 1),
        *parts.norm("adapter.attention_norm", hidden),
        *parts.norm("adapter.ff.norm", hidden, bias=True),
    )
    return Layer((crossing, feed), scales)


@model("evolla")
def evolla(cfg: Config, class_name: str) -> Built:
    """Evolla: Llama's layers, evenly spaced ones with gated cross-attention to a protein; the head is never tied."""
    has_head = not class_name.endswith("Model")
    base = "model" if has_head else ""
    cfg = rounded_heads(cfg)
    body = dense_decoder(cfg, base, scopes=full_scopes(cfg))
    plain, more = body.layers[0], aligner(cfg)
    crossing = Layer((*plain.parts, *more.parts), (*plain.tensors, *more.tensors))
    step = max(cfg.num_layers // cfg.integer("aligner_num_add_layers"), 1)
    layers = tuple(crossing if (index + 1) % step == 0 else plain for index in range(cfg.num_layers))
    protein = cfg.nested("protein_encoder_config")
    encoder = joined(base, "protein_encoder")
    components = [
        replace(body, layers=layers),
        residue_encoder(protein, f"{encoder}.model"),
        resampler(cfg, protein.hidden_size, f"{encoder}.sequence_compressor_resampler"),
    ]
    if has_head:
        head = parts.lm_head(cfg.vocab_size, body.hidden_size)
        components.append(Component(kind="head", name="head", hidden_size=body.hidden_size, tensors=head))
    return Built(tuple(components))
