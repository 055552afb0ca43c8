"""One question, one answer: plain data in, plain data out.

Every surface calls `estimate`. It looks the names of a request up, asks the engine, and writes the response down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.spec import DeviceSpec, Parallelism, Request, parse
from vrameter.units import format_count

if TYPE_CHECKING:
    from vrameter.devices import Device
    from vrameter.ledger import Ledger
    from vrameter.sources import Model

SCHEMA_VERSION = 1


class Response(dict[str, Any]):
    """A response: a plain object that shows as a table in a notebook."""

    def _repr_html_(self) -> str:
        from vrameter.render.html import response_table

        return response_table(self)

    def __str__(self) -> str:
        from vrameter.render.text import response_text

        return response_text(self)


def estimate(request: Mapping[str, Any] | Request) -> Response:
    """Return how much memory a request needs, on which terms, and whether it fits.

    Parameters
    ----------
    request
        An object of the request seam, or a typed `Request`.

    Returns
    -------
    Response
        The response of the seam; sizes are whole bytes, per device.

    Raises
    ------
    VrameterError
        With the field, its value, and what to give instead.

    Examples
    --------
    >>> answer = estimate({"model": "8.8B", "dtype": "fp16"})
    >>> answer["rule_of_thumb"]["gb"]["weights"]
    17.6
    """
    from vrameter.engines.choice import check_pipeline, default_engine
    from vrameter.sources import resolve

    ask = parse(request)
    model = resolve(ask.model, quantization=ask.quantization, online=ask.online)
    device, count = _devices(ask)
    if ask.engine is None:
        files = model.table.kind if model.table is not None else ""
        name = default_engine(ask, model.architecture, device, files=files, source=model.source)
        ask = msgspec.structs.replace(ask, engine=name)
    elif model.architecture is not None:
        check_pipeline(ask, model.architecture)
    if ask.method == "rule-of-thumb" or model.architecture is None:
        return _by_rule(ask, model, device, count)
    return _by_architecture(ask, model, _kinds(ask, device, count), count)


def _devices(ask: Request) -> tuple[Device | None, int]:
    """Return the device and how many of them, from the name, ``num_devices`` and the degrees of parallelism."""
    from vrameter import devices

    prefix: int | None = None
    device: Device | None = None
    if isinstance(ask.device, DeviceSpec):
        device = devices.from_spec(ask.device.name, ask.device.capacity_bytes)
    elif ask.device is not None:
        kinds = devices.parse_mixed(ask.device)
        prefix, device = sum(number for number, _ in kinds), kinds[0][1]
    product = ask.parallelism.num_devices
    given = [
        (field, value)
        for field, value in (("device", prefix), ("num_devices", ask.num_devices), ("parallelism", product))
        if value not in (None, 1)
    ]
    if ask.num_devices == 1 and max(prefix or 1, product) > 1:
        given.append(("num_devices", 1))
    total = max([value for _, value in given if value is not None], default=1)
    for field, value in given:
        if field == "parallelism" and value and value < total and total % value:
            raise RequestError(
                tr(
                    "parallelism: tensor x pipeline x context x data is %(value)s, which does not divide %(total)s devices.",
                    value=value,
                    total=total,
                ),
                field=field,
                hint=tr("Use degrees whose product is a divisor of %(total)s.", total=total),
            )
        if value != total and not (field == "parallelism" and value and total % value == 0):
            raise RequestError(
                tr(
                    "%(field)s: says %(value)s devices where another field says %(total)s.",
                    field=field,
                    value=value,
                    total=total,
                ),
                field=field,
                hint=tr('Say the number once, for example {"device": "%(total)sxh100"}.', total=total),
            )
    return device, total


def _kinds(ask: Request, device: Device | None, count: int) -> list[tuple[int, Device]]:
    """Return how many of which devices share the model, in order; nothing where none is named."""
    from vrameter import devices

    if device is None:
        return []
    mixed = devices.parse_mixed(ask.device) if isinstance(ask.device, str) else []
    if len({kind.id for _, kind in mixed}) < 2:
        return [(count, device)]
    from vrameter.engines import SPLITS_UNEVENLY
    from vrameter.settings import canonical

    assert ask.engine is not None
    if canonical(ask.engine) not in SPLITS_UNEVENLY:
        raise RequestError(
            tr("device: %(engine)s is modelled on devices of one kind.", engine=ask.engine),
            field="device",
            hint=tr("Different devices share a model under: %(names)s.", names=", ".join(sorted(SPLITS_UNEVENLY))),
        )
    return mixed


def _by_architecture(ask: Request, model: Model, kinds: list[tuple[int, Device]], count: int) -> Response:
    from vrameter.engines import Ask, engine
    from vrameter.ledger import STORES

    architecture = model.architecture
    assert architecture is not None
    assert ask.engine is not None
    device = kinds[0][1] if kinds else None
    if model.described:
        module = engine(ask.engine, ask.task)
    else:
        from vrameter.engines import weights_only as module
    answer = module.estimate(Ask(ask, architecture, device, count, table=model.table, kinds=tuple(kinds)))
    notes = [note for _, kind in kinds for note in kind.notes]
    warnings = [*model.notes, *architecture.notes, *answer.warnings, *notes]
    resolved = _echo(ask, device, count, settings=answer.settings, method="architecture", **answer.resolved)
    if len(kinds) > 1:
        resolved["device"] = "+".join(f"{number}x{kind.id}" if number > 1 else kind.id for number, kind in kinds)
    entries = [
        {**_device_entry(ledger, None, number), "name": STORES[ledger.place]}
        if ledger.place in STORES
        else _device_entry(ledger, _at(kinds, ledger.place), number)
        for ledger, number in answer.ledgers
    ]
    response = Response(
        schema_version=SCHEMA_VERSION,
        request=resolved,
        model=_model_entry(model),
        devices=entries,
        report=answer.report,
        warnings=list(dict.fromkeys(warnings)),
    )
    if answer.kv_cache is not None:
        response["kv_cache"] = answer.kv_cache
    if answer.limits:
        response["limits"] = answer.limits
    if answer.refusal:
        response["refused"] = answer.refusal
        for entry in entries:
            if "fits" in entry:
                entry["fits"], entry["confidence"] = False, "no"
    if answer.changes:
        response["changes"] = answer.changes
    return response


def _at(kinds: list[tuple[int, Device]], place: int) -> Device | None:
    """Return the device at a place among all; None where none is named."""
    for number, kind in kinds:
        if place < number:
            return kind
        place -= number
    return None


def _device_entry(ledger: Ledger, device: Device | None, count: int) -> dict[str, Any]:
    peak = ledger.peak()
    entry: dict[str, Any] = {"name": device.id if device else None}
    if count > 1:
        entry["count"] = count
    if ledger.holds:
        entry["holds"] = ledger.holds
    if device is not None:
        entry["capacity_bytes"] = device.capacity_bytes
        entry["budget_bytes"] = device.capacity_bytes
    entry["items"] = [each.to_dict() for each in sorted(ledger.items, key=lambda each: -each.bytes)]
    entry["peak"] = peak.to_dict()
    if device is not None:
        headroom = device.capacity_bytes - peak.used
        entry["fits"] = headroom >= 0
        entry["headroom_bytes"] = headroom
        entry["confidence"] = "surely" if peak.high <= device.capacity_bytes else "probably" if headroom >= 0 else (
            "hardly" if peak.low <= device.capacity_bytes else "no"
        )  # fmt: skip
    return entry


def _model_entry(model: Model) -> dict[str, Any]:
    architecture = model.architecture
    if architecture is None:
        return {"name": model.name, "architecture": None, "num_params": model.num_params, "source": model.source}
    return {
        "name": model.name,
        "architecture": architecture.class_name or None,
        "model_type": architecture.model_type or None,
        "num_params": architecture.num_params,
        "num_active_params": architecture.num_active_params,
        "num_params_without_embeddings": architecture.num_params - architecture.num_embedding_params,
        "num_stored_params": architecture.num_stored_params,
        "params_by_role": architecture.params_by_role,
        "max_seq_len": architecture.main.max_positions or None,
        "source": model.source,
        **({"published_params": model.published_params} if model.published_params else {}),
        **({"trust": model.trust} if model.trust else {}),
        **({"revision": model.revision} if model.revision else {}),
        **({"stored_bytes": model.table.num_bytes} if model.table is not None else {}),
    }


def _echo(ask: Request, device: Device | None, count: int, **resolved: Any) -> dict[str, Any]:
    """Return the request with every default filled in."""
    shown: dict[str, Any] = {"task": ask.task, "model": ask.model}
    shown["method"] = resolved.pop("method", ask.method)
    shown["dtype"] = resolved.pop("dtype", ask.dtype)
    shown["quantization"] = resolved.pop("quantization", ask.quantization)
    shown["device"] = device.id if device else None
    shown["num_devices"] = count
    degrees = ask.parallelism
    shown["parallelism"] = {
        **{name: getattr(degrees, name) for name in Parallelism.__struct_fields__},
        "zero_stage": degrees.zero_stage or 0,
        **resolved.pop("parallelism", {}),
    }
    shown["engine"] = ask.engine
    shown["engine_version"] = resolved.pop("engine_version", ask.engine_version)
    if ask.online:
        shown["online"] = True
    shown["settings"] = resolved.pop("settings", dict(ask.settings))
    return shown


def _by_rule(ask: Request, model: Model, device: Device | None, count: int) -> Response:
    """Return what the rule of thumb says."""
    from vrameter.ledger import Ledger, item
    from vrameter.memory.rule_of_thumb import BYTES_PER_VALUE, rule_of_thumb, scaled_tenths, weights_by_rule

    refuse_shape_settings(ask, model)
    dtype = rule_dtype(ask, model)
    rule = rule_of_thumb(model.num_params, dtype)
    training = ask.task == "training"
    phases = ("step",) if training else ("inference",)
    weights = item(
        "weights", weights_by_rule, phases=phases, basis="exact", source="rule of thumb: parameters x bytes per value",
        num_params=model.num_params, half_bytes=int(BYTES_PER_VALUE[dtype] * 2),
    )  # fmt: skip
    rest = item(
        "optimizer_state" if training else "activations", scaled_tenths, phases=phases, basis="assumed",
        source="rule of thumb: training takes 3 x the weights and more" if training
        else "rule of thumb: inference takes 1.3 to 1.5 x the weights",
        low=rule.training - rule.weights if training else rule.inference_low - rule.weights,
        weights=rule.weights, tenths=20 if training else 5,
    )  # fmt: skip
    ledger = Ledger(phases, (weights, rest))
    warnings = list(model.notes)
    if count > 1:
        warnings.append(tr("The rule of thumb knows nothing of several devices: the figures are for one."))
    if rule.training_is_short:
        warnings.append(
            tr(
                "3 x the weights is %(rule)s bytes per parameter: any Adam recipe needs at least 8 (bf16 throughout), mixed precision "
                "16 to 18, before activations.",
                rule=f"{float(3 * BYTES_PER_VALUE[dtype]):g}",
            )
        )
    else:
        warnings.append(
            tr("Training needs activations beside weights, gradients and optimizer state: 3 x is a lower bound.")
        )
    warnings.append(
        tr("The rule of thumb knows nothing of batch size, context length or architecture, which change the answer.")
    )
    response = Response(
        schema_version=SCHEMA_VERSION,
        request=_echo(ask, device, count, method="rule-of-thumb", dtype=dtype),
        model=_model_entry(model),
        devices=[_device_entry(ledger, device, 1)],
        report={"weights_bytes": rule.weights},
        rule_of_thumb=rule_entry(rule),
        warnings=warnings,
    )
    return response


def rule_entry(rule: Any) -> dict[str, Any]:
    """Return the rule's figures in bytes and under both of its conventions."""
    figures = {
        "weights": rule.weights,
        "inference_low": rule.inference_low,
        "inference_high": rule.inference_high,
        "training": rule.training,
    }
    return {
        "dtype": rule.dtype,
        "num_params": rule.num_params,
        "bytes": figures,
        "gb": {name: size / 10**9 for name, size in figures.items()},
        "gib": {name: size / 1024**3 for name, size in figures.items()},
    }


def rule_dtype(ask: Request, model: Model) -> str:
    """Return the data type that the rule is asked for."""
    name = ask.dtype or ask.quantization
    if name is None:
        return (model.architecture.dtype if model.architecture else None) or "bf16"
    from vrameter.memory.rule_of_thumb import BYTES_PER_VALUE

    lowered = name.lower()
    short = {"float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float8": "fp8", "w8a8": "int8",
             "awq": "int4", "gptq": "int4", "bnb-nf4": "int4", "bnb-int8": "int8"}  # fmt: skip
    return lowered if lowered in BYTES_PER_VALUE else short.get(lowered, lowered)


def refuse_shape_settings(ask: Request, model: Model) -> None:
    """Refuse what needs a model's shape where there is only a parameter count, or where the rule was asked for."""
    bare = model.architecture is None
    field: str | None = None
    if ask.settings:
        field = f"settings.{next(iter(ask.settings))}"
    elif ask.parallelism != Parallelism():
        field = "parallelism"
    elif bare and ask.method == "architecture":
        field = "method"
    if field is None:
        return
    name = format_count(model.num_params)
    raise RequestError(
        tr("%(field)s: needs a model's shape, and %(model)s is only a number of parameters.", field=field, model=name)
        if bare
        else tr("%(field)s: has no effect on the rule of thumb.", field=field),
        field=field,
        hint=tr("Name a model (vrameter models) or give its config.json.")
        if bare
        else tr('Leave it out, or ask with {"method": "architecture"}.'),
    )


def with_model(request: Request, model: object) -> Request:
    """Return the same question about another model."""
    return msgspec.structs.replace(request, model=model)


__all__ = ["SCHEMA_VERSION", "Response", "estimate", "rule_entry", "with_model"]
