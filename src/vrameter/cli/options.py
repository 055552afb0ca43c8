"""Request fields as flags, from their one declaration.

A field of `Request`, `Parallelism` or an engine's settings becomes the flag of the same name; its description and
bounds are those of the field.
"""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

import click
from msgspec import Meta

from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.spec import Parallelism, Request, TransformersSettings

FORMATS = ("human", "json", "md", "quiet")
SHORT = {"tensor": "--tp", "pipeline": "--pp", "data": "--dp", "expert": "--ep", "context": "--cp"}
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
    """Return the flags of a question."""
    return [
        click.Option(["--config"], metavar="FILE", help=tr("read the shape from this config.json")),
        click.Option(["--task"], metavar="inference|training", help=tr("what the model is to do")),
        click.Option(["--method"], metavar="architecture|rule-of-thumb", help=tr("exact arithmetic or the best-known rule")),
        click.Option(["--dtype"], metavar="NAME", help=tr("data type of unquantised weights (default: the checkpoint's)")),
        click.Option(["--quantization", "-q"], metavar="NAME", help=tr("format of quantised weights: fp8, awq, bnb-nf4, q4_k_m, ...")),
        click.Option(["--device", "-d"], metavar="NAME", help=tr("the GPU: rtx-4090, 2xl40s, 24GiB, ...")),
        click.Option(["--num-devices"], type=Whole(), metavar="N", help=tr("how many of them")),
        click.Option(["--engine"], metavar="NAME", help=tr("the program that runs the model (default: transformers)")),
        click.Option(["--engine-version"], metavar="VERSION", help=tr("its version (default: the newest known)")),
        *_degree_options(),
        *_setting_options(),
        click.Option(["--set"], multiple=True, metavar="NAME=VALUE", help=tr("another setting under the engine's own name")),
    ]


def output_options(*, check: bool = True) -> list[click.Parameter]:
    """Return the flags of an answer."""
    options: list[click.Parameter] = [
        click.Option(["--format", "-f", "format_"], type=click.Choice(FORMATS), default="human", help=tr("how to write the answer")),
        click.Option(["--lang"], metavar="en|ko", expose_value=False, help=tr("Language of all that is shown (default: the locale).")),
    ]
    if check:
        options.append(click.Option(["--check"], is_flag=True, help=tr("exit with status 1 where it does not fit")))
    return options


def _degree_options() -> list[click.Parameter]:
    hints = get_type_hints(Parallelism, include_extras=True)
    return [
        click.Option([f"--{name}-parallel", *([SHORT[name]] if name in SHORT else [])], type=Whole(), metavar="N", help=help_of(hints[name]))
        for name in ("tensor", "pipeline", "data", "expert", "context")
    ]


def _setting_options() -> list[click.Parameter]:
    hints = get_type_hints(TransformersSettings, include_extras=True)
    options: list[click.Parameter] = []
    for name in TransformersSettings.__struct_fields__:
        hint = hints[name]
        numeric = any(kind is int or int in get_args(kind) for kind in (hint, *get_args(hint)))
        options.append(
            click.Option(
                [f"--{name.replace('_', '-')}"], type=Whole() if numeric else click.STRING, metavar="N" if numeric else "NAME", help=help_of(hint)
            )
        )
    return options


def described_messages() -> list[str]:
    """Return the descriptions that fields carry, for translation."""
    found = []
    for struct in (Parallelism, TransformersSettings, Request):
        for hint in get_type_hints(struct, include_extras=True).values():
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
            tr("MODEL: is missing."), field="model", hint=tr("Name one: vrameter llama-3.1-8b. List them with: vrameter models")
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
    if degrees:
        request["parallelism"] = degrees
    settings = {name: given[name] for name in TransformersSettings.__struct_fields__ if given.get(name) is not None}
    settings.update(_named_settings(given.get("set") or ()))
    if settings:
        request["settings"] = settings
    return request


def _named_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    import msgspec

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RequestError(
                tr("--set: '%(value)s' is not NAME=VALUE.", value=pair), field="--set", hint=tr("Give %(expected)s.", expected="--set batch_size=4")
            )
        try:
            settings[name.replace("-", "_")] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            settings[name.replace("-", "_")] = text
    return settings
