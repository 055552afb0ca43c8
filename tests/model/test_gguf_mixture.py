"""GGUF mixtures: types as llama.cpp's quantiser gave them to whole models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.gguf_files import table
from tests.gguf_hybrids import granite_hybrid, jamba, mamba, mamba2, qwen3next
from tests.gguf_models import (
    Made,
    bert,
    deepseek2,
    deepseek32,
    gemma2,
    gemma4,
    gpt_oss,
    llama,
    llama4,
    phi3,
    qwen2,
    qwen3moe,
)
from vrameter.model.from_gguf import architecture_of
from vrameter.model.gguf_mixture import mixture_types
from vrameter.sources import resolve

# Tensors of each type in files that llama.cpp (0c1e57098) made, without an importance matrix.
MADE: list[tuple[Callable[[], Made], str, dict[str, int]]] = [
    (bert, "q4_k_s", {"q6_k": 1, "f32": 124, "q4_k": 67, "q5_k": 5}),
    (bert, "q5_k_m", {"q6_k": 13, "f32": 124, "q5_k": 60}),
    (deepseek2, "q2_k", {"q6_k": 1, "q2_k": 483, "f32": 361, "q3_k": 180, "q4_0": 61}),
    (deepseek2, "q4_0", {"q6_k": 1, "q4_0": 724, "f32": 361}),
    (deepseek2, "q4_k_m", {"q6_k": 58, "q4_k": 606, "f32": 361, "q5_0": 61}),
    (deepseek32, "iq4_xs", {"q6_k": 1, "iq4_xs": 835, "f32": 483, "q5_k": 11, "iq4_nl": 61}),
    (gemma2, "q4_k_m", {"q6_k": 27, "q4_k": 156, "f32": 105}),
    (gemma4, "iq4_xs", {"f32": 422, "q6_k": 1, "iq4_xs": 403, "q5_k": 7}),
    (gemma4, "q4_k_m", {"f32": 422, "q6_k": 56, "q4_k": 355}),
    (gpt_oss, "mxfp4_moe", {"mxfp4": 72, "q8_0": 98, "f32": 289}),
    (granite_hybrid, "q4_k_m", {"q6_k": 43, "q4_k": 286, "f32": 337}),
    (jamba, "q2_k", {"q6_k": 1, "q2_k": 185, "f32": 305, "q3_k": 40}),
    (jamba, "q4_k_m", {"q6_k": 19, "q4_k": 207, "f32": 305}),
    (llama, "q3_k_m", {"f32": 66, "q3_k": 129, "q5_k": 4, "q4_k": 92, "q6_k": 1}),
    (llama, "q4_k_m", {"f32": 66, "q4_k": 193, "q6_k": 33}),
    (llama4, "q2_k", {"f32": 146, "q2_k": 289, "q4_k": 48, "q3_k": 144, "q6_k": 1}),
    (mamba, "q2_k", {"q6_k": 1, "f32": 385, "q2_k": 192, "q4_0": 64}),
    (mamba, "q4_k_m", {"q6_k": 1, "f32": 385, "q4_k": 192, "q5_0": 64}),
    (mamba2, "q3_k_m", {"q3_k": 129, "f32": 449, "q6_k": 1}),
    (phi3, "q3_k_m", {"q3_k": 33, "q4_k": 92, "q5_k": 4, "f32": 65, "q6_k": 1}),
    (qwen2, "q4_k_m", {"q8_0": 13, "q5_0": 132, "f32": 121, "q6_k": 12, "q4_k": 12}),
    (qwen2, "q5_k_m", {"q8_0": 13, "q5_1": 132, "f32": 121, "q6_k": 12, "q5_k": 12}),
    (qwen3moe, "q2_k", {"q6_k": 1, "q2_k": 193, "f32": 241, "q3_k": 96, "q4_k": 48}),
    (qwen3moe, "q4_k_m", {"q6_k": 49, "q4_k": 289, "f32": 241}),
    (qwen3next, "q4_k_m", {"q6_k": 73, "q4_k": 409, "f32": 361}),
    (qwen3next, "q4_k_s", {"q6_k": 1, "q4_k": 465, "f32": 361, "q5_k": 16}),
]


@pytest.mark.parametrize(("make", "mixture", "expected"), MADE)
def test_types_of_a_file(make: Callable[[], Made], mixture: str, expected: dict[str, int]) -> None:
    """A file quantised anew gets the types that llama.cpp gives it."""
    found = mixture_types(architecture_of(table(*make())), mixture)
    assert Counter(piece.type for pieces in found.values() for piece in pieces) == expected


# The same from the config.json, which does not know that Llama 3.1's and Gemma 4's files hold factors of positions.
FROM_CONFIGS = [
    ("openai/gpt-oss-20b", "mxfp4_moe", {"mxfp4": 72, "q8_0": 98, "f32": 289}),
    ("ibm-granite/granite-4.0-h-small", "q4_k_m", {"q6_k": 43, "q4_k": 286, "f32": 337}),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", "q4_k_m", {"q6_k": 73, "q4_k": 409, "f32": 361}),
    ("ai21labs/AI21-Jamba-Mini-1.7", "q2_k", {"q6_k": 1, "q2_k": 185, "f32": 305, "q3_k": 40}),
    ("deepseek-ai/DeepSeek-V3.2", "iq4_xs", {"q6_k": 1, "iq4_xs": 835, "f32": 483, "q5_k": 11, "iq4_nl": 61}),
    ("Qwen/Qwen2.5-0.5B-Instruct", "q4_k_m", {"q8_0": 13, "q5_0": 132, "f32": 121, "q6_k": 12, "q4_k": 12}),
]


@pytest.mark.parametrize(("name", "mixture", "expected"), FROM_CONFIGS)
def test_types_of_a_config(name: str, mixture: str, expected: dict[str, int]) -> None:
    """Matrices that converters split or fuse are counted as the file holds them."""
    architecture = resolve(name).architecture
    assert architecture is not None
    found = mixture_types(architecture, mixture)
    assert Counter(piece.type for pieces in found.values() for piece in pieces) == expected


def test_experts_of_gemma_4_stay_fused() -> None:
    """One matrix for gate and up, whose rows fall back to smaller blocks where they must."""
    architecture = resolve("google/gemma-4-26B-A4B").architecture
    assert architecture is not None
    found = mixture_types(architecture, "q4_k_m")
    names = [name for _, _, name in found if name.endswith("experts.gate_up_proj")]
    assert len(names) == 30
    assert all(len(pieces) == 1 for (_, _, name), pieces in found.items() if name in names)
