"""transformers' image models: which program runs for a config, under the names that the readers give their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vrameter.model.vision.network import Network

if TYPE_CHECKING:
    from vrameter.model.architecture import Component
    from vrameter.model.config import Config

# kind of model -> module, program, kind of its style, whether its layers can be checkpointed
KINDS = {
    **{name: ("encoders", "model", name, True)
       for name in ("vit", "vit_msn", "deit", "beit", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip", "siglip")},
    "clip_vision_model": ("encoders", "model", "clip", True), "siglip_vision_model": ("encoders", "model", "siglip", True),
    "convnext": ("convolutions", "convnext", "convnext", False), "convnextv2": ("convolutions", "convnext", "convnextv2", False),
    "resnet": ("convolutions", "staged", "resnet", False), "regnet": ("convolutions", "staged", "regnet", False),
    **{name: ("pyramids", name, name, name in ("swin", "segformer")) for name in ("swin", "segformer", "pvt", "poolformer", "levit")},
    "mobilenet_v1": ("convolutions", "mobilenet_v1", "mobilenet_v1", False),
    "mobilenet_v2": ("convolutions", "mobilenet_v2", "mobilenet_v2", False),
}  # fmt: skip
ACTS = {
    "relu": "relu", "relu6": "relu6", "gelu": "gelu", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "quick_gelu": "quick_gelu",
    "silu": "silu", "swish": "silu",
}  # fmt: skip
# Classes that are a tower alone, or one with a single classifier.
CLASSES = ("Model", "ForImageClassification")
# What an activation is where a config is silent.
DEFAULT_ACTS = {
    "clip": "quick_gelu",
    "siglip": "gelu",
    "resnet": "relu",
    "regnet": "relu",
    "mobilenet_v1": "relu6",
    "mobilenet_v2": "relu6",
}


def network_of(cfg: Config, class_name: str, components: Sequence[Component]) -> Network | None:
    """Return the program of a model of nothing but a tower and its classifier; None for all others."""
    if cfg.model_type not in KINDS or not class_name.endswith(CLASSES):
        return None
    if {component.kind for component in components} - {"vision", "head"}:
        return None
    module, function, kind, checkpoints = KINDS[cfg.model_type]
    body = next(component for component in components if component.kind == "vision")
    head = next((component for component in components if component.kind == "head"), None)
    level = cfg.nested("vision_config") if cfg.has_nested("vision_config") else cfg
    act = level.get("hidden_act") or level.get("hidden_activation") or DEFAULT_ACTS.get(kind, "gelu")
    image = body.image
    if image is None or act not in ACTS:
        return None
    facts: dict[str, Any] = {
        "cfg": level, "kind": kind, "prefix": body.prefix, "layers": body.layers_prefix, "act": ACTS[act],
        "responds": kind == "convnextv2", "edge": image.image_size[0],
    }  # fmt: skip
    multiple = 1
    if module == "encoders":
        multiple = image.patch_size[0]
        registers = next((tensor.shape[1] for tensor in body.tensors if tensor.name.endswith("register_tokens")), 0)
        facts |= {
            "patch": multiple, "grid": image.grid[0] * image.grid[1], "registers": registers, "hidden": _hidden(body),
        }  # fmt: skip
    if kind in ("swin", "segformer", "pvt", "poolformer", "levit"):
        multiple = int(level.integer("patch_size", 4)) if kind == "swin" else 32
    classes = next((tensor.shape[0] for tensor in head.tensors if len(tensor.shape) == 2), 0) if head else 0
    return Network(
        "transformers", cfg.model_type, f"transformers.{module}", function, facts, image.image_size, multiple, classes, checkpoints,
        convolves=module == "convolutions" or kind == "poolformer",
    )  # fmt: skip


def _hidden(body: Component) -> int:
    """Return the inner width of an encoder's perceptron."""
    for tensor in body.layers[0].all_tensors:
        if tensor.name.endswith(("mlp.fc2.weight", "mlp.down_proj.weight")):
            return tensor.shape[1]
    return 4 * body.hidden_size


__all__ = ["ACTS", "KINDS", "network_of"]
