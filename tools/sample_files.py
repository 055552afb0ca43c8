"""What commands of the documentation name beside the catalogue: a GGUF file and configurations here, and a repository of a Hub.

File and repository are headers without weights: Llama 3.1 8B as llama.cpp quantises it, and the tensors that Qwen3-0.6B's own file lists
(its tied head stored again).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.checkpoints import Sparse, safetensors
from tests.gguf_files import stored, table, write
from tests.gguf_models import llama
from tests.hub_server import Repository, running

from vrameter.model.from_gguf import architecture_of
from vrameter.model.gguf_mixture import mixture_types
from vrameter.sources import catalogue

GGUF = "Llama-3.1-8B-Q4_K_M.gguf"
REPOSITORY = "Qwen/Qwen3-0.6B"
EXAMPLES = Path(__file__).parent.parent / "tests/reading/examples"
CONFIGURATIONS = ("llama3_lora_sft.yaml", "torchtune_8b_lora.yaml", "megatron_pretrain.sh")


def gguf_file(folder: Path) -> Path:
    """Write the header of Llama 3.1 8B in Q4_K_M."""
    name, keys, shapes = llama()
    types = {
        (f"blk.{layer}." if layer is not None else "") + tensor: pieces[0].type
        for (_, layer, tensor), pieces in mixture_types(architecture_of(table(name, keys, shapes)), "q4_k_m").items()
    }
    metadata: dict[str, Any] = {"general.architecture": name, "general.file_type": 15}
    metadata |= {f"{name}.{key}": value for key, value in {**keys, "context_length": 131072}.items()}
    return write(folder / GGUF, metadata, stored(shapes, types))


def repository() -> Repository:
    """Return Qwen3-0.6B: its config, and one file of weights."""
    entry = catalogue.find(REPOSITORY)
    tensors = {name: ("BF16", tensor.shape) for name, _, tensor in entry.architecture().named_tensors()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    weights: Sparse = safetensors(tensors)
    return Repository({"config.json": json.dumps(entry.config).encode(), "model.safetensors": weights})


@contextmanager
def sample_files() -> Iterator[None]:
    """Work in a folder that holds the file, with a Hub that holds the repository."""
    with tempfile.TemporaryDirectory() as kept, running({REPOSITORY: repository()}) as hub:
        gguf_file(Path(kept))
        for name in CONFIGURATIONS:
            shutil.copy(EXAMPLES / name, kept)
        before = dict(os.environ)
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(Path(kept) / "hf-home")}
        here = Path.cwd()
        try:
            os.chdir(kept)
            yield
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(before)
