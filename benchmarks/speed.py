"""How long an answer takes: a cold start beside an empty interpreter in the same run, and ten thousand requests.

    python benchmarks/speed.py

Prints its figures and fails beyond the limits: 150 ms for a cold catalogue answer (best of 10), 10 s for 10,000 mixed
requests on one core, 5 ms for a warm estimate; a cold training step with its advice is held to twice the cold answer of
the same run. The limits hold for processor time, which a busy machine does not stretch;
wall time stands beside it.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COLD_LIMIT, BATCH_LIMIT, WARM_LIMIT = 0.150, 10.0, 0.005
STEP_RATIO = 2.0  # what a cold training step may take, in cold catalogue answers of the same run
RUNS = 10
NUM_REQUESTS = 10_000


def timed(command: list[str]) -> tuple[float, float, bytes]:
    """Return the processor time and the wall time of a command, and what it printed. [seconds].

    Modules are read compiled, as an installed package has them, also where the surroundings forbid to write them beside.
    """
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    surroundings["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / f"vrameter-speed-{os.getpid()}")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = subprocess.run(command, check=True, capture_output=True, env=surroundings)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return used, end - start, run.stdout


def best(command: list[str]) -> tuple[float, float]:
    """Return the shortest processor time and wall time of `RUNS` runs of a command. [seconds]."""
    runs = [timed(command) for _ in range(RUNS)]
    return min(used for used, _, _ in runs), min(wall for _, wall, _ in runs)


def requests() -> list[dict[str, object]]:
    """Return mixed requests: models, formats, lengths, devices."""
    from vrameter.sources import catalogue

    models = [
        "llama-3.1-8b",
        "qwen3-30b-a3b",
        "gemma-2-9b",
        "deepseek-v3",
        "bert-base-uncased",
        "t5-base",
        "gpt-oss-20b",
        "8.8B",
    ]
    models += list(catalogue.names("qwen3-8b")[:8])
    formats: list[dict[str, object]] = [
        {},
        {"quantization": "awq"},
        {"quantization": "q4_k_m"},
        {"dtype": "fp16"},
        {"quantization": "fp8"},
    ]
    devices: list[dict[str, object]] = [{}, {"device": "rtx-4090"}, {"device": "2xl40s"}, {"device": "h100"}]
    mixed: list[dict[str, object]] = []
    for index in range(NUM_REQUESTS):
        model = models[index % len(models)]
        request: dict[str, object] = {"model": model, **formats[index % 5], **devices[index // 5 % 4]}
        if model == "8.8B":
            request = {"model": model, "dtype": "bf16"}
        elif index % 3:
            request["settings"] = {"context_length": 256 + index % 4096, "batch_size": 1 + index % 7}
        mixed.append(request)
    return mixed


def steps() -> list[dict[str, object]]:
    """Return training steps: stacks, models, adapters, shards."""
    shapes: list[dict[str, object]] = [
        {},
        {"engine": "deepspeed", "num_devices": 8, "parallelism": {"zero_stage": 3}},
        {"engine": "torchtitan", "num_devices": 64},
        {"engine": "megatron", "num_devices": 64, "parallelism": {"tensor": 4, "pipeline": 4, "zero_stage": 1}},
        {"quantization": "bnb-nf4", "settings": {"finetuning": "lora", "recompute": "full"}},
    ]
    models = ("llama-3.1-8b", "qwen3-30b-a3b", "gemma-2-9b", "t5-base", "qwen2.5-vl-7b-instruct")
    return [{"task": "training", "model": model, **shape} for model in models for shape in shapes]


def main() -> int:
    """Print the figures and return 1 beyond a limit."""
    os.environ["LANG"] = "C.UTF-8"
    empty, _ = best([sys.executable, "-c", "pass"])
    cold, wall = best([sys.executable, "-m", "vrameter", "llama-3.1-8b", "--device", "rtx-4090"])
    step, _ = best([sys.executable, "-m", "vrameter", "llama-3.1-8b", "--task", "training", "--device", "h100"])
    print(
        f"cold start: {1000 * cold:.0f} ms ({1000 * wall:.0f} ms wall), {cold / empty:.1f} x an empty interpreter "
        f"({1000 * empty:.0f} ms); limit {1000 * COLD_LIMIT:.0f} ms"
    )
    print(
        f"cold training step with its advice: {1000 * step:.0f} ms, {step / cold:.2f} x the cold answer; limit {STEP_RATIO:.0f} x"
    )

    import msgspec

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requests.jsonl"
        file.write_bytes(b"\n".join(msgspec.json.encode(request) for request in requests()))
        batch, wall, output = timed([sys.executable, "-m", "vrameter", "batch", str(file)])
    answers = output.count(b"\n")
    print(
        f"batch: {answers:,} requests in {batch:.2f} s ({wall:.2f} s wall), {answers / batch:,.0f} a second; "
        f"limit {BATCH_LIMIT:.0f} s"
    )

    import vrameter

    slowest = 0.0
    for request in [*requests()[:400], *steps()]:
        vrameter.estimate(request)
        slowest = max(slowest, min(_timed(request) for _ in range(3)))
    print(f"warm estimate: slowest kind {1000 * slowest:.2f} ms; limit {1000 * WARM_LIMIT:.0f} ms")
    failed = (
        cold > COLD_LIMIT
        or step > STEP_RATIO * cold
        or batch > BATCH_LIMIT
        or slowest > WARM_LIMIT
        or answers != NUM_REQUESTS
    )
    if failed:
        print("beyond a limit")
    shutil.rmtree(Path(tempfile.gettempdir()) / f"vrameter-speed-{os.getpid()}", ignore_errors=True)
    return 1 if failed else 0


def _timed(request: dict[str, object]) -> float:
    import vrameter

    start = time.process_time()
    vrameter.estimate(request)
    return time.process_time() - start


if __name__ == "__main__":
    raise SystemExit(main())
