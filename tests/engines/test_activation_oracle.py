"""What a pass through transformers' own modules keeps alive, counted at every operation on the CPU.

Not run by default: ``pytest -m oracle tests/engines/test_activation_oracle.py`` needs torch and transformers. Small models
of each kind read a prompt and, where they generate, one token more; the most bytes alive beside weights are compared
with the ledger's, its fp32 logits left out because `forward` does not make them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

import vrameter

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

BASE: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 2,
    "num_hidden_layers": 3, "vocab_size": 512, "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    **BASE,
    "moe_intermediate_size": 192,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "head_dim": 32,
}
LATENT: dict[str, Any] = {
    **BASE, "num_key_value_heads": 8, "moe_intermediate_size": 128, "n_routed_experts": 16, "num_experts_per_tok": 4,
    "n_group": 1, "topk_group": 1, "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
    "v_head_dim": 48, "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
SMALL_GPT: dict[str, Any] = {"n_embd": 256, "n_layer": 3, "n_head": 8, "vocab_size": 512, "n_positions": 4096}
# type -> its config, and how far the ledger may be from what is counted, in hundredths: 2 unless something is not modelled
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "llama": (BASE, 2),
    "qwen2": (BASE, 2),
    "qwen3": ({**BASE, "head_dim": 32}, 2),
    "mistral": ({**BASE, "sliding_window": None}, 2),
    "phi3": (BASE, 2),
    "gemma": ({**BASE, "head_dim": 32}, 2),
    "gemma3_text": ({**BASE, "head_dim": 32, "sliding_window": 4096, "num_hidden_layers": 6}, 2),
    "granite": (BASE, 2),
    "glm4": ({**BASE, "head_dim": 32}, 2),
    "smollm3": (BASE, 2),
    "cohere2": ({**BASE, "sliding_window": 4096}, 3),
    "olmo2": (BASE, 8),  # norms after each part: a little less is alive
    "starcoder2": (BASE, 2),
    "gpt_neox": (BASE, 3),
    "opt": (
        {"hidden_size": 256, "ffn_dim": 1024, "num_attention_heads": 8, "num_hidden_layers": 3, "vocab_size": 512,
         "word_embed_proj_dim": 256, "max_position_embeddings": 4096}, 2,
    ),
    "phi": (BASE, 2),
    "nemotron": ({**BASE, "head_dim": 32}, 2),
    "gpt2": (SMALL_GPT, 11),  # its block holds two more of its inputs
    "mixtral": ({**BASE, "num_local_experts": 8, "num_experts_per_tok": 2}, 2),
    "qwen3_moe": (EXPERTS, 2),
    "olmoe": ({**BASE, "num_experts": 16, "num_experts_per_tok": 4, "intermediate_size": 192}, 2),
    "qwen2_moe": ({**EXPERTS, "shared_expert_intermediate_size": 384}, 5),  # a mask besides
    "deepseek_v2": (LATENT, 3),
    "deepseek_v3": (LATENT, 3),
    "glm4_moe": ({**LATENT, "head_dim": 32, "num_key_value_heads": 2}, 3),
    "bert": (BASE, 2),
    "roberta": ({**BASE, "max_position_embeddings": 4100}, 2),
    "electra": ({**BASE, "embedding_size": 256}, 2),
    "distilbert": (
        {"dim": 256, "hidden_dim": 1024, "n_heads": 8, "n_layers": 3, "vocab_size": 512, "max_position_embeddings": 4096}, 2,
    ),
}  # fmt: skip
ENCODERS = {"bert", "roberta", "electra", "distilbert"}
LENGTH = 512


def counted(name: str, config: Any, *, batch: int, dtype: str, kernel: str) -> tuple[int, int]:
    """Return the most bytes alive while a prompt is read, and while one token more is made; 0 for an encoder."""
    import torch
    import transformers

    from tests.live_bytes import LiveBytes

    kind = transformers.AutoModel if name in ENCODERS else transformers.AutoModelForCausalLM
    number = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    model = kind.from_config(config, dtype=number, attn_implementation=kernel).eval()
    tokens = torch.zeros(batch, LENGTH, dtype=torch.long)
    mask = torch.ones(batch, LENGTH, dtype=torch.long)
    if batch > 1:
        mask[0, :3] = 0
    known = [*model.parameters(), *model.buffers(), tokens, mask]
    given = {"attention_mask": mask} if batch > 1 else {}
    more = torch.ones(batch, 1, dtype=torch.long)
    longer = {"attention_mask": torch.cat([mask, more], 1)} if batch > 1 else {}
    known += [more, *longer.values()]
    with torch.no_grad(), LiveBytes(known) as live:
        if name in ENCODERS:
            model(tokens, **given)
            return live.most, 0
        cache = model(tokens, use_cache=True, logits_to_keep=1, **given).past_key_values
        first, live.most = live.most, live.now
        model(more, past_key_values=cache, use_cache=True, logits_to_keep=1, **longer)
    return first, live.most


def modelled(config: Any, name: str, *, batch: int, dtype: str, kernel: str, new: int) -> dict[str, int]:
    """Return what the ledger has beside weights, in each phase."""
    values = json.loads(config.to_json_string(use_diff=False))
    if not values.get("architectures"):
        values.pop("architectures", None)
    encoder = name in ENCODERS
    answer = vrameter.estimate(
        {
            "model": {"config": values}, "dtype": dtype, "engine": "transformers",
            "settings": {
                "context_length": LENGTH + (0 if encoder else new), "batch_size": batch, "attn_implementation": kernel,
                **({} if encoder else {"max_new_tokens": new}),
            },
        }
    )  # fmt: skip
    found: dict[str, int] = {}
    for item in answer["devices"][0]["items"]:
        if item["term"] in ("activations", "kv_cache", "temporary", "state_cache"):
            for phase in item["phases"]:
                found[phase] = found.get(phase, 0) + item["bytes"]
    return found


@pytest.mark.parametrize("name", CASES)
def test_reading_a_prompt(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    values, tolerance = CASES[name]
    config = transformers.AutoConfig.for_model(name, **values)
    peak, _ = counted(name, config, batch=1, dtype="bf16", kernel="sdpa")
    found = modelled(config, name, batch=1, dtype="bf16", kernel="sdpa", new=1)
    assert found["forward" if name in ENCODERS else "prefill"] == pytest.approx(peak, rel=tolerance / 100)


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gemma3_text"]
)  # wide feed-forwards: the CPU's kernel copies no mask
@pytest.mark.parametrize(
    ("batch", "dtype", "kernel", "tolerance"),
    [(1, "fp32", "sdpa", 2), (2, "bf16", "sdpa", 3), (1, "bf16", "eager", 4), (2, "bf16", "eager", 4)],
)
def test_kernels_types_and_padding(name: str, batch: int, dtype: str, kernel: str, tolerance: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(name, **CASES[name][0])
    peak, _ = counted(name, config, batch=batch, dtype=dtype, kernel=kernel)
    found = modelled(config, name, batch=batch, dtype=dtype, kernel=kernel, new=1)
    assert found["prefill"] == pytest.approx(peak, rel=tolerance / 100)


def test_windows_shorter_than_the_prompt() -> None:
    """A mask for one sequence, which is never padded. The first step still finds whole prompts, which this phase has."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model("mistral", **{**BASE, "sliding_window": 128})
    peak, step = counted("mistral", config, batch=1, dtype="bf16", kernel="sdpa")
    found = modelled(config, "mistral", batch=1, dtype="bf16", kernel="sdpa", new=1)
    assert found["prefill"] == pytest.approx(peak, rel=0.03)
    assert found["decode"] < step < found["prefill"]


def test_heads_with_sinks() -> None:
    transformers = pytest.importorskip("transformers")
    values = {
        **BASE, "head_dim": 32, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 4096,
        "intermediate_size": 256,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model("gpt_oss", **values)
    peak, _ = counted("gpt_oss", config, batch=1, dtype="bf16", kernel="eager")
    found = modelled(config, "gpt_oss", batch=1, dtype="bf16", kernel="eager", new=1)
    assert found["prefill"] == pytest.approx(peak, rel=0.08)


@pytest.mark.parametrize(
    ("kind", "width", "more"),
    [("vit", 1024, {}), ("clip_vision_model", 768, {}), ("siglip_vision_model", 1024, {"vision_use_head": False})],
)
def test_towers(kind: str, width: int, more: dict[str, Any]) -> None:
    """Eight images, pixels left out on both sides."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tests.live_bytes import LiveBytes

    config = transformers.AutoConfig.for_model(
        kind, num_hidden_layers=2, hidden_size=256, intermediate_size=width, num_attention_heads=8, image_size=256,
        patch_size=16, **more,
    )  # fmt: skip
    model = transformers.AutoModel.from_config(config, dtype=torch.bfloat16).eval()
    pixels = torch.zeros(8, 3, 256, 256, dtype=torch.bfloat16)
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers(), pixels]) as live:
        model(pixel_values=pixels)
    given = json.loads(config.to_json_string(use_diff=False))
    given.pop("architectures", None)
    answer = vrameter.estimate(
        {"model": {"config": given}, "dtype": "bf16", "engine": "transformers", "settings": {"batch_size": 8}}
    )
    assert answer["report"]["activation_bytes"] == pytest.approx(live.most, rel=0.03)


def test_relative_positions() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tests.live_bytes import LiveBytes

    config = transformers.T5Config(
        vocab_size=512, d_model=256, d_kv=32, d_ff=1024, num_layers=2, num_heads=8, decoder_start_token_id=0
    )
    model = transformers.T5EncoderModel(config).to(torch.bfloat16).eval()
    tokens = torch.zeros(1, LENGTH, dtype=torch.long)
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers(), tokens]) as live:
        model(tokens)
    given = {**json.loads(config.to_json_string(use_diff=False)), "architectures": ["T5EncoderModel"]}
    answer = vrameter.estimate(
        {"model": {"config": given}, "dtype": "bf16", "engine": "transformers", "settings": {"context_length": LENGTH}}
    )
    peak = sum(
        item["bytes"]
        for item in answer["devices"][0]["items"]
        if "forward" in item["phases"] and item["term"] in ("activations", "temporary")
    )
    assert live.most <= peak <= 1.25 * live.most


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "starcoder2", "gemma3_text", "deepseek_v2", "deepseek_v3"])
def test_one_token_more(name: str, batch: int) -> None:
    """The cache, the copy with which it grows, and one token's activations."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(name, **CASES[name][0])
    _, step = counted(name, config, batch=batch, dtype="bf16", kernel="sdpa")
    found = modelled(config, name, batch=batch, dtype="bf16", kernel="sdpa", new=1)
    assert found["decode"] == pytest.approx(step, rel=0.06 if "deepseek" in name else 0.03)
