"""Assisted decoding: a smaller model drafts tokens, which the model then checks all at once.

The assistant lies on the first GPU with a cache of its own. For every token that is checked, both models' logits are kept
in fp32.

References
----------
.. [1] transformers 5.23, ``generation/candidate_generator.py``: `AssistedCandidateGenerator`.
"""

from __future__ import annotations

from vrameter.engines import Ask
from vrameter.engines.transformers.caches import cache_of
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Item, item
from vrameter.memory import activations as act
from vrameter.memory import kv_cache as kv
from vrameter.memory.state_cache import state_bytes_per_sequence, state_cache_bytes
from vrameter.memory.weights import WeightPlan, weight_plan
from vrameter.settings.transformers import TransformersSettings

SOURCE = "transformers 5.23, generation/candidate_generator.py"


def candidate_logits_bytes(*, num_rows: int, vocab_size: int, element_bytes: int) -> int:
    """Return the logits of tokens that are checked: the model's, their fp32 copy, and the assistant's.

    Formula::

        num_rows * vocab_size * (element_bytes + 8)
    """
    return num_rows * vocab_size * (element_bytes + 8)


def assistant_plan(ask: Ask, settings: TransformersSettings) -> WeightPlan:
    """Return how the assistant's weights are stored.

    Raises
    ------
    VrameterError
        For a model that is not known or does not generate, or more than one sequence.
    """
    from vrameter.sources import resolve

    architecture = resolve(settings.assistant_model).architecture
    if architecture is None or architecture.decoder is None or ask.architecture.decoder is None:
        raise RequestError(
            tr("settings.assistant_model: both models must generate, and their shapes be known."),
            field="settings.assistant_model",
            hint=tr("Name a smaller model of the same family, such as llama-3.2-1b."),
        )
    if settings.batch_size > 1 or settings.num_beams > 1:
        raise RequestError(
            tr("settings.assistant_model: transformers drafts for one sequence at a time, without beams."),
            field="settings.assistant_model",
            hint=tr("Give batch_size 1 and num_beams 1."),
        )
    return weight_plan(architecture, dtype=ask.request.dtype)


def assistant_items(
    plan: WeightPlan, settings: TransformersSettings, total: int, phases: tuple[str, ...], vocab_size: int, element: int
) -> list[Item]:
    """Return what the assistant takes beside the model."""
    architecture = plan.architecture
    parts = plan.of()
    weights = plan.item(architecture, phases)
    items = [
        item(
            "weights", _weights, phases=phases, basis=weights.basis, source="the assistant: shapes of the model",
            note=architecture.name, assistant=parts.total,
        )
    ]  # fmt: skip
    own = plan.compute_dtype
    cache = cache_of(architecture, own, settings.q_group_size, settings.residual_length, own)
    if cache.layers:
        items.append(
            item(
                "kv_cache", kv.kv_cache_bytes, phases=phases[1:], basis="modelled", source=f"{SOURCE}: the assistant's own cache",
                note=architecture.name, num_seqs=1, num_tokens=0, bytes_per_token=0, num_window_tokens=0, window_bytes_per_token=0,
                fixed_bytes=cache.unwindowed_bytes(total),
            )
        )  # fmt: skip
    state = state_bytes_per_sequence(architecture, element_bytes=plan.compute_bytes, spare_column=True, fp32_scans=True)
    if state:
        items.append(
            item(
                "state_cache", state_cache_bytes, phases=phases[1:], basis="modelled", source=f"{SOURCE}: the assistant's states",
                num_seqs=1, bytes_per_sequence=state,
            )
        )  # fmt: skip
    items.append(
        item(
            "logits", candidate_logits_bytes, phases=("decode",), basis="modelled",
            source=f"{SOURCE}: logits of every token that is checked",
            num_rows=settings.num_assistant_tokens + 1, vocab_size=max(vocab_size, architecture.main.vocab_size),
            element_bytes=element,
        )
    )  # fmt: skip
    widths = act.widest(architecture.main)
    items.append(
        item(
            "temporary", act.activation_bytes, phases=("decode",), basis="modelled", low=0,
            source="the assistant reads the prompt with the model's cache already there",
            num_tokens=total - settings.num_assistant_tokens if total > settings.num_assistant_tokens else total,
            block_width=widths.block, rotary_width=widths.rotary, element_bytes=plan.compute_bytes,
        )
    )  # fmt: skip
    return items


def _weights(*, assistant: int) -> int:
    """Return the assistant's weights.

    Formula::

        assistant
    """
    return assistant
