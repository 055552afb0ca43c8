"""What each training stack assumes and how it spends a step: small modules of data and rules over one physics."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.settings import canonical
from vrameter.spec import TRAINING_ENGINES

# stack -> module here
MODULES = {
    "transformers": "trainer", "trl": "trainer", "deepspeed": "trainer", "axolotl": "trainer", "llama-factory": "trainer",
    "ms-swift": "trainer", "unsloth": "trainer", "fsdp_qlora": "trainer", "litgpt": "litgpt", "torchtune": "torchtune",
    "torchtitan": "torchtitan", "megatron": "megatron", "megatron-bridge": "megatron", "megatron-swift": "megatron",
    "timm": "images", "ultralytics": "images",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stack:
    """A training stack.

    Parameters
    ----------
    program
        Whose layers it runs: ``transformers``, ``litgpt``, ``megatron``, or ``images``: those of an image model.
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
    packs_head
        Whether a quantisation on loading takes the output layer as well.
    repeats_kv
        Whether keys and values are copied out to every query head before torch's attention.
    fused_steps
        Whether AdamW takes its fused form unless told otherwise.
    shifts_logits
        Whether the loss copies the logits to cut the last position off and keeps them (transformers before 4.45).
    compiles_loss
        Whether what torch.compile takes includes the loss.
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
    packs_head: bool = False
    unties: bool = False
    repeats_kv: bool = False
    fused_steps: bool = False
    shifts_logits: bool = False
    compiles_loss: bool = True


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
            tr("engine: '%(value)s' is not modelled for training in this version.", value=name),
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


__all__ = ["MODULES", "Stack", "stack"]
