"""Which module holds the reader of each `model_type`. Written by tools/index_families.py; do not edit."""

MODULES: dict[str, str] = {
    "internlm3_llama": "llama",
    "iquestcoder": "llama",
    "llama": "llama",
    "mellum": "llama",
    "ministral": "llama",
    "ministral3": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
}
