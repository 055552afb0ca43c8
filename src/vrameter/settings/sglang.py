"""Serving with SGLang, under the names of its server arguments."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Tokens = Annotated[int, Meta(ge=1, le=2**30)]


class SglangSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Serving with SGLang, under the names of its server arguments."""

    mem_fraction_static: (
        Annotated[float, Meta(gt=0, description="share of the memory at start for weights and pools, below 1")] | None
    ) = None
    context_length: Annotated[Tokens, Meta(description="longest sequence, prompt and answer [tokens]")] | None = None
    chunked_prefill_size: (
        Annotated[int, Meta(ge=-1, le=2**30, description="tokens of a prompt read at once; -1: all [tokens]")] | None
    ) = None
    max_prefill_tokens: Annotated[Tokens, Meta(description="tokens of prompts read at once [tokens]")] = 16384
    max_running_requests: Annotated[Tokens, Meta(description="sequences at once [sequences]")] | None = None
    max_total_tokens: Annotated[Tokens, Meta(description="tokens of the KV pool, whatever fits [tokens]")] | None = None
    kv_cache_dtype: Annotated[
        str, Meta(description="storage of cached keys and values; auto: the model's own dtype")
    ] = "auto"
    page_size: Annotated[int, Meta(ge=1, le=65536, description="tokens in one page of the cache [tokens]")] = 1
    cuda_graph_max_bs: (
        Annotated[Tokens, Meta(description="largest batch captured as a CUDA graph [sequences]")] | None
    ) = None
    disable_cuda_graph: Annotated[bool, Meta(description="run without CUDA graphs")] = False
    disable_piecewise_cuda_graph: Annotated[bool, Meta(description="read prompts without CUDA graphs")] = False
    disable_radix_cache: Annotated[bool, Meta(description="do not reuse the cache of common prefixes")] = False
    enable_dp_attention: Annotated[bool, Meta(description="give each data rank its own attention")] = False
    swa_full_tokens_ratio: Annotated[
        float, Meta(gt=0, le=1, description="tokens that layers with a window keep, over those that others keep")
    ] = 0.8
    disable_hybrid_swa_memory: Annotated[bool, Meta(description="keep whole sequences in layers with a window too")] = (
        False
    )
    mamba_full_memory_ratio: Annotated[
        float, Meta(gt=0, le=100, description="memory of recurrent states over that of the KV pool")
    ] = 0.9
    max_mamba_cache_size: Annotated[Tokens, Meta(description="slots of recurrent states [sequences]")] | None = None
    mamba_ssm_dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], Meta(description="storage of recurrent states")
    ] = "auto"
    max_model_len: Annotated[Tokens, Meta(description="the same as context_length [tokens]")] | None = None
    max_num_seqs: Annotated[Tokens, Meta(description="the same as max_running_requests [sequences]")] | None = None
