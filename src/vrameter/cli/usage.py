"""What click refuses, in our words: the flag, its value, what to type next."""

from __future__ import annotations

import click

from vrameter.errors import RequestError, VrameterError, closest
from vrameter.i18n import tr


def explained(error: click.ClickException) -> VrameterError:
    """Return a click error as one of ours."""
    hint = tr("See: vrameter --help")
    if isinstance(error, click.NoSuchOption):
        known = [flag for param in (error.ctx.command.params if error.ctx else []) for flag in param.opts]
        near = closest(error.option_name, known)
        elsewhere = _called(error.option_name, known) or _of_another_engine(error.option_name)
        if elsewhere:
            hint, near = elsewhere, []
        return RequestError(
            tr("%(flag)s: there is no such flag.", flag=error.option_name),
            field=error.option_name,
            hint=tr("Did you mean %(names)s?", names=", ".join(near)) if near else hint,
        )
    if isinstance(error, click.MissingParameter):
        name = error.param.human_readable_name if error.param else ""
        return RequestError(tr("%(name)s: is missing.", name=name), field=name, hint=hint)
    if isinstance(error, click.BadParameter):
        name = error.param.opts[0] if error.param and error.param.opts else ""
        return RequestError(f"{name}: {error.message}" if name else error.message, field=name, hint=hint)
    if isinstance(error, click.BadOptionUsage):
        return RequestError(tr("%(flag)s: needs a value.", flag=error.option_name), field=error.option_name, hint=hint)
    return RequestError(error.format_message(), hint=hint)


def _called(flag: str, known: list[str]) -> str | None:
    """Return a hint for a flag that other programs have under another name."""
    from vrameter.settings import struct_of

    name = flag.lstrip("-").replace("-", "_")
    called = getattr(struct_of("", "training"), "CALLED", {}).get(name)
    if called is None:
        return None
    if called == "":
        return tr("It steers how training goes, not its memory: leave it out.")
    ours = "--" + called.partition(",")[0].rpartition("parallelism.")[2].replace(".", "-").replace("_", "-")
    return tr("Did you mean %(names)s?", names=ours) if ours in known else None


def _of_another_engine(flag: str) -> str | None:
    """Return a hint for a flag that another engine has."""
    from vrameter.settings import owners

    engines = owners(flag.lstrip("-").replace("-", "_"))
    if not engines:
        return None
    if engines == ["training"]:
        return tr("It is a setting of training: add --task training.")
    return tr("It is a setting of %(engines)s: add --engine %(engine)s.", engines=", ".join(engines), engine=engines[0])
