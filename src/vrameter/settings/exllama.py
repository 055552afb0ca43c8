"""Inference with ExLlamaV2 and V3, under the names of their configurations."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Gigabytes = Annotated[float, Meta(ge=0, le=2**20)]


class ExllamaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inference with ExLlamaV2 and V3, under the names of their configurations."""

    max_seq_len: (
        Annotated[
            int, Meta(ge=1, le=2**30, description="tokens of one sequence; unset: as many as the model knows [tokens]")
        ]
        | None
    ) = None
    max_batch_size: Annotated[int, Meta(ge=1, le=2**20, description="sequences at once [sequences]")] = 1
    cache_size: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=2**34,
                description="tokens of the cache over all sequences; unset: one of full length each [tokens]",
            ),
        ]
        | None
    ) = None
    cache_mode: Annotated[
        str, Meta(description="storage of the cache: fp16, fp8, q8, q6, q4, or bits of keys and values such as 6,4")
    ] = "fp16"
    max_input_len: Annotated[
        int, Meta(ge=1, le=2**24, description="tokens of a prompt that are read at once [tokens]")
    ] = 2048
    autosplit_reserve: (
        Annotated[list[Gigabytes], Meta(max_length=4096, description="memory left free on each GPU [MiB]")] | None
    ) = None
    gpu_split: (
        Annotated[
            list[Gigabytes],
            Meta(max_length=4096, description="memory for weights on each GPU; unset: filled in turn [GiB]"),
        ]
        | None
    ) = None
