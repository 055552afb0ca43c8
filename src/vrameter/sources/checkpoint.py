"""A repository's files -> a model: the same steps for a folder and for the Hub.

The files that a loader would load are chosen, their headers read, the configuration read beside them, and both brought
together: the files decide what weights take, the configuration what else there is.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vrameter.errors import ConfigError, SourceError
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Component
from vrameter.model.from_tensors import components_of
from vrameter.model.packing import packing_of, parameters
from vrameter.model.placement import place
from vrameter.model.processor import with_processor
from vrameter.model.tensor_table import CHOSEN, StoredTensor, TensorTable
from vrameter.sources.place import Place
from vrameter.sources.repository import NoWeightsError, Selection, WeightSet, choose

if TYPE_CHECKING:
    from vrameter.sources import Model

# Where older quantisers put what config.json lacks.
QUANTIZATION_DOCUMENTS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
# Bounds of images; the second is the newer form.
PROCESSOR_DOCUMENTS = ("preprocessor_config.json", "processor_config.json")
_METHODS = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
# Bytes of a number, and what pickles with so many bytes a parameter hold.
_WIDTHS = {2: "bf16", 4: "fp32"}


@dataclass(frozen=True)
class Piece:
    """One component's weights."""

    part: WeightSet
    table: TensorTable


def read_checkpoint(
    place_: Place, *, source: str, name: str = "", quantization: str | None = None, only: str | None = None
) -> Model:
    """Return the model that a repository holds.

    Parameters
    ----------
    source
        What the model's `source` is to say.
    quantization
        Which of several GGUF files.
    only
        A weight file that was named.

    Raises
    ------
    VrameterError
        Where there is nothing to read, or what is there contradicts itself.
    """
    with uncollected():
        return _read(place_, source, name or place_.name, quantization, only)


@contextmanager
def uncollected() -> Iterator[None]:
    """Build a large table without the collector going through all of it again and again: nothing of it is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(place_: Place, source: str, name: str, quantization: str | None, only: str | None) -> Model:
    try:
        chosen = choose(place_.files, place_.document, name=place_.name, quantization=quantization, only=only)
    except NoWeightsError as error:
        return _from_config(place_, error, name, source)
    if chosen.layout == "gguf" or chosen.sets[0].kind == "gguf":
        return _gguf(place_, chosen, name, source)
    pieces = [Piece(part, _table(place_, part)) for part in chosen.sets]
    if chosen.layout == "pipeline":
        return _pipeline(pieces, chosen, name, source)
    if chosen.layout == "adapter":
        return _adapter(pieces[0], chosen, place_, name, source, quantization)
    return _model(pieces, chosen, place_, name, source)


def _from_config(place_: Place, error: NoWeightsError, name: str, source: str) -> Model:
    """Return what a config.json describes where there are no weights beside it that are read here."""
    from vrameter.model.read import read_config

    config = read_documents(place_, "")
    if config is None:
        raise error
    notes = [tr("There are no weight files that are read here: shapes come from config.json.")] if error.kinds else []
    return _model_of(name, read_config(config, name=name), None, source, notes)


# -- tables -------------------------------------------------------------------------------------------


def _table(place_: Place, part: WeightSet) -> TensorTable:
    """Return the tensors of a component, once each."""
    if part.kind == "torch":
        return _pickled(place_, part)
    headers = place_.headers(part.files)
    tensors: dict[str, StoredTensor] = {}
    for header in headers:
        tensors.update((tensor.name, tensor) for tensor in header.tensors)
    written_by = next((header.format for header in headers if header.format), "")
    sizes = tuple((path, header.file_bytes) for path, header in zip(part.files, headers, strict=True))
    return TensorTable("safetensors", tuple(tensors.values()), sizes, {"format": written_by} if written_by else {})


def _pickled(place_: Place, part: WeightSet) -> TensorTable:
    """Return what is known of pickles without opening them: the total of their index, else the sizes of the files."""
    sizes = tuple((path, place_.files[path]) for path in part.files)
    index = place_.document(part.index) if part.index else None
    metadata = index.get("metadata") if isinstance(index, Mapping) else None
    total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    if not isinstance(total, (int, float)) or isinstance(total, bool) or not 0 < total <= 2**63:
        total = sum(size for _, size in sizes)
    tensor = StoredTensor("pickled", (int(total) // 2,), "bf16", int(total))
    return TensorTable("torch", (tensor,), sizes, exact=False)


def joined_tables(pieces: Sequence[Piece]) -> TensorTable:
    """Return one table of several components; names of parts that have one begin with it."""
    if len(pieces) == 1 and not pieces[0].part.component:
        return pieces[0].table
    tensors: list[StoredTensor] = []
    files: list[tuple[str, int]] = []
    for piece in pieces:
        prefix = f"{piece.part.component}." if piece.part.component else ""
        tensors += [
            tensor._replace(name=f"{prefix}{tensor.name}", file=tensor.file + len(files))
            for tensor in piece.table.tensors
        ]
        files += piece.table.files
    exact = all(piece.table.exact for piece in pieces)
    return TensorTable("safetensors" if exact else "torch", tuple(tensors), tuple(files), exact=exact)


def _gguf(place_: Place, chosen: Selection, name: str, source: str) -> Model:
    """Return the model of a GGUF file or of all files of a split one."""
    from vrameter.sources.gguf import read_gguf
    from vrameter.sources.gguf_model import model_of

    with ExitStack() as opened:
        table = read_gguf(*(opened.enter_context(place_.source(path)) for path in chosen.sets[0].files))
    named = replace(table, metadata={**table.metadata, CHOSEN: chosen.chosen})
    return model_of(named, name=name, source=source, notes=chosen.notes)


# -- layouts ------------------------------------------------------------------------------------------


def _model(pieces: list[Piece], chosen: Selection, place_: Place, name: str, source: str) -> Model:
    """Return a single model, with the further modules of a sentence encoder where it has them."""
    first = pieces[0]
    notes = list(chosen.notes)
    architecture = _described(place_, first, name, notes)
    described = architecture is not None
    table = joined_tables(pieces)
    if first.table.kind == "torch" and architecture is not None:
        return _from_pickles(architecture, table, notes, name, source)
    base = architecture or Architecture(name=name, model_type="", class_name="", components=())
    for piece in pieces[1:]:
        base = replace(base, components=(*base.components, *_components(piece)))
    return _placed(base, table, name, source, notes, described=described)


def _described(place_: Place, piece: Piece, name: str, notes: list[str]) -> Architecture | None:
    """Return what the configuration beside the weights describes, None where there is none that can be read."""
    from vrameter.model.read import read_config

    config = read_documents(place_, piece.part.folder)
    if config is None:
        notes.append(tr("There is no config.json: only the weights are counted."))
        return None
    try:
        architecture = read_config(config, name=name)
        for document in PROCESSOR_DOCUMENTS:
            architecture = with_processor(architecture, place_.document(_beside(piece.part.folder, document)))
        return architecture
    except ConfigError as error:
        notes.append(
            tr("config.json is not understood (%(reason)s): only the weights are counted.", reason=error.message)
        )
        return None


def read_documents(place_: Place, folder: str) -> dict[str, Any] | None:
    """Return a folder's config.json, completed by what stands in older quantisers' files; None where there is none."""
    config = place_.document(_beside(folder, "config.json"))
    if not isinstance(config, Mapping):
        return None
    if config.get("quantization_config") or config.get("quantization"):
        return dict(config)
    for document in QUANTIZATION_DOCUMENTS:
        found = place_.document(_beside(folder, document))
        if isinstance(found, Mapping) and found:
            method = _METHODS.get(document)
            return {**config, "quantization_config": {"quant_method": method, **found} if method else dict(found)}
    return dict(config)


def _beside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _from_pickles(architecture: Architecture, table: TensorTable, notes: list[str], name: str, source: str) -> Model:
    """Return a described model whose pickles were not opened: their sizes tell the number format, and are compared."""
    width = table.num_bytes / max(1, architecture.num_stored_params)
    nearest = min(_WIDTHS, key=lambda each: abs(each - width))
    if architecture.dtype is None:
        architecture = replace(architecture, dtype=_WIDTHS[nearest])
    notes.append(
        tr(
            "The weights are pickles, which are never opened: shapes come from config.json, sizes from the list of files."
        )
    )
    if abs(width / nearest - 1) > 0.02 and not architecture.quantization_config:
        notes.append(
            tr("The files have %(bytes)s bytes, and config.json describes %(params)s numbers: they do not agree.",
               bytes=f"{table.num_bytes:,}", params=f"{architecture.num_stored_params:,}")
        )  # fmt: skip
    return _model_of(name, architecture, table, source, notes)


def _pipeline(pieces: list[Piece], chosen: Selection, name: str, source: str) -> Model:
    """Return a diffusers pipeline: a component for each of its entries."""
    components = tuple(component for piece in pieces for component in _components(piece))
    base = Architecture(name=name, model_type="", class_name="", components=components)
    notes = [*chosen.notes, tr("A pipeline of several models: only the weights are counted.")]
    return _placed(base, joined_tables(pieces), name, source, notes, described=False)


def _components(piece: Piece) -> tuple[Component, ...]:
    """Return the components of a part, their names beginning with the part's own as in the joined table."""
    prefix = piece.part.component
    renamed = [tensor._replace(name=f"{prefix}.{tensor.name}") for tensor in piece.table.tensors]
    return tuple(
        replace(component, kind="other", name=prefix if component.name == prefix else f"{prefix}.{component.name}")
        for component in components_of(parameters(renamed, packing_of(None)), name=prefix)
    )


def _adapter(piece: Piece, chosen: Selection, place_: Place, name: str, source: str, quantization: str | None) -> Model:
    """Return a PEFT adapter on its base model."""
    from vrameter.sources import resolve

    notes = list(chosen.notes)
    adapter = _components(piece)
    if not chosen.base:
        notes.append(tr("adapter_config.json names no base model: only the adapter is counted."))
        base = Architecture(name=name, model_type="", class_name="", components=adapter)
        return _placed(base, joined_tables([piece]), name, source, notes, described=False)
    try:
        model = resolve(chosen.base, quantization=quantization)
    except SourceError as error:
        raise SourceError(
            tr("model: '%(name)s' is an adapter, and its base model '%(base)s' cannot be read: %(reason)s",
               name=name, base=chosen.base, reason=error.message),
            field="model", hint=error.hint,
        ) from None  # fmt: skip
    assert model.architecture is not None
    notes = [*model.notes, *notes, tr("An adapter on %(base)s: both are counted.", base=model.name)]
    table = joined_tables([piece])
    if model.table is not None:
        first = len(model.table.files)
        added = tuple(tensor._replace(file=tensor.file + first) for tensor in table.tensors)
        table = replace(model.table, tensors=(*model.table.tensors, *added), files=(*model.table.files, *table.files))
    architecture = replace(model.architecture, components=(*model.architecture.components, *adapter))
    if model.table is None:
        return _model_of(name, architecture, None, source, notes, described=model.described)
    return _placed(architecture, table, name, source, notes, described=model.described)


def _placed(
    architecture: Architecture, table: TensorTable, name: str, source: str, notes: list[str], *, described: bool
) -> Model:
    """Return a model as its files have it."""
    placement = place(architecture, table)
    return _model_of(name, placement.architecture, table, source, [*notes, *placement.warnings], described=described)


def _model_of(
    name: str, architecture: Architecture, table: TensorTable | None, source: str, notes: Sequence[str], *, described: bool = True
) -> Model:  # fmt: skip
    from vrameter.sources import Model

    return Model(
        name=name, architecture=architecture, num_params=architecture.num_params, source=source,
        notes=tuple(dict.fromkeys(notes)), table=table, described=described,
    )  # fmt: skip


__all__ = ["joined_tables", "read_checkpoint", "read_documents"]
