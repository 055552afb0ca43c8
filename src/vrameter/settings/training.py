"""A training step, under the words of the field; every training stack shares them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Finetuning = Literal["full", "pretrain", "lora", "dora", "freeze", "peft"]
Precision = Literal["fp32", "tf32", "bf16", "fp16", "bf16-mixed", "fp16-mixed", "fp8"]
Recompute = Literal["none", "selective", "full"]
AttentionKernel = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
Loss = Literal["full", "chunked", "fused", "mse", "none"]
Objective = Literal[
    "sft", "dpo", "ipo", "orpo", "simpo", "cpo", "kto", "gkd", "ppo", "grpo", "rloo", "reward", "embedding",
    "reranker", "sequence-classification",
]  # fmt: skip
Schedule = Literal["1f1b", "interleaved-1f1b", "gpipe", "zb-h1", "zb-h2", "dualpipe", "naive"]
RecomputePolicy = Literal["op", "layer", "attention"]
DtypeName = Literal["fp32", "bf16", "fp16"]
Count = Annotated[int, Meta(ge=1, le=2**20)]


class AdapterSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is trained beside a frozen base, under peft's names."""

    method: Annotated[
        str, Meta(description="lora, dora, rslora, vera, ia3, prefix_tuning, prompt_tuning, adapter, ...")
    ] = "lora"
    rank: Annotated[int, Meta(ge=1, le=2**16, description="rank of the update")] = 8
    alpha: float | None = None
    dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout before the first matrix")] = 0.0
    targets: Annotated[list[str] | str, Meta(description='names of linear layers, or "all-linear"')] = []
    target_parameters: Annotated[list[str], Meta(description="stacked expert matrices that get an adapter")] = []
    dtype: Annotated[DtypeName | None, Meta(description="dtype of the adapters")] = None
    modules_to_save: Annotated[list[str], Meta(description="modules trained as full copies")] = []
    num_virtual_tokens: Annotated[int, Meta(ge=1, le=2**20, description="tokens of a learned prompt")] | None = None
    trainable_params: (
        Annotated[int, Meta(ge=0, le=2**50, description="parameters of the adapters, where they are known")] | None
    ) = None


class TrainingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimizer step."""

    finetuning: Annotated[Finetuning, Meta(description="which parameters are trained")] = "full"
    adapter: Annotated[AdapterSettings | None, Meta(description="adapters beside a frozen base")] = None
    objective: Annotated[Objective, Meta(description="what the loss compares")] = "sft"
    precision: Annotated[Precision | None, Meta(description="numbers that the step computes in")] = None
    autocast: Annotated[
        bool | None, Meta(description="whether matrices run under torch.autocast (default: by precision)")
    ] = None
    master_weights: Annotated[
        DtypeName | None, Meta(description="dtype of the optimizer's own copy of the weights")
    ] = None
    gradient_dtype: Annotated[DtypeName | None, Meta(description="dtype in which gradients are kept")] = None
    float8: Annotated[dict[str, Any] | None, Meta(description="float8 recipe of the linear layers")] = None

    optimizer: Annotated[str, Meta(description="adamw_torch, adamw_torch_fused, adamw_bnb_8bit, muon, ...")] = ""
    optimizer_args: Annotated[str | None, Meta(description="further options of the optimizer: rank=64, ...")] = None
    optimizer_name: Annotated[str | None, Meta(description="what a source calls the optimizer; a label")] = None
    optimizer_in_backward: Annotated[bool, Meta(description="step each parameter as its gradient arrives")] = False
    offload_gradients: Annotated[bool, Meta(description="keep gradients in host memory")] = False
    optimizer_cpu_offload: Annotated[bool, Meta(description="keep the optimizer's state in host memory")] = False
    optimizer_offload_fraction: Annotated[float, Meta(ge=0, le=1, description="share of it that is")] = 1.0
    use_precision_aware_optimizer: Annotated[bool, Meta(description="optimizer state in narrow numbers")] = False
    ema: Annotated[bool, Meta(description="keep an averaged copy of the weights")] = False

    micro_batch: Annotated[int, Meta(ge=1, le=2**20, description="sequences per forward pass [sequences]")] = 1
    seq_len: Annotated[int, Meta(ge=1, le=2**30, description="tokens of the longest sequence [tokens]")] | None = None
    grad_accumulation: Annotated[int, Meta(ge=0, le=2**20, description="forward passes per step")] = 1
    local_batch: Annotated[int, Meta(ge=1, le=2**20, description="sequences per device and step")] | None = None
    global_batch_size: Annotated[int, Meta(ge=1, le=2**24, description="sequences per step")] | None = None
    packing: Annotated[bool, Meta(description="several samples in one sequence")] = False
    padding_free: Annotated[bool, Meta(description="samples of a batch one after another, no padding")] = False

    recompute: Annotated[Recompute, Meta(description="activation (gradient) checkpointing")] = "none"
    recompute_modules: Annotated[list[str], Meta(description="parts recomputed under selective recompute")] = []
    recompute_method: Annotated[Literal["uniform", "block"] | None, Meta(description="which layers")] = None
    recompute_num_layers: Annotated[int, Meta(ge=1, le=4096, description="layers per checkpoint")] | None = None
    recompute_policy: Annotated[RecomputePolicy | None, Meta(description="what selective recompute keeps")] = None
    recompute_reentrant: Annotated[bool | None, Meta(description="torch's older form of checkpointing")] = None
    vision_recompute: Annotated[Recompute | None, Meta(description="checkpointing of the vision tower")] = None
    activation_offload: Annotated[bool, Meta(description="keep saved activations in host memory")] = False

    attn_implementation: Annotated[AttentionKernel | None, Meta(description="attention kernel")] = None
    fused_kernels: Annotated[bool, Meta(description="Liger or Unsloth norms, rotations and activations")] = False
    compile: Annotated[bool, Meta(description="torch.compile")] = False
    loss: Annotated[Loss | None, Meta(description="how logits become a loss")] = None
    loss_chunk_tokens: Annotated[int, Meta(ge=1, le=2**30, description="tokens per chunk [tokens]")] | None = None
    cross_entropy_loss_fusion: Annotated[bool, Meta(description="Megatron's fused cross-entropy")] = False
    attention_dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout on attention weights")] | None = None
    hidden_dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout on residual branches")] | None = None

    freeze: Annotated[list[str], Meta(description="components that are not trained: vit, aligner, llm, ...")] = []
    freeze_llm: Annotated[bool, Meta(description="whether the language model is frozen")] = False
    num_trainable_layers: (
        Annotated[int, Meta(ge=0, le=4096, description="last layers that are trained with finetuning=freeze")] | None
    ) = None

    pipeline_schedule: Annotated[Schedule | None, Meta(description="order of micro-batches in a pipeline")] = None
    decoder_first_pipeline_num_layers: Annotated[int, Meta(ge=0, le=4096)] | None = None
    decoder_last_pipeline_num_layers: Annotated[int, Meta(ge=0, le=4096)] | None = None
    mtp_num_layers: Annotated[int, Meta(ge=0, le=64, description="multi-token prediction layers")] | None = None
    async_tp: Annotated[bool, Meta(description="overlap tensor-parallel communication with compute")] = False
    overlap_grad_reduce: Annotated[bool, Meta(description="reduce gradients while the backward pass runs")] = False

    ref_model: Annotated[bool | None, Meta(description="whether a frozen reference model is resident")] = None
    reward_model: Annotated[str | None, Meta(description="model that scores answers, by name")] = None
    critic_model: Annotated[str | None, Meta(description="model that values states, by name")] = None
    num_generations: Annotated[int, Meta(ge=1, le=2**16, description="answers per prompt")] | None = None
    rollout_memory_utilization: (
        Annotated[float, Meta(ge=0, le=1, description="share of the device that a colocated engine takes")] | None
    ) = None
    rollout_sleep: Annotated[bool, Meta(description="whether that engine frees its memory for the step")] = True

    image_size: Annotated[int | list[int] | None, Meta(description="height and width of images [pixels]")] = None
    num_classes: Annotated[int, Meta(ge=0, le=10**7, description="outputs of an image classifier")] | None = None
    num_frames: Annotated[int, Meta(ge=1, le=2**20, description="frames of a video [frames]")] | None = None
    text_len: Annotated[int, Meta(ge=1, le=2**20, description="tokens of a prompt [tokens]")] | None = None
    video: Annotated[dict[str, Any] | None, Meta(description="limits of a video processor")] = None
    resident_components: Annotated[list[str] | None, Meta(description="parts of a pipeline on the device")] = None
    advise: Annotated[bool, Meta(description="also say what fits at most, and which changes would save how much")] = (
        False
    )
    precompute: Annotated[bool, Meta(description="whether prompts and images were encoded before")] = False


__all__ = ["AdapterSettings", "TrainingSettings"]
