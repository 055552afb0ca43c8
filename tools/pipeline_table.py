"""Diffusion pipelines of catalog/diffusion.json on their way into the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from catalogue_rules import Config, compact
from vrameter.model.architecture import Architecture
from vrameter.model.diffusion.registry import MODULES
from vrameter.model.read import read_config

# Fields of diffusers' configs that change neither a tensor nor a feature map.
IDLE = frozenset({
    "act_fn", "activation_fn", "axes_dim_rope", "axes_dims", "axes_dims_rope", "axes_lens", "center_input_sample", "dropout",
    "downsample_padding", "eps", "flip_sin_to_cos", "freq_shift", "invert_scale_latents", "latents_mean", "latents_std",
    "mid_block_scale_factor", "norm_eps", "resnet_out_scale_factor", "rope_axes_dim", "rope_theta", "scaling_factor",
    "shift_factor", "spatial_interpolation_scale", "t_scale", "temporal_interpolation_scale", "time_cond_proj_dim",
    "timestep_activation_fn", "timestep_post_act", "upcast_attention",
})  # fmt: skip
PROVEN, RECORDED = "class-default-verified", "full-reconstructed"


def pipelines(catalog: Path) -> list[tuple[dict[str, Any], Config, str]]:
    """Return row, config and trust of every pipeline, counts checked."""
    found = []
    for name, entry in json.loads((catalog / "diffusion.json").read_text()).items():
        modules: Config = {}
        total = 0
        for folder, module in entry["components"].items():
            config = _config(module)
            seen = read_config(config, name=folder)
            if seen.num_params != module["params"]:
                raise SystemExit(f"{name} {folder}: read {seen.num_params:,}, listed {module['params']:,}")
            modules[folder] = _small(config, seen)
            total += module["params"]
        config = {"_class_name": entry["class"], "torch_dtype": entry["dtype"], "components": modules}
        if entry["missing"]:
            config["missing"] = entry["missing"]
        row = {"id": name, "family": "diffusion", "computed_params": total}
        proven = all(module["verified"] for module in entry["components"].values())
        found.append((row, config, PROVEN if proven else RECORDED))
    return found


def _config(module: dict[str, Any]) -> Config:
    named = {"_class_name": module["cls"]} if module["cls"] in MODULES else {"architectures": [module["cls"]]}
    return {**named, **module["config"]}


def _small(config: Config, seen: Architecture) -> Config:
    if "_class_name" in config:
        small = {key: value for key, value in config.items() if key not in IDLE and value is not None}
    else:
        small = compact(config)
    if read_config(small, name=seen.name) != seen:
        raise SystemExit(f"{seen.name}: a field that was left out matters")
    return small


__all__ = ["pipelines"]
