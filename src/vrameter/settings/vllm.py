"""Serving with vLLM, under the names of ``vllm serve``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Sizes = Annotated[
    list[Annotated[int, Meta(ge=1, le=2**20)]],
    Meta(min_length=1, description="batch sizes captured as CUDA graphs [tokens]"),
]
StateDtype = Literal["auto", "float32", "float16", "bfloat16"]


class VllmSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Serving with vLLM, under the names of ``vllm serve``."""

    max_model_len: (
        Annotated[
            int,
            Meta(
                ge=-1, le=2**30, description="longest sequence, prompt and answer; -1: the longest that fits [tokens]"
            ),
        ]
        | None
    ) = None
    max_num_seqs: Annotated[int, Meta(ge=1, le=2**20, description="sequences in one step [sequences]")] | None = None
    max_num_batched_tokens: (
        Annotated[int, Meta(ge=1, le=2**30, description="tokens in one step, over all sequences [tokens]")] | None
    ) = None
    gpu_memory_utilization: (
        Annotated[float, Meta(gt=0, description="share of the device's memory that this server may take, up to 1")]
        | None
    ) = None
    kv_cache_memory_bytes: (
        Annotated[int, Meta(ge=1, le=2**60, description="size of the KV pool, whatever the utilization says [bytes]")]
        | None
    ) = None
    num_gpu_blocks_override: Annotated[int, Meta(ge=1, le=2**40, description="blocks of the KV pool")] | None = None
    kv_cache_dtype: Annotated[
        str, Meta(description="storage of cached keys and values; auto: the model's own dtype")
    ] = "auto"
    block_size: Annotated[int, Meta(ge=1, le=65536, description="tokens in one block of the cache [tokens]")] | None = (
        None
    )
    enforce_eager: Annotated[bool, Meta(description="run without CUDA graphs")] = False
    cudagraph_capture_sizes: Sizes | None = None
    max_cudagraph_capture_size: (
        Annotated[int, Meta(ge=1, le=2**20, description="largest batch captured as a CUDA graph [tokens]")] | None
    ) = None
    limit_mm_per_prompt: (
        Annotated[dict[str, int], Meta(description="items of each kind in one prompt: {'image': 2, 'video': 0}")] | None
    ) = None
    skip_mm_profiling: Annotated[bool, Meta(description="leave the encoder of images out of the memory profile")] = (
        False
    )
    mm_encoder_tp_mode: Annotated[
        Literal["weights", "data"], Meta(description="whether devices split the encoder's weights or its items")
    ] = "weights"
    language_model_only: Annotated[bool, Meta(description="load no encoder of images or sound")] = False
    enable_lora: Annotated[bool, Meta(description="serve LoRA adapters")] = False
    max_loras: Annotated[int, Meta(ge=1, le=65536, description="adapters in one batch")] = 1
    max_lora_rank: Annotated[int, Meta(ge=1, le=4096, description="largest rank of an adapter")] = 16
    fully_sharded_loras: Annotated[bool, Meta(description="split both matrices of an adapter over the devices")] = False
    cpu_offload_gb: Annotated[float, Meta(ge=0, description="GiB of weights kept in host memory, per device")] = 0.0
    speculative_config: (
        Annotated[
            dict[str, Any],
            Meta(
                description="draft: {'method': 'mtp' | 'eagle3' | 'ngram', 'model': ..., 'num_speculative_tokens': 3}"
            ),
        ]
        | None
    ) = None
    enable_prefix_caching: Annotated[bool, Meta(description="reuse the cache of common prefixes")] | None = None
    enable_chunked_prefill: Annotated[bool, Meta(description="read long prompts in pieces")] | None = None
    disable_hybrid_kv_cache_manager: Annotated[
        bool, Meta(description="keep whole sequences in layers with a window too")
    ] = False
    mamba_cache_mode: Annotated[
        Literal["none", "align", "all"], Meta(description="which states of recurrent layers prefix caching keeps")
    ] = "none"
    mamba_cache_dtype: Annotated[StateDtype, Meta(description="storage of recurrent layers' convolution states")] = (
        "auto"
    )
    mamba_ssm_cache_dtype: Annotated[StateDtype, Meta(description="storage of recurrent layers' states")] = "auto"
    mamba_block_size: (
        Annotated[int, Meta(ge=1, le=2**30, description="tokens in one block of states [tokens]")] | None
    ) = None
    enable_expert_parallel: Annotated[bool, Meta(description="give each device whole experts instead of slices")] = (
        False
    )
    decode_context_parallel_size: Annotated[
        int, Meta(ge=1, le=4096, description="devices of a tensor-parallel group that split the cached tokens")
    ] = 1
    async_scheduling: Annotated[bool, Meta(description="prepare a step while the last one runs")] | None = None
    mxfp4_backend: Annotated[
        Literal["auto", "triton", "marlin", "flashinfer"], Meta(description="kernel of MXFP4 experts, which pads them")
    ] = "auto"
