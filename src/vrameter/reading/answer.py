"""A file or a command -> what it asks for and the answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vrameter.errors import SourceError, VrameterError
from vrameter.i18n import tr
from vrameter.reading.documents import MAX_BYTES
from vrameter.reading.draft import Reading
from vrameter.reading.shared import without_devices
from vrameter.reading.texts import read_text

# Settings of training whose defaults decide much: they are told where the source leaves them to the stack.
_TOLD = ("finetuning", "precision", "optimizer", "micro_batch", "seq_len", "recompute", "attn_implementation", "loss")


def read(source: str | Path, *, format: str | None = None, advise: bool = False, **overrides: Any) -> dict[str, Any]:
    """Return what a configuration file or a command asks for, and the answer to it.

    Parameters
    ----------
    source
        Path of a file, a command, or the text of a configuration.
    format
        The format, where its content does not tell: ``axolotl``, ``torchtune``, ...
    advise
        Whether the answer to a training run on a device also says what fits at most and what would need less.
    overrides
        Fields of the request that stand above what was read: ``model``, ``device``, ``num_devices``, ``settings``, ...

    Returns
    -------
    dict
        ``format``, ``request``, ``understood``, ``assumed``, ``ignored``, ``notes`` and ``response``.

    Raises
    ------
    VrameterError
        For a source that cannot be read, contradicts itself, or cannot be answered.

    Examples
    --------
    >>> answer = read("vllm serve llama-3.1-8b --max-model-len 8192 --gpu-memory-utilization 0.9", device="h100")
    >>> answer["request"]["settings"]["max_model_len"], answer["response"]["devices"][0]["fits"]
    (8192, True)
    """
    from vrameter.response import estimate

    reading = _reading(source, format)
    request = _overridden(reading.request, overrides)
    answer = {**reading.to_dict(), "request": request}
    for target in [each for each in answer["assumed"] if _overrides(overrides, each)]:
        del answer["assumed"][target]
    if "model" not in request:
        from vrameter.errors import RequestError

        raise RequestError(
            tr("model: the %(format)s configuration names none.", format=reading.format), field="model",
            hint=tr("Give it: %(expected)s.", expected="--model llama-3.1-8b"),
        )  # fmt: skip
    _settle_devices(request, answer["assumed"])
    if "num_devices" not in answer["assumed"]:
        answer["notes"] = [note for note in answer["notes"] if note != without_devices()]
    asked = request
    if advise and request.get("task") == "training" and request.get("device"):
        asked = {**request, "settings": {**request.get("settings", {}), "advise": True}}
    try:
        answer["response"] = estimate(asked)
    except VrameterError as error:
        raise _under_its_own_name(error, answer["understood"], overrides) from None
    settings = answer["response"]["request"].get("settings", {})
    if request.get("task") == "training":
        for name in _TOLD:
            if settings.get(name) is not None and name not in request.get("settings", {}):
                why = tr("the default of %(format)s", format=request.get("engine", "transformers"))
                if name in ("micro_batch", "seq_len", "finetuning"):
                    why = tr("the source does not say")
                answer["assumed"].setdefault(f"settings.{name}", {"value": settings[name], "why": why})
    return answer


def _under_its_own_name(
    error: VrameterError, understood: Mapping[str, str], overrides: Mapping[str, Any]
) -> VrameterError:
    """Return an error that speaks of the source's own key in the place of the field that it became."""
    field = error.field or ""
    key = next((key for key, target in understood.items() if target == field), None)
    if key and error.message.startswith(f"{field}:") and not _overrides(overrides, field):
        error.message = key + error.message[len(field) :]
        error.field, error.args = key, (error.message,)
    return error


def _reading(source: str | Path, format: str | None) -> Reading:
    text = str(source)
    path = Path(text)
    if "\n" not in text and len(text) < 4096 and _is_file(path):
        folder = path.parent
        return read_text(_text_of(path), name=path.name, format=format, open=lambda name: _beside(folder, name))
    if isinstance(source, Path) or (" " not in text.strip() and "\n" not in text and text.strip()[:1] != "{"):
        raise SourceError(
            tr("FILE: '%(value)s' cannot be read (%(reason)s).", value=text[:80], reason=tr("there is no such file")),
            field="FILE",
            hint=tr("Give a configuration file, or a command in quotes: %(expected)s", expected="vrameter read 'vllm serve MODEL --max-model-len 8192'"),
        )  # fmt: skip
    return read_text(text, name=tr("the command"), format=format, open=lambda name: _beside(Path(), name))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES * 4 + 1)
    except OSError as error:
        raise SourceError(
            tr("FILE: '%(value)s' cannot be read (%(reason)s).", value=str(path)[:80], reason=error.strerror or ""), field="FILE",
            hint=tr("Give a configuration file, or a command in quotes."),
        ) from None  # fmt: skip
    return data.decode("utf-8-sig", errors="replace")


def _beside(folder: Path, name: str) -> str:
    """Return the text of a file that a source names: beside the source, above it, or from here."""
    if "\0" in name or len(name) > 1024:
        raise FileNotFoundError(name)
    for place in (
        folder / name,
        *(parent / name for parent in list(folder.absolute().parents)[:3]),
        folder / Path(name).name,
        Path(name),
    ):
        if _is_file(place):
            return _text_of(place)
    raise FileNotFoundError(name)


def _overridden(request: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with fields of another put over it; settings and degrees one by one."""
    merged = dict(request)
    for name, value in overrides.items():
        held = merged.get(name)
        if isinstance(held, dict) and isinstance(value, Mapping) and name in ("settings", "parallelism"):
            merged[name] = {**held, **{key: _over(held.get(key), each) for key, each in value.items()}}
        elif value is not None:
            merged[name] = value
    if not isinstance(merged.get("engine"), str):
        merged["engine"] = "transformers"
    return merged


def _over(held: Any, value: Any) -> Any:
    """Return a value put over another; objects field by field."""
    return {**held, **value} if isinstance(held, dict) and isinstance(value, Mapping) else value


def _overrides(overrides: Mapping[str, Any], target: str) -> bool:
    """Say whether the field at a path is given again."""
    inner: Any = overrides
    for name in target.split("."):
        if not isinstance(inner, Mapping) or inner.get(name) is None:
            return False
        inner = inner[name]
        if not isinstance(inner, Mapping):
            return True
    return True


def _settle_devices(request: dict[str, Any], assumed: dict[str, Any]) -> None:
    """Let a number of devices that was only assumed give way to the device's own (``8xh100``)."""
    device = request.get("device")
    if "num_devices" not in assumed or not isinstance(device, str):
        return
    from vrameter.devices import parse_devices

    count, _ = parse_devices(device)
    if count and count > 1:
        del request["num_devices"], assumed["num_devices"]


__all__ = ["read"]
