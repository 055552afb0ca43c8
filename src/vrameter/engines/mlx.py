"""Inference with MLX: weights, a cache in steps of 256 tokens, a prompt read in pieces.

MLX computes lazily: what is alive at once follows from the order in which it evaluates a graph, so activations are an
interval around what one layer of one piece takes. The budget is what Metal recommends to keep resident, which mlx-lm
wires; a device of the catalogue has it as its capacity.

References
----------
.. [1] mlx-lm 0.32, ``models/cache.py``: `KVCache`, `RotatingKVCache`, `QuantizedKVCache`.
.. [2] mlx-lm 0.32, ``generate.py``: `generate_step`, `wired_limit`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from vrameter.engines import Answer, Ask, check_answer, default_length
from vrameter.engines.generation import Generation, check_one_device, limits
from vrameter.errors import RequestError
from vrameter.i18n import tr
from vrameter.ledger import Item, Ledger, item
from vrameter.memory import activations as act
from vrameter.memory import kv_cache as kv
from vrameter.memory import runtime
from vrameter.memory.cache_formats import FORMATS, CacheFormat, grouped_format
from vrameter.memory.state_cache import state_bytes_per_sequence, state_cache_bytes
from vrameter.memory.weights import WeightPlan
from vrameter.model.architecture import Architecture, Attention
from vrameter.settings.mlx import MlxSettings
from vrameter.spec import check
from vrameter.units import GB, ceil_to

PHASES = ("load", "prefill", "decode")
STEP = 256
SINKS = 4  # first tokens that a rotating cache keeps, within its size
FUSED_HEADS = (64, 80, 128)
CACHES = "mlx-lm 0.32, models/cache.py"


def score_bytes(*, num_seqs: int, num_heads: int, num_queries: int, num_keys: int, element_bytes: int) -> int:
    """Return the scores of one layer where no fused kernel runs, and their softmax.

    Formula::

        2 * num_seqs * num_heads * num_queries * num_keys * element_bytes
    """
    return 2 * num_seqs * num_heads * num_queries * num_keys * element_bytes


def growth_bytes(*, num_seqs: int, num_tokens: int, entry_bytes: int) -> int:
    """Return the copy of one layer's cache that is made when it grows by a step.

    Formula::

        num_seqs * num_tokens * entry_bytes
    """
    return num_seqs * num_tokens * entry_bytes


@dataclass(frozen=True)
class Run:
    """A model under given settings: what does not change with sequences and tokens."""

    ask: Ask
    settings: MlxSettings
    plan: WeightPlan

    @property
    def model(self) -> Architecture:
        """The model."""
        return self.ask.architecture

    @cached_property
    def own_layers(self) -> tuple[kv.CachedLayers, ...]:
        """Layers as they cache where nothing is quantised."""
        return self._layers(FORMATS[self.plan.compute_dtype])

    @cached_property
    def stored(self) -> CacheFormat:
        """How cached keys and values are stored in the end."""
        bits, group = self.settings.kv_bits, self.settings.kv_group_size
        if bits is None:
            return FORMATS[self.plan.compute_dtype]
        return grouped_format(f"mlx-{bits}bit-g{group}", bits, bits, group=group, extra=4)

    @cached_property
    def layers(self) -> tuple[kv.CachedLayers, ...]:
        """Layers as they cache in the end."""
        return self._layers(self.stored) if self.settings.kv_bits else self.own_layers

    def _layers(self, stored: CacheFormat) -> tuple[kv.CachedLayers, ...]:
        decoder = self.model.decoder
        if decoder is None:
            return ()
        groups = kv.cached_layers(decoder, stored, FORMATS[self.plan.compute_dtype])
        size = self.settings.max_kv_size
        if size is None or any(group.limit is not None for group in groups):
            return groups
        return tuple(replace(group, limit=max(size, SINKS + 1)) for group in groups)

    def check(self, warnings: list[str]) -> None:
        """Refuse what mlx-lm refuses, and say what has no effect."""
        own = self.model.decoder and kv.cache_shape(self.model).self_layers
        windows = any(group.limit is not None for group in own or ())
        if self.settings.kv_bits and (windows or self.settings.max_kv_size):
            raise RequestError(
                tr(
                    "settings.kv_bits: mlx-lm does not quantise the rotating cache of layers with a window or max_kv_size."
                ),
                field="settings.kv_bits",
                hint=tr("Leave kv_bits out, or max_kv_size where the model has no windows."),
            )
        if windows and self.settings.max_kv_size:
            warnings.append(tr("max_kv_size has no effect: a model with windows makes its own caches."))
        device = self.ask.device
        if device is not None and device.vendor not in ("apple", ""):
            warnings.append(tr("MLX is modelled as on Apple silicon; %(device)s is not.", device=device.name))

    # -- the ledger ---------------------------------------------------------------------------------

    def ledger(self, shape: Generation) -> Ledger:
        """Return all that lives on the device."""
        chunk = min(self.settings.prefill_step_size, shape.prompt)
        items = [self.plan.item(self.model, PHASES)]
        if self.model.decoder is not None:
            items += self._caches(shape, chunk)
        items += self._pass("prefill", shape.num_seqs, chunk, shape.prompt)
        items += self._pass("decode", shape.num_seqs, 1, shape.total)
        vocab = self.model.main.vocab_size
        if vocab:
            items.append(
                item(
                    "logits", act.logits_bytes, phases=("decode",), basis="modelled",
                    source="mlx-lm 0.32, generate.py: logits of one position of each sequence, and their logarithms",
                    num_rows=shape.num_seqs, vocab_size=vocab, element_bytes=self.plan.compute_bytes,
                )
            )  # fmt: skip
        return Ledger(PHASES, (*items, *self._around(items)))

    def _caches(self, shape: Generation, chunk: int) -> list[Item]:
        start = self.settings.quantized_kv_start
        quantised = self.settings.kv_bits is not None and shape.total > start
        final = self.layers if quantised else self.own_layers
        read = self._cache(final, shape, "prefill", shape.prompt, chunk)
        if quantised:
            before = min(shape.prompt, ceil_to(max(start, 1), self.settings.prefill_step_size))
            read = max(read, self._cache(self.own_layers, shape, "prefill", before, chunk), key=lambda line: line.bytes)
        items = [read, self._cache(final, shape, "decode", shape.total, 1)] if final else []
        largest = max((self._kept(group, shape.total, 1) * group.entry_bytes for group in final), default=0)
        if largest:
            items.append(
                item(
                    "temporary", growth_bytes, phases=("decode",), basis="modelled", low=0,
                    source=f"{CACHES}: a cache grows by {STEP} tokens, copied layer by layer",
                    num_seqs=shape.num_seqs, num_tokens=1, entry_bytes=largest,
                )
            )  # fmt: skip
        state = state_bytes_per_sequence(self.model, element_bytes=self.plan.compute_bytes)
        if state:
            items.append(
                item(
                    "state_cache", state_cache_bytes, phases=("prefill", "decode"), basis="modelled",
                    source=f"{CACHES}: columns of convolutions and recurrent states",
                    num_seqs=shape.num_seqs, bytes_per_sequence=state,
                )
            )  # fmt: skip
        return items

    def _kept(self, group: kv.CachedLayers, tokens: int, chunk: int) -> int:
        """Return the tokens for which a layer has room; a rotating cache holds a piece of the prompt besides."""
        if group.cross_tokens is not None:
            return group.cross_tokens
        if group.limit is None:
            return ceil_to(tokens, STEP)
        return min(tokens, group.limit + chunk - 1)

    def _cache(
        self, layers: tuple[kv.CachedLayers, ...], shape: Generation, phase: str, tokens: int, chunk: int
    ) -> Item:
        plain = [group for group in layers if group.tokens_per_entry == 1 and group.cross_tokens is None]
        growing = [group for group in plain if group.limit is None]
        windows = [group for group in plain if group.limit is not None]
        kept = {self._kept(group, tokens, chunk) for group in windows}
        one = kept.pop() if len(kept) == 1 else 0
        rest = [group for group in layers if group not in growing and not (one and group in windows)]
        return item(
            "kv_cache", kv.kv_cache_bytes, phases=(phase,), basis="modelled", note=self.stored.name,
            source=f"{CACHES}: in steps of {STEP} tokens; windows rotate",
            num_seqs=shape.num_seqs, num_tokens=ceil_to(tokens, STEP) if growing else 0,
            bytes_per_token=sum(group.count * group.entry_bytes for group in growing),
            num_window_tokens=one, window_bytes_per_token=sum(group.count * group.entry_bytes for group in windows) if one else 0,
            fixed_bytes=sum(
                group.count * group.entry_bytes * -(-self._kept(group, tokens, chunk) // group.tokens_per_entry) for group in rest
            ),
        )  # fmt: skip

    def _pass(self, phase: str, num_seqs: int, queries: int, keys: int) -> list[Item]:
        main, element = self.model.main, self.plan.compute_bytes
        widths = act.widest(main)
        size = act.activation_bytes(
            num_tokens=num_seqs * queries, block_width=widths.block, rotary_width=widths.rotary, element_bytes=element
        )
        items = [
            item(
                "activations", act.activation_bytes, phases=(phase,), basis="assumed", low=size // 2, high=size * 3,
                source="assumed: one layer's tensors, as an eager program has them; MLX evaluates graphs lazily",
                num_tokens=num_seqs * queries, block_width=widths.block, rotary_width=widths.rotary, element_bytes=element,
            )
        ]  # fmt: skip
        heads = [part for layer, _ in main.layer_groups for part in layer.parts if isinstance(part, Attention)]
        unfused = self.settings.kv_bits is not None or any(part.head_dim not in FUSED_HEADS for part in heads)
        if heads and unfused and queries > 1:
            scores = score_bytes(
                num_seqs=num_seqs, num_heads=max(part.num_heads for part in heads), num_queries=queries, num_keys=keys,
                element_bytes=element,
            )  # fmt: skip
            items.append(
                item(
                    "temporary", score_bytes, phases=(phase,), basis="assumed", low=scores // 2, high=scores * 3 // 2,
                    source="no fused kernel for a quantised cache or heads of this width: scores of one layer",
                    num_seqs=num_seqs, num_heads=max(part.num_heads for part in heads), num_queries=queries, num_keys=keys,
                    element_bytes=element,
                )
            )  # fmt: skip
        return items

    def _around(self, items: list[Item]) -> list[Item]:
        """Return freed memory that MLX keeps for the next use, and a context where the device has one."""
        moving = max(
            sum(
                line.bytes
                for line in items
                if phase in line.phases and line.term in ("activations", "temporary", "logits")
            )
            for phase in PHASES[1:]
        )
        limit = self.settings.cache_limit_gb
        most = moving if limit is None else min(moving, int(limit * GB))
        share = 250 if most == moving else 250 * most // max(moving, 1)
        found = [
            item(
                "fragmentation", runtime.slack_bytes, phases=PHASES[1:], basis="assumed", held="allocator", low=0, high=most,
                source="assumed: freed memory is kept until a piece of the prompt or 256 tokens are done",
                moving_bytes=moving, thousandths=share,
            )
        ]  # fmt: skip
        low, typical, high = self.ask.device.runtime_overhead if self.ask.device is not None else (0, 0, 0)
        if high:
            found.append(
                item(
                    "runtime", runtime.context_bytes, phases=PHASES, basis="assumed", held="driver", low=low, high=high,
                    source="assumed by class of device: context and libraries of one process", context=typical,
                )
            )  # fmt: skip
        return found


def estimate(ask: Ask) -> Answer:
    """Return the ledger of the device and what fits at most."""
    settings: MlxSettings = check(MlxSettings, ask.request.settings, path="settings.")
    check_one_device(ask, "mlx")
    warnings: list[str] = []
    length = default_length(ask.architecture, settings.context_length, warnings)
    new = settings.max_tokens or 0
    check_answer(length, new, "max_tokens")
    run = Run(ask, settings, ask.weight_plan())
    run.check(warnings)
    shape = Generation(settings.batch_size, length - new, length)
    ledger = run.ledger(shape)
    if ask.device is not None and run.plan.of().total > ask.device.capacity_bytes * 9 // 10:
        warnings.append(
            tr("The weights take more than 90 % of the recommended working set: mlx-lm warns that this is slow.")
        )
    return Answer(
        ledgers=((ledger, 1),),
        settings={name: getattr(settings, name) for name in settings.__struct_fields__}
        | {"context_length": length, "max_tokens": new},
        resolved={"dtype": run.plan.dtype, "quantization": run.plan.quantization},
        kv_cache=_kv_cache(run, shape, ledger),
        report=_report(run, ledger),
        limits=limits(ask, shape, run.ledger),
        warnings=(*run.plan.warnings, *warnings),
    )


def _kv_cache(run: Run, shape: Generation, ledger: Ledger) -> dict[str, Any] | None:
    lines = [line for line in ledger.items if line.term == "kv_cache" and "decode" in line.phases]
    if not lines:
        return None
    return {
        "bytes_per_token": lines[0].values["bytes_per_token"] or lines[0].values["window_bytes_per_token"],
        "window_bytes_per_token": lines[0].values["window_bytes_per_token"],
        "bytes_per_sequence": lines[0].bytes // shape.num_seqs,
        "pool_bytes": lines[0].bytes,
        "tokens": shape.total * shape.num_seqs,
        "max_concurrency": float(shape.num_seqs),
        "dtype": run.stored.name if shape.total > run.settings.quantized_kv_start else run.plan.compute_dtype,
    }


def _report(run: Run, ledger: Ledger) -> dict[str, int]:
    peak = ledger.peak()
    report = {
        "weights_bytes": run.plan.of().total,
        "activation_bytes": max(line.bytes for line in ledger.items if line.term == "activations"),
        "peak_allocated_bytes": peak.allocated,
        "peak_reserved_bytes": peak.reserved,
        "peak_used_bytes": peak.used,
    }
    for line in ledger.items:
        if line.term == "kv_cache" and "decode" in line.phases:
            report["kv_cache_bytes"] = line.bytes
    return report
