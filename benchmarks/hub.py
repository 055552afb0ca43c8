"""How fast a large repository is answered, beside hf-mem on the same server in one run.

    python -m benchmarks.hub [--hf-mem PYTHON]

A repository of 163 shards and 91,000 tensors (the shape of DeepSeek-V3) is served on this machine with real headers and
no weights. Each program runs in a process of its own; the server counts requests and bytes. ``--hf-mem`` names a Python
that has hf-mem installed: its address of the Hub is fixed, so its requests are pointed at the server.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.checkpoints import document, num_bytes, sharded
from tests.hub_server import Hub, Repository, running

SHARDS, LAYERS, EXPERTS, DENSE = 163, 61, 256, 3
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": LAYERS, "n_routed_experts": EXPERTS,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": DENSE, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280, "num_nextn_predict_layers": 1,
    "n_group": 8, "topk_group": 4, "max_position_embeddings": 163840, "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
}  # fmt: skip
SIZES = """
import resource, time
begun = time.perf_counter()
from vrameter.sources import resolve
answer = resolve("org/large").table.num_bytes
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, answer)
"""
ESTIMATE = """
import resource, time
begun = time.perf_counter()
from vrameter.response import estimate
answer = estimate({"model": "org/large"})["model"]["stored_bytes"]
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, answer)
"""
THEIRS = """
import asyncio, os, resource, time
begun = time.perf_counter()
import httpx2
class Local(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request):
        request.url = httpx2.URL(str(request.url).replace("https://huggingface.co", os.environ["HF_ENDPOINT"]))
        return await super().handle_async_request(request)
made = httpx2.AsyncClient
def local(**settings):
    return made(**{**settings, "transport": Local(limits=settings["limits"])})
httpx2.AsyncClient = local
from hf_mem.run import arun
answer = asyncio.run(arun(model_id="org/large"))
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, answer.memory)
"""


def tensors() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the tensors of DeepSeek-V3 as its files name them, multi-token prediction included."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"] = ("F8_E4M3", (rows, columns))
        found[f"{name}.weight_scale_inv"] = ("F32", (-(-rows // 128), -(-columns // 128)))

    def mlp(name: str, width: int) -> None:
        matrix(f"{name}.gate_proj", width, 7168)
        matrix(f"{name}.up_proj", width, 7168)
        matrix(f"{name}.down_proj", 7168, width)

    found["model.embed_tokens.weight"] = ("BF16", (129280, 7168))
    for layer in range(LAYERS + 1):
        name = f"model.layers.{layer}"
        for part, rows, columns in (("q_a_proj", 1536, 7168), ("q_b_proj", 24576, 1536), ("kv_a_proj_with_mqa", 576, 7168),
                                    ("kv_b_proj", 32768, 512), ("o_proj", 7168, 16384)):  # fmt: skip
            matrix(f"{name}.self_attn.{part}", rows, columns)
        for part, width in (("self_attn.q_a_layernorm", 1536), ("self_attn.kv_a_layernorm", 512), ("input_layernorm", 7168),
                            ("post_attention_layernorm", 7168)):  # fmt: skip
            found[f"{name}.{part}.weight"] = ("BF16", (width,))
        if layer < DENSE:
            mlp(f"{name}.mlp", 18432)
            continue
        found[f"{name}.mlp.gate.weight"] = ("BF16", (EXPERTS, 7168))
        found[f"{name}.mlp.gate.e_score_correction_bias"] = ("F32", (EXPERTS,))
        mlp(f"{name}.mlp.shared_experts", 2048)
        for expert in range(EXPERTS):
            mlp(f"{name}.mlp.experts.{expert}", 2048)
    last = f"model.layers.{LAYERS}"
    for part in ("enorm", "hnorm", "shared_head.norm"):
        found[f"{last}.{part}.weight"] = ("BF16", (7168,))
    found[f"{last}.eh_proj.weight"] = ("BF16", (7168, 14336))
    for part in ("embed_tokens", "shared_head.head"):
        found[f"{last}.{part}.weight"] = ("BF16", (129280, 7168))
    found["model.norm.weight"] = ("BF16", (7168,))
    found["lm_head.weight"] = ("BF16", (129280, 7168))
    return found


def measure(name: str, python: str, script: str, hub: Hub, expected: int, *, keep: Path | None = None) -> list[float]:
    """Run a program once and print what it took, by its own clock and by the server's count."""
    hub.asked.clear()
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "PYTHONPATH": str(Path("src").resolve())}
    with tempfile.TemporaryDirectory() as fresh:
        environment["HF_HOME"] = str(keep or fresh)
        begun = time.perf_counter()
        run = subprocess.run([python, "-c", script], capture_output=True, text=True, env=environment, check=False)
        whole = time.perf_counter() - begun
    if run.returncode:
        raise SystemExit(f"{name} failed:\n{run.stderr[-2000:]}")
    seconds, memory, total = map(float, run.stdout.split()[-3:])
    per_file = Counter(each.path for each in hub.weights())
    print(f"{name:32} {seconds:7.2f} s {whole:7.2f} s with start-up {memory / 2**20:7.0f} MiB {len(hub.asked):5} requests, at most "
          f"{max(per_file.values(), default=0)} a shard {sum(each.sent for each in hub.asked) / 1e6:8.2f} MB  "
          f"bytes {'equal' if total == expected else f'differ by {total - expected:.0f}'}")  # fmt: skip
    return [seconds, whole]


def main() -> None:
    """Serve the repository and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hf-mem", metavar="PYTHON", help="a Python with hf-mem")
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    held = tensors()
    files = {**sharded(held, SHARDS), "config.json": document(CONFIG)}
    expected = num_bytes(held)
    print(f"{SHARDS} shards, {len(held)} tensors, {expected} bytes of weights")
    times: dict[str, list[list[float]]] = {}
    programs = [("vrameter: sizes", sys.executable, SIZES), ("vrameter: estimate", sys.executable, ESTIMATE)]
    if given.hf_mem:
        programs.insert(1, ("hf-mem: sizes", given.hf_mem, THEIRS))
    with running({"org/large": Repository(files)}) as hub, tempfile.TemporaryDirectory() as kept:
        for redirects in (False, True):
            hub.redirects = redirects
            where = "by redirect" if redirects else "directly"
            for _ in range(given.repeat):
                for what, python, script in programs:
                    name = f"{what}, {where}"
                    times.setdefault(name, []).append(measure(name, python, script, hub, expected))
        for name in ("to be kept", "what was kept"):
            measure(f"vrameter, {name}", sys.executable, SIZES, hub, expected, keep=Path(kept))
    for name, runs in times.items():
        print(f"{name:32} median {statistics.median(run[0] for run in runs):.2f} s, with start-up "
              f"{statistics.median(run[1] for run in runs):.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
