"""Start-up logs of vLLM and SGLang against what the engines' models say.

Most cases come from one node of H100s with release 0.19.0; they and the others stand in lines of their own. A case that
names no release is answered by the newest rules, which is right only for what does not depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.scores import Pair, Score
from vrameter import estimate
from vrameter.engines.vllm.versions import parse_version
from vrameter.errors import VrameterError
from vrameter.units import MIB

FILE = Path(__file__).parent / "cases" / "vllm.jsonl"
Case = Mapping[str, Any]
Answered = tuple[Case, Mapping[str, Any]]

# Figures that are calibrated, and why a case may be far from them.
GRAPHS = "one calibrated rule for all models: what kernels keep in a graph's own pool differs by card and release"
OUTSIDE = "CUDA's context and NCCL's buffers, which no shape tells: calibrated by class of device, shown as an interval"
# Cases that cannot be met from what they state, and why.
NOTES = {
    "file-ds-coder-v2-lite-tp8": "a release that kept latent projections multiplied out (0.7.0 to 0.7.3), not stated; the peak is "
    "that of a rank that draws no tokens",
    "file-qwen25-14b-awq-a10g-oom": "0.6 GiB more than known outside the pool: memory outside torch on this card is not known",
    "recipes-qwen38-27b-5090x2-fp8": "utilization and drafts are not stated",
    "file-qwen3-235b-l40s": "the printed pool is one rank's, the blocks are the smallest of eight",
    "vllm-21348-qwen3-235b-fp8-vllm": "with a connector for caches; the release is not stated",
    "vllm-12126-llama32-11b-vision": "0.6.x: cross-attention in eager mode over 128 sequences of images",
    "vllm-12330-llama3-8b-a100-40": "0.6.x with max_num_seqs set high, not stated",
    "vllm-10511-llama3-8b-tp1": "0.6.4: another accounting of memory outside torch; the release is not stated",
    "vllm-10511-llama3-8b-tp2": "0.6.4: another accounting of memory outside torch; the release is not stated",
}
# Release of cases that state none, from the date of their source: for the lines marked "by date".
DATED = {
    "vllm-10511-llama3-8b-tp1": "0.6.4", "vllm-10511-llama3-8b-tp2": "0.6.4", "vllm-12126-llama32-11b-vision": "0.6.6",
    "vllm-12330-llama3-8b-a100-40": "0.6.6", "vllm-12569-llama31-70b-w8a8": "0.7.0", "vllm-12529-r1-distill-qwen15b": "0.6.6",
    "gh200-r1-awq": "0.7.2", "llmd-emp-llama-3.3-70b-instruct-fp8-dynamic-tp2": "0.11.0",
    "llmd-emp-llama-3.1-8b-instruct-tp1": "0.11.0", "llmd-emp-qwen3-32b-tp1": "0.11.0", "llmd-emp-qwen3-32b-tp2": "0.11.0",
    "file-r1-distill-qwen7b-v100": "0.7.3", "file-qwen25-math-1.5b-24g": "0.7.3", "file-qwen25-1.5b-t4": "0.6.6",
    "file-ds-coder-v2-lite-tp8": "0.7.3", "vllm-27508-gptoss120b": "0.11.0", "vllm-21348-qwen3-235b-fp8-vllm": "0.9.2", "file-qwen35-9b-tp2": "0.19.0", "file-qwen3-235b-l40s": "0.10.2",
}  # fmt: skip


def rows() -> list[Case]:
    """Return the cases as published."""
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def answered(case: Case, *, dated: bool = False) -> Mapping[str, Any] | None:
    """Return the response to a case; None where it cannot be asked. `dated` fills in a release by the source's date."""
    request = dict(case["request"])
    if dated and not request.get("engine_version") and case["id"] in DATED:
        request["engine_version"] = DATED[case["id"]]
    try:
        return estimate(request)
    except VrameterError:
        return None


def cases() -> Iterator[Answered]:
    """Yield every case that can be answered, with its answer."""
    for case in rows():
        response = answered(case)
        if response is not None:
            yield case, response


def rounding(case: Case, key: str) -> float:
    """Return half a printed digit of a figure."""
    if key.endswith("_bytes"):
        return float(case["rounding_bytes"]) + 0.01 * MIB
    return 0.0051 if key == "max_concurrency" else 0.0


def per_token(measured: Mapping[str, Any], case: Case) -> tuple[float, float] | None:
    """Return the bytes that the log gives for a block, or else a token, and half a printed digit of it."""
    pool, count = measured.get("kv_pool_bytes"), measured.get("kv_blocks") or measured.get("kv_tokens")
    if not pool or not count or pool < 0:
        return None
    return pool / count, float(case["rounding_bytes"]) / count


def figure(key: str, chosen: Callable[[Case], bool], answers: list[Answered]) -> tuple[Pair, ...]:
    """Return the pairs of one figure over the cases that are chosen and state it."""
    found = []
    for case, response in answers:
        measured = case["measured"]
        if key not in measured or not chosen(case):
            continue
        value = response["report"].get(key)
        if value is not None:
            found.append(Pair(case["id"], value, measured[key], rounding(case, key)))
    return tuple(found)


def unit_bytes(chosen: Callable[[Case], bool], answers: list[Answered]) -> tuple[Pair, ...]:
    """Return the pairs of bytes per block or token, the pool over its number as the log gives both."""
    found = []
    for case, response in answers:
        known = per_token(case["measured"], case) if chosen(case) else None
        report = response["report"]
        if known is None:
            continue
        blocks = "kv_blocks" in case["measured"]
        stages = case["request"].get("parallelism", {}).get("pipeline", 1)
        if stages > 1:
            continue  # the printed pool is one rank's, the blocks are the smallest of all
        if blocks:
            estimate_ = report["kv_block_bytes"]
        elif report.get("kv_tokens"):
            estimate_ = report["kv_blocks"] * report["kv_block_bytes"] / report["kv_tokens"]
        else:
            estimate_ = report["kv_block_bytes"] * response["kv_cache"]["num_groups"] / report["block_size"]
        # Whole blocks only: the last one may be missing, so the quotient is up to one block's share larger.
        slack = known[0] / (case["measured"].get("kv_blocks") or case["measured"]["kv_tokens"] / 16)
        found.append(Pair(case["id"], estimate_, known[0], known[1] + slack))
    return tuple(found)


def of_engine(name: str) -> Callable[[Case], bool]:
    """Return a choice of cases by engine."""
    return lambda case: case["request"]["engine"] == name


def of_node(case: Case) -> bool:
    """Say whether a case comes from the node that most come from."""
    return bool(case["request"].get("engine_version") == "0.19.0" and case["source"].endswith("/pull/205"))


def stated(case: Case) -> bool:
    """Say whether a case states its release."""
    return bool(case["request"].get("engine_version"))


def since(version: str) -> Callable[[Case], bool]:
    """Return a choice of cases with a release from one on."""
    first = parse_version(version)
    return lambda case: stated(case) and parse_version(case["request"]["engine_version"]) >= first


def usually(name: str, pairs: tuple[Pair, ...], cause: str) -> Score:
    """Return a figure of vLLM whose misses have one cause, where a case has none of its own."""
    return Score("vllm", name, pairs, "", {pair.case: cause for pair in pairs} | NOTES)


def scores() -> list[Score]:
    """Return the scores of this area."""
    answers = list(cases())
    dated = [(case, response) for case in rows() if (response := answered(case, dated=True)) is not None]
    vllm, sglang = of_engine("vllm"), of_engine("sglang")

    def others(case: Case) -> bool:
        return vllm(case) and not of_node(case)

    new = since("0.17.0")

    def old(case: Case) -> bool:
        return vllm(case) and not new(case)

    found = [
        Score("vllm", "weights", figure("weights_bytes", vllm, answers), "median 0.5 %, p90 2 %", NOTES),
        Score("vllm", "weights, other logs", figure("weights_bytes", others, answers), "", NOTES),
        Score("vllm", "bytes per token or block", unit_bytes(vllm, answers), "97 % equal", NOTES),
        Score("vllm", "activation peak, 0.17 on", figure("activation_bytes", lambda c: vllm(c) and new(c), answers), "median 3 %"),
        Score("vllm", "activation peak, earlier", figure("activation_bytes", old, dated), "median 10 %", NOTES),
        Score("vllm", "KV pool, release stated", figure("kv_pool_bytes", lambda c: vllm(c) and stated(c), answers), "median 1.5 %, p90 5 %", NOTES),
        Score("vllm", "KV pool, by date", figure("kv_pool_bytes", lambda c: others(c) and not stated(c), dated), "", NOTES),
        Score("vllm", "tokens, release stated", figure("kv_tokens", lambda c: vllm(c) and stated(c), answers), "median 1.5 %, p90 5 %", NOTES),
        Score("vllm", "tokens, by date", figure("kv_tokens", lambda c: others(c) and not stated(c), dated), "", NOTES),
        Score("vllm", "blocks, release stated", figure("kv_blocks", lambda c: vllm(c) and stated(c), answers), ""),
        Score("vllm", "concurrency, release stated", figure("max_concurrency", lambda c: vllm(c) and stated(c), answers), ""),
        Score("vllm", "requested", figure("requested_bytes", vllm, answers), ""),
        usually("outside torch", figure("non_torch_bytes", vllm, dated), OUTSIDE),
        usually("start-up", figure("startup_bytes", vllm, answers), OUTSIDE),
        usually("CUDA graphs", figure("cuda_graph_bytes", lambda c: vllm(c) and c["measured"].get("cuda_graph_bytes", 0) > 0, dated), GRAPHS),
        usually("CUDA graphs, estimated", figure("cuda_graph_estimated_bytes", vllm, answers), GRAPHS),
        Score("sglang", "weights", figure("weights_bytes", sglang, answers), "median 0.5 %, p90 2 %"),
        Score("sglang", "KV pool", figure("kv_pool_bytes", sglang, answers), "median 3 %"),
        Score("sglang", "tokens", figure("kv_tokens", sglang, answers), ""),
    ]  # fmt: skip
    return [score for score in found if score.pairs]
