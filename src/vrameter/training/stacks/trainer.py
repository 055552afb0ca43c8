"""Stacks on transformers' Trainer: the same layers, other defaults.

References
----------
.. [1] transformers 5.23, ``training_args.py``: AdamW fused from torch 2.8 on, foreach before; TRL 0.2x, axolotl, LLaMA-Factory,
       ms-swift, Unsloth: their own argument classes.
.. [2] modelscope/ms-swift, ``swift/config/zero2.json``: ``reduce_bucket_size``, no overlap; ``BestPractices/Reranker.md``:
       one positive and seven negative documents.
.. [3] AnswerDotAI/fsdp_qlora, ``train.py``.
"""

from __future__ import annotations

import re
from dataclasses import replace

from vrameter.training.stacks import Stack

_TRAINER = {"optimizer": "adamw_torch_fused", "precision": "bf16-mixed", "attn_implementation": "sdpa", "loss": "full"}
STACKS = {
    "transformers": Stack("transformers", limits=True, defaults=_TRAINER),
    "trl": Stack("trl", limits=True, defaults=_TRAINER),
    "deepspeed": Stack("deepspeed", limits=True, zero_stage=2, defaults={**_TRAINER, "optimizer": "adam"}),
    "axolotl": Stack("axolotl", limits=True, defaults={**_TRAINER, "attn_implementation": "flash_attention_2"}),
    "llama-factory": Stack("llama-factory", limits=True, defaults={**_TRAINER, "optimizer": "adamw_torch"}),
    "ms-swift": Stack("ms-swift", limits=True, documents=8, zero_bucket=200_000_000, defaults=_TRAINER),
    "unsloth": Stack(
        "unsloth",
        limits=True,
        defaults={**_TRAINER, "optimizer": "adamw_bnb_8bit", "fused_kernels": True, "loss": "fused", "recompute": "full",
                  "activation_offload": True, "attn_implementation": "flash_attention_2"},
    ),
    "fsdp_qlora": Stack("fsdp_qlora", defaults={**_TRAINER, "precision": "bf16", "optimizer": "adamw_torch"}, adapter_dtype=None,
                        holds_output=True),
}  # fmt: skip


# Versions whose layers copied keys and values to every query head and whose loss copied the logits.
OLD = {"transformers": 4.45, "trl": 0.12, "ms-swift": 3.0, "fsdp_qlora": 9999.0}
# Versions from before torch 2.1.
EARLY = {"transformers": 4.35}


def stack(name: str, version: str | None = None) -> Stack:
    """Return one of these stacks; older ones copied more."""
    found = STACKS[name]
    match = re.match(r"(\d+)(?:\.(\d*))?", version or "")
    if match is None or name not in OLD:
        return found
    number = float(f"{match[1]}.{match[2] or 0}")
    if number >= OLD[name]:
        return found
    return replace(
        found, shifts_logits=True, repeats_kv=True, hoards=name == "ms-swift", early=number < EARLY.get(name, 0)
    )
