"""What stands on one device between the passes of a step, line by line, each with the formula that makes it.

Trained and frozen tensors, dense ones and experts, and tensors of different formats are lines of their own, so that a
reader can follow each sum: how many parameters, how many bytes each, among how many devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vrameter.i18n import tr
from vrameter.ledger import Item, item
from vrameter.memory import optimizer as opt
from vrameter.memory import training_state as sums
from vrameter.training.holdings import Holding
from vrameter.training.setup import Setup
from vrameter.units import ceil_div

SHAPES = "shapes of the model and how each is stored"
STATE = (
    "PyTorch 2.13, torch/optim; bitsandbytes 0.50, optim/optimizer.py: numbers per parameter, blocks with their scales"
)
DEALT = "Megatron-LM, layer-wise optimizer: whole tensors, dealt out to devices by size"
PEFT = "peft 0.21, tuners: what is trained beside a frozen base"


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of the ledger that are of one kind."""

    items: tuple[Item, ...] = ()

    @property
    def bytes(self) -> int:
        """Their sum. [bytes]."""
        return sum(each.bytes for each in self.items)


NO_LINES = Lines()


def numbers(
    term: str, count: int, element: int, shards: int, held: int, *, phases: tuple[str, ...], source: str, note: str = ""
) -> Item:
    """Return the line of one number of `element` bytes for each of `count` parameters; `held` is its size. [bytes]."""
    whole = ceil_div(count * element, shards)
    if shards == 1 and held == whole:
        return item(
            term, sums.numbers_bytes, phases=phases, source=source, note=note, num_params=count, element_bytes=element
        )
    return item(
        term, sums.sharded_bytes, phases=phases, source=source, note=note, num_params=count, element_bytes=element,
        shards=shards, rounding=held - whole,
    )  # fmt: skip


def of_trained(
    holding: Holding,
    term: str,
    element: int,
    *,
    split: bool,
    phases: tuple[str, ...],
    source: str,
    note: str = "",
    sizes: tuple[tuple[int, int, int], ...] | None = None,
) -> Lines:
    """Return one number of `element` bytes for each trained parameter of the model itself.

    Parameters
    ----------
    split
        Whether each device holds a shard of it.
    sizes
        Only these of the trained tensors.
    """
    if not element:
        return NO_LINES
    found: dict[int, list[int]] = {}
    for size, times, shards in holding.trained_sizes if sizes is None else sizes:
        shards = shards if split else 1
        entry = found.setdefault(shards, [0, 0])
        entry[0] += times * size
        entry[1] += times * ceil_div(size * element, shards)
    return Lines(
        tuple(
            numbers(term, count, element, shards, held, phases=phases, source=source, note=note)
            for shards, (count, held) in found.items()
        )
    )


def weights(holding: Holding, phases: tuple[str, ...]) -> Lines:
    """Return the weights of the model itself: what is trained, and what is frozen in each of its formats.

    Transformer Engine keeps two float8 copies of each matrix, by rows and by columns, beside the 16-bit one, or in its
    place (``fp8-param-gather``).
    """
    setup = holding.setup
    if setup.offloads_weights:
        return NO_LINES
    split = setup.degrees.splits_weights
    items = list(
        of_trained(
            holding,
            "weights",
            setup.recipe.weight,
            split=split,
            phases=phases,
            source=SHAPES,
            note=tr("trained"),
            sizes=holding.stored_sizes,
        ).items
    )
    frozen: dict[tuple[str, int, int], list[int]] = {}
    notes: dict[str, str] = {}
    for times, size, form, quantized, scales, shards in holding.frozen_pieces:
        shards = shards if split else 1
        element = quantized // size if form.plain and size and quantized % size == 0 else 0
        entry = frozen.setdefault((form.name, element, shards), [0, 0, 0, 0])
        entry[0] += times * size
        entry[1] += times * quantized
        entry[2] += times * scales
        entry[3] += times * ceil_div(quantized + scales, shards)
        notes[form.name] = form.name if form.plain else f"{form.name}: {form.formula}"
    for (name, element, shards), (count, quantized, scales, held) in frozen.items():
        note = tr("frozen, %(format)s", format=notes[name])
        if element:
            items.append(numbers("weights", count, element, shards, held, phases=phases, source=SHAPES, note=note))
            continue
        whole = ceil_div(quantized + scales, shards)
        if shards == 1 and held == whole:
            items.append(
                item(
                    "weights",
                    sums.packed_bytes,
                    phases=phases,
                    source=SHAPES,
                    note=note,
                    quantized=quantized,
                    scales=scales,
                )
            )
        else:
            items.append(
                item("weights", sums.sharded_packed_bytes, phases=phases, source=SHAPES, note=note, quantized=quantized,
                     scales=scales, shards=shards, rounding=held - whole)
            )  # fmt: skip
    copied = sum(size * times for size, times, _ in holding.float8_sizes)
    if copied:
        items.append(
            item("weights", sums.numbers_bytes, phases=phases, num_params=copied, element_bytes=2, note=tr("float8 copies, by rows and by columns"),
                 source="Transformer Engine 2.x: two float8 copies of each matrix beside the 16-bit one")
        )  # fmt: skip
    return Lines(tuple(items))


def side(
    holding: Holding,
    term: str,
    elements: tuple[int, int],
    *,
    split: bool,
    phases: tuple[str, ...],
    source: str = PEFT,
    note: str = "",
) -> Lines:
    """Return one number for each parameter beside a frozen base: of adapters, and of modules trained as copies.

    Parameters
    ----------
    elements
        Size of a number of an adapter, and of a copied module. [bytes]
    """
    counts = (holding.adapter_parameters, holding.copied_parameters)
    groups = (
        [(counts, elements[0])]
        if elements[0] == elements[1]
        else [((counts[0], 0), elements[0]), ((0, counts[1]), elements[1])]
    )
    return Lines(
        tuple(
            item(term, sums.side_bytes, phases=phases, source=source, note=note, adapter_params=adapted, copied_params=copied,
                 shards=holding.setup.degrees.shards if split else 1, element_bytes=element)
            for (adapted, copied), element in groups if element and (adapted or copied)
        )
    )  # fmt: skip


def held_frozen(setup: Setup, *, phases: tuple[str, ...]) -> Lines:
    """Return what an adapter's method holds frozen beside the base: bases that layers share, factors of matrices."""
    size = setup.adapters.frozen_bytes if setup.adapters else 0
    if not size:
        return NO_LINES
    return Lines((
        item("adapters", sums.frozen_side_bytes, phases=phases, source=PEFT, note=tr("held frozen by the method"), size=size),
    ))  # fmt: skip


def adapter_note(setup: Setup) -> str:
    """Return what an adapter's parameters are of."""
    adapters, asked = setup.adapters, setup.settings.adapter
    if adapters is None or asked is None:
        return ""
    if adapters.uses:
        return tr("%(method)s of rank %(rank)s", method=asked.method, rank=asked.rank)
    return asked.method


def kind_in_words(what: str) -> str:
    """Return which numbers of an optimizer a line is of, where they are not its moments."""
    words = {
        "sums": tr("sums of rows and columns instead of a moment"),
        "projector": tr("matrices that project gradients"),
        "preconditioners": tr("squares of the rows and of the columns"),
    }
    return words.get(what, "")


def state(holding: Holding, *, phases: tuple[str, ...], elements: tuple[int, int]) -> Lines:
    """Return the optimizer's state: of the model's own trained tensors, kind by kind, and of what is beside them."""
    setup = holding.setup
    rule, element, split = setup.rule, setup.recipe.state_element, setup.degrees.splits_state
    if setup.offloads_optimizer or rule.paged:
        return NO_LINES
    rank = opt.projection_rank(setup.settings.optimizer_args)
    found: dict[tuple[opt.Kept, int], list[int]] = {}
    for tensor in holding.parameters:
        for kept in opt.kept_of(rule, tensor, element=element, rank=rank):
            kind = opt.Kept(kept.what, 0, kept.moments, kept.element, kept.bits, kept.block)
            entry = found.setdefault((kind, tensor.share), [0, 0])
            entry[0] += tensor.times * kept.count
            entry[1] += tensor.times * ceil_div(kept.bytes, tensor.share)
    items = [_state_item(kind, shards, count, held, phases) for (kind, shards), (count, held) in found.items()]
    counts = (holding.adapter_parameters, holding.copied_parameters)
    shards = setup.degrees.shards if split else 1
    parts = (
        [(sum(counts), elements[0])]
        if rule.bits or elements[0] == elements[1]
        else [*zip(counts, elements, strict=True)]
    )
    for count, size in parts:
        if not (count and rule.moments):
            continue
        kind = opt.Kept("moments", 0, rule.moments, size, rule.bits, rule.block if rule.bits else 0)
        whole = opt.Kept("moments", ceil_div(count, shards), rule.moments, size, kind.bits, kind.block)
        items.append(
            _state_item(kind, 1, whole.count, whole.bytes, phases, note=tr("of what is trained beside the base"))
        )
    return Lines(tuple(each for each in items if each.bytes))


def dealt(holding: Holding, *, phases: tuple[str, ...]) -> tuple[Lines, Lines]:
    """Return masters and state of the fullest device where whole tensors are dealt out to devices."""
    setup = holding.setup
    masters: list[Item] = []
    kept: list[Item] = []
    for share in sorted({tensor.share for tensor in holding.parameters}):
        tensors = [tensor for tensor in holding.parameters if tensor.share == share for _ in range(tensor.times)]
        copies = [each.size * setup.recipe.master for each in tensors]
        states = [opt.state_of(setup.rule, each, element=setup.recipe.state_element) for each in tensors]
        both = opt.dealt_bytes(map(sum, zip(copies, states, strict=True)), devices=share)
        own = opt.dealt_bytes(copies, devices=share)
        for found, term, size in ((masters, "master_weights", own), (kept, "optimizer_state", both - own)):
            note = tr("%(count)s tensors among %(devices)s devices", count=len(tensors), devices=share)
            found.append(item(term, sums.dealt_bytes, phases=phases, source=DEALT, note=note, fullest=size))
    return Lines(tuple(masters)), Lines(tuple(kept))


def _state_item(kind: opt.Kept, shards: int, count: int, held: int, phases: tuple[str, ...], note: str = "") -> Item:
    one = opt.Kept(kind.what, count, kind.moments, kind.element, kind.bits, kind.block)
    rounding = held - ceil_div(one.bytes, shards)
    note = note or kind_in_words(kind.what)
    if kind.bits:
        values: dict[str, Any] = {"num_params": count, "moments": kind.moments, "bits": kind.bits, "block": kind.block}
        if shards == 1 and not rounding:
            return item("optimizer_state", opt.quantized_state_bytes, phases=phases, source=STATE, note=note, **values)
        return item("optimizer_state", opt.sharded_quantized_state_bytes, phases=phases, source=STATE, note=note,
                    shards=shards, rounding=rounding, **values)  # fmt: skip
    values = {"num_params": count, "moments": kind.moments, "element_bytes": kind.element}
    if shards == 1 and not rounding:
        return item("optimizer_state", opt.state_bytes, phases=phases, source=STATE, note=note, **values)
    return item("optimizer_state", opt.sharded_state_bytes, phases=phases, source=STATE, note=note, shards=shards,
                rounding=rounding, **values)  # fmt: skip


def total(*lines: Lines | Iterable[Item]) -> Lines:
    """Return several kinds of lines as one."""
    return Lines(tuple(each for some in lines for each in (some.items if isinstance(some, Lines) else some)))


__all__ = [
    "NO_LINES",
    "Lines",
    "adapter_note",
    "dealt",
    "held_frozen",
    "numbers",
    "of_trained",
    "side",
    "state",
    "total",
    "weights",
]
