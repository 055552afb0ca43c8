"""What weights become when an engine has loaded them."""

from __future__ import annotations

import vrameter
from tests.configs import CONFIGS
from vrameter.engines.loaded import Kernels, loaded
from vrameter.engines.ranks import Degrees, ranks
from vrameter.memory.weights import weight_plan
from vrameter.model.read import read_config

GIB = 2**30


def test_llama_31_8b() -> None:
    """Printed by vLLM: 14.99 GiB, the file's 14.96 and a table of 32 MiB; by SGLang, in fp32 and segments: 15.02."""
    model = read_config(CONFIGS["llama-3.1-8b"], name="llama-3.1-8b")
    plan = weight_plan(model)
    share = ranks(model, Degrees())[0].share
    found = loaded(plan, share, Kernels())
    assert found.tensors == 16_060_522_496
    assert found.rotary_tables == 131_072 * 128 * 2
    assert round(found.total / GIB, 2) == 14.99
    assert round(loaded(plan, share, Kernels(rotary_bytes=4)).reserved / GIB, 2) == 15.02


def test_what_is_remembered_is_not_mixed_up() -> None:
    model = read_config(CONFIGS["llama-3.2-1b"], name="llama-3.2-1b")
    half, full = weight_plan(model, dtype="bf16"), weight_plan(model, dtype="fp32")
    share = ranks(model, Degrees())[0].share
    assert loaded(full, share, Kernels()).tensors == 2 * loaded(half, share, Kernels()).tensors


def test_fp32_is_halved_by_default() -> None:
    """GPT-2's file is in fp32: bf16 where the device has it, fp16 where it does not, fp32 where it is asked for.

    Ends of blocks that are not cut off weigh more in the smaller file.
    """
    asked = {
        (device, dtype): vrameter.estimate({"model": "gpt2", "engine": "vllm", "device": device, "dtype": dtype})
        for device, dtype in (("h100", None), ("t4", None), ("h100", "fp32"))
    }
    assert [answer["request"]["dtype"] for answer in asked.values()] == ["bf16", "fp16", "fp32"]
    half, _, whole = (answer["report"]["weights_bytes"] for answer in asked.values())
    assert half < whole * 0.52
