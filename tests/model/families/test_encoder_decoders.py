"""Encoder-decoders: counts as transformers 5.23 builds their classes, and what each side keeps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrameter.errors import ConfigError
from vrameter.memory.kv_cache import cache_shape
from vrameter.model.architecture import Architecture, Attention
from vrameter.model.read import read_config

# Parameters of each class under the defaults of its configuration. [transformers 5.23.0 on the meta device]
DEFAULTS = [
    ("bart", "BartForConditionalGeneration", 406_291_456),
    ("mbart", "MBartForConditionalGeneration", 406_295_552),
    ("pegasus", "PegasusForConditionalGeneration", 406_287_360),
    ("pegasus_x", "PegasusXForConditionalGeneration", 568_568_832),
    ("marian", "MarianMTModel", 414_307_328),
    ("m2m_100", "M2M100ForConditionalGeneration", 483_905_536),
    ("nllb-moe", "NllbMoeForConditionalGeneration", 6_880_712_704),
    ("blenderbot", "BlenderbotForConditionalGeneration", 2_696_268_800),
    ("blenderbot-small", "BlenderbotSmallForConditionalGeneration", 85_113_344),
    ("plbart", "PLBartForConditionalGeneration", 139_220_736),
    ("led", "LEDForConditionalGeneration", 459_801_600),
    ("bigbird_pegasus", "BigBirdPegasusForConditionalGeneration", 576_891_904),
    ("prophetnet", "ProphetNetForConditionalGeneration", 391_321_600),
    ("fsmt", "FSMTForConditionalGeneration", 483_913_728),
    ("mvp", "MvpForConditionalGeneration", 406_293_504),
    ("trocr", "TrOCRForCausalLM", 253_559_808),
    ("t5gemma", "T5GemmaForConditionalGeneration", 5_596_853_760),
    ("pop2piano", "Pop2PianoForConditionalGeneration", 59_108_352),
    ("xlm", "XLMWithLMHeadModel", 667_119_041),
    ("funnel", "FunnelForMaskedLM", 131_003_706),
    ("reformer", "ReformerForMaskedLM", 5_975_872),
    ("esmc", "EsmcForMaskedLM", 6_352_005_184),
    ("ultrabert", "UltrabertForMaskedLM", 6_744_707_072),
]


def read(model_type: str, class_name: str, **values: Any) -> Architecture:
    """Return a class under its defaults, with some fields set."""
    return read_config({"model_type": model_type, "architectures": [class_name], **values})


@pytest.mark.parametrize(("model_type", "class_name", "expected"), DEFAULTS)
def test_class_defaults(model_type: str, class_name: str, expected: int) -> None:
    assert read(model_type, class_name).num_params == expected


def cross_parts(architecture: Architecture) -> list[Attention]:
    decoder = architecture.decoder
    assert decoder is not None
    return [
        part
        for layer in decoder.layers
        for part in layer.parts
        if isinstance(part, Attention) and part.scope == "cross"
    ]


@pytest.mark.parametrize("model_type", ["bart", "pegasus_x", "nllb-moe", "led", "prophetnet", "speech_to_text"])
def test_every_layer_of_a_decoder_looks_at_the_encoder(model_type: str) -> None:
    architecture = read(model_type, "ForConditionalGeneration")
    decoder = architecture.decoder
    assert decoder is not None
    found = cross_parts(architecture)
    assert len(found) == len(decoder.layers)
    assert {part.cross_tokens for part in found} == {None}


def test_what_an_encoder_reads_is_kept_once_for_all_tokens() -> None:
    """BART-large: 12 layers keep 16 heads of 64 for keys and values, of the source and of what is written."""
    shape = cache_shape(read("bart", "BartForConditionalGeneration"))
    assert shape.bytes_per_token == 12 * 2 * 1024 * 2
    assert shape.cross_bytes(1000) == 1000 * shape.bytes_per_token
    assert shape.sequence_bytes(10, encoder_tokens=1000) == 1010 * shape.bytes_per_token


def test_the_encoder_alone_keeps_nothing() -> None:
    encoder = read("t5", "T5EncoderModel")
    assert encoder.decoder is None
    assert encoder.num_params == 35_330_816


def test_untied_copies() -> None:
    """Untied, BART has a table for each side, the shared one and the head."""
    tied, untied = (
        read("bart", "BartForConditionalGeneration", tie_word_embeddings=flag).num_params for flag in (True, False)
    )
    assert untied - tied == 3 * 50_265 * 1024


def test_a_mixture_uses_two_experts() -> None:
    architecture = read("nllb-moe", "NllbMoeForConditionalGeneration")
    expert = 2 * 1024 * 4096 + 1024 + 4096
    assert architecture.num_params - architecture.num_active_params == 6 * 126 * expert


def test_composed_of_two_configs() -> None:
    values = {
        "model_type": "encoder-decoder",
        "encoder": {"model_type": "bert", "num_hidden_layers": 2},
        "decoder": {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 384},
    }
    architecture = read_config(values)
    assert architecture.num_params == 58_092_090
    assert len(cross_parts(architecture)) == 2
    names = {name for name, _, _ in architecture.named_tensors()}
    assert {"enc_to_dec_proj.weight", "encoder.pooler.dense.weight", "decoder.cls.predictions.bias"} <= names


def test_a_decoder_that_cannot_stand_there_is_named() -> None:
    values = {"model_type": "encoder-decoder", "encoder": {"model_type": "bert"}, "decoder": {"model_type": "bark"}}
    with pytest.raises(ConfigError, match=r"config\.decoder\.model_type"):
        read_config(values)


def test_heads_that_do_not_divide_are_named() -> None:
    with pytest.raises(ConfigError, match="not a multiple of the 7 attention heads"):
        read("bart", "BartModel", encoder_attention_heads=7)


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(["bart", "marian", "m2m_100", "prophetnet", "fsmt"]))
def test_more_layers_never_need_less(first: int, second: int, model_type: str) -> None:
    field = "num_decoder_layers" if model_type == "prophetnet" else "decoder_layers"
    low, high = sorted((first, second))
    less, more = (read(model_type, "ForConditionalGeneration", **{field: count}) for count in (low, high))
    assert less.num_params <= more.num_params
    assert cache_shape(less).cross_bytes(100) <= cache_shape(more).cross_bytes(100)
