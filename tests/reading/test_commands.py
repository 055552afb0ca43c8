"""Commands as people type them."""

from __future__ import annotations

from typing import Any

import pytest

from vrameter.reading import read_text

SERVERS: list[tuple[str, dict[str, Any]]] = [
    ("vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 32768 --gpu-memory-utilization 0.92 --tensor-parallel-size 2 --dtype bfloat16",
     {"engine": "vllm", "model": "meta-llama/Llama-3.1-8B-Instruct", "dtype": "bf16", "parallelism": {"tensor": 2},
      "settings": {"max_model_len": 32768, "gpu_memory_utilization": 0.92}}),
    ("vllm serve Qwen/Qwen3-8B --max-model-len 32k --enforce-eager --no-enable-prefix-caching --limit-mm-per-prompt '{\"image\": 2}'",
     {"engine": "vllm", "model": "Qwen/Qwen3-8B",
      "settings": {"max_model_len": 32000, "enforce_eager": True, "enable_prefix_caching": False, "limit_mm_per_prompt": {"image": 2}}}),
    ("CUDA_VISIBLE_DEVICES=0,1 python3 -m vllm.entrypoints.openai.api_server --model=Qwen/Qwen2.5-7B-Instruct-AWQ --quantization awq -tp 2 --port 8000",
     {"engine": "vllm", "model": "Qwen/Qwen2.5-7B-Instruct-AWQ", "quantization": "awq", "parallelism": {"tensor": 2}}),
    ("docker run --gpus all -p 8000:8000 --ipc=host vllm/vllm-openai:latest --model mistralai/Mistral-7B-v0.1 --max-num-seqs 64",
     {"engine": "vllm", "model": "mistralai/Mistral-7B-v0.1", "settings": {"max_num_seqs": 64}}),
    ("python -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp 4 --mem-fraction-static 0.85 --context-length 32768 --host 0.0.0.0",
     {"engine": "sglang", "model": "Qwen/Qwen3-8B", "parallelism": {"tensor": 4},
      "settings": {"mem_fraction_static": 0.85, "context_length": 32768}}),
    ("trtllm-serve Qwen/Qwen3-8B --tp_size 2 --max_batch_size 64 --kv_cache_free_gpu_memory_fraction 0.8",
     {"engine": "tensorrt-llm", "model": "Qwen/Qwen3-8B", "parallelism": {"tensor": 2},
      "settings": {"max_batch_size": 64, "free_gpu_memory_fraction": 0.8}}),
    ("text-generation-launcher --model-id Qwen/Qwen3-8B --num-shard 2 --max-input-tokens 4096 --max-total-tokens 8192",
     {"engine": "tgi", "model": "Qwen/Qwen3-8B", "parallelism": {"tensor": 2},
      "settings": {"max_input_tokens": 4096, "max_total_tokens": 8192}}),
    ("llama-server -m ./models/qwen3-8b-q4_k_m.gguf -c 16384 -ngl 99 -fa on -ctk q8_0 -ctv q8_0 -np 4 -ub 1024 -ts 3,1 --port 8080",
     {"engine": "llama.cpp", "model": "./models/qwen3-8b-q4_k_m.gguf",
      "settings": {"n_ctx": 16384, "n_gpu_layers": 99, "flash_attn": True, "cache_type_k": "q8_0", "cache_type_v": "q8_0", "n_parallel": 4,
                   "n_ubatch": 1024, "tensor_split": [3.0, 1.0]}}),
    ("llama-cli -hf Qwen/Qwen3-8B-GGUF:Q8_0 -c 4096", {"engine": "llama.cpp", "model": "Qwen/Qwen3-8B-GGUF", "quantization": "q8_0",
                                                       "settings": {"n_ctx": 4096}}),
    ("OLLAMA_NUM_PARALLEL=4 OLLAMA_KV_CACHE_TYPE=q8_0 ollama run llama3.1:8b",
     {"engine": "ollama", "model": "ollama:llama3.1:8b", "settings": {"OLLAMA_NUM_PARALLEL": 4, "OLLAMA_KV_CACHE_TYPE": "q8_0"}}),
]  # fmt: skip


@pytest.mark.parametrize(("command", "expected"), SERVERS, ids=[expected["engine"] for _, expected in SERVERS])
def test_serving(command: str, expected: dict[str, Any]) -> None:
    assert read_text(command).request == expected


def test_a_model_may_stand_behind_a_switch() -> None:
    request = read_text("vllm serve --enforce-eager Qwen/Qwen3-8B --max-num-seqs 8").request
    assert request["model"] == "Qwen/Qwen3-8B"
    assert request["settings"] == {"enforce_eager": True, "max_num_seqs": 8}


def opened(**files: str) -> Any:
    def read(name: str) -> str:
        if name not in files:
            raise FileNotFoundError(name)
        return files[name]

    return read


TRAINER = "--model_name_or_path Qwen/Qwen3-8B --output_dir out --per_device_train_batch_size 2 --bf16 True"


def test_torchrun_tells_the_devices() -> None:
    request = read_text(
        f"torchrun --nproc_per_node=4 --nnodes 2 train.py {TRAINER} --fsdp 'full_shard auto_wrap'"
    ).request
    assert request["num_devices"] == 8
    assert request["parallelism"]["fsdp"] == "full_shard"
    assert request["settings"]["micro_batch"] == 2


def test_deepspeed_reads_its_configuration() -> None:
    files = {"ds.json": '{"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}}'}
    reading = read_text(f"deepspeed --num_gpus 8 train.py {TRAINER} --deepspeed ds.json", open=opened(**files))
    assert reading.request["num_devices"] == 8
    assert reading.request["parallelism"] == {"zero_stage": 3}
    assert reading.understood["ds.json: zero_optimization.stage"] == "parallelism.zero_stage"


def test_a_missing_file_is_told() -> None:
    reading = read_text(f"deepspeed --num_gpus 8 train.py {TRAINER} --deepspeed other.json", open=opened())
    assert "zero_stage" not in reading.request.get("parallelism", {})
    assert any("other.json" in note for note in reading.notes)


def test_accelerate_launch_reads_its_configuration() -> None:
    files = {
        "fsdp.yaml": "distributed_type: FSDP\nfsdp_config:\n  fsdp_version: 2\nmixed_precision: bf16\nnum_processes: 8\n"
    }
    reading = read_text(
        f"accelerate launch --config_file fsdp.yaml --num_processes 4 sft.py {TRAINER}", open=opened(**files)
    )
    assert reading.request["num_devices"] == 4
    assert reading.request["parallelism"]["fsdp"] == "fsdp2"


def test_programs_of_stacks() -> None:
    llama = read_text(
        "llamafactory-cli train x.yaml", open=opened(**{"x.yaml": "model_name_or_path: qwen3-8b\nbf16: true\n"})
    )
    assert (llama.format, llama.request["settings"]["finetuning"]) == ("llama-factory", "lora")
    assert llama.assumed["settings.finetuning"]["value"] == "lora"
    trl = read_text(f"trl dpo {TRAINER} --beta 0.1")
    assert trl.request["settings"]["objective"] == "dpo"
    tune = read_text("tune run --nproc_per_node 2 full_finetune_distributed --config a.yaml batch_size=4",
                     open=opened(**{"a.yaml": "batch_size: 1\nmodel:\n  _component_: torchtune.models.qwen2_5.qwen2_5_7b_base\n"}))  # fmt: skip
    assert (tune.request["model"], tune.request["settings"]["micro_batch"], tune.request["num_devices"]) == (
        "qwen2.5-7b",
        4,
        2,
    )
    lit = read_text(
        "litgpt finetune_lora meta-llama/Llama-3.2-1B --lora_r 16 --train.micro_batch_size 4 --checkpoint_dir meta-llama/Llama-3.2-1B"
    )
    assert (lit.request["model"], lit.request["settings"]["adapter"]["rank"]) == ("meta-llama/Llama-3.2-1B", 16)
    ax = read_text(
        "accelerate launch -m axolotl.cli.train a.yml",
        open=opened(**{"a.yml": "base_model: qwen3-8b\nsequence_len: 1024\n"}),
    )
    assert (ax.format, ax.request["settings"]["seq_len"]) == ("axolotl", 1024)


def test_bare_arguments_are_megatrons() -> None:
    reading = read_text(
        "--num-layers 24 --hidden-size 1024 --num-attention-heads 16 --micro-batch-size 4 --seq-length 1024 --bf16"
    )
    assert reading.format == "megatron"
    assert reading.request["model"]["megatron_args"]["num-layers"] == 24


def test_nothing_is_run() -> None:
    assert read_text("vllm serve $(whoami)/x").request["model"] == "$(whoami)/x"
