"""What a text encoder holds at its fullest moment.

References
----------
.. [1] transformers 5.23, ``modeling_t5.py``: scores of attention are written out.
"""

from __future__ import annotations

from vrameter.engines.diffusers.denoise import attention_bytes, perceptron_bytes
from vrameter.engines.diffusers.shape import Shape
from vrameter.model.architecture import Attention, FeedForward
from vrameter.model.diffusion.pipeline import Module


def encode_bytes(module: Module, shape: Shape, element_bytes: int) -> int:
    """Return what a text encoder's fullest block holds; T5 and its line write their scores out. [bytes]."""
    sizes = [0]
    rows = shape.samples * shape.passes * shape.text_tokens
    for component in module.architecture.components:
        for layer, _ in component.layer_groups:
            for part in layer.parts:
                if isinstance(part, Attention):
                    sizes.append(
                        attention_bytes(
                            rows=rows, hidden=component.hidden_size, inner=part.num_heads * part.head_dim,
                            element_bytes=element_bytes, rotary=0,
                            score_rows=rows if "T5" in module.class_name else 0, keys=shape.text_tokens,
                            heads=part.num_heads,
                        )
                    )  # fmt: skip
                elif isinstance(part, FeedForward):
                    sizes.append(
                        perceptron_bytes(
                            rows=rows, hidden=component.hidden_size, intermediate=part.intermediate_size,
                            copies=4 if part.gated else 2, element_bytes=element_bytes, integer=0,
                        )
                    )  # fmt: skip
    return max(sizes)


__all__ = ["encode_bytes"]
