"""The formula that people read is the formula that the code computes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable

import pytest

import vrameter
from vrameter import memory
from vrameter.ledger import formula_of
from vrameter.units import ceil_div, ceil_to

NAMES = {"ceil_div": ceil_div, "ceil_to": ceil_to, "max": max, "min": min}
PACKAGES = ("memory", "engines", "training")


def terms() -> list[Callable[..., int]]:
    """Return every function whose docstring states a formula."""
    found: dict[str, Callable[..., int]] = {}
    for name in PACKAGES:
        try:
            package = importlib.import_module(f"vrameter.{name}")
        except ModuleNotFoundError:
            continue
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            loaded = importlib.import_module(module.name)
            for _, function in inspect.getmembers(loaded, inspect.isfunction):
                if function.__module__ == module.name and "Formula::" in (function.__doc__ or ""):
                    found[f"{module.name}.{function.__name__}"] = function
    return list(found.values())


TERMS = terms()


def test_there_are_terms() -> None:
    assert len(TERMS) > 12
    assert memory.__doc__


@pytest.mark.parametrize("term", TERMS, ids=lambda term: f"{term.__module__}.{term.__name__}")
def test_docstring_formula_equals_code(term: Callable[..., int]) -> None:
    formula = formula_of(term)
    assert formula
    rng = random.Random(term.__name__)
    for _ in range(200):
        sizes = {name: rng.randint(1, 5000) for name in inspect.signature(term).parameters}
        assert term(**sizes) == eval(formula, dict(NAMES), dict(sizes)), sizes


REQUESTS = [
    {"model": "llama-3.1-8b", "device": "rtx-4090"},
    {"model": "llama-3.1-8b", "quantization": "bnb-nf4", "settings": {"attn_implementation": "eager", "batch_size": 3}},
    {"model": "deepseek-v3", "num_devices": 8, "device": "h200"},
    {"model": "bert-base-uncased", "settings": {"context_length": 512}},
    {"model": "gemma-2-9b", "settings": {"cache_implementation": "static", "num_beams": 2}},
    {"model": "8.8B"},
    {
        "model": "gemma-3-27b",
        "engine": "vllm",
        "device": "h100",
        "num_devices": 4,
        "parallelism": {"tensor": 2, "pipeline": 2},
    },
    {
        "model": "llama-3.1-8b",
        "engine": "vllm",
        "settings": {"enable_lora": True, "speculative_config": {"method": "ngram"}},
    },
    {"model": "deepseek-v2-lite", "engine": "vllm", "device": "l40s", "engine_version": "0.6.6"},
    {"model": "gemma-3-12b", "engine": "sglang", "device": "h100"},
    {"model": "llama-3.1-8b", "engine": "tensorrt-llm", "device": "h100"},
    {"model": "llama-3.1-8b", "engine": "tgi", "device": "h100"},
    {"model": "llama-3.1-8b", "engine": "litgpt", "quantization": "bnb-nf4", "device": "h100"},
    {"model": "stable-diffusion-xl-base-1.0", "device": "rtx-4090", "settings": {"vae_tiling": True, "fuse_qkv": True}},
    {"model": "CogVideoX-5b", "device": "h100", "settings": {"offload": "sequential"}},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: str(request["model"]))
def test_every_line_evaluates_to_its_bytes(request_: dict[str, object]) -> None:
    """Formula and values stand in the response: put together they give the bytes."""
    for device in vrameter.estimate(request_)["devices"]:
        for item in device["items"]:
            assert eval(item["formula"], dict(NAMES), dict(item["values"])) == item["bytes"], item
            assert item["low_bytes"] <= item["bytes"] <= item["high_bytes"], item
            assert item["source"], item
