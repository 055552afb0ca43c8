"""Fit what start-up logs alone tell, and check it on logs that were left out.

``python -m benchmarks.fit_engines`` prints each law as fitted to release 0.19.0 on the node of H100s that most cases come
from, its error with one model left out at a time, and its error on all other logs. What stands in
``src/vrameter/data/engine_constants.json`` is that, rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.engines_vllm import Answered, answered, of_node
from benchmarks.engines_vllm import rows as published
from vrameter.engines.constants import constants
from vrameter.units import KIB, MIB

Case = Mapping[str, Any]
Row = tuple[str, tuple[float, ...], float]
"""Model, the arguments of a law, the measured size. [KiB]."""


def solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a small system of linear equations, by elimination with pivots."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(rows[row][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        for row in range(size):
            if row != at:
                factor = rows[row][at] / rows[at][at]
                rows[row] = [ours - factor * theirs for ours, theirs in zip(rows[row], rows[at], strict=True)]
    return [rows[at][size] / rows[at][at] for at in range(size)]


def fitted(rows: Sequence[Row]) -> list[float]:
    """Return the factors of a linear law with the least squares of relative errors."""
    count = len(rows[0][1])
    scaled = [[argument / size for argument in arguments] for _, arguments, size in rows]
    matrix = [[sum(x[i] * x[j] for x in scaled) for j in range(count)] for i in range(count)]
    return solve(matrix, [sum(x[i] for x in scaled) for i in range(count)])


def error(factors: Sequence[float], arguments: Sequence[float], measured: float) -> float:
    """Return the relative error of a law."""
    return sum(factor * argument for factor, argument in zip(factors, arguments, strict=True)) / measured - 1


def summary(errors: Sequence[float]) -> str:
    """Return cases, median, p90 and worst of the sizes of errors."""
    sizes = sorted(abs(each) for each in errors)
    if not sizes:
        return "0 cases"
    p90 = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]
    return f"{len(sizes)} cases, median {median(sizes):.1%}, p90 {p90:.1%}, worst {sizes[-1]:.1%}"


def graph_row(answer: Answered, key: str, *, split: bool) -> Row | None:
    """Return what a law of graphs sees of a case."""
    case, response = answer
    measured = case["measured"].get(key)
    items = {each["term"]: each for each in response["devices"][0]["items"]}
    if not measured or measured < 0 or "cuda_graphs" not in items or case["request"]["engine"] != "vllm":
        return None
    values = items["cuda_graphs"]["values"]
    if values["fixed_kib"] == constants().vllm.graphs["v0"].fixed_kib:
        return None
    grown = float(values["num_layers"] * values["num_sizes"])
    arguments = (1.0, 1.0 / values["tensor_parallel"], grown) if split else (1.0, grown)
    return case["request"]["model"], arguments, measured / KIB


def check(name: str, rows: Sequence[tuple[Case, Row]], ours: Sequence[float]) -> None:
    """Print a law's factors and its errors."""
    node = [row for case, row in rows if of_node(case)]
    others = [row for case, row in rows if not of_node(case)]
    left_out = []
    for model in sorted({row[0] for row in node}):
        factors = fitted([row for row in node if row[0] != model])
        left_out += [error(factors, arguments, size) for label, arguments, size in node if label == model]
    print(name)
    found = fitted(node)
    print("  fitted [KiB]:", ", ".join(f"{factor:,.0f}" for factor in found))
    print("  in the file :", ", ".join(f"{factor:,.0f}" for factor in ours))
    print("  fitted on the node:  ", summary([error(found, arguments, size) for _, arguments, size in node]))
    print("  the file on the node:", summary([error(ours, arguments, size) for _, arguments, size in node]))
    print("  one model left out:  ", summary(left_out))
    print("  all other logs:      ", summary([error(ours, arguments, size) for _, arguments, size in others]))


def spans(name: str, key: str, answers: Sequence[Answered], choice: Callable[[Case], str | None]) -> None:
    """Print the median and the range of a size by kind of device group."""
    kinds: dict[str, list[float]] = {}
    for case, _ in answers:
        kind = choice(case)
        if kind is not None and case["measured"].get(key) is not None:
            kinds.setdefault(kind, []).append(case["measured"][key] / MIB)
    print(name)
    for kind, sizes in sorted(kinds.items()):
        print(f"  {kind}: {len(sizes)} cases, median {median(sizes):.0f} MiB, {min(sizes):.0f} to {max(sizes):.0f}")


def kind_of(case: Case) -> str | None:
    """Return how the devices of a case work together."""
    if case["request"]["engine"] != "vllm":
        return None
    degrees = case["request"].get("parallelism", {})
    group = "group" if degrees.get("tensor", 1) > 1 else "stages" if degrees.get("pipeline", 1) > 1 else "alone"
    return f"{case['request'].get('engine_version') or 'no release'}, {case['request'].get('device')}, {group}"


def main() -> None:
    """Print every law and its errors."""
    answers = [(case, response) for case in published() if (response := answered(case, dated=True)) is not None]
    laws = constants().vllm.graphs
    for name, key, split in (
        ("captured", "cuda_graph_bytes", True), ("estimated", "cuda_graph_estimated_bytes", False),
    ):  # fmt: skip
        law = laws[name]
        ours = (law.fixed_kib, law.split_kib, law.layer_kib) if split else (law.fixed_kib, law.layer_kib)
        rows = [(case, row) for case, response in answers if (row := graph_row((case, response), key, split=split))]
        check(f"CUDA graphs, {name}", rows, ours)
    spans("outside torch", "non_torch_bytes", answers, kind_of)
    spans("before the first look at free memory", "startup_bytes", answers, kind_of)


if __name__ == "__main__":
    main()
