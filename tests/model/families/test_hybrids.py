"""Recurrent and hybrid decoders: counts, patterns of layers, states, and what they obey."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrameter.errors import ConfigError
from vrameter.memory.kv_cache import cache_shape
from vrameter.memory.state_cache import state_bytes_per_sequence
from vrameter.model.architecture import Architecture, Attention, LatentAttention, Recurrent
from vrameter.model.read import read_config
from vrameter.parallel import tensor_share
from vrameter.sources import catalogue


def read(model_type: str, **values: Any) -> Architecture:
    return read_config({"model_type": model_type, **values})


def mixers(architecture: Architecture) -> list[Recurrent]:
    """Return the parts with a state, one per layer that has one."""
    assert architecture.decoder is not None
    return [part for layer in architecture.decoder.layers for part in layer.parts if isinstance(part, Recurrent)]


def pattern(architecture: Architecture) -> str:
    """Return a letter per layer: r for a state, a for keys and values, l for latent ones, b for both, - for neither."""
    assert architecture.decoder is not None
    letters = ""
    for layer in architecture.decoder.layers:
        kinds = {type(part) for part in layer.parts}
        state, keys = Recurrent in kinds, Attention in kinds
        letters += (
            "b" if state and keys else "r" if state else "a" if keys else "l" if LatentAttention in kinds else "-"
        )
    return letters


# -- counts -----------------------------------------------------------------------------------------

# What the class of transformers 5.23 builds from its defaults, on the meta device.
DEFAULTS = [
    ("bamba", 9_992_765_440), ("falcon_h1", 8_514_961_408), ("nemotron_h", 1_968_355_712),
    ("granitemoehybrid", 38_601_064_448), ("mamba2", 7_285_403_648), ("qwen3_next", 79_674_391_296),
]  # fmt: skip
# Elements of published checkpoints. [RWKV: counts that their own loaders assert; the others: the catalogue's sources]
PUBLISHED = [
    ("rwkv6", {"hidden_size": 2048, "num_hidden_layers": 24, "vocab_size": 65536, "head_size": 64}, 1_599_873_024),
    (
        "rwkv7",
        {
            "hidden_size": 2048, "num_hidden_layers": 24, "vocab_size": 65536, "decay_low_rank_dim": 96, "a_low_rank_dim": 96,
            "v_low_rank_dim": 64, "gate_low_rank_dim": 256,
        },
        1_527_404_544,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "expected"), DEFAULTS)
def test_counts_of_class_defaults(model_type: str, expected: int) -> None:
    assert read(model_type).num_params == expected


@pytest.mark.parametrize(("model_type", "values", "expected"), PUBLISHED)
def test_counts_of_remote_code(model_type: str, values: dict[str, Any], expected: int) -> None:
    assert read(model_type, **values).num_params == expected


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 81_324_862_720),
        ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", 123_611_012_096),
        ("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", 560_524_578_816),
    ],
)
def test_stored_prediction_layers(name: str, stored: int) -> None:
    """The checkpoint's elements are the loaded ones and the layers for multi-token prediction; biases stand apart."""
    entry = catalogue.find(name)
    values = {**entry.config, "num_nextn_predict_layers": 1}
    architecture = read_config(values)
    biases = sum(
        tensor.size * times
        for component in architecture.components
        for tensor, times in component.counted_tensors()
        if tensor.buffer
    )
    assert architecture.num_stored_params - biases == stored
    assert architecture.num_params == entry.computed_params
    assert any(component.kind == "mtp" and not component.loaded for component in architecture.components)


def test_shared_blocks_count_once_and_cache_everywhere() -> None:
    """Zamba-7B: one block of attention at 13 of 76 layers."""
    architecture = read("zamba")
    assert architecture.num_params == 7_232_490_496
    assert pattern(architecture).count("b") == 13
    assert cache_shape(architecture).bytes_per_token == 13 * 2 * 16 * 464 * 2


def test_two_shared_blocks_take_turns() -> None:
    kinds = ["linear_attention", "hybrid"] * 4
    one, two = (
        read("zamba2", layers_block_type=kinds, num_mem_blocks=number, use_shared_attention_adapter=True)
        for number in (1, 2)
    )
    held = [
        number
        for number, layer in enumerate(two.decoder.layers if two.decoder else ())
        if any(tensor.slot == "q" for tensor in layer.all_tensors)
    ]
    assert held == [1, 3]
    assert one.num_params < two.num_params
    assert cache_shape(one).bytes_per_token == cache_shape(two).bytes_per_token


def test_stacks_that_run_again_keep_more_and_weigh_the_same() -> None:
    """HRM-Text: 16 layers in each of two stacks, which run 6 and 2 times."""
    once, again = read("hrm_text", H_cycles=1, L_cycles=1), read("hrm_text")
    assert once.num_params == again.num_params
    assert cache_shape(again).bytes_per_token == 128 * 2 * 12 * 128 * 2 == 4 * cache_shape(once).bytes_per_token


# -- patterns of layers -----------------------------------------------------------------------------

PATTERNS = [
    ("jamba", {}, "rrrraaaa".replace("aaaa", "arrr") * 4),
    ("qwen3_next", {"num_hidden_layers": 8}, "rrra" * 2),
    ("qwen3_5_text", {"num_hidden_layers": 6, "full_attention_interval": 3}, "rra" * 2),
    ("olmo_hybrid", {"num_hidden_layers": 3}, "rra"),
    ("minimax", {"num_hidden_layers": 4}, "arar"),
    ("minimax_m1", {"num_hidden_layers": 4, "attn_type_list": [0, 0, 0, 1]}, "rrra"),
    ("nemotron_h", {"hybrid_override_pattern": "MEM*-"}, "r-ra-"),
    ("nemotron_h", {"layers_block_type": ["mamba", "attention", "moe"]}, "ra-"),
    ("granitemoehybrid", {"num_hidden_layers": 2, "layer_types": ["mamba", "attention"]}, "ra"),
    ("bamba", {"num_hidden_layers": 4, "attn_layer_indices": [2]}, "rrar"),
    ("falcon_h1", {"num_hidden_layers": 2}, "bb"),
    ("recurrent_gemma", {"num_hidden_layers": 5}, "rrarr"),
    ("lfm2", {"num_hidden_layers": 4, "full_attn_idxs": [1]}, "rarr"),
    ("lfm3", {"num_hidden_layers": 6}, "rrarar"),
    ("kimi_linear", {"num_hidden_layers": 9}, "rrrrlrrrl"),
    ("bailing_hybrid", {"num_hidden_layers": 6}, "rrrrrl"),
    ("zaya", {"num_hidden_layers": 2}, "bb"),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "values", "expected"), PATTERNS)
def test_patterns(model_type: str, values: dict[str, Any], expected: str) -> None:
    assert pattern(read(model_type, **values)) == expected


@pytest.mark.parametrize("name", ["layer_types", "layers_block_type"])
def test_unknown_kinds_of_layers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="retention"):
        read("granitemoehybrid", num_hidden_layers=2, **{name: ["mamba", "retention"]})


# -- states -----------------------------------------------------------------------------------------

# Elements of convolution columns (kernel of them) and of recurrent states that transformers 5.23 kept of one sequence
# in small models with random weights, run on the CPU. [own measurement]
SMALL = {"hidden_size": 64, "vocab_size": 100}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 16}
STATES: list[tuple[str, dict[str, Any], int, int]] = [
    ("mamba", {"num_hidden_layers": 2, "state_size": 8}, 1024, 2048),
    ("mamba2", {"num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 2}, 1280, 2048),
    ("jamba", {**HEADS, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1}, 1024, 4096),
    ("bamba", {**HEADS, "num_hidden_layers": 4, "mamba_n_heads": 8, "mamba_d_state": 8, "attn_layer_indices": [1]}, 1728, 3072),
    ("falcon_h1", {**HEADS, "num_hidden_layers": 2, "mamba_n_heads": 8, "mamba_d_state": 8, "mamba_d_ssm": 64}, 640, 1024),
    (
        "nemotron_h",
        {**HEADS, "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2, "head_dim": 16},
        384,
        512,
    ),
    ("zamba", {**HEADS, "layers_block_type": ["linear_attention", "hybrid"] * 3}, 3072, 12288),
    ("zamba2", {**HEADS, "mamba_d_state": 8, "n_mamba_heads": 4, "layers_block_type": ["mamba", "hybrid"] * 3}, 3456, 6144),
    ("lfm2", {**HEADS, "num_hidden_layers": 3, "full_attn_idxs": [1]}, 384, 0),
    ("qwen3_next", {**HEADS, **DELTA, "num_hidden_layers": 4, "head_dim": 16}, 1152, 1536),
    ("qwen3_5_text", {**HEADS, **DELTA, "num_hidden_layers": 4, "head_dim": 16}, 1152, 1536),
    ("olmo_hybrid", {**HEADS, **DELTA, "num_hidden_layers": 4}, 1152, 1536),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "values", "columns", "states"), STATES, ids=[case[0] for case in STATES])
def test_states_of_one_sequence(model_type: str, values: dict[str, Any], columns: int, states: int) -> None:
    found = mixers(read(model_type, **SMALL, **values))
    assert sum(part.conv_channels * part.conv_kernel for part in found) == columns
    assert sum(part.state_elements for part in found) == states


def test_states_by_head_are_the_whole_state() -> None:
    for model_type, values, _, _ in STATES:
        for part in mixers(read(model_type, **SMALL, **values)):
            assert part.num_heads * part.head_dim * part.state_size == part.state_elements, model_type


def test_what_engines_ask_of_a_mixer() -> None:
    """Qwen3-Next: 32 heads of 128 values by 128 keys, 16 of which are shared by two each; Mamba-Codestral: 8 groups."""
    delta = mixers(read("qwen3_next"))[0]
    assert (delta.num_heads, delta.head_dim, delta.state_size, delta.num_groups) == (32, 128, 128, 16)
    scan = mixers(catalogue.find("mistralai/Mamba-Codestral-7B-v0.1").architecture())[0]
    assert (scan.num_heads, scan.head_dim, scan.state_size, scan.num_groups) == (128, 64, 128, 8)
    assert scan.conv_channels == 8192 + 2 * 8 * 128


@pytest.mark.parametrize(
    ("model_type", "values", "expected"),
    [
        ("nemotron_h", {}, True),
        ("nemotron_h", {"mamba_ssm_cache_dtype": "bfloat16"}, False),
        ("bamba", {}, False),
        ("bamba", {"mamba_ssm_cache_dtype": "float32"}, True),
        ("qwen3_5_text", {"mamba_ssm_dtype": "float32"}, True),
    ],
)
def test_configs_say_in_what_states_are_kept(model_type: str, values: dict[str, Any], expected: bool) -> None:
    assert mixers(read(model_type, **values))[0].state_fp32 is expected


def test_transformers_keeps_scans_in_fp32() -> None:
    """One layer of Mamba: 128 channels, four columns in bf16, 8 numbers per channel in fp32."""
    architecture = read("mamba", **SMALL, num_hidden_layers=1, state_size=8)
    assert state_bytes_per_sequence(architecture, spare_column=True, fp32_scans=True) == 128 * 4 * 2 + 128 * 8 * 4
    assert state_bytes_per_sequence(architecture) == 128 * 3 * 2 + 128 * 8 * 2


# -- laws -------------------------------------------------------------------------------------------

HYBRIDS = [(model_type, {**SMALL, **values}) for model_type, values, _, _ in STATES]


@given(st.sampled_from(HYBRIDS), st.sampled_from([1, 2, 4]))
def test_a_share_keeps_less_and_shares_cover_the_whole(case: tuple[str, dict[str, Any]], degree: int) -> None:
    whole = read(case[0], **case[1])
    share = tensor_share(whole, degree)
    assert share.num_params <= whole.num_params <= share.num_params * degree
    assert (
        state_bytes_per_sequence(share) <= state_bytes_per_sequence(whole) <= degree * state_bytes_per_sequence(share)
    )


@given(st.integers(1, 16), st.sampled_from([1, 2, 4, 8, 16]))
def test_groups_stay_whole(groups: int, degree: int) -> None:
    """A device holds whole groups of Mamba-2, a copy of one where there are too few."""
    values = {"hidden_size": 256, "num_heads": 32, "head_dim": 16, "n_groups": groups, "num_hidden_layers": 1}
    held = mixers(tensor_share(read("mamba2", **values), degree))[0]
    assert held.conv_channels == 512 // degree + 2 * held.num_groups * 128
    assert held.num_groups * degree >= groups
    convolution = next(tensor for tensor in held.tensors if tensor.slot == "conv" and len(tensor.shape) == 3)
    assert convolution.shape == (held.conv_channels, 1, 4)


@given(st.sampled_from(HYBRIDS), st.integers(1, 6))
def test_states_do_not_grow_with_the_context(case: tuple[str, dict[str, Any]], power: int) -> None:
    architecture = read(case[0], **case[1])
    shape = cache_shape(architecture)
    grown = shape.sequence_bytes(2 ** (power + 1)) - shape.sequence_bytes(2**power)
    layers = Counter(pattern(architecture))
    assert (grown == 0) == (layers["a"] + layers["b"] == 0)
