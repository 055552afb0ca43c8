"""Inference with MLX, under the names of mlx-lm's `generate`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Tokens = Annotated[int, Meta(ge=1, le=2**30)]


class MlxSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inference with MLX, under the names of mlx-lm's `generate`."""

    batch_size: Annotated[int, Meta(ge=1, le=2**20, description="sequences at once [sequences]")] = 1
    context_length: (
        Annotated[
            int, Meta(ge=1, le=2**30, description="tokens of one sequence at its end, prompt and answer [tokens]")
        ]
        | None
    ) = None
    max_tokens: (
        Annotated[
            int, Meta(ge=0, le=2**30, description="tokens of these that are generated; the rest is the prompt [tokens]")
        ]
        | None
    ) = None
    max_kv_size: (
        Annotated[int, Meta(ge=1, le=2**30, description="tokens that a rotating cache keeps; unset: all [tokens]")]
        | None
    ) = None
    kv_bits: (
        Annotated[Literal[2, 3, 4, 6, 8], Meta(description="bits of a quantised cache; unset: not quantised")] | None
    ) = None
    kv_group_size: Annotated[Literal[32, 64, 128], Meta(description="elements that share a scale in the cache")] = 64
    quantized_kv_start: Annotated[
        int, Meta(ge=0, le=2**30, description="tokens from which on the cache is quantised [tokens]")
    ] = 5000
    prefill_step_size: Annotated[
        int, Meta(ge=1, le=2**24, description="tokens of a prompt that are read at once [tokens]")
    ] = 2048
    cache_limit_gb: (
        Annotated[float, Meta(ge=0, le=2**20, description="freed memory that MLX keeps at most [10^9 bytes]")] | None
    ) = None
