"""Serving with Text Generation Inference, under the names of its launcher."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Tokens = Annotated[int, Meta(ge=1, le=2**30)]


class TgiSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Serving with Text Generation Inference, under the names of its launcher."""

    max_input_tokens: Annotated[Tokens, Meta(description="longest prompt [tokens]")] | None = None
    max_total_tokens: Annotated[Tokens, Meta(description="longest sequence, prompt and answer [tokens]")] | None = None
    max_batch_prefill_tokens: Annotated[Tokens, Meta(description="tokens of prompts read at once [tokens]")] | None = (
        None
    )
    max_batch_total_tokens: Annotated[Tokens, Meta(description="tokens of the KV cache at most [tokens]")] | None = None
    max_concurrent_requests: Annotated[Tokens, Meta(description="sequences that are accepted at once [sequences]")] = (
        128
    )
    cuda_memory_fraction: Annotated[
        float, Meta(gt=0, le=1, description="share of the device's memory that the server may take")
    ] = 1.0
    kv_cache_dtype: Annotated[
        str, Meta(description="storage of cached keys and values: auto, fp8_e4m3fn, fp8_e5m2")
    ] = "auto"
