"""Bytes of real checkpoints beside the bytes that their shapes come to, each miss with its cause.

    python -m benchmarks.weights

``catalog/weights.jsonl`` holds sizes that others published: totals of index files, GGUF files, and a list of MLX
conversions. A checkpoint is compared where the catalogue knows its shape, or that of the model it was made from.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.scores import Pair, Score
from vrameter.errors import VrameterError
from vrameter.memory.weights import weight_plan
from vrameter.model.architecture import Architecture
from vrameter.sources import catalogue

ROWS = Path(__file__).parent.parent / "catalog" / "weights.jsonl"
# A GGUF file's own metadata: most of it is the tokenizer's words, about 60 bytes each. [bytes]
METADATA_PER_WORD, METADATA = 90, 2**20

# The model that a GGUF file was made from, and whether with an importance matrix.
GGUF = {
    "DeepSeek-R1-Distill-Qwen-14B": ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", True),
    "DeepSeek-R1-Distill-Llama-8B": ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", True),
    "Llama-3.2-3B-Instruct": ("meta-llama/Llama-3.2-3B-Instruct", True),
    "Meta-Llama-3.1-8B-Instruct-128k": ("meta-llama/Llama-3.1-8B-Instruct", False),
    "em_german_mistral_v01": ("mistralai/Mistral-7B-v0.1", False),
    "ghost-7b-v0.9.1": ("mistralai/Mistral-7B-v0.1", False),
    "mistral-7b-instruct-v0.1": ("mistralai/Mistral-7B-Instruct-v0.1", False),
    "wizardlm-13b-v1.2": ("meta-llama/Llama-2-13b-hf", False),
    "gpt4all-13b-snoozy": ("meta-llama/Llama-2-13b-hf", False),
    "nous-hermes-llama2-13b": ("meta-llama/Llama-2-13b-hf", False),
    "starcoder-newbpe": ("bigcode/starcoder", False),
    "gpt4all-falcon-newbpe": ("tiiuae/falcon-7b", False),
}
# What was found out about single misses.
CAUSES = {
    "tiiuae/falcon-180B-chat": "the files hold the tied head again (65,024 x 14,848 x 2 bytes, exactly the difference)",
    "gguf:gpt4all-falcon-newbpe-q4_0.gguf": "the file holds the tied embedding again, in q4_0",
    "gguf:nous-hermes-llama2-13b.Q4_0.gguf": "32 more words than Llama 2 has, and another output type",
    "gguf:starcoder-newbpe-q4_0.gguf": "converted by hand for another vocabulary layout; not traced",
    "mlx-community/Qwen3.5-2B-MLX-8bit": "A_log stays in fp32 (18 layers x 16 heads x 2 bytes, exactly the difference)",
    "mlx-community/Qwen3.5-27B-4bit": "A_log stays in fp32 (48 layers x 48 heads x 2 bytes, exactly the difference)",
    "reubz/Molmo-7B-D-0924-NF4": "its vision tower (404,950,016 numbers in 16 bits), which its config does not describe",
    "mlx-community/Qwen3.6-35B-A3B-4bit": "routers and gates of shared experts are in 8 bits, exactly the difference",
    "mlx-community/gemma-4-26b-a4b-it-4bit": "dense MLPs and routers are in 8 bits, the projector in 4: exactly the difference",
    "mlx-community/gemma-4-26b-a4b-it-6bit": "dense MLPs and routers are in 8 bits, the projector in 6: exactly the difference",
    "mlx-community/Qwen3-Coder-Next-8bit": "the list's figure is rounded, MB read as MiB, and counts other files",
}
FAMILIES = (
    (
        r"Qwen3\.[56]-.*A\d+B",
        "the gates of shared experts are quantised, and A_log stays in fp32: exactly the difference",
    ),
    (r"gemma-4", "the projector is quantised: exactly the difference"),
    (r"GLM-4\.7", "routers stay in 16 bits (89 layers x 160 x 5,120): exactly the difference"),
    (r"MiniMax-M2\.7", "routers are in 8 bits in groups of 32, and the list counts 15.9 MB of other files"),
    (r"MiniMax", "routers are in 8 bits in groups of 32: exactly the difference"),
    (r"MXFP4-Q8", "experts in MXFP4, the rest in 8 bits: a mixture that no name states"),
    (r"DeepSeek-V4-Pro|Kimi-K2-Thinking|Kimi-K2\.5\b|DQ3_K_M", "a mixture of formats that no name states"),
    (r"DeepSeek-V3\.2", "the list's total is rounded and counts other files; not traced further"),
)
UNITS = {"kB read as KiB": 1.024, "MB read as MiB": 1.048576, "GB read as GiB": 1.073741824}


class Compared(NamedTuple):
    """One checkpoint: what was published, what its shape comes to, and why they differ."""

    id: str
    published: int
    computed: int
    cause: str

    @property
    def difference(self) -> int:
        return self.computed - self.published


def compare() -> Iterator[Compared | str]:
    """Yield each checkpoint compared, or the name of one whose shape is not known."""
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            found = _gguf(row) if row["kind"] == "gguf_file" else _files(row)
        except VrameterError:
            found = None
        yield found or row["id"]


def _files(row: dict[str, Any]) -> Compared | None:
    name = row["id"].partition(" ")[0]
    if row["kind"].startswith("safetensors_index"):
        architecture = catalogue.find(name).architecture()
        if row["dtype"] == "bf16":
            return _compared(row, 2 * architecture.num_stored_params)
        return _compared(row, weight_plan(architecture).of().total)
    if row["kind"] != "mlx_safetensors_total":
        return None
    base = re.sub(r"-?(?:MLX-)?(?:\d[bB]its?(?:-gs32)?|MXFP4(?:-Q8)?|NVFP4|[bB][fF]16|fp16|mlx-DQ3_K_M-q8)\Z", "", name)
    architecture = catalogue.find(base.partition("/")[2].removesuffix("-MLX")).architecture()
    return _compared(row, _mlx_bytes(architecture, name, row["dtype"]))


def _mlx_bytes(architecture: Architecture, name: str, dtype: str) -> int:
    bits = re.match(r"(\d)bit", dtype)
    scheme = f"mlx-{bits[1]}bit" if bits else None
    if "gs32" in name and scheme:
        scheme += "-g32"
    if "FP4" in name:
        scheme = "mlx-nvfp4" if "NVFP4" in name else "mlx-mxfp4"
    return weight_plan(architecture, quantization=scheme or "none").of().total


def _gguf(row: dict[str, Any]) -> Compared | None:
    name = row["id"].partition(":")[2]
    base = next((base for base in GGUF if name.startswith(base)), None)
    if base is None:
        return None
    repository, imatrix = GGUF[base]
    architecture = catalogue.find(repository).architecture()
    computed = weight_plan(architecture, quantization=row["dtype"], imatrix=imatrix).of().total
    spare = row["total_size_bytes"] - computed
    metadata = METADATA + METADATA_PER_WORD * architecture.main.vocab_size
    return _compared(row, row["total_size_bytes"] if 0 <= spare <= metadata else computed)


def _compared(row: dict[str, Any], computed: int) -> Compared:
    published = row["total_size_bytes"]
    return Compared(
        row["id"], published, computed, "" if computed == published else _cause(row["id"], published / computed)
    )


def _cause(name: str, ratio: float) -> str:
    known = CAUSES.get(name) or next((cause for pattern, cause in FAMILIES if re.search(pattern, name)), "")
    unit = next((unit for unit, factor in UNITS.items() if abs(ratio / factor - 1) < 0.005), "")
    if unit and not known:
        return f"the list's figure is rounded, {unit}"
    if ratio > 1 and "0.6B" in name:
        return "the list's figure is rounded to whole MiB and holds other files"
    return known or "not traced"


def scores() -> list[Score]:
    """Return the scores of this area: index files and GGUF files exactly, a list of MLX conversions as it is."""
    found = [each for each in compare() if isinstance(each, Compared)]
    kinds = {
        "GGUF files": [each for each in found if each.id.startswith("gguf:")],
        "MLX conversions": [each for each in found if each.id.startswith("mlx-community/")],
    }
    kinds["index files"] = [each for each in found if not any(each in group for group in kinds.values())]
    return [
        Score(
            "checkpoints", name, tuple(Pair(each.id, each.computed, each.published) for each in group),
            "equal, or a stated cause", {each.id: each.cause for each in group if each.cause},
        )
        for name, group in sorted(kinds.items())
    ]  # fmt: skip


def main() -> None:
    """Print every miss, then the sums."""
    counts: Counter[str] = Counter()
    unknown: list[str] = []
    for found in compare():
        if isinstance(found, str):
            unknown.append(found)
            continue
        equal = found.difference == 0
        counts[
            "equal" if equal else "within 0.1 %" if abs(found.difference) < found.published / 1000 else "further off"
        ] += 1
        if not equal:
            print(
                f"{found.id:58} {found.published:>16,} {found.difference:>+18,} {found.difference / found.published:+9.4%}  {found.cause}"
            )
    print(
        f"\n{sum(counts.values())} checkpoints of known shape: "
        + ", ".join(f"{number} {what}" for what, number in counts.items())
    )
    print(f"{len(unknown)} whose shape the catalogue does not hold: {', '.join(unknown)}")


if __name__ == "__main__":
    main()
