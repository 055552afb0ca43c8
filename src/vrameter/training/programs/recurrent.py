"""Recurrent mixers as programs, with their fused kernels.

Without the kernels (``mamba_ssm``, ``causal_conv1d``, ``fla``) transformers falls back to loops that keep several times as much.

References
----------
.. [1] A. Gu, T. Dao, "Mamba", 2023, arXiv:2312.00752; mamba_ssm, ``ops/triton/ssd_combined.py``.
.. [2] Megatron-LM, ``core/ssm/mamba_mixer.py``.
.. [3] S. Yang et al., flash-linear-attention, ``ops/gated_delta_rule/chunk.py``.
"""

from __future__ import annotations

from vrameter.model.architecture import Recurrent
from vrameter.training.graph import Value
from vrameter.training.programs.scene import Scene, by_slot, norms_of

_INPUTS = ("ssm_in", "qkvz", "qkv", "z", "ba", "b", "a")


def recurrent(scene: Scene, part: Recurrent, x: Value, *, norm_apart: bool = False) -> Value:
    """Run projections, the short convolution, the scan and the gated norm.

    The fused kernels keep what the input projection made and what the scan made, and run the rest again backwards. Megatron
    runs the norm behind the kernel, on a copy in its own order (`norm_apart`).
    """
    graph, slots = scene.graph, by_slot(part.tensors)
    inputs = [slots[name] for name in _INPUTS if name in slots and slots[name].linear]
    streams = [scene.linear(x, tensor, outputs=tensor.shape[0]) for tensor in inputs] or [x]
    inner = part.inner_size or streams[0].width
    scanned = graph.new(x.rows, inner, x.element)
    again = sum(stream.bytes for stream in streams)
    weights = [scene.weight(slots["conv"])] if "conv" in slots else []
    norms = norms_of(part)
    stats = graph.new(x.rows, 1, 4) if norms else None
    scales = [scene.weight(tensor) for group in norms for tensor in group]
    weights += [] if norm_apart else scales
    out = graph.op(streams, inner, saves=[*streams, scanned, None if norm_apart else stats], weights=weights, work=2 * again,
                   scratch=again)  # fmt: skip
    if norm_apart:
        out = graph.copy(out)
        out = graph.op([out], saves=[out, stats], weights=scales)
    del streams, scanned, stats
    last = slots.get("ssm_out") or slots.get("o")
    return scene.linear(out, last, outputs=x.width) if last is not None else out


__all__ = ["recurrent"]
