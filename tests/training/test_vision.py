"""Image models: parameters of known models, what a step keeps, worked by hand, laws, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.images import kept_bytes, tape
from vrameter import estimate
from vrameter.errors import VrameterError
from vrameter.model.read import read_config
from vrameter.model.vision import timm, ultralytics
from vrameter.model.vision.net import Map, Net
from vrameter.model.vision.network import Network

# Parameters as timm's own tables of results list them, in millions where they are rounded there.
KNOWN = [
    ("resnet18", 11_689_512), ("resnet50", 25_557_032), ("resnext50_32x4d", 25_028_904), ("wide_resnet50_2", 68_883_240),
    ("vit_base_patch16_224", 86_567_656), ("vit_large_patch16_224", 304_326_632), ("deit_small_patch16_224", 22_050_664),
    ("vit_giant_patch14_dinov2", 1_136_479_232), ("swin_tiny_patch4_window7_224", 28_288_354), ("convnext_tiny", 28_589_128),
    ("convnextv2_base", 88_717_800), ("efficientnet_b0", 5_288_548), ("tf_efficientnet_b7", 66_347_960),
    ("tf_efficientnetv2_s", 21_458_488), ("mobilenetv2_100", 3_504_872), ("mobilenetv3_large_100", 5_483_032),
    ("regnety_032", 19_436_338), ("densenet121", 7_978_856), ("vgg16", 138_357_544),
]  # fmt: skip


def ask(model: Any, device: str = "rtx-4090", **settings: Any) -> Any:
    """Return the response to a question about training."""
    return estimate({"task": "training", "model": model, "device": device, "settings": settings})


def peak(model: Any, **settings: Any) -> int:
    """Return live tensors at the peak. [bytes]."""
    found: int = ask(model, **settings)["report"]["peak_allocated_bytes"]
    return found


@pytest.mark.parametrize(("name", "expected"), KNOWN)
def test_parameters_of_timm(name: str, expected: int) -> None:
    assert timm.read_name(f"timm/{name}").num_params == expected


def test_names_of_timm_may_bear_a_tag() -> None:
    assert timm.read_name("timm/resnet50.a1_in1k").num_params == timm.read_name("timm/resnet50").num_params


@pytest.mark.parametrize("name", ultralytics.names())
def test_parameters_of_ultralytics(name: str) -> None:
    """As the tables of layers state them; the sixteen fixed numbers that distances are weighed by are no parameters here."""
    version = next(version for version in ultralytics.tables() if name.startswith(version))
    shape = ultralytics.read_name(name)
    stated = ultralytics.tables()[version]["parameters"].get(name.removeprefix(version))
    fixed = sum(tensor.size for _, _, tensor in shape.named_tensors() if tensor.name.endswith("dfl.conv.weight"))
    assert shape.num_params > 10**6
    assert stated is None or shape.num_params + fixed == stated


def test_a_convolution_and_its_norm_by_hand() -> None:
    """A convolution keeps its input, batch norm its input and two numbers a channel, ReLU its output in place of the norm's."""

    def program(net: Net, x: Map, facts: object, classes: int) -> Map:
        x = net.conv(x, "conv", 8, 3, stride=2)
        return net.act(net.batch_norm(x, "bn"), "relu", inplace=True)

    run = tape(batch=2)
    image = run.image((16, 16), 4)
    program(run, image, None, 0)
    del image
    assert run.graph.live == 2 * (3 * 16 * 16 + 8 * 8 * 8 + 8 * 8 * 8) * 4 + 2 * 8 * 4


def test_a_frozen_program_keeps_nothing() -> None:
    network = timm.read_name("timm/resnet18").network
    assert network is not None
    run = tape(batch=2, trained=False)
    out = network.run(run, run.image((64, 64), 4))
    assert run.graph.live == out.value.bytes
    assert run.graph.nodes == []


def test_checkpoints_keep_inputs_of_blocks() -> None:
    """Twelve blocks of 197 tokens and 192 numbers, and what stands outside them."""
    network = timm.read_name("timm/vit_tiny_patch16_224").network
    assert network is not None
    run = tape(batch=2, recomputes=True)
    out = network.run(run, run.image((224, 224), 4))
    blocks = 12 * 2 * 197 * 192 * 4
    norm = (2 * 197 * 192 + 2 * 2 * 197) * 4  # its input and two statistics a token
    image, normed = 2 * 3 * 224 * 224 * 4, 2 * 197 * 192 * 4  # the classifier's input is a row of what the norm made
    assert run.graph.live == blocks + norm + image + normed + out.value.bytes
    run.graph.seed(out.value)
    del out
    run.graph.reset()
    run.graph.backward()
    assert run.graph.live == image - image


@pytest.mark.parametrize(
    "name", ["timm/resnet50", "timm/vit_tiny_patch16_224", "timm/convnext_atto", "timm/efficientnet_b0"]
)
def test_laws_of_a_step(name: str) -> None:
    plain = peak(name, micro_batch=32)
    assert peak(name, micro_batch=64) > plain
    assert peak(name, micro_batch=32, recompute="full") < plain
    assert peak(name, micro_batch=32, precision="bf16-mixed") < plain
    assert peak(name, micro_batch=32, finetuning="freeze") < peak(name, micro_batch=32, recompute="full")
    assert peak(name, micro_batch=32, optimizer="adamw_torch") >= plain
    assert peak(name, micro_batch=32, grad_accumulation=4) >= plain


def test_larger_images_need_more() -> None:
    assert peak("timm/resnet50", micro_batch=8, image_size=448) > 3 * peak(
        "timm/resnet50", micro_batch=8, image_size=224
    )
    assert peak("timm/vit_tiny_patch16_224", micro_batch=8, image_size=[224, 448]) > peak(
        "timm/vit_tiny_patch16_224", micro_batch=8
    )


def test_the_largest_micro_batch_fits_and_the_next_does_not() -> None:
    answer = ask("timm/convnext_tiny", advise=True, precision="bf16-mixed")
    most = answer["limits"]["micro_batch"]
    assert set(answer["limits"]) == {"micro_batch"}
    assert ask("timm/convnext_tiny", micro_batch=most, precision="bf16-mixed")["devices"][0]["fits"]
    assert not ask("timm/convnext_tiny", micro_batch=most + 1, precision="bf16-mixed")["devices"][0]["fits"]
    assert any(change["settings"].get("recompute") == "full" for change in answer["changes"] if "settings" in change)


def test_adapters_and_heads() -> None:
    whole = ask("timm/vit_base_patch16_224", micro_batch=8, optimizer="adamw_torch")
    lora = ask("timm/vit_base_patch16_224", micro_batch=8, optimizer="adamw_torch", finetuning="lora",
               adapter={"rank": 8, "targets": ["qkv"]})  # fmt: skip
    term = {item["term"]: item["bytes"] for item in lora["devices"][0]["items"]}
    assert term["adapters"] == 12 * 8 * (768 + 3 * 768) * 4
    assert lora["report"]["peak_allocated_bytes"] < whole["report"]["peak_allocated_bytes"]
    last = peak("timm/vit_base_patch16_224", micro_batch=8, finetuning="freeze", num_trainable_layers=2)
    assert (
        peak("timm/vit_base_patch16_224", micro_batch=8, finetuning="freeze")
        < last
        < whole["report"]["peak_allocated_bytes"]
    )


def test_sharing_between_devices() -> None:
    def asked(**degrees: Any) -> int:
        request = {"task": "training", "model": "timm/vit_large_patch16_224", "device": "4xrtx-4090",
                   "settings": {"micro_batch": 4, "optimizer": "adamw_torch", "precision": "bf16-mixed"}, "parallelism": degrees}  # fmt: skip
        found: int = estimate(request)["report"]["peak_allocated_bytes"]
        return found

    copies = asked()
    assert asked(zero_stage=1) < copies
    assert asked(zero_stage=2) < asked(zero_stage=1)
    assert asked(fsdp="full_shard") < asked(zero_stage=1)


def test_defaults_of_ultralytics() -> None:
    answer = ask("yolov8n", micro_batch=16)
    assert answer["request"]["engine"] == "ultralytics"
    assert answer["request"]["settings"]["image_size"] == [640, 640]
    terms = {item["term"]: item["bytes"] for item in answer["devices"][0]["items"]}
    assert terms["ema"] == terms["gradients"] == 4 * answer["model"]["num_params"]
    plain = ask("yolov8n", micro_batch=16, ema=False)
    assert "ema" not in {item["term"] for item in plain["devices"][0]["items"]}


def test_masks_take_more_than_boxes() -> None:
    assert peak("yolov8n-seg", micro_batch=8) > peak("yolov8n", micro_batch=8)


def test_config_of_timm() -> None:
    """The config.json that timm's repositories hold."""
    config = {"architecture": "resnet50", "num_classes": 10, "num_features": 2048,
              "pretrained_cfg": {"input_size": [3, 288, 288], "tag": "a1_in1k"}}  # fmt: skip
    shape = read_config(config)
    assert shape.num_params == 25_557_032 - 990 * 2049
    assert shape.network is not None
    assert shape.network.image_size == (288, 288)
    assert ask({"config": config}, micro_batch=2)["request"]["engine"] == "timm"


def test_another_number_of_classes() -> None:
    """A classifier of 10 instead of 1000 rows of 768 numbers and a bias, and two moments for each."""
    plain = ask("google/vit-base-patch16-224", micro_batch=2)["report"]
    fewer = ask("google/vit-base-patch16-224", micro_batch=2, num_classes=10)["report"]
    assert plain["weights_bytes"] - fewer["weights_bytes"] == 990 * 769 * 4
    assert plain["steady_bytes"] - fewer["steady_bytes"] >= 3 * 990 * 769 * 4
    timm_plain = ask("timm/resnet50", micro_batch=2)["report"]["weights_bytes"]
    assert timm_plain - ask("timm/resnet50", micro_batch=2, num_classes=10)["report"]["weights_bytes"] == 990 * 2049 * 4


TOWER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 64,
         "patch_size": 16}  # fmt: skip
STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 1, 1], "embedding_size": 16, "image_size": 64}
PVT = {**STAGES, "num_attention_heads": [1, 2, 3, 4]}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
CONFIGS: list[tuple[str, str, dict[str, Any]]] = [
    ("vit", "ViT", TOWER), ("vit_msn", "ViTMSN", TOWER), ("deit", "DeiT", TOWER),
    ("beit", "Beit", {**TOWER, "use_relative_position_bias": True}), ("dinov2", "Dinov2", TOWER),
    ("dinov2_with_registers", "Dinov2WithRegisters", TOWER), ("clip", "CLIP", {"vision_config": TOWER}),
    ("siglip", "Siglip", {"vision_config": TOWER}), ("convnext", "ConvNext", STAGES), ("convnextv2", "ConvNextV2", STAGES),
    ("resnet", "ResNet", STAGES), ("regnet", "RegNet", {**STAGES, "groups_width": 16}), ("mobilenet_v1", "MobileNetV1", {}),
    ("mobilenet_v2", "MobileNetV2", {}), ("segformer", "Segformer", PVT), ("pvt", "Pvt", PVT), ("poolformer", "PoolFormer", STAGES),
    ("levit", "Levit", {}), ("swin", "Swin", SWIN),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "name", "sizes"), CONFIGS)
def test_programs_use_the_parameters_that_readers_list(model_type: str, name: str, sizes: dict[str, Any]) -> None:
    labels = {str(index): str(index) for index in range(10)}
    config = {"model_type": model_type, "architectures": [f"{name}ForImageClassification"], "id2label": labels, **sizes}
    shape = read_config(config)
    network = shape.network
    assert isinstance(network, Network)
    net = Net()
    network.run(net, Map(3, *network.image_size))
    listed = {full: tensor.shape for full, _, tensor in shape.named_tensors()}
    used = {tensor.name: tensor.shape for _, tensor in net.tensors}
    assert used.items() <= listed.items()
    assert sum(tensor.size for _, tensor in net.tensors if not tensor.buffer) > 0.75 * shape.num_params
    assert kept_bytes(network) > 0
    answer = ask({"config": config}, micro_batch=4)
    assert answer["request"]["engine"] == "transformers"
    assert answer["report"]["peak_allocated_bytes"] > 4 * shape.num_params


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "timm/resnt50"}, "model", "timm/resnet50"),
    ({"model": "yolov9c"}, "model", "YOLO11"),
    ({"model": "yolov8z.pt"}, "model", "yolov8"),
    ({"model": {"config": {"architecture": "resnet50", "num_classes": -1}}}, "config.num_classes", "whole number"),
    ({"model": {"config": {"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 0, 9]}}}},
     "config.pretrained_cfg.input_size", "[3, 224, 224]"),
    ({"model": "timm/vit_base_patch16_224", "settings": {"image_size": 225}}, "settings.image_size", "224"),
    ({"model": "timm/vit_base_patch16_224", "settings": {"image_size": [224, 8]}}, "settings.image_size", "[480, 640]"),
    ({"model": "yolov8n", "settings": {"image_size": 650}}, "settings.image_size", "640"),
    ({"model": "timm/vgg16", "settings": {"recompute": "full"}}, "settings.recompute", "none"),
    ({"model": "timm/resnet50", "settings": {"recompute": "selective"}}, "settings.recompute", "full"),
    ({"model": "timm/resnet50", "settings": {"seq_len": 512}}, "settings.seq_len", "micro_batch"),
    ({"model": "timm/resnet50", "settings": {"objective": "dpo"}}, "settings.objective", "loss"),
    ({"model": "timm/resnet50", "settings": {"optimizer": "lisa_adamw"}}, "settings.optimizer", "adamw_torch"),
    ({"model": "amused/amused-512", "engine": "diffusers", "settings": {"finetuning": "full", "optimizer": "lisa_adamw"}},
     "settings.optimizer", "adamw_torch"),
    ({"model": "timm/resnet50", "engine": "trl"}, "engine", "timm"),
    ({"model": "llama-3.1-8b", "engine": "timm"}, "engine", "timm/resnet50"),
    ({"model": "timm/resnet50", "num_devices": 2, "parallelism": {"tensor": 2}}, "parallelism.tensor", "data"),
    ({"model": "timm/resnet50", "settings": {"finetuning": "freeze", "num_trainable_layers": 2}}, "settings.num_trainable_layers",
     "classifier"),
    ({"model": "timm/vit_small_patch14_dinov2", "settings": {"finetuning": "freeze"}}, "settings.finetuning", "num_classes"),
    ({"model": "timm/resnet50", "task": "inference"}, "task", "training"),
    ({"model": "openai/clip-vit-base-patch32"}, "model", "ForImageClassification"),
    ({"model": {"config": {"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"]}}}, "model",
     "ForImageClassification"),
    ({"model": {"config": {"model_type": "swinv2"}}}, "model", "timm/NAME"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["resnet50", "vit_base_patch16_224", "resnet50.a1_in1k"])
def test_a_registered_name_needs_no_prefix(name: str) -> None:
    short, full = (estimate({"model": model, "task": "training", "engine": "timm"}) for model in (name, f"timm/{name}"))
    assert short["model"]["name"] == f"timm/{name}"
    assert short["report"] == full["report"]


@pytest.mark.parametrize(("request_", "field", "hint"), REFUSED)
def test_refusals_say_what_to_type(request_: dict[str, Any], field: str, hint: str) -> None:
    with pytest.raises(VrameterError) as caught:
        estimate({"task": "training", **request_})
    assert caught.value.field == field
    assert hint in f"{caught.value.hint}"
