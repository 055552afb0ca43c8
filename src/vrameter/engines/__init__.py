"""How each runtime spends a GPU, one module each.

An engine module has ``estimate(ask) -> Answer``; `ENGINES` names the module of each engine that is modelled, so that
only that one is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.settings import canonical
from vrameter.spec import INFERENCE_ENGINES, TRAINING_ENGINES, Request

if TYPE_CHECKING:
    from vrameter.devices import Device
    from vrameter.ledger import Ledger
    from vrameter.memory.weights import WeightPlan
    from vrameter.model.architecture import Architecture
    from vrameter.model.tensor_table import TensorTable

Values = dict[str, Any]
"""Arguments of a term: whole numbers by name."""

ENGINES = {
    "transformers": "vrameter.engines.transformers",
    "vllm": "vrameter.engines.vllm",
    "sglang": "vrameter.engines.sglang",
    "tensorrt-llm": "vrameter.engines.tensorrt_llm",
    "tgi": "vrameter.engines.tgi",
    "llama.cpp": "vrameter.engines.llama_cpp",
    "ollama": "vrameter.engines.ollama",
    "mlx": "vrameter.engines.mlx",
    "exllama": "vrameter.engines.exllama",
    "litgpt": "vrameter.engines.litgpt",
    "diffusers": "vrameter.engines.diffusers",
}
SPLITS_UNEVENLY = frozenset({"transformers", "llama.cpp", "ollama", "exllama"})
"""Engines that share one model among devices of different kinds."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request with every name looked up: what an engine is asked.

    Parameters
    ----------
    device
        The device, the first where they differ.
    kinds
        How many of which devices there are, in order, where one is named.
    """

    request: Request
    architecture: Architecture
    device: Device | None
    num_devices: int
    notes: tuple[str, ...] = ()
    table: TensorTable | None = None
    kinds: tuple[tuple[int, Device], ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device in order, where one is named."""
        return tuple(kind for number, kind in self.kinds for _ in range(number))

    def weight_plan(self, *, imatrix: bool = False) -> WeightPlan:
        """Return how every tensor of the model is stored, as the request, the file or the model's config says."""
        from vrameter.memory.weights import weight_plan

        return weight_plan(
            self.architecture,
            dtype=self.request.dtype,
            quantization=self.request.quantization,
            imatrix=imatrix,
            table=self.table,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine answers.

    Parameters
    ----------
    ledgers
        One per distinct device, the fullest first, with how many devices are like it.
    settings
        The engine's settings with every default filled in.
    resolved
        Other request fields with their defaults filled in.
    kv_cache, report
        Objects of the response under these names.
    limits
        Settings with the largest value that fits, each with the others as asked.
    refusal
        Why the engine would not start with these settings on this device, in its own terms; empty where it does.
    changes
        Other settings that would need less, with what each saves.
    """

    ledgers: tuple[tuple[Ledger, int], ...]
    settings: dict[str, Any]
    resolved: dict[str, Any] = field(default_factory=dict)
    kv_cache: dict[str, Any] | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    refusal: str = ""
    changes: list[dict[str, Any]] = field(default_factory=list)
    warnings: tuple[str, ...] = ()


DEFAULT_CONTEXT = 8192


def default_length(architecture: Architecture, asked: int | None, warnings: list[str]) -> int:
    """Return the tokens of a sequence: as asked, else 8192 or what the model has positions for. [tokens].

    More than that is said in a warning.
    """
    limit = architecture.main.max_positions
    if asked is None:
        return min(DEFAULT_CONTEXT, limit) if limit else DEFAULT_CONTEXT
    if limit and asked > limit:
        warnings.append(
            tr(
                "context_length %(value)s is beyond the %(limit)s positions that the model's config states.",
                value=asked,
                limit=limit,
            )
        )
    return asked


def check_answer(length: int, answer: int, setting: str) -> None:
    """Refuse an answer that leaves no prompt within the context.

    Parameters
    ----------
    setting
        What the engine calls the tokens of the answer: ``max_new_tokens``.
    """
    if answer >= length:
        raise RequestError(
            tr(
                "settings.%(setting)s: %(value)s leaves no prompt within context_length %(length)s.",
                setting=setting, value=answer, length=length,
            ),
            field=f"settings.{setting}",
            hint=tr("context_length counts prompt and answer together: raise it above %(value)s.", value=answer),
        )  # fmt: skip


def grouped(ledgers: list[Ledger], copies: int, *, devices: Sequence[Device] = ()) -> tuple[tuple[Ledger, int], ...]:
    """Return ledgers with how many devices are like each: those of equal items on one kind of device are one entry.

    Parameters
    ----------
    copies
        Devices of whole copies of the model that are alike; of host and disk there is one.
    devices
        The device at each place, where they differ.
    """
    found: list[tuple[Ledger, int]] = []
    for ledger in ledgers:
        last = found[-1][0] if found else None
        if last is not None and last.items == ledger.items and _alike(last.place, ledger.place, devices):
            found[-1] = (replace(last, holds=f"{last.holds}; {ledger.holds}"), found[-1][1] + copies)
        else:
            found.append((ledger, copies if ledger.place >= 0 else 1))
    return tuple(found)


def _alike(one: int, other: int, devices: Sequence[Device]) -> bool:
    if min(one, other) < 0:
        return False
    return not devices or devices[one].id == devices[other].id


def held_layers(share: Architecture) -> str:
    """Return what a device holds: the layers of each component, the names of parts without any."""
    parts = []
    for component in share.loaded:
        if component.layers:
            first = component.first_layer
            parts.append(f"{component.name} {first}-{first + len(component.layers) - 1}")
        elif component.tensors:
            parts.append(component.name)
    return ", ".join(parts)


def engine(name: str, task: str) -> Any:
    """Return the module of an engine.

    Raises
    ------
    UnknownNameError, RequestError
        For a name that is no engine, or one that is not modelled yet.
    """
    lowered = canonical(name)
    known = INFERENCE_ENGINES if task == "inference" else TRAINING_ENGINES
    if task == "training":
        return import_module("vrameter.training")
    if lowered in ENGINES:
        return import_module(ENGINES[lowered])
    if lowered in known:
        raise RequestError(
            tr("engine: '%(value)s' is not modelled in this version.", value=name),
            field="engine",
            hint=tr("Use one of: %(names)s.", names=", ".join(ENGINES)),
        )
    if lowered in TRAINING_ENGINES:
        raise RequestError(
            tr("engine: '%(value)s' trains, and the task is inference.", value=name),
            field="engine",
            hint=tr('Say {"task": "training"}; on the command line --task training.'),
        )
    raise UnknownNameError(
        tr("engine: '%(value)s' is not an engine known here.", value=name),
        lowered,
        known,
        field="engine",
        otherwise=tr("Use one of: %(names)s.", names=", ".join(ENGINES)),
    )
