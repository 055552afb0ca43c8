"""Models that see, read as transformers 5.23 builds them by default on the meta device; caches, images, and bad lists."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vrameter
from vrameter.errors import ConfigError
from vrameter.model.architecture import Architecture, Attention, LatentAttention
from vrameter.model.families.inkling_vision import prime_factors, scales_of
from vrameter.model.read import read_config

# Parameters and tensors of each class by default, tied ones once: `sum(p.numel())` and `len()` of named_parameters and
# stored buffers. [transformers 5.23]
BUILT = [
    ("mistral4", "Mistral4ForCausalLM", 118_972_826_624, 543),
    ("mistral_large4", "MistralLarge4ForConditionalGeneration", 1_051_822_421_504, 2005),
    ("glm5_next", "Glm5NextForConditionalGeneration", 313_786_889_214, 1609),
    ("lfm3_vl", "Lfm3VlForConditionalGeneration", 1_918_181_888, 424),
    ("minicpmv4_6", "MiniCPMV4_6ForConditionalGeneration", 9_111_202_816, 646),
    ("minicpm_ocr", "MiniCPMOcrForConditionalGeneration", 8_094_084_096, 645),
    ("unlimited_ocr", "UnlimitedOcrForConditionalGeneration", 3_335_504_128, 715),
    ("granite_docling", "GraniteDoclingForConditionalGeneration", 543_428_352, 496),
    ("janus", "JanusForConditionalGeneration", 7_031_324_299, 1035),
    ("glm_image", "GlmImageModel", 10_046_612_480, 1010),
    ("chameleon", "ChameleonForConditionalGeneration", 7_043_090_432, 548),
    ("emu3", "Emu3ForConditionalGeneration", 8_762_751_807, 786),
    ("cohere_compass", "CohereCompassForConditionalGeneration", 37_644_932_336, 674),
    ("blip", "BlipForConditionalGeneration", 223_971_644, 471),
    ("git", "GitForCausalLM", 176_619_066, 305),
    ("florence2", "Florence2ForConditionalGeneration", 497_761_280, 917),
    ("pp_formulanet", "PPFormulaNetForConditionalGeneration", 180_897_536, 398),
    ("pix2struct", "Pix2StructForConditionalGeneration", 282_285_696, 285),
    ("udop", "UdopForConditionalGeneration", 742_440_960, 519),
    ("t5gemma2", "T5Gemma2ForConditionalGeneration", 4_747_846_400, 890),
    ("cosmos3_edge", "Cosmos3EdgeForConditionalGeneration", 2_435_616_496, 670),
    ("cosmos3_omni", "Cosmos3OmniForConditionalGeneration", 12_616_410_352, 706),
    ("molmo2", "Molmo2ForConditionalGeneration", 8_694_602_192, 813),
    ("modernvbert", "ModernVBertForMaskedLM", 290_659_264, 347),
    ("ultravbert", "UltraVBertForMaskedLM", 6_880_839_936, 492),
    ("radio", "RadioModel", 651_727_360, 582),
    ("nemotron_h_omni", "NemotronH_Omni_Reasoning_V3", 2_659_803_008, 611),
    ("inkling_mm_model", "InklingForConditionalGeneration", 1_740_191_689_202, 1506),
    ("inkling2", "Inkling2ForConditionalGeneration", 594_050_623_488, 1514),
    ("dots3_note", "Dots3NoteForConditionalGeneration", 287_309_195_008, 1727),
    ("pvt", "PvtForImageClassification", 13_229_288, 177),
    ("levit", "LevitForImageClassification", 8_443_938, 393),
    ("mlcd_vision_model", "MLCDVisionModel", 1_842_349_748, 775),
    ("embedding_gemma2_text", "EmbeddingGemma2TextModel", 271_002_624, 413),
    ("regnet", "RegNetForImageClassification", 19_559_834, 516),
    ("mobilenet_v1", "MobileNetV1ForImageClassification", 3_209_026, 164),
    ("mobilenet_v2", "MobileNetV2ForImageClassification", 2_226_434, 314),
    ("efficientnet", "EfficientNetForImageClassification", 63_792_082, 1200),
    ("poolformer", "PoolFormerForImageClassification", 11_403_202, 132),
    ("segformer", "SegformerForImageClassification", 3_319_906, 194),
    ("swinv2", "Swinv2ForImageClassification", 27_579_692, 245),
    ("donut-swin", "DonutSwinForImageClassification", 27_519_356, 231),
    ("vit_mae", "ViTMAEModel", 85_798_656, 198),
    ("canine", "CanineForSequenceClassification", 132_084_482, 248),
    ("lilt", "LiltForSequenceClassification", 115_592_770, 402),
    ("bros", "BrosModel", 109_494_528, 203),
    ("openai_privacy_filter", "OpenAIPrivacyFilterModel", 1_399_465_712, 138),
]
# The same of classes that do not assume all they need.
COMPLETED: list[tuple[dict[str, Any], str, int, int]] = [
    (
        {
            "model_type": "pi0",
            "vlm_config": {
                "model_type": "paligemma",
                "vision_config": {
                    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
                    "patch_size": 14, "vision_use_head": False,
                },
            },
        },
        "PI0ForConditionalGeneration", 3_501_372_176, 777,
    ),
    (
        {"model_type": "granite4_vision", "downsample_rate": "4/8", "deepstack_layer_map": [[-2, 0], [-5, 3]]},
        "Granite4VisionForConditionalGeneration", 6_901_872_384, 695,
    ),
    (
        {
            "model_type": "deepseek_ocr2",
            "text_config": {
                "num_hidden_layers": 4, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
                "num_experts_per_tok": 6,
            },
        },
        "DeepseekOcr2ForConditionalGeneration", 15_585_240_320, 617,
    ),
    (
        {
            "model_type": "diffusion_gemma",
            "text_config": {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 704},
        },
        "DiffusionGemmaForBlockDiffusion", 4_388_684_016, 902,
    ),
]  # fmt: skip


def default(model_type: str, class_name: str = "") -> Architecture:
    return read_config({"model_type": model_type, **({"architectures": [class_name]} if class_name else {})})


@pytest.mark.parametrize(("model_type", "class_name", "count", "tensors"), BUILT, ids=[row[0] for row in BUILT])
def test_counts_by_default(model_type: str, class_name: str, count: int, tensors: int) -> None:
    found = default(model_type, class_name)
    assert (found.num_params, sum(1 for _ in found.named_tensors())) == (count, tensors)


@pytest.mark.parametrize(("config", "class_name", "count", "tensors"), COMPLETED, ids=lambda value: str(value)[:24])
def test_counts_of_completed_configs(config: dict[str, Any], class_name: str, count: int, tensors: int) -> None:
    found = read_config({**config, "architectures": [class_name]})
    assert (found.num_params, sum(1 for _ in found.named_tensors())) == (count, tensors)


@pytest.mark.parametrize("row", [*BUILT, *COMPLETED], ids=lambda row: row[1])
def test_every_one_gives_an_estimate(row: tuple[Any, str, int, int]) -> None:
    config = row[0] if isinstance(row[0], dict) else {"model_type": row[0]}
    found = vrameter.estimate({"model": {"config": {**config, "architectures": [row[1]]}}})
    assert found["devices"][0]["peak"]["used_bytes"] > 2 * row[2]


def test_kimi_vl_under_its_own_names() -> None:
    """Kimi-VL-A3B by its published config: 16.4 billion parameters, of which the tower is MoonViT's 0.4. [model card]."""
    text = {
        "model_type": "deepseek_v3", "hidden_size": 2048, "intermediate_size": 11264, "moe_intermediate_size": 1408,
        "num_hidden_layers": 27, "num_attention_heads": 16, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "first_k_dense_replace": 1, "kv_lora_rank": 512, "q_lora_rank": None,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 163840,
        "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {
        "model_type": "moonvit", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "patch_size": 14, "init_pos_emb_height": 64, "init_pos_emb_width": 64,
        "merge_kernel_size": [2, 2],
    }  # fmt: skip
    found = read_config({"model_type": "kimi_vl", "text_config": text, "vision_config": vision})
    tower = found.component("vision")
    assert round(found.num_params / 1e9, 1) == 16.4
    assert tower is not None
    assert tower.image is not None
    assert round(tower.num_params / 1e9, 1) == 0.4
    assert tower.image.tokens_of(896, 896) == 32 * 32
    names = {name for name, _, _ in found.named_tensors()}
    assert {
        "language_model.lm_head.weight",
        "vision_tower.encoder.blocks.26.wqkv.bias",
        "multi_modal_projector.pre_norm.bias",
    } <= names


def test_names_are_unique() -> None:
    for model_type, class_name, *_ in BUILT:
        names = [name for name, _, _ in default(model_type, class_name).named_tensors()]
        assert len(names) == len(set(names)), model_type


def test_layers_that_read_the_keys_and_values_of_others_keep_none() -> None:
    text = {"num_hidden_layers": 4, "kv_source_layers": [0, 0, 2, 2], "no_rope_layers": [1, 1, 0, 0]}
    found = read_config({"model_type": "mistral_large4", "text_config": text})
    assert found.decoder is not None
    kept = [
        part.kv_lora_rank for layer in found.decoder.layers for part in layer.parts if isinstance(part, LatentAttention)
    ]
    assert kept == [512, 0, 512, 0]
    names = {name for name, _, _ in found.named_tensors()}
    assert "model.language_model.layers.2.self_attn.kv_a_proj_with_mqa.weight" in names
    assert "model.language_model.layers.3.self_attn.kv_a_proj_with_mqa.weight" not in names


def test_blip_looks_at_the_image_in_every_layer() -> None:
    found = default("blip", "BlipForConditionalGeneration")
    assert found.decoder is not None
    scopes = [part.scope for part in found.decoder.layers[0].parts if isinstance(part, Attention)]
    assert scopes == ["full", "cross"]


@pytest.mark.parametrize(
    ("model_type", "height", "width", "tokens"),
    [
        ("chameleon", 512, 512, 32 * 32 + 2),  # a square of 512 pixels, sixteen to a token, marks around
        ("janus", 384, 384, 24 * 24 + 2),
        ("florence2", 768, 768, 24 * 24 + 1),
        ("granite_docling", 512, 512, 8 * 8),
        ("nemotron_h_omni", 1024, 1024, 32 * 32),
        ("unlimited_ocr", 600, 600, 16 * 17 + 1),  # no larger than a tile: the overview alone
        ("unlimited_ocr", 1280, 1280, 20 * 21 + 16 * 17 + 1),
    ],
)
def test_tokens_of_an_image(model_type: str, height: int, width: int, tokens: int) -> None:
    vision = default(model_type).component("vision")
    assert vision is not None
    assert vision.image is not None
    assert vision.image.tokens_of(height, width) == tokens


def test_inkling_folds_pixels_in_the_steps_that_its_class_plans() -> None:
    assert scales_of(2, 40, 24, 3)[-1] == (2, 40, 40, 614_400)
    assert [scale[3] for scale in scales_of(2, 40, 24, 3)][4:7] == [3, 128, 128]
    assert scales_of(2, 40, 3, 3)[0] == (1, 1, 1, 3)  # fewer steps than sizes: some are left out


@given(st.integers(2, 4096))
def test_prime_factors_multiply_to_the_number(number: int) -> None:
    product = 1
    for factor in prime_factors(number):
        product *= factor
        assert all(factor % divisor for divisor in range(2, min(factor, 64)))
    assert product == number


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.sampled_from(["janus", "chameleon", "emu3"]))
def test_more_blocks_of_a_tokenizer_never_need_less(blocks: int, more: int, model_type: str) -> None:
    counts = [
        read_config({"model_type": model_type, "vq_config": {"num_res_blocks": number}}).num_params
        for number in (blocks, blocks + more)
    ]
    assert counts[0] < counts[1]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "granite4_vision", "downsample_rate": "4:8", "deepstack_layer_map": [[0, 0]]},
        {"model_type": "florence2", "vision_config": {"depths": [1, 1]}},
        {"model_type": "segformer", "num_attention_heads": [1, 3, 5, 8]},
        {"model_type": "efficientnet", "num_block_repeats": [10**6] * 7},
        {"model_type": "dots3_note", "vision_config": {"num_hidden_layers": 60}},
        {"model_type": "janus", "vq_config": {"channel_multiplier": []}},
        {"model_type": "mimi", "num_semantic_quantizers": 10**9},
    ],
)
def test_a_list_that_does_not_fit_is_named(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"config\."):
        read_config(config)
