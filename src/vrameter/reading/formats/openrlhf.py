"""OpenRLHF's flags: ``openrlhf.cli.train_sft``, ``train_dpo``, ``train_rm``, ``train_ppo_ray``.

References
----------
.. [1] OpenRLHF 0.11.2, ``openrlhf/cli``: ZeRO stage 2, bf16, FlashAttention 2, ``data.max_len`` 2048, ``train.micro_batch_size`` 8
       (supervised) and 1 (policies), checkpointing off unless it is asked, ``train.max_tokens_per_gpu`` 16192 where batches are filled.
       Before version 0.10 the flags had no sections: ``--pretrain``, ``--max_len``, ``--micro_train_batch_size``.
"""

from __future__ import annotations

from typing import Any

from vrameter.i18n import tr
from vrameter.reading.draft import Draft, Table, ignored, to, together
from vrameter.reading.shared import adapter, one_device
from vrameter.reading.values import choice, name, positive, real, switch

TABLE: Table = {
    **{key: to("model", name) for key in ("model.model_name_or_path", "actor.model_name_or_path", "pretrain", "actor_pretrain")},
    **{key: to("settings.reward_model", name) for key in ("reward.model_name_or_path", "reward_pretrain")},
    **{key: to("settings.critic_model", name) for key in ("critic.model_name_or_path", "critic_pretrain")},
    **{key: to("settings.micro_batch", positive) for key in ("train.micro_batch_size", "micro_train_batch_size")},
    **{key: to("parallelism.tensor", positive) for key in ("ds.tensor_parallel_size", "ds_tensor_parallel_size")},
    **{key: to("parallelism.context", positive) for key in ("ds.ring_attn_size", "ring_attn_size")},
    **{key: to("settings.num_generations", positive) for key in ("rollout.n_samples_per_prompt", "n_samples_per_prompt")},
    **{key: to("settings.packing", switch) for key in ("ds.packing_samples", "packing_samples")},
    **{key: to("settings.rollout_sleep", switch) for key in ("vllm.enable_sleep", "vllm_enable_sleep")},
    **{key: to("settings.fused_kernels", switch) for key in ("ds.use_liger_kernel", "use_liger_kernel")},
    **{key: to("settings.precision", choice(bf16="bf16-mixed", fp16="fp16-mixed", fp32="fp32")) for key in ("ds.param_dtype", "param_dtype")},
    "bf16": to("settings.precision", lambda value: "bf16-mixed" if switch(value) else None),
    "ds.attn_implementation": to("settings.attn_implementation", choice(
        eager="eager", sdpa="sdpa", flash_attention_2="flash_attention_2", flash_attention_3="flash_attention_3",
        flex_attention="flex_attention",
    )),
    "flash_attn": to("settings.attn_implementation", lambda value: "flash_attention_2" if switch(value) else None),
    "ds.lora.dropout": to("settings.adapter.dropout", real),
    **together(
        "rlhf_kind ds.zero_stage zero_stage ds.adam_offload adam_offload ds.load_in_4bit load_in_4bit ds.lora.rank lora_rank ds.lora.alpha "
        "lora_alpha ds.lora.target_modules target_modules lora_dropout data.max_len max_len prompt_max_len generate_max_len data.prompt_max_len "
        "model.gradient_checkpointing_enable actor.gradient_checkpointing_enable gradient_checkpointing "
        "model.gradient_checkpointing_reentrant actor.gradient_checkpointing_reentrant gradient_checkpointing_use_reentrant "
        "train.colocate_all colocate_all_models vllm.gpu_memory_utilization vllm_gpu_memory_utilization "
        "actor.num_nodes actor.num_gpus_per_node actor_num_nodes actor_num_gpus_per_node algo.advantage.estimator advantage_estimator "
        "algo.kl.init_coef init_kl_coef reward.remote_url remote_rm_url reward.offload ref.offload ref_reward_offload "
        "train.dynamic_batch_enable train.max_tokens_per_gpu use_dynamic_batch train_max_tokens_per_gpu"
    ),
    **ignored(
        "files",
        "ckpt.* logger.* wandb.* save_* ckpt_path load_checkpoint logging_steps use_wandb wandb_* tensorboard_dir use_tensorboard use_ms "
        "max_ckpt_* disable_ds_ckpt use_hf",
    ),
    **ignored("data", "data.* dataset* prompt_data* input_key output_key label_key chosen_key rejected_key apply_chat_template input_template "
              "max_samples multiturn tokenizer_chat_template disable_fast_tokenizer eval_* prompt_split"),
    **ignored("evaluation", "eval.*"),
    **ignored("launch", "ref.num_* reward.num_* critic.num_* ref_num_* reward_num_* critic_num_* vllm.num_engines vllm_num_engines local_rank "
              "colocate_actor_ref colocate_critic_reward vllm.* vllm_* ray.* runtime_env_json working_dir address no_wait"),
    **ignored(
        "course",
        "train.* adam.* adam_* muon.* actor.* critic.* reward.* ref.* algo.* model.* rollout.* optim lr_* min_lr_ratio max_norm max_epochs "
        "num_episodes learning_rate actor_learning_rate critic_learning_rate rollout_batch_size train_batch_size micro_rollout_batch_size "
        "normalize_reward l2 seed beta kl_estimator use_kl_loss gamma lambd eps_clip* entropy_loss_coef temperature top_p ipo "
        "label_smoothing nll_loss_coef aux_loss_coef value_clip freezing_actor_steps reward_clip_range dynamic_filtering* compute_fp32_loss "
        "full_determinism loss pretrain_mode agent_func_path async_train enable_prefix_caching overlong_* enforce_eager margin_loss "
        "value_head_prefix",
    ),
    **ignored("unmodelled", "ds.* grad_accum_dtype zpg overlap_comm deepcompile deepspeed_enable_sleep experts_implementation "
              "ring_head_stride ref_offload"),
}  # fmt: skip


def finish(draft: Draft) -> None:
    """Read the keys that belong together."""
    usual = tr("the default of %(format)s", format="OpenRLHF")
    draft.request.setdefault("engine", "deepspeed")
    kind = str(draft.get("rlhf_kind", "sft"))
    draft.put("settings.objective", {"train_dpo": "dpo", "train_rm": "reward", "train_kto": "kto"}.get(kind, "sft"))
    policy = kind.startswith("train_ppo") or any(
        draft.has(key) for key in ("actor.num_gpus_per_node", "actor_num_gpus_per_node")
    )
    stage = draft.number("ds.zero_stage", draft.number("zero_stage", 2)) or 0
    draft.settle("ds.zero_stage zero_stage", "parallelism.zero_stage", min(stage, 3))
    if draft.on("ds.adam_offload") or draft.on("adam_offload"):
        draft.settle("ds.adam_offload adam_offload", "parallelism.offload", "optimizer")
    _length(draft, policy, usual)
    again = ("model.gradient_checkpointing_enable", "actor.gradient_checkpointing_enable", "gradient_checkpointing")
    draft.settle(again, "settings.recompute", "full" if any(draft.on(key) for key in again) else "none")
    rank = draft.number("ds.lora.rank", draft.number("lora_rank", 0)) or 0
    if rank:
        prefix = "ds.lora." if draft.has("ds.lora.rank") else "lora_"
        targets = "ds.lora.target_modules" if draft.has("ds.lora.target_modules") else "target_modules"
        draft.put("settings.finetuning", "lora")
        adapter(
            draft,
            rank=f"{prefix}rank",
            alpha=f"{prefix}alpha",
            dropout="lora_dropout",
            targets=targets,
            saved="",
            defaults={"targets": "all-linear"},
        )
    else:
        draft.used("ds.lora.rank lora_rank ds.lora.alpha lora_alpha", "settings.finetuning")
        draft.assume("settings.finetuning", "full", tr("nothing asks for an adapter"))
    if draft.on("ds.load_in_4bit") or draft.on("load_in_4bit"):
        draft.settle("ds.load_in_4bit load_in_4bit", "quantization", "bnb-nf4-dq")
    if policy:
        _policy(draft, usual)
    draft.assume("settings.precision", "bf16-mixed", usual)
    draft.assume("dtype", "bf16", tr("DeepSpeed turns the weights into %(name)s", name="bf16"))
    draft.assume("settings.attn_implementation", "flash_attention_2", usual)
    draft.assume("settings.micro_batch", 1 if policy or kind != "train_sft" else 8, usual)
    one_device(draft)


def _length(draft: Draft, policy: bool, usual: str) -> None:
    filled = draft.on("train.dynamic_batch_enable") or draft.on("use_dynamic_batch")
    prompt, answer = draft.number("prompt_max_len"), draft.number("generate_max_len")
    length = draft.number("data.max_len", draft.number("max_len"))
    if length is None and policy and (prompt or answer):
        length = (prompt or 1024) + (answer or 1024)
    keys = "data.max_len max_len prompt_max_len generate_max_len data.prompt_max_len"
    if filled:
        most = draft.number("train.max_tokens_per_gpu", draft.number("train_max_tokens_per_gpu", 16192)) or 16192
        draft.settle(f"{keys} train.dynamic_batch_enable use_dynamic_batch train.max_tokens_per_gpu train_max_tokens_per_gpu",
                     "settings.seq_len", max(most, length or 0))  # fmt: skip
        draft.put("settings.micro_batch", 1)
        return
    draft.settle(keys, "settings.seq_len", length)
    draft.assume("settings.seq_len", 2048, usual)


def _policy(draft: Draft, usual: str) -> None:
    """Read the update of a policy: where its engine, its critic and what it is compared with stand."""
    each = draft.number("actor.num_gpus_per_node", draft.number("actor_num_gpus_per_node", 8)) or 8
    nodes = draft.number("actor.num_nodes", draft.number("actor_num_nodes", 1)) or 1
    draft.settle(
        ("actor.num_nodes", "actor.num_gpus_per_node", "actor_num_nodes", "actor_num_gpus_per_node"),
        "num_devices",
        each * nodes,
    )
    together_ = draft.on("train.colocate_all") or draft.on("colocate_all_models")
    estimator = str(draft.get("algo.advantage.estimator", draft.get("advantage_estimator", "gae"))).lower()
    draft.settle(
        "algo.advantage.estimator advantage_estimator",
        "settings.objective",
        "ppo" if estimator == "gae" and together_ else "grpo",
    )
    remote = draft.has("reward.remote_url") or draft.has("remote_rm_url")
    if remote or not together_:
        draft.settle("reward.remote_url remote_rm_url", "settings.reward_model", "none")
    penalty: Any = draft.get("algo.kl.init_coef", draft.get("init_kl_coef", 0.01))
    away = draft.on("ref.offload") or draft.on("ref_reward_offload")
    draft.settle(
        "algo.kl.init_coef init_kl_coef ref.offload ref_reward_offload reward.offload", "settings.ref_model",
        real(penalty) > 0 and together_ and not away,
    )  # fmt: skip
    draft.used("train.colocate_all colocate_all_models", "settings.objective")
    if together_:
        share: Any = draft.get("vllm.gpu_memory_utilization", draft.get("vllm_gpu_memory_utilization", 0.95))
        draft.settle(
            "vllm.gpu_memory_utilization vllm_gpu_memory_utilization",
            "settings.rollout_memory_utilization",
            real(share),
        )
        draft.assume("settings.rollout_sleep", False, usual)
    else:
        draft.note(tr("Models on devices of their own are not counted: the answer is for the policy's."))


__all__ = ["TABLE", "finish"]
