"""diffusers' own denoisers on CPU: what autograd keeps of one block, with the norms that CUDA runs in their place.

On CPU a norm keeps its statistics in the model's dtype and RMSNorm is a row of operations; on CUDA statistics are fp32,
RMSNorm is one kernel, and autocast runs norms in fp32. Stand-ins with those rules take the places of the three functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

torch = pytest.importorskip("torch")
functional = torch.nn.functional


class Kernel(torch.autograd.Function):
    """A norm that keeps its input and its statistics in fp32, as CUDA's do."""

    @staticmethod
    def forward(ctx: Any, x: Any, statistics: int, weight: Any, bias: Any) -> Any:
        rows = x.numel() // x.shape[-1]
        ctx.save_for_backward(x, torch.empty(rows * statistics, dtype=torch.float32), weight, bias)
        return torch.empty(x.shape, dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None, None, None


def _autocast(x: Any) -> Any:
    return x.float() if torch.is_autocast_enabled("cpu") else x


def layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return Kernel.apply(_autocast(x), 2, weight, bias)


def rms_norm(x: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    return Kernel.apply(x, 1, weight, None)


@contextmanager
def cuda_norms() -> Iterator[None]:
    """Run norms by CUDA's rules."""
    with (
        patch.object(functional, "layer_norm", layer_norm),
        patch.object(functional, "rms_norm", rms_norm),
        patch.object(torch, "norm", lambda x, *args, own=torch.norm, **kwargs: own(_autocast(x), *args, **kwargs)),
        patch.object(
            functional,
            "group_norm",
            lambda x, *args, own=functional.group_norm, **kwargs: own(_autocast(x), *args, **kwargs),
        ),
    ):
        yield


def saved_bytes(model: Any, inputs: dict[str, Any], *, autocast: bool, own: Any = None) -> int:
    """Return the bytes of all storages that autograd keeps of one forward pass; parameters, and inputs, left out."""
    module = own or model
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers(), *shared(inputs))}
    kept: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with (
        cuda_norms(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        out = model(**inputs)
    del out
    return sum(size for size, _ in kept.values())


def _cast(value: Any, dtype: Any) -> Any:
    if isinstance(value, list):
        return [_cast(each, dtype) for each in value]
    wide = torch.is_tensor(value) and value.dtype == torch.float32
    return value.to(dtype) if wide else value


def whole(
    make: Callable[[], Any],
    inputs: dict[str, Any],
    *,
    dtype: Any,
    autocast: bool,
    targets: list[str],
    outside: Any = None,
) -> int:
    """Return what a model keeps; with `targets` only adapters of rank 4 in fp32 are trained.

    Parameters
    ----------
    outside
        What is no part of its blocks: a function that runs it on the model, to be left out.
    """
    model = make().to(dtype).train()
    if targets:
        from peft import LoraConfig, inject_adapter_in_model

        model.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=targets), model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    given = {name: _cast(value, dtype) for name, value in inputs.items()}
    left_out = 0
    if outside is not None and not targets:
        left_out = saved_bytes(lambda **_: outside(model), {}, autocast=autocast, own=model)
    return saved_bytes(model, given, autocast=autocast) - left_out


def shared(inputs: dict[str, Any]) -> list[Any]:
    """Return the text among a model's inputs, which every block may keep."""
    return [inputs["encoder_hidden_states"]] if "encoder_hidden_states" in inputs else []


def one_more(make: Callable[[int], Any], inputs: dict[str, Any], **how: Any) -> int:
    """Return what the third block of a kind adds."""
    fewer, more = (whole(lambda count=count: make(count), inputs, **how) for count in (2, 3))
    return more - fewer


__all__ = ["one_more", "saved_bytes", "whole"]
