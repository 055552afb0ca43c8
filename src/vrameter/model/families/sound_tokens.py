"""Language models that read and write the codes of a codec: Dia [1]_, CSM [2]_, Kyutai's transcriber and Moshi [3]_.

References
----------
.. [1] Nari Labs, "Dia", 2025, github.com/nari-labs/dia.
.. [2] J. Schalkwyk et al., "Crossing the uncanny valley of conversational voice" (CSM), 2025, sesame.com.
.. [3] A. Défossez et al., "Moshi", 2024, arXiv:2410.00037; N. Zeghidour et al., "Streaming Sequence-to-Sequence Learning with
       Delayed Streams Modeling", 2025, arXiv:2509.08753.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_decoder import language_head
from vrameter.model.families.encoder_heads import is_bare, task_of
from vrameter.model.families.llama import dense_decoder, full_scopes
from vrameter.model.families.registry import Built, decoder, layer_scopes, model, read_part

# -- Dia: an encoder of text, a decoder of nine codebooks -------------------------------------------------------------


def _dia_mlp(cfg: Config) -> FeedForward:
    return parts.mlp(
        hidden_size=cfg.hidden_size, intermediate_size=cfg.integer("intermediate_size"), gate_up="gate_up_proj"
    )


def _dia_attention(cfg: Config, scope: Any) -> Attention:
    return parts.attention(
        hidden_size=cfg.hidden_size, num_heads=cfg.num_heads, num_kv_heads=cfg.num_kv_heads, head_dim=cfg.head_dim,
        name="self_attention", scope=scope,
    )  # fmt: skip


def _dia_encoder(cfg: Config, prefix: str) -> Component:
    hidden = cfg.hidden_size
    norms = (*parts.norm("pre_sa_norm", hidden), *parts.norm("post_sa_norm", hidden))
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(Layer((_dia_attention(cfg, "encoder"), _dia_mlp(cfg)), norms),) * cfg.num_layers,
        tensors=(*parts.embedding("embedding", cfg.vocab_size, hidden), *parts.norm("norm", hidden)),
        prefix=joined(prefix, "encoder"),
        layers_prefix=joined(prefix, "encoder.layers"),
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings"),
    )


def _dia_decoder(cfg: Config, prefix: str) -> Component:
    hidden = cfg.hidden_size
    cross = parts.attention(
        hidden_size=hidden, num_heads=cfg.integer("cross_num_attention_heads"), head_dim=cfg.integer("cross_head_dim"),
        num_kv_heads=cfg.integer("cross_num_key_value_heads"), kv_size=cfg.integer("cross_hidden_size"),
        name="cross_attention", role="cross_attention", scope="cross",
    )  # fmt: skip
    norms = [tensor for name in ("pre_sa_norm", "pre_ca_norm", "pre_mlp_norm") for tensor in parts.norm(name, hidden)]
    rows = cfg.vocab_size * cfg.integer("num_channels")
    return Component(
        kind="decoder",
        name="decoder",
        hidden_size=hidden,
        layers=(Layer((_dia_attention(cfg, "full"), cross, _dia_mlp(cfg)), tuple(norms)),) * cfg.num_layers,
        tensors=(*parts.embedding("embeddings.embed", rows, hidden), *parts.norm("norm", hidden)),
        prefix=joined(prefix, "decoder"),
        layers_prefix=joined(prefix, "decoder.layers"),
        vocab_size=cfg.vocab_size,
        max_positions=cfg.integer("max_position_embeddings"),
    )


@model("dia")
def dia(cfg: Config, class_name: str) -> Built:
    """Dia [1]_: text of a dialogue to the codes of its sound; the codec is a model apart."""
    base = is_bare(class_name)
    prefix = "" if base else "model"
    written = cfg.nested("decoder_config")
    sides = (_dia_encoder(cfg.nested("encoder_config"), prefix), _dia_decoder(written, prefix))
    if base:
        return Built(sides)
    rows = written.vocab_size * written.integer("num_channels")
    head = parts.lm_head(rows, written.hidden_size, name="logits_dense")
    return Built((*sides, Component(kind="head", name="head", hidden_size=written.hidden_size, tensors=head)))


# -- CSM: a Llama over frames, a small one over the codebooks of a frame ----------------------------------------------


def _without_tokens(body: Component, tensors: Tensors = (), *, name: str = "embed_tokens") -> Component:
    """Return a decoder with other tables in the place of its token table."""
    kept = tuple(tensor for tensor in body.tensors if tensor.name != f"{name}.weight")
    return replace(body, tensors=(*tensors, *kept))


@model("csm")
def csm(cfg: Config, class_name: str) -> Built:
    """CSM [2]_: the backbone reads text and codes, the depth decoder writes the codes of a frame one by one."""
    hidden, books, entries = cfg.hidden_size, cfg.integer("num_codebooks"), cfg.vocab_size
    depth = cfg.nested("depth_decoder_config", "csm_depth_decoder_model")
    inner, rows = depth.integer("backbone_hidden_size"), depth.integer("num_codebooks") * depth.vocab_size
    own: Tensors = parts.linear("inputs_embeds_projector", depth.hidden_size, inner, role="projector")
    tied = cfg.flag("tie_codebooks_embeddings", True)
    table = (rows, inner) if tied else (books * entries, hidden)  # tied, both are the depth decoder's
    sound = parts.embedding("embed_tokens.embed_audio_tokens", *table)
    backbone = _without_tokens(dense_decoder(cfg, "backbone_model", scopes=full_scopes(cfg)), sound)
    if not tied:
        own += parts.embedding("embed_tokens", rows, inner)
    small = _without_tokens(dense_decoder(depth, "depth_decoder.model", scopes=full_scopes(depth)))
    small = replace(small, name="depth decoder", tensors=(*small.tensors, *own))
    heads = (
        *parts.lm_head(entries, hidden),
        *parts.embedding("embed_text_tokens", cfg.integer("text_vocab_size"), hidden),
        *parts.parameter(
            "depth_decoder.codebooks_head.weight", depth.integer("num_codebooks") - 1, depth.hidden_size, depth.vocab_size,
            role="head", slot="head",
        ),
    )  # fmt: skip
    head = Component(kind="head", name="head", hidden_size=hidden, tensors=heads)
    codec = read_part(cfg.nested("codec_config"), "codec_model")
    names = ("depth_decoder.model.embed_tokens.weight",) if tied else ()
    return Built((backbone, small, head, *codec), tied=names)


# -- Kyutai ------------------------------------------------------------------------------------------------------------


def kyutai_decoder(cfg: Config, prefix: str, tables: Tensors) -> Component:
    """Return Kyutai's decoder [3]_: a window over everything, a fused gate, projections below a name of their own."""
    heads, hidden = cfg.num_heads, cfg.hidden_size
    traits = {f"{slot}": f"{slot}_proj.linear" for slot in ("q", "k", "v", "o")}
    half = cfg.integer("ffn_dim") // 2
    body = dense_decoder(
        cfg.over(num_key_value_heads=cfg.num_kv_heads, num_attention_heads=heads), prefix, qkv_bias=False, o_bias=False,
        scopes=layer_scopes(cfg, cfg.num_layers), attention_traits=traits,
        mlp_traits={"intermediate_size": half, "bias": False, "gate_up": "fc1", "down": "fc2"},
    )  # fmt: skip
    return replace(_without_tokens(body, tables), hidden_size=hidden)


def _moshi_heads(cfg: Config, class_name: str) -> Built | None:
    if task_of(class_name) != "CausalLM":
        return None
    head = language_head(cfg.over(tie_word_embeddings=False), cfg.hidden_size)
    return Built((moshi(cfg, "model"), *head.components))


@decoder("moshi", heads=_moshi_heads)
def moshi(cfg: Config, prefix: str) -> Component:
    """Moshi's decoder of text [3]_ alone."""
    return kyutai_decoder(cfg, prefix, parts.embedding("embed_tokens", cfg.vocab_size + 1, cfg.hidden_size))


@model("kyutai_speech_to_text")
def kyutai_speech_to_text(cfg: Config, class_name: str) -> Built:
    """Kyutai's transcriber [3]_: text and the codes of what is heard, frame by frame."""
    base = is_bare(class_name)
    hidden = cfg.hidden_size
    rows = cfg.vocab_size + cfg.integer("num_codebooks") * cfg.integer("codebook_vocab_size") + 1
    table = parts.embedding("embed_tokens.embed_tokens", rows, hidden)
    body = kyutai_decoder(cfg, "" if base else "model", table)
    if base:
        return Built((body,))
    head = language_head(cfg, hidden)
    return Built((body, *head.components, *read_part(cfg.nested("codec_config"), "codec_model")), tied=head.tied)
