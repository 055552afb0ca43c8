"""A model reference -> its architecture: the only code that reads disk or network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vrameter.errors import RequestError, SourceError, UnknownNameError, closest
from vrameter.i18n import language, tr
from vrameter.sources.paths import is_path
from vrameter.units import parse_count

if TYPE_CHECKING:
    from vrameter.model.architecture import Architecture
    from vrameter.model.tensor_table import TensorTable

MAX_PARAMS = 10**16


@dataclass(frozen=True, slots=True)
class Model:
    """A model as it was resolved.

    `architecture` is None where only a number of parameters was given. `source` says where the shape comes from:
    ``catalogue``, ``config``, ``folder``, ``file``, ``gguf``, ``ollama``, ``hub``, ``count``. `table` lists what the weight
    files hold, where they were read. `described` is False where nothing but them tells the shape, so that only weights can
    be counted. `revision` is the commit that the Hub answered for.
    """

    name: str
    architecture: Architecture | None
    num_params: int
    source: str
    notes: tuple[str, ...] = ()
    published_params: int | None = None
    trust: str = ""
    table: TensorTable | None = None
    described: bool = True
    revision: str = ""


def resolve(reference: object, *, quantization: str | None = None, online: bool = False) -> Model:
    """Return the model that a reference names.

    Parameters
    ----------
    reference
        A catalogue name, a Hub id with or without ``@revision``, a folder or a weight file, ``ollama:name``, a config.json, a
        bare count such as ``8.8B`` or 8800000000, or ``{"config": {...}, "name": "..."}``.
    quantization
        Which GGUF file is meant, where a repository or folder has several.
    online
        Whether to ask the Hub even where the catalogue or what was kept knows the model.

    Raises
    ------
    VrameterError
        For a name that is unknown, a count out of bounds, or a config that describes no model.
    """
    if isinstance(reference, bool) or reference is None:
        raise _unusable(reference)
    if isinstance(reference, (int, float)):
        return _counted(reference, str(reference))
    if isinstance(reference, Mapping):
        return _configured(reference)
    if not isinstance(reference, str):
        raise _unusable(reference)
    text = reference.strip()
    count = parse_count(text)
    if count is not None:
        return _counted(count, text)
    if text[:1] in "-+" and parse_count(text[1:].strip()) is not None:
        return _counted(-1, text)

    if text.lower().startswith("ollama:"):
        from vrameter.sources import ollama

        return ollama.read(text)
    image = _image_model(text, short="_" in text)
    if image is not None:
        return image
    if is_path(text):
        from vrameter.sources import folder

        return folder.read(text, quantization=quantization)
    if not online and "@" not in text:
        try:
            return _listed(text, language())
        except UnknownNameError:
            if "/" not in text:
                image = _image_model(text, short=True)
                if image is None:
                    raise
                return image
    return _on_hub(text, quantization, online)


def _image_model(text: str, *, short: bool) -> Model | None:
    """Return an image model of timm or of Ultralytics, by the name that it has there; a short one lacks timm's prefix."""
    from vrameter.model.vision import names

    return _as_model(names.read(text)) if names.is_name(text) or (short and names.registered(text)) else None


def _as_model(architecture: Architecture) -> Model:
    return Model(
        name=architecture.name, architecture=architecture, num_params=architecture.num_params, source="catalogue"
    )


def _on_hub(text: str, quantization: str | None, online: bool) -> Model:
    """Return a model of the Hub; a short name is looked up in the catalogue first, which knows its repository."""
    from vrameter.sources import hub

    named = hub.parse_reference(text)
    if named is None or "/" not in named[0]:
        from vrameter.sources import catalogue

        name, _, revision = text.partition("@")
        named = catalogue.find(name).id, revision or None
    from vrameter.sources import hub_model

    try:
        return hub_model.read(*named, quantization=quantization, online=online)
    except SourceError as error:
        if error.unreachable and not online and "@" not in text:
            raise _neither(text, error) from None
        raise


def _neither(text: str, error: SourceError) -> SourceError:
    """Return the error of a name that the catalogue lacks while the Hub cannot be asked, with the names that are near."""
    from vrameter.sources import catalogue

    near = closest(text, catalogue.names())
    both = SourceError(
        tr("model: there is no '%(name)s' in the catalogue, and the Hub cannot be asked: %(reason)s",
           name=text[:80], reason=error.message),
        field="model",
        hint=tr("Did you mean %(names)s?", names=", ".join(f"'{item}'" for item in near)) if near else error.hint,
    )  # fmt: skip
    both.unreachable = True
    return both


@lru_cache(maxsize=128)
def _listed(text: str, _language: str) -> Model:
    """Return a model of the catalogue; its notes are in the language in use, so each language has its own."""
    from vrameter.sources import catalogue

    entry = catalogue.find(text)
    architecture = entry.architecture()
    return Model(
        name=entry.id,
        architecture=architecture,
        num_params=architecture.num_params,
        source="catalogue",
        notes=tuple(entry.notes),
        published_params=entry.published_params,
        trust=entry.trust,
    )


def _unusable(reference: object) -> RequestError:
    return RequestError(
        tr("model: %(value)s is not a name, a number of parameters or a config.", value=repr(reference)[:60]),
        field="model",
        hint=tr('Name one: {"model": "llama-3.1-8b"}. List them with: vrameter models'),
    )


def _counted(count: float, text: str) -> Model:
    number = int(count) if count == count and abs(count) != float("inf") else 0
    if number != count or not 0 < number <= MAX_PARAMS:
        raise RequestError(
            tr("model: %(value)s is not a number of parameters between 1 and %(most)s.", value=text, most=MAX_PARAMS),
            field="model",
            hint=tr("Give a count such as 8.8B or 8800000000, or a model's name."),
        )
    return Model(name=text, architecture=None, num_params=number, source="count")


def _megatron(reference: Mapping[str, Any]) -> Model:
    """Return the model that Megatron-LM's arguments describe."""
    from vrameter.model.megatron import read_megatron

    args, name = reference["megatron_args"], reference.get("name") or ""
    if not isinstance(args, Mapping) or not isinstance(name, str):
        raise RequestError(
            tr("model.megatron_args: %(value)s is not an object.", value=repr(args)[:60]),
            field="model.megatron_args",
            hint=tr('Give {"model": {"megatron_args": {"num-layers": 32, "hidden-size": 4096, ...}}}.'),
        )
    architecture = read_megatron(args, name=name)
    return Model(name=architecture.name, architecture=architecture, num_params=architecture.num_params, source="config")


def _configured(reference: Mapping[str, Any]) -> Model:
    from vrameter.model.read import read_config

    if "megatron_args" in reference:
        return _megatron(reference)
    named = reference.get("name")
    if "config" not in reference and isinstance(named, str) and set(reference) == {"name"}:
        image = _image_model(named, short=True)
        if image is not None:
            return image
    extra = [key for key in reference if key not in ("config", "name")]
    if "config" not in reference and ("model_type" in reference or "architectures" in reference):
        raise RequestError(
            tr("model: a config.json stands under the key 'config'."),
            field="model",
            hint=tr('Give {"model": {"config": { ... }}}.'),
        )
    if "config" not in reference or extra:
        raise RequestError(
            tr(
                "model: %(keys)s: give one source, an object with 'config' and perhaps 'name'.",
                keys=", ".join(map(str, reference)) or "{}",
            ),
            field="model",
            hint=tr('Give {"model": {"config": { ... }}}.'),
        )
    name = reference.get("name") or ""
    if not isinstance(name, str):
        raise RequestError(
            tr("model.name: %(value)s is not a text.", value=repr(name)[:60]),
            field="model.name",
            hint=tr('Give {"model": {"config": { ... }, "name": "my-model"}}.'),
        )
    architecture = read_config(reference["config"], name=name)
    return Model(name=architecture.name, architecture=architecture, num_params=architecture.num_params, source="config")
