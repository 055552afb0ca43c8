"""The embedded catalogue of models: a name -> its entry, without a network.

Three files in ``data/``, written by ``tools/build_catalogue.py`` from ``catalog/``: an index of normalised names, one
line per model, and one line per distinct config. A look-up decodes the index, then one line of each of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from vrameter.data import path, read_bytes
from vrameter.errors import UnknownNameError
from vrameter.i18n import tr

if TYPE_CHECKING:
    from vrameter.model.architecture import Architecture

INDEX, MODELS, CONFIGS = "models_index.json", "models.jsonl", "model_configs.jsonl"
ADDRESSES = ("https://huggingface.co/", "http://huggingface.co/", "huggingface.co/", "hf.co/", "hf:")
MAX_NAME = 300
SHOWN = 3


class Index(msgspec.Struct, frozen=True):
    """Names to rows, and how long each line of the other files is.

    Parameters
    ----------
    names
        Normalised ``organisation/name`` and ``name`` to the row, or to several rows, the one that is meant first.
    short
        Normalised short names to rows, likewise.
    models, configs
        Bytes of each line, its end included. [bytes]
    """

    names: dict[str, int | list[int]]
    short: dict[str, int | list[int]]
    models: list[int]
    configs: list[int]


class Row(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """One line of the list of models; `config` is a line number, `overlay` what this model's config sets otherwise."""

    id: str
    config: int
    trust: str
    family: str
    published_params: int | None = None
    computed_params: int | None = None
    notes: tuple[str, ...] = ()
    overlay: dict[str, Any] = {}
    context_length: int | None = None
    license: str = ""
    release_date: str = ""
    num_downloads: int | None = None
    same_shape_as: str = ""
    difference_reason: str = ""


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue.

    Parameters
    ----------
    id
        Its repository: ``meta-llama/Llama-3.1-8B``.
    trust
        Where the shape comes from: ``full`` and ``mlc`` are real configurations; ``full-reconstructed-verified``,
        ``litgpt-verified`` and ``class-default-verified`` were rebuilt from published dimensions and have the published
        number of parameters; ``same-shape`` is another model's.
    published_params
        Elements that the checkpoint's files hold, packed ones as stored.
    computed_params
        Parameters as loaded.
    context_length
        Longest context as listed. [tokens]
    num_downloads
        Monthly downloads when the list was made, which orders names.
    note_codes
        What is not known of the entry; `notes` says it in words.
    """

    row: Row
    asked: tuple[str, ...] = field(default=(), repr=False)

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def trust(self) -> str:
        return self.row.trust

    @property
    def family(self) -> str:
        return self.row.family

    @property
    def published_params(self) -> int | None:
        return self.row.published_params

    @property
    def computed_params(self) -> int | None:
        return self.row.computed_params

    @property
    def difference_reason(self) -> str:
        return self.row.difference_reason

    @property
    def context_length(self) -> int | None:
        return self.row.context_length

    @property
    def license(self) -> str:
        return self.row.license

    @property
    def release_date(self) -> str:
        return self.row.release_date

    @property
    def num_downloads(self) -> int | None:
        return self.row.num_downloads

    @property
    def same_shape_as(self) -> str:
        """The id whose config stands for this model's; empty where it is its own."""
        return self.row.same_shape_as

    @property
    def config_is_own(self) -> bool:
        return not self.row.same_shape_as

    @property
    def note_codes(self) -> tuple[str, ...]:
        return self.row.notes

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What to know of the entry, in the language in use."""
        return (*self.asked, *(note_text(code, self.row) for code in self.row.notes))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config.json, as far as it matters to memory; what the class assumes anyway is left out."""
        config: dict[str, Any] = msgspec.json.decode(_line(CONFIGS, _index().configs, self.row.config))
        return overlaid(config, self.row.overlay)

    @cached_property
    def model_type(self) -> str:
        """The kind of network, as the config says it."""
        return str(self.config.get("model_type", ""))

    def architecture(self) -> Architecture:
        """Return the shape.

        Raises
        ------
        ConfigError
            Where no reader knows the kind of network.
        """
        from vrameter.model.read import read_config

        return read_config(self.config, name=self.id)


def overlaid(config: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Return a config with fields set; ``text_config.dtype`` names a nested one."""
    merged = dict(config)
    for name, value in overlay.items():
        outer, _, inner = name.partition(".")
        merged[outer] = {**merged.get(outer, {}), inner: value} if inner else value
    return merged


def find(name: str) -> Entry:
    """Return the entry that a name means.

    Parameters
    ----------
    name
        A repository's id, with or without its organisation, or a common short name; case, spaces and punctuation do
        not matter.

    Raises
    ------
    UnknownNameError
        With the names that look most like it.

    Examples
    --------
    >>> find("Llama 3.1 8B").id
    'meta-llama/Llama-3.1-8B'
    """
    text = name.strip()
    for address in ADDRESSES:
        text = text.removeprefix(address)
    text = text.strip("/ ")
    index = _index()
    key = normalised(text)
    known = index.names.get(key) if key else None
    short = known is None and key in index.short
    found = index.short.get(key) if known is None else known
    if found is None or len(text) > MAX_NAME:
        raise _unknown(text or name)
    rows = [_row(number) for number in ([found] if isinstance(found, int) else found)]
    exact = next((row for row in rows if row.id == text), None)
    if exact is not None:
        return Entry(exact)
    return Entry(rows[0], asked=_meant(text, rows, short=short))


def names(pattern: str = "") -> list[str]:
    """Return the ids of the catalogue in alphabetical order, or those that hold a pattern.

    Parameters
    ----------
    pattern
        Part of a name; ``*`` and ``?`` stand for any text and any sign. Case and punctuation do not matter in a part
        without them.
    """
    return [name for name in _ids() if matches(name, pattern)]


def matches(name: str, pattern: str) -> bool:
    """Say whether an id fits a pattern of `names`.

    >>> matches("Qwen/Qwen3-8B", "qwen3"), matches("Qwen/Qwen3-8B", "qwen3-?b"), matches("Qwen/Qwen3-8B", "llama")
    (True, True, False)
    """
    if any(sign in pattern for sign in "*?["):
        from fnmatch import fnmatchcase

        lowered = pattern.lower()
        return fnmatchcase(name.lower(), lowered) or fnmatchcase(name.lower().partition("/")[2], lowered)
    wanted = normalised(pattern)
    return (bool(wanted) or not pattern) and wanted in normalised(name)


def entries() -> Iterable[Entry]:
    """Yield every entry, in the order of their ids."""
    decoder = msgspec.json.Decoder(Row)
    for line in read_bytes(MODELS).splitlines():
        yield Entry(decoder.decode(line))


def normalised(text: str) -> str:
    """Return a name without case, spaces and punctuation; the organisation keeps its slash.

    >>> normalised("meta-llama/Llama 3.1-8B")
    'metallama/llama318b'
    """
    organisation, slash, name = text.rpartition("/")
    return f"{_plain(organisation)}{slash}{_plain(name)}"


def _plain(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalnum())


@lru_cache(maxsize=1)
def _index() -> Index:
    return msgspec.json.decode(read_bytes(INDEX), type=Index)


def _line(file: str, lengths: list[int], number: int) -> bytes:
    with path(file).open("rb") as stream:
        stream.seek(sum(lengths[:number]))
        return stream.read(lengths[number])


def _row(number: int) -> Row:
    return msgspec.json.decode(_line(MODELS, _index().models, number), type=Row)


@lru_cache(maxsize=1)
def _ids() -> tuple[str, ...]:
    return tuple(entry.id for entry in entries())


def _meant(text: str, rows: list[Row], *, short: bool) -> tuple[str, ...]:
    """Return the note that tells which model a name was taken for, where another would have another answer."""
    answers = {(row.computed_params, {"quantization_config", "quantization"}.isdisjoint(row.overlay)) for row in rows}
    others = ", ".join(row.id for row in rows[1 : 1 + SHOWN])
    if others and (short or len(answers) > 1):
        return (tr("'%(name)s' is taken for %(id)s (also: %(others)s).", name=text, id=rows[0].id, others=others),)
    return (tr("'%(name)s' is taken for %(id)s.", name=text, id=rows[0].id),) if short else ()


def _unknown(name: str) -> UnknownNameError:
    shown = name if len(name) <= 80 else name[:77] + "..."
    ids = sorted(entries(), key=lambda entry: -(entry.num_downloads or 0))
    known = [entry.id for entry in ids]
    if "/" not in name:
        known = [*(item.partition("/")[2] for item in known)]
    return UnknownNameError(
        tr("model: there is no '%(name)s' in the catalogue.", name=shown),
        shown,
        dict.fromkeys(known),
        field="model",
        otherwise=tr("List the names with: vrameter models. Or give its config.json: vrameter --config FILE"),
    )


def note_text(code: str, row: Row) -> str:
    """Return the sentence of a note's code; after a colon stands what it is about."""
    kind, _, about = code.partition(":")
    if kind == "window-not-recorded":
        return tr("This model's sliding window is not recorded: full attention is assumed, which never needs less.")
    if kind == "window-of-class":
        return tr("This model's sliding window is not recorded: the one that its class assumes is used.")
    if kind == "dtype-not-recorded":
        return tr("This checkpoint's data type is not recorded: %(dtype)s is assumed.", dtype=about)
    if kind == "quantization-from-name":
        return tr(
            "This repository's quantisation is read off its name: %(method)s, with that method's usual details.",
            method=about,
        )
    if kind == "quantization-not-recorded":
        return tr(
            "This repository holds %(format)s weights, and the details are not recorded: "
            "the unquantised shape is used.",
            format=about,
        )
    if kind == "gguf-repository":
        return tr(
            "This repository holds GGUF files of several sizes: the unquantised shape is used. "
            "Name one, such as q4_k_m, as the quantisation."
        )
    if kind == "count-differs":
        return tr(
            "The checkpoint is listed with %(published)s elements, and its recorded shape has %(computed)s parameters.",
            published=f"{row.published_params or 0:,}", computed=f"{row.computed_params or 0:,}",
        )  # fmt: skip
    if kind == "context-not-recorded":
        return tr("This model's longest context is not recorded.")
    if kind == "corrected":
        return tr("Its list of facts lacked %(field)s, which was filled in.", field=about)
    return code
