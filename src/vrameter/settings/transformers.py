"""Inference with transformers, under the names of `generate` and `from_pretrained`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

AttentionImplementation = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"]
CacheImplementation = Literal[
    "dynamic", "static", "sliding_window", "hybrid", "quantized", "offloaded", "offloaded_static"
]
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]
Pixels = Annotated[int, Meta(ge=1, le=2**16)]


class TransformersSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inference with transformers, under the names of `generate` and `from_pretrained`."""

    batch_size: Annotated[int, Meta(ge=1, le=2**20, description="sequences at once [sequences]")] = 1
    context_length: (
        Annotated[
            int, Meta(ge=1, le=2**30, description="tokens of one sequence at its end, prompt and answer [tokens]")
        ]
        | None
    ) = None
    max_new_tokens: (
        Annotated[
            int, Meta(ge=0, le=2**30, description="tokens of these that are generated; the rest is the prompt [tokens]")
        ]
        | None
    ) = None
    attn_implementation: (
        Annotated[
            AttentionImplementation, Meta(description="attention kernel; unset: sdpa, eager where heads have sinks")
        ]
        | None
    ) = None
    cache_implementation: Annotated[CacheImplementation, Meta(description="kind of KV cache")] = "dynamic"
    kv_cache_dtype: Annotated[
        str, Meta(description="storage of cached keys and values; auto: the model's own dtype")
    ] = "auto"
    q_group_size: Annotated[
        int, Meta(ge=1, le=65536, description="elements that share a scale in a quantised cache")
    ] = 64
    residual_length: Annotated[
        int, Meta(ge=1, le=2**30, description="last tokens that a quantised cache keeps whole, at most [tokens]")
    ] = 128
    num_beams: Annotated[int, Meta(ge=1, le=4096, description="beams of each sequence")] = 1
    logits_to_keep: Annotated[
        int, Meta(ge=0, le=2**30, description="positions whose logits are computed; 0: all of the prompt")
    ] = 1
    device_map: (
        Annotated[
            DeviceMap, Meta(description="how layers are shared out; what fits on no GPU goes to the CPU and the disk")
        ]
        | None
    ) = None
    max_memory: (
        Annotated[
            dict[str, int | str],
            Meta(
                description='memory for weights of each GPU by its number, and of "cpu", as bytes or as a text such as 20GiB'
            ),
        ]
        | None
    ) = None
    assistant_model: (
        Annotated[str | dict[str, Any], Meta(description="model that drafts tokens, as any model is named")] | None
    ) = None
    num_assistant_tokens: Annotated[int, Meta(ge=1, le=4096, description="tokens drafted at once [tokens]")] = 20
    num_images: Annotated[int, Meta(ge=0, le=2**16, description="images in the prompt of each sequence")] = 0
    image_size: Annotated[Pixels, Meta(description="height and width of an image [pixels]")] | None = None
    image_height: Annotated[Pixels, Meta(description="height of an image [pixels]")] | None = None
    image_width: Annotated[Pixels, Meta(description="width of an image [pixels]")] | None = None
    audio_seconds: (
        Annotated[float, Meta(gt=0, le=10**7, description="length of the recording of each sequence [s]")] | None
    ) = None
