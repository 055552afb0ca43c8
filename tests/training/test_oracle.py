"""Saved activations of transformers' own layers on CPU, byte for byte: needs torch and transformers (``-m oracle``)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.scenes import LENGTH, SEQS, TOY, block_cost
from vrameter.model.read import read_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

SMALL = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "vocab_size": 128}
ZERO = dict.fromkeys(
    ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout", "hidden_dropout_prob", "dropout",
     "attention_probs_dropout_prob", "activation_dropout", "classifier_dropout"), 0.0,
)  # fmt: skip
EXPERTS = {
    "num_experts": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "norm_topk_prob": True,
}
# model type, its sizes, whether its norms keep their statistics in the model's dtype on CPU
FAMILIES: list[tuple[str, dict[str, Any], bool]] = [
    ("llama", TOY, False), ("qwen2", TOY, False), ("qwen3", TOY, False), ("mistral", TOY, False), ("gemma", TOY, False),
    ("gemma2", TOY, False), ("gemma3_text", TOY, False), ("phi3", {**TOY, "pad_token_id": 0}, False), ("olmo2", TOY, False),
    ("granite", TOY, False), ("stablelm", TOY, True), ("starcoder2", TOY, True), ("phi", SMALL, True), ("gpt_neox", SMALL, True),
    ("gpt2", {"n_embd": 256, "n_head": 8, "vocab_size": 128}, True), ("bloom", {"hidden_size": 256, "n_head": 8, "vocab_size": 128}, True),
    ("opt", {"hidden_size": 256, "ffn_dim": 704, "num_attention_heads": 8, "vocab_size": 128, "word_embed_proj_dim": 256}, True),
    ("bert", SMALL, True), ("albert", {**SMALL, "embedding_size": 128}, True),
    ("jais2", TOY, True), ("qwen3_moe", {**TOY, **EXPERTS}, False), ("mixtral", {**TOY, **EXPERTS}, False),
]  # fmt: skip
NUMBERS = {"bf16": ("bfloat16", 2, 0), "fp32": ("float32", 4, 0), "autocast": ("float32", 4, 2)}


def saved_bytes(model_type: str, sizes: dict[str, Any], dtype: str, kernel: str, *, autocast: bool) -> int:
    """Return what autograd keeps of one layer: the difference that a third layer makes, storages counted once."""
    totals = []
    for layers in (2, 3):
        config = transformers.AutoConfig.for_model(model_type, **{**sizes, "num_hidden_layers": layers})
        for name, value in ZERO.items():
            if hasattr(config, name):
                setattr(config, name, value)
        config.use_cache = False
        model = transformers.AutoModel.from_config(config, attn_implementation=kernel).to(getattr(torch, dtype)).train()
        own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        kept: dict[int, tuple[int, Any]] = {}

        def pack(tensor: Any, own: set[int] = own, kept: dict[int, tuple[int, Any]] = kept) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
        ):
            model(input_ids=torch.randint(0, 100, (SEQS, LENGTH)))
        totals.append(sum(size for size, _ in kept.values()))
    return totals[1] - totals[0]


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(("model_type", "sizes", "narrow"), FAMILIES, ids=[family[0] for family in FAMILIES])
@pytest.mark.filterwarnings("ignore")
def test_saved_bytes(model_type: str, sizes: dict[str, Any], narrow: bool, kernel: str, numbers: str) -> None:
    if (model_type, kernel, numbers) == ("bert", "eager", "autocast"):
        pytest.skip("autocast computes a softmax in fp32 on CUDA only")
    if (model_type, numbers) == ("albert", "autocast"):
        pytest.skip("autocast computes a LayerNorm in fp32 on CUDA only; ALBERT's first layer is given bf16")
    dtype, element, autocast = NUMBERS[numbers]
    try:
        expected = saved_bytes(model_type, sizes, dtype, kernel, autocast=bool(autocast))
    except ValueError as error:
        if "attention implementation" in str(error):
            pytest.skip("the class has no such kernel")
        raise
    config = transformers.AutoConfig.for_model(model_type, **sizes).to_dict()
    model = read_config({name: value for name, value in config.items() if value is not None})
    made = block_cost(model, element=element, autocast=autocast, kernel=kernel, dropout=False)
    rows = SEQS * LENGTH
    # On CPU a LayerNorm keeps its two statistics in bf16, on CUDA in fp32.
    norms = sum(tensor.role == "norm" and tensor.name.endswith("bias") for tensor in model.main.layers[0].tensors)
    norms += sum(
        tensor.role == "norm" and tensor.name.endswith("bias")
        for part in model.main.layers[0].parts
        for tensor in part.tensors
    )
    assert made.saved - (4 * norms * rows if narrow and numbers == "bf16" else 0) == expected
