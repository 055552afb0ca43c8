"""Saved activations of transformers' own vision towers on CPU, byte for byte: needs torch and transformers (``-m oracle``)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from tests.training.scenes import TOY
from vrameter.model.read import read_config
from vrameter.training.graph import Graph
from vrameter.training.programs import towers
from vrameter.training.programs.scene import Kernels, Numbers, Scene, Use
from vrameter.training.simulate import cost

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

SIZES = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8}
PACKED = {"hidden_size": 256, "num_heads": 8}
# Towers of one image each: model around them, tower, its sizes, positions of an image, whether heads are turned.
SINGLE: list[tuple[str, str, dict[str, Any], int, bool]] = [
    ("llava", "siglip_vision_model", {**SIZES, "image_size": 112, "patch_size": 14}, 64, False),
    ("llava", "clip_vision_model", {**SIZES, "image_size": 112, "patch_size": 14}, 65, False),
    ("llava", "pixtral", {**SIZES, "head_dim": 32, "image_size": 112, "patch_size": 14}, 64, True),
    ("internvl", "internvl_vision", {**SIZES, "image_size": [112, 112], "patch_size": [14, 14], "norm_type": "layer_norm"}, 65, False),
]  # fmt: skip
# Towers of packed images: model, class of the tower and of its config, sizes.
PACKS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("qwen2_vl", "Qwen2VisionTransformerPretrainedModel", "Qwen2VLVisionConfig", {"embed_dim": 256, **PACKED}),
    ("qwen2_5_vl", "Qwen2_5_VisionTransformerPretrainedModel", "Qwen2_5_VLVisionConfig",
     {**PACKED, "intermediate_size": 704, "out_hidden_size": 256, "fullatt_block_indexes": [0, 1, 2, 3]}),
    ("qwen3_vl", "Qwen3VLVisionModel", "Qwen3VLVisionConfig",
     {**PACKED, "intermediate_size": 704, "out_hidden_size": 256, "patch_size": 16, "deepstack_visual_indexes": []}),
]  # fmt: skip
DTYPES = {"bf16": ("bfloat16", 2), "fp32": ("float32", 4)}


def saved(model: Any, *args: Any, **inputs: Any) -> int:
    """Return what autograd keeps of a forward pass, storages counted once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(*args, **inputs)
    return sum(size for size, _ in kept.values())


def made(
    model_type: str, tower: dict[str, Any], element: int, kernel: str, *, seqs: int, positions: int, rotates: bool
) -> int:
    """Return what the last layer of a tower keeps here; on CPU a LayerNorm keeps its two statistics in bf16."""
    text = {"model_type": {"internvl": "qwen2", "llava": "llama"}.get(model_type, f"{model_type}_text"), **TOY}
    model = read_config({"model_type": model_type, "text_config": text, "vision_config": tower})
    component = next(each for each in model.components if each.kind == "vision")
    layer, traits = component.layers[-1], towers.traits_of_tower(component, rotates=rotates)

    def scene(graph: Graph) -> Scene:
        kernels = Kernels(attention=kernel)
        return Scene(
            graph, seqs, positions, Numbers(element, element), kernels, traits, lambda tensor: Use(element, True)
        )

    found = cost(
        lambda scene, x: towers.layer(scene, layer, x), scene, width=component.hidden_size, element=element,
        rows=seqs * positions, accumulates=True,
    )  # fmt: skip
    return found.saved - (4 * 2 * seqs * positions if traits.norm == "layer" and element == 2 else 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(("around", "kind", "sizes", "positions", "rotates"), SINGLE, ids=[each[1] for each in SINGLE])
@pytest.mark.filterwarnings("ignore")
def test_saved_bytes_of_single_images(
    around: str, kind: str, sizes: dict[str, Any], positions: int, rotates: bool, kernel: str, dtype: str
) -> None:
    name, element = DTYPES[dtype]
    if (kind, kernel, dtype) == ("internvl_vision", "eager", "bf16"):
        pytest.skip("its eager softmax is not widened to fp32")
    totals = []
    for layers in (2, 3):
        config = transformers.AutoConfig.for_model(kind, **sizes, num_hidden_layers=layers)
        model = transformers.AutoModel.from_config(config, attn_implementation=kernel).to(getattr(torch, name)).train()
        inputs = {"pixel_values": torch.randn(2, 3, 112, 112, dtype=getattr(torch, name))}
        if kind == "pixtral":
            inputs["image_sizes"] = torch.tensor([[112, 112]] * 2)
        totals.append(saved(model, **inputs))
    tower = {**sizes, "model_type": kind, "num_hidden_layers": 2}
    # Pixtral packs its images into one sequence.
    shape = {"seqs": 1, "positions": 128} if kind == "pixtral" else {"seqs": 2, "positions": positions}
    assert made(around, tower, element, kernel, **shape, rotates=rotates) == totals[1] - totals[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("model_type", "tower", "config", "sizes"), PACKS, ids=[each[0] for each in PACKS])
@pytest.mark.filterwarnings("ignore")
def test_saved_bytes_of_packed_images(
    model_type: str, tower: str, config: str, sizes: dict[str, Any], dtype: str
) -> None:
    name, element = DTYPES[dtype]
    modeling = import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    made_of = import_module(f"transformers.models.{model_type}.configuration_{model_type}")
    totals = []
    for layers in (2, 3):
        settings = getattr(made_of, config)(**sizes, depth=layers)
        settings._attn_implementation = "sdpa"
        model = getattr(modeling, tower)._from_config(settings, attn_implementation="sdpa")
        patches = torch.randn(8 * 16, 3 * 2 * settings.patch_size**2, dtype=getattr(torch, name))
        totals.append(saved(model.to(getattr(torch, name)).train(), patches, grid_thw=torch.tensor([[1, 8, 16]])))
    ours = made(model_type, {**sizes, "depth": 2}, element, "sdpa", seqs=1, positions=128, rotates=True)
    assert ours == totals[1] - totals[0]
