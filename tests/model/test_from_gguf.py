"""Architectures of GGUF files: as llama.cpp counts them, and as the readers of configs describe the same models."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.configs import model
from tests.gguf_files import stored, table
from tests.gguf_hybrids import HYBRIDS, every, granite_hybrid, jamba, kimi_linear, lfm2, mamba, mamba2, qwen3next, rwkv7
from tests.gguf_models import (
    Made,
    bert,
    deepseek2,
    deepseek4,
    deepseek32,
    gemma2,
    gemma3,
    gemma4,
    glm4moe,
    gpt_oss,
    llama,
    llama4,
    mmproj,
    phi3,
    qwen2,
    qwen3moe,
    t5,
)
from vrameter.errors import ConfigError
from vrameter.memory.kv_cache import cache_shape
from vrameter.memory.state_cache import state_bytes_per_sequence
from vrameter.memory.weights import weight_plan
from vrameter.model.architecture import Architecture, Attention, FeedForward, LatentAttention, Recurrent
from vrameter.model.from_gguf import architecture_of
from vrameter.model.from_gguf.keys import Keys
from vrameter.model.from_gguf.names import KNOWN, stem, use_of
from vrameter.model.from_gguf.windows import WINDOWED, windows
from vrameter.model.read import read_config
from vrameter.sources import resolve


def read(made: Made, types: str = "f16") -> Architecture:
    return architecture_of(table(*made, types))


# Parameters and tensors that llama.cpp (0c1e57098) counted in converted models. [elements]
COUNTED: list[tuple[Callable[[], Made], int, int]] = [
    (llama, 8_030_261_312, 292), (qwen2, 494_032_768, 290), (qwen3moe, 30_532_122_624, 579),
    (gemma2, 2_614_341_888, 288), (gpt_oss, 20_914_757_184, 459), (deepseek2, 671_026_419_200, 1086),
    (phi3, 3_821_079_552, 195), (bert, 108_891_648, 197), (mamba, 2_768_345_600, 642),
    (qwen3next, 79_674_391_296, 843), (gemma4, 30_697_345_596, 833), (llama4, 107_769_861_184, 628),
    (deepseek32, 671_877_944_064, 1391), (jamba, 51_570_323_328, 531), (granite_hybrid, 32_207_337_984, 666),
    (mamba2, 7_285_403_648, 579),
]  # fmt: skip


@pytest.mark.parametrize(("make", "elements", "tensors"), COUNTED)
def test_counts_of_llama_cpp(make: Callable[[], Made], elements: int, tensors: int) -> None:
    """Nothing of a file is lost or counted twice."""
    made = make()
    assert len(made[2]) == tensors
    assert read(made).num_stored_params == elements


CONFIGS: dict[str, dict[str, Any]] = {
    "gemma2": {
        "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
        "sliding_window": 4096,
    },
    "gemma3": {
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 1152, "intermediate_size": 6912,
        "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
        "sliding_window": 512, "sliding_window_pattern": 6,
    },
    "glm4moe": {
        "model_type": "glm4_moe", "architectures": ["Glm4MoeForCausalLM"], "hidden_size": 4096, "intermediate_size": 10944,
        "moe_intermediate_size": 1408, "num_hidden_layers": 46, "num_attention_heads": 96, "num_key_value_heads": 8,
        "head_dim": 128, "attention_bias": True, "vocab_size": 151552, "n_routed_experts": 128, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1, "tie_word_embeddings": False,
        "use_qk_norm": False,
    },
    "t5": {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 512, "d_kv": 64, "d_ff": 1024,
        "num_layers": 8, "num_decoder_layers": 8, "num_heads": 6, "vocab_size": 32128, "tie_word_embeddings": False,
        "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 32,
    },
}  # fmt: skip


def listed(name: str) -> Architecture:
    """Return a model of the catalogue."""
    architecture = resolve(name).architecture
    assert architecture is not None
    return architecture


SAME: list[tuple[Callable[[], Made], Callable[[], Architecture]]] = [
    (lambda: llama(rope=False), lambda: model("llama-3.1-8b")), (qwen2, lambda: model("qwen2.5-0.5b")),
    (qwen3moe, lambda: model("qwen3-30b-a3b")), (gpt_oss, lambda: model("gpt-oss-20b")),
    (deepseek2, lambda: model("deepseek-v3")), (gemma2, lambda: read_config(CONFIGS["gemma2"])),
    (gemma3, lambda: read_config(CONFIGS["gemma3"])), (glm4moe, lambda: read_config(CONFIGS["glm4moe"])),
    (t5, lambda: read_config(CONFIGS["t5"])), (mamba, lambda: listed("state-spaces/mamba-2.8b-hf")),
    (mamba2, lambda: listed("mistralai/Mamba-Codestral-7B-v0.1")), (jamba, lambda: listed("ai21labs/AI21-Jamba-Mini-1.7")),
    (granite_hybrid, lambda: listed("ibm-granite/granite-4.0-h-small")), (lfm2, lambda: listed("LiquidAI/LFM2-1.2B")),
    (qwen3next, lambda: listed("Qwen/Qwen3-Next-80B-A3B-Instruct")), (deepseek32, lambda: listed("deepseek-ai/DeepSeek-V3.2")),
    (deepseek4, lambda: listed("deepseek-ai/DeepSeek-V4-Flash")),
]  # fmt: skip


def facts(architecture: Architecture) -> dict[str, object]:
    """Return what memory goes by."""
    cache = cache_shape(architecture)
    return {
        "params": architecture.num_params,
        "active": architecture.num_active_params,
        "embeddings": architecture.num_embedding_params,
        "buffers": architecture.num_buffer_elements,
        "tied": len(architecture.tied),
        "cache": [cache.sequence_bytes(length, encoder_tokens=100) for length in (100, 4096, 100_000)],
        "state": state_bytes_per_sequence(architecture),
        "mixers": sorted(
            {_sizes(part) for layer in architecture.main.layers for part in layer.parts if isinstance(part, Recurrent)}
        ),
        "hidden": architecture.main.hidden_size,
        "layers": len(architecture.main.layers),
        "vocabulary": architecture.main.vocab_size,
        "experts": sorted(
            {
                (part.num_experts, part.num_experts_per_token, part.intermediate_size, part.shared_size, part.gated)
                for layer in architecture.main.layers
                for part in layer.parts
                if isinstance(part, FeedForward)
            }
        ),
    }


def _sizes(part: Recurrent) -> tuple[object, ...]:
    return (
        part.kind, part.num_heads, part.head_dim, part.state_size, part.num_groups, part.conv_channels, part.conv_kernel,
        part.state_elements, part.state_fp32, part.inner_size,
    )  # fmt: skip


@pytest.mark.parametrize(("make", "build"), SAME, ids=lambda value: getattr(value, "__name__", ""))
def test_same_as_from_the_config(make: Callable[[], Made], build: Callable[[], Architecture]) -> None:
    """A model's file and its config.json describe one model: counts, caches, experts."""
    assert facts(read(make())) == facts(build())


@pytest.mark.parametrize("made", list(every()), ids=lambda made: made[0])
def test_weights_are_the_sum_of_the_table(made: Made) -> None:
    """Every tensor of every model counts once, those that are not loaded apart."""
    held = table(*made)
    architecture = architecture_of(held)
    skipped = sum(tensor.num_bytes for tensor in held.tensors if _predicts(tensor.name, made))
    assert weight_plan(architecture, table=held).of().total == held.num_bytes - skipped
    names = {name for component in architecture.components for name, _, _ in component.named_tensors()}
    assert names == set(made[2])
    assert architecture.notes == ()


def _predicts(name: str, made: Made) -> bool:
    predicting = made[1].get("nextn_predict_layers", 0)
    last = made[1].get("block_count", 0) - predicting
    return bool(predicting) and name.startswith("blk.") and int(name.split(".")[1]) >= last


def first(architecture: Architecture, kind: type) -> Any:
    return next(part for layer in architecture.main.layers for part in layer.parts if isinstance(part, kind))


def test_files_from_before_the_latent_cache() -> None:
    """A file without what latent attention needs caches all keys and values, as llama.cpp then does."""
    old, new = read(deepseek2(latent=False)), read(deepseek2())
    assert isinstance(old.main.layers[0].parts[0], Attention)
    assert isinstance(new.main.layers[0].parts[0], LatentAttention)
    assert cache_shape(old).bytes_per_token == 61 * 128 * (192 + 128) * 2
    assert cache_shape(new).bytes_per_token == 61 * (512 + 64) * 2


def test_windows_that_llama_cpp_passes_over() -> None:
    """Phi-3 caches the whole context whatever its file says of a window."""
    assert cache_shape(read(phi3())).window_bytes_per_token == 0


# Elements of the convolution's columns and of the state in one layer, as llama.cpp sizes them.
STATES: list[tuple[Callable[[], Made], str, int, int]] = [
    (mamba, "mamba", 3 * 5120, 16 * 5120), (HYBRIDS["falcon-h1"], "mamba2", 3 * (1536 + 256), 128 * 1536),
    (HYBRIDS["nemotron_h"], "mamba2", 3 * (8192 + 2 * 8 * 128), 128 * 8192),
    (qwen3next, "gated_delta_net", 3 * (4096 + 2 * 16 * 128), 128 * 4096), (lfm2, "short_conv", 2 * 2048, 0),
    (rwkv7, "rwkv", 2 * 768, 768 * 64), (kimi_linear, "kda", 3 * 3 * 4096, 128 * 128 * 32),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "columns", "state"), STATES)
def test_recurrent_states(make: Callable[[], Made], kind: str, columns: int, state: int) -> None:
    """``n_embd_r`` and ``n_embd_s`` of llama.cpp, from the keys."""
    part = first(read(make()), Recurrent)
    assert part.kind == kind
    assert part.conv_channels * (part.conv_kernel - 1) == columns
    assert part.state_elements == state


# Caches that llama.cpp (0c1e57098) planned in f16: cells, and for growing and windowed layers how many of them and MiB.
CACHES: list[tuple[Callable[[], Made], tuple[int, int, float], tuple[int, int, float]]] = [
    (gemma4, (33024, 10, 2580.0), (9216, 50, 7200.0)), (llama4, (32768, 12, 1536.0), (32768, 36, 4608.0)),
    (jamba, (4096, 4, 64.0), (0, 0, 0)), (granite_hybrid, (32768, 4, 512.0), (0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("make", "growing", "windowed"), CACHES)
def test_caches_of_llama_cpp(
    make: Callable[[], Made], growing: tuple[int, int, float], windowed: tuple[int, int, float]
) -> None:
    """Layers that keep everything and layers that keep a window, each as wide as it is."""
    groups = cache_shape(read(make())).layers
    for bounded, (cells, layers, mib) in ((False, growing), (True, windowed)):
        found = [group for group in groups if (group.limit is not None) == bounded]
        assert sum(group.count for group in found) == layers
        assert sum(group.count * group.entry_bytes for group in found) * cells == mib * 2**20


def test_cache_of_an_indexer() -> None:
    """343.125 MiB of latent vectors and 76.25 MiB of the indexer's keys for 5120 tokens, as llama.cpp planned them."""
    shape = cache_shape(read(deepseek32()))
    assert shape.sequence_bytes(5120) == (343.125 + 76.25) * 2**20


# MiB of one sequence's states that llama.cpp (0c1e57098) planned, all in fp32.
PLANNED_STATES: list[tuple[Callable[[], Made], float]] = [
    (mamba, 71.25 / 3), (mamba2, 527.0 / 2), (jamba, 49.875 / 3), (granite_hybrid, 589.921875 / 4),
]  # fmt: skip


@pytest.mark.parametrize(("make", "mib"), PLANNED_STATES)
def test_states_of_llama_cpp(make: Callable[[], Made], mib: float) -> None:
    """Columns and states of all layers."""
    mixers = [part for layer in read(make()).main.layers for part in layer.parts if isinstance(part, Recurrent)]
    elements = sum(part.conv_channels * (part.conv_kernel - 1) + part.state_elements for part in mixers)
    assert 4 * elements == pytest.approx(mib * 2**20, rel=1e-6)


def test_state_of_qwen3_next() -> None:
    """73.69 MiB a sequence, bf16 columns and fp32 states (vLLM, mamba_utils)."""
    assert state_bytes_per_sequence(read(qwen3next())) == 77_266_944
    assert facts(read(qwen3next())) == facts(read(qwen3next(fused=False)))


@pytest.mark.parametrize(
    ("make", "attending"),
    [(mamba, 0), (rwkv7, 0), (HYBRIDS["falcon-h1"], 36), (HYBRIDS["nemotron_h"], 2), (qwen3next, 12), (lfm2, 6), (kimi_linear, 2)],
)  # fmt: skip
def test_layers_that_cache(make: Callable[[], Made], attending: int) -> None:
    """Only layers with attention cache; a mixer's borrowed matrices are none."""
    assert sum(group.count for group in cache_shape(read(make())).layers) == attending


def test_projector_files() -> None:
    """A vision tower and what projects it, no decoder."""
    architecture = read(mmproj())
    assert [(component.kind, len(component.layers)) for component in architecture.components] == [
        ("vision", 23), ("projector", 0),
    ]  # fmt: skip
    tower = architecture.components[0]
    assert first(architecture, Attention).num_heads == 16
    assert tower.max_positions == 576
    assert cache_shape(architecture).layers == ()


def test_towers_inside_a_model() -> None:
    """A file that holds language model and tower, as Ollama writes them, gives both."""
    name, keys, shapes = qwen2()
    both = architecture_of(table(name, keys, {**shapes, **mmproj()[2]}))
    assert both.num_params == read(qwen2()).num_params + read(mmproj()).num_params
    assert {component.kind for component in both.components} == {"decoder", "vision", "projector"}


def test_fused_matrices() -> None:
    """Phi-3 makes gate and up in one matrix, which shows in its rows."""
    part = first(read(phi3()), FeedForward)
    assert (part.gated, part.intermediate_size) == (True, 8192)
    assert any(tensor.slot == "gate_up" for tensor in part.tensors)


def test_experts_stored_one_by_one() -> None:
    """Mixtral files of 2023: every expert a tensor of its own."""
    name, keys, shapes = llama(layers=2, hidden=64, width=128, heads=4, kv=2, vocab=100)
    single = {key: shape for key, shape in shapes.items() if ".ffn_" not in key or "norm" in key}
    for number in range(2):
        single[f"blk.{number}.ffn_gate_inp.weight"] = (8, 64)
        for expert in range(8):
            single |= {f"blk.{number}.ffn_{kind}.{expert}.weight": (128, 64) for kind in ("gate", "up")}
            single[f"blk.{number}.ffn_down.{expert}.weight"] = (64, 128)
    found = architecture_of(table(name, {**keys, "expert_count": 8, "expert_used_count": 2}, single))
    part = first(found, FeedForward)
    assert (part.num_experts, part.num_experts_per_token, part.intermediate_size) == (8, 2, 128)
    assert found.num_params - found.num_active_params == 2 * 6 * 3 * 64 * 128


def test_layers_that_share_a_cache() -> None:
    """Gemma 3n's layers from the twentieth on, Gemma 4's last ones by number, keep nothing."""
    _, keys, shapes = gemma3()
    whole = cache_shape(architecture_of(table("gemma3n", keys, shapes))).layers
    assert sum(group.count for group in whole) == 20
    listed = [index % 6 != 5 for index in range(26)]
    keys = {**keys, "attention.shared_kv_layers": 10, "attention.sliding_window_pattern": listed}
    assert sum(group.count for group in cache_shape(architecture_of(table("gemma4", keys, shapes))).layers) == 16


# -- names and windows -----------------------------------------------------------------------------------


def test_every_tensor_of_gguf_py_has_a_use() -> None:
    """No module of a language model that llama.cpp can load counts in a line for the unknown."""
    constants = pytest.importorskip("gguf.constants")
    names = {
        name.removeprefix("enc.").removeprefix("dec.").removeprefix("blk.{bid}.")
        for name in constants.TENSOR_NAMES.values()
    }
    text = {name for name in names if not name.startswith(("v.", "a.", "mm.", "resampler.", "s."))}
    assert {name for name in text if use_of(stem(name.format(bid=0))) is None} == set()


def test_roles_of_known_names() -> None:
    """Matrices are matrices, norms are not."""
    assert all(use.role for use in KNOWN.values())
    assert not any(use.matrix for name, use in KNOWN.items() if use.role in ("norm", "router"))


def test_unknown_architectures() -> None:
    """One whose tensors are known is read with a warning; one of other tensors is refused by name."""
    _, keys, shapes = qwen2()
    found = architecture_of(table("qwen9", keys, shapes))
    assert found.num_params == read(qwen2()).num_params
    assert any("qwen9" in note for note in found.notes)
    with pytest.raises(ConfigError, match="flux"):
        architecture_of(table("flux", {}, {"double_blocks.0.img_attn.qkv.weight": (9, 3)}))


def test_tensors_that_are_not_known() -> None:
    """They weigh what they weigh, and are told."""
    name, keys, shapes = qwen2()
    held = table(name, keys, {**shapes, "blk.0.mystery.weight": (896, 896)})
    found = architecture_of(held)
    assert any("blk.0.mystery.weight" in note for note in found.notes)
    assert weight_plan(found, table=held).of().total == held.num_bytes


@pytest.mark.parametrize(
    ("name", "keys", "full"),
    [
        ("gemma2", {}, [1, 3, 5, 7]), ("gemma3", {"attention.sliding_window": 512}, [5]), ("gemma3", {}, list(range(8))),
        ("gemma3n", {"attention.sliding_window": 512}, [4]), ("gpt-oss", {"attention.sliding_window": 128}, [1, 3, 5, 7]),
        ("cohere2", {"attention.sliding_window": 4096}, [3, 7]), ("llama4", {}, [3, 7]),
        ("llama4", {"attention.sliding_window": 0}, list(range(8))), ("smallthinker", {"attention.sliding_window": 9}, [0, 4]),
        ("modern-bert", {"attention.sliding_window": 128}, [0, 3, 6]), ("lfm2", {"attention.sliding_window": 128}, []),
        ("exaone4", {"attention.sliding_window": 4096}, list(range(8))), ("llama", {"attention.sliding_window": 4096}, list(range(8))),
        ("gemma3", {"attention.sliding_window": 512, "attention.sliding_window_pattern": 4}, [3, 7]),
        ("mimo2", {"attention.sliding_window": 128, "attention.sliding_window_pattern": [0, 1, 1, 1, 1, 0, 1, 1]}, [0, 5]),
    ],
)  # fmt: skip
def test_windows(name: str, keys: dict[str, Any], full: list[int]) -> None:
    """Which of eight layers look at everything, as llama.cpp's loaders set it."""
    found = windows(name, Keys({f"{name}.{key}": value for key, value in keys.items()}, name), 8)
    assert [index for index, (scope, _) in enumerate(found) if scope == "full"] == full


def test_windows_of_forced_width() -> None:
    """Llama 4 attends in chunks of 8192 tokens and SmallThinker to 4096, whatever the file says."""
    for name, scope, width in (("llama4", "chunked", 8192), ("smallthinker", "sliding", 4096)):
        keys = Keys({f"{name}.attention.sliding_window": 7}, name)
        assert (scope, width) in windows(name, keys, 8)
    assert all(rule.period >= -1 for rule in WINDOWED.values())


def test_elements_are_kept() -> None:
    """Shapes in a table are those of the file, turned round once."""
    assert all(prod(tensor.shape) for tensor in stored(qwen2()[2]))


LIES = [
    0,
    1,
    -1,
    3,
    4096,
    2**31,
    2**63,
    True,
    1.5,
    "x",
    [],
    [1],
    [0, 1, 2],
    [True, False],
    ["a"],
    {"type": "string"},
    None,
]
SMALL = [
    (name, {**keys, "block_count": min(keys.get("block_count", 0), 6)},
     {tensor: shape for tensor, shape in shapes.items() if not re.match(r"(v\.|enc\.|dec\.)?blk\.([6-9]|\d\d)", tensor)})
    for name, keys, shapes in every()
]  # fmt: skip


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_files_that_lie(data: st.DataObject) -> None:
    """Whatever keys and tensors say, a model comes out or one clear error, and no tensor counts twice."""
    name, keys, shapes = data.draw(st.sampled_from(SMALL))
    keys, shapes = dict(keys), dict(shapes)
    for _ in range(data.draw(st.integers(0, 3))):
        keys[data.draw(st.sampled_from(sorted(keys)))] = data.draw(st.sampled_from(LIES))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.sampled_from(sorted(shapes)))
        shape = data.draw(st.none() | st.lists(st.sampled_from([0, 1, 3, 256]), max_size=4).map(tuple))
        shapes.pop(place) if shape is None else shapes.update({place: shape})
    with suppress(ConfigError):
        held = table(name, keys, shapes)
        architecture = architecture_of(held)
        assert weight_plan(architecture, table=held).of().total <= held.num_bytes
        assert cache_shape(architecture).sequence_bytes(1000) >= 0
        assert state_bytes_per_sequence(architecture) >= 0
        assert architecture.num_active_params <= architecture.num_params
