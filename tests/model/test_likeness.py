"""A config of an unknown type: fields decide before names, and what fits none is refused."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter.errors import ConfigError, VrameterError
from vrameter.model.config import Config
from vrameter.model.families.index import MODULES
from vrameter.model.likeness import class_types, kinds_read, kinds_said, likely_type
from vrameter.model.read import read_config
from vrameter.sources import catalogue

DENSE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 100,
}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
DELTA = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def likely(name: str = "", **fields: Any) -> str | None:
    classes = {"architectures": [name]} if name else {}
    return likely_type(Config({"model_type": "newcomer", **DENSE, **classes, **fields}))


READ = [
    ("LlamaForCausalLM", {}, "llama"),
    ("LlamaForCausalLMEagle3", {}, "llama"),
    ("Qwen3ForCausalLM", {}, "qwen3"),
    ("Qwen3ForSequenceClassification", {}, "qwen3"),
    ("Gemma3ForCausalLM", {}, "gemma3_text"),
    ("GPT2LMHeadModel", {}, "gpt2"),
    ("Qwen3MoeForCausalLM", EXPERTS, "qwen3_moe"),
    ("Qwen3_5ForCausalLM", DELTA, "qwen3_5_text"),
    ("Qwen3_5MoeForCausalLM", {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 32}, "qwen3_5_moe_text"),
    ("DeepseekV3ForCausalLM", {**LATENT, **EXPERTS, "n_routed_experts": 8}, "deepseek_v3"),
    # the class is dense, the fields are not
    ("Qwen3ForCausalLM", EXPERTS, "qwen3_moe"),
    ("LlamaForCausalLM", {**DELTA}, "qwen3_5_text"),
    # no class that is known
    ("", {}, "llama"),
    ("NewcomerForCausalLM", EXPERTS, "qwen3_moe"),
    ("NewcomerForCausalLM", {"num_local_experts": 8}, "mixtral"),
    ("NewcomerForCausalLM", {**EXPERTS, "shared_expert_intermediate_size": 32}, "qwen2_moe"),
    ("NewcomerForCausalLM", {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 32}, "qwen3_next"),
    ("NewcomerForCausalLM", {"conv_L_cache": 3, "layer_types": ["conv", "full_attention"] * 2}, "lfm2"),
    ("NewcomerModel", {"type_vocab_size": 2, "num_key_value_heads": None}, "bert"),
]
REFUSED = [
    ("Qwen3ForCausalLM", {"mamba_d_state": 16}),
    ("Qwen3ForCausalLM", LATENT),
    ("Qwen3ForCausalLM", {"vision_config": {"hidden_size": 8}}),
    ("LlamaForCausalLM", {"layer_types": ["retention", "mamba", "full_attention", "mamba"]}),
    ("LlamaVLForConditionalGeneration", {}),
    ("NewcomerVLForConditionalGeneration", {}),
    ("NewcomerForConditionalGeneration", {"text_config": DENSE}),
    ("NewcomerMambaForCausalLM", {}),
    ("NewcomerForCausalLM", {"quantization_config": {"llm_int8_skip_modules": ["model.vision_backbone"]}}),
    ("", {"vocab_size": None}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "expected"), READ)
def test_what_a_newcomer_is_read_as(name: str, fields: dict[str, Any], expected: str) -> None:
    assert likely(name, **fields) == expected


@pytest.mark.parametrize(("name", "fields"), REFUSED)
def test_what_fits_nothing_is_refused(name: str, fields: dict[str, Any]) -> None:
    assert likely(name, **fields) is None
    with pytest.raises(ConfigError, match="not a kind of network known here") as raised:
        read_config({"model_type": "newcomer", **DENSE, **fields, **({"architectures": [name]} if name else {})})
    assert raised.value.field == "config.model_type"


def test_a_warning_says_what_it_is_read_as() -> None:
    notes = read_config({"model_type": "newcomer", **DENSE}).notes
    assert notes == ("model_type 'newcomer' is not known; its fields are read as 'llama'.",)


def test_a_known_class_without_a_field_says_which() -> None:
    with pytest.raises(ConfigError, match="num_key_value_heads"):
        read_config(
            {"model_type": "newcomer", "architectures": ["Qwen3ForCausalLM"], **DENSE, "num_key_value_heads": 3}
        )


@pytest.mark.parametrize(
    ("name", "first", "exact"),
    [
        ("Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", True),
        ("XLMRobertaForMaskedLM", "xlm-roberta", True),
        ("LlamaPlusForCausalLM", "llama", False),
        ("DeciLMForCausalLM", "deci", False),
    ],
)
def test_the_longest_known_name_comes_first(name: str, first: str, exact: bool) -> None:
    found = [(kind, whole) for kind, whole in class_types(Config({"architectures": [name]})) if kind == first]
    assert found == [(first, exact)]
    assert next(class_types(Config({"architectures": [name]})))[1] is exact


@pytest.mark.parametrize("name", ["Qwen9_5ForCausalLM", "Llama77ForCausalLM", "MistralVLForConditionalGeneration"])
def test_other_versions_and_modalities_are_other_names(name: str) -> None:
    assert list(class_types(Config({"architectures": [name]}))) == []


def test_trusted_configs_say_what_they_are() -> None:
    """The kinds that real configs speak of are those of their own reading."""
    wrong, compared = {}, 0
    for entry in catalogue.entries():
        if entry.trust != "full" or entry.model_type not in MODULES or entry.model_type == "molmo":
            continue  # Molmo's tower stands in its code alone
        cfg = Config(entry.config)
        try:
            read = kinds_read(cfg, entry.model_type) if entry.architecture() else None
        except VrameterError:
            continue
        compared += 1
        if read is not None and not kinds_said(cfg) <= read:
            wrong[entry.id] = (kinds_said(cfg), read)
    assert compared > 50
    assert not wrong
