"""Tables of rotary angles that engines build beside the weights: how many positions, how wide.

An engine computes cosines and sines once for every position that a model may see. Stretched angles lengthen the table;
angles for part of a head narrow it; layers with a window may have angles of their own.

References
----------
.. [1] vLLM 0.19, ``model_executor/layers/rotary_embedding``: ``linear_scaling_rope.py``, ``dynamic_ntk_scaling_rope.py``,
       ``yarn_scaling_rope.py``, ``phi3_long_rope_scaled_rope.py``.
.. [2] transformers 5.23, configuration classes: the part of a head that turns, where the file does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vrameter.model.architecture import Attention, Component, LatentAttention

NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
# Share of a head that turns, where the class says it and not the file. [2]
PARTIAL = {
    "qwen3_next": 0.25, "qwen3_5": 0.25, "qwen3_5_moe": 0.25, "phi": 0.5, "glm4": 0.5, "glm4_moe": 0.5, "gpt_neox": 0.25,
    "stablelm": 0.25, "nemotron": 0.5, "persimmon": 0.5,
}  # fmt: skip
# Classes whose layers with a window have angles of their own. [2]
WINDOWED = ("gemma3", "gemma3n", "gemma4", "modernbert")

# Classes whose angles count time, height and width apart. [2]
SECTIONED = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen2_5_omni",
    "qwen2_5_omni_thinker",
    "glm4v",
    "glm4v_moe",
    "glm_ocr",
    "paddleocr_vl",
)
INTERLEAVED = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_omni_moe_thinker")
Axes = Literal["", "sections", "interleaved"]

Tables = tuple[tuple[int, int], ...]


def rotary_tables(values: Mapping[str, Any], decoder: Component) -> Tables:
    """Return positions and width of every table that a config.json leads to; none where positions are learned.

    Parameters
    ----------
    values
        The parsed object.
    decoder
        The component that it describes.

    Examples
    --------
    Gemma 3 27B stretches the angles of layers without a window eightfold:

    >>> from vrameter.model.parts import attention
    >>> from vrameter.model.architecture import Layer
    >>> layer = Layer((attention(hidden_size=5376, num_heads=32, num_kv_heads=16, head_dim=128),))
    >>> body = Component(kind="decoder", name="decoder", hidden_size=5376, layers=(layer,), max_positions=131072)
    >>> rotary_tables({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, body)
    ((1048576, 128), (131072, 128))
    """
    if any(tensor.slot == "position" for tensor in decoder.tensors) or not decoder.max_positions:
        return ()
    text = _text(values)
    kind = str(text.get("model_type") or values.get("model_type") or "").removesuffix("_text")
    widths = sorted(
        {
            part.rope_dim if isinstance(part, LatentAttention) else _turning(part, text, kind)
            for layer, _ in decoder.layer_groups
            for part in layer.parts
            if isinstance(part, LatentAttention)
            or (isinstance(part, Attention) and part.scope not in ("cross", "encoder"))
        }
    )
    stretched = text.get("rope_parameters") or text.get("rope_scaling")
    own = isinstance(stretched, Mapping) and any(isinstance(item, Mapping) for item in stretched.values())
    laws = list(stretched.values()) if own and isinstance(stretched, Mapping) else [stretched]
    if not own and (text.get("rope_local_base_freq") is not None or kind in WINDOWED):
        laws.append(None)
    lengths = [_positions(law, decoder.max_positions) for law in laws]
    return tuple((length, width) for width in widths for length in lengths)


def rotary_axes(values: Mapping[str, Any], model_type: str) -> Axes:
    """Return whether angles count time, height and width apart, and how.

    >>> rotary_axes({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, "qwen2_vl")
    'sections'
    """
    text = _text(values)
    law = text.get("rope_parameters") or text.get("rope_scaling")
    stated = isinstance(law, Mapping) and "mrope_section" in law
    if stated and isinstance(law, Mapping) and law.get("mrope_interleaved"):
        return "interleaved"
    kinds = {str(each or "").removesuffix("_text") for each in (text.get("model_type"), model_type)}
    if not kinds.isdisjoint(INTERLEAVED):
        return "interleaved"
    return "sections" if stated or not kinds.isdisjoint(SECTIONED) else ""


def _text(values: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in NESTED:
        nested = values.get(name)
        if isinstance(nested, Mapping):
            return _text(nested)
    return values


def _turning(part: Attention, text: Mapping[str, Any], kind: str) -> int:
    """Return how many elements of a head turn."""
    nested = text.get("rope_parameters")
    share = text.get("partial_rotary_factor", text.get("rotary_pct"))
    if share is None and isinstance(nested, Mapping):
        share = nested.get("partial_rotary_factor")
    if share is None:
        share = PARTIAL.get(kind, 1.0)
    width = text.get("rotary_dim")
    if isinstance(width, int) and 0 < width <= part.head_dim:
        return width
    return int(part.head_dim * share) if isinstance(share, (int, float)) and 0 < share <= 1 else part.head_dim


def _positions(law: Any, limit: int) -> int:
    """Return the positions of a table under a law of stretching."""
    if not isinstance(law, Mapping):
        return limit
    kind = law.get("rope_type", law.get("type"))
    stated, before = law.get("factor"), law.get("original_max_position_embeddings")
    factor = float(stated) if isinstance(stated, (int, float)) and 1 <= stated <= 1024 else None
    if kind in ("linear", "dynamic") and factor:
        return int(limit * factor)
    if kind in ("longrope", "su") and isinstance(before, int):
        return limit + before
    if kind == "yarn" and factor and isinstance(before, int):
        return int(before * factor)
    return limit


__all__ = ["Axes", "Tables", "rotary_axes", "rotary_tables"]
