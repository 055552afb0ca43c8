"""Encoders near BERT whose layers differ from it in more than norms and embeddings.

References
----------
.. [1] Z. Lan et al., "ALBERT", 2020, arXiv:1909.11942.
.. [2] V. Sanh et al., "DistilBERT", 2019, arXiv:1910.01108.
.. [3] K. Song et al., "MPNet", 2020, arXiv:2004.09297.
.. [4] P. He et al., "DeBERTa", 2021, arXiv:2006.03654, and "DeBERTaV3", arXiv:2111.09543.
.. [5] Z. Jiang et al., "ConvBERT", 2020, arXiv:2008.02496.
.. [6] F. Iandola et al., "SqueezeBERT", 2020, arXiv:2006.11316.
.. [7] Z. Sun et al., "MobileBERT", 2020, arXiv:2004.02984.
.. [8] I. Yamada et al., "LUKE", 2020, arXiv:2010.01057.
.. [9] J. Herzig et al., "TaPas", 2020, arXiv:2004.02349.
.. [10] Y. Huang et al., "LayoutLMv3", 2022, arXiv:2204.08387.
.. [11] J. Lee-Thorp et al., "FNet", 2021, arXiv:2105.03824.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Role, Tensor, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.bert import bert_attention, bert_model, dense_pooler, even_heads, narrow_embeddings
from vrameter.model.families.encoder_heads import (
    POOLED,
    LanguageHead,
    bert_head,
    context_classifier,
    dense_classifier,
    generator_head,
    linear,
    plain_classifier,
    pre_classifier,
    roberta_head,
    summary_classifier,
    text_heads,
    transform_head,
)
from vrameter.model.families.registry import tower

_albert_head = transform_head("predictions", dense="dense", norm="LayerNorm", width="embedding_size")


@tower("albert", base="albert", heads=text_heads(language=_albert_head, next_sentence="sop_classifier.classifier"))
def albert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """ALBERT [1]_: one group of layers, or a few, run again and again; only the first run of each holds weights."""
    hidden, width, vocab = cfg.hidden_size, cfg.integer("embedding_size"), cfg.vocab_size
    heads, dim = even_heads(cfg)
    built: list[Attention | FeedForward] = []
    norms: Tensors = ()
    for index in range(cfg.layers("inner_group_num")):
        name = f"albert_layers.{index}"
        built.append(
            parts.attention(
                hidden_size=hidden, num_heads=heads, head_dim=dim, name=f"{name}.attention", q="query", k="key",
                v="value", o="dense", bias=True, scope="encoder",
            )
        )  # fmt: skip
        built.append(
            parts.mlp(
                hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True,
                name=name, up="ffn", down="ffn_output",
            )
        )  # fmt: skip
        norms += parts.norm(f"{name}.full_layer_layer_norm", hidden, bias=True)
        norms += parts.norm(f"{name}.attention.LayerNorm", hidden, bias=True)
    first = Layer(tuple(built), norms)
    again = Layer(tuple(replace(part, tensors=()) for part in built))
    groups = cfg.layers("num_hidden_groups")
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(first,) * groups + (again,) * (cfg.num_layers - groups),
        tensors=(
            *parts.embedding("embeddings.word_embeddings", vocab, width),
            *parts.embedding(
                "embeddings.position_embeddings", cfg.integer("max_position_embeddings"), width, slot="position"
            ),
            *parts.embedding("embeddings.token_type_embeddings", cfg.integer("type_vocab_size"), width, slot="type"),
            *parts.norm("embeddings.LayerNorm", width, bias=True),
            *parts.linear("encoder.embedding_hidden_mapping_in", hidden, width, bias=True, role="embedding"),
            *(parts.linear("pooler", hidden, hidden, bias=True, role="head") if pooler else ()),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "encoder.albert_layer_groups"),
        vocab_size=vocab,
        max_positions=cfg.integer("max_position_embeddings"),
    )


def _distilbert_head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    matrix = parts.lm_head(vocab, hidden, name="vocab_projector", bias=True)
    tensors = (*linear("vocab_transform", hidden, hidden), *parts.norm("vocab_layer_norm", hidden, bias=True))
    return LanguageHead((*tensors, *matrix[1:]), matrix[:1], ("vocab_projector.weight",))


@tower(
    "distilbert",
    base="distilbert",
    heads=text_heads(language=_distilbert_head, classifier=pre_classifier, choices=pre_classifier),
)
def distilbert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """DistilBERT [2]_: BERT's layers under other names, no token types, no pooler."""
    hidden = cfg.hidden_size
    heads, dim = even_heads(cfg)
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, head_dim=dim, name="attention", q="q_lin", k="k_lin", v="v_lin",
        o="out_lin", bias=True, scope="encoder",
    )  # fmt: skip
    feed_forward = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("hidden_dim"), gated=False, bias=True, name="ffn", up="lin1",
        down="lin2",
    )  # fmt: skip
    return bert_model(
        cfg, prefix, types=False, attention=attention, feed_forward=feed_forward, attention_norm="",
        mlp_norm="output_layer_norm", layers_name="transformer.layer",
        layer_extra=parts.norm("sa_layer_norm", hidden, bias=True),
    )  # fmt: skip


@tower(
    "mpnet",
    base="mpnet",
    heads=text_heads(language=roberta_head, classifier=dense_classifier, pooled=("Model", "MultipleChoice")),
)
def mpnet(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """MPNet [3]_: relative positions shared by all layers besides learned ones, no token types."""
    heads, dim = even_heads(cfg)
    attention = parts.attention(
        hidden_size=cfg.hidden_size, num_heads=heads, head_dim=dim, name="attention.attn", q="q", k="k", v="v", o="o",
        bias=True, scope="encoder",
    )  # fmt: skip
    buckets = cfg.integer("relative_attention_num_buckets", 32)
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), types=False, attention=attention, attention_norm="LayerNorm",
        reserved_positions=2,
        extra=(Tensor("encoder.relative_attention_bias.weight", (buckets, heads), "attention", "position"),),
    )  # fmt: skip


# -- DeBERTa [4]_ --------------------------------------------------------------------------------------------


def _deberta_head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    if cfg.flag("legacy", True):
        return transform_head("cls.predictions", width="embedding_size")(cfg, hidden, vocab)
    tensors = (
        *linear("lm_predictions.lm_head.dense", hidden, hidden),
        *parts.norm("lm_predictions.lm_head.LayerNorm", hidden, bias=True),
        *parts.parameter("lm_predictions.lm_head.bias", vocab, role="head"),
    )
    return LanguageHead(tensors, (), ())


def _position_kinds(cfg: Config) -> list[str]:
    given = cfg.get("pos_att_type")
    if isinstance(given, str):
        return [kind.strip() for kind in given.lower().split("|")]
    return [str(kind) for kind in cfg.sequence("pos_att_type", [])]


def _deberta_embeddings(cfg: Config) -> Tensors:
    hidden, width = cfg.hidden_size, cfg.integer("embedding_size", cfg.hidden_size)
    widen: Tensors = ()
    if width != hidden:
        widen = parts.linear("embeddings.embed_proj", hidden, width, role="embedding")
    return (*widen, *parts.norm("embeddings.LayerNorm", hidden, bias=True))


def _relative_positions(cfg: Config) -> int:
    span = cfg.integer("max_relative_positions", -1, least=-1)
    return int(span) if span > 0 else int(cfg.integer("max_position_embeddings"))


_deberta_heads = text_heads(language=_deberta_head, classifier=context_classifier, choices=context_classifier)


@tower("deberta", base="deberta", heads=_deberta_heads)
def deberta(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """DeBERTa: content and position attended to apart; queries, keys and values in one matrix."""
    hidden = cfg.hidden_size
    heads, dim = even_heads(cfg)
    module = "attention.self"
    extra: Tensors = (
        *parts.parameter(f"{module}.q_bias", heads * dim, role="attention", slot="q"),
        *parts.parameter(f"{module}.v_bias", heads * dim, role="attention", slot="v"),
    )
    relative = cfg.flag("relative_attention")
    if cfg.flag("talking_head"):
        extra += parts.linear(f"{module}.head_logits_proj", heads, heads, role="attention")
        extra += parts.linear(f"{module}.head_weights_proj", heads, heads, role="attention")
    if relative and "c2p" in _position_kinds(cfg):
        extra += parts.linear(f"{module}.pos_proj", hidden, hidden, role="attention", slot="position")
    if relative and "p2c" in _position_kinds(cfg):
        extra += parts.linear(f"{module}.pos_q_proj", hidden, hidden, bias=True, role="attention", slot="position")
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, head_dim=dim, name="attention", qkv="self.in_proj", o="output.dense",
        o_bias=True, extra=extra, scope="encoder",
    )  # fmt: skip
    table: Tensors = ()
    if relative:
        table = parts.embedding("encoder.rel_embeddings", 2 * _relative_positions(cfg), hidden, slot="position")
    return bert_model(
        cfg, prefix, attention=attention, embedding_width=cfg.integer("embedding_size", hidden), embedding_norm="",
        positions=cfg.flag("position_biased_input", True), embeddings=_deberta_embeddings(cfg), extra=table,
    )  # fmt: skip


@tower("deberta-v2", base="deberta", heads=_deberta_heads)
def deberta_v2(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """DeBERTa V2 and V3: separate projections that may serve positions too, buckets of positions, a convolution."""
    hidden = cfg.hidden_size
    heads, dim = even_heads(cfg)
    width = heads * cfg.integer("attention_head_size", dim)
    relative = cfg.flag("relative_attention")
    extra: Tensors = ()
    if relative and not cfg.flag("share_att_key"):
        for kind, name in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
            if kind in _position_kinds(cfg):
                extra += parts.linear(
                    f"attention.self.{name}", width, hidden, bias=True, role="attention", slot="position"
                )
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, head_dim=width // heads, name="attention", q="self.query_proj",
        k="self.key_proj", v="self.value_proj", o="output.dense", bias=True, extra=extra, scope="encoder",
    )  # fmt: skip
    rest: Tensors = ()
    if relative:
        buckets = cfg.integer("position_buckets", -1, least=-1)
        span = buckets if buckets > 0 else _relative_positions(cfg)
        rest += parts.embedding("encoder.rel_embeddings", 2 * span, hidden, slot="position")
    if "layer_norm" in [word.strip() for word in cfg.text("norm_rel_ebd", "none").lower().split("|")]:
        rest += parts.norm("encoder.LayerNorm", hidden, bias=True)
    kernel = cfg.integer("conv_kernel_size", 0, least=0)
    if kernel:
        rest += parts.conv("encoder.conv.conv", hidden, hidden // cfg.integer("conv_groups", 1), kernel)
        rest += parts.norm("encoder.conv.LayerNorm", hidden, bias=True)
    return bert_model(
        cfg, prefix, attention=attention, embedding_width=cfg.integer("embedding_size", hidden), embedding_norm="",
        positions=cfg.flag("position_biased_input", True), embeddings=_deberta_embeddings(cfg), extra=rest,
    )  # fmt: skip


# -- convolutions --------------------------------------------------------------------------------------------


def _grouped(name: str, outputs: int, inputs: int, groups: int, slot: str) -> Tensors:
    if groups == 1:
        return parts.linear(name, outputs, inputs, bias=True, role="mlp", slot=slot)
    return (
        Tensor(f"{name}.weight", (groups, inputs // groups, outputs // groups), "mlp", slot),
        Tensor(f"{name}.bias", (outputs,), "mlp", slot),
    )


@tower(
    "convbert",
    base="convbert",
    heads=text_heads(language=generator_head, classifier=dense_classifier, choices=summary_classifier),
)
def convbert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """ConvBERT [5]_: a part of the heads is replaced by convolutions whose kernels depend on the text."""
    hidden, kernel = cfg.hidden_size, cfg.integer("conv_kernel_size")
    heads = max(1, cfg.num_heads // cfg.integer("head_ratio"))
    if hidden % heads:
        raise cfg.fail("hidden_size", "%(value)s is not a multiple of %(heads)s.", value=hidden, heads=heads)
    dim = hidden // heads // 2
    width = heads * dim
    module = "attention.self"
    extra = (
        *parts.parameter(f"{module}.key_conv_attn_layer.bias", width, 1, role="convolution"),
        *parts.conv(f"{module}.key_conv_attn_layer.depthwise", hidden, 1, kernel, bias=False),
        *parts.conv(f"{module}.key_conv_attn_layer.pointwise", width, hidden, 1, bias=False),
        *parts.linear(f"{module}.conv_kernel_layer", heads * kernel, width, bias=True, role="convolution"),
        *parts.linear(f"{module}.conv_out_layer", width, hidden, bias=True, role="convolution"),
        *parts.linear("attention.output.dense", hidden, hidden, bias=True, role="attention", slot="o"),
    )
    projections = [
        tensor
        for name in ("query", "key", "value")
        for tensor in parts.linear(f"{module}.{name}", width, hidden, bias=True, role="attention", slot=name[0])
    ]
    attention = Attention((*projections, *extra), heads, heads, dim, dim, scope="encoder")
    inner, groups = cfg.integer("intermediate_size"), cfg.integer("num_groups", 1)
    feed_forward = FeedForward(
        (
            *_grouped("intermediate.dense", inner, hidden, groups, "up"),
            *_grouped("output.dense", hidden, inner, groups, "down"),
        ),
        inner,
        gated=False,
    )
    return bert_model(cfg, prefix, attention=attention, feed_forward=feed_forward, **narrow_embeddings(cfg))


@tower("squeezebert", base="transformer", heads=text_heads(always_pooled=True))
def squeezebert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """SqueezeBERT [6]_: grouped convolutions of one column in place of linear layers."""
    hidden, inner = cfg.hidden_size, cfg.integer("intermediate_size")
    heads, dim = even_heads(cfg)

    def grouped(name: str, outputs: int, inputs: int, field: str, slot: str) -> Tensors:
        role: Role = "mlp" if slot in ("up", "down") else "attention"
        return parts.conv(name, outputs, inputs // cfg.integer(field), 1, role=role, slot=slot)

    attention = Attention(
        (
            *grouped("attention.query", hidden, hidden, "q_groups", "q"),
            *grouped("attention.key", hidden, hidden, "k_groups", "k"),
            *grouped("attention.value", hidden, hidden, "v_groups", "v"),
            *grouped("post_attention.conv1d", hidden, hidden, "post_attention_groups", "o"),
        ),
        heads, heads, dim, dim, scope="encoder",
    )  # fmt: skip
    feed_forward = FeedForward(
        (
            *grouped("intermediate.conv1d", inner, hidden, "intermediate_groups", "up"),
            *grouped("output.conv1d", hidden, inner, "output_groups", "down"),
        ),
        inner,
        gated=False,
    )
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), attention=attention, feed_forward=feed_forward, attention_norm="",
        mlp_norm="output.layernorm", layer_extra=parts.norm("post_attention.layernorm", hidden, bias=True),
        layers_name="encoder.layers", embedding_width=cfg.integer("embedding_size", hidden),
    )  # fmt: skip


# -- MobileBERT ----------------------------------------------------------------------------------------------


def _mobilebert_head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    width = cfg.integer("embedding_size")
    matrix = parts.lm_head(vocab, width, name="cls.predictions.decoder", bias=True)
    tensors = (
        *parts.parameter("cls.predictions.bias", vocab, role="head"),
        *linear("cls.predictions.transform.dense", hidden, hidden),
        *parts.norm("cls.predictions.transform.LayerNorm", hidden, bias=True),
    )
    if hidden > width:
        tensors += linear("cls.predictions.dense", hidden - width, vocab, bias=False)
    return LanguageHead(tensors, matrix, tuple(tensor.name for tensor in matrix))


@tower("mobilebert", base="mobilebert", heads=text_heads(language=_mobilebert_head))
def mobilebert(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """MobileBERT [7]_: thin layers between bottlenecks, each with several perceptrons."""
    hidden, width, inner = cfg.hidden_size, cfg.integer("embedding_size"), cfg.integer("intermediate_size")
    narrow = cfg.flag("use_bottleneck", True)
    thin = cfg.integer("intra_bottleneck_size") if narrow else hidden
    heads = cfg.num_heads
    if thin % heads:
        raise cfg.fail("num_attention_heads", "%(value)s does not divide the width %(width)s.", value=heads, width=thin)

    def dense(name: str, outputs: int, inputs: int) -> Tensors:
        return (
            *parts.linear(f"{name}.dense", outputs, inputs, bias=True, role="mlp"),
            *parts.norm(f"{name}.LayerNorm", outputs, bias=True),
        )

    source = thin if cfg.flag("use_bottleneck_attention") else hidden
    attention = Attention(
        (
            *parts.linear("attention.self.query", thin, thin, bias=True, role="attention", slot="q"),
            *parts.linear("attention.self.key", thin, thin, bias=True, role="attention", slot="k"),
            *parts.linear("attention.self.value", thin, source, bias=True, role="attention", slot="v"),
            *parts.linear("attention.output.dense", thin, thin, bias=True, role="attention", slot="o"),
        ),
        heads, heads, thin // heads, thin // heads, scope="encoder",
    )  # fmt: skip
    norms = parts.norm("attention.output.LayerNorm", thin, bias=True)
    perceptrons = []
    for name in ("", *(f"ffn.{index}" for index in range(cfg.layers("num_feedforward_networks") - 1))):
        perceptrons.append(
            parts.mlp(
                hidden_size=thin, intermediate_size=inner, gated=False, bias=True, name=name, up="intermediate.dense",
                down="output.dense",
            )
        )  # fmt: skip
        norms += parts.norm(joined(name, "output.LayerNorm"), thin, bias=True)
    if narrow:
        norms += dense("output.bottleneck", hidden, thin) + dense("bottleneck.input", thin, hidden)
        if cfg.flag("key_query_shared_bottleneck", True):
            norms += dense("bottleneck.attention", thin, hidden)
    vocab = cfg.vocab_size
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(Layer((attention, *perceptrons), norms),) * cfg.num_layers,
        tensors=(
            *parts.embedding("embeddings.word_embeddings", vocab, width),
            *parts.embedding(
                "embeddings.position_embeddings", cfg.integer("max_position_embeddings"), hidden, slot="position"
            ),
            *parts.embedding("embeddings.token_type_embeddings", cfg.integer("type_vocab_size"), hidden, slot="type"),
            *parts.linear(
                "embeddings.embedding_transformation", hidden, width * (3 if cfg.flag("trigram_input", True) else 1),
                bias=True, role="embedding",
            ),
            *parts.norm("embeddings.LayerNorm", hidden, bias=True),
            *(
                parts.linear("pooler.dense", hidden, hidden, bias=True, role="head")
                if pooler and cfg.flag("classifier_activation")
                else ()
            ),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "encoder.layer"),
        vocab_size=vocab,
        max_positions=cfg.integer("max_position_embeddings"),
    )  # fmt: skip


# -- entities, tables, pages, and no attention at all ----------------------------------------------------------


def _luke_head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
    width, entities = cfg.integer("entity_emb_size"), cfg.integer("entity_vocab_size")
    words = roberta_head(cfg, hidden, vocab)
    matrix, bias = words.untied
    tensors = (
        *words.tensors,
        matrix,
        *parts.parameter("entity_predictions.bias", entities, role="head"),
        *linear("entity_predictions.transform.dense", width, hidden),
        *parts.norm("entity_predictions.transform.LayerNorm", width, bias=True),
    )
    decoder = linear("entity_predictions.decoder", entities, width, bias=False)
    return LanguageHead(tensors, (bias, *decoder), ("entity_predictions.decoder.weight", "lm_head.decoder.bias"))


@tower("luke", base="luke", heads=text_heads(language=_luke_head, pooled=(*POOLED, "MaskedLM")))
def luke(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """LUKE [8]_: RoBERTa that reads words and entities, with queries for each pair of the two kinds."""
    hidden, width = cfg.hidden_size, cfg.integer("entity_emb_size")
    module = "entity_embeddings"
    entities: Tensors = parts.embedding(
        f"{module}.entity_embeddings", cfg.integer("entity_vocab_size"), width, slot="entity"
    )
    if width != hidden:
        entities += parts.linear(f"{module}.entity_embedding_dense", hidden, width, role="embedding")
    entities += parts.embedding(
        f"{module}.position_embeddings", cfg.integer("max_position_embeddings"), hidden, slot="position"
    )
    entities += parts.embedding(f"{module}.token_type_embeddings", cfg.integer("type_vocab_size"), hidden, slot="type")
    entities += parts.norm(f"{module}.LayerNorm", hidden, bias=True)
    queries: Tensors = ()
    if cfg.flag("use_entity_aware_attention", True):
        for pair in ("w2e", "e2w", "e2e"):
            queries += parts.linear(
                f"attention.self.{pair}_query", hidden, hidden, bias=True, role="attention", slot="q"
            )
    return bert_model(
        cfg, prefix, pooler=dense_pooler(pooler), embeddings=entities, attention_extra=queries, reserved_positions=2
    )


def _cells(cfg: Config, labels: int, hidden: int) -> Tensors:
    aggregations = cfg.integer("num_aggregation_labels", 0, least=0)
    return (
        *parts.parameter("output_weights", hidden, role="head"),
        *parts.parameter("column_output_weights", hidden, role="head"),
        *parts.parameter("output_bias", role="head"),
        *parts.parameter("column_output_bias", role="head"),
        *(linear("aggregation_classifier", aggregations, hidden) if aggregations else ()),
    )


@tower("tapas", base="tapas", heads=text_heads(language=bert_head, spans=_cells, pooled=(*POOLED, "QuestionAnswering")))
def tapas(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """TAPAS [9]_: BERT with embeddings of rows, columns and ranks of a table's cells."""
    kinds = [
        tensor
        for index, count in enumerate(cfg.integers("type_vocab_sizes"))
        for tensor in parts.embedding(f"embeddings.token_type_embeddings_{index}", count, cfg.hidden_size, slot="type")
    ]
    return bert_model(cfg, prefix, pooler=dense_pooler(pooler), causal=causal, types=False, embeddings=tuple(kinds))


def _page_spans(cfg: Config, labels: int, hidden: int) -> Tensors:
    return (*linear("qa_outputs.dense", hidden, hidden), *linear("qa_outputs.out_proj", labels, hidden))


def _page_tagger(cfg: Config, labels: int, hidden: int) -> Tensors:
    # transformers takes one layer for fewer than ten labels, two for more
    return (plain_classifier if labels < 10 else dense_classifier)(cfg, labels, hidden)


@tower(
    "layoutlmv3",
    base="layoutlmv3",
    heads=text_heads(language=None, classifier=dense_classifier, tagger=_page_tagger, spans=_page_spans),
)
def layoutlmv3(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """LayoutLMv3 [10]_: one encoder for the words of a page, their places, and patches of its image."""
    hidden, heads = cfg.hidden_size, cfg.num_heads
    rows = cfg.integer("max_2d_position_embeddings")
    places = [
        tensor
        for axis in "xyhw"
        for tensor in parts.embedding(
            f"embeddings.{axis}_position_embeddings", rows,
            cfg.integer("coordinate_size" if axis in "xy" else "shape_size"), slot="position",
        )
    ]  # fmt: skip
    rest: Tensors = ()
    if cfg.flag("visual_embed", True):
        patch, size = cfg.integer("patch_size"), cfg.integer("input_size")
        rest += parts.parameter("cls_token", 1, 1, hidden, role="embedding")
        rest += parts.parameter("pos_embed", 1, (size // patch) ** 2 + 1, hidden, role="embedding", slot="position")
        rest += parts.conv("patch_embed.proj", hidden, cfg.integer("num_channels"), patch, patch, role="embedding")
        rest += parts.norm("LayerNorm", hidden, bias=True) + parts.norm("norm", hidden, bias=True)
    if cfg.flag("has_relative_attention_bias", True):
        rest += parts.linear("encoder.rel_pos_bias", heads, cfg.integer("rel_pos_bins"), role="attention")
    if cfg.flag("has_spatial_attention_bias", True):
        for axis in "xy":
            rest += parts.linear(
                f"encoder.rel_pos_{axis}_bias", heads, cfg.integer("rel_2d_pos_bins"), role="attention"
            )
    return bert_model(
        cfg, prefix, attention=bert_attention(cfg), embeddings=tuple(places), extra=rest, reserved_positions=2
    )


@tower("fnet", base="fnet", heads=text_heads(always_pooled=True))
def fnet(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """FNet [11]_: a Fourier transform in place of attention."""
    hidden, vocab = cfg.hidden_size, cfg.vocab_size
    feed_forward = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("intermediate_size"), gated=False, bias=True, name="",
        up="intermediate.dense", down="output.dense",
    )  # fmt: skip
    norms = (
        *parts.norm("fourier.output.LayerNorm", hidden, bias=True),
        *parts.norm("output.LayerNorm", hidden, bias=True),
    )
    return Component(
        kind="encoder",
        name="encoder",
        hidden_size=hidden,
        layers=(Layer((feed_forward,), norms),) * cfg.num_layers,
        tensors=(
            *parts.embedding("embeddings.word_embeddings", vocab, hidden),
            *parts.embedding(
                "embeddings.position_embeddings", cfg.integer("max_position_embeddings"), hidden, slot="position"
            ),
            *parts.embedding("embeddings.token_type_embeddings", cfg.integer("type_vocab_size"), hidden, slot="type"),
            *parts.norm("embeddings.LayerNorm", hidden, bias=True),
            *parts.linear("embeddings.projection", hidden, hidden, bias=True, role="embedding"),
            *(parts.linear("pooler.dense", hidden, hidden, bias=True, role="head") if pooler else ()),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "encoder.layer"),
        vocab_size=vocab,
        max_positions=cfg.integer("max_position_embeddings"),
    )
