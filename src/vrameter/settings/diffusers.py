"""Inference with a pipeline of diffusers, under the names of its call and of its loading."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Offload = Literal["none", "model", "sequential"]
AttentionImplementation = Literal["eager", "sdpa", "flash_attention_2"]
Pixels = Annotated[int, Meta(ge=8, le=65536)]


class ModuleSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one module of a pipeline is loaded."""

    dtype: Annotated[str, Meta(description="data type of what is not quantised")] | None = None
    quantization: Annotated[str, Meta(description="format of its linear layers")] | None = None


class DiffusersSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inference with a pipeline of diffusers, under the names of its call and of its loading."""

    batch_size: Annotated[int, Meta(ge=1, le=2**16, description="images or videos made at once [samples]")] = 1
    height: Annotated[int, Meta(ge=8, le=65536, description="height of the picture [pixels]")] | None = None
    width: Annotated[int, Meta(ge=8, le=65536, description="width of the picture [pixels]")] | None = None
    num_frames: Annotated[int, Meta(ge=1, le=65536, description="frames of a video [frames]")] | None = None
    num_inference_steps: (
        Annotated[int, Meta(ge=1, le=100000, description="steps of denoising; memory does not depend on them")] | None
    ) = None
    guidance_scale: (
        Annotated[float, Meta(ge=0, description="strength of guidance; up to 1 there is none, and no second pass")]
        | None
    ) = None
    max_sequence_length: Annotated[int, Meta(ge=1, le=65536, description="tokens of the prompt [tokens]")] | None = None
    text_len: (
        Annotated[int, Meta(ge=1, le=65536, description="tokens of the prompt, under its other name [tokens]")] | None
    ) = None
    components: Annotated[
        dict[str, ModuleSettings],
        Meta(description="how each module is loaded; where the autoencoder is named, those not named are left out"),
    ] = {}
    offload: Annotated[Offload, Meta(description="enable_model_cpu_offload or enable_sequential_cpu_offload")] = "none"
    vae_tiling: Annotated[bool, Meta(description="decode in tiles")] = False
    vae_slicing: Annotated[bool, Meta(description="decode one picture at a time")] = False
    fuse_qkv: Annotated[bool, Meta(description="fuse_qkv_projections: fused copies beside the three matrices")] = False
    compile: Annotated[bool, Meta(description="torch.compile of the denoiser")] = False
    attn_implementation: Annotated[AttentionImplementation, Meta(description="attention kernel")] = "sdpa"
