"""T5 [1]_ and its line: encoder and decoder with relative position biases, no linear biases, one shared embedding.

References
----------
.. [1] C. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020,
       arXiv:1910.10683.
.. [2] M. Guo et al., "LongT5", 2022, arXiv:2112.07916.
.. [3] W. Fedus et al., "Switch Transformers", 2022, arXiv:2101.03961.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Scope, Tensor, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import linear, task_of
from vrameter.model.families.registry import ENTRIES, Built, num_labels, stack, tower


class Side(NamedTuple):
    """What differs between the encoders and decoders of the line.

    Parameters
    ----------
    biased
        Which layers hold a table of position biases: the first, or all.
    encoder_attention
        Name of the encoder's attention.
    global_tokens
        Whether the encoder's attention has passing global tokens.
    sparse
        Whether some layers have experts.
    """

    biased: str = "first"
    encoder_attention: str = "SelfAttention"
    global_tokens: bool = False
    sparse: bool = False


def _attention(cfg: Config, name: str, *, biased: bool, scope: Scope, extra: Tensors = ()) -> Attention:
    heads = cfg.integer("num_heads")
    table: Tensors = ()
    if biased:
        buckets = cfg.integer("relative_attention_num_buckets")
        table = (Tensor(f"{name}.relative_attention_bias.weight", (buckets, heads), "attention", "position"),)
    return parts.attention(
        hidden_size=cfg.integer("d_model"), num_heads=heads, head_dim=cfg.integer("d_kv"), name=name, q="q", k="k",
        v="v", o="o", extra=(*table, *extra), scope=scope, role="cross_attention" if scope == "cross" else "attention",
    )  # fmt: skip


def _perceptron(cfg: Config, name: str) -> FeedForward:
    gated = cfg.text("feed_forward_proj", "relu").startswith("gated")
    return parts.mlp(
        hidden_size=cfg.integer("d_model"), intermediate_size=cfg.integer("d_ff"), gated=gated,
        name=f"{name}.DenseReluDense", gate="wi_0", up="wi_1" if gated else "wi", down="wo",
    )  # fmt: skip


def _switch(cfg: Config, name: str, sparse: bool) -> FeedForward:
    hidden, inner, count = cfg.integer("d_model"), cfg.integer("d_ff"), cfg.layers("num_experts")
    if not sparse:
        return parts.mlp(
            hidden_size=hidden, intermediate_size=inner, gated=False, name=f"{name}.mlp", up="wi", down="wo"
        )
    tensors = parts.linear(
        f"{name}.mlp.router.classifier", count, hidden, bias=cfg.flag("router_bias"), role="router", slot="router"
    )
    router = tuple(tensor._replace(linear=False) for tensor in tensors)
    experts = [
        tensor
        for index in range(count)
        for tensor in (
            *parts.linear(f"{name}.mlp.experts.expert_{index}.wi", inner, hidden, role="experts", slot="up"),
            *parts.linear(f"{name}.mlp.experts.expert_{index}.wo", hidden, inner, role="experts", slot="down"),
        )
    ]
    return FeedForward((*router, *experts), inner, gated=False, num_experts=count, num_experts_per_token=1)


def _sparse_layers(cfg: Config, count: int, kind: str) -> list[bool]:
    sparse = cfg.integer(f"num_sparse_{kind}_layers", 0, least=0)
    step = cfg.integer(f"{kind}_sparse_step", count // sparse if sparse else count, least=0)
    return [step > 0 and (index % step == 1 or step == 1) for index in range(count)]


def t5_side(cfg: Config, prefix: str, side: Side, *, decoder: bool, shared: Tensors = ()) -> Component:
    """Return the encoder or the decoder; `shared` is the embedding that it counts."""
    hidden = cfg.integer("d_model")
    count = cfg.layers("num_layers")
    if decoder:
        count = cfg.layers("num_decoder_layers", count)
    sparse = [False] * count
    if side.sparse:
        sparse = _sparse_layers(cfg, count, "decoder" if decoder else "encoder")

    def layer(kind: tuple[bool, bool]) -> Layer:
        biased, is_sparse = kind
        name = "layer.0.SelfAttention" if decoder else f"layer.0.{side.encoder_attention}"
        extra: Tensors = ()
        if side.global_tokens and not decoder:
            if biased:
                table = (cfg.integer("relative_attention_num_buckets"), cfg.integer("num_heads"))
                extra += (Tensor(f"{name}.global_relative_attention_bias.weight", table, "attention", "position"),)
            extra += parts.norm(f"{name}.global_input_layer_norm", hidden)
        attentions = [_attention(cfg, name, biased=biased, scope="full" if decoder else "encoder", extra=extra)]
        if decoder:
            attentions.append(_attention(cfg, "layer.1.EncDecAttention", biased=False, scope="cross"))
        last = f"layer.{len(attentions)}"
        perceptron = _switch(cfg, last, is_sparse) if side.sparse else _perceptron(cfg, last)
        norms = [
            tensor for index in range(len(attentions) + 1) for tensor in parts.norm(f"layer.{index}.layer_norm", hidden)
        ]
        return Layer((*attentions, perceptron), tuple(norms))

    name = "decoder" if decoder else "encoder"
    return Component(
        kind="decoder" if decoder else "encoder",
        name=name,
        hidden_size=hidden,
        layers=stack([(side.biased == "all" or index == 0, sparse[index]) for index in range(count)], layer),
        tensors=(*shared, *parts.norm(f"{name}.final_layer_norm", hidden)),
        prefix=prefix,
        layers_prefix=joined(prefix, f"{name}.block"),
        vocab_size=cfg.vocab_size,
    )


def _shared(cfg: Config) -> Tensors:
    return parts.embedding("shared", cfg.vocab_size, cfg.integer("d_model"))


def t5_heads(
    side: Callable[[Config], Side], *, always_tied: bool = False, copies: bool = False
) -> Callable[[Config, str], Built]:
    """Return the function that builds the classes of the line: both sides or the encoder, and a head.

    With `copies`, an untied model has a table of tokens on each side besides the shared one.
    """

    def heads(cfg: Config, class_name: str) -> Built:
        task, hidden = task_of(class_name), cfg.integer("d_model")
        prefix = ENTRIES[cfg.model_type].base if task in ("SequenceClassification", "TokenClassification") else ""
        tables = _shared(cfg)
        if copies and not cfg.tied:
            for name in ("encoder",) if class_name.endswith("EncoderModel") else ("encoder", "decoder"):
                tables += parts.embedding(f"{name}.embed_tokens", cfg.vocab_size, hidden)
        encoder = t5_side(cfg, prefix, side(cfg), decoder=False, shared=tables)
        if class_name.endswith("EncoderModel"):
            return Built((encoder,))
        tensors: Tensors = ()
        tied: tuple[str, ...] = ()
        bodies: Sequence[Component] = (encoder,)
        if task == "TokenClassification":
            tensors = linear("classifier", num_labels(cfg), hidden)
        else:
            bodies = (encoder, t5_side(cfg, prefix, side(cfg), decoder=True))
        if task == "ConditionalGeneration":
            tensors = parts.lm_head(cfg.vocab_size, hidden)
            if always_tied or cfg.tied:
                tensors, tied = (), ("lm_head.weight",)
        elif task == "QuestionAnswering":
            tensors = linear("qa_outputs", num_labels(cfg), hidden)
        elif task == "SequenceClassification":
            tensors = (
                *linear("classification_head.dense", hidden, hidden),
                *linear("classification_head.out_proj", num_labels(cfg), hidden),
            )
        return Built((*bodies, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)), tied=tied)

    return heads


@tower("t5", base="transformer", heads=t5_heads(lambda cfg: Side()), task="ForConditionalGeneration")
@tower("mt5", base="transformer", heads=t5_heads(lambda cfg: Side()), task="ForConditionalGeneration")
@tower("byt5", base="transformer", heads=t5_heads(lambda cfg: Side()), task="ForConditionalGeneration")
def t5(cfg: Config, prefix: str) -> Component:
    """T5's encoder; the head is its own in checkpoints whose config says so (v1.1, Flan, mT5)."""
    return t5_side(cfg, prefix, Side(), decoder=False, shared=_shared(cfg))


@tower("umt5", base="transformer", heads=t5_heads(lambda cfg: Side(biased="all")), task="ForConditionalGeneration")
def umt5(cfg: Config, prefix: str) -> Component:
    """UMT5's encoder: every layer has its own position biases."""
    return t5_side(cfg, prefix, Side(biased="all"), decoder=False, shared=_shared(cfg))


def _long(cfg: Config) -> Side:
    if cfg.text("encoder_attention_type", "local") == "transient-global":
        return Side(encoder_attention="TransientGlobalSelfAttention", global_tokens=True)
    return Side(encoder_attention="LocalSelfAttention")


@tower("longt5", base="transformer", heads=t5_heads(_long, always_tied=True), task="ForConditionalGeneration")
def longt5(cfg: Config, prefix: str) -> Component:
    """LongT5's encoder [2]_: local attention, with passing global tokens or without."""
    return t5_side(cfg, prefix, _long(cfg), decoder=False, shared=_shared(cfg))


@tower(
    "switch_transformers",
    base="transformer",
    heads=t5_heads(lambda cfg: Side(sparse=True), copies=True),
    task="ForConditionalGeneration",
)
def switch_transformers(cfg: Config, prefix: str) -> Component:
    """Read the Switch Transformer's encoder [3]_: each token goes to one expert in the sparse layers."""
    return t5_side(cfg, prefix, Side(sparse=True), decoder=False, shared=_shared(cfg))


def _pop2piano_heads(cfg: Config, class_name: str) -> Built:
    built = t5_heads(lambda cfg: Side())(cfg.over(tie_word_embeddings=False), class_name)
    *sides, head = built.components
    composers = parts.embedding(
        "mel_conditioner.embedding", cfg.integer("composer_vocab_size"), cfg.integer("d_model"), slot="other"
    )
    return Built((*sides, replace(head, tensors=(*head.tensors, *composers))))


@tower("pop2piano", base="transformer", heads=_pop2piano_heads, task="ForConditionalGeneration")
def pop2piano(cfg: Config, prefix: str) -> Component:
    """Pop2Piano's encoder: T5 on mel columns, told the arranger by an embedding; its head is never tied."""
    return t5_side(cfg, prefix, Side(), decoder=False, shared=_shared(cfg))
