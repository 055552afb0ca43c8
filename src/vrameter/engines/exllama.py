"""Inference with ExLlamaV2 and V3: weights by bits, a cache of fixed size, buffers for one piece of a prompt.

The token table stays in host memory, and a model that ties its head to it has the head besides. ExLlama knows no
windows: every layer caches all tokens. A quantised cache is read through keys and values of one layer in fp16.

References
----------
.. [1] ExLlamaV2 0.3.2, ``model.py``: `set_device_map`, `load_autosplit`; ``attn.py``, ``mlp.py``: `scratch_space_fixed`.
.. [2] ExLlamaV2 0.3.2, ``cache.py``: shapes of fp16, fp8 and quantised caches.
.. [3] ExLlamaV3, ``cache/quant.py``: 2 to 8 bits for keys and for values, pages of 256 tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vrameter.engines import Answer, Ask, held_layers
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import HOST, Item, Ledger, item
from vrameter.memory import activations as act
from vrameter.memory import kv_cache as kv
from vrameter.memory import runtime
from vrameter.memory.cache_formats import FORMATS, CacheFormat, grouped_format
from vrameter.memory.state_cache import state_bytes_per_sequence, state_cache_bytes
from vrameter.memory.weights import WeightPlan, weights_bytes
from vrameter.model.architecture import (
    Architecture,
    Attention,
    Component,
    FeedForward,
    LatentAttention,
    Tensor,
    remembered,
)
from vrameter.parallel import pieces, placed
from vrameter.search import MOST_SEQUENCES, MOST_TOKENS, largest_fitting
from vrameter.settings.exllama import ExllamaSettings
from vrameter.spec import check
from vrameter.units import GIB, MIB, ceil_to

PHASES = ("load", "prefill", "decode")
PAGE = 256
FALLBACK_LENGTH = 2048
RESERVES = (192 * MIB, 64 * MIB)  # left free on the first GPU and on each other while a model is split [1]
_PAIR = re.compile(r"\s*([2-8])\s*(?:[,/]\s*([2-8])\s*)?\Z")


def scratch_bytes(*, num_tokens: int, width: int, largest_matrix: int) -> int:
    """Return the buffers that layers share: states of one piece of a prompt, and a matrix unpacked to fp16.

    Formula::

        2 * (num_tokens * width + largest_matrix)

    Parameters
    ----------
    width
        Elements a token of the wider of the two kinds of layers: ``hidden_size + 2 * intermediate_size`` or the queries.
    largest_matrix
        Elements of the largest matrix of a layer.
    """
    return 2 * (num_tokens * width + largest_matrix)


def staging_bytes(*, num_tokens: int, entry_bytes: int) -> int:
    """Return keys and values of one layer in fp16, through which a quantised cache is read.

    Formula::

        num_tokens * entry_bytes
    """
    return num_tokens * entry_bytes


def rotary_bytes(*, num_tokens: int, head_dim: int) -> int:
    """Return the tables of sines and cosines in fp16.

    Formula::

        4 * num_tokens * head_dim
    """
    return 4 * num_tokens * head_dim


@remembered
def on_devices(architecture: Architecture) -> tuple[Architecture, int]:
    """Return a model without its token table, and the elements of a head that is tied to that."""
    components: list[Component] = []
    tied = 0
    for component in architecture.components:
        table = [tensor for tensor in component.tensors if tensor.slot == "token"]
        if table and component is architecture.main:
            tied = sum(tensor.size for tensor in table) if architecture.tied else 0
            component = replace(component, tensors=tuple(each for each in component.tensors if each.slot != "token"))
        components.append(component)
    return replace(architecture, components=tuple(components)), tied


def cache_format_of(mode: str) -> CacheFormat:
    """Return the storage of a cache mode.

    >>> cache_format_of("6,4").pair(128, 128)
    176
    """
    named = {"fp16": "fp16", "fp8": "fp8", "q8": "exl2-q8", "q6": "exl2-q6", "q4": "exl2-q4"}.get(mode.strip().lower())
    if named:
        return FORMATS[named]
    bits = _PAIR.match(mode)
    if bits is None:
        raise RequestError(
            tr("settings.cache_mode: '%(value)s' is no cache mode of ExLlama.", value=mode),
            field="settings.cache_mode",
            hint=tr("Use one of: %(names)s.", names="fp16, fp8, q8, q6, q4, 6,4"),
        )
    keys, values = int(bits[1]), int(bits[2] or bits[1])
    return grouped_format(f"exl3-{keys},{values}", keys, values, group=32, extra=2)


def filled(sizes: Sequence[int], rooms: Sequence[int]) -> tuple[int, ...]:
    """Return the device of each piece where one after the other is filled; what fits nowhere goes to the last.

    >>> filled([4, 4, 4], [5, 9])
    (0, 1, 1)
    """
    places, current, used = [], 0, 0
    for size in sizes:
        while used + size > rooms[current] and current < len(rooms) - 1:
            current, used = current + 1, 0
        used += size
        places.append(current)
    return tuple(places)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sequences, the tokens of each, and those of the cache in whole pages."""

    length: int
    num_seqs: int
    tokens: int


@dataclass(frozen=True)
class Run:
    """A model under given settings: what does not change with the size of its cache."""

    ask: Ask
    settings: ExllamaSettings
    plan: WeightPlan
    stored: CacheFormat

    @cached_property
    def version(self) -> int:
        """ExLlama 2 or 3: as the request says, else as the format is."""
        asked = (self.ask.request.engine_version or "").lstrip("v")
        if asked[:1] in ("2", "3") or asked.startswith("0.0"):
            return 3 if asked.startswith(("3", "0.0")) else 2
        return 3 if (self.plan.quantization or "").startswith("exl3") or self.stored.name.startswith("exl3") else 2

    @property
    def model(self) -> Architecture:
        """What lies on GPUs."""
        return on_devices(self.ask.architecture)[0]

    @cached_property
    def head_bytes(self) -> int:
        """A head tied to the token table is there besides: quantised to 6 bits, or in fp16. [bytes]."""
        tied = on_devices(self.ask.architecture)[1]
        return tied * 6 // 8 if (self.plan.quantization or "").startswith("exl") else tied * self.plan.compute_bytes

    @cached_property
    def host_bytes(self) -> int:
        """The token table, in host memory. [bytes]."""
        return self.plan.of().total - self.plan.of(self.model).total

    def shape(self, length: int, num_seqs: int) -> Shape:
        """Return what sequences of a length need; the cache has whole pages."""
        return Shape(length, num_seqs, ceil_to(max(self.settings.cache_size or length * num_seqs, 1), PAGE))

    @cached_property
    def _sizes(self) -> tuple[tuple[int, int], ...]:
        """Weights of each piece, and what it caches of a token. [bytes]."""
        found = []
        for component, index in pieces(self.model):
            entry = (
                self._entry(component.layers[index].parts) if index is not None and component.kind == "decoder" else 0
            )
            found.append((self.plan.piece_bytes(component, index), entry))
        return tuple(found)

    def _entry(self, parts: Sequence[Any], stored: CacheFormat | None = None) -> int:
        form = stored or self.stored
        total = 0
        for part in parts:
            if isinstance(part, LatentAttention):
                total += form.latent_entry(part.kv_lora_rank, part.rope_dim)
            elif isinstance(part, Attention) and part.scope not in ("cross", "encoder") and not part.shares_cache:
                total += part.num_kv_heads * form.pair(part.head_dim, part.value_dim)
        return total

    def shares(self, shape: Shape) -> dict[int, Architecture]:
        """Return what each GPU holds."""
        count = self.ask.num_devices
        if count == 1:
            return {0: self.model}
        sizes = [weights + entry * shape.tokens for weights, entry in self._sizes]
        split = self.settings.gpu_split
        if split is not None:
            rooms = [int(room * GIB) for room in split] + [0] * (count - len(split))
            return placed(self.model, filled([weights for weights, _ in self._sizes], rooms[:count]))
        if not self.ask.devices:
            return placed(self.model, filled(sizes, [-(-sum(sizes) // count) + max(sizes)] * count))
        given = self.settings.autosplit_reserve
        rooms = []
        for number, device in enumerate(self.ask.devices):
            kept = (
                RESERVES[min(number, 1)]
                if given is None
                else int(given[min(number, len(given) - 1)] * MIB)
                if given
                else 0
            )
            rooms.append(device.capacity_bytes - device.runtime_overhead[1] - kept - self._scratch_size(shape))
        return placed(self.model, filled(sizes, rooms))

    def _scratch_size(self, shape: Shape) -> int:
        return sum(line.bytes for line in self._working(self.model, shape, last=True) if "prefill" in line.phases)

    def ledgers(self, shape: Shape) -> list[Ledger]:
        """Return the ledger of every GPU, the fullest first, and of host memory."""
        shares = self.shares(shape)
        last = max(shares)
        found = [self._ledger(share, place, shape, last=place == last) for place, share in shares.items()]
        found.sort(key=lambda ledger: self._room(ledger))
        if self.host_bytes:
            found.append(Ledger(PHASES, (self._table(),), holds=tr("token table"), place=HOST))
        return found

    def _room(self, ledger: Ledger) -> int:
        """Return what is left of a GPU. [bytes]."""
        return (self.ask.devices[ledger.place].capacity_bytes if self.ask.devices else 0) - ledger.used

    def headroom(self, length: int, num_seqs: int) -> int:
        """Return what the fullest GPU has left. [bytes]."""
        return self._room(self.ledgers(self.shape(length, num_seqs))[0])

    def _table(self) -> Item:
        return item(
            "weights", weights_bytes, phases=PHASES, basis="exact", source="ExLlamaV2 0.3.2, model.py: embeddings on the CPU",
            quantized=0, scales=0, unquantized=self.host_bytes, buffers=0,
        )  # fmt: skip

    def _ledger(self, share: Architecture, place: int, shape: Shape, *, last: bool) -> Ledger:
        device = self.ask.devices[place] if self.ask.devices else None
        items = [self.plan.item(share, PHASES)]
        if last and self.head_bytes:
            items.append(
                item(
                    "weights", weights_bytes, phases=PHASES, basis="modelled",
                    source="a head tied to the token table is stored and loaded besides",
                    quantized=self.head_bytes, scales=0, unquantized=0, buffers=0,
                )
            )  # fmt: skip
        per_token = (
            sum(self._entry(layer.parts) * len(places) for layer, places in share.decoder.layer_groups)
            if share.decoder
            else 0
        )
        if per_token:
            items.append(
                item(
                    "kv_cache", kv.kv_cache_bytes, phases=PHASES, basis="exact", note=self.stored.name,
                    source="ExLlamaV2 0.3.2, cache.py: every layer caches every token of the pool",
                    num_seqs=1, num_tokens=shape.tokens, bytes_per_token=per_token, num_window_tokens=0, window_bytes_per_token=0,
                    fixed_bytes=0,
                )
            )  # fmt: skip
        items += self._working(share, shape, last=last)
        items += runtime.items(device, phases=PHASES, first="prefill", alive=items)
        many = self.ask.num_devices > 1
        return Ledger(PHASES, tuple(items), holds=held_layers(share) if many else "", place=place)

    def _working(self, share: Architecture, shape: Shape, *, last: bool) -> list[Item]:
        """Return buffers of one piece of a prompt, staging of a quantised cache, tables, states and logits."""
        main = self.ask.architecture.main
        chunk = self.settings.max_input_len * shape.num_seqs
        width, matrix, entry, dim = _widest(share)
        found: list[Item] = []
        if width:
            size = scratch_bytes(num_tokens=chunk, width=width, largest_matrix=matrix)
            found.append(
                item(
                    "temporary", scratch_bytes, phases=("prefill", "decode"), basis="modelled" if self.version == 2 else "assumed",
                    low=size if self.version == 2 else size // 2, high=size + 2 * chunk * main.hidden_size * 2,
                    source="ExLlamaV2 0.3.2, attn.py and mlp.py: fixed buffers of max_input_len tokens; V3 frees them between layers",
                    num_tokens=chunk, width=width, largest_matrix=matrix,
                )
            )  # fmt: skip
        if entry and self.stored.name != "fp16":
            found.append(
                item(
                    "temporary", staging_bytes, phases=("prefill", "decode"), basis="modelled",
                    source="ExLlamaV2 0.3.2, cache.py: keys and values of one layer in fp16 beside a quantised cache",
                    num_tokens=shape.tokens, entry_bytes=entry,
                )
            )  # fmt: skip
        if dim:
            found.append(
                item(
                    "temporary", rotary_bytes, phases=PHASES, basis="modelled",
                    source="ExLlamaV2 0.3.2, device.py: sines and cosines of max_seq_len positions in fp16",
                    num_tokens=shape.length, head_dim=dim,
                )
            )  # fmt: skip
        found.append(
            item(
                "activations", act.activation_bytes, phases=("prefill",), basis="assumed",
                low=chunk * main.hidden_size * 2, high=3 * chunk * main.hidden_size * 4,
                source="assumed: the state of one piece of a prompt, and its copy", num_tokens=chunk,
                block_width=2 * main.hidden_size, rotary_width=0, element_bytes=2,
            )
        )  # fmt: skip
        state = state_bytes_per_sequence(share, element_bytes=2)
        if state:
            found.append(
                item(
                    "state_cache", state_cache_bytes, phases=("prefill", "decode"), basis="modelled",
                    source="ExLlamaV3, cache/recurrent.py: states of every sequence",
                    num_seqs=shape.num_seqs, bytes_per_sequence=state,
                )
            )  # fmt: skip
        if last and main.vocab_size:
            rows = shape.num_seqs
            found.append(
                item(
                    "logits", act.logits_bytes, phases=("prefill", "decode"), basis="modelled",
                    high=2 * act.logits_bytes(num_rows=rows, vocab_size=main.vocab_size, element_bytes=2),
                    source="logits of one position of each sequence in fp16, and their fp32 copy",
                    num_rows=rows, vocab_size=main.vocab_size, element_bytes=2,
                )
            )  # fmt: skip
        return found

    def limits(self, length: int, num_seqs: int) -> dict[str, int]:
        """Return the longest sequences and the most of them that fit, each with the other as asked."""
        if not self.ask.devices or self.settings.cache_size:
            return {}
        most = self.ask.architecture.main.max_positions or MOST_TOKENS
        return {
            "max_seq_len": largest_fitting(lambda tokens: self.headroom(tokens, num_seqs), most=most, start=length),
            "max_batch_size": largest_fitting(
                lambda count: self.headroom(length, count), most=MOST_SEQUENCES, start=num_seqs
            ),
        }


@remembered
def _widest(share: Architecture) -> tuple[int, int, int, int]:
    """Return the widest state of a layer, its largest matrix, its largest fp16 cache entry and its rotary width."""
    width = matrix = entry = dim = 0
    component = share.decoder
    for layer, _ in component.layer_groups if component is not None else ():
        hidden = share.main.hidden_size
        for part in layer.parts:
            if isinstance(part, FeedForward):
                width = max(width, hidden + 2 * max(part.intermediate_size, part.shared_size))
            elif isinstance(part, LatentAttention):
                width = max(width, part.num_heads * (part.nope_dim + part.rope_dim), hidden)
                entry, dim = max(entry, 2 * (part.kv_lora_rank + part.rope_dim)), max(dim, part.rope_dim)
            elif isinstance(part, Attention):
                width = max(width, part.num_heads * part.head_dim, hidden)
                entry = max(entry, 2 * part.num_kv_heads * (part.head_dim + part.value_dim))
                dim = max(dim, part.head_dim)
            matrix = max([matrix, *(_one_matrix(tensor) for tensor in part.tensors if tensor.linear)])
    return width, matrix, entry, dim


def _one_matrix(tensor: Tensor) -> int:
    """Return the elements of a matrix, of one expert where several are stacked."""
    return tensor.shape[-1] * tensor.shape[-2]


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every GPU, the fullest first, and what fits at most."""
    settings: ExllamaSettings = check(ExllamaSettings, ask.request.settings, path="settings.")
    main = ask.architecture.main
    warnings: list[str] = []
    if ask.architecture.decoder is None:
        raise RequestError(
            tr("engine: ExLlama runs models that generate, and this one does not."),
            field="engine",
            hint=tr('Use "engine": "transformers".'),
        )
    degrees = ask.request.parallelism
    if degrees.num_devices > 1:
        raise RequestError(
            tr("parallelism: ExLlama is modelled as it splits by layers."),
            field="parallelism",
            hint=tr("Give num_devices alone."),
        )
    length = settings.max_seq_len or main.max_positions or FALLBACK_LENGTH
    if main.max_positions and length > main.max_positions:
        warnings.append(
            tr("max_seq_len %(value)s is beyond the %(limit)s positions that the model's config states.",
               value=length, limit=main.max_positions)
        )  # fmt: skip
    run = Run(ask, settings, ask.weight_plan(), cache_format_of(settings.cache_mode))
    shape = run.shape(length, settings.max_batch_size)
    ledgers, tokens = run.ledgers(shape), shape.tokens
    caches = [line for ledger in ledgers for line in ledger.items if line.term == "kv_cache"]
    per_token = sum(line.values["bytes_per_token"] for line in caches)
    peak = ledgers[0].peak()
    return Answer(
        ledgers=tuple((ledger, 1) for ledger in ledgers),
        settings={name: getattr(settings, name) for name in settings.__struct_fields__}
        | {"max_seq_len": length, "cache_size": tokens},
        resolved={"dtype": run.plan.dtype, "quantization": run.plan.quantization},
        kv_cache={
            "bytes_per_token": per_token,
            "pool_bytes": per_token * tokens,
            "tokens": tokens,
            "max_concurrency": tokens / length,
            "dtype": run.stored.name,
        }
        if per_token
        else None,
        report={
            "weights_bytes": sum(line.bytes for line in ledgers[0].items if line.term == "weights"),
            "kv_cache_bytes": sum(line.bytes for line in ledgers[0].items if line.term == "kv_cache"),
            "kv_bytes_per_token": per_token,
            "peak_allocated_bytes": peak.allocated,
            "peak_reserved_bytes": peak.reserved,
            "peak_used_bytes": peak.used,
        },
        limits=run.limits(length, settings.max_batch_size),
        warnings=(*run.plan.warnings, *warnings),
    )
