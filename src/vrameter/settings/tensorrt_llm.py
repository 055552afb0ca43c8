"""Serving with TensorRT-LLM, under the names of its LLM API."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Tokens = Annotated[int, Meta(ge=1, le=2**30)]


class TensorrtLlmSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Serving with TensorRT-LLM, under the names of its LLM API."""

    max_batch_size: Annotated[Tokens, Meta(description="sequences in one step [sequences]")] = 2048
    max_num_tokens: Annotated[Tokens, Meta(description="tokens in one step, over all sequences [tokens]")] = 8192
    max_seq_len: Annotated[Tokens, Meta(description="longest sequence, prompt and answer [tokens]")] | None = None
    max_beam_width: Annotated[Tokens, Meta(description="beams of each sequence")] = 1
    free_gpu_memory_fraction: Annotated[
        float, Meta(gt=0, le=1, description="share of the memory that is free after loading, for the KV cache")
    ] = 0.9
    max_tokens: Annotated[Tokens, Meta(description="tokens of the KV cache at most [tokens]")] | None = None
    tokens_per_block: Annotated[Tokens, Meta(description="tokens in one block of the cache [tokens]")] = 32
    kv_cache_dtype: Annotated[str, Meta(description="storage of cached keys and values: auto, fp8, int8, nvfp4")] = (
        "auto"
    )
