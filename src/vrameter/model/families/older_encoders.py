"""Text encoders of their own shape: XLM [1]_ and FlauBERT, Funnel [2]_, Reformer [3]_.

References
----------
.. [1] G. Lample, A. Conneau, "Cross-lingual Language Model Pretraining", 2019, arXiv:1901.07291.
.. [2] Z. Dai et al., "Funnel-Transformer", 2020, arXiv:2006.03236.
.. [3] N. Kitaev et al., "Reformer", 2020, arXiv:2001.04451.
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Layer, Scope, Tensor, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.bert import even_heads
from vrameter.model.families.encoder_heads import linear, task_of
from vrameter.model.families.registry import ENTRIES, Built, Components, num_labels, stack, tower


def _head(hidden: int, tensors: Tensors) -> Component:
    return Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)


# -- XLM: parts of a layer in lists of their own ---------------------------------------------------------------------


def _summary(cfg: Config, outputs: int) -> Tensors:
    """Return what a summary of the sequence is projected with."""
    if not cfg.flag("summary_use_proj", True):
        return ()
    width = outputs if cfg.flag("summary_proj_to_labels", True) else cfg.hidden_size
    return linear("sequence_summary.summary", width, cfg.hidden_size)


def _xlm_heads(cfg: Config, class_name: str) -> Built:
    task, hidden = task_of(class_name), cfg.hidden_size
    body = xlm(cfg, "" if task == "Model" else ENTRIES[cfg.model_type].base)
    tensors: Tensors = ()
    tied: tuple[str, ...] = ()
    if task == "LMHeadModel" and not cfg.flag("asm"):
        tensors = parts.lm_head(cfg.vocab_size, hidden, name="pred_layer.proj", bias=True)
        if cfg.tied:
            tensors, tied = tensors[1:], ("pred_layer.proj.weight",)
    elif task == "SequenceClassification":
        tensors = _summary(cfg, num_labels(cfg))
    elif task == "MultipleChoice":
        tensors = (*_summary(cfg, num_labels(cfg)), *linear("logits_proj", 1, num_labels(cfg)))
    elif task == "TokenClassification":
        tensors = linear("classifier", num_labels(cfg), hidden)
    elif task == "QuestionAnsweringSimple":
        tensors = linear("qa_outputs", num_labels(cfg), hidden)
    return Built((*body, _head(hidden, tensors)), tied=tied)


@tower("xlm", "flaubert", base="transformer", heads=_xlm_heads)
def xlm(cfg: Config, prefix: str) -> Components:
    """XLM [1]_, FlauBERT: attentions in one list, perceptrons in another, norms in two more."""
    hidden, count = cfg.hidden_size, cfg.num_layers
    heads, _ = even_heads(cfg)
    languages = cfg.integer("n_langs", 1)
    attention = parts.attention(
        hidden_size=hidden,
        num_heads=heads,
        name="",
        q="q_lin",
        k="k_lin",
        v="v_lin",
        o="out_lin",
        bias=True,
        scope="encoder",
    )
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=4 * hidden, gated=False, bias=True, name="", up="lin1", down="lin2"
    )
    tables = (
        *parts.embedding("embeddings", cfg.vocab_size, hidden),
        *parts.embedding("position_embeddings", cfg.integer("max_position_embeddings"), hidden, slot="position"),
        *(parts.embedding("lang_embeddings", languages, hidden, slot="type") if languages > 1 and cfg.flag("use_lang_emb", True) else ()),
        *parts.norm("layer_norm_emb", hidden, bias=True),
    )  # fmt: skip
    norms = [
        tensor for index in range(count) for name in ("layer_norm1", "layer_norm2")
        for tensor in parts.norm(f"{name}.{index}", hidden, bias=True)
    ]  # fmt: skip
    return (
        Component(
            kind="encoder", name="encoder", hidden_size=hidden, layers=(Layer((attention,)),) * count, prefix=prefix,
            tensors=(*tables, *norms), layers_prefix=joined(prefix, "attentions"), vocab_size=cfg.vocab_size,
            max_positions=cfg.integer("max_position_embeddings"),
        ),
        Component(
            kind="encoder", name="perceptrons", hidden_size=hidden, layers=(Layer((feed,)),) * count, prefix=prefix,
            layers_prefix=joined(prefix, "ffns"),
        ),
    )  # fmt: skip


# -- Funnel ----------------------------------------------------------------------------------------------------------

_SHORT = ("SequenceClassification", "MultipleChoice")  # classes that read the shortened sequence: no decoder


def _funnel_layer(cfg: Config) -> Layer:
    hidden, heads, dim = cfg.hidden_size, cfg.num_heads, cfg.integer("d_head")
    biases = [
        tensor
        for name in ("r_w_bias", "r_r_bias", "r_s_bias")
        for tensor in parts.parameter(f"attention.{name}", heads, dim, role="attention")
    ]
    attention = parts.attention(
        hidden_size=hidden, num_heads=heads, head_dim=dim, name="attention", q="q_head", k="k_head", v="v_head", o="post_proj",
        bias=True, q_bias=False, scope="encoder",
        extra=(
            *biases,
            *parts.parameter("attention.r_kernel", hidden, heads, dim, role="attention"),
            *parts.parameter("attention.seg_embed", 2, heads, dim, role="attention"),
        ),
    )  # fmt: skip
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("d_inner"), gated=False, bias=True, name="ffn", up="linear_1",
        down="linear_2",
    )  # fmt: skip
    norms = (*parts.norm("attention.layer_norm", hidden, bias=True), *parts.norm("ffn.layer_norm", hidden, bias=True))
    return Layer((attention, feed), norms)


def _funnel_heads(cfg: Config, class_name: str) -> Built:
    task, hidden = task_of(class_name), cfg.hidden_size
    prefix = "" if task == "Model" else "funnel"
    body = funnel(cfg, prefix)
    if task not in _SHORT and not class_name.endswith("BaseModel"):
        body += (
            Component(
                kind="encoder", name="decoder", hidden_size=hidden, prefix=prefix,
                layers=(_funnel_layer(cfg),) * cfg.layers("num_decoder_layers"), layers_prefix=joined(prefix, "decoder.layers"),
            ),
        )  # fmt: skip
    tensors: Tensors = ()
    tied: tuple[str, ...] = ()
    if task == "MaskedLM":
        tensors = parts.lm_head(cfg.vocab_size, hidden, bias=True)
        if cfg.tied:
            tensors, tied = tensors[1:], ("lm_head.weight",)
    elif task in _SHORT:
        labels = num_labels(cfg) if task == "SequenceClassification" else 1
        tensors = (
            *linear("classifier.linear_hidden", hidden, hidden),
            *linear("classifier.linear_out", labels, hidden),
        )
    elif task == "TokenClassification":
        tensors = linear("classifier", num_labels(cfg), hidden)
    elif task == "QuestionAnswering":
        tensors = linear("qa_outputs", num_labels(cfg), hidden)
    elif task == "PreTraining":
        name = "discriminator_predictions"
        tensors = (*linear(f"{name}.dense", hidden, hidden), *linear(f"{name}.dense_prediction", 1, hidden))
    return Built((*body, _head(hidden, tensors)), tied=tied)


@tower("funnel", base="funnel", heads=_funnel_heads)
def funnel(cfg: Config, prefix: str) -> Components:
    """Funnel's encoder [2]_: blocks of layers, each reading half the positions of the one before."""
    hidden, layer = cfg.hidden_size, _funnel_layer(cfg)
    tables = (
        *parts.embedding("embeddings.word_embeddings", cfg.vocab_size, hidden),
        *parts.norm("embeddings.layer_norm", hidden, bias=True),
    )
    return tuple(
        Component(
            kind="encoder", name="encoder", hidden_size=hidden, layers=(layer,) * size, tensors=() if index else tables,
            prefix=prefix, layers_prefix=joined(prefix, f"encoder.blocks.{index}"), vocab_size=0 if index else cfg.vocab_size,
        )
        for index, size in enumerate(cfg.integers("block_sizes", least=1))
    )  # fmt: skip


# -- Reformer --------------------------------------------------------------------------------------------------------


def _reformer_heads(cfg: Config, class_name: str) -> Built:
    task, hidden = task_of(class_name), cfg.hidden_size
    task = "LMHead" if class_name.endswith("LMHead") else task
    body = reformer(cfg, "" if task == "Model" else "reformer")
    tensors: Tensors = ()
    if task in ("MaskedLM", "LMHead"):
        tensors = (
            *parts.parameter("lm_head.bias", cfg.vocab_size, role="head"),
            *parts.lm_head(cfg.vocab_size, 2 * hidden, name="lm_head.decoder"),
        )
    elif task == "SequenceClassification":
        tensors = (
            *linear("classifier.dense", hidden, 2 * hidden),
            *linear("classifier.out_proj", num_labels(cfg), hidden),
        )
    elif task == "QuestionAnswering":
        tensors = linear("qa_outputs", num_labels(cfg), 2 * hidden)
    return Built((body, _head(hidden, tensors)))


@tower("reformer", base="reformer", heads=_reformer_heads)
def reformer(cfg: Config, prefix: str) -> Component:
    """Reformer [3]_: reversible layers; half attend within a chunk, half among tokens of a hash with one matrix for both sides."""
    hidden, heads, dim = cfg.hidden_size, cfg.num_heads, cfg.integer("attention_head_size")
    scope: Scope = "full" if cfg.flag("is_decoder") else "encoder"
    name = "attention.self_attention"
    feed = parts.mlp(
        hidden_size=hidden, intermediate_size=cfg.integer("feed_forward_size"), gated=False, bias=True, name="feed_forward",
        up="dense.dense", down="output.dense",
    )  # fmt: skip
    norms = (
        *parts.norm("attention.layer_norm", hidden, bias=True),
        *parts.norm("feed_forward.layer_norm", hidden, bias=True),
    )

    def layer(kind: str) -> Layer:
        slots = ("query_key", "value") if kind == "lsh" else ("query", "key", "value")
        tensors = [
            tensor
            for slot in slots
            for tensor in parts.linear(f"{name}.{slot}", heads * dim, hidden, role="attention", slot=slot[0])
        ]
        out = parts.linear("attention.output.dense", hidden, heads * dim, role="attention", slot="o")
        return Layer((Attention((*tensors, *out), heads, heads, dim, dim, scope=scope), feed), norms)

    kinds = cfg.sequence("attn_layers", ())
    kinds = kinds[: cfg.layers("num_hidden_layers", len(kinds))]
    for kind in kinds:
        if kind not in ("local", "lsh"):
            raise cfg.fail("attn_layers", "'%(value)s' is not a kind of layer known here.", value=kind)
    table, rows = "embeddings.position_embeddings", cfg.integer("max_position_embeddings")
    if cfg.flag("axial_pos_embds"):
        shape, widths = cfg.integers("axial_pos_shape"), cfg.integers("axial_pos_embds_dim")
        positions: Tensors = tuple(
            Tensor(
                f"{table}.weights.{axis}", (*(size if place == axis else 1 for place, size in enumerate(shape)), width),
                "embedding", "position",
            )
            for axis, width in enumerate(widths)
        )  # fmt: skip
    else:
        positions = parts.embedding(f"{table}.embedding", rows, hidden, slot="position")
    return Component(
        kind="decoder" if scope == "full" else "encoder",
        name="encoder",
        hidden_size=hidden,
        layers=stack(list(kinds), layer),
        tensors=(
            *parts.embedding("embeddings.word_embeddings", cfg.vocab_size, hidden),
            *positions,
            *parts.norm("encoder.layer_norm", 2 * hidden, bias=True),
        ),
        prefix=prefix,
        layers_prefix=joined(prefix, "encoder.layers"),
        vocab_size=cfg.vocab_size,
        max_positions=rows,
    )
