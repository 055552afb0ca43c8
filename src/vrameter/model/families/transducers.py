"""Transcribers on a conformer: CTC, transducers with a small recurrent predictor [1]_, and decoders that attend.

References
----------
.. [1] A. Graves, "Sequence Transduction with Recurrent Neural Networks", 2012, arXiv:1211.3711; H. Xu et al.,
       "Token-and-Duration Transducer", 2023, arXiv:2304.06795.
.. [2] K. Puvvada et al., "Less is More: Accurate Speech Recognition & Translation without Web-Scale Data", 2024,
       arXiv:2406.19674 (Canary).
"""

from __future__ import annotations

from vrameter.model import parts
from vrameter.model.architecture import Component, Recurrent, Tensors, joined
from vrameter.model.config import Config
from vrameter.model.families.encoder_heads import linear
from vrameter.model.families.listeners import small_decoder, small_heads
from vrameter.model.families.registry import Built, model, read_part, tower


def lstm(name: str, *, inputs: int, hidden_size: int, num_layers: int, bidirectional: bool = False) -> Tensors:
    """Return the matrices of a long short-term memory: four gates from the input, four from the state."""
    tensors: Tensors = ()
    for index in range(num_layers):
        for suffix in ("", "_reverse") if bidirectional else ("",):
            width = inputs if index == 0 else hidden_size * (2 if bidirectional else 1)
            layer = f"l{index}{suffix}"
            tensors += parts.parameter(f"{name}.weight_ih_{layer}", 4 * hidden_size, width, role="mixer")
            tensors += parts.parameter(f"{name}.weight_hh_{layer}", 4 * hidden_size, hidden_size, role="mixer")
            tensors += parts.parameter(f"{name}.bias_ih_{layer}", 4 * hidden_size, role="mixer")
            tensors += parts.parameter(f"{name}.bias_hh_{layer}", 4 * hidden_size, role="mixer")
    return tensors


def _ctc(cfg: Config) -> Built:
    encoder = read_part(cfg.nested("encoder_config"), "encoder")
    hidden = encoder[0].hidden_size
    head = parts.conv("ctc_head", cfg.vocab_size, hidden, 1)
    tensors = parts.with_role("head", head)
    return Built((*encoder, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)))


@model("parakeet_ctc", "lasr_ctc")
def convolution_ctc(cfg: Config, class_name: str) -> Built:
    """Return an encoder with a CTC head that is stored as a convolution one frame wide."""
    return _ctc(cfg)


@model("granite_speech5_ctc")
def granite_speech5_ctc(cfg: Config, class_name: str) -> Built:
    """Granite Speech's CTC transcriber: the head is the encoder's own."""
    encoder = read_part(cfg.nested("encoder_config"), "encoder")
    hidden = encoder[0].hidden_size
    if cfg.tied:
        return Built(encoder, tied=("ctc_head.weight", "ctc_head.bias"))
    tensors = linear("ctc_head", cfg.vocab_size, hidden)
    return Built((*encoder, Component(kind="head", name="head", hidden_size=hidden, tensors=tensors)))


def _transducer(cfg: Config, *, outputs: int, extra: Tensors = ()) -> Built:
    encoder = read_part(cfg.nested("encoder_config"), "encoder")
    hidden, width, count = encoder[0].hidden_size, cfg.integer("decoder_hidden_size"), cfg.layers("num_decoder_layers")
    memory = Recurrent(
        tensors=lstm("lstm", inputs=width, hidden_size=width, num_layers=count), kind="lstm",
        state_elements=2 * count * width, inner_size=width,
    )  # fmt: skip
    predictor = Component(
        kind="other",
        name="predictor",
        hidden_size=width,
        tensors=(
            *parts.embedding("embedding", cfg.vocab_size, width),
            *memory.tensors,
            *linear("decoder_projector", width, width),
        ),
        prefix="decoder",
        vocab_size=cfg.vocab_size,
    )
    head = (*linear("encoder_projector", width, hidden), *linear("joint.head", outputs, width), *extra)
    return Built((*encoder, predictor, Component(kind="head", name="head", hidden_size=width, tensors=head)))


@model("parakeet_rnnt", "nemotron_asr_streaming")
def transducer(cfg: Config, class_name: str) -> Built:
    """Return an encoder with a recurrent transducer [1]_."""
    return _transducer(cfg, outputs=cfg.vocab_size)


@model("parakeet_tdt")
def parakeet_tdt(cfg: Config, class_name: str) -> Built:
    """Return an encoder with a transducer that also says how many frames to skip [1]_."""
    return _transducer(cfg, outputs=cfg.vocab_size + len(cfg.sequence("durations", ())))


@model("nemotron3_5_asr")
def nemotron3_5_asr(cfg: Config, class_name: str) -> Built:
    """Return a streaming transducer whose frames are told the language beforehand."""
    hidden = cfg.nested("encoder_config").hidden_size
    inner = cfg.integer("prompt_intermediate_size")
    prompts = (
        *linear("prompt_projector.linear_1", inner, hidden + cfg.integer("num_prompts")),
        *linear("prompt_projector.linear_2", hidden, inner),
    )
    return _transducer(cfg, outputs=cfg.vocab_size, extra=prompts)


def _heard(cfg: Config, prefix: str) -> Component:
    return read_part(cfg.nested("encoder_config"), joined(prefix, "encoder"))[0]


def _cohere(cfg: Config, prefix: str, *, decoder: bool) -> Component:
    if not decoder:
        return _heard(cfg, prefix)
    heard, hidden = cfg.nested("encoder_config").hidden_size, cfg.hidden_size
    tensors = (
        *parts.embedding("pos_emb", cfg.integer("max_position_embeddings"), hidden, slot="position"),
        *parts.norm("embedding_layernorm", hidden, bias=True),
        *(linear("proj", hidden, heard) if heard != hidden else ()),
    )
    bias = cfg.flag("attention_bias")
    return small_decoder(
        cfg, prefix, heads=cfg.num_heads, kv_heads=cfg.num_kv_heads, count=cfg.num_layers, bias=bias, o_bias=bias,
        gated=False, norm_bias=True, tensors=tensors,
    )  # fmt: skip


@tower("cohere_asr", heads=small_heads(_cohere, bias=True), task="ForConditionalGeneration")
def cohere_asr(cfg: Config, prefix: str) -> Component:
    """Cohere's encoder for transcribing: Fast Conformer."""
    return _heard(cfg, prefix)


def _canary(cfg: Config, prefix: str, *, decoder: bool) -> Component:
    if not decoder:
        return _heard(cfg, prefix)
    own = cfg.nested("decoder_config")
    bias = own.flag("attention_bias")
    tensors = parts.norm("embedding_layernorm", own.hidden_size, bias=True)
    return small_decoder(
        own, prefix, heads=own.num_heads, kv_heads=own.num_kv_heads, count=own.num_layers, bias=bias, o_bias=bias,
        gated=False, norm_bias=True, tensors=tensors,
    )  # fmt: skip


@tower("canary", heads=small_heads(_canary, bias=True), task="ForConditionalGeneration")
def canary(cfg: Config, prefix: str) -> Component:
    """Canary's encoder [2]_: Fast Conformer."""
    return _heard(cfg, prefix)
