"""How vLLM's ranks share a model, and which degrees it refuses.

References
----------
.. [1] vLLM 0.19, ``config/parallel.py``, ``config/model.py`` (``verify_with_parallel_config``).
"""

from __future__ import annotations

from vrameter.engines import Ask
from vrameter.engines.ranks import Degrees, check_heads, tensor_degree
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Attention, FeedForward
from vrameter.settings.vllm import VllmSettings

# Networks whose tower every device holds whole: in Mistral's own format, which others' quantised checkpoints do not have,
# its layers are plain ones. [vLLM 0.19, model_executor/models/pixtral.py, class VisionTransformer]
UNSPLIT_TOWERS = ("mistral3", "pixtral")


def degrees_of(ask: Ask, settings: VllmSettings, warnings: list[str], *, quantized: bool) -> tuple[Degrees, int]:
    """Return how the devices share the work; devices that no degree accounts for split every matrix."""
    given = ask.request.parallelism
    if given.context > 1:
        raise RequestError(
            tr("parallelism.context: vLLM splits cached tokens inside a tensor-parallel group."),
            field="parallelism.context",
            hint=tr('Use {"settings": {"decode_context_parallel_size": %(value)s}}.', value=given.context),
        )
    tensor = tensor_degree(ask, warnings)
    check_heads(ask.architecture, tensor)
    _check_context(ask.architecture, tensor, settings.decode_context_parallel_size)
    shared = tensor * given.data
    whole = settings.enable_expert_parallel or given.expert > 1
    if given.expert > 1 and given.expert != shared:
        raise RequestError(
            tr(
                "parallelism.expert: %(value)s; vLLM splits experts over all %(shared)s tensor and data ranks.",
                value=given.expert, shared=shared,
            ),
            field="parallelism.expert",
            hint=tr("Use %(value)s.", value=shared),
        )  # fmt: skip
    mixture = any(
        isinstance(part, FeedForward) and part.num_experts
        for layer, _ in ask.architecture.main.layer_groups
        for part in layer.parts
    )
    split = settings.mm_encoder_tp_mode == "weights" and (
        quantized or ask.architecture.model_type not in UNSPLIT_TOWERS
    )
    return Degrees(tensor, given.pipeline, shared if mixture else tensor, whole and mixture, split), given.data


def _check_context(architecture: Architecture, tensor: int, size: int) -> None:
    """Refuse a split of cached tokens that the KV heads or the tensor-parallel group do not allow."""
    if size == 1:
        return
    most = tensor
    for layer, _ in architecture.main.layer_groups:
        for part in layer.parts:
            if isinstance(part, Attention) and part.scope == "full":
                most = min(most, tensor // part.num_kv_heads)
    if tensor % size or size > most:
        legal = max((each for each in range(1, max(1, most) + 1) if tensor % each == 0), default=1)
        raise RequestError(
            tr(
                "settings.decode_context_parallel_size: %(value)s: it must divide the tensor parallel size %(tensor)s and "
                "be at most that size over the KV heads.",
                value=size, tensor=tensor,
            ),
            field="settings.decode_context_parallel_size",
            hint=tr("Use %(value)s.", value=legal),
        )  # fmt: skip


__all__ = ["UNSPLIT_TOWERS", "degrees_of"]
