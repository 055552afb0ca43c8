"""What a training stack could do otherwise to need less: changes that it has, each as other settings of the same request.

References
----------
.. [1] transformers 5.23, ``training_args.py``; TRL 0.2x, ``activation_offloading``; axolotl, ``activation_offloading``;
       LLaMA-Factory, ``use_unsloth_gc``; Unsloth: kernels, losses and checkpoints that each has.
.. [2] torchtune 0.6, ``recipes``: ``optimizer_in_bwd``, ``enable_activation_offloading``, bitsandbytes' and torchao's optimizers.
.. [3] bitsandbytes 0.50, ``optim``: none of its optimizers works on FSDP's shards; torchao's do.
.. [4] Megatron-LM, ``arguments.py``: ``--use-distributed-optimizer`` (stage 1), ``--optimizer-cpu-offload``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vrameter.i18n import tr
from vrameter.model.architecture import FeedForward
from vrameter.training.companions import scores_vocabulary
from vrameter.training.setup import Setup

TRAINERS = ("transformers", "trl", "deepspeed", "axolotl", "llama-factory", "ms-swift")
MEGATRONS = ("megatron", "megatron-bridge", "megatron-swift")
ADAPTERS = (*TRAINERS, "unsloth", "fsdp_qlora", "litgpt", "torchtune", "megatron-bridge", "megatron-swift")
PACKED_BASES = (*TRAINERS, "unsloth", "fsdp_qlora", "litgpt", "torchtune")
KERNELS = (*TRAINERS, "unsloth")
BITSANDBYTES = (*TRAINERS, "unsloth", "litgpt", "torchtune")
SHARDS_BY_FSDP = ("transformers", "trl", "axolotl", "llama-factory", "ms-swift", "litgpt", "torchtune")
ACTIVATIONS_TO_HOST = ("trl", "axolotl", "llama-factory", "unsloth", "torchtune")
STEPS_IN_BACKWARD = ("torchtune",)
# optimizer -> its 8-bit and its paged 8-bit form in bitsandbytes
EIGHT_BIT = {
    "lion": ("lion_8bit", "paged_lion_8bit"), "lion_32bit": ("lion_8bit", "paged_lion_8bit"),
    "rmsprop": ("rmsprop_bnb_8bit", None), "rmsprop_bnb": ("rmsprop_bnb_8bit", None),
    "ademamix": ("ademamix_8bit", "paged_ademamix_8bit"),
    **dict.fromkeys(
        ("adam", "adamw", "adamw_torch", "adamw_torch_fused", "adamw_torch_loop", "adamw_torch_xla", "adamw_apex_fused", "adamw_hf",
         "adamw_anyprecision", "paged_adamw", "paged_adamw_32bit"), ("adamw_bnb_8bit", "paged_adamw_8bit"),
    ),
}  # fmt: skip
RANK = 16
ONE_NODE = 8  # devices between which tensor parallelism is fast enough
# Packed matrices are not moved to host memory and back.
HOST = "host memory"
PACKED_STAY = (HOST,)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change.

    Parameters
    ----------
    kind
        What it is about: of one kind only one change can be made.
    rules_out
        Kinds that cannot be changed beside it.
    settings, fields
        Settings and other fields of the request that it changes.
    """

    label: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    rules_out: tuple[str, ...] = ()

    def goes_with(self, other: Proposal) -> bool:
        """Say whether both can be made together: neither rules the other out nor sets what the other sets otherwise."""
        if self.kind == other.kind or self.kind in other.rules_out or other.kind in self.rules_out:
            return False
        return all(self.settings[name] == other.settings[name] for name in self.settings.keys() & other.settings.keys())


def proposals(asked: Setup) -> list[Proposal]:
    """Return the changes that the stack of a request has and that the request does not have already."""
    device = asked.ask.device
    if asked.architecture.network is not None:
        found = [*_images(asked), *_shards(asked)]
        return [
            each
            for each in found
            if each.fields or any(getattr(asked.settings, name) != value for name, value in each.settings.items())
        ]
    found = [*_activations(asked), *_batches(asked)]
    if device is None or device.vendor != "apple":  # where neither bitsandbytes nor DeepSpeed nor Triton's kernels run
        found += [*_kernels(asked), *_optimizers(asked), *_trained(asked), *_shards(asked)]
    else:
        found += [each for each in _trained(asked) if "quantization" not in each.fields]
    return [
        each
        for each in found
        if each.fields or any(getattr(asked.settings, name) != value for name, value in each.settings.items())
    ]


def _images(asked: Setup) -> Iterator[Proposal]:
    """Yield what an image model's step can change."""
    settings = asked.settings
    turns = max(1, settings.grad_accumulation)
    yield Proposal(tr("recompute activations in the backward pass"), "activations", {"recompute": "full"})
    yield Proposal(
        tr("compute in half precision (automatic mixed precision)"), "precision", {"precision": "bf16-mixed"}
    )
    if settings.micro_batch > 1:
        yield Proposal(
            tr("one image at a time"), "batch", {"micro_batch": 1, "grad_accumulation": settings.micro_batch * turns}
        )
        yield Proposal(
            tr("half the micro-batch, twice as often"), "batch",
            {"micro_batch": settings.micro_batch // 2, "grad_accumulation": 2 * turns},
        )  # fmt: skip
    yield Proposal(tr("train the head alone"), "trained", {"finetuning": "freeze"})
    yield Proposal(tr("an 8-bit optimizer"), "optimizer", {"optimizer": "adamw_bnb_8bit"})
    yield Proposal(
        tr("step each parameter as its gradient arrives"), "gradients",
        {"optimizer_in_backward": True, "grad_accumulation": 1},
    )  # fmt: skip


def _activations(asked: Setup) -> Iterator[Proposal]:
    full = {"recompute": "full"}
    yield Proposal(tr("recompute activations in the backward pass"), "activations", full)
    if asked.stack.name in ACTIVATIONS_TO_HOST:
        yield Proposal(tr("keep saved activations in host memory"), "activations", {**full, "activation_offload": True})


def _kernels(asked: Setup) -> Iterator[Proposal]:
    settings = asked.settings
    if asked.stack.name in KERNELS:
        if scores_vocabulary(asked) and settings.loss in (None, "full"):
            yield Proposal(tr("a fused loss that makes logits a chunk at a time"), "loss", {"loss": "fused"})
        yield Proposal(tr("fused norms, rotations and activations"), "kernels", {"fused_kernels": True})
    if settings.attn_implementation == "eager" or asked.stack.repeats_kv:
        kernel = "flash_attention_2" if asked.stack.name in TRAINERS else "sdpa"
        yield Proposal(tr("a fused attention kernel"), "attention", {"attn_implementation": kernel})


def _optimizers(asked: Setup) -> Iterator[Proposal]:
    settings, rule, stack = asked.settings, asked.rule, asked.stack.name
    small, paged = EIGHT_BIT.get(rule.name, (None, None))
    if asked.degrees.fsdp:
        small, paged = ("adamw_torch_8bit" if small == "adamw_bnb_8bit" else None), None
    if stack in BITSANDBYTES:
        if small:
            yield Proposal(tr("an 8-bit optimizer"), "optimizer", {"optimizer": small})
        if paged:
            yield Proposal(tr("a paged 8-bit optimizer"), "optimizer", {"optimizer": paged})
    if stack in STEPS_IN_BACKWARD and not rule.gradient_free and asked.full:
        yield Proposal(
            tr("step each parameter as its gradient arrives"), "gradients",
            {"optimizer_in_backward": True, "grad_accumulation": 1},
        )  # fmt: skip
    if stack in (*MEGATRONS, "torchtune") and not asked.offloads_optimizer:
        yield Proposal(tr("keep the optimizer's state in host memory"), "optimizer", {"optimizer_cpu_offload": True})
    if settings.ema:
        yield Proposal(tr("no averaged copy of the weights"), "ema", {"ema": False})


def _batches(asked: Setup) -> Iterator[Proposal]:
    settings = asked.settings
    if settings.micro_batch > 1:
        steps = settings.micro_batch * max(1, settings.grad_accumulation)
        yield Proposal(tr("one sequence at a time"), "batch", {"micro_batch": 1, "grad_accumulation": steps})
    if asked.length > 1:
        yield Proposal(tr("half the sequence length"), "length", {"seq_len": asked.length // 2})


def _trained(asked: Setup) -> Iterator[Proposal]:
    settings, stack = asked.settings, asked.stack.name
    if asked.full and settings.finetuning != "pretrain" and stack in ADAPTERS:
        adapted = {"finetuning": "lora", "adapter": {"rank": RANK, "targets": "all-linear"}}
        plain = {"dtype": "bf16"}
        yield Proposal(tr("train low-rank adapters (LoRA)"), "trained", adapted, plain)
        if stack in PACKED_BASES:
            yield Proposal(
                tr("low-rank adapters on a 4-bit base (QLoRA)"),
                "trained",
                adapted,
                {**plain, "quantization": "bnb-nf4"},
            )
    elif not asked.full and asked.plan.quantization is None and stack in PACKED_BASES:
        yield Proposal(tr("a 4-bit base (QLoRA)"), "trained", {}, {"quantization": "bnb-nf4"}, PACKED_STAY)


def _shards(asked: Setup) -> Iterator[Proposal]:
    stack, degrees, given = asked.stack.name, asked.degrees, asked.ask.request.parallelism
    packed = asked.plan.quantization is not None

    def sharded(label: str, kind: str = "shards", **changes: Any) -> Proposal:
        rules_out = tuple(each for each in ("shards", *PACKED_STAY) if each != kind)
        return Proposal(label, kind, {}, {"parallelism": msgspec.structs.replace(given, **changes)}, rules_out)

    if degrees.data * degrees.context > 1 and degrees.fsdp is None:
        if stack in MEGATRONS and not degrees.zero:
            yield sharded(tr("the distributed optimizer"), zero_stage=1)
        for stage in range(degrees.zero + 1, 4 if stack in TRAINERS else 0):
            yield sharded(tr("ZeRO stage %(stage)s", stage=stage), zero_stage=stage)
        if not degrees.zero and stack in SHARDS_BY_FSDP:
            yield sharded(tr("FSDP, every tensor in shards"), fsdp="full_shard")
    elif degrees.data > 1 and degrees.fsdp == "shard_grad_op":
        yield sharded(tr("FSDP, every tensor in shards"), fsdp="full_shard")
    if stack in (*MEGATRONS, "torchtitan"):
        yield from _splits(asked, sharded)
    if degrees.offload is not None or stack not in TRAINERS:
        return
    if degrees.fsdp is not None:
        if degrees.splits_weights and not packed:
            yield sharded(tr("everything between uses in host memory"), *PACKED_STAY, offload="cpu")
        return
    stage = max(2, degrees.zero)
    yield sharded(
        tr("ZeRO stage %(stage)s with the optimizer's state in host memory", stage=stage), *PACKED_STAY, zero_stage=stage,
        offload="optimizer",
    )  # fmt: skip
    if not packed:
        yield sharded(
            tr("ZeRO stage 3 with weights and state in host memory"), *PACKED_STAY, zero_stage=3, offload="all"
        )


def _splits(asked: Setup, sharded: Callable[..., Proposal]) -> Iterator[Proposal]:
    """Yield higher degrees of tensor and expert parallelism on the same devices, in the place of copies."""
    degrees = asked.degrees
    for factor in (2, 4, 8):
        tensor = degrees.tensor * factor
        if degrees.data % factor == 0 and tensor <= ONE_NODE and degrees.expert == 1:
            yield sharded(
                tr("tensor parallelism of %(count)s", count=tensor), "degrees", tensor=tensor, data=degrees.data // factor,
                sequence=asked.stack.name in MEGATRONS,
            )  # fmt: skip
    counts = {
        part.num_experts
        for layer, _ in asked.architecture.main.layer_groups
        for part in layer.parts
        if isinstance(part, FeedForward) and part.num_experts
    }
    for expert in (2, 4, 8, 16, 32, 64):
        if expert > degrees.expert and counts and not any(count % expert for count in counts):
            yield sharded(tr("expert parallelism of %(count)s", count=expert), "degrees", expert=expert)


__all__ = ["Proposal", "proposals"]
