"""Inference with transformers, under the names of `generate` and `from_pretrained`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

AttentionImplementation = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"]
CacheImplementation = Literal[
    "dynamic", "static", "sliding_window", "hybrid", "quantized", "offloaded", "offloaded_static"
]


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
    attn_implementation: Annotated[AttentionImplementation, Meta(description="attention kernel")] = "sdpa"
    cache_implementation: Annotated[CacheImplementation, Meta(description="kind of KV cache")] = "dynamic"
    kv_cache_dtype: Annotated[
        str, Meta(description="storage of cached keys and values; auto: the model's own dtype")
    ] = "auto"
    num_beams: Annotated[int, Meta(ge=1, le=4096, description="beams of each sequence")] = 1
    logits_to_keep: Annotated[
        int, Meta(ge=0, le=2**30, description="positions whose logits are computed; 0: all of the prompt")
    ] = 1
