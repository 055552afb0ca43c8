"""Readers of diffusers' modules by class: a component's config.json -> its tensors."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from vrameter.model.architecture import Component, ComponentKind, Layer, Tensors, joined
from vrameter.model.config import Config

Components = tuple[Component, ...]
Reader = Callable[[Config, str], Components]

# class -> module below this package
MODULES = {
    "UNet2DConditionModel": "unet", "UNetSpatioTemporalConditionModel": "unet", "AutoencoderKL": "autoencoders",
    "AutoencoderKLFlux2": "autoencoders", "AutoencoderKLTemporalDecoder": "autoencoders",
    "AutoencoderKLLTXVideo": "video_autoencoders",
    "AutoencoderKLWan": "video_autoencoders", "AutoencoderKLQwenImage": "video_autoencoders",
    "AutoencoderKLHunyuanVideo": "video_autoencoders", "AutoencoderKLCogVideoX": "video_autoencoders",
    "FluxTransformer2DModel": "joint_transformers", "Flux2Transformer2DModel": "joint_transformers",
    "ChromaTransformer2DModel": "joint_transformers", "SD3Transformer2DModel": "joint_transformers",
    "QwenImageTransformer2DModel": "joint_transformers", "AuraFlowTransformer2DModel": "joint_transformers",
    "HunyuanImageTransformer2DModel": "hunyuan", "HunyuanVideoTransformer3DModel": "hunyuan",
    "HunyuanVideo15Transformer3DModel": "hunyuan", "PixArtTransformer2DModel": "crossed_transformers",
    "SanaTransformer2DModel": "crossed_transformers", "WanTransformer3DModel": "crossed_transformers",
    "LTXVideoTransformer3DModel": "crossed_transformers", "LTX2VideoTransformer3DModel": "crossed_transformers",
    "CogVideoXTransformer3DModel": "single_stream", "MochiTransformer3DModel": "joint_transformers",
    "UVit2DModel": "masked", "VQModel": "masked", "ZImageTransformer2DModel": "single_stream", "Lumina2Transformer2DModel": "single_stream",
}  # fmt: skip
READERS: dict[str, Reader] = {}


def reads(*class_names: str) -> Callable[[Reader], Reader]:
    """Register the reader of classes."""

    def register(function: Reader) -> Reader:
        for name in class_names:
            READERS[name] = function
        return function

    return register


def reader(class_name: str) -> Reader | None:
    """Return the reader of a class, importing the module that holds it."""
    if class_name not in READERS and class_name in MODULES:
        import_module(f"vrameter.model.diffusion.{MODULES[class_name]}")
    return READERS.get(class_name)


def stacked(
    prefix: str,
    hidden_size: int,
    tensors: Tensors,
    *stacks: tuple[str, tuple[Layer, ...]],
    kind: ComponentKind = "denoiser",
) -> Components:
    """Return a module as components: its own tensors with the first list of blocks, and one component a further list."""
    found: list[Component] = []
    for index, (name, layers) in enumerate(stacks):
        if index and not layers:
            continue
        found.append(
            Component(
                kind=kind, name=f"{prefix} {name}" if index else prefix, hidden_size=hidden_size, layers=layers,
                tensors=() if index else tensors, prefix=prefix, layers_prefix=joined(prefix, name),
            )
        )  # fmt: skip
    return tuple(found) or (Component(kind=kind, name=prefix, hidden_size=hidden_size, tensors=tensors, prefix=prefix),)
