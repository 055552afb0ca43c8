"""Weights alone: what can be said of files whose network nothing describes."""

from __future__ import annotations

from vrameter.engines import Answer, Ask
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Ledger
from vrameter.parallel import layer_split
from vrameter.spec import Parallelism

PHASES = ("load",)


def estimate(ask: Ask) -> Answer:
    """Return what the weights take on the fullest device, whole layers on each where there are several.

    Raises
    ------
    RequestError
        Where the request asks for what needs the network's shape.
    """
    _refuse_shape(ask)
    plan = ask.weight_plan()
    shares = layer_split(ask.architecture, ask.num_devices, plan.piece_bytes)
    fullest = max(shares, key=lambda share: plan.of(share).total)
    ledger = Ledger(PHASES, (plan.item(fullest, PHASES),))
    size = plan.of(fullest).total
    return Answer(
        ledgers=((ledger, 1),),
        settings={},
        resolved={"dtype": plan.dtype, "quantization": plan.quantization},
        report={"weights_bytes": size},
        warnings=plan.warnings,
    )


def _refuse_shape(ask: Ask) -> None:
    request = ask.request
    field = next((f"settings.{name}" for name in request.settings), None)
    if request.task == "training":
        field = "task"
    elif request.parallelism != Parallelism():
        field = "parallelism"
    if field is not None:
        raise RequestError(
            tr("%(field)s: needs a network's shape, and only the tensors of its files are known.", field=field),
            field=field,
            hint=tr("Put its config.json beside the weights, or ask for the weights alone."),
        )


__all__ = ["estimate"]
