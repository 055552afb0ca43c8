"""Which files of a repository a loader would load: every weight once.

Repositories hold the same weights several times: as safetensors and as pickles, in two precisions, as the authors'
own shards beside the library's, in a dozen GGUF quantisations. `choose` goes through a list of files as the loaders
do [1]_ [2]_ and says which they would take, what else is there, and which JSON documents describe it. It reads
nothing but what it is given.

References
----------
.. [1] transformers 5.23, ``modeling_utils.py``, ``_get_resolved_checkpoint_files``: ``model.safetensors`` before its
       index, safetensors before pickles, a variant only where it is asked for.
.. [2] diffusers 0.36, ``pipelines/pipeline_loading_utils.py``: a folder for each entry of ``model_index.json``.
.. [3] llama.cpp, ``common/download.cpp``: of several GGUF files Q4_K_M, else the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vrameter.errors import SourceError
from vrameter.i18n import tr
from vrameter.model.dtypes import spelled
from vrameter.sources.file_names import Shards, folder_of, gguf_sets, shards_of, within

Layout = Literal["model", "pipeline", "modules", "adapter", "gguf"]
Kind = Literal["safetensors", "gguf", "torch"]
Read = Callable[[str], Any]

# What describes a model besides its weights.
DOCUMENTS = (
    "config.json", "preprocessor_config.json", "processor_config.json",
    "quantize_config.json", "quant_config.json", "hf_quant_config.json",
)  # fmt: skip
MODEL_STEMS = ("model", "pytorch_model")
PIPELINE_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
ADAPTER_STEMS = ("adapter_model",)
DEFAULT_GGUF = "q4_k_m"
_UNREADABLE = (
    ".onnx", ".h5", ".msgpack", ".ot", ".tflite", ".mlpackage", ".nemo", ".ckpt", ".npz", ".xml", ".engine", ".pt2",
)  # fmt: skip


class NoWeightsError(SourceError):
    """There are no weight files that are read here; `kinds` are the ends of those that are there."""

    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightSet:
    """Files that together hold one component's weights.

    Parameters
    ----------
    component
        Empty for the model itself; a pipeline's entry, a module's folder, ``adapter``.
    folder
        Where its documents stand.
    index
        The JSON file that lists its shards, where it was needed or tells sizes.
    class_name
        What a pipeline's list calls it.
    """

    component: str
    kind: Kind
    files: tuple[str, ...]
    folder: str = ""
    index: str = ""
    class_name: str = ""


@dataclass(frozen=True)
class Selection:
    """What a loader would load.

    Parameters
    ----------
    quantizations
        The quantisations among which a GGUF file was chosen, as their names spell them.
    chosen
        The one that was chosen.
    left
        Weight files that stay aside.
    base
        The model that an adapter belongs to.
    """

    layout: Layout
    sets: tuple[WeightSet, ...]
    quantizations: tuple[str, ...] = ()
    chosen: str = ""
    left: tuple[str, ...] = ()
    base: str = ""
    notes: tuple[str, ...] = ()


def choose(
    files: Mapping[str, int], read: Read, *, name: str, quantization: str | None = None, only: str | None = None
) -> Selection:
    """Return the files that a loader would load.

    Parameters
    ----------
    files
        Every path of the repository, below its root, with its bytes.
    read
        Called with a path, returns its JSON document; called only for lists of files and parts.
    name
        What to call the repository in messages.
    quantization
        Which GGUF file, where there are several.
    only
        A weight file that was named: it, or the set of shards that it belongs to.

    Raises
    ------
    SourceError
        Where there are no weights that can be read, or shards are missing.
    """
    if only is not None:
        return _one(files, read, only)
    made = _pipeline(files, read) or _modules(files, read) or _adapter(files, read)
    if made is None:
        gguf = gguf_sets(files)
        asked = {spelled(label) for label, _ in gguf} if quantization else set()
        plain = None if quantization and spelled(quantization) in asked else _model(files, read)
        made = plain or (_gguf(gguf, quantization) if gguf else None)
    if made is None:
        raise _nothing(files, name)
    used = {path for each in made.sets for path in each.files}
    left = tuple(sorted(path for path in files if path not in used and is_weight_file(path)))
    return Selection(made.layout, made.sets, made.quantizations, made.chosen, left, made.base, made.notes)


def is_weight_file(path: str) -> bool:
    """Say whether a name is that of a weight file, readable here or not."""
    return path.endswith((".safetensors", ".gguf", ".bin", ".pth", ".pt", *_UNREADABLE)) and not path.endswith(
        ("training_args.bin", "tokenizer.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "optimizer.bin")
    )


def _one(files: Mapping[str, int], read: Read, only: str) -> Selection:
    """Return the selection of one named file, or of the shards that it is one of."""
    kind: Kind = "gguf" if only.endswith(".gguf") else "safetensors" if only.endswith(".safetensors") else "torch"
    folder = folder_of(only)
    if only.endswith(".index.json"):
        chosen = _listed(files, read, only)
        return Selection("model", (WeightSet("", _kind_of(chosen[0]), chosen, folder, only),))
    found = next((shards for shards in shards_of(within(files, folder)) if only in shards.files), None)
    chosen = found.complete() if found else (only,)
    layout: Layout = "gguf" if kind == "gguf" else "model"
    return Selection(layout, (WeightSet("", kind, chosen, folder),))


# -- layouts ------------------------------------------------------------------------------------------


def _pipeline(files: Mapping[str, int], read: Read) -> Selection | None:
    """Return a diffusers pipeline: one set for each entry that has weights."""
    if "model_index.json" not in files:
        return None
    index = read("model_index.json")
    if not isinstance(index, Mapping):
        return None
    sets: list[WeightSet] = []
    notes: list[str] = []
    for component, value in index.items():
        if component.startswith("_") or not isinstance(value, (list, tuple)) or len(value) != 2 or not value[1]:
            continue
        found = _standard(files, read, component, PIPELINE_STEMS, notes)
        if found is not None:
            kind, chosen, listed = found
            sets.append(WeightSet(component, kind, chosen, component, listed, str(value[1])))
    return Selection("pipeline", tuple(sets), notes=tuple(dict.fromkeys(notes))) if sets else None


def _modules(files: Mapping[str, int], read: Read) -> Selection | None:
    """Return the modules of a sentence-transformers model."""
    if "modules.json" not in files:
        return None
    modules = read("modules.json")
    if not isinstance(modules, list):
        return None
    sets: list[WeightSet] = []
    notes: list[str] = []
    for module in modules:
        folder = module.get("path") if isinstance(module, Mapping) else None
        if not isinstance(folder, str):
            continue
        folder = folder.strip("/")
        found = _standard(files, read, folder, MODEL_STEMS, notes)
        if found is not None:
            kind, chosen, listed = found
            sets.append(WeightSet(folder, kind, chosen, folder, listed))
    return Selection("modules", tuple(sets), notes=tuple(notes)) if sets else None


def _adapter(files: Mapping[str, int], read: Read) -> Selection | None:
    """Return a PEFT adapter, which needs its base model; one beside a full model is left aside."""
    if "adapter_config.json" not in files:
        return None
    notes: list[str] = []
    if _standard(files, read, "", MODEL_STEMS, []) is not None:
        return None
    found = _standard(files, read, "", ADAPTER_STEMS, notes)
    if found is None:
        return None
    kind, chosen, listed = found
    document = read("adapter_config.json")
    base = document.get("base_model_name_or_path") if isinstance(document, Mapping) else None
    sets = (WeightSet("adapter", kind, chosen, "", listed),)
    return Selection("adapter", sets, base=base if isinstance(base, str) else "", notes=tuple(notes))


def _model(files: Mapping[str, int], read: Read) -> Selection | None:
    """Return one model's weights: in the root, else in the one folder that has them."""
    notes: list[str] = []
    found = _standard(files, read, "", MODEL_STEMS, notes) or _unusual(files, "", notes)
    if found is not None:
        kind, chosen, listed = found
        return Selection("model", (WeightSet("", kind, chosen, "", listed),), notes=tuple(notes))
    folders = sorted({folder_of(path) for path in files if path.endswith((".safetensors", ".bin", ".pth"))} - {""})
    for with_config in (True, False):
        for folder in folders:
            if with_config and f"{folder}/config.json" not in files:
                continue
            found = _standard(files, read, folder, PIPELINE_STEMS, notes) or _unusual(files, folder, notes)
            if found is not None:
                kind, chosen, listed = found
                notes.append(tr("The weights are those of the folder '%(folder)s'.", folder=folder))
                return Selection("model", (WeightSet("", kind, chosen, folder, listed),), notes=tuple(notes))
    return None


def _gguf(sets: list[tuple[str, tuple[str, ...]]], quantization: str | None) -> Selection:
    """Return the GGUF file of a quantisation, in one piece or several."""
    labels = tuple(dict.fromkeys(label for label, _ in sets))
    notes: list[str] = []
    if quantization:
        matching = [each for each in sets if spelled(each[0]) == spelled(quantization)]
        if not matching:
            matching = _default_gguf(sets)
            notes.append(
                tr("There is no GGUF file in %(value)s (there are: %(names)s): the same model is counted as it would be so.",
                   value=quantization, names=", ".join(labels))
            )  # fmt: skip
    else:
        matching = _default_gguf(sets)
        if len(labels) > 1:
            notes.append(
                tr("Several GGUF files: %(chosen)s is taken. Name another as the quantisation: %(names)s.",
                   chosen=matching[0][0], names=", ".join(labels))
            )  # fmt: skip
    label, files = matching[0]
    return Selection("gguf", (WeightSet("", "gguf", files, folder_of(files[0])),), labels, label, notes=tuple(notes))


def _default_gguf(sets: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
    return [each for each in sets if spelled(each[0]) == spelled(DEFAULT_GGUF)] or sets


# -- one folder ---------------------------------------------------------------------------------------

Found = tuple[Kind, tuple[str, ...], str]


def _standard(
    files: Mapping[str, int], read: Read, folder: str, stems: tuple[str, ...], notes: list[str]
) -> Found | None:
    """Return what a loader finds in a folder under the usual names, safetensors before pickles."""
    here = within(files, folder)
    prefix = f"{folder}/" if folder else ""
    for suffix, kind in ((".safetensors", "safetensors"), (".bin", "torch")):
        for stem in stems:
            whole = f"{prefix}{stem}{suffix}"
            if whole in here:
                return kind, (whole,), ""  # type: ignore[return-value]
            index = f"{whole}.index.json"
            sets = [
                shards for shards in shards_of(here) if shards.stem == f"{prefix}{stem}" and shards.suffix == suffix
            ]
            if index in here and (len(sets) != 1 or not sets[0].is_complete or kind == "torch"):
                return kind, _listed(files, read, index), index  # type: ignore[return-value]
            if sets:
                return kind, sets[0].complete(), ""  # type: ignore[return-value]
        found = _variant(files, read, here, prefix, stems, suffix, notes)
        if found is not None:
            return found
    return None


def _variant(
    files: Mapping[str, int], read: Read, here: tuple[str, ...], prefix: str, stems: tuple[str, ...], suffix: str,
    notes: list[str],
) -> Found | None:  # fmt: skip
    """Return files such as ``model.fp16.safetensors``, where nothing else holds the weights."""
    kind = _kind_of(suffix)
    for stem in stems:
        start = f"{prefix}{stem}."
        for path in here:
            middle = path[len(start) : -len(suffix)]
            if path.startswith(start) and path.endswith(suffix) and middle and "-of-" not in middle:
                notes.append(tr("Only the variant '%(variant)s' is there.", variant=middle))
                return kind, (path,), ""
        for shards in shards_of(here):
            if shards.suffix == suffix and shards.stem.startswith(start):
                variant = shards.stem[len(start) :]
                notes.append(tr("Only the variant '%(variant)s' is there.", variant=variant))
                index = f"{prefix}{stem}{suffix}.index.{variant}.json"
                if index in here and not shards.is_complete:
                    return kind, _listed(files, read, index), index
                return kind, shards.complete(), ""
    return None


def _unusual(files: Mapping[str, int], folder: str, notes: list[str]) -> Found | None:
    """Return weights under other names: the authors' own shards first, else the largest file or set of shards."""
    here = within(files, folder)
    prefix = f"{folder}/" if folder else ""
    for suffix, kind in ((".safetensors", "safetensors"), (".pth", "torch"), (".bin", "torch"), (".pt", "torch")):
        paths = [path for path in here if path.endswith(suffix) and is_weight_file(path)]
        own = [path for path in paths if path.startswith(f"{prefix}consolidated")]
        sharded = [shards for shards in shards_of(paths) if not shards.stem.startswith(f"{prefix}consolidated")]
        if own:
            whole = f"{prefix}consolidated{suffix}"
            return kind, (whole,) if whole in own else tuple(own), ""  # type: ignore[return-value]
        inside = {path for shards in sharded for path in shards.files}
        groups = [shards.complete() for shards in sharded] + [
            (path,) for path in paths if path not in inside and not path.startswith(f"{prefix}adapter_model")
        ]
        if groups:
            groups.sort(key=lambda group: -sum(files[path] for path in group))
            if len(groups) > 1:
                others = ", ".join(group[0] for group in groups[1:4])
                notes.append(
                    tr("'%(file)s' is taken, the largest of several weight files (also: %(others)s).",
                       file=groups[0][0], others=others)
                )  # fmt: skip
            return kind, groups[0], ""  # type: ignore[return-value]
    return None


def _listed(files: Mapping[str, int], read: Read, index: str) -> tuple[str, ...]:
    """Return the files that an index lists, below the index's own folder."""
    document = read(index)
    listed = document.get("weight_map") if isinstance(document, Mapping) else None
    if not isinstance(listed, Mapping) or not listed or not all(isinstance(path, str) for path in listed.values()):
        raise SourceError(
            tr("'%(file)s': lists no weight files.", file=index),
            field="model",
            hint=tr("Name one of its weight files instead."),
        )
    folder = folder_of(index)
    prefix = f"{folder}/" if folder else ""
    paths = tuple(sorted({f"{prefix}{path}" for path in listed.values()}))
    missing = [path for path in paths if path not in files]
    if missing:
        raise SourceError(
            tr("'%(file)s': lists '%(missing)s', which is not there (%(count)s of %(total)s files are missing).",
               file=index, missing=missing[0], count=len(missing), total=len(paths)),
            field="model",
            hint=tr("Finish the download, or name the repository on the Hub."),
        )  # fmt: skip
    return paths


def _kind_of(path: str) -> Kind:
    return "safetensors" if path.endswith(".safetensors") else "gguf" if path.endswith(".gguf") else "torch"


def _nothing(files: Mapping[str, int], name: str) -> NoWeightsError:
    kinds = tuple(sorted({suffix for path in files for suffix in _UNREADABLE if path.endswith(suffix)}))
    if kinds:
        message = tr("model: '%(name)s' holds no weights that are read here, only %(kinds)s.",
                     name=name, kinds=", ".join(kinds))  # fmt: skip
    else:
        message = tr("model: '%(name)s' holds no weights and no config.json.", name=name)
    error = NoWeightsError(message, field="model", hint=tr("Name a repository with safetensors or GGUF files."))
    error.kinds = kinds
    return error


__all__ = ["DOCUMENTS", "NoWeightsError", "Selection", "Shards", "WeightSet", "choose", "is_weight_file"]
