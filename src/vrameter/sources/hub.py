"""A repository on the Hub: its list of files, its documents, and the headers of its weights by range requests.

One request lists the files, one fetches each document, and each weight file takes one request for the start of its
header, or two where that was not all of it. Weights are never downloaded, and nothing is executed. ``HF_ENDPOINT``,
``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` mean what they mean to huggingface_hub, which is imported only here
and only when the network is needed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import quote

import msgspec

from vrameter.errors import SourceError
from vrameter.i18n import tr
from vrameter.sources import hub_errors
from vrameter.sources.byte_source import Growing
from vrameter.sources.http import Host, Reply
from vrameter.sources.hub_cache import FRESH_SECONDS, Cache, Listing
from vrameter.sources.place import MAX_DOCUMENT_BYTES, parse_document
from vrameter.sources.progress import Progress
from vrameter.sources.repository import DOCUMENTS
from vrameter.sources.safetensors import LENGTH_BYTES, Header, header_length, parse_header

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"
AT_ONCE = 8
# Asked of the first files of a set; of the others what the longest header so far had, and a little more. [bytes]
FIRST_BYTES = 3 * 2**15
LEAST_BYTES, MOST_BYTES = 2**12, 2**24
MAX_LIST_BYTES = 2**25
MAX_PAGES = 50

_REFERENCE = re.compile(r"(?P<id>[\w.-]{1,96}(?:/[\w.-]{1,96})?)(?:@(?P<revision>[^\s@]{1,200}))?\Z", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf:(?://)?")


class _Blob(msgspec.Struct):
    rfilename: str
    size: int | None = None


class _Info(msgspec.Struct):
    sha: str | None = None
    id: str = ""
    siblings: list[_Blob] | None = None


class _Entry(msgspec.Struct):
    type: str
    path: str
    size: int = 0


def parse_reference(text: str) -> tuple[str, str | None] | None:
    """Return the repository and revision that a reference names, None where it cannot be one.

    >>> parse_reference("org/name@refs/pr/3"), parse_reference("https://huggingface.co/org/name"), parse_reference("a b")
    (('org/name', 'refs/pr/3'), ('org/name', None), None)
    """
    match = _REFERENCE.match(_ADDRESS.sub("", text.strip(), count=1).strip("/"))
    if match is None or ".." in match["id"] or "--" in match["id"]:
        return None
    return match["id"], match["revision"]


def endpoint() -> str:
    """Return the address of the Hub."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Say whether the environment forbids the network."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


class HubPlace:
    """A repository at one commit.

    Parameters
    ----------
    ask
        Whether to ask where the revision points now, however fresh the answer that is kept.

    Raises
    ------
    UnknownNameError, RequestError
        Where there is no such repository or revision.
    SourceError
        Where it may not be read, or the Hub cannot be reached and nothing is kept.
    """

    def __init__(self, repository: str, revision: str | None = None, *, ask: bool = False) -> None:
        self.revision = revision or DEFAULT_REVISION
        self.asked_for = repository
        self.notes: list[str] = []
        self._cache = Cache(endpoint(), repository)
        self._host: Host | None = None
        self._listing = self._found(ask)
        self.name = self._listing.id or repository
        self._documents: dict[str, Any] = {}

    @property
    def commit(self) -> str:
        return self._listing.commit

    @property
    def files(self) -> Mapping[str, int]:
        return self._listing.files

    # -- which commit, which files ------------------------------------------------------------------

    def _found(self, ask: bool) -> Listing:
        kept = self._kept()
        if kept is not None and (is_offline() or not ask) and (kept[1] or is_offline()):
            return kept[0]
        if is_offline():
            raise hub_errors.offline(self.asked_for)
        try:
            listing = self._asked()
        except SourceError:
            if kept is None:
                raise
            self.notes.append(
                tr("The Hub does not answer: what it said of '%(name)s' earlier is used.", name=self.asked_for)
            )
            return kept[0]
        if listing.id and listing.id != self.asked_for:
            self.notes.append(tr("'%(old)s' is now called '%(new)s'.", old=self.asked_for, new=listing.id))
        if listing.commit:
            self._cache.keep_listing(self.revision, listing)
        return listing

    def _kept(self) -> tuple[Listing, bool] | None:
        """Return what is kept of the revision, and whether it may be used without asking."""
        if _COMMIT.match(self.revision):
            listing = self._cache.listing(self.revision)
            return (listing, True) if listing else None
        branch = self._cache.branch(self.revision)
        listing = self._cache.listing(branch.commit) if branch else None
        if branch is None or listing is None:
            return None
        return listing, 0 <= time.time() - branch.asked < FRESH_SECONDS

    def _asked(self) -> Listing:
        """Return the files as the Hub lists them."""
        base = f"/api/models/{self.asked_for}"
        reply = self._get(f"{base}/revision/{quote(self.revision, safe='')}?blobs=true", limit=MAX_LIST_BYTES)
        info = _decoded(reply.body, _Info, self.asked_for)
        name = info.id if parse_reference(info.id) else self.asked_for
        commit = info.sha if info.sha and _COMMIT.match(info.sha) else ""
        blobs = info.siblings or []
        if commit and blobs and all(blob.size is not None for blob in blobs):
            return Listing(name, commit, {blob.rfilename: blob.size or 0 for blob in blobs})
        revision = commit or self.revision
        return self._listed(name, f"/api/models/{name}/tree/{quote(revision, safe='')}?recursive=true", commit)

    def _listed(self, name: str, page: str, commit: str) -> Listing:
        """Return the files as the pages of the tree list them."""
        files: dict[str, int] = {}
        for _ in range(MAX_PAGES):
            reply = self._get(page, limit=MAX_LIST_BYTES)
            entries = _decoded(reply.body, list[_Entry], self.asked_for)
            files.update((entry.path, entry.size) for entry in entries if entry.type == "file")
            stated = reply.headers.get("x-repo-commit", "")
            commit = commit or (stated if _COMMIT.match(stated) else "")
            onward = re.search(r'<([^>]+)>\s*;\s*rel="?next"?', reply.headers.get("link", ""))
            if onward is None:
                break
            page = onward[1]
        return Listing(name, commit, files)

    # -- documents ----------------------------------------------------------------------------------

    def document(self, path: str) -> Any:
        """Return a JSON document, None where there is no such file."""
        if path not in self.files:
            return None
        if path not in self._documents:
            self._documents[path] = parse_document(self._text(path), f"{self.name}/{path}")
        return self._documents[path]

    def _text(self, path: str) -> bytes:
        kept = self._cache.document(self.commit, path)
        if kept is None:
            kept = self._get(self._address(path), limit=MAX_DOCUMENT_BYTES).body
            self._cache.keep_document(self.commit, path, kept)
        return kept

    def fetch_documents(self, folders: Sequence[str] = ("",)) -> None:
        """Fetch what describes the models in these folders, several documents at once."""
        paths = [f"{folder}/{name}" if folder else name for folder in folders for name in DOCUMENTS]
        missing = [path for path in paths if path in self.files and self._cache.document(self.commit, path) is None]
        if len(missing) > 1:
            _at_once(self._text, missing)

    # -- weights ------------------------------------------------------------------------------------

    def headers(self, paths: Sequence[str]) -> tuple[Header, ...]:
        """Return the headers of safetensors files; each tensor bears its file's number among them."""
        asked = tuple(paths)
        kept = self._cache.headers(self.commit, asked)
        if kept is not None:
            return kept
        longest: list[int] = []
        with Progress(tr("reading headers"), len(asked)) as progress:

            def read(number: int) -> Header:
                header = self._header(asked[number], number, _likely_length(longest))
                longest[:] = [max(*longest, header.header_bytes)] if longest else [header.header_bytes]
                progress.advance()
                return header

            headers = tuple(_at_once(read, range(len(asked))))
        self._cache.keep_headers(self.commit, asked, headers)
        return headers

    def _header(self, path: str, number: int, first: int) -> Header:
        """Return one header, in one request where `first` bytes hold it, else in two."""
        name = f"{self.name}/{path}"
        reply = self._part(path, 0, first)
        size = self.files[path] or reply.total
        length = header_length(reply.body[:LENGTH_BYTES], name=name, size=size)
        text = reply.body[LENGTH_BYTES : LENGTH_BYTES + length]
        if len(text) < length:
            text += self._part(reply.url, len(reply.body), length - len(text)).body
        if len(text) < length:
            raise SourceError(
                tr("'%(file)s': ends within its header.", file=name), field="model", hint=tr("Ask again later.")
            )
        return parse_header(text, name=name, size=size, file=number)

    def source(self, path: str) -> Growing:
        """Return a file's bytes, read from the front in ranges that grow."""

        def fetch(offset: int, length: int) -> bytes:
            kept = self._cache.part(self.commit, path, (offset, length))
            if kept is None:
                kept = self._part(path, offset, length).body
                self._cache.keep_part(self.commit, path, (offset, length), kept)
            return kept

        return Growing(fetch, name=f"{self.name}/{path}", size=self.files[path] or None)

    # -- requests -----------------------------------------------------------------------------------

    def _address(self, path: str) -> str:
        return (
            path
            if "://" in path
            else f"/{self.name}/resolve/{quote(self.commit or self.revision, safe='')}/{quote(path)}"
        )

    def _part(self, path: str, offset: int, length: int) -> Reply:
        return self._get(self._address(path), limit=length, span=(offset, length))

    def _get(self, path: str, *, limit: int, span: tuple[int, int] | None = None) -> Reply:
        if is_offline():
            raise hub_errors.offline(self.asked_for)
        reply = self._connection.get(path, limit=limit, span=span)
        if reply.status in (200, 206, 416):
            return reply
        raise hub_errors.refused(reply, self.asked_for, self.revision, self._connection)

    @cached_property
    def _connection(self) -> Host:
        from huggingface_hub import constants, get_session, get_token

        headers = {"user-agent": "vrameter"}
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        if token:
            headers["authorization"] = f"Bearer {token}"
        return Host(endpoint(), headers, get_session())


def _likely_length(longest: Sequence[int]) -> int:
    """Return how many bytes are likely to hold a header: shards of a set hold about as many tensors each."""
    if not longest:
        return FIRST_BYTES
    return min(max(longest[0] + longest[0] // 16, LEAST_BYTES), MOST_BYTES)


def _at_once(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Return the results of a few workers, in order; the first failure ends all."""
    if len(items) < 2:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(min(AT_ONCE, len(items)), thread_name_prefix="vrameter-hub")
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decoded(text: bytes, kind: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(
            tr("The Hub's answer about '%(name)s' cannot be read (%(reason)s).", name=name, reason=str(error)[:200]),
            field="model",
            hint=tr("Check HF_ENDPOINT, or ask again later."),
        ) from None


__all__ = ["HubPlace", "endpoint", "is_offline", "parse_reference"]
