"""Inference with Ollama, under the names of its options and environment variables."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class OllamaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inference with Ollama, under the names of its options and environment variables."""

    num_ctx: (
        Annotated[
            int, Meta(ge=1, le=2**30, description="tokens of one sequence; unset: OLLAMA_CONTEXT_LENGTH [tokens]")
        ]
        | None
    ) = None
    num_batch: (
        Annotated[
            int, Meta(ge=1, le=2**24, description="tokens of a batch; unset: 512, 1024 or 2048 by the context [tokens]")
        ]
        | None
    ) = None
    num_gpu: (
        Annotated[int, Meta(ge=-1, le=2**16, description="layers on GPUs, the output counted as one; unset: all")]
        | None
    ) = None
    main_gpu: Annotated[int, Meta(ge=0, le=4096, description="the one GPU that takes the model")] | None = None
    use_mmap: Annotated[bool, Meta(description="whether weights in host memory are mapped from the file")] = True
    OLLAMA_CONTEXT_LENGTH: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=2**30,
                description="tokens of one sequence; unset: 4k, 32k or 256k by all GPUs' memory [tokens]",
            ),
        ]
        | None
    ) = None
    OLLAMA_NUM_PARALLEL: Annotated[
        int, Meta(ge=1, le=2**16, description="sequences served at once, each with a context of its own [sequences]")
    ] = 1
    OLLAMA_FLASH_ATTENTION: (
        Annotated[bool, Meta(description="flash attention; unset: wherever the device has a kernel for the model")]
        | None
    ) = None
    OLLAMA_KV_CACHE_TYPE: Annotated[
        Literal["f16", "q8_0", "q4_0"], Meta(description="type of cached keys and values")
    ] = "f16"
    OLLAMA_GPU_OVERHEAD: Annotated[
        int, Meta(ge=0, le=2**50, description="memory of each GPU that is left alone [bytes]")
    ] = 0
    OLLAMA_SCHED_SPREAD: Annotated[
        bool, Meta(description="whether a model that fits on one GPU is split over all nevertheless")
    ] = False
    embeddings: (
        Annotated[bool, Meta(description="whether embeddings are asked for; unset: where the model is an encoder")]
        | None
    ) = None
    mmproj: Annotated[bool, Meta(description="whether the vision or audio tower is loaded beside the model")] = False
