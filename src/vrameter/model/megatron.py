"""Megatron-LM's own arguments -> Architecture: transformers as ``pretrain_gpt.py`` and its relatives build them.

Matrices bear Megatron's names; the vocabulary is padded as Megatron pads it, to a multiple of
``make-vocab-size-divisible-by`` times the tensor-parallel degree.

References
----------
.. [1] NVIDIA/Megatron-LM, ``megatron/training/arguments.py``, ``megatron/core/models``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model import mixers, parts
from vrameter.model.architecture import (
    Architecture,
    Attention,
    Component,
    FeedForward,
    LatentAttention,
    Layer,
    Recurrent,
    Tensor,
    Tensors,
)
from vrameter.units import ceil_to

# Entries of the tokenizers that a run without a vocabulary size most likely uses. [tokens]
GPT2_VOCAB, BERT_VOCAB = 50257, 28996


# Arguments that are never 0: what is counted by them is there, or something is split by them.
POSITIVE = (
    "decoder-num-layers", "encoder-num-layers", "hidden-size", "kv-channels", "make-vocab-size-divisible-by", "mamba-head-dim",
    "mamba-num-groups", "mamba-state-dim", "num-attention-heads", "num-distributed-optimizer-instances", "num-layers",
    "num-query-groups", "num-virtual-stages-per-pipeline-rank", "patch-dim", "seq-length", "tensor-model-parallel-size",
)  # fmt: skip
MOST, MOST_LAYERS = 2**31, 4096


class Arguments:
    """The arguments of one run, with Megatron's defaults."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = {str(key).strip("-").replace("_", "-"): value for key, value in values.items()}

    def flag(self, name: str) -> bool:
        """Return a switch."""
        value = self.values.get(name, False)
        return value not in (False, None, "false", "False", 0)

    def text(self, name: str, default: str = "") -> str:
        """Return a word."""
        value = self.values.get(name)
        return default if value is None else str(value)

    def number(self, name: str, default: int | None = None) -> int:
        """Return a whole number, from 1 where 0 means nothing."""
        value = self.values.get(name, default)
        try:
            number = int(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = -1
        least = 1 if name in POSITIVE else 0
        most = MOST_LAYERS if "num-layers" in name or "virtual-stages" in name else MOST
        if not least <= number <= most or isinstance(value, bool) or (isinstance(value, float) and value != number):
            raise RequestError(
                tr("model.megatron_args.%(name)s: %(value)s is not a whole number.", name=name, value=repr(value)[:60]),
                field=f"model.megatron_args.{name}",
                hint=tr("Give Megatron's argument, such as %(example)s.", example="32"),
            )
        return number

    def real(self, name: str, default: float) -> float:
        """Return a positive number."""
        value = self.values.get(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = 0.0
        if not 0 < number < 2**40 or isinstance(value, bool):
            raise RequestError(
                tr(
                    "model.megatron_args.%(name)s: %(value)s is not a positive number.",
                    name=name,
                    value=repr(value)[:60],
                ),
                field=f"model.megatron_args.{name}",
                hint=tr("Give Megatron's argument, such as %(example)s.", example="32"),
            )
        return number

    def share(self, name: str) -> float | None:
        """Return a number from 0 to 1; None where it is not said."""
        value = self.values.get(name)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = -1.0
        if not 0 <= number <= 1 or isinstance(value, bool):
            raise RequestError(
                tr(
                    "model.megatron_args.%(name)s: %(value)s is not a number from 0 to 1.",
                    name=name,
                    value=repr(value)[:60],
                ),
                field=f"model.megatron_args.{name}",
                hint=tr("Give Megatron's argument, such as %(example)s.", example="0.1"),
            )
        return number

    def words(self, name: str) -> list[str]:
        """Return a list of words, as the command line or a file writes it."""
        value = self.values.get(name)
        given = value if isinstance(value, list | tuple) else [value] if value is not None else []
        return re.findall(r"[\w.-]+", " ".join(map(str, given)))


def read_megatron(values: Mapping[str, Any], *, name: str = "") -> Architecture:
    """Return the model that Megatron's arguments describe.

    Raises
    ------
    RequestError
        Naming the argument that is missing or no number.
    """
    args = Arguments(values)
    kind = _kind(args)
    tied: tuple[str, ...]
    if kind == "t5":
        components, tied = _t5(args), ("lm_head.weight",)
    elif kind == "bert":
        components, tied = _bert(args), ("lm_head.weight",)
    else:
        components, tied = _gpt(args)
    return Architecture(
        name=name or f"megatron-{kind}",
        model_type=f"megatron_{kind}" + ("_local" if args.text("transformer-impl") == "local" or _local(args) else ""),
        class_name={"gpt": "GPTModel", "t5": "T5Model", "bert": "BertModel"}[kind],
        components=components,
        tied=tied,
        dtype="fp16" if args.flag("fp16") else "bf16" if args.flag("bf16") else "fp32",
    )


def _local(args: Arguments) -> bool:
    return args.text("spec") == "local" or args.text("attention-backend") == "local"


def _kind(args: Arguments) -> str:
    if "encoder-num-layers" in args.values and "decoder-num-layers" in args.values:
        return "t5"
    silent = not any(key in args.values for key in ("transformer-impl", "use-mcore-models", "model-provider", "img-h"))
    if args.flag("bert-no-binary-head") or (silent and args.values.get("max-position-embeddings") == 512):
        return "bert"
    return "gpt"


def padded_vocab(args: Arguments, own: int) -> int:
    """Return the rows of the embedding, padded for tensor parallelism."""
    size = args.number("vocab-size", own)
    return ceil_to(
        size, args.number("make-vocab-size-divisible-by", 128) * args.number("tensor-model-parallel-size", 1)
    )


def _norm(args: Arguments, name: str, width: int) -> Tensors:
    return parts.norm(name, width, bias=args.text("normalization", "LayerNorm") != "RMSNorm")


def _attention(args: Arguments, hidden: int, *, cross: bool = False, name: str = "self_attention") -> Attention:
    heads = args.number("num-attention-heads")
    groups = args.number("num-query-groups", heads) if args.flag("group-query-attention") else heads
    dim = args.number("kv-channels", hidden // heads)
    bias = not args.flag("disable-bias-linear")
    made: Attention
    if cross:
        q = parts.linear(f"{name}.linear_q", heads * dim, hidden, bias=bias, role="cross_attention", slot="q")
        kv = parts.linear(f"{name}.linear_k", groups * dim, hidden, bias=bias, role="cross_attention", slot="k")
        kv += parts.linear(f"{name}.linear_v", groups * dim, hidden, bias=bias, role="cross_attention", slot="v")
        o = parts.linear(f"{name}.linear_proj", hidden, heads * dim, bias=bias, role="cross_attention", slot="o")
        made = Attention(q + kv + o, heads, groups, dim, dim, scope="cross")
    else:
        made = parts.attention(
            hidden_size=hidden, num_heads=heads, num_kv_heads=groups, head_dim=dim, name=name, qkv="linear_qkv", o="linear_proj",
            bias=bias or args.flag("add-qkv-bias"), o_bias=bias, qk_norm=dim if args.flag("qk-layernorm") else None,
            q_norm="q_layernorm", k_norm="k_layernorm", qk_norm_bias=args.text("normalization", "LayerNorm") != "RMSNorm",
        )  # fmt: skip
    return made


def _latent(args: Arguments, hidden: int) -> LatentAttention:
    rank = args.number("q-lora-rank", 0)
    made = parts.latent_attention(
        hidden_size=hidden, num_heads=args.number("num-attention-heads"), q_lora_rank=rank or None,
        kv_lora_rank=args.number("kv-lora-rank", 512), nope_dim=args.number("qk-head-dim", 128),
        rope_dim=args.number("qk-pos-emb-head-dim", 64), value_dim=args.number("v-head-dim", 128), name="self_attention",
    )  # fmt: skip
    if args.flag("qk-layernorm"):
        return made
    return replace(made, tensors=tuple(tensor for tensor in made.tensors if tensor.role != "norm"))


def ffn_size(args: Arguments, hidden: int) -> int:
    """Return the perceptron's width: four times the hidden width, two thirds of that where it is gated."""
    own = int(4 * hidden * 2 / 3 / 64) * 64 if args.flag("swiglu") else 4 * hidden
    return args.number("ffn-hidden-size", own)


def _mlp(args: Arguments, hidden: int) -> FeedForward:
    bias, gated = not args.flag("disable-bias-linear"), args.flag("swiglu")
    width = ffn_size(args, hidden)
    if gated:
        return parts.mlp(
            hidden_size=hidden, intermediate_size=width, bias=bias, gate_up="linear_fc1", down="linear_fc2"
        )
    return parts.mlp(
        hidden_size=hidden, intermediate_size=width, gated=False, bias=bias, up="linear_fc1", down="linear_fc2"
    )


def _experts(args: Arguments, hidden: int) -> FeedForward:
    gated = args.flag("swiglu")
    shared_width = args.number("moe-shared-expert-intermediate-size", 0)
    shared = None
    if shared_width:
        shared = parts.mlp(
            hidden_size=hidden, intermediate_size=shared_width, gated=gated, name="mlp.shared_experts",
            gate_up="linear_fc1" if gated else None, up="linear_fc1", down="linear_fc2",
        )  # fmt: skip
    return parts.experts(
        hidden_size=hidden, intermediate_size=args.number("moe-ffn-hidden-size", ffn_size(args, hidden)),
        num_experts=args.number("num-experts"), num_experts_per_token=args.number("moe-router-topk", 2), router="router",
        balance_bias="router.expert_bias" if args.flag("moe-router-enable-expert-bias") else None, gated=gated,
        gate_up="linear_fc1", up="linear_fc1", down="linear_fc2", shared=shared,
        bias=not args.flag("disable-bias-linear"),
    )  # fmt: skip


def moe_pattern(args: Arguments, layers: int) -> list[bool]:
    """Return which layers are mixtures: every n-th, or a list written as Python writes it."""
    if not args.number("num-experts", 0):
        return [False] * layers
    text = args.text("moe-layer-freq", "1")
    if text.isdecimal():
        every = max(1, int(text[:9]))
        return [index % every == 0 for index in range(layers)]
    found: list[bool] = []
    for digits, times in re.findall(r"\[([01, ]+)\](?:\*(\d+))?", text):
        found += [digit == "1" for digit in re.findall(r"[01]", digits)] * min(layers, int((times or "1")[:9]))
    return (found + [True] * layers)[:layers]


def _embeddings(args: Arguments, hidden: int, vocab: int) -> Tensors:
    tensors = parts.embedding("embedding.word_embeddings", vocab, hidden)
    if args.text("position-embedding-type", "learned_absolute") == "learned_absolute":
        positions = args.number("max-position-embeddings", args.number("seq-length", 1024))
        positions = (
            max(positions, args.number("seq-length", 0) + image_tokens(args)) if image_tokens(args) else positions
        )
        tensors += parts.embedding("embedding.position_embeddings", positions, hidden, slot="position")
    return tensors


def _gpt(args: Arguments) -> tuple[tuple[Component, ...], tuple[str, ...]]:
    hidden = args.number("hidden-size")
    pattern = args.text("hybrid-layer-pattern") or args.text("hybrid-override-pattern")
    layers = _hybrid(args, hidden, pattern) if pattern else _decoder_layers(args, hidden)
    vocab = padded_vocab(args, GPT2_VOCAB)
    decoder = Component(
        kind="decoder", name="decoder", hidden_size=hidden, layers=layers, prefix="", layers_prefix="decoder.layers",
        tensors=_embeddings(args, hidden, vocab) + _norm(args, "decoder.final_layernorm", hidden),
        vocab_size=vocab, max_positions=max(args.number("max-position-embeddings", 0), args.number("seq-length", 0)),
    )  # fmt: skip
    components = [*_vision(args, hidden), decoder]
    if args.number("mtp-num-layers", 0):
        extra = parts.linear("mtp.eh_proj", hidden, 2 * hidden, role="other", slot="mtp")
        extra += (
            _norm(args, "mtp.enorm", hidden)
            + _norm(args, "mtp.hnorm", hidden)
            + _norm(args, "mtp.final_layernorm", hidden)
        )
        components.append(
            Component(
                kind="mtp",
                name="mtp",
                hidden_size=hidden,
                layers=layers[-1:],
                tensors=extra,
                layers_prefix="mtp.layers",
            )
        )
    if not args.flag("untie-embeddings-and-output-weights"):
        return tuple(components), ("output_layer.weight",)
    head = Component(
        kind="head", name="head", hidden_size=hidden, tensors=parts.lm_head(vocab, hidden, name="output_layer")
    )
    return (*components, head), ()


def image_tokens(args: Arguments) -> int:
    """Return the patches of an image, with the class token where there is one; 0 without images."""
    if "img-h" not in args.values:
        return 0
    patch = args.number("patch-dim", 14)
    patches = (args.number("img-h") // patch) * (args.number("img-w", args.number("img-h")) // patch)
    return patches + (not args.flag("disable-vision-class-token"))


def _vision(args: Arguments, hidden: int) -> list[Component]:
    """Return the tower of ``pretrain_vlm.py``, whose layers are like the language model's, and its projector."""
    tokens = image_tokens(args)
    if not tokens:
        return []
    patch = args.number("patch-dim", 14)
    layer = _decoder_layers(args, hidden)[0]
    encoding = Layer(tuple(replace(part, scope="encoder") if isinstance(part, Attention) else part for part in layer.parts),
                     layer.tensors)  # fmt: skip
    tower = Component(
        kind="encoder", name="vision", hidden_size=hidden, layers=(encoding,) * args.number("num-layers"),
        layers_prefix="vision_model.decoder.layers",
        tensors=(
            *parts.conv("vision_model.conv1", hidden, 3, patch, patch, bias=False),
            *parts.embedding("vision_model.position_embeddings", tokens, hidden, slot="position"),
            *parts.norm("vision_model.ln_pre", hidden, bias=True),
        ),
    )  # fmt: skip
    projector = Component(
        kind="other", name="projector", hidden_size=hidden,
        tensors=(
            *parts.linear("vision_projection.encoder.linear_fc1", 4 * hidden, hidden, bias=True, role="projector", slot="up"),
            *parts.linear("vision_projection.encoder.linear_fc2", hidden, 4 * hidden, bias=True, role="projector", slot="down"),
        ),
    )  # fmt: skip
    return [tower, projector]


def _decoder_layers(args: Arguments, hidden: int) -> tuple[Layer, ...]:
    count = args.number("num-layers")
    norms = _norm(args, "input_layernorm", hidden) + _norm(args, "pre_mlp_layernorm", hidden)
    mixer = _latent(args, hidden) if args.flag("multi-latent-attention") else _attention(args, hidden)
    dense = Layer((mixer, _mlp(args, hidden)), norms)
    mixed = Layer((mixer, _experts(args, hidden)), norms) if args.number("num-experts", 0) else dense
    return tuple(mixed if sparse else dense for sparse in moe_pattern(args, count))


def _hybrid(args: Arguments, hidden: int, pattern: str) -> tuple[Layer, ...]:
    """Return the layers of a hybrid: M a Mamba mixer, * attention, - a perceptron, E experts."""
    state, groups = args.number("mamba-state-dim", 128), args.number("mamba-num-groups", 8)
    head = args.number("mamba-head-dim", 64)
    heads = args.number("mamba-num-heads", 0)
    inner = heads * head if heads else 2 * hidden
    if inner % head:
        raise RequestError(
            tr("model.megatron_args.%(name)s: %(value)s does not divide the mixer's %(width)s channels.",
               name="mamba-head-dim", value=head, width=inner),
            field="model.megatron_args.mamba-head-dim",
            hint=tr("Give Megatron's argument, such as %(example)s.", example="64"),
        )  # fmt: skip
    mixer: Recurrent = mixers.mamba2(
        hidden_size=hidden, inner_size=inner, state_size=state, num_heads=inner // head, num_groups=groups, conv_kernel=4, name="mixer",
    )  # fmt: skip
    norm = _norm(args, "norm", hidden)
    kinds = {
        "M": Layer((mixer,), norm),
        "*": Layer((_attention(args, hidden),), norm),
        "-": Layer((_mlp(args, hidden),), norm),
    }
    if "E" in pattern:
        kinds["E"] = Layer((_experts(args, hidden),), norm)
    return tuple(kinds[letter] for letter in pattern if letter in kinds)


def _bert(args: Arguments) -> tuple[Component, ...]:
    hidden = args.number("hidden-size")
    vocab = padded_vocab(args, 30522)
    norms = _norm(args, "input_layernorm", hidden) + _norm(args, "pre_mlp_layernorm", hidden)
    layer = Layer((replace(_attention(args, hidden), scope="encoder"), _mlp(args, hidden)), norms)
    binary = not args.flag("bert-no-binary-head")
    tensors = _embeddings(args, hidden, vocab)
    if binary:
        tensors += parts.embedding("embedding.tokentype_embeddings", 2, hidden, slot="type")
    body = Component(
        kind="encoder", name="encoder", hidden_size=hidden, layers=(layer,) * args.number("num-layers"), layers_prefix="encoder.layers",
        tensors=tensors + _norm(args, "encoder.final_layernorm", hidden), vocab_size=vocab,
        max_positions=args.number("max-position-embeddings", 512),
    )  # fmt: skip
    head: Tensors = (
        *parts.linear("lm_head.dense", hidden, hidden, bias=True, role="head"),
        *parts.norm("lm_head.layer_norm", hidden, bias=True),
        Tensor("output_layer.bias", (vocab,), "head"),
    )
    if binary:
        head += parts.linear("pooler.dense", hidden, hidden, bias=True, role="head")
        head += parts.linear("binary_head", 2, hidden, bias=True, role="head")
    return body, Component(kind="head", name="head", hidden_size=hidden, tensors=head)


def _t5(args: Arguments) -> tuple[Component, ...]:
    hidden = args.number("hidden-size")
    vocab = padded_vocab(args, BERT_VOCAB)
    norms = _norm(args, "input_layernorm", hidden) + _norm(args, "pre_mlp_layernorm", hidden)
    attention = _attention(args, hidden)
    encoding = Layer((replace(attention, scope="encoder"), _mlp(args, hidden)), norms)
    cross = _attention(args, hidden, cross=True, name="cross_attention")
    decoding = Layer((attention, cross, _mlp(args, hidden)), (*norms[: len(norms) // 2],
                     *_norm(args, "pre_cross_attn_layernorm", hidden), *norms[len(norms) // 2 :]))  # fmt: skip
    encoder = Component(
        kind="encoder", name="encoder", hidden_size=hidden, layers=(encoding,) * args.number("encoder-num-layers"),
        tensors=_embeddings(args, hidden, vocab) + _norm(args, "encoder.final_layernorm", hidden), layers_prefix="encoder.layers",
        max_positions=args.number("max-position-embeddings", 512),
    )  # fmt: skip
    decoder = Component(
        kind="decoder", name="decoder", hidden_size=hidden, layers=(decoding,) * args.number("decoder-num-layers"),
        tensors=_norm(args, "decoder.final_layernorm", hidden), layers_prefix="decoder.layers", vocab_size=vocab,
        max_positions=args.number("max-position-embeddings", 512),
    )  # fmt: skip
    head = Component(
        kind="head", name="head", hidden_size=hidden, tensors=(Tensor("lm_head.output_layer.bias", (vocab,), "head"),)
    )
    return encoder, decoder, head


__all__ = ["Arguments", "image_tokens", "padded_vocab", "read_megatron"]
