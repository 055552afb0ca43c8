"""What the Hub answered, kept on disk by commit, so that the same question needs no network.

A commit never changes, so its lists, documents and headers stay good; only the name of a branch is asked again once it
is older than `FRESH_SECONDS`. Entries stand below ``$HF_HOME/vrameter``. One that cannot be read is asked for again, and
a folder that cannot be written is done without.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from vrameter.model.tensor_table import StoredTensor
from vrameter.sources.safetensors import Header

VERSION = "1"
FRESH_SECONDS = 3600
MAX_ENTRY_BYTES = 2**28

T = TypeVar("T")


class Listing(msgspec.Struct, frozen=True):
    """A repository at a commit: its name as the Hub spells it, and every file with its bytes."""

    id: str
    commit: str
    files: dict[str, int]


class Branch(msgspec.Struct, frozen=True):
    """Where a branch pointed, and when that was asked. [seconds since 1970]."""

    commit: str
    asked: float


class _Headers(msgspec.Struct, frozen=True):
    formats: list[str]
    sizes: list[tuple[int, int]]
    tensors: list[tuple[str, tuple[int, ...], str, int, int]]


def home() -> Path:
    """Return the folder that ``HF_HOME`` means."""
    stated = os.environ.get("HF_HOME")
    if stated:
        return Path(stated).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface"


class Cache:
    """The entries of one repository.

    Parameters
    ----------
    endpoint, repository
        Whose repository it is: mirrors may differ.

    Notes
    -----
    What has no commit (its name is empty) is not kept: it may change.
    """

    def __init__(self, endpoint: str, repository: str) -> None:
        host = quote(urlsplit(endpoint).netloc or endpoint, safe="")
        self.folder = home() / "vrameter" / VERSION / host / f"models--{repository.replace('/', '--')}"

    def branch(self, revision: str) -> Branch | None:
        """Return where a revision pointed when it was last asked."""
        return self._read(f"refs/{quote(revision, safe='')}", Branch)

    def listing(self, commit: str) -> Listing | None:
        """Return the files of a commit."""
        return self._read(f"{commit}/files", Listing)

    def keep_listing(self, revision: str, listing: Listing) -> None:
        """Keep the files of the commit that a revision points at now."""
        self._write(f"{listing.commit}/files", listing)
        self._write(f"refs/{quote(revision, safe='')}", Branch(listing.commit, time.time()))

    def document(self, commit: str, path: str) -> bytes | None:
        """Return a small file."""
        return self._read(f"{commit}/document-{quote(path, safe='')}", bytes)

    def keep_document(self, commit: str, path: str, text: bytes) -> None:
        """Keep a small file."""
        self._write(f"{commit}/document-{quote(path, safe='')}", text)

    def headers(self, commit: str, paths: tuple[str, ...]) -> tuple[Header, ...] | None:
        """Return the headers of files that were read together."""
        held = self._read(f"{commit}/{_digest(paths)}", _Headers)
        if held is None or len(held.formats) != len(paths) or len(held.sizes) != len(paths):
            return None
        tensors: list[list[StoredTensor]] = [[] for _ in paths]
        for each in held.tensors:
            if not 0 <= each[4] < len(paths):
                return None
            tensors[each[4]].append(StoredTensor(*each))
        return tuple(
            Header(tuple(tensors[number]), held.formats[number], *held.sizes[number]) for number in range(len(paths))
        )

    def keep_headers(self, commit: str, paths: tuple[str, ...], headers: tuple[Header, ...]) -> None:
        """Keep the headers of files, read together."""
        held = _Headers(
            [header.format for header in headers],
            [(header.header_bytes, header.file_bytes) for header in headers],
            [(*tensor,) for header in headers for tensor in header.tensors],
        )
        self._write(f"{commit}/{_digest(paths)}", held)

    def part(self, commit: str, path: str, span: tuple[int, int]) -> bytes | None:
        """Return a part of a weight file's start."""
        return self._read(f"{commit}/{_digest((path, *map(str, span)))}", bytes)

    def keep_part(self, commit: str, path: str, span: tuple[int, int], part: bytes) -> None:
        """Keep a part of a weight file's start."""
        self._write(f"{commit}/{_digest((path, *map(str, span)))}", part)

    def _read(self, name: str, kind: type[T]) -> T | None:
        if name.startswith("/"):
            return None
        try:
            file = self.folder / f"{name}.msgpack"
            if file.stat().st_size > MAX_ENTRY_BYTES:
                return None
            return msgspec.msgpack.decode(file.read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError, ValueError, RecursionError):
            return None

    def _write(self, name: str, value: Any) -> None:
        if name.startswith("/"):
            return
        try:
            file = self.folder / f"{name}.msgpack"
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".{file.name}.{os.getpid()}")
            draft.write_bytes(msgspec.msgpack.encode(value))
            draft.replace(file)
        except OSError:
            return


def _digest(paths: tuple[str, ...]) -> str:
    return sha256("\0".join(paths).encode()).hexdigest()[:32]


__all__ = ["FRESH_SECONDS", "Branch", "Cache", "Listing", "home"]
