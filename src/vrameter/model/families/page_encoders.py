"""Encoders that read characters or pages with BERT's layers: CANINE, LiLT, BROS; and a filter of private data.

Shapes follow the classes of transformers 5.23.

References
----------
.. [1] J. Clark et al., "CANINE", 2021, arXiv:2103.06874 (characters hashed, sixteen times fewer positions in the middle).
.. [2] J. Wang et al., "LiLT", 2022, arXiv:2202.13669 (a narrow stream for the layout beside that for the text).
.. [3] T. Hong et al., "BROS", 2021, arXiv:2108.04539.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, Layer, Tensors
from vrameter.model.config import Config
from vrameter.model.families.bert import bert_model, dense_pooler
from vrameter.model.families.encoder_heads import dense_classifier, linear, task_of, text_heads
from vrameter.model.families.mixtral import gpt_oss
from vrameter.model.families.registry import Built, num_labels, tower

# What CANINE takes four characters to one position with, where a config is silent. [transformers 5.23]
DOWNSAMPLING = 4


@tower(
    "canine",
    base="canine",
    heads=text_heads(
        language=None,
        pooled=("Model", "SequenceClassification", "MultipleChoice", "TokenClassification", "QuestionAnswering"),
    ),
)
def canine(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """CANINE [1]_: one layer on characters before and after those on molecules of four."""
    hidden = cfg.hidden_size
    hashes, buckets = cfg.integer("num_hash_functions", most=1024), cfg.integer("num_hash_buckets")
    body = bert_model(cfg.over(vocab_size=1), prefix, pooler=dense_pooler(pooler), types=False, positions=False)
    layer = body.layers[0]
    name = "char_embeddings"
    kept = tuple(tensor for tensor in body.tensors if not tensor.name.startswith("embeddings."))
    down, up = cfg.integer("downsampling_rate", DOWNSAMPLING), cfg.integer("upsampling_kernel_size")
    tensors = (
        *(
            tensor
            for index in range(hashes)
            for tensor in parts.embedding(f"{name}.HashBucketCodepointEmbedder_{index}", buckets, hidden // hashes)
        ),
        *parts.embedding(f"{name}.char_position_embeddings", buckets, hidden, slot="position"),
        *parts.embedding(f"{name}.token_type_embeddings", cfg.integer("type_vocab_size"), hidden, slot="type"),
        *parts.norm(f"{name}.LayerNorm", hidden, bias=True),
        *parts.below("initial_char_encoder.layer.0", layer.all_tensors),
        *parts.conv("chars_to_molecules.conv", hidden, hidden, down),
        *parts.norm("chars_to_molecules.LayerNorm", hidden, bias=True),
        *parts.conv("projection.conv", hidden, 2 * hidden, up),
        *parts.norm("projection.LayerNorm", hidden, bias=True),
        *parts.below("final_char_encoder.layer.0", layer.all_tensors),
    )
    return replace(body, tensors=(*tensors, *kept), vocab_size=0)


@tower("lilt", base="lilt", heads=text_heads(language=None, classifier=dense_classifier, pooled=("Model",)))
def lilt(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """LiLT [2]_: RoBERTa, and layers a few times narrower for the boxes of words."""
    hidden, shrink = cfg.hidden_size, cfg.integer("channel_shrink_ratio")
    narrow, sixth = hidden // shrink, hidden // 6
    if not narrow or not sixth:
        raise cfg.fail("hidden_size", "%(value)s is not at least %(least)s.", value=hidden, least=max(6, shrink))
    rows, inner = cfg.integer("max_2d_position_embeddings"), cfg.integer("intermediate_size") // shrink
    layout: Tensors = (
        *(
            tensor
            for axis in "xyhw"
            for tensor in parts.embedding(f"layout_embeddings.{axis}_position_embeddings", rows, sixth, slot="position")
        ),
        *parts.embedding(
            "layout_embeddings.box_position_embeddings", cfg.integer("max_position_embeddings"), narrow, slot="position"
        ),
        *linear("layout_embeddings.box_linear_embeddings", narrow, 6 * sixth),
        *parts.norm("layout_embeddings.LayerNorm", narrow, bias=True),
    )
    beside = (
        *(
            tensor
            for which in ("query", "key", "value")
            for tensor in parts.linear(f"attention.self.layout_{which}", narrow, narrow, bias=True, role="attention")
        ),
        *parts.linear("attention.layout_output.dense", narrow, narrow, bias=True, role="attention"),
        *parts.norm("attention.layout_output.LayerNorm", narrow, bias=True),
        *parts.linear("layout_intermediate.dense", inner, narrow, bias=True, role="mlp"),
        *parts.linear("layout_output.dense", narrow, inner, bias=True, role="mlp"),
        *parts.norm("layout_output.LayerNorm", narrow, bias=True),
    )
    return bert_model(cfg, prefix, pooler=dense_pooler(pooler), extra=layout, layer_extra=beside)


@tower("bros", base="bros", heads=text_heads(language=None, pooled=("Model", "TokenClassification")))
def bros(cfg: Config, prefix: str, *, pooler: bool = True, causal: bool = False) -> Component:
    """BROS [3]_: BERT, and scores by the relative places of boxes."""
    dim = cfg.integer("dim_bbox_projection", None) or cfg.hidden_size // cfg.num_heads
    wide = cfg.integer("dim_bbox_sinusoid_emb_2d", None) or cfg.hidden_size // 4
    waves = cfg.integer("dim_bbox_sinusoid_emb_1d", None) or wide // cfg.integer("dim_bbox")
    extra = (
        *parts.linear("bbox_embeddings.bbox_projection", dim, wide),
        *parts.buffer("embeddings.position_ids", 1, cfg.integer("max_position_embeddings")),
        *parts.buffer("bbox_embeddings.bbox_sinusoid_emb.x_pos_emb.inv_freq", waves // 2),
        *parts.buffer("bbox_embeddings.bbox_sinusoid_emb.y_pos_emb.inv_freq", waves // 2),
    )
    return bert_model(cfg, prefix, pooler=dense_pooler(pooler), extra=extra)


def _tagger(cfg: Config, class_name: str) -> Built | None:
    """Return the class that marks tokens; None for the body."""
    if task_of(class_name) != "TokenClassification":
        return None
    body = openai_privacy_filter(cfg, "model")
    matrix = linear("score", num_labels(cfg), body.hidden_size)
    return Built((body, Component(kind="head", name="head", hidden_size=body.hidden_size, tensors=matrix)))


@tower("openai_privacy_filter", base="model", heads=_tagger)
def openai_privacy_filter(cfg: Config, prefix: str) -> Component:
    """OpenAI's privacy filter: gpt-oss's layers that look both ways within a window."""
    body = gpt_oss(cfg, prefix)
    layers: dict[int, Layer] = {}
    for layer in body.layers:
        if id(layer) not in layers:
            attention = layer.parts[0]
            assert isinstance(attention, Attention)
            attention = replace(attention, scope="encoder")
            layers[id(layer)] = Layer((attention, *layer.parts[1:]), layer.tensors)
    return replace(body, kind="encoder", name="encoder", layers=tuple(layers[id(layer)] for layer in body.layers))
