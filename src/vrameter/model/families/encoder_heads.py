"""Heads of text encoders: masked language model, classifier, tagger, span finder.

The libraries that brought the encoders named the same few heads differently. A family picks the shapes it has;
which class gets which follows from the end of the class name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vrameter.model import parts
from vrameter.model.architecture import Component, Tensors
from vrameter.model.families.registry import ENTRIES, Built, Config, num_labels

Heads = Callable[[Config, str], Built | None]

# classes whose base model keeps its pooler, where the family has one
POOLED = ("Model", "SequenceClassification", "MultipleChoice", "NextSentencePrediction", "PreTraining")
# classes that predict the next token
CAUSAL = ("CausalLM", "LMHeadModel", "Decoder")


class LanguageHead(NamedTuple):
    """Tensors of a language-modelling head, those that are left out when it is tied, and the names tied then."""

    tensors: Tensors
    untied: Tensors
    tied: tuple[str, ...]


def is_bare(class_name: str) -> bool:
    """Say whether a class is a model without a head; where there is no class, a model is whole."""
    return class_name.endswith(("Model", "Encoder"))


LanguageHeads = Callable[[Config, int, int], LanguageHead]


def task_of(class_name: str) -> str:
    """Return what a class is for: the end of its name after ``For``, or ``Model``."""
    _before, found, after = class_name.rpartition("For")
    if found and after:
        return after
    for ending in ("LMHeadModel", "Decoder", "MTModel"):
        if class_name.endswith(ending):
            return ending
    return "Model"


def linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> Tensors:
    """Return one linear layer of a head."""
    return parts.linear(name, outputs, inputs, bias=bias, role="head")


def transform_head(
    name: str, *, dense: str = "transform.dense", norm: str = "transform.LayerNorm", width: str = "", bias_name: str = "bias",
    decoder: str = "decoder", both_biases: bool = True,
) -> LanguageHeads:  # fmt: skip
    """Return BERT's kind of head: a dense layer, a norm, and the embedding again with a bias of its own.

    Parameters
    ----------
    width
        Field that holds the width of the embeddings where it is not the hidden one.
    both_biases
        Whether the matrix has a bias besides, tied to the head's own.
    """

    def head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
        inner = cfg.integer(width, hidden) if width else hidden
        module = f"{name}." if name else ""
        tensors = (
            *(parts.parameter(f"{module}{bias_name}", vocab, role="head") if bias_name else ()),
            *linear(f"{module}{dense}", inner, hidden),
            *parts.norm(f"{module}{norm}", inner, bias=True),
        )
        matrix = parts.lm_head(vocab, inner, name=f"{module}{decoder}", bias=both_biases)
        return LanguageHead(tensors, matrix, tuple(tensor.name for tensor in matrix))

    return head


bert_head = transform_head("cls.predictions")
roberta_head = transform_head("lm_head", dense="dense", norm="layer_norm")
generator_head = transform_head(
    "", dense="generator_predictions.dense", norm="generator_predictions.LayerNorm", width="embedding_size",
    bias_name="generator_lm_head.bias", decoder="generator_lm_head", both_biases=False,
)  # fmt: skip


def plain_head(name: str = "lm_head", *, bias: bool = True) -> LanguageHeads:
    """Return a single linear layer, tied to the embedding but for its bias."""

    def head(cfg: Config, hidden: int, vocab: int) -> LanguageHead:
        tensors = parts.lm_head(vocab, hidden, name=name, bias=bias)
        return LanguageHead(tensors[1:], tensors[:1], (f"{name}.weight",))

    return head


def dense_classifier(cfg: Config, labels: int, hidden: int) -> Tensors:
    """Return RoBERTa's classifier: two linear layers on the first token."""
    return (*linear("classifier.dense", hidden, hidden), *linear("classifier.out_proj", labels, hidden))


def plain_classifier(cfg: Config, labels: int, hidden: int) -> Tensors:
    """Return one linear layer."""
    return linear("classifier", labels, hidden)


def plain_spans(cfg: Config, labels: int, hidden: int) -> Tensors:
    """Return one linear layer that marks where an answer starts and ends."""
    return linear("qa_outputs", labels, hidden)


def pre_classifier(cfg: Config, labels: int, hidden: int) -> Tensors:
    """Return DistilBERT's classifier: the pooler belongs to the head."""
    return (*linear("pre_classifier", hidden, hidden), *linear("classifier", labels, hidden))


def context_classifier(cfg: Config, labels: int, hidden: int) -> Tensors:
    """Return DeBERTa's classifier: its pooler stands beside the base model."""
    width = cfg.integer("pooler_hidden_size", hidden)
    return (*linear("pooler.dense", width, width), *linear("classifier", labels, cfg.hidden_size))


def summary_classifier(cfg: Config, labels: int, hidden: int) -> Tensors:
    """Return ELECTRA's classifier of choices: a summary of the sequence, then one linear layer."""
    summary = linear("sequence_summary.summary", hidden, hidden) if cfg.flag("summary_use_proj") else ()
    return (*summary, *linear("classifier", labels, hidden))


Classifier = Callable[[Config, int, int], Tensors]


def text_heads(
    *,
    language: LanguageHeads | None = bert_head,
    causal: LanguageHeads | None = None,
    classifier: Classifier = plain_classifier,
    choices: Classifier = plain_classifier,
    tagger: Classifier = plain_classifier,
    spans: Classifier | None = None,
    pretraining: Classifier | None = None,
    next_sentence: str = "cls.seq_relationship",
    pooled: Sequence[str] = POOLED,
    always_pooled: bool = False,
    tied: bool | None = None,
    base_model: Sequence[str] = ("Model", "Encoder"),
) -> Heads:
    """Return the function that puts a family's heads on its base model, whose reader takes `pooler` and `causal`.

    Parameters
    ----------
    language, causal
        Heads of masked and, where it differs, of causal language models.
    classifier, choices, tagger, spans
        Heads for sequences, multiple choice, tokens, and answers in a text.
    pretraining
        Head of the pre-training class where it is another than the masked language model's and next sentence's.
    next_sentence
        Layer of the pre-training class that says which sentence follows; empty where there is none.
    pooled
        Classes whose base model has a pooler; all of them with `always_pooled`.
    tied
        Whether the language head is tied, where the family does not ask the config.
    """

    def heads(cfg: Config, class_name: str) -> Built:
        task = task_of(class_name)
        is_causal = task in CAUSAL
        known = {
            "MaskedLM", "PreTraining", "SequenceClassification", "TokenClassification", "QuestionAnswering",
            "MultipleChoice", "NextSentencePrediction", *CAUSAL,
        }  # fmt: skip
        is_base = task not in known or class_name.endswith(tuple(base_model))
        is_base = is_base and task not in CAUSAL
        found = ENTRIES[cfg.model_type]
        prefix = "" if is_base else found.base
        body = found.read(
            cfg, prefix, pooler=always_pooled or ("Model" if is_base else task) in pooled, causal=is_causal
        )
        if is_base:
            return Built((body,))
        hidden = body.hidden_size
        tensors: Tensors = ()
        names: tuple[str, ...] = ()
        if task == "PreTraining" and pretraining is not None:
            tensors += pretraining(cfg, 1, hidden)
        elif task in ("MaskedLM", "PreTraining") or is_causal:
            make = causal if is_causal and causal is not None else language
            if make is not None:
                head = make(cfg, hidden, body.vocab_size)
                is_tied = cfg.tied if tied is None else tied
                tensors += head.tensors if is_tied else (*head.tensors, *head.untied)
                names = head.tied if is_tied else ()
        if task == "NextSentencePrediction" or (task == "PreTraining" and next_sentence and pretraining is None):
            tensors += linear(next_sentence, 2, hidden)
        elif task == "SequenceClassification":
            tensors += classifier(cfg, num_labels(cfg), hidden)
        elif task == "MultipleChoice":
            tensors += choices(cfg, 1, hidden)
        elif task == "TokenClassification":
            tensors += tagger(cfg, num_labels(cfg), hidden)
        elif task == "QuestionAnswering":
            tensors += (spans or plain_spans)(cfg, num_labels(cfg), hidden)
        return Built((body, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)), tied=names)

    return heads
