"""A training step, under the words of the field; every training stack shares them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

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
MomentName = Literal["fp32", "bf16", "fp16", "fp8"]
# Ranks of peft's methods where a request names none; 8 for all others.
RANKS = {
    "adalora": 12, "adamss": 100, "bone": 64, "gralora": 32, "hira": 32, "lily": 32, "miss": 64, "peanut": 32, "psoft": 32,
    "pvera": 256, "randlora": 32, "shira": 32, "tinylora": 2, "unilora": 4, "vblora": 4, "vera": 256,
}  # fmt: skip
Count = Annotated[int, Meta(ge=1, le=2**20)]
Pixels = Annotated[int, Meta(ge=1, le=2**16)]


# What stacks call a field of ours; empty where it changes no memory.
COURSE = (
    "learning_rate", "lr", "num_train_epochs", "epochs", "num_epochs", "warmup_steps", "warmup_ratio", "weight_decay", "seed", "max_steps",
    "lr_scheduler_type", "lr_scheduler", "max_grad_norm", "logging_steps", "save_steps", "eval_steps", "output_dir", "dataset", "report_to",
    "train_iters", "min_lr",
)  # fmt: skip
CALLED = {
    **dict.fromkeys(COURSE, ""),
    **dict.fromkeys(
        ("batch_size", "per_device_train_batch_size", "per_gpu_train_batch_size", "micro_batch_size", "train_micro_batch_size_per_gpu",
         "per_device_batch_size", "mbs"), "micro_batch",
    ),
    **dict.fromkeys(("local_batch_size", "train_batch_size_per_device"), "local_batch"),
    **dict.fromkeys(("train_batch_size", "gbs", "global_batch"), "global_batch_size"),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "gradient_accumulation", "grad_accumulation_steps", "accumulate_grad_batches"), "grad_accumulation",
    ),
    **dict.fromkeys(
        ("context_length", "max_seq_length", "max_seq_len", "max_length", "cutoff_len", "sequence_len", "sequence_length",
         "model_max_length", "seq_length", "block_size", "max_model_len", "n_ctx"), "seq_len",
    ),
    **dict.fromkeys(
        ("gradient_checkpointing", "activation_checkpointing", "use_gradient_checkpointing", "enable_activation_checkpointing",
         "recompute_granularity", "checkpoint_activations"), "recompute",
    ),
    **dict.fromkeys(("enable_activation_offloading", "activation_offloading"), "activation_offload"),
    **dict.fromkeys(("optim", "optimizer_type", "optimizer_class"), "optimizer"),
    **dict.fromkeys(("optim_args",), "optimizer_args"),
    **dict.fromkeys(
        ("finetuning_type", "train_type", "tuner_type", "sft_type", "peft_method", "use_peft", "method", "lora", "qlora", "dora"),
        "finetuning",
    ),
    **dict.fromkeys(("lora_rank", "lora_r", "r", "rank"), "adapter.rank"),
    **dict.fromkeys(("lora_alpha", "alpha"), "adapter.alpha"),
    **dict.fromkeys(("lora_dropout",), "adapter.dropout"),
    **dict.fromkeys(
        ("lora_target", "lora_target_modules", "target_modules", "lora_modules", "lora_target_linear", "targets"), "adapter.targets",
    ),
    **dict.fromkeys(("modules_to_save", "lora_modules_to_save", "additional_target"), "adapter.modules_to_save"),
    **dict.fromkeys(("flash_attn", "flash_attention", "attn_impl", "attention", "attention_implementation"), "attn_implementation"),
    **dict.fromkeys(("use_liger_kernel", "liger_kernel", "use_liger", "enable_liger_kernel"), "fused_kernels"),
    **dict.fromkeys(("torch_compile", "use_compile"), "compile"),
    **dict.fromkeys(("bf16", "fp16", "mixed_precision", "amp"), "precision"),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "quantization_bit", "quant_method"), "quantization, beside the settings"),
    **dict.fromkeys(("torch_dtype",), "dtype, beside the settings"),
    **dict.fromkeys(("deepspeed", "ds_config", "zero"), "parallelism.zero_stage, beside the settings"),
    **dict.fromkeys(("rlhf_type", "stage", "loss_type", "pref_loss"), "objective"),
    **dict.fromkeys(("sample_packing", "pack"), "packing"),
    **dict.fromkeys(("vllm_gpu_memory_utilization", "gpu_memory_utilization"), "rollout_memory_utilization"),
    **dict.fromkeys(("precompute_ref_log_probs",), "ref_model"),
    **dict.fromkeys(("freeze_trainable_layers", "unfreeze_layers"), "num_trainable_layers"),
    **dict.fromkeys(("resolution", "height", "width"), "image_size"),
}  # fmt: skip

# What other programs call a value of ours.
MEANT = {
    "finetuning": {"qlora": "lora", "sft": "full", "all": "full", "adapter": "peft", "prompt_tuning": "peft", "pt": "pretrain"},
    "precision": {"amp": "bf16-mixed", "mixed": "bf16-mixed", "bfloat16": "bf16", "float16": "fp16-mixed", "float32": "fp32",
                  "half": "fp16-mixed", "fp8-mixed": "fp8", "16": "fp16-mixed", "16-mixed": "fp16-mixed", "bf16-true": "bf16"},
    "recompute": {"true": "full", "false": "none", "on": "full", "off": "none", "unsloth": "full", "all": "full", "partial": "selective",
                  "block": "full", "uniform": "full"},
    "attn_implementation": {"flash": "flash_attention_2", "flash_attn": "flash_attention_2", "fa2": "flash_attention_2", "true": "flash_attention_2",
                            "fa3": "flash_attention_3", "math": "eager", "flex": "flex_attention", "xformers": "sdpa"},
    "loss": {"liger": "fused", "cut_cross_entropy": "fused", "cce": "fused", "cross_entropy": "full", "linear_cross_entropy": "fused"},
    "objective": {"pt": "sft", "rm": "reward", "rlhf": "ppo", "reinforce": "rloo"},
}  # fmt: skip


class AdapterSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is trained beside a frozen base, under peft's names."""

    CALLED: ClassVar[dict[str, str]] = {
        "r": "rank", "lora_r": "rank", "lora_rank": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout",
        "target_modules": "targets", "lora_target": "targets", "peft_type": "method", "type": "method",
        "lora_dtype": "dtype", "additional_target": "modules_to_save",
    }  # fmt: skip

    method: Annotated[
        str, Meta(description="lora, dora, rslora, vera, ia3, prefix_tuning, prompt_tuning, adapter, ...")
    ] = "lora"
    rank: Annotated[int, Meta(ge=1, le=2**16, description="rank of the update (default: the method's own)")] = 0
    alpha: Annotated[float, Meta(ge=0, description="scale of the update; changes no memory")] | None = None
    dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout before the first matrix")] = 0.0
    targets: Annotated[
        list[str] | str, Meta(description='names of linear layers, a regular expression, or "all-linear"')
    ] = []
    target_parameters: Annotated[list[str], Meta(description="stacked expert matrices that get an adapter")] = []
    exclude: Annotated[list[str], Meta(description="modules among the targets that get none")] = []
    layers: Annotated[list[int] | None, Meta(description="numbers of the layers that get adapters")] = None
    dtype: Annotated[DtypeName | None, Meta(description="dtype of the adapters")] = None
    modules_to_save: Annotated[list[str], Meta(description="modules trained as full copies")] = []
    num_virtual_tokens: Annotated[int, Meta(ge=1, le=2**20, description="tokens of a learned prompt")] | None = None
    trainable_params: (
        Annotated[int, Meta(ge=0, le=2**50, description="parameters of the adapters, where they are known")] | None
    ) = None
    prepare_kbit: Annotated[
        bool, Meta(description="widen what is not quantised to fp32, as prepare_model_for_kbit_training does")
    ] = False
    options: Annotated[
        dict[str, Any],
        Meta(description="further fields of the method's configuration, under peft's names"),
    ] = {}

    def __post_init__(self) -> None:
        """Fill in the method's own rank."""
        if not self.rank:
            force_setattr(self, "rank", RANKS.get(self.method.lower(), 8))


class TrainingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimizer step."""

    CALLED: ClassVar[dict[str, str]] = CALLED
    MEANT: ClassVar[dict[str, dict[str, str]]] = MEANT

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
    moment_dtype: Annotated[MomentName | None, Meta(description="dtype of Adam's moments")] = None
    float8: Annotated[dict[str, Any] | None, Meta(description="float8 recipe of the linear layers")] = None

    optimizer: Annotated[str, Meta(description="adamw_torch, adamw_torch_fused, adamw_bnb_8bit, muon, ...")] = ""
    optimizer_args: Annotated[str | None, Meta(description="further options of the optimizer: rank=64, ...")] = None
    optimizer_name: Annotated[str | None, Meta(description="what a source calls the optimizer; a label")] = None
    optimizer_in_backward: Annotated[bool, Meta(description="step each parameter as its gradient arrives")] = False
    offload_gradients: Annotated[bool, Meta(description="keep gradients in host memory")] = False
    optimizer_cpu_offload: Annotated[bool, Meta(description="keep the optimizer's state in host memory")] = False
    optimizer_offload_fraction: Annotated[float, Meta(ge=0, le=1, description="share of it that is")] = 1.0
    use_precision_aware_optimizer: Annotated[
        bool, Meta(description="Megatron's optimizer that keeps of fp32 masters what bf16 weights lack")
    ] = False
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
    decoder_first_pipeline_num_layers: (
        Annotated[int, Meta(ge=0, le=4096, description="layers of the first stage")] | None
    ) = None
    decoder_last_pipeline_num_layers: (
        Annotated[int, Meta(ge=0, le=4096, description="layers of the last stage")] | None
    ) = None
    mtp_num_layers: Annotated[int, Meta(ge=0, le=64, description="multi-token prediction layers")] | None = None
    async_tp: Annotated[bool, Meta(description="overlap tensor-parallel communication with compute")] = False
    overlap_grad_reduce: Annotated[bool, Meta(description="reduce gradients while the backward pass runs")] = False
    reduce_bucket_size: (
        Annotated[int, Meta(ge=1, le=2**40, description="gradients that ZeRO reduces at once")] | None
    ) = None
    stage3_max_live_parameters: (
        Annotated[int, Meta(ge=0, le=2**50, description="parameters that ZeRO 3 keeps together at most")] | None
    ) = None

    ref_model: Annotated[bool | None, Meta(description="whether a frozen reference model is resident")] = None
    reward_model: Annotated[str | None, Meta(description="model that scores answers, by name; none: a function")] = None
    critic_model: Annotated[str | None, Meta(description="model that values states, by name")] = None
    num_generations: Annotated[int, Meta(ge=1, le=2**16, description="answers per prompt")] | None = None
    rollout_memory_utilization: (
        Annotated[float, Meta(ge=0, le=1, description="share of the device that a colocated engine takes")] | None
    ) = None
    rollout_sleep: Annotated[bool, Meta(description="whether that engine frees its memory for the step")] = True

    image_size: Annotated[Pixels | Annotated[list[Pixels], Meta(min_length=1, max_length=2)] | None,
                          Meta(description="height and width of images [pixels]")] = None  # fmt: skip
    num_classes: Annotated[int, Meta(ge=0, le=10**7, description="outputs of an image classifier")] | None = None
    num_frames: Annotated[int, Meta(ge=1, le=2**20, description="frames of a video [frames]")] | None = None
    text_len: Annotated[int, Meta(ge=1, le=2**20, description="tokens of a prompt [tokens]")] | None = None
    video: Annotated[dict[str, Any] | None, Meta(description="limits of a video processor")] = None
    resident_components: Annotated[list[str] | None, Meta(description="parts of a pipeline on the device")] = None
    advise: Annotated[bool, Meta(description="also say what fits at most, and which changes would save how much")] = (
        False
    )
    train_text_encoder: Annotated[
        bool, Meta(description="whether a pipeline's first text encoder is trained as well")
    ] = False
    cached_samples: (
        Annotated[int, Meta(ge=0, le=2**24, description="samples encoded before that stay on the device")] | None
    ) = None
    resident_bytes: (
        Annotated[int, Meta(ge=0, le=2**50, description="what else the process keeps on the device [bytes]")] | None
    ) = None
    precompute: Annotated[bool, Meta(description="whether prompts and images were encoded before")] = False


__all__ = ["AdapterSettings", "TrainingSettings"]
