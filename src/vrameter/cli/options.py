"""Request fields as flags, from their one declaration.

A field of `Request`, `Parallelism` or an engine's settings becomes the flag of the same name; its description and
bounds are those of the field.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
from msgspec import Meta, Struct

from vrameter.errors import RequestError, VrameterError
from vrameter.i18n import tr
from vrameter.settings import struct_of, structs
from vrameter.spec import Parallelism, Request

FORMATS = ("human", "json", "md", "quiet")
USUAL = "transformers"
# Flags that are no engine's settings.
COMMON = frozenset({
    "config", "task", "method", "dtype", "quantization", "device", "num_devices", "engine", "engine_version", "set", "format",
    "check", "term", "online", "help", *(f"{name}_parallel" for name in ("tensor", "pipeline", "data", "expert", "context")),
    "tp", "pp", "dp", "ep", "cp",
})  # fmt: skip
SHORT = {"tensor": "--tp", "pipeline": "--pp", "data": "--dp", "expert": "--ep", "context": "--cp"}
MOST_WORDS = 8  # of a field's words in its help
ALL = "all-linear"  # a word in the place of a list of names
_THOUSANDS = re.compile(r"(\d+)([kKmM])\Z")


class Whole(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A whole number; ``32k`` is 32 x 1024."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _THOUSANDS.match(value)
        if match:
            return int(match[1]) * (1024 if match[2] in "kK" else 1024**2)
        try:
            return int(value.replace(",", "").replace("_", ""))
        except ValueError:
            self.fail(tr("'%(value)s' is not a whole number.", value=value), param, ctx)


def help_of(hint: Any) -> str:
    """Return the description of a field."""
    for kind in (hint, *get_args(hint)):
        for meta in (kind, *getattr(kind, "__metadata__", ())):
            if isinstance(meta, Meta) and meta.description:
                return tr(meta.description)
    return ""


def question_options() -> list[click.Parameter]:
    """Return the flags of a question; those of settings are the chosen engine's."""
    return [
        click.Option(["--config"], metavar="FILE", help=tr("read the shape from this config.json")),
        online_option(),
        click.Option(["--task"], metavar="inference|training", help=tr("what the model is to do")),
        click.Option(
            ["--method"], metavar="architecture|rule-of-thumb", help=tr("exact arithmetic or the best-known rule")
        ),
        click.Option(
            ["--dtype"], metavar="NAME", help=tr("data type of unquantised weights (default: the checkpoint's)")
        ),
        click.Option(
            ["--quantization", "-q"],
            metavar="NAME",
            help=tr("format of quantised weights: fp8, awq, bnb-nf4, q4_k_m, ..."),
        ),
        click.Option(["--device", "-d"], metavar="NAME", help=tr("the GPU: rtx-4090, 2xl40s, 24GiB, ...")),
        click.Option(["--num-devices"], type=Whole(), metavar="N", help=tr("how many of them")),
        click.Option(["--engine"], metavar="NAME", help=tr("the program that runs the model (default: transformers)")),
        click.Option(["--engine-version"], metavar="VERSION", help=tr("its version (default: the newest known)")),
        *_degree_options(),
        *_setting_options(),
        click.Option(
            ["--set"], multiple=True, metavar="NAME=VALUE", help=tr("another setting under the engine's own name")
        ),
    ]


def online_option() -> click.Option:
    """Return the flag that asks the Hub."""
    return click.Option(
        ["--online"],
        is_flag=True,
        default=None,
        help=tr("ask the Hub for the model's files, even where the catalogue knows it"),
    )


def output_options(*, check: bool = True) -> list[click.Parameter]:
    """Return the flags of an answer."""
    options: list[click.Parameter] = [
        click.Option(
            ["--format", "-f", "format_"],
            type=click.Choice(FORMATS),
            default="human",
            help=tr("how to write the answer"),
        ),
        click.Option(
            ["--lang"],
            metavar="en|ko",
            expose_value=False,
            help=tr("Language of all that is shown (default: the locale)."),
        ),
    ]
    if check:
        options.append(click.Option(["--check"], is_flag=True, help=tr("exit with status 1 where it does not fit")))
    return options


def _degree_options() -> list[click.Parameter]:
    hints = get_type_hints(Parallelism, include_extras=True)
    return [
        click.Option(
            [f"--{name}-parallel", *([SHORT[name]] if name in SHORT else [])],
            type=Whole(),
            metavar="N",
            help=help_of(hints[name]),
        )
        for name in ("tensor", "pipeline", "data", "expert", "context")
    ] + (_sharding_options(hints) if _trains() else [])


# Degrees of parallelism that only training has, with their flags.
SHARDING = {
    "expert_tensor": "--expert-tensor-parallel", "virtual_pipeline": "--virtual-pipeline", "sequence": "--sequence-parallel",
    "zero_stage": "--zero-stage", "fsdp": "--fsdp", "offload": "--offload",
}  # fmt: skip


def _trains() -> bool:
    from vrameter.cli import asked

    return asked("--task") == "training"


def _sharding_options(hints: dict[str, Any]) -> list[click.Parameter]:
    """Return the flags of how training is shared, under the names of the request's fields."""
    options: list[click.Parameter] = []
    for name, flag in SHARDING.items():
        if name == "sequence":
            options.append(
                click.Option([flag, f"degree_{name}"], is_flag=True, default=None, help=help_of(hints[name]))
            )
        else:
            kind = click.STRING if name in ("fsdp", "offload") else Whole()
            options.append(
                click.Option(
                    [flag, f"degree_{name}"],
                    type=kind,
                    metavar="NAME" if kind is click.STRING else "N",
                    help=help_of(hints[name]),
                )
            )
    return options


def _settings_struct() -> type[Any] | None:
    """Return the settings of the engine that the command line names, else of the one that its words point to."""
    from vrameter.cli import asked

    task = asked("--task") or "inference"
    engine = asked("--engine")
    if engine or task == "training":
        return struct_of(engine or USUAL, task)
    usual = struct_of(USUAL)
    if _knows_all(usual):
        return usual
    pointed = struct_of(_pointed_to())
    return pointed if _knows_all(pointed) else usual


def _pointed_to() -> str:
    """Return the engine that the model or the format on the command line is usually run by."""
    from vrameter.cli import asked, words

    if any(word.lower().startswith("ollama:") for word in words()):
        return "ollama"
    format_ = (asked("-q") or asked("--quantization") or "").lower().replace("-", "_")
    for start, engine in (("mlx", "mlx"), ("exl", "exllama")):
        if format_.startswith(start):
            return engine
    if not format_:
        if any(word.lower().endswith(".gguf") for word in words()):
            return "llama.cpp"
        return "diffusers" if any(_is_pipeline(word) for word in words() if not word.startswith("-")) else USUAL
    from vrameter.model.gguf_mixture import MIXTURES

    return "llama.cpp" if format_ in MIXTURES else USUAL


def _is_pipeline(word: str) -> bool:
    from vrameter.sources import catalogue

    try:
        return catalogue.find(word).family == "diffusion"
    except VrameterError:
        return False


def _knows_all(struct: type[Any] | None) -> bool:
    """Say whether every setting among the flags of the command line is one of a struct's."""
    from vrameter.cli import words

    flags = {word.partition("=")[0][2:].replace("-", "_") for word in words() if word.startswith("--")}
    if struct is not None and flags <= {*struct.__struct_fields__, *COMMON}:
        return True
    settings = {flag.removeprefix("no_") if flag not in _every_setting() else flag for flag in flags} & _every_setting()
    return struct is not None and settings <= set(struct.__struct_fields__)


@lru_cache(maxsize=1)
def _every_setting() -> frozenset[str]:
    return frozenset(name for struct in structs().values() for name in struct.__struct_fields__)


def flag_of(setting: str) -> str:
    """Return the flag of a setting.

    >>> flag_of("max_model_len")
    '--max-model-len'
    """
    return f"--{setting.replace('_', '-')}"


def _setting_options() -> list[click.Parameter]:
    struct = _settings_struct()
    if struct is None:
        return []
    hints = get_type_hints(struct, include_extras=True)
    options: list[click.Parameter] = []
    for name in struct.__struct_fields__:
        options.append(_setting_option(name, hints[name]))
        inner = _struct_in(hints[name])
        if inner is not None:
            within = get_type_hints(inner, include_extras=True)
            options += [_setting_option(f"{name}_{field}", within[field]) for field in inner.__struct_fields__]
    return options


def _struct_in(hint: Any) -> type[Struct] | None:
    """Return the struct of a setting that is an object with fields of its own."""
    found = [kind for kind in _plain_kinds(hint) if isinstance(kind, type) and issubclass(kind, Struct)]
    return found[0] if found else None


def _setting_option(name: str, hint: Any) -> click.Option:
    """Return the flag of a setting: a switch, a number, a name, or JSON for a list or an object."""
    kinds = _plain_kinds(hint)
    flag = flag_of(name)
    text = help_of(hint)
    words = _words_of(hint)
    if list in kinds:
        return click.Option(
            [flag], type=Names(), metavar="NAME,..." if str in _item_kinds(hint) else "N,...", help=text
        )
    if words:
        return click.Option([flag], type=Value(), metavar="|".join(words), help=text)
    if kinds == {bool}:
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=text)
    if kinds == {int}:
        return click.Option([flag], type=Whole(), metavar="N", help=text)
    if kinds <= {int, float}:
        return click.Option([flag], type=click.FLOAT, metavar="X", help=text)
    return click.Option([flag], type=Value(), metavar="NAME" if kinds <= {str} else "VALUE", help=text)


def _words_of(hint: Any) -> list[str]:
    """Return the words that a field takes, where it takes nothing else and they are few."""
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    found = [word for part in get_args(hint) if not isinstance(part, Meta) for word in _words_of(part)]
    return found if len(found) <= MOST_WORDS else []


def _item_kinds(hint: Any) -> set[Any]:
    """Return the types of what stands in a field's lists."""
    if get_origin(hint) is list:
        return {kind for item in get_args(hint) for kind in (item, *get_args(item))}
    return {kind for part in get_args(hint) for kind in _item_kinds(part)}


def _plain_kinds(hint: Any) -> set[Any]:
    """Return the types that a field takes, None and bounds left out."""
    found: set[Any] = set()
    for kind in get_args(hint) or (hint,):
        if isinstance(kind, Meta) or kind is type(None):
            continue
        if isinstance(kind, str):
            found.add(str)
        elif get_args(kind) and get_origin(kind) not in (list, dict, tuple):
            found |= _plain_kinds(kind)
        else:
            found.add(get_origin(kind) or kind)
    return {get_origin(hint)} if get_origin(hint) in (list, dict, tuple) else found


class Value(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A name, or JSON: a number, a list, an object."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value[:1] in "[{0123456789-":
            import msgspec

            try:
                return msgspec.json.decode(value)
            except msgspec.DecodeError:
                return value
        return value


class Names(Value):
    """Names or numbers separated by commas, or a JSON list; one alone is a list too where only lists are taken."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not isinstance(found, str) or found == ALL:
            return found
        return [super(Names, self).convert(part.strip(), param, ctx) for part in found.split(",") if part.strip()]


def described_messages() -> list[str]:
    """Return the descriptions that fields carry, for translation."""
    found = []
    shown: list[type[Any]] = [Parallelism, Request, *structs().values()]
    hints_of = [get_type_hints(struct, include_extras=True) for struct in shown]
    inner = [
        _struct_in(hint)
        for struct, hints in zip(shown, hints_of, strict=True)
        for hint in map(hints.get, struct.__struct_fields__)
    ]
    hints_of += [get_type_hints(struct, include_extras=True) for struct in inner if struct is not None]
    for hints in hints_of:
        for hint in hints.values():
            found += [
                meta.description
                for kind in (hint, *get_args(hint))
                for meta in (kind, *getattr(kind, "__metadata__", ()))
                if isinstance(meta, Meta) and meta.description
            ]
    return found


def request_of(model: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the request that flags describe.

    Raises
    ------
    RequestError
        Where there is no model, two of them, or a setting without a value.
    """
    request: dict[str, Any] = {}
    config = given.get("config")
    if model and config:
        raise RequestError(
            tr("--config: two sources at once, '%(model)s' and '%(config)s'.", model=model, config=config),
            field="--config",
            hint=tr("Give a model's name or a config.json, not both."),
        )
    if not model and not config:
        raise RequestError(
            tr("MODEL: is missing."),
            field="model",
            hint=tr("Name one: vrameter llama-3.1-8b. List them with: vrameter models"),
        )
    if config:
        from pathlib import Path

        path = Path(config)
        request["model"] = str(path if path.is_dir() or path.suffix == ".json" else path.absolute())
        if not request["model"].startswith((".", "/", "~")):
            request["model"] = f"./{request['model']}"
    else:
        request["model"] = model
    for name in Request.__struct_fields__:
        if name in given and given[name] is not None and name not in ("model", "settings", "parallelism"):
            request[name] = given[name]
    degrees = {name: given[f"{name}_parallel"] for name in SHORT if given.get(f"{name}_parallel") is not None}
    degrees |= {name: given[f"degree_{name}"] for name in SHARDING if given.get(f"degree_{name}") is not None}
    if degrees:
        request["parallelism"] = degrees
    struct = _settings_struct()
    settings = {name: given[name] for name in struct.__struct_fields__ if given.get(name) is not None} if struct else {}
    for name, inner in _inner_structs(struct).items():
        parts = {field: given[f"{name}_{field}"] for field in inner if given.get(f"{name}_{field}") is not None}
        if parts:
            settings[name] = {**(settings.get(name) or {}), **parts}
    _merge(settings, _named_settings(given.get("set") or ()))
    if _trains() and request.get("device") is not None and _has_shape(request):
        settings.setdefault("advise", True)
    if settings:
        request["settings"] = settings
    return request


def _has_shape(request: dict[str, Any]) -> bool:
    """Say whether a question is about a model's shape, not about a number of parameters."""
    from vrameter.units import is_count

    return request.get("method") != "rule-of-thumb" and not is_count(request["model"])


def _inner_structs(struct: type[Any] | None) -> dict[str, tuple[str, ...]]:
    """Return the settings that are objects, with their fields."""
    if struct is None:
        return {}
    hints = get_type_hints(struct, include_extras=True)
    inner = {name: _struct_in(hints[name]) for name in struct.__struct_fields__}
    return {name: kind.__struct_fields__ for name, kind in inner.items() if kind is not None}


def _merge(settings: dict[str, Any], more: dict[str, Any]) -> None:
    """Put further settings into settings; objects are put together field by field."""
    for name, value in more.items():
        own = settings.get(name)
        settings[name] = {**own, **value} if isinstance(own, dict) and isinstance(value, dict) else value


def _named_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    import msgspec

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RequestError(
                tr("--set: '%(value)s' is not NAME=VALUE.", value=pair),
                field="--set",
                hint=tr("Give %(expected)s.", expected="--set batch_size=4"),
            )
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = text
        first, dot, field = name.replace("-", "_").partition(".")
        _merge(settings, {first: {field: value} if dot else value})
    return settings
