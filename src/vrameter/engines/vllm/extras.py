"""What vLLM loads besides the model: slots for LoRA adapters, and a draft model.

References
----------
.. [1] vLLM 0.19, ``lora/layers`` (``create_lora_weights``: a pair of matrices for each slot and layer),
       ``v1/spec_decode/eagle.py`` (embeddings and head shared with the target).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vrameter.engines.loaded import Kernels, loaded
from vrameter.engines.ranks import Degrees, ranks
from vrameter.engines.vllm.resolved import Resolved
from vrameter.errors import RequestError, UnknownNameError
from vrameter.i18n import tr
from vrameter.memory.weight_plan import WeightPlan
from vrameter.model.architecture import Architecture, Component, remembered

ADAPTED = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down", "q_a", "q_b", "kv_a", "kv_b", "qkvz", "ssm_out")
WITHOUT_MODEL = ("ngram", "ngram_gpu", "suffix", "[ngram]")
OWN_LAYERS = (
    "mtp",
    "deepseek_mtp",
    "qwen3_next_mtp",
    "qwen3_5_mtp",
    "glm4_moe_mtp",
    "ernie_mtp",
    "mimo_mtp",
    "longcat_flash_mtp",
)
WITH_MODEL = ("draft_model", "eagle", "eagle3", "medusa", "mlp_speculator", "dflash")


def adapter_bytes(*, num_slots: int, rank: int, widths: int, element_bytes: int) -> int:
    """Return what slots for LoRA adapters take on one device. [bytes].

    Formula::

        num_slots * rank * widths * element_bytes

    Parameters
    ----------
    num_slots
        Adapters in one batch.
    widths
        Inputs and outputs of every adapted matrix of the rank, added up. [elements]

    Notes
    -----
    Leaves out adapters of the embedding and the head: `rank` times the vocabulary for each slot.
    """
    return num_slots * rank * widths * element_bytes


def draft_bytes(*, draft_weights: int) -> int:
    """Return the weights of a draft model on one device. [bytes].

    Formula::

        draft_weights
    """
    return draft_weights


@remembered
def adapted_widths(share: Architecture) -> int:
    """Return the inputs and outputs of every adapted matrix of a share, added up. [elements]."""
    decoder = share.decoder
    if decoder is None:
        return 0
    total = 0
    for layer, places in decoder.layer_groups:
        for part in layer.parts:
            for tensor in part.tensors:
                if tensor.linear and tensor.slot in ADAPTED:
                    stacked = tensor.shape[0] if len(tensor.shape) == 3 else 1
                    total += len(places) * stacked * (tensor.shape[-1] + tensor.shape[-2])
    return total


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft model: what it weighs on the last stage's rank, and its layers, which share the KV pool."""

    bytes: int = 0
    components: tuple[Component, ...] = ()
    source: str = ""


def draft_of(architecture: Architecture, plan: WeightPlan, last: Architecture, made: Resolved) -> Draft:
    """Return the draft that ``speculative_config`` names.

    Parameters
    ----------
    last
        The share of the last pipeline stage.

    Raises
    ------
    RequestError, UnknownNameError
        For a method that is not known, or one that needs a model or layers that are not there.
    """
    config = made.settings.speculative_config
    if not config:
        return Draft()
    model = config.get("model")
    method = str(config.get("method") or ("draft_model" if model else "ngram")).lower()
    if method in WITHOUT_MODEL:
        return Draft(source="no draft model: proposals from the prompt")
    if method in OWN_LAYERS and model is None:
        return _own_layers(architecture, plan, last)
    if method not in (*WITH_MODEL, *OWN_LAYERS):
        names = (*WITHOUT_MODEL[:3], *OWN_LAYERS[:1], *WITH_MODEL)
        raise UnknownNameError(
            tr("settings.speculative_config.method: '%(value)s' is not a way to draft known here.", value=method),
            method,
            names,
            field="settings.speculative_config.method",
            otherwise=tr("Use one of: %(names)s.", names=", ".join(names)),
        )
    if not isinstance(model, str):
        raise RequestError(
            tr("settings.speculative_config.model: is missing; %(method)s needs a draft model.", method=method),
            field="settings.speculative_config.model",
            hint=tr("Name one, or draft with ngram."),
        )
    return _other_model(model, method, config, made)


def _own_layers(architecture: Architecture, plan: WeightPlan, last: Architecture) -> Draft:
    """Return the model's own layers for the tokens after the next, whose embedding and head are the model's."""
    share = _own_share(last)
    if share is None:
        raise RequestError(
            tr(
                "settings.speculative_config.method: %(model)s has no layers for multi-token prediction.",
                model=architecture.name,
            ),
            field="settings.speculative_config.method",
            hint=tr("Name a draft model, or draft with ngram."),
        )
    return Draft(
        loaded(plan, share, Kernels()).total, share.components, "the model's own layers for multi-token prediction"
    )


@remembered
def _own_share(last: Architecture) -> Architecture | None:
    """Return the layers for multi-token prediction as a model of their own; tables that the target has are left out."""
    own = tuple(
        replace(
            component,
            loaded=True,
            tensors=tuple(tensor for tensor in component.tensors if tensor.slot not in ("token", "head")),
        )
        for component in last.components
        if component.kind == "mtp"
    )
    return replace(last, components=own, rotary_tables=()) if own else None


def _other_model(name: str, method: str, config: dict[str, Any], made: Resolved) -> Draft:
    from vrameter.memory.weights import weight_plan
    from vrameter.sources import resolve

    found = resolve(name).architecture
    if found is None:
        raise RequestError(
            tr("settings.speculative_config.model: '%(value)s' is only a number of parameters.", value=name),
            field="settings.speculative_config.model",
            hint=tr("Name a model of the catalogue or give a folder."),
        )
    degree = int(config.get("draft_tensor_parallel_size") or made.degrees.tensor)
    share = ranks(found, Degrees(tensor=degree, experts=degree))[0].share
    if method.startswith("eagle"):
        share = _without_tables(share)
    plan = weight_plan(found)
    return Draft(
        loaded(plan, share, Kernels()).total,
        tuple(component for component in share.components if component.kind == "decoder"),
        f"draft model {name}",
    )


@remembered
def _without_tables(share: Architecture) -> Architecture:
    """Return a draft without the embedding, which is the target's."""
    components = tuple(
        replace(component, tensors=tuple(tensor for tensor in component.tensors if tensor.slot != "token"))
        for component in share.components
    )
    return replace(share, components=components)


__all__ = ["Draft", "adapted_widths", "adapter_bytes", "draft_bytes", "draft_of"]
