"""What each training stack assumes and how it spends a step: small modules of data and rules over one physics."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.settings import canonical
from vrameter.spec import INFERENCE_ENGINES, TRAINING_ENGINES

# stack -> module here
MODULES = {
    "transformers": "trainer", "trl": "trainer", "deepspeed": "trainer", "axolotl": "trainer", "llama-factory": "trainer",
    "ms-swift": "trainer", "unsloth": "trainer", "fsdp_qlora": "trainer", "litgpt": "litgpt", "torchtune": "torchtune",
    "torchtitan": "torchtitan", "megatron": "megatron", "megatron-bridge": "megatron", "megatron-swift": "megatron",
    "diffusers": "pipelines", "finetrainers": "pipelines", "timm": "images", "ultralytics": "images",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stack:
    """A training stack.

    Parameters
    ----------
    program
        Whose layers it runs: ``transformers``, ``litgpt``, ``megatron``, ``diffusers``, or ``images``: those of an image model.
    loss
        How its plain loss is computed: ``upcast``, ``fabric``, ``chunked``, ``megatron``.
    defaults
        Settings that it assumes where the request is silent.
    zero_stage, fsdp
        How it splits state among data-parallel devices where the request is silent.
    adapter_dtype
        Of adapters where the request is silent; None: as the base model.
    gradients
        ``fresh``: made anew by each backward pass and freed after the step; ``buffer``: one buffer for good.
    adapts_experts
        Whether "all-linear" means the experts' matrices as well.
    packed_keeps_input
        Size of the numbers in which products with 4-bit matrices keep their inputs; 0: they keep none. [bytes]
    unpacks
        Copies of a 4-bit matrix that stand while it is unpacked: two where its own numbers are not those that are computed with.
    packs_head
        Whether a quantisation on loading takes the output layer as well.
    repeats_kv
        Whether keys and values are copied out to every query head before torch's attention.
    fused_steps
        Whether AdamW takes its fused form unless told otherwise.
    shifts_logits
        Whether the loss copies the logits to cut the last position off (transformers before 4.45).
    holds_output
        Whether the loop still names the model's output in the backward pass, so that the logits stay.
    expert_tensor
        Devices that split each expert where the request is silent; 0: as many as split the other matrices.
    documents
        Documents of a reranker's sample: one that answers the query and those that do not.
    zero_bucket
        Numbers of the buffers through which ZeRO's first stages reduce gradients: what DeepSpeed assumes, or the stack's own
        configuration says.
    early
        Whether it ran on torch before 2.1: a context with every kernel loaded, and AdamW's second copy of all parameters.
    limits
        Whether seq_len is the limit of samples of many lengths, unless they are packed.
    hoards
        Whether its allocator was seen to keep blocks of every length of sequence.
    compiles_loss
        Whether what torch.compile takes includes the loss.
    holds_back
        Versions of FSDP, ``fsdp1`` and ``fsdp2``, under which gradients are reduced with the last micro-batch of a step only
        (``no_sync``): until then each device keeps them whole.
    shards_ends
        Whether full training under FSDP makes groups of their own of the embedding and the output layer.
    loss_pieces
        Into how many pieces of tokens a chunked loss cuts the last hidden state, whose logits come and go one piece at a time;
        0: logits are made whole and the loss alone is cut.
    tiles_loss
        Whether its fused loss takes tiles of tokens and of the vocabulary, and makes them again in the backward pass.
    unreferenced
        Objectives that compare with no reference unless the request says so, their penalty being zero.
    peft_before_021
        Whether its peft is older than 0.21, as it is beside a transformers of its time.
    unties
        Whether the output layer is a matrix of its own even where the model ties it to the embedding.
    """

    name: str
    program: str = "transformers"
    loss: str = "upcast"
    defaults: dict[str, Any] = field(default_factory=dict)
    zero_stage: int = 0
    fsdp: str | None = None
    adapter_dtype: str | None = "fp32"
    gradients: str = "fresh"
    adapts_experts: bool = False
    packed_keeps_input: int = 0
    unpacks: int = 1
    packs_head: bool = False
    unties: bool = False
    holds_back: tuple[str, ...] = ()
    shards_ends: bool = False
    repeats_kv: bool = False
    fused_steps: bool = False
    shifts_logits: bool = False
    holds_output: bool = False
    expert_tensor: int = 0
    documents: int = 1
    zero_bucket: int = 500_000_000
    early: bool = False
    limits: bool = False
    hoards: bool = False
    compiles_loss: bool = True
    loss_pieces: int = 0
    tiles_loss: bool = False
    unreferenced: tuple[str, ...] = ()
    peft_before_021: bool = False


def release(version: str | None) -> tuple[int, ...] | None:
    """Return a release as numbers, None for a commit or where there is none.

    >>> release("0.19.1"), release("2.x"), release("9dec370"), release(None)
    ((0, 19, 1), (2,), None, None)
    """
    match = re.match(r"v?(\d+(?:\.\d+)*)(?=$|[.x+-])", version or "")
    return tuple(int(part) for part in match[1].split(".")) if match else None


@lru_cache(maxsize=32)
def stack(name: str, version: str | None = None) -> Stack:
    """Return the stack of an engine.

    Raises
    ------
    UnknownNameError, RequestError
        For a name that is no training stack, or one that is not modelled yet.
    """
    lowered = canonical(name)
    if lowered in MODULES:
        module = import_module(f"vrameter.training.stacks.{MODULES[lowered]}")
        found: Stack = module.stack(lowered, version)
        return found
    if lowered in TRAINING_ENGINES:
        raise RequestError(
            tr("engine: '%(value)s' trains no models of this kind.", value=name),
            field="engine",
            hint=tr("Use one of: %(names)s.", names=", ".join(MODULES)),
        )
    if lowered in INFERENCE_ENGINES:
        raise RequestError(
            tr("engine: '%(value)s' does not train, and the task is training.", value=name),
            field="engine",
            hint=tr("Use one of: %(names)s.", names=", ".join(MODULES)),
        )
    raise UnknownNameError(
        tr("engine: '%(value)s' is not a training stack known here.", value=name),
        lowered,
        TRAINING_ENGINES,
        field="engine",
        otherwise=tr("Use one of: %(names)s.", names=", ".join(MODULES)),
    )


__all__ = ["MODULES", "Stack", "release", "stack"]
