"""Write catalog/config_defaults.json: what transformers' config classes assume where a config.json is silent.

transformers saves a configuration as its differences from the class, so a config.json can only be
read together with the defaults of its class. This tool lists them as facts: per `model_type` the
fields that decide shapes, the aliases of field names, and the kinds of nested configurations. No code is copied.

    pip install transformers==5.23.0 torch && python tools/config_defaults.py
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Fields that cannot change a tensor's shape, a cache or an activation.
IRRELEVANT = re.compile(
    r"dropout|droprate|drop_path|_drop$|pdrop|token_id|token_index|initializer|init_std|init_scale|layerdrop|_eps$|epsilon|"
    r"^mask_|_loss|loss_|_cost$|_coef$|_coefficient$|output_|return_dict|^_out_|id2label|label2id|problem_type|"
    r"transformers_version|use_cache|^rope_(theta|parameters|scaling)$|begin_suppress|suppress_tokens|forced_|"
    r"task_specific|apply_spec|ctc_|temperature|_factor$|sampling_rate|pretraining_tp|_noise|jitter|"
    r"length_penalty|early_stopping|no_repeat|max_length|min_length|num_return|repetition|"
    r"chunk_size_feed_forward|^architectures$|^dtype$|keys_to_ignore|^frame_rate$|layer_scale_init|logit_scale|softcap"
)
KEEP = {"expansion_factor", "merge_factor", "scale_factor", "downsample_factor", "mm_factor", "downsample_rates",
        "layer_scale_init_value", "layerscale_value", "use_attention_sinks", "chunk_length", "max_length",
        "frame_rate", "upsampling_ratios", "output_dim", "output_hidden_size", "embedding_multiplier_factor",
        "logit_scale", "spatial_downsample_factor", "time_step_init_scheme", "proj_factor", "block_multiple_of_factor",
        "compression_factor", "pixel_shuffle_factor", "ffn_expansion_factor", "output_proj_dim", "out_hidden_size",
        "qk_proj_blocksize_factor", "conv_expansion_factor", "pooling_factor", "scaling_factor", "mlp_factor",
        "output_channels", "downsampling_factor", "projector_scale_factor", "ffw_factor", "stack_factor"}  # fmt: skip


def plain(value: Any) -> bool:
    """Say whether `value` is JSON as it is, and small enough to be a fact about a shape."""
    if isinstance(value, (list, tuple)):
        return len(value) <= 64 and all(plain(item) for item in value)
    if isinstance(value, dict):
        return len(value) <= 64 and all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


def fields_of(config_class: type) -> dict[str, Any]:
    """Return the class defaults that can matter to a shape."""
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        name = field.name
        if name not in KEEP and IRRELEVANT.search(name):
            continue
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            continue
        if (name != "is_encoder_decoder" or default) and default is not None and plain(default):
            kept[name] = list(default) if isinstance(default, tuple) else default
    return kept


def unset(config_class: type) -> list[str]:
    """Return the fields that a class leaves open and fills in from others: a nested config may have them set."""
    return [
        field.name
        for field in dataclasses.fields(config_class)
        if field.default is None and (field.name in KEEP or not IRRELEVANT.search(field.name))
    ]


def read(config: PreTrainedConfig, name: str) -> Any:
    """Return a field's value, or None where transformers refuses one value for all layers."""
    try:
        return getattr(config, name, None)
    except Exception:
        return None


def describe(config_class: type) -> dict[str, Any]:
    entry: dict[str, Any] = {"defaults": fields_of(config_class)}
    if config_class.attribute_map:
        entry["aliases"] = dict(config_class.attribute_map)
    subs = {}
    try:
        instance = config_class()
    except Exception:  # a class that cannot be built without arguments has no default nested configs
        instance = None
    for key in sorted(getattr(config_class, "sub_configs", {}) or {}):
        sub = getattr(instance, key, None)
        if isinstance(sub, PreTrainedConfig):
            own = fields_of(type(sub))
            current = {name: read(sub, name) for name in own}
            changed = {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in current.items()
                if value is not None and plain(value) and value != own[name]
            }
            changed |= {name: read(sub, name) for name in unset(type(sub)) if type(read(sub, name)) is int}
            subs[key] = {"model_type": sub.model_type, **changed}
        else:
            subs[key] = {}
    if subs:
        entry["nested"] = subs
    return entry


def main() -> None:
    entries: dict[str, Any] = {}
    queue = [CONFIG_MAPPING[model_type] for model_type in CONFIG_MAPPING]
    seen: set[type] = set()
    while queue:
        config_class = queue.pop()
        if config_class in seen:
            continue
        seen.add(config_class)
        for sub in (getattr(config_class, "sub_configs", {}) or {}).values():
            if isinstance(sub, type) and issubclass(sub, PreTrainedConfig):
                queue.append(sub)
        model_type = getattr(config_class, "model_type", "")
        if model_type and model_type not in entries:
            entries[model_type] = describe(config_class)
    document = {
        "source": f"transformers {transformers.__version__} configuration classes (Apache-2.0)",
        "model_types": dict(sorted(entries.items())),
    }
    path = Path(__file__).parent.parent / "catalog" / "config_defaults.json"
    path.write_text(
        json.dumps(document, indent=None, separators=(",", ":"), sort_keys=False).replace('},"', '},\n"') + "\n"
    )
    print(len(entries), path.stat().st_size)


if __name__ == "__main__":
    main()
