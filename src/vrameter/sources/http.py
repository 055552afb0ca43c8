"""Requests to one host, bounded in time and bytes.

The session, with its proxies and certificates, is huggingface_hub's. What is added are bounds: a request reads no more
than it was asked for, whatever the server sends; it ends within `SECONDS` and `SECONDS_PER_MB` for each megabyte; it is
tried `ATTEMPTS` times where the server is busy or the line breaks; and the token goes to its own host only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urljoin, urlsplit

from vrameter.errors import SourceError
from vrameter.i18n import tr

SECONDS = 60.0
SECONDS_PER_MB = 10.0
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 15.0
ATTEMPTS = 4
FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
MAX_REDIRECTS = 5
MAX_ERROR_BYTES = 2**16
MAX_SKIPPED = 2**25
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})

sleep = time.sleep


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered.

    Parameters
    ----------
    headers
        By lower-case name.
    url
        Where the body came from, after redirects.
    total
        All bytes of what a part was asked of, where the server said. [bytes]
    moved
        Whether a redirect stayed on the host, as for a repository under a new name.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    total: int | None = None
    moved: bool = False


class Broken(Exception):
    """The line broke, or the server did not keep to the protocol."""


class Endless(Broken):
    """An answer took longer than it may, which trying again would only repeat."""


class Host:
    """One host, to which the token belongs.

    Parameters
    ----------
    endpoint
        Its address: ``https://huggingface.co``.
    headers
        Sent with every request to it, ``authorization`` among them; other hosts get them without it.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], session: Any) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._headers = {name.lower(): value for name, value in headers.items()}
        self._session = session
        self._library = import_module(type(session).__module__.partition(".")[0])

    @property
    def has_token(self) -> bool:
        return "authorization" in self._headers

    def get(self, path: str, *, limit: int, span: tuple[int, int] | None = None) -> Reply:
        """Return the answer to a request, tried again where the server is busy or the line breaks.

        Parameters
        ----------
        path
            Below the endpoint, or a whole address.
        limit
            The most that a whole body may have. [bytes]
        span
            Offset and length of the part that is wanted. [bytes]

        Raises
        ------
        SourceError
            Where there is no answer within the bounds.
        """
        url = path if "://" in path else f"{self.endpoint}{path}"
        wait = FIRST_WAIT
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            try:
                reply = self._once(url, limit, span)
            except Broken as error:
                if last or (error.__cause__ is not None and self._is_hopeless(error.__cause__)):
                    raise self._unreachable(url, str(error).rstrip(".")) from None
            else:
                if reply.status not in BUSY or last:
                    return reply
                asked = reply.headers.get("retry-after", "")
                wait = max(wait, float(asked)) if asked.isdigit() else wait
                if wait > LONGEST_WAIT:
                    return reply
            sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("the last attempt returns or raises")

    def _is_hopeless(self, error: BaseException | None) -> bool:
        """Say whether trying again is in vain: nobody there, or no such host."""
        return isinstance(error, self._library.ConnectError | self._library.ConnectTimeout)

    def _once(self, url: str, limit: int, span: tuple[int, int] | None) -> Reply:
        moved = False
        for _ in range(MAX_REDIRECTS + 1):
            with self._open(url, span) as response:
                headers = {name.lower(): value for name, value in response.headers.items()}
                target = headers.get("location")
                if response.status_code not in (301, 302, 303, 307, 308) or not target:
                    body, total = self._body(response, headers, limit, span)
                    return Reply(response.status_code, headers, body, url, total, moved)
            onward = urljoin(url, target)
            self._check_redirect(url, onward)
            moved = moved or _origin(onward) == _origin(url)
            url = onward
        raise Broken(tr("more than %(count)s redirects", count=MAX_REDIRECTS))

    @contextmanager
    def _open(self, url: str, span: tuple[int, int] | None) -> Iterator[Any]:
        headers = dict(self._headers)
        headers["accept-encoding"] = "identity"
        if _origin(url) != _origin(self.endpoint):
            headers.pop("authorization", None)
            headers.pop("cookie", None)
        if span is not None:
            headers["range"] = f"bytes={span[0]}-{span[0] + span[1] - 1}"
        timeout = self._library.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
        try:
            with self._session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=False) as response:
                yield response
        except (self._library.HTTPError, self._library.InvalidURL, self._library.StreamError, ValueError) as error:
            raise Broken(str(error) or type(error).__name__) from error

    @staticmethod
    def _check_redirect(url: str, onward: str) -> None:
        old, new = urlsplit(url), urlsplit(onward)
        if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme == "http") or not new.hostname:
            raise Broken(tr("a redirect to '%(url)s'", url=onward[:100]))

    def _body(
        self, response: Any, headers: Mapping[str, str], limit: int, span: tuple[int, int] | None
    ) -> tuple[bytes, int | None]:
        """Return what is wanted of a body, and the size of the whole, reading no further than needed."""
        status = response.status_code
        if status == 416:
            return b"", 0
        if status not in (200, 206):
            return self._read(response, 0, MAX_ERROR_BYTES), None
        if headers.get("content-encoding", "identity") not in ("identity", ""):
            raise Broken(tr("the answer is compressed, which was not asked for"))
        if span is None:
            body = self._read(response, 0, limit + 1)
            if len(body) > limit:
                raise Broken(tr("the answer is longer than %(limit)s bytes", limit=limit))
            return body, len(body)
        first, total = (0, _whole(headers.get("content-length"))) if status == 200 else _content_range(headers)
        skipped = span[0] - first
        if not 0 <= skipped <= MAX_SKIPPED:
            raise Broken(tr("the server sends another part than was asked for"))
        body = self._read(response, skipped, span[1])
        if total is not None and len(body) < min(span[1], max(0, total - span[0])):
            raise Broken(tr("the server sent less than it said"))
        return body, total

    @staticmethod
    def _read(response: Any, skipped: int, length: int) -> bytes:
        """Return `length` bytes behind `skipped`, fewer where the body ends, and leave the rest unread."""
        deadline = time.monotonic() + SECONDS + SECONDS_PER_MB * (skipped + length) / 10**6
        held = bytearray()
        for chunk in response.iter_raw():
            dropped = min(skipped, len(chunk))
            skipped -= dropped
            held += chunk[dropped : dropped + length - len(held)]
            if len(held) >= length:
                break
            if time.monotonic() > deadline:
                raise Endless(tr("the answer does not end"))
        return bytes(held)

    def _unreachable(self, url: str, reason: str) -> SourceError:
        error = SourceError(
            tr(
                "'%(host)s' does not answer as it should: %(reason)s.",
                host=urlsplit(url).hostname or url,
                reason=reason,
            ),
            field="model",
            hint=tr("Check the network, proxy and HF_ENDPOINT, or give a folder or file on this machine."),
        )
        error.unreachable = True
        return error


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else None


def _content_range(headers: Mapping[str, str]) -> tuple[int, int | None]:
    """Return where a part begins and how long the whole is."""
    unit, _, span = headers.get("content-range", "").partition(" ")
    place, _, total = span.partition("/")
    first = _whole(place.partition("-")[0])
    if unit.lower() != "bytes" or first is None:
        raise Broken(tr("the server does not say which part it sends"))
    return first, _whole(total)


__all__ = ["Broken", "Host", "Reply"]
