"""What autograd keeps of one layer: values measured on transformers' own code, then laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.scenes import LENGTH, SEQS, architecture, block_cost
from vrameter.training.programs.scene import AdapterUse

TOKENS = SEQS * LENGTH
# Measured with torch.autograd.graph.saved_tensors_hooks on transformers 5.23, distinct storages, bytes per token.
MEASURED = [
    ("llama", 2, 0, "sdpa", 11_304), ("llama", 2, 0, "eager", 14_856), ("llama", 4, 0, "sdpa", 20_520),
    ("llama", 4, 2, "sdpa", 25_384), ("qwen3", 2, 0, "sdpa", 13_656), ("gemma", 2, 0, "sdpa", 12_344),
    ("gemma2", 2, 0, "eager", 21_040), ("phi3", 2, 0, "sdpa", 12_584), ("olmo2", 4, 0, "eager", 26_640),
    ("stablelm", 4, 2, "eager", 26_896), ("gemma3_text", 2, 0, "sdpa", 19_586),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "element", "autocast", "kernel", "expected"), MEASURED)
def test_saved_bytes_equal_autograds(model_type: str, element: int, autocast: int, kernel: str, expected: int) -> None:
    """Byte for byte, the cast weights of autocast among them."""
    made = block_cost(architecture(model_type), element=element, autocast=autocast, kernel=kernel)
    assert made.saved == expected * TOKENS


@pytest.mark.parametrize(
    ("adapted", "autocast", "per_token", "per_module"),
    [
        (("q", "v"), 0, 9_960, 0),
        (("q", "k", "v", "o", "gate", "up", "down"), 0, 17_032, 0),
        (("q", "k", "v", "o", "gate", "up", "down"), 2, 12_440, 74_752),
    ],
)
def test_adapters_keep_their_own_inputs(
    adapted: tuple[str, ...], autocast: int, per_token: int, per_module: int
) -> None:
    """A frozen base in bf16, adapters in fp32: each adapted layer keeps its own copy of its input."""
    made = block_cost(architecture(), trained=False, adapter=AdapterUse(8, 4), adapted=adapted, autocast=autocast)
    assert made.saved == per_token * TOKENS + per_module


def test_all_linear_adapters_in_fp32_keep_more_than_full_training() -> None:
    model = architecture()
    everything = ("q", "k", "v", "o", "gate", "up", "down")
    adapters = block_cost(model, trained=False, adapter=AdapterUse(8, 4), adapted=everything)
    assert adapters.saved > block_cost(model).saved


def test_fused_kernels_keep_less() -> None:
    model = architecture()
    assert block_cost(model, fused=True).saved < block_cost(model).saved


@given(st.integers(1, 4), st.integers(8, 256), st.sampled_from(["sdpa", "eager"]))
def test_more_tokens_never_need_less(seqs: int, length: int, kernel: str) -> None:
    model = architecture()
    one = block_cost(model, seqs=seqs, length=length, kernel=kernel)
    more = block_cost(model, seqs=seqs, length=length + 8, kernel=kernel)
    assert more.saved > one.saved
    assert more.backward >= one.backward
    assert one.forward >= one.saved - one.fixed - one.output - length * seqs * 512
