"""BERT [1]_ and the encoders that keep its layer: attention, norm, perceptron, norm, all with biases.

They differ in where the norms stand, in what is added to the token embeddings, and in their heads. With
``is_decoder`` the same layers are causal and keep a cache.

References
----------
.. [1] J. Devlin et al., "BERT", 2019, arXiv:1810.04805.
.. [2] Y. Liu et al., "RoBERTa", 2019, arXiv:1907.11692; N. Goyal et al., arXiv:2105.00572 (XLM-R XL).
.. [3] K. Clark et al., "ELECTRA", 2020, arXiv:2003.10555.
.. [4] H. W. Chung et al., "Rethinking embedding coupling", 2020, arXiv:2010.12821 (RemBERT).
.. [5] S. Sturua et al., "jina-embeddings-v3", 2024, arXiv:2409.10173.
"""

from __future__ import annotations

from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Scope, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import (
    CAUSAL,
    POOLED,
    LanguageHead,
    dense_classifier,
    generator_head,
    linear,
    pre_classifier,
    roberta_head,
    summary_classifier,
    text_heads,
    transform_head,
)
from vrameter.model.families.registry import tower


def even_heads(cfg: Config) -> tuple[int, int]:
    """Return the number of heads and their width, which must divide the hidden one."""
    hidden, heads = cfg.hidden_size, cfg.num_heads
    if hidden % heads:
        raise cfg.fail(
            "hidden_size", "%(value)s is not a multiple of the %(heads)s attention heads.", value=hidden, heads=heads
        )
    return heads, hidden // heads


def bert_attention(
    cfg: Config, *, name: str = "attention", scope: Scope = "encoder", bias: bool = True, extra: Tensors = ()
) -> Attention:
    """Return BERT's attention under its names."""
    heads, dim = even_heads(cfg)
    return parts.attention(
        hidden_size=cfg.hidden_size, num_heads=heads, head_dim=dim, name=name, q="self.query", k="self.key",
        v="self.value", o="output.dense", bias=bias, o_bias=True, extra=extra, scope=scope,
        role="cross_attention" if scope == "cross" else "attention",
    )  # fmt: skip


def bert_model(
    cfg: Config,
    prefix: str,
    *,
    pooler: str = "",
    causal: bool = False,
    attention_norm: str = "output.LayerNorm",
    mlp_norm: str = "output.LayerNorm",
    final_norm: str = "",
    qkv_bias: bool = True,
    embedding_width: int | None = None,
    projection: str = "",
    positions: bool = True,
    reserved_positions: int = 0,
    extra_positions: int = 0,
    types: bool = True,
    embedding_norm: str = "LayerNorm",
    embeddings: Tensors = (),
    attention: Attention | None = None,
    feed_forward: FeedForward | None = None,
    attention_extra: Tensors = (),
    layer_extra: Tensors = (),
    extra: Tensors = (),
    layers_name: str = "encoder.layer",
) -> Component:
    """Return an encoder of BERT's layers, or a decoder where the config or the class says so.

    Parameters
    ----------
    pooler
        Name of the pooler's linear layer; empty for none.
    causal
        Whether the class predicts the next token.
    attention_norm
        Name of the norm below ``attention``, and below ``crossattention`` where there is one.
    embedding_width, projection
        Width of the embeddings and name of the layer that widens them, where it is not the hidden width.
    reserved_positions
        First entries of the position table that stand for no position.
    extra_positions
        Rows of the position table beyond ``max_position_embeddings``.
    attention, feed_forward
        The parts themselves where they are not BERT's.
    embeddings, attention_extra, layer_extra, extra
        Further tensors of the embeddings, of each attention, of each layer, and of the whole.
    """
    hidden, vocab = cfg.hidden_size, cfg.vocab_size
    width = embedding_width or hidden
    is_decoder = cfg.flag("is_decoder")
    crosses = cfg.flag("add_cross_attention")
    if crosses and not is_decoder:
        raise cfg.fail("add_cross_attention", "needs is_decoder to be true.")
    scope: Scope = "full" if is_decoder or causal else "encoder"
    table = cfg.integer("max_position_embeddings") + extra_positions if positions else 0

    attentions = [attention or bert_attention(cfg, scope=scope, bias=qkv_bias, extra=attention_extra)]
    norms = parts.norm(f"attention.{attention_norm}", hidden, bias=True) if attention_norm else ()
    if crosses:
        attentions.append(bert_attention(cfg, name="crossattention", scope="cross", bias=qkv_bias))
        norms += parts.norm(f"crossattention.{attention_norm}", hidden, bias=True)
    own_feed_forward = feed_forward or parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True, name="",
        up="intermediate.dense", down="output.dense",
    )  # fmt: skip
    layer = Layer(
        (*attentions, own_feed_forward),
        (*norms, *(parts.norm(mlp_norm, hidden, bias=True) if mlp_norm else ()), *layer_extra),
    )
    type_count = cfg.integer("type_vocab_size", 0, least=0) if types else 0
    return Component(
        kind="encoder" if scope == "encoder" else "decoder",
        name="encoder" if scope == "encoder" else "decoder",
        hidden_size=hidden,
        layers=(layer,) * cfg.num_layers,
        tensors=(
            *parts.embedding("embeddings.word_embeddings", vocab, width),
            *(parts.embedding("embeddings.position_embeddings", table, width, slot="position") if positions else ()),
            *(
                parts.embedding("embeddings.token_type_embeddings", type_count, width, slot="type")
                if type_count
                else ()
            ),
            *embeddings,
            *(parts.norm(f"embeddings.{embedding_norm}", width, bias=True) if embedding_norm else ()),
            *(parts.linear(projection, hidden, width, bias=True, role="embedding") if projection else ()),
            *(parts.norm(final_norm, hidden, bias=True) if final_norm else ()),
            *(parts.linear(pooler, hidden, hidden, bias=True, role="head") if pooler else ()),
            *extra,
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, layers_name),
        vocab_size=vocab,
        max_positions=max(0, table - reserved_positions - extra_positions)
        or cfg.integer("max_position_embeddings", 0, least=0),
    )


def narrow_embeddings(cfg: Config) -> dict[str, Any]:
    """Return the width of embeddings that may be narrower than the hidden states, and what widens them then."""
    width = cfg.integer("embedding_size", cfg.hidden_size)
    return {"embedding_width": width, "projection": "embeddings_project" if width != cfg.hidden_size else ""}


def dense_pooler(pooler: bool) -> str:
    """Return the usual name of a pooler, or none."""
    return "pooler.dense" if pooler else ""


def after_padding(cfg: Config) -> int:
    """Return the entries that a RoBERTa position table keeps before the first position: up to the padding token's."""
    return int(cfg.integer("pad_token_id", 1, least=0)) + 1


# -- BERT's own heads ----------------------------------------------------------------------------------------


@tower("bert", base="bert", heads=text_heads())
def bert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """BERT itself."""
    return bert_model(cfg, prefix, pooler=dense_pooler(pooler), causal=causal)


@tower("ernie", base="ernie", heads=text_heads())
def ernie(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """ERNIE: BERT with an optional embedding of the task."""
    tasks: Tensors = ()
    if cfg.flag("use_task_id"):
        tasks = parts.embedding(
            "embeddings.task_type_embeddings", cfg.integer("task_type_vocab_size"), cfg.hidden_size, slot="type"
        )
    return bert_model(cfg, prefix, pooler=dense_pooler(pooler), causal=causal, embeddings=tasks)


@tower("megatron-bert", base="bert", heads=text_heads())
def megatron_bert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """Megatron's BERT: norms before attention and perceptron, and one at the end."""
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), causal=causal, attention_norm="ln", mlp_norm="ln", embedding_norm="",
        final_norm="encoder.ln",
    )  # fmt: skip


def _generation_head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    matrix = parts.lm_head(vocab, hidden, name="lm_head.decoder", bias=True)
    return LanguageHead(parts.parameter("lm_head.bias", vocab, role="head"), matrix, ("lm_head.decoder.weight",))


@tower("bert-generation", base="bert", heads=text_heads(language=_generation_head))
def bert_generation(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """BERT as one side of an encoder-decoder: no token types, no pooler, a bare language head."""
    return bert_model(cfg, prefix, causal=causal, types=False)


def _rembert_head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    width = cfg.integer("output_embedding_size")
    tensors = (
        *linear("cls.predictions.dense", width, hidden),
        *parts.lm_head(vocab, width, name="cls.predictions.decoder", bias=True),
        *parts.norm("cls.predictions.LayerNorm", width, bias=True),
    )
    return LanguageHead(tensors, (), ())


@tower("rembert", base="rembert", heads=text_heads(language=_rembert_head))
def rembert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """RemBERT [4]_: narrow input embeddings, wide output embeddings, never tied."""
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), causal=causal, embedding_width=cfg.integer("input_embedding_size"),
        projection="encoder.embedding_hidden_mapping_in",
    )  # fmt: skip


@tower("roc_bert", base="roc_bert", heads=text_heads(next_sentence=""))
def roc_bert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """RoCBert: embeddings of a character's sound and shape beside its own."""
    hidden = cfg.hidden_size
    sound, shape = cfg.integer("pronunciation_embed_dim"), cfg.integer("shape_embed_dim")
    embeddings = (
        *parts.embedding(
            "embeddings.pronunciation_embed", cfg.integer("pronunciation_vocab_size"), sound, slot="other"
        ),
        *parts.embedding("embeddings.shape_embed", cfg.integer("shape_vocab_size"), shape, slot="other"),
    )
    if cfg.flag("concat_input"):
        width = hidden + sound * cfg.flag("enable_pronunciation") + shape * cfg.flag("enable_shape")
        embeddings += parts.linear("embeddings.map_inputs_layer", hidden, width, bias=True, role="embedding")
    return bert_model(cfg, prefix, pooler=dense_pooler(pooler), causal=causal, embeddings=embeddings)


def _big_bird_spans(cfg: Config, labels: int, hidden: int) -> Tensors:
    inner = cfg.integer("intermediate_size")
    return (
        *linear("qa_classifier.intermediate.dense", inner, hidden),
        *linear("qa_classifier.output.dense", hidden, inner),
        *parts.norm("qa_classifier.output.LayerNorm", hidden, bias=True),
        *linear("qa_classifier.qa_outputs", labels, hidden),
    )


@tower(
    "big_bird",
    base="bert",
    heads=text_heads(
        classifier=dense_classifier,
        spans=_big_bird_spans,
        pooled=(*POOLED, *CAUSAL, "MaskedLM", "TokenClassification"),
    ),
)
def big_bird(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """BigBird: BERT whose attention is sparse, with the same weights."""
    return bert_model(
        cfg, prefix, pooler="pooler" if pooler else "", causal=causal, qkv_bias=cfg.flag("use_bias", True)
    )


@tower(
    "layoutlm",
    base="layoutlm",
    heads=text_heads(pooled=(*POOLED, "MaskedLM", "TokenClassification", "QuestionAnswering")),
)
def layoutlm(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """LayoutLM: BERT with embeddings of where a word stands on the page."""
    rows = cfg.integer("max_2d_position_embeddings")
    places = [
        tensor
        for axis in "xyhw"
        for tensor in parts.embedding(f"embeddings.{axis}_position_embeddings", rows, cfg.hidden_size, slot="position")
    ]
    return bert_model(cfg, prefix, pooler=dense_pooler(pooler), causal=causal, embeddings=tuple(places))


def _span_questions(cfg: Config, labels: int, hidden: int) -> Tensors:
    transforms = [
        tensor
        for name in ("query_start_transform", "query_end_transform", "start_transform", "end_transform")
        for tensor in (
            *linear(f"splinter_qass.{name}.dense", hidden, hidden),
            *parts.norm(f"splinter_qass.{name}.LayerNorm", hidden, bias=True),
        )
    ]
    return (
        *transforms,
        *linear("splinter_qass.start_classifier", hidden, hidden, bias=False),
        *linear("splinter_qass.end_classifier", hidden, hidden, bias=False),
    )


@tower("splinter", base="splinter", heads=text_heads(spans=_span_questions, pretraining=_span_questions))
def splinter(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """Splinter: BERT whose head selects a span for each question token."""
    return bert_model(cfg, prefix, causal=causal)


@tower("nystromformer", base="nystromformer", heads=text_heads(classifier=dense_classifier, choices=pre_classifier))
def nystromformer(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """Nystromformer: approximate attention with a convolution over the values."""
    kernel = cfg.integer("conv_kernel_size", None)
    convolution: Tensors = ()
    if kernel:
        convolution = parts.conv("attention.self.conv", cfg.num_heads, 1, kernel, 1, bias=False)
    return bert_model(cfg, prefix, causal=causal, attention_extra=convolution, extra_positions=2)


@tower("yoso", base="yoso", heads=text_heads(classifier=dense_classifier, choices=pre_classifier))
def yoso(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """YOSO: attention by hashing, with an optional convolution over the values."""
    kernel = cfg.integer("conv_window", None)
    convolution: Tensors = ()
    if kernel:
        convolution = parts.conv("attention.self.conv", cfg.num_heads, 1, kernel, 1, bias=False)
    return bert_model(cfg, prefix, causal=causal, attention_extra=convolution, extra_positions=2)


@tower("mra", base="mra", heads=text_heads(classifier=dense_classifier, choices=pre_classifier))
def mra(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """MRA: multi-resolution attention, with the weights of BERT's."""
    numbers = parts.buffer("embeddings.position_ids", 1, cfg.integer("max_position_embeddings"))
    return bert_model(cfg, prefix, causal=causal, extra_positions=2, extra=numbers)


# -- RoBERTa's heads [2]_ ------------------------------------------------------------------------------------

_roberta_heads = text_heads(language=roberta_head, classifier=dense_classifier, pooled=("Model", "MultipleChoice"))


@tower("roberta", base="roberta", heads=_roberta_heads)
@tower("xlm-roberta", base="roberta", heads=_roberta_heads)
@tower("camembert", base="roberta", heads=_roberta_heads)
@tower("data2vec-text", base="data2vec_text", heads=_roberta_heads)
@tower("ibert", base="ibert", heads=_roberta_heads)
def roberta(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """RoBERTa and the models that share its network; remote code turns XLM-RoBERTa rotary and adds adapters."""
    rotary = cfg.text("position_embedding_type", "absolute") == "rotary"
    adapters, more = _task_adapters(cfg, pooler) if rotary and cfg.sequence("lora_adaptations") else ((), ())
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), causal=causal, positions=not rotary,
        reserved_positions=after_padding(cfg), layer_extra=adapters, extra=more,
    )  # fmt: skip


def _task_adapters(cfg: Config, pooler: bool) -> tuple[Tensors, Tensors]:
    """Return low-rank pairs for every task [5]_: those of a layer, and those of embeddings and pooler."""
    tasks, rank = len(cfg.sequence("lora_adaptations")), cfg.integer("lora_rank")
    hidden, inner = cfg.hidden_size, cfg.integer("intermediate_size")

    def pair(name: str, outputs: int, inputs: int) -> Tensors:
        return (
            *parts.parameter(f"{name}.lora_A", tasks, rank, inputs),
            *parts.parameter(f"{name}.lora_B", tasks, outputs, rank),
        )

    layer = (
        *pair("attention.self.qkv", 3 * hidden, hidden),
        *pair("attention.output.dense", hidden, hidden),
        *pair("intermediate.dense", inner, hidden),
        *pair("output.dense", hidden, inner),
    )
    rest = (
        *pair("embeddings.word_embeddings", hidden, cfg.vocab_size),
        *pair("embeddings.token_type_embeddings", hidden, cfg.integer("type_vocab_size")),
        *(pair("pooler.dense", hidden, hidden) if pooler else ()),
    )
    return layer, rest


@tower("xlm-roberta-xl", base="roberta", heads=_roberta_heads)
def xlm_roberta_xl(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """XLM-RoBERTa XL: norms before attention and perceptron."""
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), causal=causal, attention_norm="self_attn_layer_norm",
        mlp_norm="LayerNorm", embedding_norm="", final_norm="encoder.LayerNorm", reserved_positions=after_padding(cfg),
    )  # fmt: skip


@tower("roberta-prelayernorm", base="roberta_prelayernorm", heads=_roberta_heads)
def roberta_prelayernorm(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """RoBERTa with the norm before attention and perceptron."""
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), causal=causal, attention_norm="LayerNorm",
        mlp_norm="intermediate.LayerNorm", final_norm="LayerNorm", reserved_positions=after_padding(cfg),
    )  # fmt: skip


@tower("xmod", base="roberta", heads=_roberta_heads)
def xmod(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """X-MOD: a small adapter for each language in every layer."""
    hidden = cfg.hidden_size
    inner = hidden // cfg.integer("adapter_reduction_factor")
    adapters: Tensors = (
        parts.norm("output.adapter_layer_norm", hidden, bias=True) if cfg.flag("adapter_layer_norm") else ()
    )
    for language in cfg.sequence("languages", ["en_XX"]):
        adapter = f"output.adapter_modules.{language}"
        adapters += parts.linear(f"{adapter}.dense1", inner, hidden, bias=True, role="mlp")
        adapters += parts.linear(f"{adapter}.dense2", hidden, inner, bias=True, role="mlp")
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), causal=causal, layer_extra=adapters,
        final_norm="encoder.LayerNorm" if cfg.flag("pre_norm") else "", reserved_positions=after_padding(cfg),
    )  # fmt: skip


@tower("longformer", base="longformer", heads=_roberta_heads)
def longformer(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """Longformer: RoBERTa with a window, and a second set of projections for the tokens that see everything."""
    hidden = cfg.hidden_size
    far = [
        tensor
        for slot in ("query", "key", "value")
        for tensor in parts.linear(
            f"attention.self.{slot}_global", hidden, hidden, bias=True, role="attention", slot=slot[0]
        )
    ]
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), attention_extra=tuple(far), reserved_positions=after_padding(cfg)
    )


_esm_head = transform_head("lm_head", dense="dense", norm="layer_norm", both_biases=False)


@tower("esm", base="esm", heads=text_heads(language=_esm_head, classifier=dense_classifier, pooled=("Model",)))
def esm(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """ESM-2, for proteins: norms before attention and perceptron, rotary or learned positions, a contact head."""
    if cfg.flag("is_folding_model"):
        raise cfg.fail("is_folding_model", "folding models are not read.")
    contacts = parts.linear("contact_head.regression", 1, cfg.num_layers * cfg.num_heads, bias=True, role="head")
    positions = cfg.text("position_embedding_type", "absolute")
    if positions == "rotary":
        contacts += parts.buffer("rotary_embeddings.inv_freq", even_heads(cfg)[1] // 2)
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), causal=causal, attention_norm="LayerNorm", mlp_norm="LayerNorm",
        positions=positions == "absolute", types=False,
        embedding_norm="layer_norm" if cfg.flag("emb_layer_norm_before") else "", final_norm="encoder.emb_layer_norm_after",
        extra=contacts,
    )  # fmt: skip


# -- narrow embeddings ---------------------------------------------------------------------------------------


def _discriminator(cfg: Config, labels: int, hidden: int) -> Tensors:
    return (
        *linear("discriminator_predictions.dense", hidden, hidden),
        *linear("discriminator_predictions.dense_prediction", 1, hidden),
    )


@tower(
    "electra",
    base="electra",
    heads=text_heads(
        language=generator_head, classifier=dense_classifier, choices=summary_classifier, pretraining=_discriminator
    ),
)
def electra(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """ELECTRA [3]_: BERT with narrow embeddings and no pooler."""
    return bert_model(cfg, prefix, causal=causal, **narrow_embeddings(cfg))


_roformer_head = transform_head("cls.predictions", width="embedding_size")


@tower(
    "roformer",
    base="roformer",
    heads=text_heads(language=_roformer_head, classifier=dense_classifier, choices=summary_classifier),
)
def roformer(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """RoFormer: rotary positions, kept as a table of fixed sines."""
    _, dim = even_heads(cfg)
    table = parts.embedding("encoder.embed_positions", cfg.integer("max_position_embeddings"), dim, slot="position")
    return bert_model(cfg, prefix, causal=causal, positions=False, extra=table, **narrow_embeddings(cfg))
