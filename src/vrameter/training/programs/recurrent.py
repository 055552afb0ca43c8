"""Recurrent mixers as programs, with their fused kernels.

Without the kernels (``mamba_ssm``, ``causal_conv1d``, ``fla``) transformers falls back to loops that keep several times as much.

References
----------
.. [1] A. Gu, T. Dao, "Mamba", 2023, arXiv:2312.00752; mamba_ssm, ``ops/triton/ssd_combined.py``.
.. [2] S. Yang et al., flash-linear-attention, ``ops/gated_delta_rule/chunk.py``.
"""

from __future__ import annotations

from vrameter.model.architecture import Recurrent
from vrameter.training.graph import Value
from vrameter.training.programs.scene import Scene, by_slot, norms_of

CHUNK = 64


def recurrent(scene: Scene, part: Recurrent, x: Value) -> Value:
    """Run projections, the short convolution, the scan and the gated norm."""
    graph, slots = scene.graph, by_slot(part.tensors)
    inputs = [slots[name] for name in ("ssm_in", "qkvz", "qkv", "z", "ba", "b", "a") if name in slots
              and slots[name].linear]  # fmt: skip
    streams = [scene.linear(x, tensor, outputs=tensor.shape[0]) for tensor in inputs] or [x]
    wide = max(streams, key=lambda value: value.width)
    channels = min(part.conv_channels or wide.width, wide.width)
    mixed = graph.halves(wide, [channels, wide.width - channels]) if channels < wide.width else [wide]
    convolved = graph.op([mixed[0]], channels, saves=[mixed[0]], weights=[scene.weight(slots["conv"])] if "conv" in slots else ())
    states = max(1, scene.length // CHUNK) * part.state_elements // max(1, scene.length)
    held = graph.new(x.rows, states, 4) if states else None
    inner = part.inner_size or channels
    out = graph.op([convolved, *mixed[1:]], inner, saves=[convolved, *mixed[1:], held])
    norms = norms_of(part)
    if norms:
        out = scene.norm(out, norms[-1], kind="late", heads=inner // norms[-1][0].size if norms[-1][0].size < inner else 0)
    last = slots.get("ssm_out") or slots.get("o")
    return scene.linear(out, last, outputs=x.width) if last is not None else out


__all__ = ["recurrent"]
