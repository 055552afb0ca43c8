"""Which known family a config of an unknown `model_type` looks like.

New models often are a known network under a new name. The fields of a config give that away: only a
latent-attention model has `kv_lora_rank`. Where the decisive fields are absent nothing is guessed.
"""

from __future__ import annotations

from vrameter.model.config import Config
from vrameter.model.families.index import MODULES

# class name in `architectures` -> the type whose reader fits it
_STEMS = (
    ("Llama", "llama"), ("Mistral", "mistral"), ("Mixtral", "mixtral"), ("Qwen3Moe", "qwen3_moe"), ("Qwen3", "qwen3"),
    ("Qwen2Moe", "qwen2_moe"), ("Qwen2", "qwen2"), ("DeepseekV3", "deepseek_v3"), ("DeepseekV2", "deepseek_v2"),
    ("GPT2", "gpt2"), ("GPTNeoX", "gpt_neox"), ("Gemma3", "gemma3_text"), ("Gemma2", "gemma2"), ("Gemma", "gemma"),
    ("Phi3", "phi3"), ("XLMRoberta", "xlm-roberta"), ("Roberta", "roberta"), ("Bert", "bert"), ("T5", "t5"),
)  # fmt: skip


def likely_type(cfg: Config) -> str | None:
    """Return the known `model_type` that a config's class or fields point to, or None."""
    classes = cfg.values.get("architectures")
    if isinstance(classes, (list, tuple)) and classes and isinstance(classes[0], str):
        for stem, model_type in _STEMS:
            if classes[0].startswith(stem) and model_type in MODULES:
                return model_type
    given = cfg.given
    if not (
        given("hidden_size") and given("num_hidden_layers") and given("num_attention_heads") and given("vocab_size")
    ):
        return None
    if given("kv_lora_rank"):
        return "deepseek_v3" if given("n_routed_experts") else None
    if not given("intermediate_size") and not given("moe_intermediate_size"):
        return None
    if given("type_vocab_size") and not given("num_key_value_heads"):
        return "bert"
    if any(given(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        if given("moe_intermediate_size"):
            return "qwen3_moe" if "qwen3_moe" in MODULES else None
        return "mixtral" if "mixtral" in MODULES else None
    unusual = (
        "mamba_d_state",
        "ssm_state_size",
        "linear_key_head_dim",
        "layers_block_type",
        "vision_config",
        "state_size",
    )
    if any(given(name) for name in unusual):
        return None
    return "llama"
