"""Ranks of serving engines: what each holds of a model."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.configs import CONFIGS
from vrameter.engines.ranks import Degrees, check_heads, ranks, stage_layers
from vrameter.errors import RequestError
from vrameter.model.architecture import Architecture
from vrameter.model.read import read_config

MODELS = {name: read_config(CONFIGS[name], name=name) for name in ("llama-3.1-8b", "llama-3.2-1b", "mixtral-8x7b")}


def size(share: Architecture) -> int:
    return sum(
        prod(tensor.shape)
        for component in share.loaded
        for tensors in (component.tensors, *(part.tensors for layer in component.layers for part in layer.parts))
        for tensor in tensors
    )


def test_uneven_stages() -> None:
    """What is left over goes to the stages before the last."""
    assert stage_layers(32, 4) == [8, 8, 8, 8]
    assert stage_layers(61, 4) == [15, 15, 16, 15]
    assert stage_layers(7, 3) == [2, 3, 2]


def test_a_vocabulary_is_padded_before_it_is_split() -> None:
    model = read_config({**CONFIGS["llama-2-7b"], "vocab_size": 32001}, name="padded")
    token = next(tensor for tensor in ranks(model, Degrees(tensor=2))[0].share.main.tensors if tensor.slot == "token")
    assert token.shape == (32064 // 2, 4096)


def test_tied_tables_are_on_both_ends() -> None:
    first, last = ranks(MODELS["llama-3.2-1b"], Degrees(pipeline=2))
    assert any(tensor.slot == "token" for tensor in first.share.main.tensors)
    assert any(tensor.slot == "token" for tensor in last.share.main.tensors)
    assert [(rank.first, rank.last, rank.is_last) for rank in (first, last)] == [(0, 8, False), (8, 16, True)]


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(RequestError, match="divisible") as found:
        check_heads(MODELS["llama-3.1-8b"], 6)
    assert "Use 4" in found.value.hint


def test_more_ranks_than_experts() -> None:
    with pytest.raises(RequestError, match="8 experts"):
        ranks(MODELS["mixtral-8x7b"], Degrees(tensor=16, experts=16, whole_experts=True))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.sampled_from([1, 2, 4, 8]), st.integers(1, 6), st.booleans())
def test_shards_hold_the_whole(name: str, tensor: int, stages: int, whole_experts: bool) -> None:
    degrees = Degrees(tensor, stages, tensor, whole_experts)
    shares = [size(rank.share) for rank in ranks(MODELS[name], degrees)]
    one = size(ranks(MODELS[name], Degrees())[0].share)
    assert max(shares) <= one
    assert sum(shares) * tensor >= one
