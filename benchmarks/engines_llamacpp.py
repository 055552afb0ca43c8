"""llama.cpp's buffers against its own plans: `benchmarks/cases/llamacpp.jsonl.gz`.

Every case is a header-only GGUF file of a published model, which llama.cpp at commit 0c1e57098 (built without CUDA's kernels
but with its rules of placement and sizes) was asked to plan; its figures are exact, so that "equal" means to the byte.

    python benchmarks/engines_llamacpp.py             # the table
    python benchmarks/engines_llamacpp.py --misses    # and every figure that differs
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.scores import COLUMNS, Pair, Score, row, text_table  # noqa: E402

CASES = ROOT / "benchmarks" / "cases" / "llamacpp.jsonl.gz"
AREA = "llama.cpp"
TARGETS = {"model_bytes": "equal ≥ 97 %", "context_bytes": "equal ≥ 97 %", "compute_bytes": "1 %, 5 %, 15 %"}


def read() -> list[dict[str, Any]]:
    """Return the measured cases."""
    with gzip.open(CASES, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def cases() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Return every case with the estimate of its request."""
    from vrameter import estimate

    for case in read():
        yield case, estimate(case["request"])


def pairs(case: dict[str, Any], response: dict[str, Any]) -> Iterator[tuple[str, Pair]]:
    """Return every figure of a case with its estimate: buffers by device, then sums."""
    buffers = response["report"]["buffers"]
    for device, measured in case["measured"]["buffers"].items():
        for figure, size in measured.items():
            estimated = buffers.get(device, {}).get(figure, 0)
            if size or estimated:
                yield figure, Pair(f"{case['id']} {device}", estimated, size)
    for figure in ("kv_cache_bytes", "state_bytes", "output_bytes"):
        if figure in case["measured"]:
            yield figure, Pair(case["id"], response["report"].get(figure, 0), case["measured"][figure])


TIED = "its head equals its table of tokens, which the config denies: the converter drops it, and the table is stored wider"
NOTES = {f"oracle-falcon-mamba-7b-q4_k_m-{run} CUDA_Host": TIED for run in ("02f2809d", "06d9b544", "1898f3ca")}


def scores(found: Iterable[tuple[dict[str, Any], dict[str, Any]]] | None = None) -> list[Score]:
    """Return the score of every figure, of compute buffers by kind of device and by family."""
    answered = list(cases() if found is None else found)
    groups: dict[str, list[Pair]] = {}
    for case, response in answered:
        family = case["gguf"]["architecture"]
        for figure, pair in pairs(case, response):
            groups.setdefault(figure, []).append(pair)
            if figure == "compute_bytes":
                where = "host" if pair.case.endswith(("Host", "CPU")) else "GPU"
                groups.setdefault(f"compute_bytes, {where}", []).append(pair)
                groups.setdefault(f"compute_bytes, {family}", []).append(pair)
    return [
        Score(AREA, figure, tuple(group), TARGETS.get(figure.partition(",")[0], ""), NOTES)
        for figure, group in sorted(groups.items(), key=lambda entry: (entry[0] not in TARGETS, entry[0]))
    ]


def main() -> None:
    found = scores()
    print(text_table(COLUMNS, [row(score) for score in found]))
    if "--misses" in sys.argv:
        for score in found:
            if "," not in score.figure:
                for pair in score.pairs:
                    if pair.error:
                        print(
                            f"{score.figure}: {pair.case}: {pair.estimate:.0f}, planned {pair.measured:.0f}, {100 * pair.error:+.3f} %"
                        )


if __name__ == "__main__":
    main()
