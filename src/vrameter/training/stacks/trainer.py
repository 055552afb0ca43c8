"""Stacks on transformers' Trainer: the same layers, other defaults.

References
----------
.. [1] transformers 4.57 and 5.23, ``training_args.py``: AdamW fused with torch 2.8 and later, foreach before (4.45 and older know no
       other); TRL 0.12 to 1.16, ``trainer/*_config.py``: bf16 on, and since 1.15 log-probabilities by tiles in place of
       logits; axolotl 0.9 to 0.19, ``utils/schemas``: adamw_torch_fused, bf16 where the device has it; LLaMA-Factory 0.9.1 (transformers up to 4.46) and 0.9.5, ``hparams``: the Trainer's own;
       ms-swift 3.9 and 4.6, ``arguments``: the Trainer's own; Unsloth 2026.10, ``models/llama.py``.
.. [2] modelscope/ms-swift, ``swift/config/zero2.json``: ``reduce_bucket_size``, no overlap; ``BestPractices/Reranker.md``:
       one positive and seven negative documents.
       DeepSpeed 0.18, ``runtime/zero/config.py``: 5e8 where none is stated; transformers fills "auto" with the square of the width.
.. [3] AnswerDotAI/fsdp_qlora, ``train.py``.
.. [4] transformers 5.23, ``trainer.py``, and accelerate, ``accelerator.py``: ``no_sync`` for all micro-batches of a step but the last.
"""

from __future__ import annotations

from dataclasses import replace

from vrameter.training.stacks import Stack, release

_TRAINER = {"optimizer": "adamw_torch_fused", "precision": "bf16-mixed", "attn_implementation": "sdpa", "loss": "full"}
_HELD = ("fsdp1", "fsdp2")
STACKS = {
    "transformers": Stack("transformers", limits=True, holds_back=_HELD, defaults=_TRAINER),
    "trl": Stack("trl", limits=True, holds_back=_HELD, tiles_loss=True, unreferenced=("grpo",), defaults={**_TRAINER, "loss": "fused"}),
    "deepspeed": Stack("deepspeed", limits=True, zero_stage=2, defaults={**_TRAINER, "optimizer": "adam"}),
    "axolotl": Stack("axolotl", limits=True, holds_back=_HELD, zero_bucket=1_000_000_000, defaults={**_TRAINER, "attn_implementation": "flash_attention_2"}),
    "llama-factory": Stack("llama-factory", limits=True, holds_back=_HELD, defaults=_TRAINER),
    "ms-swift": Stack("ms-swift", limits=True, holds_back=_HELD, documents=8, zero_bucket=200_000_000, defaults=_TRAINER),
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
OLD = {"transformers": (4, 45), "trl": (0, 12), "ms-swift": (3,), "fsdp_qlora": (9999,)}
# Releases before which AdamW was torch's foreach form, whatever torch there was.
FOREACH = {"transformers": (4, 46), "trl": (0, 13), "llama-factory": (0, 9, 2), "ms-swift": (3,), "axolotl": (0, 5)}
# Releases from before torch 2.1.
EARLY = {"transformers": (4, 35)}
# The first transformers that came out after peft 0.21.
PEFT_021 = (5, 16)


def stack(name: str, version: str | None = None) -> Stack:
    """Return one of these stacks; older ones copied more and stepped otherwise."""
    found = STACKS[name]
    number = release(version)
    if number is None:
        return found
    if name == "axolotl" and number < (0, 13):
        # accelerate before 1.11 reduced FSDP2's gradients with every micro-batch.
        found = replace(found, holds_back=("fsdp1",))
    if name == "trl" and number < (1, 15):
        # GRPO's penalty was 0.04 in 0.15 and is 0 in 0.19.
        unreferenced = found.unreferenced if number >= (0, 19) else ()
        found = replace(found, tiles_loss=False, unreferenced=unreferenced, defaults={**found.defaults, "loss": "full"})
    if name in FOREACH and number < FOREACH[name]:
        found = replace(found, defaults={**found.defaults, "optimizer": "adamw_torch"})
    if name == "transformers" and number < PEFT_021:
        # Before transformers 5 each expert was a module of its own.
        found = replace(found, peft_before_021=True, adapts_experts=number < (5,))
    if name not in OLD or number >= OLD[name]:
        return found
    return replace(
        found, shifts_logits=True, repeats_kv=True, hoards=name == "ms-swift", early=number < EARLY.get(name, (0,))
    )
