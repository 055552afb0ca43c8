"""A server on this machine that speaks the Hub's protocol, and misbehaves where it is told to.

Lists of files, files in whole and in part, redirects to a second host for weights, tokens, and the answers for what is
gated, private, renamed or not there, with the Hub's own error codes.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.checkpoints import File, Sparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LIST = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+|[^/]+)(?:/revision/(?P<revision>[^/]+))?\Z")
_TREE = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)\Z")
_FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)\Z")


@dataclass
class Repository:
    """A repository, and who may read it.

    Parameters
    ----------
    token
        What a reader must show, where it is private.
    moved
        Its new name, where it was renamed.
    """

    files: Mapping[str, File]
    commit: str = COMMIT
    gated: bool = False
    token: str = ""
    moved: str = ""


@dataclass
class Asked:
    """One request as it came in, and what was sent."""

    host: str
    path: str
    span: str
    token: str
    sent: int = 0
    status: int = 0


@dataclass
class Hub:
    """The server's state: its repositories, how it misbehaves, and what it was asked.

    Parameters
    ----------
    redirects
        Whether weights come from a second host, as from the Hub's content network.
    busy
        How many requests are refused before one is answered, and with which status.
    whole
        Whether a request for a part is answered with all of it (200).
    fault
        ``short``: fewer bytes than stated; ``cut``: the line breaks; ``endless``: bytes without end;
        ``elsewhere``: another part than asked for; ``drip``: a byte at a time; ``loop``: redirects without end.
    sizes
        Whether lists of files tell their sizes.
    page
        How many files a page of the tree lists.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    redirects: bool = False
    busy: tuple[int, int] = (0, 503)
    whole: bool = False
    fault: str = ""
    sizes: bool = True
    page: int = 1000
    asked: list[Asked] = field(default_factory=list)
    endpoint: str = ""
    elsewhere: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def weights(self) -> list[Asked]:
        """Return the requests for weight files."""
        return [each for each in self.asked if each.path.endswith((".safetensors", ".gguf"))]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        self.record = Asked(self.headers.get("host", ""), unquote(address.path), self.headers.get("range", ""), token)
        with self.hub.lock:
            self.hub.asked.append(self.record)
            left, status = self.hub.busy
            self.hub.busy = (max(0, left - 1), status)
        if left:
            return self._send(status, b"busy", {"Retry-After": "0"})
        if self.hub.fault == "loop":
            return self._send(302, b"", {"Location": self.path + "x"})
        for pattern, answer in ((_TREE, self._tree), (_LIST, self._list), (_FILE, self._file)):
            match = pattern.match(address.path)
            if match:
                return answer(match)
        return self._send(404, b"no such address")

    # -- answers ------------------------------------------------------------------------------------

    def _repository(self, match: re.Match[str]) -> Repository | None:
        name = unquote(match["name"])
        found = self.hub.repositories.get(name)
        if found is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        if found.moved:
            self._send(307, b"", {"Location": self.path.replace(name, found.moved)})
            return None
        if found.token and self.record.token != found.token:
            self._send(401, b"{}", {} if self.record.token else {"X-Error-Message": "Repository not found"})
            return None
        revision = unquote(match["revision"] or "main")
        if revision not in ("main", found.commit):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return None
        return found

    def _list(self, match: re.Match[str]) -> None:
        found = self._repository(match)
        if found is None:
            return
        blobs = [
            {"rfilename": path, **({"size": _size(content)} if self.hub.sizes else {})}
            for path, content in found.files.items()
        ]
        self._json({"id": unquote(match["name"]), "sha": found.commit, "private": bool(found.token), "siblings": blobs})

    def _tree(self, match: re.Match[str]) -> None:
        found = self._repository(match)
        if found is not None:
            entries = [{"type": "file", "path": path, "size": _size(content)} for path, content in found.files.items()]
            cursor = re.search(r"cursor=(\d+)", self.path)
            first = int(cursor[1]) if cursor else 0
            last = first + self.hub.page
            onward = f"{self.hub.endpoint}{urlsplit(self.path).path}?recursive=true&cursor={last}"
            link = {"Link": f'<{onward}>; rel="next"'} if last < len(entries) else {}
            self._json(entries[first:last], {"X-Repo-Commit": found.commit, **link})

    def _file(self, match: re.Match[str]) -> None:
        found = self._repository(match)
        if found is None:
            return
        path = unquote(match["path"])
        if found.gated:
            return self._send(403 if self.record.token else 401, b"{}", {"X-Error-Code": "GatedRepo"})
        if path not in found.files:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        content = found.files[path]
        on_hub = self.record.host not in self.hub.elsewhere
        if self.hub.redirects and isinstance(content, Sparse) and on_hub:
            return self._send(302, b"", {"Location": f"{self.hub.elsewhere}{self.path}", "X-Repo-Commit": found.commit})
        return self._content(content, found.commit)

    def _content(self, content: File, commit: str) -> None:
        size = _size(content)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": '"abc"'}
        match = re.match(r"bytes=(\d+)-(\d*)\Z", self.record.span)
        if match is None or self.hub.whole:
            return self._stream(200, content, 0, size, headers)
        first = int(match[1])
        last = min(size - 1, int(match[2])) if match[2] else size - 1
        if first >= size:
            return self._send(416, b"", {"Content-Range": f"bytes */{size}"})
        if self.hub.fault == "elsewhere":
            first += 1
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return self._stream(206, content, first, last - first + 1, headers)

    # -- bytes --------------------------------------------------------------------------------------

    def _stream(self, status: int, content: File, offset: int, length: int, headers: Mapping[str, str]) -> None:
        fault = self.hub.fault if isinstance(content, Sparse) else ""
        self.record.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault != "endless":
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault in ("short", "cut"):
            self._write(_part(content, offset, min(length // 2, 40)))
            self.close_connection = True
            return
        step = 1 if fault == "drip" else 2**18
        end = offset + length
        try:
            while offset < end or fault == "endless":
                self._write(_part(content, offset, min(step, end - offset)) if offset < end else bytes(step))
                offset += step
                if fault == "drip":
                    time.sleep(0.02)
        except OSError:
            self.close_connection = True

    def _write(self, part: bytes) -> None:
        self.wfile.write(part)
        self.record.sent += len(part)

    def _json(self, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.record.status = status
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that leaves early is no error."""


def _size(content: File) -> int:
    return content.size if isinstance(content, Sparse) else len(content)


def _part(content: File, offset: int, length: int) -> bytes:
    return content.part(offset, length) if isinstance(content, Sparse) else content[offset : offset + length]


@contextmanager
def running(repositories: Mapping[str, Repository]) -> Iterator[Hub]:
    """Serve repositories from two hosts of this machine while the block runs."""
    hub = Hub(dict(repositories))
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [_Server(("127.0.0.1", 0), handler), _Server(("127.0.0.1", 0), handler)]
    hub.endpoint, hub.elsewhere = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
