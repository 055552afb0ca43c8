"""What an optimizer keeps per parameter, and what one step of it takes for a moment.

State follows the dtype of the parameters (PyTorch's optimizers) unless there are fp32 master weights. The ``foreach``
form of an optimizer works on lists of all tensors at once, so that one temporary as large as all of them stands
beside them; the ``fused`` form has none; the loop needs a few copies of the largest tensor.

References
----------
.. [1] PyTorch 2.13, ``torch/optim/adamw.py``, ``adam.py``, ``sgd.py``, ``rmsprop.py``, ``_adafactor.py``, ``_muon.py``.
.. [2] bitsandbytes 0.50, ``optim/optimizer.py``: blocks of 256 with an fp32 scale; tensors below 4096 elements in fp32.
.. [3] torchao, ``optim``: 8-bit blocks of 256, 4-bit blocks of 128, fp8 blocks of 256.
.. [4] N. Shazeer, M. Stern, "Adafactor", 2018, arXiv:1804.04235; J. Zhao et al., "GaLore", 2024, arXiv:2403.03507;
       H. Zhu et al., "APOLLO", 2024, arXiv:2412.05270; N. Vyas et al., "SOAP", 2024, arXiv:2409.11321.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Literal

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.units import ceil_div

Step = Literal["foreach", "fused", "loop", "none"]
# Block-wise optimizers keep tensors below this size in fp32. [elements] [bitsandbytes, min_8bit_size]
SMALL = 4096


@dataclass(frozen=True, slots=True)
class Optimizer:
    """How an optimizer keeps its state.

    Parameters
    ----------
    moments
        Numbers kept per parameter, in the dtype of the state.
    bits
        Width of a quantised state; 0 where it is not quantised. [bits]
    block
        Elements that share one fp32 scale.
    step
        Which form the step takes.
    temporaries
        Copies of all tensors (``foreach``) or of the largest (``loop``) that a step takes.
    paged
        Whether the state lies in memory that the driver can move to the host.
    factored
        Whether matrices keep row and column sums instead of a second moment.
    projected
        ``galore`` or ``apollo``: matrices keep moments of a low-rank projection.
    matrices_only
        Whether it serves matrices inside layers alone and AdamW the rest (Muon, Shampoo, SOAP).
    shards
        Whether ZeRO can split it across devices.
    """

    name: str
    moments: int = 2
    bits: int = 0
    block: int = 256
    step: Step = "fused"
    temporaries: int = 0
    paged: bool = False
    factored: bool = False
    projected: str = ""
    matrices_only: bool = False
    preconditioned: int = 0
    shards: bool = True
    gradient_free: bool = False


def _adam(name: str, step: Step, **more: object) -> Optimizer:
    return Optimizer(name, step=step, temporaries={"foreach": 1, "loop": 3}.get(step, 0), **more)  # type: ignore[arg-type]


OPTIMIZERS: dict[str, Optimizer] = {
    each.name: each
    for each in (
        _adam("adamw_torch", "foreach"),
        _adam("adamw_torch_fused", "fused"),
        _adam("adamw_torch_loop", "loop"),
        _adam("adamw_torch_xla", "loop"),
        _adam("adamw_torch_npu_fused", "fused"),
        _adam("adamw_apex_fused", "fused"),
        _adam("adamw_hf", "loop"),
        _adam("adam", "fused"),
        _adam("adamw", "foreach"),
        _adam("amsgrad", "foreach", moments=3),
        _adam("adamw_anyprecision", "loop"),
        _adam("adamw_torch_8bit", "loop", bits=8),
        _adam("adamw_torch_4bit", "loop", bits=4, block=128),
        _adam("adamw_torch_fp8", "loop", bits=8),
        _adam("adamw_bnb_8bit", "none", bits=8),
        _adam("adamw_8bit", "none", bits=8),
        _adam("ademamix", "none", moments=3),
        _adam("ademamix_8bit", "none", moments=3, bits=8),
        _adam("paged_ademamix_32bit", "none", moments=3, paged=True),
        _adam("paged_ademamix_8bit", "none", moments=3, bits=8, paged=True),
        _adam("paged_adamw_32bit", "none", paged=True),
        _adam("paged_adamw", "none", paged=True),
        _adam("paged_adamw_8bit", "none", bits=8, paged=True),
        Optimizer("sgd", moments=0, step="foreach"),
        Optimizer("sgd_momentum", moments=1, step="foreach"),
        Optimizer("adagrad", moments=1, step="foreach", temporaries=1),
        Optimizer("rmsprop", moments=1, step="foreach", temporaries=1),
        Optimizer("rmsprop_bnb", moments=1, step="none"),
        Optimizer("rmsprop_bnb_8bit", moments=1, bits=8, step="none"),
        Optimizer("lion", moments=1, step="loop", temporaries=1),
        Optimizer("lion_32bit", moments=1, step="none"),
        Optimizer("lion_8bit", moments=1, bits=8, step="none"),
        Optimizer("paged_lion_32bit", moments=1, step="none", paged=True),
        Optimizer("paged_lion_8bit", moments=1, bits=8, step="none", paged=True),
        Optimizer("adafactor", moments=0, factored=True, step="loop", temporaries=5),
        Optimizer("adafactor_torch", moments=0, factored=True, step="loop", temporaries=2),
        Optimizer("muon", moments=1, step="loop", temporaries=5, matrices_only=True, shards=False),
        Optimizer("shampoo", moments=1, step="loop", temporaries=4, matrices_only=True, preconditioned=2, shards=False),
        Optimizer("soap", moments=2, step="loop", temporaries=4, matrices_only=True, preconditioned=2, shards=False),
        Optimizer("sophia", moments=2, step="loop", temporaries=2),
        Optimizer("adam_mini", moments=1, step="loop", temporaries=2),
        Optimizer("schedule_free_adamw", moments=2, step="foreach", temporaries=1),
        Optimizer("schedule_free_radam", moments=2, step="foreach", temporaries=1),
        Optimizer("schedule_free_sgd", moments=1, step="foreach"),
        Optimizer("stable_adamw", moments=2, step="loop", temporaries=2),
        Optimizer("grokadamw", moments=3, step="loop", temporaries=2),
        Optimizer("lomo", moments=0, step="none", gradient_free=True, shards=False),
        Optimizer("adalomo", moments=0, factored=True, step="none", gradient_free=True, shards=False),
        Optimizer("galore_adamw", projected="galore", step="loop", temporaries=3, shards=False),
        Optimizer("galore_adamw_8bit", projected="galore", bits=8, step="loop", temporaries=3, shards=False),
        Optimizer("galore_adafactor", moments=0, factored=True, projected="galore", step="loop", temporaries=3, shards=False),
        Optimizer("galore_adamw_layerwise", projected="galore", step="loop", temporaries=3, gradient_free=True, shards=False),
        Optimizer("galore_adamw_8bit_layerwise", projected="galore", bits=8, step="loop", temporaries=3, gradient_free=True,
                  shards=False),
        Optimizer("galore_adafactor_layerwise", moments=0, factored=True, projected="galore", step="loop", temporaries=3,
                  gradient_free=True, shards=False),
        Optimizer("apollo_adamw", projected="apollo", step="loop", temporaries=3, shards=False),
        Optimizer("apollo_adamw_layerwise", projected="apollo", step="loop", temporaries=3, gradient_free=True, shards=False),
        Optimizer("lisa_adamw", step="foreach", temporaries=1, shards=False),
        Optimizer("lora_fa", step="loop", temporaries=3),
    )
}  # fmt: skip
ALIASES = {
    "adamw_torch_foreach": "adamw_torch", "adamw_bnb": "adamw_bnb_8bit", "adamw_fused": "adamw_torch_fused", "fusedadam": "adam",
    "fused_adam": "adam", "cpu_adam": "adam", "deepspeedcpuadam": "adam", "momentum": "sgd_momentum", "adamw8bit": "adamw_bnb_8bit",
    "pagedadamw8bit": "paged_adamw_8bit", "pagedadamw": "paged_adamw_32bit", "ao_adamw_8bit": "adamw_torch_8bit",
    "ao_adamw_4bit": "adamw_torch_4bit", "ao_adamw_fp8": "adamw_torch_fp8", "dion": "muon", "rmsprop_32bit": "rmsprop_bnb",
}  # fmt: skip


def optimizer(name: str) -> Optimizer:
    """Return an optimizer by the name that transformers' ``optim`` has for it, or its own.

    >>> optimizer("adamw_torch_fused").temporaries
    0
    """
    lowered = name.strip().lower().replace("-", "_")
    lowered = ALIASES.get(lowered, lowered)
    found = OPTIMIZERS.get(lowered)
    if found is None:
        raise UnknownNameError(
            tr("settings.optimizer: '%(value)s' is not an optimizer known here.", value=name),
            lowered,
            OPTIMIZERS,
            field="settings.optimizer",
            otherwise=tr("Use one of: %(names)s.", names=", ".join(OPTIMIZERS)),
        )
    return found


def state_bytes(*, num_params: int, moments: int, element_bytes: int) -> int:
    """Return what an unquantised optimizer keeps.

    Formula::

        num_params * moments * element_bytes

    Examples
    --------
    AdamW on bf16 parameters keeps 4 bytes each:

    >>> state_bytes(num_params=1, moments=2, element_bytes=2)
    4
    """
    return num_params * moments * element_bytes


def quantized_state_bytes(*, num_params: int, moments: int, bits: int, block: int) -> int:
    """Return what a block-wise quantised optimizer keeps: packed numbers and an fp32 scale per block.

    Formula::

        moments * (ceil_div(num_params * bits, 8) + 4 * ceil_div(num_params, block))

    Examples
    --------
    Two 8-bit moments with a scale for 256 elements, 2.03125 bytes each:

    >>> quantized_state_bytes(num_params=2**20, moments=2, bits=8, block=256) / 2**20
    2.03125
    """
    return moments * (ceil_div(num_params * bits, 8) + 4 * ceil_div(num_params, block))


def sharded_state_bytes(*, num_params: int, moments: int, element_bytes: int, shards: int, rounding: int) -> int:
    """Return one device's shard of an unquantised state.

    Formula::

        ceil_div(num_params * moments * element_bytes, shards) + rounding

    Parameters
    ----------
    shards
        Devices among which the state of every tensor is split. [devices]
    rounding
        What rounding up tensor by tensor adds to rounding up once. [bytes]
    """
    return ceil_div(num_params * moments * element_bytes, shards) + rounding


def sharded_quantized_state_bytes(
    *, num_params: int, moments: int, bits: int, block: int, shards: int, rounding: int
) -> int:
    """Return one device's shard of a block-wise quantised state.

    Formula::

        ceil_div(moments * (ceil_div(num_params * bits, 8) + 4 * ceil_div(num_params, block)), shards) + rounding
    """
    whole = moments * (ceil_div(num_params * bits, 8) + 4 * ceil_div(num_params, block))
    return ceil_div(whole, shards) + rounding


def copies_bytes(*, copies: int, num_params: int, element_bytes: int) -> int:
    """Return the temporaries of a step that works on all tensors at once, or on one tensor after another.

    Formula::

        copies * num_params * element_bytes

    Parameters
    ----------
    copies
        Temporaries of every number that it works on.
    num_params
        Of all tensors, or of the largest.
    """
    return copies * num_params * element_bytes


@dataclass(frozen=True, slots=True)
class Parameter:
    """A trained tensor as an optimizer sees it.

    Parameters
    ----------
    times
        How many are alike.
    matrix
        Whether it is a matrix inside a layer, which low-rank and matrix optimizers take.
    share
        Devices among which its state is split.
    """

    shape: tuple[int, ...]
    element: int
    times: int = 1
    matrix: bool = False
    embedding: bool = False
    share: int = 1

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Kept:
    """Numbers of one kind that an optimizer keeps for one tensor.

    Parameters
    ----------
    what
        ``moments``, ``sums`` (of rows and columns), ``projector``, ``preconditioners``.
    count
        How many each moment has.
    moments
        How many times.
    element
        Size of one number that is not quantised. [bytes]
    bits, block
        Width of a quantised one, and how many share a scale; 0 where it is not quantised.
    """

    what: str
    count: int
    moments: int
    element: int
    bits: int = 0
    block: int = 0

    @property
    def bytes(self) -> int:
        """All of them. [bytes]."""
        if self.bits:
            return quantized_state_bytes(num_params=self.count, moments=self.moments, bits=self.bits, block=self.block)
        return state_bytes(num_params=self.count, moments=self.moments, element_bytes=self.element)


def kept_of(rule: Optimizer, tensor: Parameter, *, element: int, rank: int = 128) -> tuple[Kept, ...]:
    """Return what an optimizer keeps for one tensor, kind by kind; a stack of matrices as one.

    Parameters
    ----------
    element
        Size of one number of an unquantised moment. [bytes]
    rank
        Rank of a projection.
    """
    size = tensor.size
    if rule.projected and tensor.matrix and len(tensor.shape) >= 2:
        return _projected(rule, tensor, element, rank)
    if rule.matrices_only and not (tensor.matrix and len(tensor.shape) >= 2):
        return (Kept("moments", size, 2, element),)
    if rule.factored:
        if len(tensor.shape) < 2:
            return (Kept("moments", size, 1, 4),)
        rows, columns = tensor.shape[-2:]
        sums = Kept("sums", size // (rows * columns) * (rows + columns), 1, 4)
        return (sums, Kept("moments", size, rule.moments, element)) if rule.moments else (sums,)
    moments = (_moments(rule, tensor, size, element),) if rule.moments else ()
    if rule.preconditioned and len(tensor.shape) >= 2:
        rows, columns = tensor.shape[-2:]
        squares = size // (rows * columns) * (rows**2 + columns**2)
        return (*moments, Kept("preconditioners", squares, rule.preconditioned, 4))
    return moments


def state_of(rule: Optimizer, tensor: Parameter, *, element: int, rank: int = 128) -> int:
    """Return what an optimizer keeps for one tensor. [bytes]."""
    return sum(kept.bytes for kept in kept_of(rule, tensor, element=element, rank=rank))


def _moments(rule: Optimizer, tensor: Parameter, size: int, element: int) -> Kept:
    if not rule.bits:
        return Kept("moments", size, rule.moments, element)
    if size < SMALL or (tensor.embedding and rule.step == "none"):
        return Kept("moments", size, rule.moments, 4)
    return Kept("moments", size, rule.moments, 0, rule.bits, rule.block)


def _projected(rule: Optimizer, tensor: Parameter, element: int, rank: int) -> tuple[Kept, ...]:
    rows, columns = tensor.shape[-2:]
    small, large = min(rows, columns), max(rows, columns)
    rank = min(rank, small)
    stack = tensor.size // (rows * columns)
    if rule.factored:
        inner = Kept("sums", stack * (rank + large), 1, 4)
    else:
        one = _moments(rule, tensor, rank * large, element)
        inner = replace(one, count=stack * one.count)
    if rule.projected != "galore":
        return (inner,)
    return (inner, Kept("projector", stack * small * rank, 1, element))


def step_copies(rule: Optimizer, tensors: Iterable[Parameter], *, element: int) -> tuple[int, int, int]:
    """Return what one step takes beside weights, gradients and state: copies, of how many numbers, of how many bytes.

    Parameters
    ----------
    element
        Size of one number that the step works on: of the parameter, or of its master copy. [bytes]
    """
    sizes = [(ceil_div(tensor.size, tensor.share), tensor) for tensor in tensors]
    if rule.step == "foreach":
        return rule.temporaries, sum(size * tensor.times for size, tensor in sizes), element
    if rule.step != "loop":
        return 0, 0, 0
    if rule.matrices_only:
        matrices = [size for size, tensor in sizes if tensor.matrix and len(tensor.shape) >= 2]
        return rule.temporaries, max(matrices, default=0), 2
    wide = 4 if rule.factored or rule.projected or rule.bits else element
    return rule.temporaries, max((size for size, _ in sizes), default=0), wide


def dealt_bytes(sizes: Iterable[int], *, devices: int) -> int:
    """Return what the fullest device gets of whole tensors that are dealt out by size, there and back. [bytes].

    Megatron's layer-wise optimizer does so where no layout of its buffers is computed.

    Examples
    --------
    >>> dealt_bytes([1, 2, 3, 4, 50], devices=2)
    55
    """
    held = [0] * devices
    order = [*range(devices), *reversed(range(devices))]
    for place, size in enumerate(sorted(sizes)):
        held[order[place % len(order)]] += size
    return max(held)


@lru_cache(maxsize=64)
def options(text: str | None) -> dict[str, str]:
    """Return the options of an optimizer: ``rank=128/update_proj_gap=200`` or separated by commas."""
    if not text:
        return {}
    pairs = [each.partition("=") for each in text.replace("/", ",").split(",") if each.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise RequestError(
            tr("settings.optimizer_args: '%(value)s' is not NAME=VALUE, ...", value=text),
            field="settings.optimizer_args",
            hint=tr("Give %(expected)s.", expected="rank=128,update_proj_gap=200"),
        )
    return {name.strip(): value.strip() for name, _, value in pairs}


def projection_rank(args: str | None) -> int:
    """Return the rank of a projecting optimizer. [rank]."""
    found = options(args)
    given = next((found[name] for name in ("rank", "galore_rank", "apollo_rank") if name in found), "128")
    if not given.isdigit() or not int(given):
        raise RequestError(
            tr("settings.optimizer_args: '%(value)s' is no rank.", value=given),
            field="settings.optimizer_args",
            hint=tr("Give %(expected)s.", expected="rank=128"),
        )
    return int(given)


__all__ = [
    "OPTIMIZERS", "Kept", "Optimizer", "Parameter", "copies_bytes", "dealt_bytes", "kept_of", "optimizer", "options", "projection_rank",
    "quantized_state_bytes", "sharded_quantized_state_bytes", "sharded_state_bytes", "state_bytes", "state_of", "step_copies",
]  # fmt: skip
