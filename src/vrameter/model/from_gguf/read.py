"""The tensor table of a GGUF file -> Architecture: its tensors under their own names, in layers of parts.

Every name of a tensor that llama.cpp has is told by a table (`vrameter.model.from_gguf.names`), so that one reader
serves every architecture: what a block holds says which parts it has. Little goes by the name of an architecture: which
layers have a window, who caches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vrameter.errors import ConfigError, closest
from vrameter.i18n import tr
from vrameter.model.architecture import Architecture, Component, Layer, Tensors
from vrameter.model.from_gguf.architectures import FIRST_SHARING_LAYER, KNOWN, WITHOUT_CACHE
from vrameter.model.from_gguf.block import Place, Shape, layer_of
from vrameter.model.from_gguf.keys import MAX_LAYERS, Keys
from vrameter.model.from_gguf.names import stem, tensor_of, use_of
from vrameter.model.from_gguf.stored import compute_dtype
from vrameter.model.from_gguf.towers import towers
from vrameter.model.from_gguf.windows import windows
from vrameter.model.from_gguf.wiring import wiring_of_file
from vrameter.model.tensor_table import TensorTable

_BLOCK = re.compile(r"(?P<prefix>(?:enc\.|dec\.)?blk)\.(?P<number>\d{1,6})\.(?P<name>.+)\Z")
_TOWER = re.compile(r"(?:v|a|mm|resampler|adapter|s|mimovl)\.")
_PROJECTOR = "clip"


@dataclass
class _Sorted:
    """The tensors of a file by where they stand."""

    blocks: dict[str, dict[int, dict[str, Shape]]] = field(default_factory=dict)
    outside: dict[str, Shape] = field(default_factory=dict)
    towers: dict[str, Shape] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def architecture_of(table: TensorTable, *, name: str = "") -> Architecture:
    """Return the architecture of a GGUF file: a language model, an encoder, or a projector file's towers.

    Parameters
    ----------
    name
        What to call it; the file's own ``general.name`` where it is empty.

    Raises
    ------
    ConfigError
        For an adapter or a vocabulary, a file that lacks blocks it counts, or an architecture not known here whose
        tensors are not known either.
    """
    metadata = table.metadata
    kind = metadata.get("general.architecture")
    if not isinstance(kind, str) or not kind:
        raise _unreadable(
            tr("the file does not say its architecture (general.architecture)."),
            tr("A file of a split set holds it in the first: give the whole set."),
        )
    _refuse_parts_of_models(metadata, table)
    found = _sort(table)
    keys = Keys(metadata, kind)
    notes: list[str] = []
    if kind == _PROJECTOR:
        components: tuple[Component, ...] = ()
        tied: tuple[str, ...] = ()
        found.towers |= found.outside
    else:
        _check_known(kind, found, notes)
        components, tied = _text(kind, keys, found)
    if found.unknown:
        notes.append(
            tr(
                "%(count)s tensors of the file have names not known here ('%(first)s' and so on); they count among "
                "the weights and nowhere else.",
                count=len(found.unknown),
                first=found.unknown[0],
            )
        )
    stated = metadata.get("general.name")
    return Architecture(
        name=name or (stated if isinstance(stated, str) else "") or kind,
        model_type=kind,
        class_name=kind,
        components=(*components, *towers(found.towers, metadata)),
        tied=tied,
        dtype=compute_dtype(table),
        notes=tuple(notes),
        wiring=wiring_of_file(keys),
    )


def _unreadable(message: str, hint: str) -> ConfigError:
    return ConfigError(tr("model: %(message)s", message=message), field="model", hint=hint)


def _refuse_parts_of_models(metadata: Mapping[str, object], table: TensorTable) -> None:
    if metadata.get("general.type") == "adapter" or "adapter.type" in metadata:
        raise _unreadable(
            tr("the file is an adapter (LoRA), not a model."),
            tr("Give the model that it adapts."),
        )
    if not table.tensors:
        raise _unreadable(
            tr("the file holds no tensors: it is a vocabulary or a part of a set."),
            tr("Give the file that holds the weights, or any file of the whole set."),
        )


def _sort(table: TensorTable) -> _Sorted:
    found = _Sorted()
    for tensor in table.tensors:
        match = _BLOCK.match(tensor.name)
        if match:
            blocks = found.blocks.setdefault(match["prefix"], {})
            blocks.setdefault(int(match["number"]), {})[match["name"]] = tensor.shape
            short = match["name"]
        elif _TOWER.match(tensor.name):
            found.towers[tensor.name] = tensor.shape
            continue
        else:
            found.outside[tensor.name] = tensor.shape
            short = tensor.name.removeprefix("enc.").removeprefix("dec.")
        if use_of(stem(short)) is None:
            found.unknown.append(tensor.name)
    return found


def _check_known(kind: str, found: _Sorted, notes: list[str]) -> None:
    """Take an architecture not known here where most of its tensors are, and say so."""
    if kind in KNOWN:
        return
    count = len(found.outside) + sum(len(block) for blocks in found.blocks.values() for block in blocks.values())
    if not found.blocks or "token_embd.weight" not in found.outside or 4 * len(found.unknown) > count:
        near = closest(kind, KNOWN)
        raise _unreadable(
            tr(
                "the architecture '%(value)s' is not known here, and its tensors are none that llama.cpp names.",
                value=kind,
            ),
            tr("Did you mean %(names)s?", names=", ".join(near))
            if near
            else tr("The tensors can still be listed: vrameter inspect FILE"),
        )
    notes.append(
        tr(
            "The architecture '%(value)s' is not known here; the file is read by the names of its tensors, and every "
            "layer is taken to look at the whole context.",
            value=kind,
        )
    )


def _text(kind: str, keys: Keys, found: _Sorted) -> tuple[tuple[Component, ...], tuple[str, ...]]:
    """Return the stacks of a language model with its head, and the names that share another's memory."""
    embedding = found.outside.get("token_embd.weight")
    hidden = keys.number("embedding_length") or (embedding[-1] if embedding else 0)
    vocabulary = embedding[0] if embedding else keys.number("vocab_size") or keys.length("tokenizer.ggml.tokens")
    encoder_only = kind in WITHOUT_CACHE or keys.get("attention.causal") is False
    components: list[Component] = []
    outside = dict(found.outside)
    heads = {name: outside.pop(name) for name in [*outside] if name.startswith(("output.", "cls"))}
    stacks = found.blocks or {"blk": {}}
    for prefix in sorted(stacks, reverse=True):
        own = {name: shape for name, shape in outside.items() if _stack_of(name, stacks) == prefix}
        encoder = encoder_only or prefix == "enc.blk"
        count = _block_count(keys, prefix, stacks[prefix])
        predicting = min(keys.number("nextn_predict_layers"), count) if prefix == "blk" and count > 1 else 0
        layers = _layers(kind, keys, prefix, stacks[prefix], count, hidden, encoder=encoder)
        loops = max(1, keys.number("num_loops", 1))
        components.append(
            Component(
                kind="encoder" if encoder else "decoder",
                name="encoder" if encoder else "decoder",
                hidden_size=hidden,
                layers=(*layers[: count - predicting], *_again(layers, loops)),
                tensors=_plain(own),
                layers_prefix=prefix,
                vocab_size=vocabulary,
                max_positions=keys.number("context_length"),
            )
        )
        if predicting:
            components.append(
                Component(
                    kind="mtp",
                    name="mtp",
                    hidden_size=hidden,
                    layers=layers[count - predicting :],
                    layers_prefix=prefix,
                    loaded=False,
                    first_layer=count - predicting,
                )
            )
    if heads:
        components.append(Component(kind="head", name="head", hidden_size=hidden, tensors=_plain(heads)))
    generates = any(component.kind == "decoder" for component in components)
    tied = ("output.weight",) if generates and embedding and "output.weight" not in heads else ()
    return tuple(components), tied


def _stack_of(name: str, stacks: Mapping[str, object]) -> str:
    """Return the stack that a tensor outside blocks belongs to: its own side's, else the one that generates."""
    side = f"{name[:4]}blk" if name.startswith(("enc.", "dec.")) else ""
    return side if side in stacks else next((each for each in ("blk", "dec.blk", "enc.blk") if each in stacks), "blk")


def _block_count(keys: Keys, prefix: str, blocks: Mapping[int, object]) -> int:
    """Return how many blocks a stack has; the file must hold each of them."""
    stated = keys.number("block_count", len(blocks))
    if prefix == "dec.blk":
        stated = keys.number("decoder_block_count", stated)
    count = max(stated, max(blocks, default=-1) + 1) if blocks else 0
    missing = [number for number in range(min(count, MAX_LAYERS)) if number not in blocks]
    stacked = keys.number("hrm.layers_per_stack")
    if stacked and missing:
        return len(blocks)
    if missing or count > MAX_LAYERS:
        raise _unreadable(
            tr(
                "the file counts %(count)s blocks and holds %(held)s: block %(first)s is missing.",
                count=count, held=len(blocks), first=missing[0] if missing else MAX_LAYERS,
            ),
            tr("Give the whole model: all files of its set, or a file that was not cut."),
        )  # fmt: skip
    return count


def _layers(
    kind: str,
    keys: Keys,
    prefix: str,
    blocks: Mapping[int, Mapping[str, Shape]],
    count: int,
    hidden: int,
    *,
    encoder: bool,
) -> tuple[Layer, ...]:
    """Return a stack's layers; equal ones are one object."""
    first_sharing = FIRST_SHARING_LAYER.get(kind, count - keys.number("attention.shared_kv_layers"))
    predicting = keys.number("nextn_predict_layers")
    scopes = windows(kind, keys, count - min(predicting, count)) if prefix == "blk" else []
    made: dict[Layer, Layer] = {}
    found = []
    for number in range(count):
        scope, window = scopes[number] if number < len(scopes) else ("full", None)
        place = Place(
            architecture=kind,
            keys=keys,
            layer=number,
            hidden_size=hidden,
            scope=scope,
            window=window,
            shares_cache=number >= first_sharing,
            encoder=encoder,
        )
        layer = layer_of(blocks[number], place)
        found.append(made.setdefault(layer, layer))
    return tuple(found)


def _again(layers: tuple[Layer, ...], loops: int) -> tuple[Layer, ...]:
    """Return the layers of further rounds through a stack, which cache again and weigh nothing."""
    if loops == 1 or loops * len(layers) > MAX_LAYERS:
        return ()
    from dataclasses import replace

    bare = {id(layer): Layer(tuple(replace(part, tensors=()) for part in layer.parts)) for layer in layers}
    return tuple(bare[id(layer)] for _ in range(loops - 1) for layer in layers)


def _plain(tensors: Mapping[str, Shape]) -> Tensors:
    return tuple(
        tensor_of(name, shape)
        if not name.startswith(("enc.", "dec."))
        else tensor_of(name[4:], shape)._replace(name=name)
        for name, shape in tensors.items()
    )


__all__ = ["architecture_of"]
