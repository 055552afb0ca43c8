"""Estimates against measurements: print the table, fail where a figure has become worse.

python benchmarks/accuracy.py            # print, compare with benchmarks/baseline.json
python benchmarks/accuracy.py --write    # accept the figures of this run, and write the page docs/accuracy.md
python benchmarks/accuracy.py --misses   # also list every case beyond 10 %
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.scores import COLUMNS, Score, markdown_table, percent, row, text_table  # noqa: E402

AREAS = ("published", "weights", "engines_vllm", "engines_llamacpp", "diffusion", "training")
BASELINE = ROOT / "benchmarks" / "baseline.json"
PAGE = ROOT / "docs" / "accuracy.md"
MARKS = ("<!-- accuracy -->", "<!-- /accuracy -->")
# How much worse a figure may be before it counts as a regression: a ten-thousandth, which is rounding.
SLACK = 1e-4
FAR = 0.10


def gathered() -> list[Score]:
    """Return the scores of every area."""
    found: list[Score] = []
    for area in AREAS:
        found += import_module(f"benchmarks.{area}").scores()
    return found


def regressions(scores: list[Score]) -> list[str]:
    """Return what has become worse since the figures were last accepted."""
    known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    worse = []
    now = {f"{score.area} / {score.figure}": score.figures() for score in scores}
    for name, before in known.items():
        after = now.get(name)
        if after is None:
            worse.append(f"{name}: no longer measured")
            continue
        if after["cases"] < before["cases"]:
            worse.append(f"{name}: {after['cases']} cases, there were {before['cases']}")
        if after["equal"] / max(1, after["cases"]) < before["equal"] / max(1, before["cases"]) - SLACK:
            worse.append(f"{name}: equal in {after['equal']} cases, there were {before['equal']}")
        for figure in ("median", "p90", "worst"):
            if after[figure] > before[figure] + SLACK:
                worse.append(f"{name}: {figure} {percent(after[figure])}, was {percent(before[figure])}")
    return worse


def far_cases(scores: list[Score]) -> list[tuple[str, str, str, str]]:
    """Return cases beyond 10 %, with what is known of them."""
    return [
        (
            score.area,
            score.figure,
            pair.case,
            f"{100 * pair.error:+.1f} %" + (f": {note}" if (note := score.notes.get(pair.case)) else ""),
        )
        for score in scores
        for pair in score.pairs
        if abs(pair.error) > FAR
    ]


def write(scores: list[Score]) -> None:
    """Accept these figures, and put them on the page."""
    BASELINE.write_text(
        json.dumps({f"{score.area} / {score.figure}": score.figures() for score in scores}, indent=1) + "\n"
    )
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    body = markdown_table(COLUMNS, [row(score) for score in scores])
    far = far_cases(scores)
    if far:
        body += "\n\n## Cases beyond 10 %\n\n" + markdown_table(("area", "figure", "case", "error"), far)
    PAGE.write_text(f"{before}{MARKS[0]}\n{body}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> int:
    """Print the table and return 1 where something has become worse."""
    scores = gathered()
    print(text_table(COLUMNS, [row(score) for score in scores]))
    if "--misses" in sys.argv:
        print()
        print(text_table(("area", "figure", "case", "error"), far_cases(scores)))
    if "--write" in sys.argv:
        write(scores)
        return 0
    worse = regressions(scores)
    if worse:
        print("\nworse than the accepted figures:\n  " + "\n  ".join(worse))
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
