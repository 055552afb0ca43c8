"""verl's settings: its YAML, or ``python -m verl.trainer.main_ppo section.key=value`` and the trainer of supervised steps.

What is read is the update of the policy, the fullest moment of a step: verl brings what it moved to host memory back for it.

References
----------
.. [1] volcengine/verl 0.9.1, ``verl/trainer/config``: prompts and answers of 512 tokens, FSDP over fp32 parameters in bf16 compute,
       ``ppo_max_token_len_per_gpu`` 16384 where batches are filled, gradient checkpointing and ``use_remove_padding`` on,
       ``gpu_memory_utilization`` 0.5 and ``free_cache_engine`` on, ``lora_rank`` 0 with all linear layers as targets, eight devices;
       ``fsdp_sft_trainer``: ``max_length`` 1024, ``micro_batch_size_per_gpu`` 4, fsdp2.
"""

from __future__ import annotations

from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, refused, to, together
from vrameter.reading.formats.torchtune import interpolated
from vrameter.reading.shared import one_device, target_names
from vrameter.reading.values import choice, name, names, positive, real, switch, whole

_ACTOR, _MODEL, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.model", "actor_rollout_ref.rollout"
_MCORE = f"{_ACTOR}.megatron"
_OVERRIDES = f"{_MCORE}.override_transformer_config"
_TYPE = choice(fp32="fp32", float32="fp32", bf16="bf16", bfloat16="bf16", fp16="fp16", float16="fp16")
TABLE: Table = {
    f"{_MODEL}.path": to("model", name),
    "model.partial_pretrain": to("model", name),
    "model.path": to("model", name),
    "critic.model.path": to("settings.critic_model", name),
    "reward_model.model.path": to("settings.reward_model", name),
    "reward.model.path": to("settings.reward_model", name),
    f"{_ACTOR}.fsdp_config.model_dtype": to("dtype", _TYPE),
    "model.fsdp_config.model_dtype": to("dtype", _TYPE),
    "engine.model_dtype": to("dtype", _TYPE),
    f"{_ACTOR}.ulysses_sequence_parallel_size": to("parallelism.context", positive),
    "ulysses_sequence_parallel_size": to("parallelism.context", positive),
    "engine.ulysses_sequence_parallel_size": to("parallelism.context", positive),
    f"{_MCORE}.tensor_model_parallel_size": to("parallelism.tensor", positive),
    f"{_MCORE}.pipeline_model_parallel_size": to("parallelism.pipeline", positive),
    f"{_MCORE}.context_parallel_size": to("parallelism.context", positive),
    f"{_MCORE}.expert_model_parallel_size": to("parallelism.expert", positive),
    f"{_MCORE}.expert_tensor_parallel_size": to("parallelism.expert_tensor", positive),
    f"{_MCORE}.virtual_pipeline_model_parallel_size": to("parallelism.virtual_pipeline", positive),
    f"{_OVERRIDES}.recompute_granularity": to("settings.recompute", choice(full="full", selective="selective")),
    f"{_OVERRIDES}.recompute_method": to("settings.recompute_method", choice(uniform="uniform", block="block")),
    f"{_OVERRIDES}.recompute_num_layers": to("settings.recompute_num_layers", positive),
    f"{_OVERRIDES}.recompute_modules": to("settings.recompute_modules", names),
    f"{_ROLLOUT}.n": to("settings.num_generations", positive),
    f"{_ROLLOUT}.free_cache_engine": to("settings.rollout_sleep", switch),
    **together(
        f"{_ACTOR}.strategy {_ACTOR}.ppo_micro_batch_size_per_gpu {_ACTOR}.ppo_mini_batch_size {_ACTOR}.use_dynamic_bsz {_ACTOR}.ppo_max_token_len_per_gpu "
        f"{_ACTOR}.use_kl_loss {_ACTOR}.use_torch_compile {_ROLLOUT}.gpu_memory_utilization {_MODEL}.use_remove_padding {_MODEL}.lora_rank "
        f"{_MODEL}.lora_alpha {_MODEL}.target_modules {_MODEL}.use_liger {_MODEL}.use_fused_kernels "
        f"{_MODEL}.enable_gradient_checkpointing {_MODEL}.enable_activation_offload {_ACTOR}.fsdp_config.offload_policy "
        f"{_ACTOR}.use_fused_kernels {_ACTOR}.fsdp_config.strategy actor_rollout_ref.ref.fsdp_config.param_offload "
        "actor_rollout_ref.ref.megatron.param_offload "
        "algorithm.adv_estimator algorithm.use_kl_in_reward data.max_prompt_length data.max_response_length data.max_length "
        "data.micro_batch_size_per_gpu data.use_dynamic_bsz data.max_token_len_per_gpu trainer.n_gpus_per_node trainer.nnodes "
        "reward_model.enable model.lora_rank model.lora_alpha model.target_modules model.strategy engine.strategy "
        "model.enable_gradient_checkpointing model.use_liger use_remove_padding model.use_remove_padding model.fsdp_config.cpu_offload "
        "model.fsdp_config.offload_params"
    ),
    **ignored("files", "config_path config_name trainer.* trainer profiler global_profiler checkpoint hydra ray_init ray_kwargs transfer_queue actor_rollout_ref.hybrid_engine "
              "actor_rollout_ref.nccl_timeout defaults custom_reward_function"),
    **ignored("data", f"data.* {_MODEL}.trust_remote_code {_MODEL}.external_lib {_MODEL}.tokenizer_path {_MODEL}.use_shm"),
    **ignored("sampling", f"{_ROLLOUT}.*"),
    **ignored("course", f"algorithm.* {_ACTOR}.* optim.* optim model.optim.* critic.* reward_model.* reward.* distillation.*"),
    **ignored("unmodelled", f"{_ACTOR}.fsdp_config.* {_MCORE}.* actor_rollout_ref.ref.* {_MODEL}.* model.* engine.*"),
}  # fmt: skip
# A critic scores every token; the others compare the answers to one prompt.
_CRITIC = ("gae",)


def prepared(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a tree with what refers to other keys put in, and the words for nothing taken as that."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(each) for key, each in value.items()}
        return None if value in ("null", "None", "none") else value

    return {key: walk(value) for key, value in interpolated(tree).items()}


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    usual = tr("the default of %(format)s", format="verl")
    supervised = not any(
        key.startswith(("actor_rollout_ref.", "algorithm.")) for key in (*draft.values, *draft.understood)
    )
    prefix = "model" if supervised else _MODEL
    _devices(draft, usual)
    if supervised:
        _supervised(draft, usual)
    else:
        _policy(draft, usual)
    rank = draft.number(f"{prefix}.lora_rank", 0) or 0
    if rank > 0:
        draft.settle(f"{prefix}.lora_rank", "settings.adapter.rank", rank)
        draft.put("settings.finetuning", "lora")
        if draft.has(f"{prefix}.lora_alpha"):
            draft.settle(f"{prefix}.lora_alpha", "settings.adapter.alpha", real(draft.get(f"{prefix}.lora_alpha")))
        draft.settle(
            f"{prefix}.target_modules",
            "settings.adapter.targets",
            target_names(draft.get(f"{prefix}.target_modules", "all-linear")),
        )
    else:
        draft.used(f"{prefix}.lora_rank {prefix}.lora_alpha {prefix}.target_modules", "settings.finetuning")
        draft.assume("settings.finetuning", "full", tr("nothing asks for an adapter"))
    if draft.asked("settings.recompute") is None:
        key = f"{prefix}.enable_gradient_checkpointing"
        mcore = draft.asked("engine") == "megatron"
        if draft.has(key) and not mcore:
            draft.settle(key, "settings.recompute", "full" if draft.on(key) else "none")
        else:
            draft.assume("settings.recompute", "none" if mcore else "full", usual)
    if draft.on(f"{prefix}.enable_activation_offload"):
        draft.settle(f"{prefix}.enable_activation_offload", "settings.activation_offload", True)
    if draft.on(f"{prefix}.use_liger"):
        draft.settle(f"{prefix}.use_liger", "settings.fused_kernels", True)
    if draft.on(f"{_MODEL}.use_fused_kernels") or draft.on(f"{_ACTOR}.use_fused_kernels"):
        draft.settle(f"{_MODEL}.use_fused_kernels {_ACTOR}.use_fused_kernels", "settings.loss", "fused")
    draft.assume("settings.precision", "bf16-mixed", usual)
    if draft.asked("engine") != "megatron":
        draft.assume("dtype", "fp32", usual)
        draft.assume("settings.attn_implementation", "flash_attention_2", usual)
        draft.assume("settings.optimizer", "adamw_torch_fused", usual)
    one_device(draft)


def _devices(draft: Draft, usual: str) -> None:
    if draft.asked("num_devices") is None:
        each, nodes = draft.number("trainer.n_gpus_per_node"), draft.number("trainer.nnodes", 1) or 1
        if each is not None:
            draft.settle("trainer.n_gpus_per_node trainer.nnodes", "num_devices", each * nodes)
        else:
            draft.assume("num_devices", 8 * nodes, usual)
            draft.used("trainer.nnodes", "num_devices")


def _supervised(draft: Draft, usual: str) -> None:
    """Read the trainer of supervised steps."""
    draft.put("settings.objective", "sft")
    draft.request.setdefault("engine", "transformers")
    length, micro = draft.number("data.max_length", 1024), draft.number("data.micro_batch_size_per_gpu", 4)
    if draft.on("data.use_dynamic_bsz"):
        length, micro = draft.number("data.max_token_len_per_gpu", 8192), 1
        draft.put("settings.packing", True)
    draft.settle("data.max_length data.max_token_len_per_gpu data.use_dynamic_bsz", "settings.seq_len", length)
    draft.settle("data.micro_batch_size_per_gpu", "settings.micro_batch", micro)
    if draft.on("use_remove_padding") or draft.on("model.use_remove_padding"):
        draft.settle("use_remove_padding model.use_remove_padding", "settings.padding_free", True)
    kind = str(draft.get("model.strategy", draft.get("engine.strategy", "fsdp2"))).lower()
    draft.settle("model.strategy engine.strategy", "parallelism.fsdp", "fsdp2" if kind == "fsdp2" else "full_shard")
    if draft.on("model.fsdp_config.cpu_offload") or draft.on("model.fsdp_config.offload_params"):
        draft.settle("model.fsdp_config.cpu_offload model.fsdp_config.offload_params", "parallelism.offload", "cpu")


def _policy(draft: Draft, usual: str) -> None:
    """Read the update of a policy beside its engine, reference and critic."""
    strategy = str(draft.get(f"{_ACTOR}.strategy", "megatron" if draft.asked("parallelism.tensor") else "fsdp")).lower()
    if strategy not in ("fsdp", "fsdp2", "megatron"):
        raise refused(f"{_ACTOR}.strategy", strategy, tr("one of %(names)s", names="fsdp, fsdp2, megatron"))
    mcore = strategy == "megatron"
    draft.request.setdefault("engine", "megatron" if mcore else "transformers")
    if mcore:
        draft.put("parallelism.zero_stage", 1)
        draft.put("parallelism.sequence", draft.asked("parallelism.tensor", 1) > 1)
        draft.used(f"{_ACTOR}.strategy", "engine")
    else:
        draft.settle(f"{_ACTOR}.strategy", "parallelism.fsdp", "fsdp2" if strategy == "fsdp2" else "full_shard")
        if draft.on(f"{_ACTOR}.fsdp_config.offload_policy"):
            draft.settle(f"{_ACTOR}.fsdp_config.offload_policy", "parallelism.offload", "cpu")
    _batch(draft, usual)
    estimator = str(draft.get("algorithm.adv_estimator", "gae")).lower()
    critic = estimator in _CRITIC
    draft.settle("algorithm.adv_estimator", "settings.objective", "ppo" if critic else "grpo")
    if critic and not draft.on("reward_model.enable"):
        draft.put("settings.reward_model", "none")
    draft.used("reward_model.enable", "settings.reward_model")
    compared = draft.on(f"{_ACTOR}.use_kl_loss") or draft.on("algorithm.use_kl_in_reward")
    away = draft.on("actor_rollout_ref.ref.fsdp_config.param_offload") or draft.on(
        "actor_rollout_ref.ref.megatron.param_offload"
    )
    draft.settle(
        f"{_ACTOR}.use_kl_loss algorithm.use_kl_in_reward actor_rollout_ref.ref.fsdp_config.param_offload "
        "actor_rollout_ref.ref.megatron.param_offload",
        "settings.ref_model", compared and not away,
    )  # fmt: skip
    share: Any = draft.get(f"{_ROLLOUT}.gpu_memory_utilization", 0.5)
    draft.settle(f"{_ROLLOUT}.gpu_memory_utilization", "settings.rollout_memory_utilization", real(share))
    draft.assume("settings.rollout_sleep", True, usual)


def _batch(draft: Draft, usual: str) -> None:
    prompt, answer = (
        draft.number("data.max_prompt_length", 512) or 512,
        draft.number("data.max_response_length", 512) or 512,
    )
    keys = "data.max_prompt_length data.max_response_length"
    if draft.on(f"{_ACTOR}.use_dynamic_bsz"):
        # Micro-batches are filled with whole sequences up to so many tokens, times the devices that share a sequence.
        most = whole(draft.get(f"{_ACTOR}.ppo_max_token_len_per_gpu", 16384)) * draft.asked("parallelism.context", 1)
        draft.settle(
            f"{_ACTOR}.ppo_max_token_len_per_gpu {_ACTOR}.use_dynamic_bsz {keys} {_ACTOR}.ppo_micro_batch_size_per_gpu",
            "settings.seq_len", max(most, prompt + answer),
        )  # fmt: skip
        draft.put("settings.packing", True)
        draft.put("settings.micro_batch", 1)
        draft.settle(f"{_ACTOR}.ppo_mini_batch_size", "settings.grad_accumulation", 2)
        return
    draft.settle(keys, "settings.seq_len", prompt + answer)
    draft.settle(
        f"{_ACTOR}.ppo_micro_batch_size_per_gpu",
        "settings.micro_batch",
        draft.number(f"{_ACTOR}.ppo_micro_batch_size_per_gpu"),
    )
    draft.assume("settings.micro_batch", 1, tr("the source does not say"))
    each = (draft.number(f"{_ACTOR}.ppo_mini_batch_size", 256) or 256) * draft.asked("settings.num_generations", 1)
    shares = draft.asked("num_devices", 1)
    for degree in ("tensor", "pipeline", "context"):
        shares //= draft.asked(f"parallelism.{degree}", 1)
    steps = max(1, each // (max(1, shares) * draft.asked("settings.micro_batch", 1)))
    draft.settle(f"{_ACTOR}.ppo_mini_batch_size", "settings.grad_accumulation", steps)
    if draft.on(f"{_MODEL}.use_remove_padding", True):
        draft.settle(f"{_MODEL}.use_remove_padding", "settings.padding_free", True)
    draft.used(f"{_MODEL}.use_remove_padding", "settings.padding_free")


__all__ = ["TABLE", "finish", "prepared"]
