"""A model laid out over devices under given settings, and the ledger of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from vrameter.devices import Device
from vrameter.engines import Ask, held_layers
from vrameter.engines.transformers.caches import cache_dtype, cache_items
from vrameter.engines.transformers.passes import activation_items
from vrameter.engines.transformers.placement import Share, shares_of
from vrameter.engines.transformers.shape import Shape
from vrameter.i18n import language
from vrameter.ledger import DISK, HOST, Item, Ledger, item
from vrameter.memory import activations as act
from vrameter.memory import runtime
from vrameter.memory.cache_words import cache_in_words
from vrameter.memory.weights import WeightPlan, weights_bytes
from vrameter.model.architecture import Architecture, remembered
from vrameter.parallel import tensor_share
from vrameter.search import MOST_SEQUENCES, MOST_TOKENS, largest_fitting
from vrameter.settings.transformers import TransformersSettings

GENERATION = ("load", "prefill", "decode")
ENCODING = ("load", "forward")
_SHARED = ("whole", "stages", "devices", "shares", "assistant", "cache_dtype", "_known")  # the same for every batch


@dataclass(frozen=True)
class Deployment:
    """A model laid out over devices: what does not change with sequences and tokens."""

    ask: Ask
    settings: TransformersSettings
    plan: WeightPlan

    @cached_property
    def whole(self) -> Architecture:
        """What one device holds under tensor parallelism, before a split by layers."""
        return tensor_share(self.ask.architecture, self.ask.request.parallelism.tensor)

    @cached_property
    def stages(self) -> int:
        """GPUs of one copy that share it by layers."""
        degrees = self.ask.request.parallelism
        return self.ask.num_devices // (degrees.tensor * degrees.data)

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs of one copy, in order; none where none is named."""
        step = self.ask.request.parallelism.tensor
        kinds = self.ask.kinds
        if len(kinds) == 1:
            return (kinds[0][1],) * self.stages
        return self.ask.devices[::step][: self.stages]

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """What each device of one copy has, in order; host and disk last."""
        return shares_of(
            self.whole, self.plan, self.settings, self.devices, self.stages,
            staged=self.ask.request.parallelism.pipeline > 1,
        )  # fmt: skip

    @cached_property
    def assistant(self) -> WeightPlan | None:
        """The model that drafts tokens."""
        if self.settings.assistant_model is None:
            return None
        from vrameter.engines.transformers.assistant import assistant_plan

        return assistant_plan(self.ask, self.settings)

    @cached_property
    def cache_dtype(self) -> str:
        """Name of the storage of cached keys and values."""
        return cache_dtype(self.settings, self.plan.compute_dtype)

    def sequences(self, shape: Shape) -> int:
        """Return the sequences on one copy of the model."""
        return -(-shape.num_seqs // self.ask.request.parallelism.data)

    def ledgers(self, shape: Shape) -> list[Ledger]:
        """Return the ledger of every device of one copy, the fullest first, then of the host and the disk."""
        found = [self._ledger(share, shape) for share in self.shares if share.place not in (HOST, DISK)]
        found.sort(key=self._room)
        away = [self._stored(share, shape) for share in self.shares if share.place in (HOST, DISK)]
        return [*found, *away]

    def _room(self, ledger: Ledger) -> int:
        """Return what is left of a GPU, or less than nothing where none is named. [bytes]."""
        return (self.devices[ledger.place].capacity_bytes if self.devices else 0) - ledger.used

    def headroom(self, shape: Shape) -> int:
        """Return what the fullest GPU has left. [bytes]."""
        return min(self._room(self._ledger(share, shape)) for share in self.shares if share.place not in (HOST, DISK))

    def phases(self, shape: Shape) -> tuple[str, ...]:
        """Return the phases of a use."""
        return GENERATION if shape.answers else ENCODING

    def _ledger(self, share: Share, shape: Shape) -> Ledger:
        phases = self.phases(shape)
        num_seqs, plan, runs = self.sequences(shape), self.plan, share.runs
        items, note = self._standing(share, phases)
        if shape.answers and runs.decoder is not None:
            items += cache_items(runs, self.settings, shape, plan, self.cache_dtype, num_seqs, note)
        if runs.components:
            items += activation_items(runs, self.settings, shape, num_seqs, plan.compute_bytes, phases)
        if share.last and (shape.answers or self._scores_every_position):
            items += self._logits(runs, shape, num_seqs)
        if self.assistant is not None and share.place == 0:
            from vrameter.engines.transformers.assistant import assistant_items

            items += assistant_items(
                self.assistant, self.settings, shape.total, phases, self.whole.main.vocab_size, plan.compute_bytes
            )
        device = self.devices[share.place] if self.devices else None
        items += runtime.items(device, phases=phases, first=phases[1], alive=items)
        return Ledger(phases, tuple(items), holds=self._holds(share), place=share.place)

    @cached_property
    def _known(self) -> dict[tuple[int, tuple[str, ...]], tuple[list[Item], str]]:
        return {}

    def _standing(self, share: Share, phases: tuple[str, ...]) -> tuple[list[Item], str]:
        """Return what does not change with sequences and tokens, and what is to be said of the cache."""
        key = share.place, phases
        if key not in self._known:
            items = [self.plan.item(share.holds, phases), *_load_items(self.plan, share.holds)]
            if share.visiting:
                items.append(_visiting_item(share, phases))
            self._known[key] = (
                items,
                cache_in_words(share.runs, self.cache_dtype, language()) if share.runs.decoder else "",
            )
        items, note = self._known[key]
        return list(items), note

    def _holds(self, share: Share) -> str:
        return held_layers(share.holds) if len(self.shares) > 1 else ""

    def _stored(self, share: Share, shape: Shape) -> Ledger:
        phases = self.phases(shape)
        return Ledger(phases, (self.plan.item(share.holds, phases),), holds=self._holds(share), place=share.place)

    @property
    def _scores_every_position(self) -> bool:
        """Whether an encoder fills masks: logits of all positions, where all are asked for."""
        return self.settings.logits_to_keep == 0 and self.whole.class_name.endswith(("ForMaskedLM", "ForPreTraining"))

    def _logits(self, share: Architecture, shape: Shape, num_seqs: int) -> list[Item]:
        vocab = self.whole.main.vocab_size
        has_head = any(component.kind == "head" for component in self.whole.components) or self.whole.tied
        if not (vocab and has_head):
            return []
        keep = self.settings.logits_to_keep
        first = num_seqs * (min(keep, shape.prompt) if keep else shape.prompt)
        rows = {"prefill": first, "decode": num_seqs} if shape.answers else {"forward": first}
        return [
            item(
                "logits", act.generated_logits_bytes, phases=(phase,), basis="exact",
                source="transformers 5.23, generation/utils.py: logits of the kept positions, and the last ones' fp32 copy",
                num_rows=count, num_seqs=num_seqs if shape.answers else 0, vocab_size=vocab,
                element_bytes=self.plan.compute_bytes, copies=3 if self.settings.num_beams > 1 else 1,
            )
            for phase, count in rows.items()
        ]  # fmt: skip

    def limits(self, shape: Shape) -> dict[str, int]:
        """Return the longest context, within the model's positions, and the most sequences that fit, each with the other as asked."""
        if not self.devices:
            return {}
        found: dict[str, int] = {}
        if not shape.fixed_length:
            answer = shape.total - shape.prompt

            def longer(tokens: int) -> int:
                return self.headroom(shape.of_length(tokens, answer))

            longest = largest_fitting(
                longer,
                most=max(self.ask.architecture.main.max_positions or MOST_TOKENS, answer + 1),
                start=shape.length,
            )
            found["context_length"] = longest if longest > answer + shape.input_tokens or shape.encoder else 0
        if self.assistant is not None:
            return found
        each = max(1, shape.num_seqs // self.settings.batch_size)
        found["batch_size"] = largest_fitting(
            lambda count: self._of_batch(count).headroom(replace(shape, num_seqs=count * each)),
            most=MOST_SEQUENCES,
            start=self.settings.batch_size,
        )
        return found

    def _of_batch(self, count: int) -> Deployment:
        """Return the same with other sequences at once; several are padded, and so have a mask."""
        import msgspec

        other = Deployment(self.ask, msgspec.structs.replace(self.settings, batch_size=count), self.plan)
        other.__dict__.update({name: self.__dict__[name] for name in _SHARED if name in self.__dict__})
        return other


def moving_bytes(*, visiting: int) -> int:
    """Return the largest matrix that is brought in from the host or the disk.

    Formula::

        visiting
    """
    return visiting


def _visiting_item(share: Share, phases: tuple[str, ...]) -> Item:
    return item(
        "temporary", moving_bytes, phases=phases[1:], basis="modelled", high=2 * share.visiting,
        source="accelerate 1.15, hooks.py: a module of layers on the CPU or the disk is brought in to run",
        visiting=share.visiting,
    )  # fmt: skip


@remembered
def _stacked(share: Architecture) -> bool:
    """Say whether there are experts, whose matrices are stacked while they load."""
    return any(tensor.role == "experts" for component in share.loaded for tensor, _ in component.counted_tensors())


def _load_items(plan: WeightPlan, share: Architecture) -> list[Item]:
    transient = plan.load_transient(share)
    if transient:
        source = "transformers quantises each matrix as it arrives, so one stands beside its quantised copy"
    elif _stacked(share) and plan.mixture is None:
        transient = _largest_experts(plan, share)
        source = "transformers 5.23, core_model_loading.py: experts are stacked from single matrices on the device"
    if not transient:
        return []
    return [
        item(
            "temporary", weights_bytes, phases=("load",), basis="modelled", source=source,
            low=0 if _stacked(share) else None, quantized=0, scales=0, unquantized=transient, buffers=0,
        )
    ]  # fmt: skip


def _largest_experts(plan: WeightPlan, share: Architecture) -> int:
    """Return the largest stack of experts of one layer. [bytes]."""
    known = share.__dict__.setdefault("_largest_experts", {})
    if id(plan) not in known:
        sizes: Sequence[int] = [
            sum(form.bytes_of(shape).total for form, shape in plan.stored(component, places[0], tensor))
            for component in share.loaded
            for layer, places in component.layer_groups
            for tensor in layer.all_tensors
            if tensor.role == "experts"
        ]
        known[id(plan)] = (plan, max(sizes, default=0))
    size: int = known[id(plan)][1]
    return size
