torchrun --nproc_per_node=8 -m torchtitan.train --module llama3 --config llama3_8b \
  --training.max_context_length 8192 --training.num_tokens_per_microbatch_per_dp_rank 16384 --parallelism.tensor_parallel_degree 2
