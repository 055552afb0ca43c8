"""Inference with llama.cpp's server, under the names of its flags and parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class LlamaCppSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inference with llama.cpp's server, under the names of its flags and parameters."""

    n_ctx: (
        Annotated[
            int,
            Meta(
                ge=0, le=2**30, description="tokens of all sequences together; 0: as many as the model knows [tokens]"
            ),
        ]
        | None
    ) = None
    fit: Annotated[
        bool, Meta(description="whether a context that is not given shrinks until the model fits with a margin")
    ] = True
    fit_target: Annotated[int, Meta(ge=0, le=2**24, description="margin that this leaves free on each GPU [MiB]")] = (
        1024
    )
    fit_ctx: Annotated[int, Meta(ge=1, le=2**30, description="the least context that it shrinks to [tokens]")] = 4096
    n_batch: Annotated[int, Meta(ge=1, le=2**24, description="tokens of a logical batch [tokens]")] = 2048
    n_ubatch: Annotated[
        int, Meta(ge=1, le=2**24, description="tokens of a physical batch, which is what one graph computes [tokens]")
    ] = 512
    n_parallel: (
        Annotated[
            int,
            Meta(ge=-1, le=2**16, description="sequences served at once; -1: 4, which share one cache [sequences]"),
        ]
        | None
    ) = None
    kv_unified: (
        Annotated[bool, Meta(description="whether all sequences share one cache instead of an equal part of it each")]
        | None
    ) = None
    n_outputs_max: (
        Annotated[
            int,
            Meta(
                ge=1, le=2**24,
                description="rows of logits of one batch; the server asks for one per sequence, llama-cli and others for "
                "n_batch [tokens]",
            ),
        ]
        | None
    ) = None  # fmt: skip
    flash_attn: (
        Annotated[bool, Meta(description="flash attention; unset: wherever the device has a kernel for the model")]
        | None
    ) = None
    cache_type_k: Annotated[CacheType, Meta(description="type of cached keys")] = "f16"
    cache_type_v: Annotated[CacheType, Meta(description="type of cached values")] = "f16"
    n_gpu_layers: (
        Annotated[
            int,
            Meta(ge=-2, le=2**16, description="layers on GPUs, the output counted as one; unset or negative: all"),
        ]
        | None
    ) = None
    split_mode: Annotated[
        Literal["none", "layer", "row"],
        Meta(description="how several GPUs share the model: by layers, or one takes all"),
    ] = "layer"
    main_gpu: Annotated[int, Meta(ge=0, le=4096, description="the GPU that takes all where split_mode is none")] = 0
    tensor_split: (
        Annotated[
            list[float], Meta(max_length=4096, description="share of each GPU, as any numbers; unset: by free memory")
        ]
        | None
    ) = None
    n_cpu_moe: Annotated[int, Meta(ge=0, le=2**16, description="first layers whose experts stay in host memory")] = 0
    cpu_moe: Annotated[bool, Meta(description="whether the experts of all layers stay in host memory")] = False
    override_tensor: Annotated[
        list[str],
        Meta(max_length=256, description="patterns of names of tensors that stay in host memory, each as PATTERN=CPU"),
    ] = []
    no_mmap: Annotated[bool, Meta(description="whether host weights are read into pinned memory, not mapped")] = False
    swa_full: Annotated[bool, Meta(description="whether layers with a window cache the whole context")] = False
    no_kv_offload: Annotated[bool, Meta(description="whether caches stay in host memory")] = False
    op_offload: Annotated[
        bool, Meta(description="whether large batches of layers in host memory are computed on the GPU")
    ] = True
    embeddings: (
        Annotated[bool, Meta(description="whether embeddings are asked for; unset: where the model is an encoder")]
        | None
    ) = None
    n_rs_seq: Annotated[
        int, Meta(ge=0, le=256, description="recurrent states kept per sequence so that drafts can be taken back")
    ] = 0
    imatrix: Annotated[bool, Meta(description="whether the file was quantised with an importance matrix")] = False
    mmproj: Annotated[bool, Meta(description="whether the vision or audio tower is loaded beside the model")] = False
    mmproj_offload: Annotated[bool, Meta(description="whether that tower is on the first GPU")] = True
    model_draft: Annotated[str, Meta(description="model that drafts tokens, as any model is named")] | None = None
    draft_quantization: Annotated[str, Meta(description="quantisation of the draft model")] | None = None
    draft_max: Annotated[int, Meta(ge=0, le=4096, description="tokens drafted at once [tokens]")] = 3
    n_gpu_layers_draft: (
        Annotated[int, Meta(ge=-2, le=2**16, description="layers of the draft model on GPUs; unset: all")] | None
    ) = None
    cache_type_k_draft: Annotated[CacheType, Meta(description="type of the draft model's cached keys")] = "f16"
    cache_type_v_draft: Annotated[CacheType, Meta(description="type of the draft model's cached values")] = "f16"
