"""The allocator and the scheduler on graphs small enough to work out by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vrameter.engines.llama_cpp.graph import tensors as op
from vrameter.engines.llama_cpp.graph.allocator import Space, allocate
from vrameter.engines.llama_cpp.graph.model import shortened
from vrameter.engines.llama_cpp.graph.scheduler import Devices, Graph, Scheduler
from vrameter.engines.llama_cpp.graph.tensors import Node


def high_water(*results: Node) -> int:
    graph = Graph()
    for node in results:
        graph.expand(node)
    space = Space(alignment=128)
    allocate(graph.nodes, [0] * len(graph.nodes), [], [space], lambda node, buffer: node.num_bytes)
    return space.high_water


def weight(*ne: int) -> Node:
    made = op.leaf("f32", *ne)
    made.home, made.weight = 0, True
    return made


def test_best_fit_takes_the_smallest_hole_and_holes_count() -> None:
    space = Space(alignment=128)
    big, _, small, _ = (space.take(size) for size in (1000, 128, 300, 128))
    space.give(big, 1000)
    space.give(small, 300)
    assert space.take(256) == 1152  # in the hole of 384, not in that of 1024
    assert space.take(2000) == 1664  # no hole is large enough: at the end
    assert space.high_water == 1664 + 2048


def test_neighbours_join_when_they_are_given_back() -> None:
    space = Space(alignment=128)
    places = [space.take(128) for _ in range(4)]
    for place in (places[0], places[2], places[1]):
        space.give(place, 128)
    assert space.take(384) == 0


def test_a_sum_works_in_place_of_what_nothing_else_reads() -> None:
    first = op.mul_mat(weight(64, 32), weight(64, 8))
    second = op.mul_mat(weight(64, 32), weight(64, 8))
    added = op.same("add", first, second)
    added.output = True
    assert high_water(added) == 2 * 32 * 8 * 4


def test_a_residual_lives_across_what_is_added_to_it() -> None:
    start = op.mul_mat(weight(64, 32), weight(64, 8))
    wide = op.mul_mat(weight(32, 256), start)
    narrow = op.mul_mat(weight(256, 32), wide)
    added = op.same("add", narrow, start)
    added.output = True
    size = 32 * 8 * 4
    assert high_water(added) == size + 256 * 8 * 4 + size


def test_weights_on_the_host_are_copied_for_large_batches_alone() -> None:
    def compute(rows: int) -> list[int]:
        held = op.leaf("f32", 64, 32)
        held.home, held.weight = 1, True
        given = op.leaf("f32", 64, rows)
        given.input = True
        made = op.mul_mat(held, given)
        made.output = True
        graph = Graph()
        graph.expand(made)
        devices = Devices(1, lambda node: True, lambda node: node.num_bytes)
        return Scheduler(graph, devices).sizes()

    assert compute(31)[0] == 0
    assert compute(32)[0] == 64 * 32 * 4 + 64 * 32 * 4 + 32 * 32 * 4


class Layer:
    """What shortening sees of a layer."""

    def __init__(self, key: str) -> None:
        self.key = key


@given(st.lists(st.sampled_from("ab"), max_size=30), st.integers(2, 5))
def test_shortening_keeps_both_ends_and_every_kind(keys: list[str], repeats: int) -> None:
    kept = [layer.key for layer in shortened([Layer(key) for key in keys], repeats)]  # type: ignore[misc]
    assert set(kept) == set(keys)
    assert len(kept) <= len(keys)
    assert kept[-1:] == keys[-1:]
    assert kept[:1] == keys[:1]


def test_runs_and_alternating_layers_are_cut() -> None:
    assert len(shortened([Layer("a")] * 40, 3)) == 3  # type: ignore[list-item]
    assert len(shortened([Layer("a"), Layer("b")] * 20, 3)) == 6  # type: ignore[list-item]
