"""Inference with transformers: load, prefill, decode.

transformers keeps weights, a cache and the activations of one layer; it reserves nothing ahead. The largest
moment is the prefill of a long prompt or the last step of a long answer.

References
----------
.. [1] transformers 5.23, ``generation/utils.py``: logits of the last position, copied to fp32.
.. [2] PyTorch 2.13, ``CUDABlas``: workspace of 8,519,680 bytes, 33,554,432 from compute capability 9.0 on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vrameter.engines import Answer, Ask, held_layers
from vrameter.engines.transformers.caches import cache_dtype, cache_items, check_cache
from vrameter.engines.transformers.passes import activation_items
from vrameter.engines.transformers.shape import Shape, check_parallelism, shape_of
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory import activations as act
from vrameter.memory import kv_cache as kv
from vrameter.memory import runtime
from vrameter.memory.state_cache import state_bytes_per_sequence
from vrameter.memory.weights import WeightPlan, weights_bytes
from vrameter.model.architecture import Architecture
from vrameter.parallel import layer_split, tensor_share
from vrameter.search import MOST_SEQUENCES, MOST_TOKENS, largest_fitting
from vrameter.settings.transformers import TransformersSettings
from vrameter.spec import check

GENERATION = ("load", "prefill", "decode")
ENCODING = ("load", "forward")


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
    def shares(self) -> tuple[Architecture, ...]:
        """What each device of a split by layers holds, in order."""
        degrees = self.ask.request.parallelism
        stages = self.ask.num_devices // (degrees.tensor * degrees.data)
        return layer_split(self.whole, stages, self.plan.piece_bytes)

    @cached_property
    def cache_dtype(self) -> str:
        """Name of the storage of cached keys and values."""
        return cache_dtype(self.settings, self.plan.compute_dtype)

    def sequences(self, shape: Shape) -> int:
        """Return the sequences on one copy of the model."""
        return -(-shape.num_seqs // self.ask.request.parallelism.data)

    def ledgers(self, shape: Shape) -> list[Ledger]:
        """Return the ledger of every device of one copy, the fullest first."""
        found = [self._ledger(share, shape, last=share is self.shares[-1]) for share in self.shares]
        return sorted(found, key=lambda ledger: ledger.used, reverse=True)

    def headroom(self, shape: Shape) -> int:
        """Return what the fullest device has left. [bytes]."""
        assert self.ask.device is not None
        used = max(self._ledger(share, shape, last=share is self.shares[-1]).used for share in self.shares)
        return self.ask.device.capacity_bytes - used

    def _ledger(self, share: Architecture, shape: Shape, *, last: bool) -> Ledger:
        phases = GENERATION if shape.answers else ENCODING
        num_seqs, plan = self.sequences(shape), self.plan
        items: list[Item] = [plan.item(share, phases), *_load_items(plan, share)]
        if shape.answers and share.decoder is not None:
            items += cache_items(share, self.settings, shape, plan, self.cache_dtype, num_seqs)
        items += activation_items(share, self.settings, shape, num_seqs, plan.compute_bytes, phases)
        if shape.answers and last:
            items += self._logits(share, shape, num_seqs)
        items += runtime.items(self.ask.device, phases=phases, first=phases[1], alive=items)
        return Ledger(phases, tuple(items), holds=held_layers(share) if len(self.shares) > 1 else "")

    def _logits(self, share: Architecture, shape: Shape, num_seqs: int) -> list[Item]:
        vocab = self.whole.main.vocab_size
        has_head = any(component.kind == "head" for component in share.components) or share.tied
        if not (vocab and has_head):
            return []
        keep = self.settings.logits_to_keep
        rows = {"prefill": num_seqs * (min(keep, shape.prompt) if keep else shape.prompt), "decode": num_seqs}
        return [
            item(
                "logits", act.logits_bytes, phases=(phase,), basis="exact",
                source="transformers 5.23, generation/utils.py: logits of the kept positions, and their fp32 copy",
                num_rows=count, vocab_size=vocab, element_bytes=self.plan.compute_bytes,
            )
            for phase, count in rows.items()
        ]  # fmt: skip

    def limits(self, shape: Shape) -> dict[str, int]:
        """Return the longest context, within the model's positions, and the most sequences that fit, each with the other as asked."""
        if self.ask.device is None:
            return {}
        found: dict[str, int] = {}
        if not shape.fixed_encoder:
            answer = shape.total - shape.prompt

            def longer(tokens: int) -> int:
                return self.headroom(shape.of_length(tokens, answer))

            found["context_length"] = largest_fitting(
                longer,
                most=max(self.ask.architecture.main.max_positions or MOST_TOKENS, answer + 1),
                start=shape.length,
            )
        beams = self.settings.num_beams
        found["batch_size"] = largest_fitting(
            lambda count: self.headroom(replace(shape, num_seqs=count * beams)),
            most=MOST_SEQUENCES,
            start=self.settings.batch_size,
        )
        return found


def estimate(ask: Ask) -> Answer:
    """Return the ledger of every device, the fullest first, and what fits at most."""
    settings: TransformersSettings = check(TransformersSettings, ask.request.settings, path="settings.")
    warnings: list[str] = []
    shape, resolved = shape_of(ask.architecture, settings, warnings)
    plan = ask.weight_plan()
    if plan.mixture is not None:
        warnings.append(
            tr(
                "transformers unpacks a GGUF file to %(dtype)s while it loads: these are the sizes of the file. "
                "Programs that compute on it are asked with engine llama.cpp or ollama.",
                dtype=plan.compute_dtype,
            )
        )
    check_parallelism(ask)
    run = Deployment(ask, settings, plan)
    check_cache(ask.architecture, run.cache_dtype)
    ledgers = run.ledgers(shape)
    return Answer(
        ledgers=grouped(ledgers, ask.num_devices // len(ledgers)),
        settings={name: getattr(settings, name) for name in settings.__struct_fields__}
        | resolved
        | {"kv_cache_dtype": run.cache_dtype},
        resolved={"dtype": plan.dtype, "quantization": plan.quantization},
        kv_cache=_kv_cache(run, shape),
        report=_report(run, shape, ledgers[0]),
        limits=run.limits(shape),
        warnings=(*plan.warnings, *warnings),
    )


def grouped(ledgers: list[Ledger], copies: int) -> tuple[tuple[Ledger, int], ...]:
    """Return ledgers with how many devices are like each: those of equal items are one entry."""
    found: list[tuple[Ledger, int]] = []
    for ledger in ledgers:
        if found and found[-1][0].items == ledger.items:
            found[-1] = (replace(found[-1][0], holds=f"{found[-1][0].holds}; {ledger.holds}"), found[-1][1] + copies)
        else:
            found.append((ledger, copies))
    return tuple(found)


def _kv_cache(run: Deployment, shape: Shape) -> dict[str, Any] | None:
    cache = kv.cache_shape(run.whole, kv_dtype=run.cache_dtype, own_dtype=run.plan.compute_dtype)
    if not (shape.answers and cache.layers):
        return None
    per_sequence = cache.sequence_bytes(shape.total, encoder_tokens=shape.encoder)
    num_seqs = run.sequences(shape)
    return {
        "bytes_per_token": cache.bytes_per_token,
        "window_bytes_per_token": cache.window_bytes_per_token,
        "bytes_per_sequence": per_sequence,
        "pool_bytes": per_sequence * num_seqs,
        "tokens": shape.total * num_seqs,
        "max_concurrency": float(num_seqs),
        "dtype": run.cache_dtype,
    }


def _report(run: Deployment, shape: Shape, fullest: Ledger) -> dict[str, int]:
    peak = fullest.peak()
    report = {
        "weights_bytes": sum(each.bytes for each in fullest.items if each.term == "weights"),
        "activation_bytes": max((each.bytes for each in fullest.items if each.term == "activations"), default=0),
        "peak_allocated_bytes": peak.allocated,
        "peak_reserved_bytes": peak.reserved,
        "peak_used_bytes": peak.used,
    }
    cache = _kv_cache(run, shape)
    if cache is not None:
        report["kv_cache_bytes"] = cache["pool_bytes"]
        report["kv_bytes_per_token"] = cache["bytes_per_token"]
    state = state_bytes_per_sequence(
        run.whole, element_bytes=run.plan.compute_bytes, spare_column=True, fp32_scans=True
    )
    if state and shape.answers:
        report["state_bytes"] = state * run.sequences(shape)
    return report


def _load_items(plan: WeightPlan, share: Architecture) -> list[Item]:
    transient = plan.load_transient(share)
    if not transient:
        return []
    return [
        item(
            "temporary", weights_bytes, phases=("load",), basis="modelled",
            source="transformers quantises each matrix as it arrives, so one stands beside its quantised copy",
            quantized=0, scales=0, unquantized=transient, buffers=0,
        )
    ]  # fmt: skip
