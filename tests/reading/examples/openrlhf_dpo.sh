set -x
read -r -d '' training_commands <<EOF
openrlhf.cli.train_dpo \
   --ckpt.output_dir ./checkpoint/dpo \
   --train.micro_batch_size 2 \
   --train.batch_size 128 \
   --model.model_name_or_path meta-llama/Llama-3.1-8B-Instruct \
   --ds.param_dtype bf16 \
   --ds.zero_stage 3 \
   --ds.lora.rank 16 \
   --data.max_len 4096 \
   --model.beta 0.1 \
   --ds.attn_implementation flash_attention_2 \
   --model.gradient_checkpointing_enable
EOF

deepspeed --num_gpus 4 --module $training_commands
