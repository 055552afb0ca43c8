"""How the layers of each family differ from Llama's beyond their widths: facts about transformers' classes.

References
----------
.. [1] transformers 5.23: ``modeling_*.py``, read class by class; the dropout rates are those of ``configuration_*.py``.
.. [2] transformers 4.40: ``modeling_*.py``, whose class for causal language models calls ``.float()`` on its logits or does not;
       Qwen's own ``modeling_qwen.py`` of 2023.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from vrameter.model.architecture import Architecture, Component
from vrameter.training.programs.scene import Traits

# Norms that differ from Llama's: where the scale is applied, and in which numbers.
NORMS = {
    "gemma": (
        "gemma", "gemma2", "gemma3", "gemma3_text", "minimax_m3_vl", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text",
        "qwen3_next", "recurrent_gemma", "step3p7", "t5gemma", "t5gemma2", "vaultgemma",
    ),
    "gemma4": ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gemma4_unified", "embedding_gemma2", "neomme"),
    "late": ("afmoe", "flex_olmo", "gpt_oss", "olmo2", "olmo3", "olmo_hybrid", "nemotron_h", "deepseek_v4"),
    "t5": ("t5", "mt5", "umt5", "longt5", "switch_transformers", "udop", "pix2struct", "pop2piano", "idefics"),
    "cohere": ("cohere", "cohere2"),
}  # fmt: skip
LAYOUTS = {
    "parallel": ("cohere", "cohere2", "falcon", "gpt_neox", "gptj", "phi", "codegen", "cohere_compass"),
    "post": ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert", "ernie", "mpnet", "layoutlm"),
    "after": ("olmo2", "olmo3", "exaone4"),
}  # fmt: skip
# T5's "gated-gelu" is gelu_new there.
ACTIVATIONS = {
    "new": ("gelu_new", "gelu_fast", "gated-gelu"),
    "quick": ("quick_gelu",),
    "squared": ("relu2",),
    "relu": ("relu", "gated-relu"),
}
# What classes use whose config.json may leave it out.
ACTIVATION_OF = {
    "gpt2": "gelu_new",
    "phi": "gelu_new",
    "gptj": "gelu_new",
    "opt": "relu",
    "codegen": "gelu_new",
    "t5": "relu",
}
NO_ROTATION = (
    "gpt2", "opt", "bloom", "mpt", "bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert", "t5", "mt5",
    "gpt_bigcode", "xglm", "bart", "biogpt", "ernie", "mpnet", "layoutlm",
)  # fmt: skip
ROTARY_SHARE = {
    "gpt_neox": 0.25,
    "phi": 0.5,
    "stablelm": 0.25,
    "glm": 0.5,
    "glm4": 0.5,
    "chatglm": 0.5,
    "nemotron": 0.5,
}
# Queries are put together from a turned and a still piece, or copied, so that they lie heads before tokens.
HEADS_FIRST = ("gpt_neox", "phi", "phi3", "stablelm", "persimmon", "glm", "glm4", "nemotron", "falcon")
SOFTCAP = ("gemma2",)
# Eager attention computes its softmax in the model's own dtype.
NARROW_SOFTMAX = (
    "gpt2",
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "distilbert",
    "albert",
    "ernie",
)
# Classes that left logits in the model's dtype before one function computed the loss for all, in version 4.45 [2]_.
NARROW_LOGITS = (
    "qwen", "gpt2", "gpt_neox", "gpt_bigcode", "bloom", "falcon", "mpt", "opt", "stablelm", "persimmon", "xglm", "biogpt", "ctrl",
    "dbrx", "rwkv", "openai-gpt", "gpt_neox_japanese",
)  # fmt: skip
# Weights of the chosen experts stay in fp32.
WIDE_ROUTERS = ("mixtral",)
DROPOUT = {
    "gpt2": (0.1, 0.1), "opt": (0.0, 0.1), "bert": (0.1, 0.1), "roberta": (0.1, 0.1), "xlm-roberta": (0.1, 0.1),
    "electra": (0.1, 0.1), "distilbert": (0.1, 0.1), "camembert": (0.1, 0.1), "t5": (0.1, 0.1), "mt5": (0.1, 0.1),
    "bart": (0.0, 0.1), "ernie": (0.1, 0.1), "mpnet": (0.1, 0.1),
}  # fmt: skip


def _activation(name: str) -> str:
    return next((kind for kind, names in ACTIVATIONS.items() if name in names), "native")


@lru_cache(maxsize=64)
def _by_type(model_type: str) -> Traits:
    def which(table: dict[str, tuple[str, ...]], default: str) -> str:
        return next((kind for kind, names in table.items() if model_type in names), default)

    attention, hidden = DROPOUT.get(model_type, (0.0, 0.0))
    return Traits(
        norm=which(NORMS, "rms"),
        layout=which(LAYOUTS, "pre"),
        activation=_activation(ACTIVATION_OF.get(model_type, "")),
        rotary="none" if model_type in NO_ROTATION else "half",
        rotary_share=ROTARY_SHARE.get(model_type, 1.0),
        heads_first=model_type in HEADS_FIRST,
        softcap=model_type in SOFTCAP,
        softmax_fp32=model_type not in NARROW_SOFTMAX,
        router="wide" if model_type in WIDE_ROUTERS else "softmax",
        attention_dropout=attention,
        hidden_dropout=hidden,
        widens_logits=model_type not in NARROW_LOGITS,
    )  # fmt: skip


def traits_of(architecture: Architecture, component: Component | None = None) -> Traits:
    """Return the traits of a component's layers."""
    found = _by_type(architecture.model_type)
    if architecture.model_type.startswith("megatron"):
        return _megatron(architecture)
    body = component or architecture.main
    shifts = any(
        tensor.role == "norm" and tensor.name.endswith("bias")
        for layer, _ in body.layer_groups
        for tensor in layer.tensors
    )
    if body.activation:
        found = replace(found, activation=_activation(body.activation))
    return replace(found, norm="layer") if shifts and found.norm == "rms" else found


def _megatron(architecture: Architecture) -> Traits:
    """Return Megatron's traits: dropout of 0.1 unless its arguments say otherwise, positions learned or rotated."""
    learned = any(tensor.slot == "position" for component in architecture.components for tensor in component.tensors)
    return Traits(norm="layer", rotary="none" if learned else "half", attention_dropout=0.1, hidden_dropout=0.1)


__all__ = ["traits_of"]
