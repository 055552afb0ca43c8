"""Groups of layers, blocks, and what one request takes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrameter.engines.vllm.blocks import Layout, Spec, grouped, unified

FULL = Spec("full", 16, 65536)
WINDOW = Spec("sliding", 16, 65536, window=1024)


def test_one_kind_is_one_group() -> None:
    (group,) = grouped([FULL] * 32)
    assert group.places == tuple(range(32))
    assert group.block_bytes(0, 32) == 32 * 65536
    assert group.block_bytes(8, 16) == 8 * 65536


def test_nearly_as_many_layers_of_each_kind_pad_to_the_larger() -> None:
    """12 and 8 layers: groups of eight where the slack is too small, of twelve with the newer slack of a half."""
    layers = [WINDOW] * 11 + [FULL] * 8
    assert [len(group.places) for group in grouped(layers, slack=125)] == [6, 5, 8]
    assert [len(group.places) for group in grouped(layers, slack=150)] == [11, 8]


def test_smaller_pages_hold_more_tokens() -> None:
    """Half the KV heads: twice the tokens in a page of the same size."""
    made = unified([FULL, Spec("full", 16, 32768)])
    assert [(spec.tokens, spec.page) for spec in made] == [(16, 65536), (32, 65536)]


def test_states_are_padded_to_a_page() -> None:
    made = unified([Spec("full", 528, 1_081_344), Spec("state", 4096, 1_000_000, states=1)])
    assert [spec.page for spec in made] == [1_081_344, 1_081_344]


def test_a_window_stops_growing() -> None:
    layout = Layout((*grouped([WINDOW]), *grouped([FULL])), in_flight=8192)
    short, long = layout.blocks_per_request(9215), layout.blocks_per_request(131_072)
    window = -(-(1023 + 8192) // 16) + 1
    assert short == window + 576
    assert long == window + 8192


def test_without_groups_a_window_keeps_everything() -> None:
    (group,) = grouped([WINDOW, FULL, WINDOW], split=False)
    assert group.blocks(32_768, 8192, 1) == 2048


@pytest.mark.parametrize("spare", [0, 1])
def test_the_longest_is_exact(spare: int) -> None:
    layout = Layout(grouped([FULL, WINDOW, WINDOW, FULL]), in_flight=2048, spare=spare)
    longest = layout.longest(500, 1 << 20)
    assert layout.blocks_per_request(longest) <= 500 - spare < layout.blocks_per_request(longest + 1)
    assert layout.longest(0, 100) == 0


specs = st.builds(
    Spec,
    st.sampled_from(["full", "sliding", "chunked"]),
    st.just(16),
    st.sampled_from([32768, 65536]),
    window=st.sampled_from([512, 4096]),
)


@given(st.lists(specs, min_size=1, max_size=40), st.integers(1, 100_000))
def test_every_layer_has_one_place_and_pages_are_alike(layers: list[Spec], tokens: int) -> None:
    groups = grouped(layers)
    assert sorted(place for group in groups for place in group.places) == list(range(len(layers)))
    if len(groups) > 1:
        assert len({spec.page for group in groups for spec in group.specs}) == 1
    layout = Layout(groups, in_flight=2048)
    assert layout.blocks_per_request(tokens) <= layout.blocks_per_request(tokens + 1)
    whole = layout.block_bytes()
    assert sum(layout.block_bytes(first, first + 1) for first in range(len(layers))) >= whole
