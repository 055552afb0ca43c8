"""What each engine can be told, under the engine's own names: one struct per engine, declared once.

One field gives the check, its error message, the command-line flag and the JSON Schema. A struct says nothing of how
an engine spends a GPU: that is `vrameter.engines` and `vrameter.training`.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

# engine -> module below this package and struct in it
INFERENCE = {
    "transformers": ("transformers", "TransformersSettings"),
    "vllm": ("vllm", "VllmSettings"),
    "sglang": ("sglang", "SglangSettings"),
    "tensorrt-llm": ("tensorrt_llm", "TensorrtLlmSettings"),
    "tgi": ("tgi", "TgiSettings"),
    "llama.cpp": ("llama_cpp", "LlamaCppSettings"),
    "ollama": ("ollama", "OllamaSettings"),
    "mlx": ("mlx", "MlxSettings"),
    "exllama": ("exllama", "ExllamaSettings"),
    "litgpt": ("litgpt", "LitgptSettings"),
    "diffusers": ("diffusers", "DiffusersSettings"),
}
TRAINING: tuple[str, str] | None = ("training", "TrainingSettings")
"""All training stacks share one struct: the words of the field."""

ALIASES = {
    "hf": "transformers", "huggingface": "transformers", "llamacpp": "llama.cpp", "llama-cpp": "llama.cpp",
    "llama_cpp": "llama.cpp", "trtllm": "tensorrt-llm", "trt-llm": "tensorrt-llm", "exllamav2": "exllama", "exllamav3": "exllama",
    "mlx-lm": "mlx", "text-generation-inference": "tgi",
}  # fmt: skip


def canonical(engine: str) -> str:
    """Return an engine's name without case and under its first spelling."""
    lowered = engine.strip().lower()
    return ALIASES.get(lowered, lowered)


@lru_cache(maxsize=32)
def struct_of(engine: str, task: str = "inference") -> type[Any] | None:
    """Return the struct of an engine's settings, None where the engine is not modelled."""
    place = TRAINING if task == "training" else INFERENCE.get(canonical(engine))
    if place is None:
        return None
    found: type[Any] = getattr(import_module(f"vrameter.settings.{place[0]}"), place[1])
    return found


def structs() -> dict[str, type[Any]]:
    """Return every struct by engine; ``training`` names that of all training stacks."""
    found = {name: struct_of(name) for name in INFERENCE}
    found["training"] = struct_of("", "training")
    return {name: struct for name, struct in found.items() if struct is not None}


def owners(setting: str) -> list[str]:
    """Return the engines that know a setting."""
    return [name for name, struct in structs().items() if setting in struct.__struct_fields__]


__all__ = ["INFERENCE", "canonical", "owners", "struct_of", "structs"]
