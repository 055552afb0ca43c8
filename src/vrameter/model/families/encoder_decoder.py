"""The shape that fairseq gave encoder-decoders [1]_: two stacks of attention, norm, perceptron, norm.

BART's line differs in where norms stand, in how positions are kept and in which projections have biases; `Style` holds
those. Models that listen or look put their own encoder before the same decoder.

References
----------
.. [1] M. Lewis et al., "BART", 2019, arXiv:1910.13461; Y. Liu et al., "mBART", 2020, arXiv:2001.08210.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vrameter.model import parts
from vrameter.model.architecture import Attention, Component, FeedForward, Layer, Scope, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import linear, task_of
from vrameter.model.families.registry import ENTRIES, Built, num_labels, stack


@dataclass(frozen=True, slots=True)
class Style:
    """What differs within the line.

    Parameters
    ----------
    bias, key_bias
        Whether the projections of attention have biases, and the keys', where they are an exception.
    mlp_bias
        Whether the perceptron has them.
    table
        Whether positions are a stored table, learned or of fixed sines.
    offset
        First rows of that table that stand for no position.
    embedding_norm, final_norm
        Norms after the embeddings and after the last layer; empty where there is none.
    shared
        Whether both stacks look tokens up in one table named ``shared``.
    cross, attention_norm, cross_norm, mlp_norm
        Names within a layer.
    up, down
        Names of the perceptron's matrices.
    projections
        Names of the matrices of queries, keys and values.
    tokens, positions
        Names of the tables.
    """

    bias: bool = True
    key_bias: bool | None = None
    mlp_bias: bool = True
    table: bool = True
    offset: int = 0
    embedding_norm: str = ""
    final_norm: str = ""
    shared: bool = True
    cross: str = "encoder_attn"
    attention_norm: str = "self_attn_layer_norm"
    cross_norm: str = "encoder_attn_layer_norm"
    mlp_norm: str = "final_layer_norm"
    up: str = "fc1"
    down: str = "fc2"
    projections: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj")
    tokens: str = "embed_tokens"
    positions: str = "embed_positions"


def projections(cfg: Config, style: Style, *, name: str, heads: int, scope: Scope, **more: Any) -> Attention:
    """Return one attention of the line: queries, keys, values and ``out_proj``."""
    hidden = cfg.hidden_size
    if hidden % heads:
        raise cfg.fail(
            "hidden_size", "%(value)s is not a multiple of the %(heads)s attention heads.", value=hidden, heads=heads
        )
    q, k, v = style.projections
    return parts.attention(
        hidden_size=hidden, num_heads=heads, name=name, q=q, k=k, v=v, o="out_proj", bias=style.bias, k_bias=style.key_bias, scope=scope,
        role="cross_attention" if scope == "cross" else "attention", **more,
    )  # fmt: skip


def side(
    cfg: Config,
    prefix: str,
    style: Style,
    *,
    decoder: bool,
    embeddings: Tensors = (),
    own_tokens: bool = False,
    positions: int | None = None,
    attention: Attention | None = None,
    perceptron: Callable[[bool], FeedForward] | None = None,
    sparse: Sequence[bool] | None = None,
    cross_tokens: int | None = None,
    cross_size: int | None = None,
    crosses: bool = True,
    layer_tensors: Tensors = (),
    tensors: Tensors = (),
    stack_name: str | None = None,
) -> Component:
    """Return the encoder or the decoder.

    Parameters
    ----------
    embeddings
        Tables that this side counts for both: ``shared``.
    own_tokens
        Whether the side has a table of tokens of its own.
    positions
        Positions of its table; ``max_position_embeddings`` where it is None.
    attention
        Its attention to itself, where it is not the line's.
    perceptron, sparse
        The perceptron of a layer, asked whether the layer is one of the `sparse` ones.
    cross_tokens, cross_size
        Positions of the encoder that are fixed, and its width where that differs.
    crosses
        Whether a decoder looks at an encoder at all.
    layer_tensors, tensors
        Further tensors of each layer, and of the stack.
    stack_name
        Name of the stack, ``encoder`` or ``decoder`` where it is None; may be empty.
    """
    kind = "decoder" if decoder else "encoder"
    name = kind if stack_name is None else stack_name
    hidden = cfg.hidden_size
    heads = cfg.integer(f"{kind}_attention_heads")
    rows = cfg.integer("max_position_embeddings") if positions is None else positions

    def layer(is_sparse: bool) -> Layer:
        first = attention or projections(
            cfg, style, name="self_attn", heads=heads, scope="full" if decoder else "encoder"
        )
        chain: list[Attention | FeedForward] = [first]
        norms = parts.norm(style.attention_norm, hidden, bias=True)
        if decoder and crosses:
            chain.append(
                projections(
                    cfg, style, name=style.cross, heads=heads, scope="cross", cross_tokens=cross_tokens,
                    kv_size=cross_size,
                )
            )  # fmt: skip
            norms += parts.norm(style.cross_norm, hidden, bias=True)
        if perceptron is not None:
            chain.append(perceptron(is_sparse))
        else:
            chain.append(
                parts.mlp(
                    hidden_size=hidden, intermediate_size=cfg.integer(f"{kind}_ffn_dim"), gated=False, bias=style.mlp_bias,
                    name="", up=style.up, down=style.down,
                )
            )  # fmt: skip
        return Layer(tuple(chain), (*norms, *parts.norm(style.mlp_norm, hidden, bias=True), *layer_tensors))

    count = cfg.layers(f"{kind}_layers")
    own: Tensors = parts.embedding(style.tokens, cfg.vocab_size, hidden) if own_tokens else ()
    if style.table:
        own += parts.embedding(style.positions, rows + style.offset, hidden, slot="position")
    for norm in (style.embedding_norm, style.final_norm):
        own += parts.norm(norm, hidden, bias=True) if norm else ()
    own += tensors
    return Component(
        kind="decoder" if decoder else "encoder",
        name=kind,
        hidden_size=hidden,
        layers=stack(sparse or [False] * count, layer),
        tensors=(*embeddings, *(parts.below(name, own) if name else own)),
        prefix=prefix,
        layers_prefix=joined(prefix, joined(name, "layers")),
        vocab_size=cfg.integer("vocab_size", 0, least=0),
        max_positions=rows,
    )


def shared_tokens(cfg: Config, *, tied: bool = True, name: str = "shared", own: str = "embed_tokens") -> Tensors:
    """Return the table of tokens; untied, each side has a copy of its own beside it."""
    names = (name,) if tied else (name, f"encoder.{own}", f"decoder.{own}")
    return tuple(tensor for each in names for tensor in parts.embedding(each, cfg.vocab_size, cfg.hidden_size))


MakeSide = Callable[..., Component]
WholeHeads = Callable[[Config, str], Built]


def language_head(
    cfg: Config, hidden: int, *, name: str = "lm_head", bias: bool = False, bias_buffer: bool = False
) -> Built:
    """Return the matrix to the vocabulary, left out where it is tied, and the fixed bias that may stand beside it."""
    tensors = parts.lm_head(cfg.vocab_size, hidden, name=name, bias=bias)
    tied: tuple[str, ...] = ()
    if cfg.tied:
        tensors, tied = tensors[1:], (f"{name}.weight",)
    if bias_buffer:
        tensors += parts.buffer("final_logits_bias", 1, cfg.vocab_size, role="head")
    return Built((Component(kind="head", name="head", hidden_size=hidden, tensors=tensors),), tied=tied)


def sequence_heads(
    make: MakeSide, *, logits_bias: bool = True, head: str = "lm_head", causal_tied: bool = True, shared: bool = True
) -> WholeHeads:
    """Return the function that builds the classes of an encoder-decoder.

    Parameters
    ----------
    make
        ``make(cfg, prefix, decoder=..., embeddings=..., own_tokens=...)`` returns one side.
    logits_bias
        Whether the class that writes has a fixed bias on its logits, stored as a buffer.
    head
        Name of the matrix to the vocabulary.
    causal_tied
        Whether the head of the decoder alone is tied where the config ties.
    shared
        Whether both sides look tokens up in one table.
    """

    def heads(cfg: Config, class_name: str) -> Built:
        task, hidden = task_of(class_name), cfg.hidden_size
        base = task == "Model"
        prefix = "" if base else ENTRIES[cfg.model_type].base
        if task == "CausalLM":
            alone = make(cfg, prefix, decoder=True, own_tokens=True)
            written = language_head(cfg if causal_tied else cfg.over(tie_word_embeddings=False), hidden, name=head)
            return Built((alone, *written.components), written.tied)
        tables = shared_tokens(cfg, tied=cfg.tied) if shared else ()
        sides = (
            make(cfg, prefix, decoder=False, embeddings=tables),
            make(cfg, prefix, decoder=True, own_tokens=not shared),
        )
        if base:
            return Built(sides)
        tensors: Tensors = ()
        if task == "QuestionAnswering":
            tensors = linear("qa_outputs", 2, hidden)
        elif task == "SequenceClassification":
            tensors = (
                *linear("classification_head.dense", hidden, hidden),
                *linear("classification_head.out_proj", num_labels(cfg), hidden),
            )
        else:
            written = language_head(cfg, hidden, name=head, bias_buffer=logits_bias)
            return Built((*sides, *written.components), tied=written.tied)
        return Built((*sides, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)))

    return heads


__all__ = ["Style", "language_head", "projections", "sequence_heads", "shared_tokens", "side"]
