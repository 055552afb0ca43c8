"""Which tensor of a model one is, and which way round a matrix is stored."""

from __future__ import annotations

from vrameter.model.architecture import Component, Tensor

Key = tuple[str, int | None, str]
"""A component, a layer, a name below it."""


def component_key(component: Component) -> str:
    """Return what names a component in a model, whatever part of it one device holds."""
    return f"{component.kind}:{component.name}:{component.layers_prefix}"


def oriented(tensor: Tensor, hidden_size: int) -> tuple[int, ...]:
    """Return a matrix's shape as outputs before inputs.

    GPT-2's Conv1D and the experts of gpt-oss and Llama 4 are stored the other way round, which shows where the hidden
    width stands: matrices out of it have it last, matrices into it first.
    """
    shape = tensor.shape
    if len(shape) < 2 or not tensor.linear:
        return shape
    *stack, outputs, inputs = shape
    into = tensor.slot in ("o", "down", "ssm_out")
    out_of = tensor.slot in ("q", "k", "v", "qkv", "gate", "up", "gate_up")
    turned = outputs != hidden_size == inputs if into else out_of and inputs != hidden_size == outputs
    return (*stack, inputs, outputs) if turned else shape


__all__ = ["Key", "component_key", "oriented"]
