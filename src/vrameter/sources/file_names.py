"""Names of weight files: shards that belong together, and what a GGUF file's name says of its quantisation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vrameter.errors import SourceError
from vrameter.i18n import tr

_SHARD = re.compile(r"(?P<stem>.+?)-(?P<number>\d{1,6})-of-(?P<total>\d{1,6})(?P<suffix>\.[a-z]+)\Z")
# The last word of a file's name that is a GGUF type or mixture; Unsloth's own mixtures begin with UD.
_QUANTIZATION = re.compile(
    r"(?:\A|[-._/])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F(?:P)?16|F(?:P)?32))(?=\Z|[-._])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Shards:
    """Files that number themselves ``-00002-of-00005``."""

    stem: str
    suffix: str
    total: int
    files: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        return len(self.files) == self.total

    def complete(self) -> tuple[str, ...]:
        """Return the files.

        Raises
        ------
        SourceError
            Where one is missing.
        """
        if not self.is_complete:
            raise SourceError(
                tr("'%(stem)s': only %(count)s of %(total)s files are there.",
                   stem=f"{self.stem}{self.suffix}", count=len(self.files), total=self.total),
                field="model",
                hint=tr("Finish the download, or name the repository on the Hub."),
            )  # fmt: skip
        return self.files


def shards_of(paths: Iterable[str]) -> tuple[Shards, ...]:
    """Return the sets of shards among files.

    >>> [(s.stem, s.total, s.is_complete) for s in shards_of(["a-00001-of-00002.gguf", "b.bin"])]
    [('a', 2, False)]
    """
    found: dict[tuple[str, str, int], dict[int, str]] = {}
    for path in paths:
        match = _SHARD.match(path)
        if match and 1 <= int(match["number"]) <= int(match["total"]):
            key = match["stem"], match["suffix"], int(match["total"])
            found.setdefault(key, {})[int(match["number"])] = path
    return tuple(
        Shards(stem, suffix, total, tuple(path for _, path in sorted(files.items())))
        for (stem, suffix, total), files in found.items()
    )


def gguf_sets(files: Mapping[str, int]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the models among GGUF files with what their names call their quantisation, the smallest first.

    Projectors of images (``mmproj``) and importance matrices are none.
    """
    paths = [
        path for path in files if path.endswith(".gguf") and not re.search(r"mmproj|imatrix", path.rpartition("/")[2])
    ]
    sharded = shards_of(paths)
    inside = {path for shards in sharded for path in shards.files}
    sets = [(quantization_of(shards.stem), shards.complete()) for shards in sharded]
    sets += [(quantization_of(path.removesuffix(".gguf")), (path,)) for path in paths if path not in inside]
    return sorted(sets, key=lambda each: (sum(files[path] for path in each[1]), each[1]))


def quantization_of(stem: str) -> str:
    """Return what a GGUF file's name calls its quantisation, in lower case.

    >>> quantization_of("Q4_K_M/Llama-3.1-8B-Instruct-Q4_K_M"), quantization_of("gemma-2b.f16"), quantization_of("ggml-model")
    ('q4_k_m', 'f16', 'ggml-model')
    """
    found = _QUANTIZATION.findall(stem)
    return found[-1].lower() if found else stem.rpartition("/")[2]


def folder_of(path: str) -> str:
    """Return the folder of a path below a repository's root; empty for the root."""
    return path.rpartition("/")[0]


def within(files: Iterable[str], folder: str) -> tuple[str, ...]:
    """Return the files that stand directly in a folder, in order."""
    return tuple(sorted(path for path in files if folder_of(path) == folder))


__all__ = ["Shards", "folder_of", "gguf_sets", "quantization_of", "shards_of", "within"]
