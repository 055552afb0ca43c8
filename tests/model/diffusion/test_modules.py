"""Modules of diffusers: parameters of every pipeline of the catalogue, and of published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vrameter import estimate
from vrameter.errors import ConfigError
from vrameter.model.diffusion.pipeline import Pipeline
from vrameter.model.diffusion.registry import MODULES, reader
from vrameter.model.diffusion.unet import unet_plan
from vrameter.model.read import read_config
from vrameter.sources import catalogue

ROOT = Path(__file__).parents[3]
LISTED = json.loads((ROOT / "catalog" / "diffusion.json").read_text())

# Published counts: diffusers' classes built from the published configs. [MEMORY_MODEL G-P22 to G-P25]
GOLDEN = {
    ("stable-diffusion-v1-5", "unet"): 859_520_964,
    ("stable-diffusion-xl-base-1.0", "unet"): 2_567_463_684,
    ("stable-diffusion-v1-5", "vae"): 83_653_863,
    ("FLUX.1-dev", "vae"): 83_819_683,
    ("FLUX.1-dev", "transformer"): 11_901_408_320,
    ("FLUX.1-schnell", "transformer"): 11_891_178_560,
    ("stable-diffusion-3-medium-diffusers", "transformer"): 2_028_328_000,
    ("stable-diffusion-3.5-large", "transformer"): 8_056_627_520,
    ("FLUX.1-dev", "text_encoder_2"): 4_762_310_656,
    ("FLUX.1-dev", "text_encoder"): 123_060_480,
    ("stable-diffusion-xl-base-1.0", "text_encoder_2"): 694_659_840,
    ("Qwen-Image", "transformer"): 20_430_401_088,
    ("Wan2.1-T2V-14B-Diffusers", "transformer"): 14_288_491_584,
}  # fmt: skip


def pipeline(name: str) -> Pipeline:
    found = catalogue.find(name).architecture()
    assert isinstance(found, Pipeline)
    return found


@pytest.mark.parametrize(("name", "folder"), GOLDEN, ids="/".join)
def test_published_counts(name: str, folder: str) -> None:
    module = pipeline(name).module(folder)
    assert module is not None
    assert module.architecture.num_params == GOLDEN[name, folder]


def test_every_listed_module_has_its_count() -> None:
    for name, entry in LISTED.items():
        found = pipeline(name)
        counts = {module.name: module.architecture.num_params for module in found.modules}
        assert counts == {folder: module["params"] for folder, module in entry["components"].items()}, name
        assert found.num_params == sum(counts.values())


def test_names_are_those_of_the_files() -> None:
    names = {name for name, _, _ in pipeline("FLUX.1-dev").named_tensors()}
    assert "transformer.single_transformer_blocks.37.proj_out.weight" in names
    assert "vae.decoder.up_blocks.3.resnets.0.conv_shortcut.weight" in names
    assert "text_encoder_2.encoder.block.23.layer.1.DenseReluDense.wo.weight" in names


def test_every_class_has_a_reader() -> None:
    for name in MODULES:
        assert reader(name) is not None


def test_a_module_alone_is_a_pipeline_of_it() -> None:
    found = read_config({"_class_name": "FluxTransformer2DModel", "guidance_embeds": True})
    assert found.num_params == 11_901_408_320
    assert [module.name for module in found.modules] == ["transformer"]  # type: ignore[attr-defined]


def test_skips_of_a_unet_match_on_both_ways() -> None:
    module = pipeline("stable-diffusion-xl-base-1.0").module("unet")
    assert module is not None
    plan = unet_plan(module.cfg)
    assert sum(len(stage.resnets) for stage in plan.up) == 1 + sum(
        len(stage.resnets) + stage.resampled for stage in plan.down
    )


BAD: list[dict[str, Any]] = [
    {"_class_name": "FluxTransformer3DModel"},
    {"_class_name": "FluxPipeline", "components": {}},
    {"_class_name": "FluxPipeline", "components": {"transformer": 7}},
    {"_class_name": "FluxTransformer2DModel", "num_layers": -1},
    {"_class_name": "UNet2DConditionModel", "block_out_channels": [320, 640], "down_block_types": ["DownBlock2D"]},
    {"_class_name": "AutoencoderKLWan", "is_residual": True},
]


@pytest.mark.parametrize("config", BAD, ids=str)
def test_bad_configs_are_named(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        read_config(config)


def test_a_folder_of_a_pipeline_is_read(tmp_path: Path) -> None:
    entry = LISTED["stable-diffusion-v1-5/stable-diffusion-v1-5"]["components"]
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
    }
    for name, module in entry.items():
        index[name] = ["diffusers", module["cls"]]
        (tmp_path / name).mkdir()
        named = {"_class_name": module["cls"]} if module["cls"] in MODULES else {}
        (tmp_path / name / "config.json").write_text(json.dumps({**named, **module["config"]}))
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    answer = estimate({"model": str(tmp_path), "settings": {"height": 512, "width": 512}})
    assert answer["model"]["num_params"] == sum(module["params"] for module in entry.values())
    assert answer["request"]["engine"] == "diffusers"
