"""NeMo 1's YAML of Megatron models: sections ``trainer``, ``exp_manager`` and ``model``.

References
----------
.. [1] NVIDIA/NeMo 1.23 to 2.0, ``examples/nlp/language_modeling/conf/megatron_gpt_config.yaml`` and ``tuning/conf``: the optimizer
       ``distributed_fused_adam`` splits its state; LoRA adapts the fused projection of attention with rank 32 unless it is told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.shared import one_device
from vrameter.reading.values import choice, names, positive, real, switch, whole

# Key of a model -> Megatron's argument.
SHAPE = {
    "num_layers": "num-layers", "hidden_size": "hidden-size", "ffn_hidden_size": "ffn-hidden-size", "num_attention_heads": "num-attention-heads",
    "num_query_groups": "num-query-groups", "kv_channels": "kv-channels", "encoder_seq_length": "seq-length",
    "max_position_embeddings": "max-position-embeddings", "make_vocab_size_divisible_by": "make-vocab-size-divisible-by",
    "num_moe_experts": "num-experts", "moe_router_topk": "moe-router-topk", "hidden_dropout": "hidden-dropout",
    "attention_dropout": "attention-dropout", "override_vocab_size": "vocab-size",
}  # fmt: skip
_WORDS = ("normalization", "position_embedding_type", "bias", "activation", "share_embeddings_and_output_weights")
TARGETS = {
    "attention_qkv": ["q_proj", "k_proj", "v_proj"], "attention_dense": ["o_proj"], "mlp_fc1": ["gate_proj", "up_proj"],
    "mlp_fc2": ["down_proj"], "attention": ["q_proj", "k_proj", "v_proj", "o_proj"], "mlp": ["gate_proj", "up_proj", "down_proj"],
    "linear_qkv": ["q_proj", "k_proj", "v_proj"], "linear_proj": ["o_proj"], "linear_fc1": ["gate_proj", "up_proj"], "linear_fc2": ["down_proj"],
}  # fmt: skip
_LORA = "model.peft.lora_tuning"
TABLE: Table = {
    "model.micro_batch_size": to("settings.micro_batch", positive),
    "model.data.train_ds.micro_batch_size": to("settings.micro_batch", positive),
    "model.tensor_model_parallel_size": to("parallelism.tensor", positive),
    "model.pipeline_model_parallel_size": to("parallelism.pipeline", positive),
    "model.context_parallel_size": to("parallelism.context", positive),
    "model.expert_model_parallel_size": to("parallelism.expert", positive),
    "model.virtual_pipeline_model_parallel_size": to("parallelism.virtual_pipeline", positive),
    "model.sequence_parallel": to("parallelism.sequence", switch),
    "model.activations_checkpoint_granularity": to("settings.recompute", choice(full="full", selective="selective")),
    "model.activations_checkpoint_method": to("settings.recompute_method", choice(uniform="uniform", block="block")),
    "model.activations_checkpoint_num_layers": to("settings.recompute_num_layers", positive),
    "model.data.train_ds.max_seq_length": to("settings.seq_len", positive),
    "trainer.accumulate_grad_batches": to("settings.grad_accumulation", positive),
    **together(
        "trainer.devices trainer.num_nodes trainer.precision model.global_batch_size model.data.train_ds.global_batch_size model.optim.name "
        f"model.fp8 model.transformer_engine model.fsdp model.fsdp_sharding_strategy model.megatron_amp_O2 model.peft.peft_scheme "
        f"{_LORA}.target_modules {_LORA}.adapter_dim {_LORA}.alpha {_LORA}.adapter_dropout model.peft.p_tuning.virtual_tokens "
        "model.restore_from_path " + " ".join(f"model.{key}" for key in (*SHAPE, *_WORDS))
    ),
    **ignored("files", "name exp_manager exp_manager.* hydra model.resume_from_checkpoint model.save_* model.restore_* model.nsys_profile* "
              "model.onnx_safe model.apex_* model.version defaults inference inference.* trainer.* restore_from_path export export.* s3_checkpointing"),
    **ignored("serving", "server port web_* share username password chat chatbot_* prompts* quantization quantization.*"),
    **ignored("data", "model.data.* model.data model.tokenizer.* model.tokenizer model.answer_only_loss model.seed"),
    **ignored("course", "model.optim.* model.init_* model.use_scaled_* model.layernorm_* model.do_layer_norm* model.rotary_* model.native_* "
              "model.hysteresis model.grad_* model.pre_process model.post_process model.ffn_dropout model.moe_*"),
    **ignored("unmodelled", "model.*"),
}  # fmt: skip


def prepared(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with values such as ``${.encoder_seq_length}`` put in, and what is to be filled in left out."""

    def look(path: str, beside: Mapping[str, Any]) -> Any:
        found: Any = beside if path.startswith(".") else tree
        for part in path.strip(".").split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return None if isinstance(found, (Mapping, list)) else found

    def walk(value: Any, beside: Mapping[str, Any]) -> Any:
        if isinstance(value, Mapping):
            return {key: walk(each, value) for key, each in value.items()}
        if isinstance(value, str) and (match := re.fullmatch(r"\$\{(\.?[\w.]+)\}", value)):
            return look(match[1], beside)
        return None if value == "???" else value

    return {key: walk(value, tree) for key, value in tree.items()}


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    draft.request.setdefault("engine", "megatron")
    given = {key: draft.get(f"model.{key}") for key in (*SHAPE, *_WORDS) if draft.has(f"model.{key}")}
    if "num_layers" in given and "hidden_size" in given:
        draft.settle([f"model.{key}" for key in given], "model", {"megatron_args": _arguments(given)})
    else:
        draft.used([f"model.{key}" for key in given], "model")
    length = draft.number("model.encoder_seq_length")
    if length is not None:
        draft.assume("settings.seq_len", length, "encoder_seq_length")
    each, nodes = draft.number("trainer.devices"), draft.number("trainer.num_nodes", 1) or 1
    if each and each > 0 and draft.asked("num_devices") is None:
        draft.settle("trainer.devices trainer.num_nodes", "num_devices", each * nodes)
    _precision(draft)
    kind = str(draft.get("model.optim.name", "distributed_fused_adam")).lower()
    if kind not in ("distributed_fused_adam", "fused_adam", "mcore_distributed_optim", "adam", "adamw", "sgd"):
        raise refused("model.optim.name", kind, tr("one of %(names)s", names="distributed_fused_adam, fused_adam"))
    draft.put("settings.optimizer", "sgd_momentum" if kind == "sgd" else "adam")
    draft.settle("model.optim.name", "parallelism.zero_stage", int("distributed" in kind))
    if draft.on("model.fsdp"):
        strategy = str(draft.get("model.fsdp_sharding_strategy", "full")).lower()
        kinds = {"full": "full_shard", "grad": "shard_grad_op", "hybrid": "hybrid_shard"}
        draft.settle("model.fsdp model.fsdp_sharding_strategy", "parallelism.fsdp", kinds.get(strategy))
    _tuning(draft)
    total = draft.number("model.global_batch_size", draft.number("model.data.train_ds.global_batch_size"))
    draft.settle("model.global_batch_size model.data.train_ds.global_batch_size", "settings.global_batch_size", total)
    draft.assume("settings.recompute", "none", tr("the default of %(format)s", format="NeMo"))
    draft.assume("settings.micro_batch", 4, tr("the default of %(format)s", format="NeMo"))
    one_device(draft)


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return Megatron's arguments of a model."""
    found: dict[str, Any] = {SHAPE[key]: value for key, value in given.items() if key in SHAPE and value is not None}
    found["use-mcore-models"] = True
    groups = found.get("num-query-groups")
    if groups and groups != found.get("num-attention-heads"):
        found["group-query-attention"] = True
    if "rms" in str(given.get("normalization", "")).lower():
        found["normalization"] = "RMSNorm"
    place = str(given.get("position_embedding_type", "learned_absolute"))
    found["position-embedding-type"] = "rope" if place == "rope" else "learned_absolute"
    if "swiglu" in str(given.get("activation", "")):
        found["swiglu"] = True
    if given.get("bias") is False:
        found["disable-bias-linear"] = True
    if given.get("share_embeddings_and_output_weights") is False:
        found["untie-embeddings-and-output-weights"] = True
    if "num-experts" in found and whole(found["num-experts"]) < 2:
        del found["num-experts"]
    return found


def _precision(draft: Draft) -> None:
    text = str(draft.get("trainer.precision", "32")).lower()
    kinds = {
        "bf16": "bf16-mixed",
        "bf16-mixed": "bf16-mixed",
        "bf16-true": "bf16",
        "16": "fp16-mixed",
        "16-mixed": "fp16-mixed",
        "32": "fp32",
        "32-true": "fp32",
    }
    if text not in kinds:
        raise refused("trainer.precision", text, tr("one of %(names)s", names=", ".join(kinds)))
    eight = draft.on("model.fp8") and draft.on("model.transformer_engine")
    draft.settle(
        "trainer.precision model.fp8 model.transformer_engine", "settings.precision", "fp8" if eight else kinds[text]
    )
    if "mixed" in kinds[text] and draft.has("model.megatron_amp_O2") and not draft.on("model.megatron_amp_O2"):
        draft.note(
            tr(
                "megatron_amp_O2 is off: weights stay in fp32 and are cast for each product; they are counted as Megatron keeps them."
            )
        )
    draft.used("model.megatron_amp_O2", "settings.precision")


def _tuning(draft: Draft) -> None:
    scheme = str(draft.get("model.peft.peft_scheme") or "none").lower()
    tuned = draft.asked("model") is None
    if scheme == "none":
        draft.settle("model.peft.peft_scheme", "settings.finetuning", "full" if tuned else "pretrain")
        return
    if scheme != "lora":
        draft.note(tr("peft_scheme %(name)s is counted as LoRA of its size.", name=scheme))
    draft.settle("model.peft.peft_scheme", "settings.finetuning", "lora")
    draft.settle(f"{_LORA}.adapter_dim", "settings.adapter.rank", draft.number(f"{_LORA}.adapter_dim", 32))
    if draft.has(f"{_LORA}.alpha"):
        draft.settle(f"{_LORA}.alpha", "settings.adapter.alpha", real(draft.get(f"{_LORA}.alpha")))
    if draft.has(f"{_LORA}.adapter_dropout"):
        draft.settle(
            f"{_LORA}.adapter_dropout", "settings.adapter.dropout", real(draft.get(f"{_LORA}.adapter_dropout"))
        )
    draft.settle(
        f"{_LORA}.target_modules",
        "settings.adapter.targets",
        projections(draft.get(f"{_LORA}.target_modules", ["attention_qkv"])),
    )


def projections(value: Any) -> list[str] | str:
    """Return the projections that a fused one stands for.

    >>> projections(["linear_qkv", "linear_fc2"])
    ['q_proj', 'k_proj', 'v_proj', 'down_proj']
    """
    asked = names(value)
    if asked in (["all"], ["*"]):
        return "all-linear"
    return [each for given in asked for each in TARGETS.get(given.rpartition(".")[2], [given])]


__all__ = ["TABLE", "finish", "prepared", "projections"]
