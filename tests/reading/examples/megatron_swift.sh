NPROC_PER_NODE=8 \
megatron sft \
    --model Qwen/Qwen3-30B-A3B \
    --dataset 'some/dataset#1000' \
    --tuner_type lora \
    --lora_rank 16 \
    --expert_model_parallel_size 8 \
    --tensor_model_parallel_size 2 \
    --sequence_parallel true \
    --recompute_granularity selective \
    --recompute_modules layernorm moe_act \
    --micro_batch_size 1 \
    --global_batch_size 32 \
    --max_length 4096 \
    --moe_grouped_gemm true \
    --lr 1e-4
