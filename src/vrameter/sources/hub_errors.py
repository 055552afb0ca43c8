"""Why the Hub refused, told apart, each with the next step."""

from __future__ import annotations

from vrameter.errors import RequestError, SourceError, UnknownNameError, VrameterError
from vrameter.i18n import tr
from vrameter.sources.http import Host, Reply


def refused(reply: Reply, name: str, revision: str, host: Host) -> VrameterError:
    """Return the error that a reply means.

    The Hub answers 401 and 404 alike for what is private and what is not there, and says in ``X-Error-Code`` which
    thing it did not find.
    """
    code = reply.headers.get("x-error-code", "")
    said = reply.headers.get("x-error-message", "")
    if code == "GatedRepo":
        return _gated(name, host)
    if code == "RevisionNotFound":
        return RequestError(
            tr("model: '%(name)s' has no revision '%(revision)s'.", name=name, revision=revision),
            field="model",
            hint=tr("Leave it out for the main branch: %(name)s", name=name),
        )
    if code == "EntryNotFound":
        return SourceError(
            tr("model: '%(name)s' lists a file that is not there: %(url)s.", name=name, url=reply.url[:200]),
            field="model",
            hint=tr("Ask again later."),
        )
    if code == "DisabledRepo" or "disabled" in said.lower():
        return SourceError(
            tr("model: '%(name)s' was disabled by the Hub.", name=name),
            field="model",
            hint=tr("Look for a copy under another name."),
        )
    if code == "RepoNotFound" or reply.status == 404:
        return _missing(name, host)
    if reply.status == 401:
        return _unauthorised(name, host)
    if reply.status == 403:
        return SourceError(
            tr("model: '%(name)s' may not be read with this token.", name=name),
            field="model",
            hint=tr("Ask its owner for access, or set HF_TOKEN to a token that has it."),
        )
    if reply.status == 429:
        return SourceError(
            tr("The Hub is asked too often (429) and wants a pause."),
            field="model",
            hint=tr("Wait a few minutes.")
            if host.has_token
            else tr("Wait a few minutes, or set HF_TOKEN, which allows more."),
        )
    return SourceError(
        tr("The Hub answers %(status)s about '%(name)s'.", status=reply.status, name=name),
        field="model",
        hint=tr("Ask again later, or give a folder or file on this machine."),
    )


def _gated(name: str, host: Host) -> SourceError:
    if host.has_token:
        hint = tr(
            "Accept its terms at %(url)s with the account that HF_TOKEN belongs to.", url=f"{host.endpoint}/{name}"
        )
    else:
        hint = tr("Accept its terms at %(url)s, then set HF_TOKEN.", url=f"{host.endpoint}/{name}")
    return SourceError(
        tr("model: '%(name)s' is gated: its terms must be accepted first.", name=name), field="model", hint=hint
    )


def _missing(name: str, host: Host) -> UnknownNameError:
    from vrameter.sources import catalogue

    if host.has_token:
        message = tr("model: there is no '%(name)s' on the Hub, or this token may not see it.", name=name)
    else:
        message = tr("model: there is no '%(name)s' on the Hub, or it is private.", name=name)
    return UnknownNameError(
        message, name, catalogue.names(), field="model",
        otherwise=tr("Check the spelling. For a private repository set HF_TOKEN."),
    )  # fmt: skip


def _unauthorised(name: str, host: Host) -> SourceError:
    if host.has_token:
        return SourceError(
            tr("model: the Hub does not accept the token for '%(name)s'.", name=name),
            field="model",
            hint=tr("Set HF_TOKEN to a valid token, or unset it for public repositories."),
        )
    return SourceError(
        tr("model: '%(name)s' is private, or not there.", name=name),
        field="model",
        hint=tr("Set HF_TOKEN to a token that may read it, or check the spelling."),
    )


def offline(name: str) -> SourceError:
    """Return the error of a question that needs the network where the environment forbids it."""
    error = SourceError(
        tr("model: '%(name)s' is not kept on this machine, and HF_HUB_OFFLINE forbids to ask the Hub.", name=name),
        field="model",
        hint=tr("Unset HF_HUB_OFFLINE, or give a folder or file on this machine."),
    )
    error.unreachable = True
    return error


__all__ = ["offline", "refused"]
