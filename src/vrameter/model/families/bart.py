"""BART and the encoder-decoders for text that keep its layer: translation, summaries, conversation, code.

References
----------
.. [1] J. Zhang et al., "PEGASUS", 2019, arXiv:1912.08777; J. Phang et al., "PEGASUS-X", 2022, arXiv:2208.04347.
.. [2] A. Fan et al., "Beyond English-Centric Multilingual Machine Translation", 2020, arXiv:2010.11125 (M2M-100).
.. [3] NLLB team, "No Language Left Behind", 2022, arXiv:2207.04672.
.. [4] S. Roller et al., "Recipes for building an open-domain chatbot", 2020, arXiv:2004.13637 (BlenderBot).
.. [5] I. Beltagy et al., "Longformer", 2020, arXiv:2004.05150 (LED).
.. [6] T. Tang et al., "MVP", 2022, arXiv:2206.12131.
.. [7] M. Li et al., "TrOCR", 2021, arXiv:2109.10282.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Component, FeedForward, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.bert import after_padding
from vrameter.model.families.encoder_decoder import Style, language_head, sequence_heads, side
from vrameter.model.families.encoder_heads import task_of
from vrameter.model.families.registry import ENTRIES, Built, tower

BART = Style(offset=2, embedding_norm="layernorm_embedding")
MBART = replace(BART, final_norm="layer_norm")
PEGASUS = Style(final_norm="layer_norm")
M2M = Style(table=False, final_norm="layer_norm")
MARIAN = Style()
SMALL = Style(embedding_norm="layernorm_embedding")
GLOBAL = Style(bias=False, table=False, final_norm="layer_norm")


def _plain(style: Style) -> Any:
    return lambda cfg, prefix, **given: side(cfg, prefix, style, **given)


_bart, _mbart, _pegasus, _m2m, _marian, _small = map(_plain, (BART, MBART, PEGASUS, M2M, MARIAN, SMALL))


@tower("bart", heads=sequence_heads(_bart), task="ForConditionalGeneration")
@tower("plbart", heads=sequence_heads(_bart), task="ForConditionalGeneration")
def bart(cfg: Config, prefix: str) -> Component:
    """BART's encoder: norms after each part and after the embeddings, learned positions from the third row."""
    return _alone(_bart, cfg, prefix)


@tower("mbart", heads=sequence_heads(_mbart), task="ForConditionalGeneration")
def mbart(cfg: Config, prefix: str) -> Component:
    """MBART's encoder: norms before each part, and one at the end."""
    return _alone(_mbart, cfg, prefix)


@tower("pegasus", heads=sequence_heads(_pegasus), task="ForConditionalGeneration")
@tower("blenderbot", heads=sequence_heads(_pegasus), task="ForConditionalGeneration")
def pegasus(cfg: Config, prefix: str) -> Component:
    """PEGASUS' encoder [1]_, and BlenderBot's [4]_: norms before each part, no norm after the embeddings."""
    return _alone(_pegasus, cfg, prefix)


@tower("m2m_100", heads=sequence_heads(_m2m, logits_bias=False), task="ForConditionalGeneration")
def m2m_100(cfg: Config, prefix: str) -> Component:
    """M2M-100's encoder [2]_, and that of NLLB's dense models [3]_: positions are computed."""
    return _alone(_m2m, cfg, prefix)


def _marian_heads(cfg: Config, class_name: str) -> Built:
    target = cfg.over(vocab_size=cfg.integer("decoder_vocab_size", cfg.vocab_size))
    if class_name.endswith("ForCausalLM"):
        alone = side(target, ENTRIES[cfg.model_type].base, MARIAN, decoder=True, own_tokens=True)
        written = language_head(cfg, cfg.hidden_size)
        return Built((alone, *written.components), tied=written.tied)
    if cfg.flag("share_encoder_decoder_embeddings", True):
        return _marian_shared(cfg, class_name)
    prefix = "" if task_of(class_name) == "Model" else ENTRIES[cfg.model_type].base
    sides = (
        side(cfg, prefix, MARIAN, decoder=False, own_tokens=True),
        side(target, prefix, MARIAN, decoder=True, own_tokens=True),
    )
    if not prefix:
        return Built(sides)
    head = language_head(target, cfg.hidden_size, bias_buffer=True)
    return Built((*sides, *head.components), tied=head.tied)


_marian_shared = sequence_heads(_marian)


@tower("marian", heads=_marian_heads, task="ForConditionalGeneration")
def marian(cfg: Config, prefix: str) -> Component:
    """Marian's encoder: a stored table of fixed sines."""
    return _alone(_marian, cfg, prefix)


@tower("blenderbot-small", heads=sequence_heads(_small), task="ForConditionalGeneration")
def blenderbot_small(cfg: Config, prefix: str) -> Component:
    """BlenderBot's small encoder: BART's with positions from the first row."""
    return _alone(_small, cfg, prefix)


def _alone(make: Any, cfg: Config, prefix: str) -> Component:
    return make(cfg, prefix, decoder=False, own_tokens=True, stack_name="")  # type: ignore[no-any-return]


def _with_global_tokens(cfg: Config, prefix: str, *, decoder: bool, **given: Any) -> Component:
    if decoder:
        return side(cfg, prefix, GLOBAL, decoder=True, **given)
    hidden = cfg.hidden_size
    tokens = parts.embedding("embed_global", cfg.integer("num_global_tokens"), hidden, slot="other")
    norm = parts.norm("global_self_attn_layer_norm", hidden, bias=True)
    return side(cfg, prefix, GLOBAL, decoder=False, layer_tensors=norm, tensors=tokens, **given)


@tower("pegasus_x", heads=sequence_heads(_with_global_tokens, logits_bias=False), task="ForConditionalGeneration")
def pegasus_x(cfg: Config, prefix: str) -> Component:
    """PEGASUS-X' encoder [1]_: blocks of tokens, and global ones that pass between them."""
    return _alone(_with_global_tokens, cfg, prefix)


def _led(cfg: Config, prefix: str, *, decoder: bool, **given: Any) -> Component:
    style = replace(BART, offset=0)
    if decoder:
        return side(cfg, prefix, style, decoder=True, positions=cfg.integer("max_decoder_position_embeddings"), **given)
    hidden, module = cfg.hidden_size, "self_attn.longformer_self_attn"
    far = [
        tensor
        for slot in ("query", "key", "value")
        for tensor in parts.linear(f"{module}.{slot}_global", hidden, hidden, bias=True, role="attention", slot=slot[0])
    ]
    attention = parts.attention(
        hidden_size=hidden, num_heads=cfg.integer("encoder_attention_heads"), name="self_attn", scope="encoder", bias=True,
        q="longformer_self_attn.query", k="longformer_self_attn.key", v="longformer_self_attn.value", o="output",
        extra=tuple(far),
    )  # fmt: skip
    rows = cfg.integer("max_encoder_position_embeddings")
    return side(cfg, prefix, style, decoder=False, positions=rows, attention=attention, **given)


@tower("led", base="led", heads=sequence_heads(_led), task="ForConditionalGeneration")
def led(cfg: Config, prefix: str) -> Component:
    """LED's encoder [5]_: windows, and second projections for the tokens that see everything."""
    return _alone(_led, cfg, prefix)


def _big_bird(cfg: Config, prefix: str, *, decoder: bool, **given: Any) -> Component:
    style = replace(SMALL, bias=cfg.flag("use_bias"))
    if decoder:
        return side(cfg, prefix, style, decoder=True, **given)
    attention = parts.attention(
        hidden_size=cfg.hidden_size, num_heads=cfg.integer("encoder_attention_heads"), name="self_attn", scope="encoder",
        bias=style.bias, q="self.query", k="self.key", v="self.value", o="output",
    )  # fmt: skip
    return side(cfg, prefix, style, decoder=False, attention=attention, **given)


@tower("bigbird_pegasus", heads=sequence_heads(_big_bird, causal_tied=False), task="ForConditionalGeneration")
def bigbird_pegasus(cfg: Config, prefix: str) -> Component:
    """BigBird-PEGASUS' encoder: sparse attention under BigBird's names."""
    return _alone(_big_bird, cfg, prefix)


def _mvp(cfg: Config, prefix: str, *, decoder: bool, **given: Any) -> Component:
    prompts: Tensors = ()
    # of the classes, only those of both sides build prompts, and only the decoder's
    if cfg.flag("use_prompt") and decoder and not given.get("own_tokens"):
        hidden, middle = cfg.hidden_size, cfg.integer("prompt_mid_dim")
        wide = cfg.layers("decoder_layers") * 2 * hidden
        for name in ("self_attn_prompt", "cross_attn_prompt"):
            prompts += parts.embedding(f"{name}.prompt_embedding", cfg.integer("prompt_length"), hidden, slot="other")
            prompts += parts.linear(f"{name}.prompt_trans.0", middle, hidden, bias=True)
            prompts += parts.linear(f"{name}.prompt_trans.2", wide, middle, bias=True)
    return side(cfg, prefix, BART, decoder=decoder, tensors=prompts, **given)


@tower("mvp", heads=sequence_heads(_mvp), task="ForConditionalGeneration")
def mvp(cfg: Config, prefix: str) -> Component:
    """MVP's encoder [6]_: BART's, with optional prompts for each layer."""
    return _alone(_mvp, cfg, prefix)


def _nllb_perceptron(cfg: Config, inner: int, sparse: bool) -> FeedForward:
    hidden, count = cfg.hidden_size, cfg.layers("num_experts")
    if not sparse:
        return parts.mlp(
            hidden_size=hidden, intermediate_size=inner, gated=False, bias=True, name="ffn", up="fc1", down="fc2"
        )
    router = parts.linear(
        "ffn.router.classifier", count, hidden, bias=cfg.flag("router_bias"), role="router", slot="router"
    )
    experts = [
        tensor
        for index in range(count)
        for tensor in parts.mlp(
            hidden_size=hidden, intermediate_size=inner, gated=False, bias=True, name=f"ffn.experts.expert_{index}",
            up="fc1", down="fc2", role="experts",
        ).tensors
    ]  # fmt: skip
    plain = tuple(tensor._replace(linear=False) for tensor in router)
    return FeedForward((*plain, *experts), inner, gated=False, num_experts=count, num_experts_per_token=min(2, count))


def _nllb_moe(cfg: Config, prefix: str, *, decoder: bool, **given: Any) -> Component:
    kind = "decoder" if decoder else "encoder"
    step = cfg.integer(f"{kind}_sparse_step", least=0)
    style = replace(M2M, cross="cross_attention", cross_norm="cross_attention_layer_norm", mlp_norm="ff_layer_norm")
    return side(
        cfg, prefix, style, decoder=decoder, perceptron=partial(_nllb_perceptron, cfg, cfg.integer(f"{kind}_ffn_dim")),
        sparse=[step > 0 and (index + 1) % step == 0 for index in range(cfg.layers(f"{kind}_layers"))], **given,
    )  # fmt: skip


@tower("nllb-moe", heads=sequence_heads(_nllb_moe, logits_bias=False), task="ForConditionalGeneration")
def nllb_moe(cfg: Config, prefix: str) -> Component:
    """NLLB's encoder of the mixture [3]_: in every fourth layer a token goes to two experts."""
    return _alone(_nllb_moe, cfg, prefix)


def _trocr(cfg: Config, prefix: str, **given: Any) -> Component:
    style = Style(
        offset=2, table=cfg.flag("use_learned_position_embeddings", True),
        embedding_norm="layernorm_embedding" if cfg.flag("layernorm_embedding", True) else "",
    )  # fmt: skip
    return side(cfg, prefix, style, cross_size=cfg.integer("cross_attention_hidden_size", None), **given)


@tower("trocr", heads=sequence_heads(_trocr, head="output_projection"), task="ForCausalLM")
def trocr(cfg: Config, prefix: str) -> Component:
    """TrOCR's decoder [7]_: BART's, beside an encoder of images."""
    return _trocr(cfg, prefix, decoder=True, own_tokens=True)


def _fsmt_heads(cfg: Config, class_name: str) -> Built:
    hidden, reserved = cfg.hidden_size, after_padding(cfg)
    prefix = "" if class_name.endswith("Model") else ENTRIES[cfg.model_type].base
    style = Style(offset=reserved)
    source, target = cfg.integer("src_vocab_size"), cfg.integer("tgt_vocab_size")
    matrix = parts.lm_head(target, hidden, name="output_projection")
    tied = cfg.flag("tie_word_embeddings")
    own = cfg if tied else cfg.over(tgt_vocab_size=source)
    encoder = side(own, prefix, style, decoder=False, own_tokens=True)
    decoder = side(cfg, prefix, style, decoder=True, own_tokens=not tied, tensors=() if tied else matrix)
    return Built((encoder, decoder), tied=(joined(prefix, "decoder.output_projection.weight"),) if tied else ())


@tower("fsmt", heads=_fsmt_heads, task="ForConditionalGeneration")
def fsmt(cfg: Config, prefix: str) -> Component:
    """FSMT's encoder: fairseq's translators, with a vocabulary for each language."""
    source = cfg.over(tgt_vocab_size=cfg.integer("src_vocab_size"))
    return _alone(_plain(Style(offset=after_padding(cfg))), source, prefix)
