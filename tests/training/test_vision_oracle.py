"""Saved tensors of image models on CPU, byte for byte: needs torch, and timm, transformers or ultralytics (``-m oracle``).

A storage counts once, parameters and buffers do not, and neither does what autograd lets go before the forward pass returns.
"""

from __future__ import annotations

import gc
import importlib
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.training.images import kept_bytes, step_moments
from vrameter.model.read import read_config
from vrameter.model.vision import timm as timm_names
from vrameter.model.vision import ultralytics as yolo_names

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
PRECISIONS = ("fp32", "autocast")


def library(name: str) -> Any:
    """Return a library, or skip where it is missing or does not load."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} does not load: {str(error)[:80]}")


class Kept:
    """What autograd holds of one saved tensor."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


@contextmanager
def recording(model: Any, precision: str) -> Iterator[weakref.WeakSet[Kept]]:
    """Collect saved tensors while a model runs."""
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(tensor: Any) -> Kept:
        kept = Kept(tensor)
        alive.add(kept)
        return kept

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"),
    ):
        yield alive


def saved_bytes(model: Any, size: tuple[int, int], precision: str, *, by_name: bool = False) -> int:
    """Return the bytes of distinct storages that autograd keeps for two images."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    image = torch.randn(2, 3, *size)
    with recording(model, precision) as alive:
        out = model(pixel_values=image) if by_name else model(image)
    result = next((getattr(out, name) for name in ("logits", "last_hidden_state") if hasattr(out, name)), out)
    del out
    gc.collect()
    storages = {kept.tensor.untyped_storage().data_ptr(): kept.tensor.untyped_storage().nbytes() for kept in alive}
    assert result is not None
    return sum(size for place, size in storages.items() if place not in own)


# -- timm ----------------------------------------------------------------------------------------------

# name, edge of the images, fused attention
TIMM = [
    ("vit_tiny_patch16_224", 224, True), ("vit_tiny_patch16_224", 224, False), ("vit_small_patch14_reg4_dinov2", 224, True),
    ("vit_base_patch16_siglip_224", 224, True), ("deit_tiny_patch16_224", 224, True), ("resnet18", 96, True), ("resnet50d", 96, True),
    ("seresnet50", 96, True), ("resnext50_32x4d", 96, True), ("wide_resnet50_2", 96, True), ("convnext_atto", 96, True),
    ("convnextv2_atto", 96, True), ("efficientnet_b0", 96, True), ("tf_efficientnetv2_b0", 100, True), ("efficientnet_lite0", 96, True),
    ("mobilenetv2_100", 96, True), ("mobilenetv3_small_100", 96, True), ("regnetx_002", 96, True), ("regnety_002", 96, True),
    ("densenet121", 96, True), ("vgg11_bn", 224, True), ("swin_tiny_patch4_window7_224", 224, False),
]  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "edge", "fused"), TIMM)
def test_timm(name: str, edge: int, fused: bool, precision: str) -> None:
    timm = library("timm")
    family, facts = timm_names.models()[name]
    rates = {} if family in ("vgg", "densenet") else {"drop_path_rate": 0.0}
    size = {"img_size": edge} if family in ("vit", "swin") else {}
    timm.layers.set_fused_attn(fused)
    model = timm.create_model(name, num_classes=10, drop_rate=0.0, **rates, **size).train()
    timm.layers.set_fused_attn(True)
    network = timm_names.network_of(family, name, {**facts, "drop_path": 0.0}).sized((edge, edge), 10)
    assert kept_bytes(network, autocast=precision == "autocast", fused=fused) == saved_bytes(
        model, (edge, edge), precision
    )


STEPS = ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0", "regnety_002", "densenet121"]


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", STEPS)
def test_moments_of_a_step(name: str, precision: str, recomputes: bool) -> None:
    """What is alive at most in the forward and in the backward pass of four images, gradients within, to 2 %."""
    from tests.live_bytes import LiveBytes

    timm = library("timm")
    family, facts = timm_names.models()[name]
    size = (224, 224) if family == "vit" else (96, 96)
    model = timm.create_model(name, num_classes=10, drop_rate=0.0).train()
    if recomputes:
        model.set_grad_checkpointing(True)
    labels = torch.zeros(4, dtype=torch.long)
    live = LiveBytes([*model.parameters(), *model.buffers()])
    with live:
        image = torch.randn(4, 3, *size)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
            out = model(image)
            forward, live.most = live.most, live.now
            loss = torch.nn.functional.cross_entropy(out, labels)
        live.most = live.now
        loss.backward()
    network = timm_names.network_of(family, name, {**facts, "drop_path": 0.0}).sized(size, 10)
    assert step_moments(network, batch=4, autocast=precision == "autocast", recomputes=recomputes) == pytest.approx(
        (forward, live.most), rel=0.02
    )


def test_every_registered_name() -> None:
    """Parameters by name and shape, for every model of timm that is listed."""
    timm = library("timm")
    for name, (family, facts) in timm_names.models().items():
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False)
        theirs = {key: tuple(value.shape) for key, value in model.named_parameters()}
        ours = {tensor.name: tensor.shape for tensor in timm_names.parameters(family, facts) if not tensor.buffer}
        assert ours == theirs, name


# -- transformers -------------------------------------------------------------------------------------------

TOWER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 64,
         "patch_size": 16}  # fmt: skip
DINO = {**TOWER, "mlp_ratio": 2}
STAGES = {"depths": [1, 2, 1, 1], "image_size": 64}
CONVNEXT = {**STAGES, "hidden_sizes": [16, 32, 48, 64]}
RESNET = {**STAGES, "embedding_size": 16, "hidden_sizes": [32, 64, 96, 128]}
PVT = {**CONVNEXT, "num_attention_heads": [1, 2, 3, 4]}
SEGFORMER = {**PVT, "drop_path_rate": 0.0}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
        "drop_path_rate": 0.0}  # fmt: skip
DINO_3 = {**TOWER, "num_register_tokens": 4}
TRANSFORMERS: list[tuple[str, str, dict[str, Any]]] = [
    ("vit", "ViT", TOWER), ("vit_msn", "ViTMSN", TOWER), ("deit", "DeiT", TOWER),
    ("beit", "Beit", {**TOWER, "drop_path_rate": 0.0, "use_relative_position_bias": False}), ("dinov2", "Dinov2", DINO),
    ("dinov2_with_registers", "Dinov2WithRegisters", {**DINO, "use_swiglu_ffn": True}), ("clip", "CLIP", {"vision_config": TOWER}),
    ("siglip", "Siglip", {"vision_config": {**TOWER, "vision_use_head": False}}), ("convnext", "ConvNext", CONVNEXT),
    ("convnextv2", "ConvNextV2", CONVNEXT), ("resnet", "ResNet", RESNET), ("resnet", "ResNet", {**RESNET, "layer_type": "basic"}),
    ("regnet", "RegNet", {**RESNET, "groups_width": 16}), ("regnet", "RegNet", {**RESNET, "groups_width": 16, "layer_type": "x"}),
    ("mobilenet_v1", "MobileNetV1", {"image_size": 64, "classifier_dropout_prob": 0.0}),
    ("mobilenet_v2", "MobileNetV2", {"image_size": 64, "classifier_dropout_prob": 0.0}),
    ("segformer", "Segformer", SEGFORMER), ("pvt", "Pvt", PVT), ("poolformer", "PoolFormer", CONVNEXT),
    ("levit", "Levit", {"image_size": 224}), ("swin", "Swin", SWIN), ("dinov3_vit", "DINOv3ViTModel", DINO_3),
]  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(("model_type", "name", "sizes"), TRANSFORMERS)
def test_transformers(model_type: str, name: str, sizes: dict[str, Any], kernel: str, precision: str) -> None:
    transformers = library("transformers")
    config = transformers.AutoConfig.for_model(model_type, num_labels=10, **sizes)
    if (model_type, kernel) == ("swin", "sdpa"):
        pytest.skip("torch has no fused kernel for the CPU where what is added to scores is trained")
    class_name = name if name.endswith("Model") else f"{name}ForImageClassification"
    try:
        model = getattr(transformers, class_name)._from_config(config, attn_implementation=kernel).train()
    except ValueError:
        pytest.skip("the class has no such kernel")
    values = {key: value for key, value in config.to_dict().items() if value is not None}
    shape = read_config({**values, "architectures": [class_name]})
    assert shape.network is not None
    expected = saved_bytes(model, shape.network.image_size, precision, by_name=True)
    assert kept_bytes(shape.network, autocast=precision == "autocast", fused=kernel == "sdpa") == expected


# -- Ultralytics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "name", ["yolov8n", "yolov8s", "yolo11n", "yolo11m", "yolov5nu", "yolov8n-seg", "yolo11n-seg", "yolo11n-cls"]
)
def test_ultralytics(name: str, precision: str) -> None:
    tasks = library("ultralytics.nn.tasks")
    stem, _, task = name.partition("-")
    kind = {"": "DetectionModel", "seg": "SegmentationModel", "cls": "ClassificationModel"}[task]
    table = stem.removesuffix("u") + (f"-{task}" if task else "")
    model = getattr(tasks, kind)(f"{table}.yaml", nc=80, verbose=False).train()
    shape = yolo_names.read_name(name)
    assert shape.network is not None
    network = shape.network.sized((64, 64), 80)
    theirs = {key for key, _ in model.named_parameters() if ".dfl." not in key}
    assert {key for key, _, tensor in shape.named_tensors() if not tensor.buffer} == theirs
    assert kept_bytes(network, autocast=precision == "autocast") == saved_bytes(model, (64, 64), precision)
