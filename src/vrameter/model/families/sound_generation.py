"""Decoders of sound: MusicGen [1]_, Bark [2]_.

References
----------
.. [1] J. Copet et al., "Simple and Controllable Music Generation", 2023, arXiv:2306.05284.
.. [2] Suno, "Bark", 2023, github.com/suno-ai/bark.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.bert import even_heads
from vrameter.model.families.encoder_decoder import Style, side
from vrameter.model.families.registry import Built, Components, decoder, model, read_part, tower

MUSIC = Style(bias=False, mlp_bias=False, table=False, final_norm="layer_norm")


def _music_decoder(cfg: Config, prefix: str, *, crosses: bool) -> Component:
    books, entries = cfg.layers("num_codebooks"), cfg.vocab_size
    tables = tuple(
        tensor
        for index in range(books)
        for tensor in parts.embedding(f"decoder.embed_tokens.{index}", entries + 1, cfg.hidden_size)
    )
    own = cfg.over(
        decoder_layers=cfg.num_layers, decoder_ffn_dim=cfg.integer("ffn_dim"), decoder_attention_heads=cfg.num_heads
    )
    return side(
        own, joined(prefix, "model"), MUSIC, decoder=True, embeddings=tables, crosses=crosses,
        cross_size=cfg.integer("cross_attention_hidden_size", None),
    )  # fmt: skip


def _music(cfg: Config, *, crosses: bool) -> tuple[Components, Component]:
    own = cfg.nested("decoder")
    text = read_part(cfg.nested("text_encoder"), "text_encoder")
    sound = read_part(cfg.nested("audio_encoder"), "audio_encoder")
    written = _music_decoder(own, "decoder", crosses=crosses)
    heads = tuple(
        tensor
        for index in range(own.integer("num_codebooks"))
        for tensor in parts.lm_head(own.vocab_size, own.hidden_size, name=f"decoder.lm_heads.{index}")
    )
    head = Component(kind="head", name="head", hidden_size=own.hidden_size, tensors=heads)
    return (*text, *sound, written, head), text[0]


def _between(hidden: int, tensors: Tensors) -> Component:
    return Component(kind="projector", name="projector", hidden_size=hidden, tensors=tensors)


@model("musicgen")
def musicgen(cfg: Config, class_name: str) -> Built:
    """MusicGen [1]_: a text encoder, a decoder of several codebooks at once, a codec."""
    own = cfg.nested("decoder")
    components, text = _music(cfg, crosses=True)
    if text.hidden_size != own.hidden_size and own.integer("cross_attention_hidden_size", None) is None:
        tensors = parts.linear("enc_to_dec_proj", own.hidden_size, text.hidden_size, bias=True, role="projector")
        components += (_between(own.hidden_size, tensors),)
    return Built(components)


@model("musicgen_melody")
def musicgen_melody(cfg: Config, class_name: str) -> Built:
    """MusicGen with a melody [1]_: text and chroma stand before the codes instead of being attended to apart."""
    hidden, chroma = cfg.nested("decoder").hidden_size, cfg.integer("num_chroma")
    components, text = _music(cfg, crosses=False)
    tensors: Tensors = ()
    if text.hidden_size != hidden:
        tensors += parts.linear("enc_to_dec_proj", hidden, text.hidden_size, bias=True, role="projector")
    if chroma != hidden:
        tensors += parts.linear("audio_enc_to_dec_proj", hidden, chroma, bias=True, role="projector")
    return Built((*components, _between(hidden, tensors)))


# -- Bark ---------------------------------------------------------------------------------------------------------------


def _bark_stage(cfg: Config, prefix: str, *, causal: bool) -> Component:
    hidden, block = cfg.hidden_size, cfg.integer("block_size")
    heads, dim = even_heads(cfg)
    bias = cfg.flag("bias", True)
    mask = parts.buffer("attn.bias", 1, 1, block, block) if causal else ()
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, head_dim=dim, name="attn", qkv="att_proj", o="out_proj", bias=bias, extra=mask,
        scope="full" if causal else "encoder",
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=4 * hidden, gated=False, bias=bias, up="in_proj", down="out_proj"
    )
    norm_bias = bias or not causal
    norms = (*parts.norm("layernorm_1", hidden, bias=norm_bias), *parts.norm("layernorm_2", hidden, bias=norm_bias))
    entries, outputs = cfg.integer("input_vocab_size"), cfg.integer("output_vocab_size", 10_048)
    if causal:
        tables = parts.embedding("input_embeds_layer", entries, hidden)
        heads_out: Tensors = parts.lm_head(outputs, hidden)
    else:
        total, known = cfg.integer("n_codes_total"), cfg.integer("n_codes_given", least=0)
        tables = tuple(
            tensor
            for index in range(total)
            for tensor in parts.embedding(f"input_embeds_layers.{index}", entries, hidden)
        )
        heads_out = tuple(
            tensor
            for index in range(total - known)
            for tensor in parts.lm_head(outputs, hidden, name=f"lm_heads.{index}")
        )
        if cfg.tied:
            heads_out = ()
    return Component(
        kind="decoder" if causal else "encoder",
        name="decoder" if causal else "encoder",
        hidden_size=hidden,
        layers=(Layer((attention, feed), norms),) * cfg.layers("num_layers"),
        tensors=(
            *tables,
            *parts.embedding("position_embeds_layer", block, hidden, slot="position"),
            *parts.norm("layernorm_final", hidden, bias=norm_bias),
            *heads_out,
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "layers"),
        vocab_size=entries,
        max_positions=block,
    )


@decoder("semantic", "coarse_acoustics")
def bark_stage(cfg: Config, prefix: str) -> Component:
    """One of Bark's causal stages [2]_."""
    return _bark_stage(cfg, prefix, causal=True)


@tower("fine_acoustics", base="")
def bark_fine_stage(cfg: Config, prefix: str) -> Component:
    """Bark's last stage [2]_, which fills in the finer codes from both sides."""
    return _bark_stage(cfg, prefix, causal=False)


@model("bark")
def bark(cfg: Config, class_name: str) -> Built:
    """Bark [2]_: three GPTs in a row and a codec."""
    return Built(
        (
            _bark_stage(cfg.nested("semantic_config"), "semantic", causal=True),
            _bark_stage(cfg.nested("coarse_acoustics_config"), "coarse_acoustics", causal=True),
            _bark_stage(cfg.nested("fine_acoustics_config"), "fine_acoustics", causal=False),
            *read_part(cfg.nested("codec_config"), "codec_model"),
        )
    )
