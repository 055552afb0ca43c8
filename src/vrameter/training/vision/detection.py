"""Losses of detectors: what they keep of scores, boxes and masks, and what matching boxes to positions takes meanwhile.

Sizes depend on the images' contents. Assumed are `OBJECTS` an image on the average, after four images were put together
to one, and `CROWDED` in the fullest image of a batch.

References
----------
.. [1] Ultralytics YOLOv5 v7.0, ``utils/loss.py``, ``utils/segment/loss.py``: each object is matched to up to three positions of
       every anchor whose sides differ by less than four times.
.. [2] Ultralytics 8.3, ``utils/loss.py``, ``utils/tal.py``: the ten best positions of each object; C. Feng et al., "TOOD", 2021,
       arXiv:2108.07755.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vrameter.training.graph import Graph, Value

if TYPE_CHECKING:
    from vrameter.training.vision.tape import Tape

OBJECTS, CROWDED = 16, 64
# Positions that an object is matched to: four of nine anchors at three positions; ten.
MATCHES_ANCHORED, MATCHES_BEST = 12, 10
ANCHORS, SIDES = 3, 4
# Bytes for each pair of an object and a position while objects are matched: distances to four sides twice, overlaps, scores,
# metrics, and counts.
PAIR_BYTES = 2 * SIDES * 4 + 4 * 4 + 2


def loss(
    tape: Tape, maps: Sequence[Value], classes: int, *, proto: Value | None, mixed: Value | None, anchored: bool
) -> Value:
    """Run a detector's loss and return the number that it ends in."""
    graph = tape.graph
    if anchored:
        parts = _anchored(tape, maps)
        matches = tape.batch * OBJECTS * MATCHES_ANCHORED
        source = maps[-1]
    else:
        parts = _distributed(tape, maps, classes)
        matches = tape.batch * OBJECTS * MATCHES_BEST
        source = mixed if mixed is not None else maps[-1]
    if proto is not None:
        parts.append(_masks(graph, proto, source, matches, tape.batch))
    return graph.op(parts, 1, rows=1, element=4)


def _anchored(tape: Tape, maps: Sequence[Value]) -> list[Value]:
    """Compare whether there is an object at each anchor, and the matched boxes."""
    graph = tape.graph
    parts = []
    for x in maps:
        score = graph.op([x], ANCHORS, element=4)
        wanted = graph.new(x.rows, ANCHORS, 4)
        parts.append(graph.op([score], 1, rows=1, saves=[score, wanted]))
        chosen = graph.op([x], x.width // ANCHORS, rows=tape.batch * OBJECTS * MATCHES_ANCHORED // len(maps), element=4)
        parts.append(graph.op([chosen], 1, rows=1, saves=[chosen], saves_output=False))
    return parts


def _distributed(tape: Tape, maps: Sequence[Value], classes: int) -> list[Value]:
    """Put all positions together; compare scores of all, distances of those that are matched."""
    graph = tape.graph
    rows = sum(x.rows for x in maps)
    whole = graph.op(list(maps), maps[0].width, rows=rows)
    distances, scores = graph.halves(whole, [whole.width - classes, classes])
    distances, scores = graph.copy(distances), graph.copy(scores)
    share = graph.pointwise(graph.cast(distances, 4), keeps="output")
    sides = graph.matmul(graph.cast(share, distances.element), graph.constant(1, 1, distances.element), rows, SIDES)
    graph.touch(rows * CROWDED * PAIR_BYTES)
    wide = graph.cast(scores, 4)
    wanted = graph.new(rows, classes, 4)
    each = graph.op([wide], saves=[wide, wanted])
    return [graph.op([each], 1, rows=1), graph.op([sides], 1, rows=1, saves=[sides])]


def _masks(graph: Graph, proto: Value, coefficients: Value, matches: int, batch: int) -> Value:
    """Mix a mask for each matched position and compare it with the object's."""
    area = proto.rows // batch
    mixed = graph.op([proto, coefficients], area, rows=matches, saves=[proto])
    wide = graph.cast(mixed, 4)
    del mixed
    wanted = graph.new(matches, area, 4)
    each = graph.op([wide], saves=[wide, wanted])
    inside = graph.new(matches, area, 1)
    return graph.op([graph.op([each], saves=[inside])], 1, rows=1)


__all__ = ["CROWDED", "OBJECTS", "loss"]
