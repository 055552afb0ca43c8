"""Caches of every kind of attention and mixer, and under every cache data type."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrameter.memory.cache_formats import FORMATS, cache_format
from vrameter.memory.kv_cache import cache_shape
from vrameter.memory.state_cache import state_bytes_per_sequence
from vrameter.model.architecture import Architecture
from vrameter.model.read import read_config
from vrameter.parallel import tensor_share

GIB = 2**30


def llama(layers: int, heads: int, kv_heads: int, head_dim: int, **more: Any) -> Architecture:
    """Return a decoder of that attention shape; other sizes do not matter to a cache."""
    return read_config(
        {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": heads * head_dim, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": 64,
            "vocab_size": 128, **more,
        }
    )  # fmt: skip


DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
}  # fmt: skip
GEMMA3_27B = {
    "model_type": "gemma3_text", "hidden_size": 5376, "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16,
    "head_dim": 128, "intermediate_size": 21504, "sliding_window": 1024, "vocab_size": 262208,
}  # fmt: skip

PER_TOKEN = [
    # name                layers heads kv  dim  bytes per token in 16 bits
    ("Llama-2-7B", 32, 32, 32, 128, 524_288),
    ("Llama-3.1-8B", 32, 32, 8, 128, 131_072),
    ("Llama-3.1-70B", 80, 64, 8, 128, 327_680),
    ("Llama-3.1-405B", 126, 128, 8, 128, 516_096),
    ("Qwen2.5-7B", 28, 28, 4, 128, 57_344),
    ("Qwen3-235B-A22B", 94, 64, 4, 128, 192_512),
]


@pytest.mark.parametrize(("name", "layers", "heads", "kv_heads", "head_dim", "expected"), PER_TOKEN)
def test_bytes_per_token(name: str, layers: int, heads: int, kv_heads: int, head_dim: int, expected: int) -> None:
    assert cache_shape(llama(layers, heads, kv_heads, head_dim)).bytes_per_token == expected, name


def test_latent_attention_caches_one_vector() -> None:
    shape = cache_shape(read_config(DEEPSEEK_V3))
    assert shape.bytes_per_token == 70_272
    assert shape.sequence_bytes(163_840) / GIB == pytest.approx(10.723, abs=0.001)


def test_latent_attention_is_copied_to_every_device() -> None:
    whole = read_config(DEEPSEEK_V3)
    assert cache_shape(tensor_share(whole, 8)).bytes_per_token == 70_272


def test_latent_cache_in_fp8_with_scales() -> None:
    one_layer = read_config({**DEEPSEEK_V3, "num_hidden_layers": 1, "first_k_dense_replace": 1})
    assert cache_shape(one_layer, kv_dtype="fp8_ds_mla").bytes_per_token == 656


@pytest.mark.parametrize(("kv_dtype", "expected"), [("fp16", 16.0), ("q8_0", 8.5), ("q4_0", 4.5)])
def test_llama_cpp_types_at_full_context(kv_dtype: str, expected: float) -> None:
    assert cache_shape(llama(32, 32, 8, 128), kv_dtype=kv_dtype).sequence_bytes(131_072) == expected * GIB


def test_windows_bound_the_cache() -> None:
    shape = cache_shape(read_config(GEMMA3_27B))
    assert shape.sequence_bytes(131_072) / GIB == pytest.approx(10.406, abs=0.001)
    assert shape.bytes_per_token == 10 * 2 * 16 * 128 * 2
    assert shape.window_bytes_per_token == 52 * 2 * 16 * 128 * 2


@pytest.mark.parametrize(
    ("layers", "kv_heads", "tokens", "kv_dtype", "expected"),
    [
        (64, 8, 32_768, "q8_0", 4352 * 2**20),
        (36, 8, 32_768, "fp16", int(4.5 * GIB)),
        (36, 8, 262_144, "fp16", 36 * GIB),
        (28, 8, 40_960, "bf16", int(4.375 * GIB)),
    ],
)
def test_whole_caches(layers: int, kv_heads: int, tokens: int, kv_dtype: str, expected: int) -> None:
    assert cache_shape(llama(layers, 64, kv_heads, 128), kv_dtype=kv_dtype).sequence_bytes(tokens) == expected


def test_heads_are_copied_beyond_their_number() -> None:
    whole = llama(80, 64, 8, 128)
    share = cache_shape(tensor_share(whole, 16)).bytes_per_token
    assert share == 40_960
    assert 16 * share == 2 * cache_shape(whole).bytes_per_token


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("turboquant_k8v4", 196), ("turboquant_4bit_nc", 134), ("turboquant_k3v4_nc", 118), ("turboquant_3bit_nc", 102),
        ("ultraquant_4bit", 136), ("bf16", 512), ("nvfp4", 144), ("fp8_per_token_head", 264), ("int4_per_token_head", 136),
        ("exl2-q4", 144), ("q5_1", 192), ("q5_0", 176), ("q4_1", 160), ("iq4_nl", 144), ("mlx-4bit", 144), ("kivi-2bit", 96),
    ],
)  # fmt: skip
def test_one_head_of_128(name: str, expected: int) -> None:
    assert FORMATS[name].pair(128, 128) == expected


def test_ultraquant_of_256() -> None:
    assert FORMATS["ultraquant_4bit"].pair(256, 256) == 272


def test_edges_stay_whole_in_turboquant() -> None:
    shape = cache_shape(llama(32, 32, 8, 128), kv_dtype="turboquant_4bit_nc")
    assert shape.bytes_per_token == 4 * 8 * 512 + 28 * 8 * 134


def test_quantised_cache_keeps_its_last_tokens_whole() -> None:
    shape = cache_shape(llama(1, 8, 8, 64), kv_dtype="quanto-int4")
    packed, whole = 8 * 2 * (32 + 4), 8 * 2 * 128
    assert shape.sequence_bytes(1000) == 872 * packed + 128 * whole
    assert shape.sequence_bytes(100) == 100 * whole


def test_gated_delta_net_state() -> None:
    """36 of 48 layers of Qwen3-Next: bf16 convolution of kernel - 1 columns, fp32 state."""
    config = {
        "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2,
        "head_dim": 256, "vocab_size": 151936, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64, "intermediate_size": 64,
    }  # fmt: skip
    architecture = read_config(config)
    assert state_bytes_per_sequence(architecture) == 77_266_944
    assert cache_shape(architecture).bytes_per_token == 12 * 2 * 2 * 256 * 2


def test_mamba_state() -> None:
    """28 of 32 layers of Jamba-v0.1, all in bf16."""
    config = {
        "model_type": "jamba", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336, "vocab_size": 65536, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 256,
        "attn_layer_period": 8, "attn_layer_offset": 4, "num_experts": 16, "num_experts_per_tok": 2, "expert_layer_period": 2,
        "expert_layer_offset": 1,
    }  # fmt: skip
    assert state_bytes_per_sequence(read_config(config)) == 8_716_288


def test_cross_attention_of_a_listener() -> None:
    """Whisper large-v3 keeps 1500 encoder positions in 32 layers, and up to 448 tokens of its own."""
    config = {
        "model_type": "whisper", "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20,
        "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120, "vocab_size": 51866, "num_mel_bins": 128,
        "max_source_positions": 1500, "max_target_positions": 448, "num_hidden_layers": 32,
    }  # fmt: skip
    shape = cache_shape(read_config(config), kv_dtype="fp16", own_dtype="fp16")
    assert shape.cross_bytes(1500) == 245_760_000
    assert shape.sequence_bytes(448, encoder_tokens=1500) - shape.cross_bytes(1500) == 73_400_320


@given(st.sampled_from(sorted(FORMATS)), st.integers(1, 8), st.integers(1, 4096), st.integers(1, 4096))
def test_more_tokens_never_need_less(name: str, heads: int, first: int, second: int) -> None:
    shape = cache_shape(llama(4, heads, heads, 64), kv_dtype=name)
    low, high = sorted((first, second))
    assert shape.sequence_bytes(low) <= shape.sequence_bytes(high)


@given(st.integers(0, 6), st.integers(0, 6))
def test_splitting_never_needs_more_and_covers_the_whole(kv_power: int, degree_power: int) -> None:
    kv_heads, degree = 2**kv_power, 2**degree_power
    whole = llama(2, 64, kv_heads, 64)
    share = cache_shape(tensor_share(whole, degree)).bytes_per_token
    assert share <= cache_shape(whole).bytes_per_token <= share * degree


@given(st.sampled_from(sorted(FORMATS)), st.sampled_from([32, 64, 96, 128, 192, 256]))
def test_no_format_needs_more_than_fp32(name: str, width: int) -> None:
    assert 0 < FORMATS[name].pair(width, width) <= FORMATS["fp32"].pair(width, width)


def test_other_spellings() -> None:
    assert cache_format("FP8_E4M3").name == "fp8"
    assert cache_format("f16").name == "fp16"
