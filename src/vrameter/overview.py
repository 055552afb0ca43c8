"""A model in every precision: weights, inference, training state, and the rule of thumb beside them."""

from __future__ import annotations

from typing import Any

from vrameter.memory.rule_of_thumb import rule_of_thumb
from vrameter.memory.training_state import RECIPES, training_state_bytes

# name shown -> request fields, the rule's data type, the training recipe whose weights it is
ROWS: tuple[tuple[str, dict[str, str], str | None, str | None], ...] = (
    ("fp32", {"dtype": "fp32"}, "fp32", "fp32"),
    ("bf16", {"dtype": "bf16"}, "bf16", "bf16-mixed"),
    ("fp8", {"dtype": "bf16", "quantization": "fp8"}, "fp8", None),
    ("int8", {"dtype": "bf16", "quantization": "int8"}, "int8", None),
    ("q8_0", {"dtype": "bf16", "quantization": "q8_0"}, "int8", None),
    ("awq", {"dtype": "bf16", "quantization": "awq"}, "int4", None),
    ("gptq", {"dtype": "bf16", "quantization": "gptq"}, "int4", None),
    ("bnb-nf4", {"dtype": "bf16", "quantization": "bnb-nf4"}, "int4", None),
    ("mxfp4", {"dtype": "bf16", "quantization": "mxfp4"}, "int4", None),
    ("nvfp4", {"dtype": "bf16", "quantization": "nvfp4"}, "int4", None),
    ("q4_k_m", {"dtype": "bf16", "quantization": "q4_k_m"}, "int4", None),
)


def overview(model: object, *, context_length: int = 8192, online: bool = False) -> dict[str, Any]:
    """Return a row per precision and quantisation of a model.

    Parameters
    ----------
    model
        As in a request; it must have a shape.
    context_length
        Tokens of the inference column, bounded by the model's own positions. [tokens]
    online
        Whether to ask the Hub even where the catalogue knows the model.

    Notes
    -----
    Of a diffusion pipeline the denoiser is quantised, and inference makes one picture or video of its usual size.
    Formats whose inference is not transformers' (GGUF) stand with the same activations and cache; their own engines
    differ by their compute buffers.
    """
    from vrameter.response import estimate
    from vrameter.sources import resolve

    resolved = resolve(model, online=online)
    architecture = resolved.architecture
    assert architecture is not None, "an overview needs a shape"
    pictures = architecture.model_type == "diffusion"
    limit = architecture.main.max_positions
    tokens = min(context_length, limit) if limit else context_length
    # Where only weights can be counted, and for pictures, no length makes a difference.
    common = {"model": model, **({"online": True} if online else {})}
    question = {**common, "settings": {"context_length": tokens}} if resolved.described and not pictures else common
    rows: list[dict[str, Any]] = []
    own = architecture.quantization_config is not None or resolved.table is not None
    entries = (("as published", {}, None, None), *ROWS) if own else ROWS
    first: dict[str, Any] | None = None
    warnings: list[str] = []
    for name, fields, rule_dtype, recipe in entries:
        response = estimate({**question, **fields})
        if first is None:
            first = response
            warnings = list(response["warnings"])
        rule = rule_of_thumb(architecture.num_params, rule_dtype) if rule_dtype else None
        rows.append(
            {
                "name": name,
                "request": {**common, **fields},
                "weights_bytes": response["report"]["weights_bytes"],
                "inference_bytes": response["devices"][0]["peak"]["used_bytes"],
                "inference_low_bytes": response["devices"][0]["peak"]["low_bytes"],
                "inference_high_bytes": response["devices"][0]["peak"]["high_bytes"],
                "training_state_bytes": training_state_bytes(
                    num_params=architecture.num_params, bytes_per_param=sum(RECIPES[recipe])
                )
                if recipe
                else None,
                "rule_of_thumb": {
                    "inference_low_bytes": rule.inference_low,
                    "inference_high_bytes": rule.inference_high,
                    "training_bytes": rule.training,
                }
                if rule
                else None,
            }
        )
    assert first is not None
    bf16 = estimate({**question, "dtype": "bf16"})
    return {
        "model": first["model"],
        "context_length": None if pictures else tokens,
        "kv_cache": bf16.get("kv_cache"),
        "rows": rows,
        "warnings": warnings,
    }
