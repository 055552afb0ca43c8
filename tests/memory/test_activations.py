"""Activations of a pass without gradients: widths counted at the allocator, then laws."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrameter.memory import activations as act
from vrameter.memory.runtime import blas_workspace
from vrameter.model.read import read_config


def toy(**changes: Any) -> Any:
    """Return the small Llama of the counts: hidden size 512, 8 heads, 2 KV heads."""
    return read_config(
        {
            "model_type": "llama", "hidden_size": 512, "intermediate_size": 1792, "num_hidden_layers": 2, "vocab_size": 256,
            "num_attention_heads": 8, "num_key_value_heads": 2, **changes,
        }
    ).main  # fmt: skip


@pytest.mark.parametrize(("intermediate", "expected"), [(1792, 15_112), (4096, 28_936)])
def test_bytes_per_token_of_a_llama_block(intermediate: int, expected: int) -> None:
    """Counted at PyTorch's allocator in bf16 with SDPA, 1,024 tokens, no cache."""
    widths = act.widest(toy(intermediate_size=intermediate))
    assert widths.certain
    got = act.activation_bytes(num_tokens=1, block_width=widths.block, rotary_width=widths.rotary, element_bytes=2)
    assert got == expected


@pytest.mark.parametrize(("tokens", "expected"), [(1024, 90_888), (2048, 174_856)])
def test_eager_attention_adds_its_scores(tokens: int, expected: int) -> None:
    """Counted likewise with eager attention: the attention half of the block, and 82 bytes for each pair of tokens."""
    widths = act.widest(toy(), kernel="eager")
    scores = act.attention_score_bytes(
        num_seqs=1, num_heads=8, num_queries=tokens, num_keys=tokens, element_bytes=2
    )  # fmt: skip
    block = act.activation_bytes(
        num_tokens=tokens, block_width=widths.attention, rotary_width=widths.rotary, element_bytes=2
    )
    assert (scores + block) / tokens == pytest.approx(expected, rel=0.01)


def test_a_long_prompt_of_llama_31_8b() -> None:
    """8,192 tokens: 0.906 GiB without rotary tables and positions."""
    widths = act.widest(
        read_config(
            {
                "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256,
                "num_attention_heads": 32, "num_key_value_heads": 8,
            }
        ).main
    )  # fmt: skip
    assert widths.block == 4 * 4096 + 3 * 14336
    assert 2 * widths.block * 8192 / 2**30 == pytest.approx(0.906, abs=1e-3)


@pytest.mark.parametrize(
    ("capability", "expected"), [("8.0", 8_519_680), ("8.9", 8_519_680), ("9.0", 33_554_432), ("12.0", 33_554_432)]
)
def test_workspace_of_the_matrix_library(capability: str, expected: int) -> None:
    from dataclasses import replace

    from vrameter import devices

    device = replace(devices.find("a100"), compute_capability=capability)
    assert blas_workspace(device) == expected


@given(st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 512), st.sampled_from([2, 4]))
def test_more_tokens_never_need_less(tokens: int, width: int, rotary: int, element: int) -> None:
    one = act.activation_bytes(num_tokens=tokens, block_width=width, rotary_width=rotary, element_bytes=element)
    more = act.activation_bytes(num_tokens=tokens + 1, block_width=width, rotary_width=rotary, element_bytes=element)
    assert more > one
