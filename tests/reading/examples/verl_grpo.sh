set -x

# A group of answers to each prompt, scored by a function; the policy's update isn't the only thing on the device.
MODEL=Qwen/Qwen2.5-7B-Instruct
NGPUS=8

python3 -m verl.trainer.main_ppo \
    algorithm.adv_estimator=grpo \
    data.train_files=$HOME/data/sums/train.parquet \
    data.train_batch_size=512 \
    data.max_prompt_length=1024 \
    data.max_response_length=3072 \
    actor_rollout_ref.model.path=$MODEL \
    actor_rollout_ref.model.use_remove_padding=True \
    actor_rollout_ref.actor.ppo_mini_batch_size=128 \
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=$((32 / NGPUS)) \
    actor_rollout_ref.actor.use_kl_loss=True \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
    actor_rollout_ref.rollout.n=8 \
    +actor_rollout_ref.rollout.engine_kwargs.vllm.swap_space=8 \
    actor_rollout_ref.ref.fsdp_config.param_offload=False \
    trainer.logger='["console"]' \
    trainer.n_gpus_per_node=$NGPUS \
    trainer.nnodes=1 "$@"
