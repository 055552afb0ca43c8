"""Vision towers and models that see: published counts, caches of their decoders, names, and laws of their shapes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrameter.errors import ConfigError
from vrameter.model.architecture import Architecture, Attention
from vrameter.model.image_input import ImageInput
from vrameter.model.read import read_config
from vrameter.sources import catalogue

# Elements of the published checkpoints: safetensors totals of the Hub as the catalogue records them, tied heads once.
PUBLISHED = [
    ("Qwen/Qwen2-VL-7B-Instruct", 8_291_375_616),
    ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656),
    ("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976),
    ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696),
    ("Qwen/Qwen3-VL-235B-A22B-Instruct", 235_670_022_896),
    ("google/gemma-3-4b-it", 4_300_079_472),
    ("google/gemma-3-27b-it", 27_432_406_640),
    ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", 24_011_361_280),
    ("llava-hf/llava-1.5-7b-hf", 7_063_427_072),
    ("llava-hf/llava-v1.6-34b-hf", 34_752_083_968),
    ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 8_030_807_584),
    ("meta-llama/Llama-4-Scout-17B-16E", 108_641_793_536),
    ("moonshotai/Kimi-K2.5", 1_026_879_353_328),
    ("zai-org/GLM-4.1V-9B-Base", 10_292_777_472),
    ("stepfun-ai/GOT-OCR-2.0-hf", 560_528_640),
    ("adept/fuyu-8b", 9_408_238_592),
    ("facebook/dinov2-base", 86_580_480),
    ("microsoft/kosmos-2.5", 1_374_646_272),
    ("meta-models/Muse-Glimmer-30B", 29_776_626_688),
    ("microsoft/Phi-3-vision-128k-instruct", 4_146_621_440),
    ("Qwen/Qwen3.5-9B", 9_409_813_744),
]

# Classes of transformers 5.23 on the meta device, with the defaults of their configurations.
DEFAULTS = [
    ("vit", "ViTModel", 86_389_248),
    ("dinov2", "Dinov2Model", 85_725_696),
    ("siglip_vision_model", "SiglipVisionModel", 92_884_224),
    ("clip", "CLIPModel", 151_277_313),
    ("gemma3n_text", "Gemma3nForCausalLM", 6_835_235_568),
    ("mllama", "MllamaForConditionalGeneration", 10_642_941_475),
    ("mllama", "MllamaForCausalLM", 9_775_192_080),
    ("kosmos-2", "Kosmos2Model", 1_664_485_376),
    ("step3p7", "Step3p7ForConditionalGeneration", 197_824_847_872),
]


def built(model_type: str, class_name: str = "", **values: Any) -> Architecture:
    """Return the architecture of a class's defaults with some fields set."""
    return read_config({"model_type": model_type, **({"architectures": [class_name]} if class_name else {}), **values})


def attentions(architecture: Architecture, kind: str = "decoder") -> list[Attention]:
    """Return the attention of every layer of a component."""
    component = next(part for part in architecture.components if part.kind == kind)
    return [part for layer in component.layers for part in layer.parts if isinstance(part, Attention)]


@pytest.mark.parametrize(("name", "expected"), PUBLISHED)
def test_published_counts(name: str, expected: int) -> None:
    """Every parameter of the checkpoint: tower, projector, decoder, head."""
    assert catalogue.find(name).architecture().num_params == expected


@pytest.mark.parametrize(("model_type", "class_name", "expected"), DEFAULTS)
def test_defaults_of_classes(model_type: str, class_name: str, expected: int) -> None:
    """A config that says only its type has the parameters of the class's defaults."""
    assert built(model_type, class_name).num_params == expected


def test_step_stores_three_layers_more_than_it_loads() -> None:
    """Step-3.7-Flash's files hold the layers for multi-token prediction: 201,365,316,160 elements with them."""
    step = catalogue.find("stepfun-ai/Step-3.7-Flash").architecture()
    assert (step.num_params, step.num_stored_params) == (198_937_133_056, 201_365_316_160)


def test_llama_vision_keeps_an_image_in_eight_layers() -> None:
    """8 of 40 layers of Llama 3.2 11B Vision look at four tiles of 1,601 positions, and keep their keys and values."""
    crossing = [
        part for part in attentions(built("mllama", vision_config={"image_size": 560})) if part.scope == "cross"
    ]
    assert {(part.cross_tokens, part.num_kv_heads, part.head_dim) for part in crossing} == {(4 * 1601, 8, 128)}
    assert len(crossing) == 8


def test_gemma_3n_shares_caches_and_has_embeddings_per_layer() -> None:
    """Fifteen of 35 layers keep nothing of their own; the table per layer is 2.35 of 6.84 billion parameters."""
    model = built("gemma3n_text", "Gemma3nForCausalLM")
    assert [part.shares_cache for part in attentions(model)] == [False] * 20 + [True] * 15
    assert model.decoder is not None
    table = next(tensor for tensor in model.decoder.tensors if tensor.slot == "per_layer")
    assert table.size == 262_144 * 35 * 256
    assert table.role == "embedding"


def test_gemma_3n_stores_keys_that_no_layer_reads() -> None:
    """Gemma-3n-E4B's files hold 7,849,978,192 elements: 15 layers' keys and values more than are loaded."""
    model = built("gemma3n")
    seen = model.component("vision")
    assert seen is not None
    assert seen.num_params == 294_126_912  # mobilenetv5_300m_enc of timm 1.0.31
    assert (model.num_params, model.num_stored_params) == (7_818_517_072, 7_849_978_192)
    assert seen.image is not None
    assert seen.image.max_tokens == 256


def test_gemma_4_has_wider_heads_where_it_sees_everything() -> None:
    """Every sixth layer: heads of 512, no window; the last always."""
    found = [(part.scope, part.window, part.head_dim) for part in attentions(built("gemma4_text", num_hidden_layers=8))]
    assert found == [("sliding", 512, 256)] * 5 + [("full", None, 512), ("sliding", 512, 256), ("full", None, 512)]


def test_gemma_4_values_may_be_its_keys() -> None:
    """With `attention_k_eq_v` the layers that see everything have no matrix for values, and still keep both."""
    last = attentions(built("gemma4_text", num_hidden_layers=6, attention_k_eq_v=True, num_global_key_value_heads=2))[
        -1
    ]
    assert {tensor.slot for tensor in last.tensors} & {"k", "v"} == {"k"}
    assert (last.num_kv_heads, last.value_dim) == (2, 512)


@pytest.mark.parametrize(
    ("values", "class_name"),
    [({"model_type": "ministral3"}, "Mistral3ForConditionalGeneration"), ({"model_type": "mistral3"}, "")],
)
def test_a_whole_called_by_its_decoders_name(values: dict[str, Any], class_name: str) -> None:
    """Ministral 3 states its decoder's type; its class says that it sees."""
    text = {"model_type": "ministral3", "num_hidden_layers": 2}
    given = {**values, "text_config": text, "vision_config": {"model_type": "pixtral"}}
    model = read_config({**given, **({"architectures": [class_name]} if class_name else {})})
    assert [part.kind for part in model.components] == ["decoder", "vision", "projector"]


def test_older_files_hold_the_decoder_beside_the_tower() -> None:
    """Qwen2-VL's first files have no `text_config`, and call the tower by the name of the whole."""
    vision = {"model_type": "qwen2_vl", "hidden_size": 1536, "in_chans": 3}
    text = {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936,
    }  # fmt: skip
    flat = built("qwen2_vl", "Qwen2VLForConditionalGeneration", vision_config=vision, tie_word_embeddings=True, **text)
    nested = built(
        "qwen2_vl", "Qwen2VLForConditionalGeneration", vision_config={"hidden_size": 1536},
        text_config={**text, "tie_word_embeddings": True},
    )  # fmt: skip
    assert flat.num_params == nested.num_params == 2_208_985_600


def test_classes_for_text_alone_have_no_tower() -> None:
    """Gemma3ForCausalLM of a multimodal config is the decoder with its head."""
    assert [part.kind for part in built("gemma3", "Gemma3ForCausalLM").components] == ["decoder"]


def test_internvl_in_its_own_form() -> None:
    """InternVL2.5-8B's published files: InternViT-300M, InternLM2.5-7B with 92,553 tokens, and the projector."""
    vision = {
        "model_type": "intern_vit_6b", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
        "num_hidden_layers": 24, "image_size": 448, "patch_size": 14, "norm_type": "layer_norm", "qkv_bias": True,
        "qk_normalization": False,
    }  # fmt: skip
    text = {
        "model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "hidden_size": 4096, "bias": False,
        "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "vocab_size": 92553, "tie_word_embeddings": False,
    }  # fmt: skip
    model = built("internvl_chat", "InternVLChatModel", llm_config=text, vision_config=vision)
    assert model.num_params == 8_075_365_376
    seen = model.component("vision")
    assert seen is not None
    assert (seen.num_params, seen.image and seen.image.max_tokens) == (304_012_288, 13 * 256 + 2)


def test_names_are_those_of_the_classes() -> None:
    """Quantisation lists and tensor tables go by names: one of each kind of module."""
    names = {name for name, _, _ in built("qwen3_vl", "Qwen3VLForConditionalGeneration").named_tensors()}
    assert {
        "model.visual.patch_embed.proj.weight", "model.visual.blocks.26.attn.qkv.weight",
        "model.visual.deepstack_merger_list.2.linear_fc2.bias", "model.language_model.layers.0.self_attn.q_norm.weight",
        "lm_head.weight",
    } <= names  # fmt: skip


def test_a_wrong_type_in_a_nested_config_is_named() -> None:
    """The message names the field of the nested config."""
    with pytest.raises(ConfigError) as caught:
        built("llava", text_config={"model_type": "llama", "hidden_size": "wide"})
    assert "config.text_config.hidden_size" in caught.value.message


@pytest.mark.parametrize(
    "model_type",
    [
        "llava",
        "llava_next",
        "qwen2_5_vl",
        "qwen3_vl",
        "gemma3",
        "gemma4",
        "mistral3",
        "internvl",
        "kimi_k25",
        "llama4",
        "glm4v",
    ],
)
def test_every_model_that_sees_says_what_it_makes_of_an_image(model_type: str) -> None:
    """Engines and training need patches, tokens and the largest image."""
    values: dict[str, Any] = {"vision_config": {}} if model_type == "gemma4" else {}
    vision = built(model_type, **values).component("vision")
    assert vision is not None
    assert isinstance(vision.image, ImageInput)
    assert 0 < vision.image.tokens_of(480, 640) <= vision.image.max_tokens
    assert vision.layers


@settings(max_examples=25, deadline=None)
@given(layers=st.integers(1, 8), heads=st.sampled_from([4, 8, 16]), merge=st.sampled_from([1, 2, 4]))
def test_depth_adds_whole_layers(layers: int, heads: int, merge: int) -> None:
    """A tower's parameters grow by the same layer each time, whatever its heads; merging more widens the projector."""

    def count(**vision: Any) -> int:
        sizes = {"hidden_size": 1024, "num_heads": heads, "spatial_merge_size": merge, "depth": layers, **vision}
        text = {"num_hidden_layers": 1, "hidden_size": 256, "num_attention_heads": 8, "vocab_size": 1000}
        return built("qwen2_5_vl", text_config=text, vision_config=sizes).num_params

    step = count(depth=layers + 1) - count()
    assert step == count(depth=layers + 2) - count(depth=layers + 1) > 0
    assert count(spatial_merge_size=merge + 1) > count()
